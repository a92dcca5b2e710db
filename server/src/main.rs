//! The binary: its command line, and nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use landfall_relay::cli::{self, ServeArgs};

/// Landfall's relay: keeps the changes of documents and brings replicas to the same state
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Exit codes: 0 stopped in good order; 1 other failures; 2 wrong usage; 3 cannot listen; \
4 data folder or store not usable; 5 store in use"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    Serve(ServeArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => cli::run(args),
    }
}
