//! `notes export`: writes notes to files as automerge documents, in whatever state they are.

use std::path::Path;

use landfall::automerge::Automerge;

use crate::deleted;
use crate::exported;
use crate::failure::Failure;
use crate::find::{FindError, Finder};
use crate::lookup;
use crate::place::NotebookPlace;
use crate::render;
use crate::term::count;

/// The command `notes export`: writes the local note, including changes that the relay rejected; or the
/// orphaned edits of a deleted one.
pub(crate) fn run(place: &NotebookPlace, id: &str, file: &Path) -> Result<(), Failure> {
    let notebook = lookup::open_to_read(place, id)?;
    let listed = match Finder::new(&notebook.space).find(id)? {
        Ok(listed) => listed,
        Err(FindError::Unknown { .. }) if deleted::export_if_lost(&notebook, id, file)? => {
            return Ok(());
        }
        Err(error) => return Err(lookup::not_found(&notebook, error)?),
    };
    let status = listed.document.status()?;
    let name = render::name_of(&listed);
    let (bytes, what) = match &status.rejected {
        Some(_) => {
            let refused = count(status.pending.changes, "change");
            let what = format!("{name}, with {refused} that the relay does not have");
            (notebook.space.export_rejected(&listed.document.id())?, what)
        }
        None => (listed.document.read(Automerge::save)?, name),
    };
    exported::write(file, &bytes)?;
    notebook.remark(exported::said(&what, file, bytes.len()));
    Ok(())
}
