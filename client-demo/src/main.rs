//! A small shared notebook on the command line: a demonstration of Landfall that is useful in itself.
//!
//! It uses the engine's public API only. Only `relay` knows the relay's library, so that one binary is enough
//! to try everything.
//!
//! | module | contents |
//! |---|---|
//! | `cli`, `args`, `place` | the command line: commands, their options, the options of all |
//! | `token` | the token for a relay that requires one |
//! | `failure` | errors and exit codes; below all others |
//! | `note`, `text`, `find` | a note's shape; edits that merge; look-up of notes by name |
//! | `lines`, `name` | line endings of texts; normalisation of names |
//! | `notebook`, `lookup`, `render` | a store, its space, its relay; a note in it; a note as printed |
//! | `control`, `request`, `handover` | a local socket beside the store; what is sent over it; commands performed
//! by the process that has it open |
//! | `prompt` | standard input and confirmations |
//! | `notes`, `editor`, `import`, `sync`, `status`, `watch` | the commands of those names |
//! | `deleted`, `refused`, `export`, `exported` | orphaned edits, rejected changes, and saving them to files |
//! | `tour` | the guided scenario |
//! | `replay`, `trace`, `generate` | recorded and generated editing sessions |
//! | `replica`, `relay`, `scratch` | the building blocks of tour and replay |
//! | `store` | administration of the notebook's file: check, back up, restore, compact, move |
//! | `term`, `wait` | terminal output; waiting with a timeout |

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        reason = "a test fails by panicking"
    )
)]

mod args;
mod cli;
mod control;
mod deleted;
mod editor;
mod export;
mod exported;
mod failure;
mod find;
mod generate;
mod handover;
mod import;
mod lines;
mod lookup;
mod name;
mod note;
mod notebook;
mod notes;
mod place;
mod progress;
mod prompt;
mod refused;
mod relay;
mod render;
mod replay;
mod replica;
mod request;
mod scratch;
mod status;
mod store;
mod sync;
mod term;
mod text;
mod token;
mod tour;
mod trace;
mod wait;
mod watch;

use std::process::ExitCode;

use clap::error::ErrorKind;

use cli::{Cli, Command};
use failure::{Exit, Failure};
use place::NotebookPlace;

fn main() -> ExitCode {
    let cli = match Cli::of(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let mut place = cli.place;
    if let Err(failure) = place.settle() {
        return ended(Err(failure));
    }
    if let (true, Some(name)) = (place.offline, cli.command.that_needs_the_relay(&place)) {
        return ended(Err(offline(name)));
    }
    let (may_be_handed_over, edits) =
        (cli.command.may_be_handed_over(), cli.command.edits().map(str::to_owned));
    let result = match cli.command {
        Command::Relay(args) => return relay::serve(*args),
        Command::CompactWorker => return relay::compact_worker(),
        Command::VerifyCopy { file } => return relay::verify_copy(&file),
        command => dispatch(&place, command),
    };
    ended(match result {
        Err(failure) if failure.is_store_in_use() && may_be_handed_over => {
            handover::hand_over(&place, edits.as_deref(), failure)
        }
        result => result,
    })
}

/// Runs a command on the notebook.
fn dispatch(place: &NotebookPlace, command: Command) -> Result<(), Failure> {
    match command {
        Command::Tour(args) => tour::run(&args),
        Command::Notes(command) => notes::run(place, command),
        Command::Import(args) => import::run(place, &args.paths),
        Command::Store(command) => store::run(place, command),
        Command::Sync(args) => sync::run(place, &args),
        Command::Status(args) => status::run(place, args.json),
        Command::Watch => watch::run(place),
        Command::Replay(args) => replay::run(place, &args),
        // Separate programs, with their own exit codes.
        Command::Relay(_) | Command::CompactWorker | Command::VerifyCopy { .. } => Ok(()),
    }
}

/// Prints the reason of a failure, and returns the exit code. A command whose output could not be written has
/// failed too: later commands of a script may depend on that output.
fn ended(result: Result<(), Failure>) -> ExitCode {
    let result = result.and_then(|()| match term::missing() {
        None => Ok(()),
        Some(why) => {
            let remedy = "the command was performed; run a command that only reads for the output";
            Err(Failure::new(Exit::Input, "the output could not be written", why, remedy))
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            term::note(failure.line());
            failure.code()
        }
    }
}

/// The error for `--offline` with a command that needs the relay.
fn offline(name: &str) -> Failure {
    let why = format!("`{name}` needs the relay, and --offline is given");
    Failure::new(Exit::Usage, "wrong usage", why, "omit --offline")
}

/// The command path in a usage line, such as `notes new`; empty for the program alone.
fn usage_of(text: &str) -> String {
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    let words = usage.unwrap_or_default().split_whitespace().skip(1);
    let names = words.take_while(|word| !word.starts_with(['[', '<', '-', '.']));
    names.collect::<Vec<_>>().join(" ")
}

/// The error for a command that lacks its subcommand: lists the subcommands.
fn incomplete(of: &str) -> Failure {
    let mut found = cli::command();
    for name in of.split_whitespace() {
        found = found.find_subcommand(name).cloned().unwrap_or_default();
    }
    let shown = found.get_subcommands().filter(|below| !below.is_hide_set());
    let names: Vec<&str> = shown.map(clap::Command::get_name).collect();
    let command = if of.is_empty() { "landfall-demo" } else { of };
    let why = format!("`{command}` needs a subcommand: {}", names.join(", "));
    let help = format!("see `{} --help`", format!("landfall-demo {of}").trim_end());
    Failure::new(Exit::Usage, "wrong usage", why, help)
}

/// Prints help and version as they are, and a usage error in one line, as all errors.
fn misused(error: &clap::Error) -> ExitCode {
    let whole = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if whole {
        // A reader that closed the output does not need the rest.
        let _ = error.print();
        return ExitCode::from(u8::from(error.use_stderr()) * Exit::Usage as u8);
    }
    let text = error.render().to_string();
    let of = usage_of(&text);
    let is_incomplete = matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    );
    if error.kind() == ErrorKind::MissingSubcommand || is_incomplete && !of.is_empty() {
        let failure = incomplete(&of);
        term::note(failure.line());
        return failure.code();
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // The program's name alone prints the whole help.
        let _ = error.print();
        return ExitCode::from(Exit::Usage as u8);
    }
    let lines = text.lines().map(str::trim);
    let message: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
    let message = message.join(" ").trim().trim_start_matches("error: ").to_owned();
    let message =
        message.split(" For more information").next().unwrap_or_default().trim().to_owned();
    let help = format!("see `{} --help`", format!("landfall-demo {of}").trim_end());
    let failure = Failure::new(Exit::Usage, "wrong usage", message, help);
    term::note(failure.line());
    failure.code()
}
