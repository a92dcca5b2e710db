//! The commands `store …`: maintenance of a notebook's file. The engine does the work
//! ([`landfall::maintain`]); this module calls it and prints the result.

mod failure;
mod print;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use landfall::maintain::MaintainError;
use landfall::{SpaceName, maintain};

use crate::cli::Place;
use crate::failure::{Exit, Failure};
use crate::term::{count, say};
use print::size;

/// What to do with a store's file.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Say what is in it: spaces, documents, sizes. Also while another process has it open
    Inspect {
        /// For a program to read
        #[arg(long)]
        json: bool,
    },
    /// Check that it holds what was written. Also while another process has it open
    Verify {
        /// Repair what can be repaired; the relay sends what is lost. No process may have it open
        #[arg(long)]
        repair: bool,
        /// For a program to read
        #[arg(long)]
        json: bool,
    },
    /// Copy it to a new file. Also while another process has it open
    Backup {
        /// The new file; one that is there is never overwritten
        file: PathBuf,
    },
    /// Restore a backup in its place. No process may have it open
    Restore {
        /// The backup; it stays as it is
        file: PathBuf,
        /// Replace the store that is there; it is kept beside the new one
        #[arg(long)]
        replace: bool,
        /// Take a backup whatever is damaged in it
        #[arg(long)]
        unchecked: bool,
    },
    /// Compact history and return free space to the disk. No process may have it open
    Compact {
        /// Compact everything that the relay has, not only what is due
        #[arg(long)]
        all: bool,
    },
    /// Write the space to a portable file. Also while another process has it open
    Export {
        /// The new file; one that is there is never overwritten
        file: PathBuf,
    },
    /// Import a portable file. No process may have the store open
    Import {
        /// The portable file
        file: PathBuf,
        /// Import it into this space instead of the one named in it
        #[arg(long, value_name = "NAME")]
        into: Option<SpaceName>,
    },
}

/// Runs the command.
pub(crate) fn run(place: &Place, command: StoreCommand) -> Result<(), Failure> {
    let store = place.store.as_path();
    match command {
        StoreCommand::Inspect { json } => {
            let found = maintain::inspect(store)?;
            match json {
                true => say(print::inspection_json(store, &found)),
                false => print::inspection(store, &found),
            }
            Ok(())
        }
        StoreCommand::Verify { repair: false, json } => verify(store, json),
        StoreCommand::Verify { repair: true, json } => repair(store, json),
        StoreCommand::Backup { file } => {
            maintain::backup(store, &file)?;
            let length = file.metadata().map_or(0, |made| made.len());
            say(format!("{}: {}", file.display(), size(length)));
            Ok(())
        }
        StoreCommand::Restore { file, replace, unchecked } => {
            let restored = maintain::restore(&file, store, replace, unchecked);
            let restored = restored.map_err(|error| match error {
                MaintainError::Exists(_) => Failure::from(error).and("or say --replace"),
                error => error.into(),
            })?;
            say(format!("restored {}", file.display()));
            if let Some(kept) = restored.kept {
                say(format!("what was there before is {}", kept.display()));
            }
            Ok(())
        }
        StoreCommand::Compact { all } => compact(store, all),
        StoreCommand::Export { file } => export(place, &file),
        StoreCommand::Import { file, into } => import(store, &file, into.as_ref()),
    }
}

fn verify(store: &Path, json: bool) -> Result<(), Failure> {
    let found = maintain::verify(store)?;
    match json {
        true => say(print::findings_json(&found)),
        false => print::findings(&found),
    }
    let of_file = found.iter().any(|finding| matches!(finding.fault, maintain::Fault::File(_)));
    let remedy = match of_file {
        true => FILE_DAMAGED,
        false => "end who has it open and run `store verify --repair`; keep a backup first",
    };
    clean(found.len(), remedy)
}

/// The remedy for a damaged file: repairing single documents does not help.
const FILE_DAMAGED: &str = "restore a backup (`store restore --replace`), or without one move the \
    store away and sync into a new one: the relay has what was sent";

fn repair(store: &Path, json: bool) -> Result<(), Failure> {
    let healed = maintain::repair(store)?;
    match json {
        true => say(print::healed_json(&healed)),
        false => print::healed(&healed),
    }
    clean(healed.left.len(), FILE_DAMAGED)
}

fn clean(findings: usize, remedy: &str) -> Result<(), Failure> {
    if findings == 0 {
        return Ok(());
    }
    let what = format!("the store is damaged in {}", count(findings as u64, "place"));
    Err(Failure::new(Exit::Differs, what, "see the list", remedy))
}

fn compact(store: &Path, all: bool) -> Result<(), Failure> {
    let done = maintain::compact(store, all)?;
    let (documents, changes) = (count(done.documents, "document"), count(done.changes, "change"));
    say(format!("{documents} compacted, with {changes}"));
    say(format!("{} before, {} after", size(done.bytes_before), size(done.bytes_after)));
    if done.failed > 0 {
        let why = format!("{} could not be compacted", count(done.failed, "document"));
        return Err(Failure::new(
            Exit::Other,
            "not all was compacted",
            why,
            "they are as they were",
        ));
    }
    Ok(())
}

fn export(place: &Place, file: &Path) -> Result<(), Failure> {
    let space: SpaceName = place.space.parse().map_err(landfall::SpaceError::BadName)?;
    let counts = maintain::export(&place.store, &space, file)?;
    say(format!(
        "{}: {} ({} deleted), {} compacted, {} beside",
        file.display(),
        count(counts.documents, "document"),
        counts.tombstones,
        counts.snapshots,
        count(counts.changes, "change"),
    ));
    for left in &counts.left_out {
        let document = left.document;
        let (edits, entries) = (count(left.changes, "edit"), count(left.changes, "entry"));
        say(match left.kept {
            maintain::Kept::OrphanedEdits => {
                format!("not in it: {edits} of {document}, which is deleted")
            }
            maintain::Kept::Superseded => {
                format!("not in it: {edits} of {document} to be made again")
            }
            _ => format!("not in it: {entries} of {document} set aside"),
        });
    }
    Ok(())
}

fn import(store: &Path, file: &Path, into: Option<&SpaceName>) -> Result<(), Failure> {
    let done = maintain::import(store, file, into)?;
    say(format!(
        "space {}: {} in the file; new here: {}, {}; here already: {}",
        done.space,
        count(done.documents, "document"),
        count(done.changes - done.known, "change"),
        count(done.deletions, "deletion"),
        count(done.known, "change"),
    ));
    if done.kept > 0 {
        let documents = count(done.kept, "deleted document");
        say(format!("edits that no relay has are kept of {documents}"));
    }
    if done.deleted_here > 0 {
        say(format!("{} not taken, of documents that are deleted here", done.deleted_here));
    }
    let Some((document, why)) = done.refused.first() else { return Ok(()) };
    let what = format!("{} of the file's changes were refused", done.refused.len());
    let why = format!("document {document}: {why}");
    Err(Failure::new(Exit::Other, what, why, "everything else was taken"))
}
