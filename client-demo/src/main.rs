//! A small shared notebook on the command line, which shows Landfall off and is of use by itself.
//!
//! It uses the engine's public API only. `relay` alone knows the relay's library, to carry a relay
//! so that one binary is enough to try everything.
//!
//! | module | what it holds |
//! |---|---|
//! | `cli`, `failure` | what can be asked for; how it fails, with which exit code |
//! | `note`, `text`, `find` | a note's shape; edits that merge; which note is meant |
//! | `notebook` | a store, its space, its relay |
//! | `notes`, `editor`, `import`, `sync`, `status`, `watch` | the commands of those names |
//! | `deleted`, `refused`, `export` | what became of notes and edits that go nowhere |
//! | `tour` | the guided scenario |
//! | `replay`, `trace`, `generate` | recorded and made-up editing sessions |
//! | `replica`, `relay`, `scratch` | what tour and replay are made of |
//! | `store` | looking after the notebook's file: check, back up, restore, compact, move |
//! | `term`, `wait` | writing for a person; waiting with a limit |

mod cli;
mod deleted;
mod editor;
mod export;
mod failure;
mod find;
mod generate;
mod import;
mod note;
mod notebook;
mod notes;
mod progress;
mod refused;
mod relay;
mod replay;
mod replica;
mod scratch;
mod status;
mod store;
mod sync;
mod term;
mod text;
mod tour;
mod trace;
mod wait;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command};
use failure::{Exit, Failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let place = cli.place;
    if let (true, Some(name)) = (place.offline, cli.command.that_needs_the_relay(&place)) {
        return ended(Err(offline(name)));
    }
    let result = match cli.command {
        Command::Relay(args) => return relay::serve(args),
        Command::FoldWorker => return relay::fold_worker(),
        Command::Tour(args) => tour::run(&args),
        Command::Notes(command) => notes::run(&place, command),
        Command::Import(args) => import::run(&place, &args.paths),
        Command::Store(command) => store::run(&place, command),
        Command::Sync(args) => sync::run(&place, &args),
        Command::Status(args) => status::run(&place, args.json),
        Command::Watch => watch::run(&place),
        Command::Replay(args) => replay::run(&place, &args),
    };
    ended(result)
}

/// Says why a command failed, and gives the code.
fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            term::note(failure.line());
            failure.code()
        }
    }
}

/// `--offline` was given to a command that needs the relay.
fn offline(name: &str) -> Failure {
    let why = format!("`{name}` needs the relay, and --offline forbids to reach it");
    Failure::new(Exit::Usage, "wrong usage", why, "leave --offline out")
}

/// Help and version as they are; a mistake in one line, as all errors here.
fn misused(error: &clap::Error) -> ExitCode {
    let whole = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if whole {
        // Whoever closed the output does not want the rest.
        let _ = error.print();
        return ExitCode::from(u8::from(error.use_stderr()) * Exit::Usage as u8);
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim);
    let said: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
    let said = said.join(" ").trim().trim_start_matches("error: ").to_owned();
    let said = said.split(" For more information").next().unwrap_or_default().trim().to_owned();
    let failure = Failure::new(Exit::Usage, "wrong usage", said, "see `landfall-demo --help`");
    term::note(failure.line());
    failure.code()
}
