//! The binary: its command line, and nothing else.

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

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use landfall_relay::cli::{self, OperatorCommand, ServeArgs};

/// Landfall's relay: stores the changes of documents and synchronises replicas
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Exit codes: 0 done, or clean shutdown; 1 other failures; 2 wrong usage; 3 cannot listen; \
4 data folder or store not usable; 5 store in use; 6 damaged data; 7 input file of the wrong \
format, or output file exists or cannot be created; 8 the store's files were removed or replaced \
while it served; 9 an fsync of the store failed while it served; 10 a thread of the relay ended \
by a bug"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    Serve(Box<ServeArgs>),
    #[command(flatten)]
    Operate(OperatorCommand),
    /// Compact one document's history, from a job that the relay sends on standard input
    #[command(name = cli::COMPACT_WORKER, hide = true)]
    CompactWorker,
    /// Verify a copy of the store, started by the relay
    #[command(name = cli::VERIFY_COPY, hide = true)]
    VerifyCopy { file: PathBuf },
}

fn main() -> ExitCode {
    let matches = cli::without_empty_variables(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return cli::misused(&error),
    };
    match cli.command {
        Command::Serve(args) => cli::run(*args),
        Command::Operate(command) => cli::admin(command),
        Command::CompactWorker => cli::compact_worker(),
        Command::VerifyCopy { file } => cli::verify_copy_worker(&file),
    }
}
