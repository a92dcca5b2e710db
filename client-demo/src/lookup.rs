//! Opens the notebook for a command on one note, and finds the note, with the errors for both.

use crate::failure::{Exit, Failure};
use crate::find::{self, FindError, Finder, Listed};
use crate::notebook::{self, Notebook};
use crate::place::NotebookPlace;

/// Finds a note by name.
pub(crate) fn found(notebook: &Notebook, id: &str) -> Result<Listed, Failure> {
    let found = Finder::new(&notebook.space).find(id)?;
    found.or_else(|error| Err(not_found(notebook, error)?))
}

/// The error for a note that was not found: it may be known as deleted.
pub(crate) fn not_found(notebook: &Notebook, error: FindError) -> Result<Failure, Failure> {
    if let FindError::Unknown { asked, .. } = &error
        && let Some(document) = find::id(asked)
        && notebook.space.is_deleted(&document)?
    {
        let why = "it was permanently deleted";
        let remedy = "see `landfall-demo notes deleted` for orphaned edits";
        return Ok(Failure::new(Exit::Note, format!("no note `{asked}`"), why, remedy));
    }
    Ok(error.into())
}

/// Opens the notebook to edit an existing note.
pub(crate) fn open(place: &NotebookPlace, id: &str) -> Result<Notebook, Failure> {
    match place.store.exists() {
        true => Notebook::open(place),
        false => Err(nothing_there(place, id)),
    }
}

/// Opens the notebook to read an existing note.
pub(crate) fn open_to_read(place: &NotebookPlace, id: &str) -> Result<Notebook, Failure> {
    Notebook::open_to_read(place)?.ok_or_else(|| nothing_there(place, id))
}

pub(crate) fn nothing_there(place: &NotebookPlace, id: &str) -> Failure {
    let why = notebook::absent(place);
    Failure::new(Exit::Note, format!("no note `{id}`"), why, "create a note, or sync first")
}
