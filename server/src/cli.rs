//! The command line of `landfall-relay`, for its binary and for programs that embed a relay: the commands,
//! and how they fail. `admin` implements the operator's commands.
//!
//! Exit codes: 0 done, or clean shutdown; 1 a failure without its own code; 2 wrong usage; 3 cannot listen on
//! the address; 4 the data folder or the store in it cannot be used; 5 another process uses the store; 6
//! something is damaged; 7 an input file has the wrong format, or an output file exists already or cannot be
//! created; 8 the store's files were removed or replaced while it was served; 9 an fsync of the store failed
//! while it was served; 10 a thread of the relay ended by a bug.

mod child;
mod identity;
mod names;
mod operator;
mod print;
mod serve;

use std::ffi::OsStr;
use std::fmt::Display;
use std::process::ExitCode;

pub use crate::logs::LogFormat;
pub use child::{COMPACT_WORKER, VERIFY_COPY, compact_worker, verify_copy_worker};
pub use identity::{IdentityArgs, TokenArgs};
pub use operator::{OperatorCommand, admin};
pub use serve::{CompactionArgs, ServeArgs, run};

use crate::logs;
use crate::store::{OpenStoreError, StoreHint};
use landfall_protocol::error_chain;

/// Prints a usage error in one line, as all errors are, and returns the exit code; prints help and versions
/// as they are.
pub fn misused(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    if matches!(
        error.kind(),
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // A reader that closed the output does not need the rest.
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .collect();
    let message = message.join(" ");
    // clap also lists hidden subcommands, which only this program starts: remove them.
    let hidden = |message: String, name: &str| message.replace(&format!(", {name}"), "");
    let message = [COMPACT_WORKER, VERIFY_COPY].into_iter().fold(message, hidden);
    let why = message.trim_start_matches("error: ");
    Failure::new(USAGE, "wrong usage", why, "see `landfall-relay --help`").tell()
}

/// Treats environment variables with an empty value as unset: a Compose file sets them so.
pub fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
        true => arg.env(clap::builder::Resettable::<clap::builder::OsStr>::Reset),
        false => arg,
    });
    let names = command.get_subcommands().map(|below| below.get_name().to_owned());
    names
        .collect::<Vec<_>>()
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, without_empty_variables))
}

/// An error that ends the process: one line for a person, and an exit code for a script.
#[derive(Debug)]
struct Failure {
    line: String,
    code: u8,
}

const OTHER: u8 = 1;
const USAGE: u8 = 2;
const LISTEN: u8 = 3;
const STORE: u8 = 4;
const IN_USE: u8 = 5;
const DAMAGED: u8 = 6;
const FILE: u8 = 7;
const GONE: u8 = 8;
const FSYNC: u8 = 9;
const BUG: u8 = 10;

impl Failure {
    fn new(code: u8, what: impl Display, why: impl Display, hint: &str) -> Self {
        let line = format!("{what}; {why}; {hint}");
        // Line breaks can come from an address or a path.
        Self { line: escaped(&line.replace(['\n', '\r'], " ")), code }
    }

    /// Prints the line, and returns the code.
    fn tell(self) -> ExitCode {
        // If standard error cannot be written, the exit code still reports the failure.
        logs::last_line(format!("error: {}", self.line));
        ExitCode::from(self.code)
    }
}

fn store_failure(error: &OpenStoreError) -> Failure {
    let (code, hint) = match error.hint() {
        StoreHint::InUse => (IN_USE, "stop the other relay, or use another folder with --data"),
        StoreHint::WrongFile => {
            (STORE, "use another folder with --data (the file was not touched)")
        }
        StoreHint::Newer => (STORE, "use the newer release of landfall-relay that wrote it"),
        StoreHint::Older => (
            STORE,
            "start the relay on it once: it migrates the store to the format of this release",
        ),
        StoreHint::Unwritable => (STORE, "make the folder writable, or use another with --data"),
        StoreHint::Full => (STORE, "make room on the disk"),
        StoreHint::Other => (STORE, "restore a backup, or use another folder with --data"),
    };
    Failure::new(code, "the store cannot be used", error_chain(error), hint)
}

/// Escapes text of foreign origin for a terminal: control characters, and characters that change the text
/// direction, become `\u001b` and the like, which JSON parses back to the original.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let is_harmless = matches!(c, '\n' | '\t') || !(c.is_control() || turns_direction(c));
        match is_harmless {
            true => out.push(c),
            false => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out
}

fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(escaped("a\tb\u{1b}[2J\u{9b}é\u{202e}\n"), "a\tb\\u001b[2J\\u009bé\\u202e\n");
        let failure = Failure::new(OTHER, "a\nb", "\u{1b}]0;x\u{7}", "look");
        assert_eq!(failure.line, "a b; \\u001b]0;x\\u0007; look");
    }
}
