//! The command line: commands, options and their defaults. It must not know what the commands do.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use landfall::LinkOptions;

use crate::failure::{EXIT_CODES, Exit, Failure};
use crate::handover::{Draft, Hosted};
use crate::relay::{self, RelayArgs};
use crate::store::StoreCommand;

/// A small shared notebook, synced by Landfall: try `landfall-demo tour` first
#[derive(Debug, Parser)]
#[command(name = "landfall-demo", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) place: NotebookPlace,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which notebook, and where it syncs.
#[derive(Debug, Clone, Args)]
pub(crate) struct NotebookPlace {
    /// The notebook's file; created if absent
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
    /// The space that the notes are in [default: that of the relay's URL, or `default`]
    #[arg(long = "space", global = true, env = "LANDFALL_SPACE", value_name = "NAME")]
    pub(crate) given_space: Option<String>,
    /// The space in use: see [`NotebookPlace::settle`].
    #[arg(skip)]
    pub(crate) space: String,
    /// Set while the command is performed for another process.
    #[arg(skip)]
    pub(crate) hosted: Option<Hosted>,
    /// The text that the user has edited already.
    #[arg(skip)]
    pub(crate) draft: Option<Draft>,
    /// Do not try to reach the relay
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Write results and errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// Options of [`NotebookPlace`] that have no effect on a command: accepted there, but hidden from its help.
const UNUSED: &[(&[&str], &[&str])] = &[
    (&["tour"], &["store", "relay", "given_space", "offline", "quiet"]),
    (&["relay"], &["store", "relay", "given_space", "offline", "quiet"]),
    (&["replay"], &["store", "given_space", "offline"]),
    (&["status"], &["relay", "offline", "quiet"]),
    (&["watch"], &["quiet"]),
    (&["notes", "list"], READS),
    (&["notes", "show"], READS),
    (&["notes", "check"], READS),
    (&["notes", "deleted"], READS),
    (&["notes", "refused"], READS),
    (&["notes", "export"], READS),
    (&["store", "inspect"], FILE),
    (&["store", "verify"], FILE),
    (&["store", "backup"], FILE),
    (&["store", "restore"], FILE),
    (&["store", "compact"], FILE),
    (&["store", "export"], &["relay", "offline", "quiet"]),
    (&["store", "import"], FILE),
];
/// For commands that only read notes, without the relay.
const READS: &[&str] = &["relay", "offline"];
/// For commands on the whole file.
const FILE: &[&str] = &["relay", "given_space", "offline", "quiet"];

/// The command line as `--help` shows it.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let options: Vec<Arg> = command.get_arguments().cloned().collect();
    without_unused(command, &[], &options)
}

/// Hides the options that have no effect, for a command with this path and its subcommands.
fn without_unused(command: clap::Command, path: &[&str], options: &[Arg]) -> clap::Command {
    // All subcommands in their order: each mutated one moves to the end of the list.
    let names = command.get_subcommands().map(|below| below.get_name().to_owned());
    let command = names.collect::<Vec<_>>().iter().fold(command, |command, name| {
        let path = [path, &[name.as_str()]].concat();
        command.mut_subcommand(name, |below| without_unused(below, &path, options))
    });
    let unused = UNUSED.iter().find(|(of, _)| *of == path).map_or(&[][..], |(_, unused)| unused);
    let unused = options.iter().filter(|option| unused.contains(&option.get_id().as_str()));
    let hidden = unused.map(|option| option.clone().hide(true));
    let relay = options.iter().filter(|option| path == ["replay"] && option.get_id() == "relay");
    let other = relay.map(|option| option.clone().help(RELAY_OF_REPLAY));
    // Replaces the global argument that the program would pass down.
    hidden.chain(other).fold(command, clap::Command::arg)
}

/// Only `replay` starts a relay itself.
const RELAY_OF_REPLAY: &str = "The relay to play through [default: a relay started for the replay]";

impl Cli {
    /// Parses a command line, beginning with the program's name.
    pub(crate) fn of(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::from_arg_matches(
            &relay::without_empty_variables(command()).try_get_matches_from(args)?,
        )
    }
}

const RELAY_DEFAULT: &str = "ws://127.0.0.1:7600";

/// The space if neither an option nor a URL names one.
const SPACE_DEFAULT: &str = "default";

