//! The command line: the list of commands, and which options have no effect on them. It must not know what
//! the commands do.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::args::{ImportArgs, NotesCommand, ReplayArgs, StatusArgs, SyncArgs, TourArgs};
use crate::failure::EXIT_CODES;
use crate::place::NotebookPlace;
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
    Relay(Box<RelayArgs>),
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
}
