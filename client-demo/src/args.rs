//! The subcommands, options and defaults of the commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

/// Options of `tour`.
#[derive(Debug, Args)]
pub(crate) struct TourArgs {
    /// Edits that each of the two makes while the relay is killed
    #[arg(long, default_value_t = 600, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=20_000))]
    pub(crate) edits: u32,
}

/// How a note is named.
const NOTE: &str =
    "The note: its id, a beginning of the id, its number in `notes list`, or its title";

/// What to do with notes. A note is named by its id, a unique beginning of it, its number in
/// `notes list`, or its title.
#[derive(Debug, Subcommand)]
pub(crate) enum NotesCommand {
    /// List all notes; `*` marks changes that the relay does not have yet, `!` refused ones
    List,
    /// Create a note and print its id
    New {
        /// Its title; without one, the first line of the text
        title: Option<String>,
        /// Its text; `-` reads standard input
        #[arg(long)]
        text: Option<String>,
    },
    /// Print a note
    Show {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
    },
    /// Edit a note's text in $VISUAL or $EDITOR; what others write meanwhile is merged
    Edit {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
        /// Set this title instead of opening an editor
        #[arg(long)]
        title: Option<String>,
        /// Set this text instead of opening an editor; `-` reads standard input
        #[arg(long)]
        text: Option<String>,
    },
    /// Add a line to a note
    Append {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
        /// The line; `-` reads standard input
        text: String,
    },
    /// Check whether a note has the documented format
    Check {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
    },
    /// Delete a note permanently, here and on every replica
    #[command(visible_alias = "delete")]
    Rm {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
    },
    /// List deleted notes with edits made here that no other store has; save or discard those
    Deleted(DeletedArgs),
    /// List notes with changes that the relay refuses, why, and what can be done
    Refused,
    /// Offer a note's refused changes to the relay again
    Retry {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
    },
    /// Recreate a note's refused changes as another actor, on top of the relay's history
    Reauthor {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
    },
    /// Merge a note with another one of the same id that shares no history with it
    Merge {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
    },
    /// Save a note as an automerge document: with its refused changes, or a deleted one
    Export {
        #[arg(value_name = "NOTE", help = NOTE)]
        id: String,
        /// A new file; `-` is standard output
        file: PathBuf,
    },
}

/// Options of `notes deleted`.
#[derive(Debug, Args)]
pub(crate) struct DeletedArgs {
    /// Save one as an automerge document in a new file
    #[arg(long, num_args = 2, value_names = ["NOTE", "FILE"], conflicts_with = "discard")]
    pub(crate) export: Option<Vec<String>>,
    /// Discard the edits of one
    #[arg(long, value_name = "NOTE")]
    pub(crate) discard: Option<String>,
    /// Do not ask for confirmation before discarding
    #[arg(long, short, requires = "discard")]
    pub(crate) yes: bool,
}

/// Options of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Files, or folders with .md, .markdown, .txt or .text files
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

/// Options of `sync`.
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// Give up after this long without progress, such as 500ms, 30s or 2m
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Sync only these notes from now on; also accepts the id of a note that is not here yet
    #[arg(long, value_name = "NOTE", num_args = 1.., conflicts_with = "all")]
    pub(crate) only: Option<Vec<String>>,
    /// Sync all notes from now on
    #[arg(long)]
    pub(crate) all: bool,
    /// Then compare the relay's documents with the local ones, and repair differences
    #[arg(long)]
    pub(crate) check: bool,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The recorded session, JSON or gzipped JSON; without one, a session of two authors is generated
    pub(crate) trace: Option<PathBuf>,
    /// Wait for the disk at each change, as the notebook does
    #[arg(long)]
    pub(crate) full: bool,
    /// Give up after this long without progress
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = duration)]
    pub(crate) stall: Duration,
    /// Without a trace: the seed of the generated session; random if not given
    #[arg(long, conflicts_with = "trace")]
    pub(crate) seed: Option<u64>,
    /// Without a trace: edits by each author
    #[arg(long, default_value_t = 1000, value_name = "N", conflicts_with = "trace", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) edits: u32,
}

/// Parses a duration: `500ms`, `30s`, `2m`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit() && c != '.') {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit `{other}`; use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| "not a duration, such as 30s".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(["", "s", "3 days", "-1s"].into_iter().all(|text| duration(text).is_err()));
    }
}
