//! Notes with rejected changes: `notes refused`, and the ways to resolve them: `notes retry`, `notes
//! reauthor`, `notes merge`. All of them keep the changes.

use std::time::Duration;

use landfall::{Code, Document, RejectedDocument};

use crate::failure::{Exit, Failure};
use crate::find::{self, Listed, listed};
use crate::lookup;
use crate::notebook::Notebook;
use crate::place::NotebookPlace;
use crate::render;
use crate::term::{self, count, faint, first_line, fit, say, strong, tame};

/// How long a command that pushes changes again tries to reach the relay.
const OFFER: Duration = Duration::from_secs(10);

/// The command `notes refused`.
pub(crate) fn list(place: &NotebookPlace) -> Result<(), Failure> {
    let Some(notebook) = Notebook::open_to_read(place)? else { return nothing(place) };
    let all = listed(notebook.documents()?)?;
    let mut some = false;
    for (listed, number) in all.iter().zip(1..) {
        let status = listed.document.status()?;
        let Some(rejected) = status.rejected else { continue };
        some = true;
        say(entry(number, listed, &rejected, status.pending.changes));
    }
    if some { Ok(()) } else { nothing(place) }
}

fn nothing(place: &NotebookPlace) -> Result<(), Failure> {
    if !place.quiet {
        term::note("the relay has refused no changes of this space");
    }
    Ok(())
}

/// The note as in `notes list`, the reason of the rejection, and the remedy.
fn entry(number: usize, listed: &Listed, rejected: &RejectedDocument, pending: u64) -> String {
    let id = find::short(&rejected.document);
    let id = &id[..id.len().min(8)];
    let width = term::width().saturating_sub(4 + 2 + id.len());
    let title = match &listed.note {
        Ok(note) => render::title_of(note),
        Err(_) => "(not a note)".to_owned(),
    };
    let title = strong(fit(&title, width));
    format!(
        "{number:>3} {title}  {}\n    {} refused: {} ({})\n    {}",
        faint(id),
        count(pending, "change"),
        tame(&rejected.what),
        rejected.code,
        faint(advice(rejected.code, id)),
    )
}

/// The remedy for a reason.
fn advice(code: Code, id: &str) -> String {
    match code {
        Code::UNRELATED => format!(
            "another note has the same id: `notes merge {id}` puts both contents into one, \
             `notes export {id} FILE` saves this one"
        ),
        Code::CONFLICTING_SEQUENCE | Code::SEQUENCE_GAP | Code::COUNTER | Code::UNKNOWN_ACTOR => {
            format!("`notes reauthor {id}` recreates them as new changes with the same content")
        }
        _ => format!(
            "`notes retry {id}` pushes them again, `notes export {id} FILE` saves the note with them"
        ),
    }
}

/// The command `notes retry`.
pub(crate) fn retry(place: &NotebookPlace, id: &str) -> Result<(), Failure> {
    let (notebook, document) = open(place, id)?;
    notebook.space.retry(document.id())?;
    offered(place, notebook, &document, "pushed again")
}

/// The command `notes reauthor`.
pub(crate) fn reauthor(place: &NotebookPlace, id: &str) -> Result<(), Failure> {
    let (notebook, document) = open(place, id)?;
    let made = notebook.space.reauthor(document.id())?;
    offered(place, notebook, &document, &format!("{} recreated", count(made as u64, "change")))
}

/// The command `notes merge`.
pub(crate) fn merge(place: &NotebookPlace, id: &str) -> Result<(), Failure> {
    let (notebook, document) = open(place, id)?;
    let code = document.status()?.rejected.map(|rejected| rejected.code);
    if code.is_some_and(|code| code != Code::UNRELATED) {
        let why = "the note's changes are refused for another reason";
        let remedy = "see `landfall-demo notes refused`";
        return Err(Failure::new(Exit::Note, "nothing to merge", why, remedy));
    }
    notebook.space.merge_unrelated(document.id())?;
    offered(place, notebook, &document, "merged with the other note of this id")
}

/// Opens the notebook, and a note in it with rejected changes.
fn open(place: &NotebookPlace, id: &str) -> Result<(Notebook, Document), Failure> {
    if !place.store.exists() {
        return Err(lookup::nothing_there(place, id));
    }
    // Unconnected: a restored relay might otherwise accept the changes before the command runs.
    let notebook = Notebook::open_unconnected(place)?;
    let document = lookup::found(&notebook, id)?.document;
    if document.status()?.rejected.is_none() {
        let why = format!("the relay has refused no change of `{}`", first_line(id, 40));
        let remedy = "see `landfall-demo notes refused`";
        return Err(Failure::new(Exit::Note, "nothing was done", why, remedy));
    }
    Ok((notebook, document))
}

/// Ends a command that pushes changes again: reports the relay's answer.
fn offered(
    place: &NotebookPlace,
    notebook: Notebook,
    document: &Document,
    done: &str,
) -> Result<(), Failure> {
    notebook.connect(place)?;
    notebook.try_to_sync(OFFER)?;
    let status = document.status()?;
    if let Some(rejected) = status.rejected {
        notebook.close()?;
        let why = format!("the relay refuses it: {} ({})", rejected.what, rejected.code);
        let remedy = "it is kept; see `landfall-demo notes refused`";
        return Err(Failure::new(Exit::Relay, done, why, remedy));
    }
    let pending = status.pending.changes;
    let quiet = notebook.is_quiet();
    notebook.close()?;
    match pending {
        _ if quiet => {}
        0 => say(format!("{done}: saved here and on the relay")),
        n => say(format!("{done}: saved here; not on the relay yet ({n} pending)")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_for_every_rejection_names_the_note() {
        for code in Code::ALL {
            assert!(advice(*code, "4xyz").contains("4xyz"), "{code}");
        }
        assert!(advice(Code::UNRELATED, "4xyz").contains("notes merge"));
        assert!(advice(Code::CONFLICTING_SEQUENCE, "4xyz").contains("notes reauthor"));
        assert!(advice(Code::FORBIDDEN, "4xyz").contains("notes retry"));
    }
}
