//! Deleting notes: `notes rm`; and orphaned edits, made here before the deletion by another replica and not
//! yet on the relay: `notes deleted`.

use std::path::Path;

use landfall::automerge::Automerge;
use landfall::{DocumentId, RejectedChangesError, Space};

use crate::exported;
use crate::failure::{Exit, Failure};
use crate::find::{self, FindError, Named, find};
use crate::lookup;
use crate::note::{self, Note};
use crate::notebook::Notebook;
use crate::place::NotebookPlace;
use crate::prompt;
use crate::render;
use crate::term::{self, count, faint, first_line, fit, say, strong};

/// The command `notes rm`.
pub(crate) fn rm(place: &NotebookPlace, id: &str, yes: bool) -> Result<(), Failure> {
    let notebook = lookup::open(place, id)?;
    let listed = lookup::found(&notebook, id)?;
    let document = listed.document.id();
    let name = render::name_of(&listed);
    let pending = listed.document.status()?.pending.changes;
    let only_here = match pending {
        0 => String::new(),
        n => format!("; {} not sent to any relay yet", count(n, "change")),
    };
    let question = format!("delete {name} permanently, here and on every replica{only_here}?");
    prompt::confirm(place, &question, yes, "nothing was deleted")?;
    drop(listed);
    notebook.space.delete(document)?;
    if !place.quiet {
        say(format!("deleted {name} permanently; other replicas delete it when they sync"));
    }
    notebook.saved()
}

/// A deleted note with edits that no other replica has.
struct DeletedNote {
    document: DocumentId,
    unsent: u64,
    note: Result<Note, String>,
}

impl Named for DeletedNote {
    fn id(&self) -> DocumentId {
        self.document
    }

    fn title(&self) -> Option<&str> {
        self.note.as_ref().ok().map(|note| note.title.trim()).filter(|title| !title.is_empty())
    }
}

impl DeletedNote {
    fn name(&self) -> String {
        match self.title() {
            Some(title) => format!("“{}”", first_line(title, 40)),
            None => self.document.to_string(),
        }
    }
}

/// The deleted notes of a space, in order of deletion.
fn all_lost(space: &Space) -> Result<Vec<DeletedNote>, Failure> {
    let read = |edits: landfall::OrphanedEdits| {
        let note = match space.export_orphaned(&edits.document) {
            Ok(Some(bytes)) => note_in(&bytes),
            Ok(None) => Err("no edits of it are left".to_owned()),
            Err(RejectedChangesError::Store(error)) => return Err(Failure::from(error)),
            Err(error) => Err(error.to_string()),
        };
        Ok(DeletedNote { document: edits.document, unsent: edits.unsent, note })
    };
    space.orphaned_edits()?.into_iter().map(read).collect()
}

fn note_in(bytes: &[u8]) -> Result<Note, String> {
    let doc = Automerge::load(bytes).map_err(|error| error.to_string())?;
    note::read(&doc).map_err(|problem| problem.to_string())
}

/// The command `notes deleted` without options: lists them.
pub(crate) fn list(place: &NotebookPlace) -> Result<(), Failure> {
    let notebook = Notebook::open_to_read(place)?;
    let lost = match &notebook {
        Some(notebook) => all_lost(&notebook.space)?,
        None => Vec::new(),
    };
    if lost.is_empty() {
        if !place.quiet {
            term::note("no deleted note has edits that only this store has");
        }
        return Ok(());
    }
    let width = term::width().saturating_sub(4 + 2 + 10);
    for (lost, number) in lost.iter().zip(1..) {
        let (title, line) = match &lost.note {
            Ok(note) => (render::title_of(note), first_line(&note.body, width)),
            Err(problem) => ("(not a note)".to_owned(), first_line(problem, width)),
        };
        let edits = format!("{} only here", count(lost.unsent, "change"));
        let id = find::short(&lost.document);
        let (title_width, edits_width) = (width * 2 / 5, 22);
        let (title, edits) = (strong(fit(&title, title_width)), fit(&edits, edits_width));
        let line = fit(&line, width - title_width - edits_width);
        say(format!("{number:>3} {title}  {edits}  {line}  {}", faint(&id[..id.len().min(8)])));
    }
    if !place.quiet {
        term::note(
            "save one with `landfall-demo notes deleted --export ID FILE`, \
             discard one with `landfall-demo notes deleted --discard ID`",
        );
    }
    Ok(())
}

/// The command `notes deleted --export`.
pub(crate) fn export(place: &NotebookPlace, id: &str, file: &Path) -> Result<(), Failure> {
    let notebook = open_to_read(place, id)?;
    match export_if_lost(&notebook, id, file)? {
        true => Ok(()),
        false => Err(unknown(id, "no deleted note with orphaned edits has this name")),
    }
}

/// Exports a deleted note, if one of that name has orphaned edits.
pub(crate) fn export_if_lost(notebook: &Notebook, id: &str, file: &Path) -> Result<bool, Failure> {
    let all = all_lost(&notebook.space)?;
    let lost = match find(&all, id) {
        Ok(lost) => lost,
        Err(FindError::Unknown { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let bytes = notebook.space.export_orphaned(&lost.document)?;
    let Some(bytes) = bytes else { return Err(unknown(id, "no edits of it are left")) };
    exported::write(file, &bytes)?;
    let edits = count(lost.unsent, "change");
    let what = format!("the deleted note {}, with {edits} that no other replica has", lost.name());
    notebook.remark(exported::said(&what, file, bytes.len()));
    Ok(true)
}

/// Prints a deleted note, if one of that name has orphaned edits.
pub(crate) fn show_if_lost(notebook: &Notebook, id: &str) -> Result<bool, Failure> {
    let all = all_lost(&notebook.space)?;
    let lost = match find(&all, id) {
        Ok(lost) => lost,
        Err(FindError::Unknown { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let Ok(note) = &lost.note else { return Ok(false) };
    say(strong(render::title_of(note)));
    let edits = count(lost.unsent, "change");
    notebook
        .remark(faint(format!("{} · deleted; {edits} that no other replica has", lost.document)));
    render::print(note);
    Ok(true)
}

/// The command `notes deleted --discard`.
pub(crate) fn discard(place: &NotebookPlace, id: &str, yes: bool) -> Result<(), Failure> {
    drop(open_to_read(place, id)?);
    let mut apart = place.clone();
    apart.offline = true;
    let notebook = Notebook::open(&apart)?;
    let all = all_lost(&notebook.space)?;
    let lost = match find(&all, id) {
        Err(FindError::Unknown { .. }) => {
            return Err(unknown(id, "no deleted note with orphaned edits has this name"));
        }
        found => found?,
    };
    let (name, edits) = (lost.name(), count(lost.unsent, "change"));
    let question = format!("discard {name} permanently, with {edits} that no other replica has?");
    prompt::confirm(place, &question, yes, "nothing was discarded")?;
    notebook.space.discard_orphaned(lost.document)?;
    notebook.close()?;
    if !place.quiet {
        say(format!("discarded the edits of {name}"));
    }
    Ok(())
}

fn open_to_read(place: &NotebookPlace, id: &str) -> Result<Notebook, Failure> {
    Notebook::open_to_read(place)?.ok_or_else(|| lookup::nothing_there(place, id))
}

fn unknown(id: &str, why: &str) -> Failure {
    let remedy = "see `landfall-demo notes deleted`";
    Failure::new(Exit::Note, format!("no deleted note `{id}`"), why, remedy)
}