impl NotebookPlace {
    /// Determines the space: the option's, or the one in the relay's URL (`ws://host/spaces/NAME`, as for a
    /// browser's client). Fails if both are given and differ.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        let url = self.relay_url();
        // The command that needs the relay reports an invalid URL.
        let of_url = LinkOptions::new(url.as_str()).space().ok().flatten();
        self.space = match (&self.given_space, of_url) {
            (Some(given), Some(named)) if *given != named.to_string() => {
                let why = format!("`{url}` names the space `{named}`, --space names `{given}`");
                let remedy = "give only one of them";
                return Err(Failure::new(
                    Exit::Usage,
                    "two different spaces are given",
                    why,
                    remedy,
                ));
            }
            (Some(given), _) => given.clone(),
            (None, Some(named)) => named.to_string(),
            (None, None) => SPACE_DEFAULT.to_owned(),
        };
        Ok(())
    }

    /// The relay's URL: from the command line, the environment, or the default.
    pub(crate) fn relay_url(&self) -> String {
        self.given_relay().unwrap_or_else(|| RELAY_DEFAULT.to_owned())
    }

    /// The URL that the user gave.
    pub(crate) fn given_relay(&self) -> Option<String> {
        let from_environment =
            || std::env::var("LANDFALL_RELAY").ok().filter(|url| !url.is_empty());
        self.relay.clone().or_else(from_environment)
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
    /// Import text and Markdown files, and those in folders, as notes
    Import(ImportArgs),
    /// Maintain the notebook's file: verify, back up, restore, compact, move
    #[command(subcommand)]
    Store(StoreCommand),
    /// Send what is pending and fetch what is new
    Sync(SyncArgs),
    /// Show what is saved and what is pending; only reads the store
    Status(StatusArgs),
    /// Stay in sync and print events until Ctrl-C; with --offline, only those of local commands
    Watch,
    /// Play a recorded editing session from one replica to another, through a relay
    Replay(ReplayArgs),
    /// Run a relay, like `landfall-relay serve`, with that program's exit codes
    Relay(RelayArgs),
    /// Compact one document's history, as the relay asks on standard input
    #[command(name = relay::COMPACT_WORKER, hide = true)]
    CompactWorker,
    /// Verify a copy of the relay's store, as the relay asks
    #[command(name = relay::VERIFY_COPY, hide = true)]
    VerifyCopy { file: PathBuf },
}

impl Command {
    /// Whether the process that has the store open may perform it: it edits, and needs no exclusive access to
    /// the file.
    pub(crate) fn may_be_handed_over(&self) -> bool {
        matches!(self, Self::Notes(_) | Self::Import(_) | Self::Sync(_))
    }

    /// The note for which it opens an editor.
    pub(crate) fn edits(&self) -> Option<&str> {
        match self {
            Self::Notes(NotesCommand::Edit { id, title: None, text: None }) => Some(id),
            _ => None,
        }
    }

    /// Its name, if it cannot work without the relay of `place`.
    pub(crate) fn that_needs_the_relay(&self, place: &NotebookPlace) -> Option<&'static str> {
        match self {
            // Storing the selection of notes needs no relay.
            Self::Sync(args) if args.only.is_none() && !args.all => Some("sync"),
            // Without one, `replay` starts its own relay.
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
    fn clap_accepts_the_command_line() {
        command().debug_assert();
    }

    #[test]
    fn help_hides_exactly_the_options_without_effect() {
        let help = |path: &[&str]| {
            let args = ["landfall-demo"].iter().chain(path).chain(&["--help"]);
            Cli::of(args.map(OsString::from)).unwrap_err().to_string()
        };
        let options = ["--store", "--relay", "--space", "--offline", "--quiet"];
        for (path, listed) in [
            (&["tour"][..], &[][..]),
            (&["replay"], &["--relay", "--quiet"]),
            (&["status"], &["--store", "--space"]),
            (&["sync"], &options),
            (&["notes", "append"], &options),
            (&["notes", "list"], &["--store", "--space", "--quiet"]),
            (&["store", "verify"], &["--store"]),
            (&[], &options),
        ] {
            let help = help(path);
            let words: Vec<&str> = help.split_whitespace().collect();
            let mut found = options.to_vec();
            found.retain(|option| words.contains(option));
            assert_eq!(found, listed, "{path:?}\n{help}");
        }
        // Hidden options are still accepted.
        let args = ["landfall-demo", "--store", "x", "--relay", "ws://a", "notes", "list"];
        let cli = Cli::of(args.map(OsString::from)).unwrap();
        assert_eq!(
            (cli.place.store.to_str(), cli.place.relay.as_deref()),
            (Some("x"), Some("ws://a"))
        );
    }

    #[test]
    fn durations_are_parsed() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(["", "s", "3 days", "-1s"].into_iter().all(|text| duration(text).is_err()));
    }
}
