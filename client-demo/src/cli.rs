//! The command line: what can be asked for, and with which defaults.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::failure::EXIT_CODES;
use crate::relay::{self, RelayArgs};
use crate::store::StoreCommand;

/// A small shared notebook, synced by Landfall: try `landfall-demo tour` first
#[derive(Debug, Parser)]
#[command(name = "landfall-demo", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which notebook, and where it syncs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The notebook's file; made if there is none
    #[arg(
        long,
        global = true,
        env = "LANDFALL_STORE",
        default_value = "./notes.landfall",
        value_name = "FILE"
    )]
    pub(crate) store: PathBuf,
    /// The relay to sync with [default: ws://127.0.0.1:7600] [env: LANDFALL_RELAY=]
    // Read from the environment by hand: `replay` needs to know whether it was given here.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) relay: Option<String>,
    /// The space that the notes are in
    #[arg(
        long,
        global = true,
        env = "LANDFALL_SPACE",
        default_value = "default",
        value_name = "NAME"
    )]
    pub(crate) space: String,
    /// Do not try to reach the relay
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Write results and errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

const RELAY_DEFAULT: &str = "ws://127.0.0.1:7600";

impl Place {
    /// The relay's URL: from the command line, the environment, or the default.
    pub(crate) fn relay_url(&self) -> String {
        let from_environment =
            || std::env::var("LANDFALL_RELAY").ok().filter(|url| !url.is_empty());
        let given = self.relay.clone().or_else(from_environment);
        given.unwrap_or_else(|| RELAY_DEFAULT.to_owned())
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See two replicas diverge, converge and survive a killed relay; needs no set-up
    Tour(TourArgs),
    /// Read and write notes
    #[command(subcommand)]
    Notes(NotesCommand),
    /// Make notes of text and Markdown files, and of those in folders
    Import(ImportArgs),
    /// Look after the notebook's file: check, back up, restore, compact, move
    #[command(subcommand)]
    Store(StoreCommand),
    /// Send what is pending and fetch what is new
    Sync(SyncArgs),
    /// Say what is saved where; changes nothing and asks nobody
    Status(StatusArgs),
    /// Stay in sync and say what happens, until Ctrl-C
    Watch,
    /// Play a recorded editing session from one replica to another, through a relay
    Replay(ReplayArgs),
    /// Serve as a relay, like `landfall-relay serve`; has that program's exit codes
    Relay(RelayArgs),
    /// Fold one document's history, as the relay asks on standard input
    #[command(name = relay::FOLD_WORKER, hide = true)]
    FoldWorker,
}

impl Command {
    /// Its name, if it comes to nothing without the relay that the place names.
    pub(crate) fn that_needs_the_relay(&self, place: &Place) -> Option<&'static str> {
        match self {
            Self::Sync(_) => Some("sync"),
            Self::Watch => Some("watch"),
            // Without one it plays through a relay of its own.
            Self::Replay(_) if place.relay.is_some() => Some("replay --relay"),
            _ => None,
        }
    }
}

/// Options of `tour`.
#[derive(Debug, Args)]
pub(crate) struct TourArgs {
    /// Edits that each of the two makes while the relay is killed
    #[arg(long, default_value_t = 600, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=20_000))]
    pub(crate) edits: u32,
}

/// What to do with notes. A note is named by its id, a unique beginning of it, its number in
/// `notes list`, or its title.
#[derive(Debug, Subcommand)]
pub(crate) enum NotesCommand {
    /// List all notes; `*` marks changes that the relay does not have yet, `!` refused ones
    List,
    /// Make a note; prints its id
    New {
        /// Its title; without one, the first line of the text
        title: Option<String>,
        /// Its text; `-` reads standard input
        #[arg(long)]
        text: Option<String>,
    },
    /// Print a note
    Show {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
    },
    /// Edit a note's text in $VISUAL or $EDITOR; what others write meanwhile is merged
    Edit {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
        /// Give it this title instead of opening an editor
        #[arg(long)]
        title: Option<String>,
        /// Give it this text instead of opening an editor; `-` reads standard input
        #[arg(long)]
        text: Option<String>,
    },
    /// Add a line to a note
    Append {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
        /// The line; `-` reads standard input
        text: String,
    },
    /// See whether a note has the documented shape
    Check {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
    },
    /// Delete a note for good, here and on every replica
    #[command(visible_alias = "delete")]
    Rm {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// List deleted notes with edits made here that nobody else has; save or discard those
    Deleted(DeletedArgs),
    /// List notes with changes that the relay refuses, why, and what can be done
    Refused,
    /// Offer a note's refused changes to the relay again
    Retry {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
    },
    /// Make a note's refused changes anew, by another author, on top of what the relay has
    Reauthor {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
    },
    /// Merge a note with another one of the same id that shares no history with it
    Merge {
        /// The note
        #[arg(value_name = "NOTE")]
        id: String,
    },
    /// Save a note as an automerge document: with its refused changes, or a deleted one
    Export {
        /// The note
        #[arg(value_name = "NOTE")]
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
    /// Let one go
    #[arg(long, value_name = "NOTE")]
    pub(crate) discard: Option<String>,
    /// Do not ask before letting go
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
    /// Give up once nothing has moved for so long, such as 500ms, 30s or 2m
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Sync only these notes from now on; an id may be of a note that is not here yet
    #[arg(long, value_name = "NOTE", num_args = 1.., conflicts_with = "all")]
    pub(crate) only: Option<Vec<String>>,
    /// Sync all notes from now on
    #[arg(long)]
    pub(crate) all: bool,
    /// Then compare what the relay holds with what is here, and set right what differs
    #[arg(long)]
    pub(crate) check: bool,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// For a program to read
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The recorded session, JSON or gzipped JSON; without one, two made-up authors type
    pub(crate) trace: Option<PathBuf>,
    /// Wait for the disk at each change, as the notebook does
    #[arg(long)]
    pub(crate) full: bool,
    /// Give up once nothing has moved for so long
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = duration)]
    pub(crate) stall: Duration,
    /// Without a trace: what the session is made from; any number, drawn if not given
    #[arg(long, conflicts_with = "trace")]
    pub(crate) seed: Option<u64>,
    /// Without a trace: edits by each author
    #[arg(long, default_value_t = 1000, value_name = "N", conflicts_with = "trace", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) edits: u32,
}

/// A duration as people write it: `500ms`, `30s`, `2m`, or a number of seconds.
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
        other => return Err(format!("`{other}` is no unit; use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| "it is no duration, such as 30s".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(["", "s", "3 days", "-1s"].into_iter().all(|text| duration(text).is_err()));
    }
}
