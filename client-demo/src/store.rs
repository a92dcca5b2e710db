//! The commands `store …`: maintenance of a notebook's file. The engine does the work
//! ([`landfall::admin`]); this module calls it and prints the result.

mod failure;
mod print;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use landfall::admin::AdminError;
use landfall::{SpaceName, admin};

use crate::failure::{Exit, Failure};
use crate::place::NotebookPlace;
use crate::term::{count, say};
use print::size;

/// What to do with a store's file.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Print its content: spaces, documents, sizes. Works while another process has it open
    Inspect {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Verify that its content is intact. Works while another process has it open
    Verify {
        /// Repair what can be repaired; the relay sends missing changes again. No process may have it open
        #[arg(long)]
        repair: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy it to a new file. Works while another process has it open
    Backup {
        /// The new file; an existing file is never overwritten
        file: PathBuf,
    },
    /// Restore a backup in its place. No process may have it open
    Restore {
        /// The backup; it is not changed
        file: PathBuf,
        /// Replace the existing store, which is kept beside the new one
        #[arg(long)]
        replace: bool,
        /// Restore the backup even if it is damaged
        #[arg(long)]
        unchecked: bool,
    },
    /// Compact history and return free space to the disk. No process may have it open
    Compact {
        /// Compact everything that the relay has, not only what is due
        #[arg(long)]
        all: bool,
    },
    /// Write the space to a portable file. Works while another process has it open
    Export {
        /// The new file; an existing file is never overwritten
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
pub(crate) fn run(place: &NotebookPlace, command: StoreCommand) -> Result<(), Failure> {
    let store = place.store.as_path();
    match command {
        StoreCommand::Inspect { json } => {
            let found = admin::inspect(store)?;
            match json {
                true => say(print::inspection_json(store, &found)),
                false => print::inspection(store, &found),
            }
            Ok(())
        }
        StoreCommand::Verify { repair: false, json } => verify(store, json),
        StoreCommand::Verify { repair: true, json } => repair(store, json),
        StoreCommand::Backup { file } => {
            admin::backup(store, &file)?;
            let length = file.metadata().map_or(0, |made| made.len());
            say(format!("{}: {}", file.display(), size(length)));
            Ok(())
        }
        StoreCommand::Restore { file, replace, unchecked } => {
            let restored = admin::restore(&file, store, replace, unchecked);
            let restored = restored.map_err(|error| match error {
                AdminError::Exists(_) => Failure::from(error).and("or give --replace"),
                error => error.into(),
            })?;
            say(format!("restored {}", file.display()));
            if let Some(kept) = restored.kept {
                say(format!("the previous store is kept as {}", kept.display()));
            }
            Ok(())
        }
        StoreCommand::Compact { all } => compact(store, all),
        StoreCommand::Export { file } => export(place, &file),
        StoreCommand::Import { file, into } => import(store, &file, into.as_ref()),
    }
}

fn verify(store: &Path, json: bool) -> Result<(), Failure> {
    let found = admin::verify(store)?;
    match json {
        true => say(print::findings_json(&found)),
        false => print::findings(&found),
    }
    let of_file = found.iter().any(|finding| matches!(finding.fault, admin::Fault::File(_)));
    let remedy = match of_file {
        true => FILE_DAMAGED,
        false => "make a backup, end the process that has it open, and run `store verify --repair`",
    };
    clean(found.len(), remedy)
}

/// The remedy for a damaged file: repairing single documents does not help.
const FILE_DAMAGED: &str = "restore a backup (`store restore --replace`), or without one move the \
    store away and sync into a new one: the relay has all acknowledged changes";

fn repair(store: &Path, json: bool) -> Result<(), Failure> {
    let repaired = admin::repair(store)?;
    match json {
        true => say(print::repaired_json(&repaired)),
        false => print::repaired(&repaired),
    }
    clean(repaired.left.len(), FILE_DAMAGED)
}

fn clean(findings: usize, remedy: &str) -> Result<(), Failure> {
    if findings == 0 {
        return Ok(());
    }
    let what = format!("the store is damaged in {}", count(findings as u64, "place"));
    Err(Failure::new(Exit::Differs, what, "see the list", remedy))
}

fn compact(store: &Path, all: bool) -> Result<(), Failure> {
    let done = admin::compact(store, all)?;
    let (documents, changes) = (count(done.documents, "document"), count(done.changes, "change"));
    say(format!("{documents} compacted, with {changes}"));
    say(format!("{} before, {} after", size(done.bytes_before), size(done.bytes_after)));
    if done.failed > 0 {
        let why = format!("{} could not be compacted", count(done.failed, "document"));
        return Err(Failure::new(
            Exit::Other,
            "not all documents were compacted",
            why,
            "they were not changed",
        ));
    }
    Ok(())
}

fn export(place: &NotebookPlace, file: &Path) -> Result<(), Failure> {
    let space: SpaceName = place.space.parse().map_err(landfall::SpaceError::BadName)?;
    let counts = admin::export(&place.store, &space, file)?;
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
            admin::OutsideReason::OrphanedEdits => {
                format!("left out: {edits} of {document}, which is deleted")
            }
            admin::OutsideReason::Superseded => {
                format!("left out: {edits} of {document}, superseded")
            }
            _ => format!("left out: {entries} of {document}, deferred"),
        });
    }
    Ok(())
}

fn import(store: &Path, file: &Path, into: Option<&SpaceName>) -> Result<(), Failure> {
    let done = admin::import(store, file, into)?;
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
        say(format!("orphaned edits of {documents} are kept"));
    }
    if done.deleted_here > 0 {
        say(format!("{} not taken, of documents that are deleted here", done.deleted_here));
    }
    let Some((document, why)) = done.refused.first() else { return Ok(()) };
    let what = format!("{} of the file's changes were rejected", done.refused.len());
    let why = format!("document {document}: {why}");
    Err(Failure::new(Exit::Other, what, why, "everything else was imported"))
}
