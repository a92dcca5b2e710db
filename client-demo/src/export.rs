//! `notes export`: writes notes to files as automerge documents, in whatever state they are.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use landfall::RejectedChangesError;
use landfall::automerge::Automerge;
use landfall::error_chain;

use crate::cli::NotebookPlace;
use crate::deleted;
use crate::failure::{Exit, Failure, REPORT};
use crate::find::{FindError, Finder};
use crate::notes;
use crate::term::{count, thousands};

/// The command `notes export`: writes the local note, including changes that the relay rejected; or the
/// orphaned edits of a deleted one.
pub(crate) fn run(place: &NotebookPlace, id: &str, file: &Path) -> Result<(), Failure> {
    let notebook = notes::open_to_read(place, id)?;
    let listed = match Finder::new(&notebook.space).find(id)? {
        Ok(listed) => listed,
        Err(FindError::Unknown { .. }) if deleted::export_if_lost(&notebook, id, file)? => {
            return Ok(());
        }
        Err(error) => return Err(notes::not_found(&notebook, error)?),
    };
    let status = listed.document.status()?;
    let name = notes::name_of(&listed);
    let (bytes, what) = match &status.rejected {
        Some(_) => {
            let refused = count(status.pending.changes, "change");
            let what = format!("{name}, with {refused} that the relay does not have");
            (notebook.space.export_rejected(&listed.document.id())?, what)
        }
        None => (listed.document.read(Automerge::save)?, name),
    };
    write(file, &bytes)?;
    notebook.remark(said(&what, file, bytes.len()));
    Ok(())
}

/// Writes a new file; `-` is standard output. Never overwrites a file.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = match file == Path::new("-") {
        true => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        false => File::create_new(file)
            .and_then(|mut new| new.write_all(bytes).and_then(|()| new.sync_all())),
    };
    written.map_err(|error| {
        let what = format!("cannot write {}", file.display());
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => "it was not touched; choose another name",
            _ => "choose a folder that can be written",
        };
        Failure::new(Exit::Input, what, error, remedy)
    })
}

/// The success message.
pub(crate) fn said(what: &str, file: &Path, bytes: usize) -> String {
    let bytes = thousands(bytes as u64);
    match file == Path::new("-") {
        true => format!("exported {what}: an automerge document of {bytes} bytes"),
        false => {
            format!("exported {what} to {}: an automerge document of {bytes} bytes", file.display())
        }
    }
}

impl From<RejectedChangesError> for Failure {
    fn from(error: RejectedChangesError) -> Self {
        let what = "the edits were not changed";
        match error {
            RejectedChangesError::Store(error) => error.into(),
            RejectedChangesError::NothingRejected => {
                let why = "the relay has refused no change of the note";
                Self::new(Exit::Note, "nothing was done", why, "see `landfall-demo notes refused`")
            }
            RejectedChangesError::Unanswered => {
                let remedy = "push them again with `landfall-demo notes retry`, or save them with \
                    `landfall-demo notes export`";
                Self::new(Exit::Other, what, error, remedy)
            }
            RejectedChangesError::Changed => Self::new(Exit::Other, what, error, "try again"),
            RejectedChangesError::Form(_)
            | RejectedChangesError::Rebuild(_)
            | RejectedChangesError::DocumentFull(_) => {
                let remedy = "they are kept; save them with `landfall-demo notes export`";
                Self::new(Exit::Other, what, error_chain(&error), remedy)
            }
            other => Self::new(Exit::Other, what, error_chain(&other), REPORT),
        }
    }
}
