//! The children of a relay, as hidden subcommands of every binary that embeds one: one compacts a document,
//! the other verifies a copy of the store. Separate processes keep their memory and time off the relay's.
//! They must not know the hub.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::operator::failure;
use super::{Failure, OTHER};
use crate::admin::verify::verify_copy;
use crate::limits;

/// The hidden subcommand of the compaction child.
pub const COMPACT_WORKER: &str = "compact-worker";

/// The hidden subcommand of the child that verifies a copy; the file's path follows.
pub const VERIFY_COPY: &str = "verify-copy";

/// The compaction child: reads one job from standard input, writes its outcome to standard output.
pub fn compact_worker() -> ExitCode {
    landfall_compaction::worker::main()
}

/// The child that verifies a copy. Prints a line of JSON on standard output: `damage`, the number of damaged
/// places, and `first`, the first of them. Exits when its standard input closes.
pub fn verify_copy_worker(file: &Path) -> ExitCode {
    let confined = landfall_compaction::worker::confine(limits::VERIFY_MEMORY_BYTES);
    let watching = std::thread::Builder::new().name("parent".to_owned()).spawn(end_with_the_parent);
    if let Err(error) = confined.and(watching.map(drop)) {
        return Failure::new(
            OTHER,
            "the child's limits cannot be set",
            error,
            "check the limits of the process",
        )
        .tell();
    }
    match verify_copy(file) {
        Ok(found) => {
            let damaged = found.findings.iter().find(|finding| !finding.damage.is_harmless());
            let first = damaged.map(ToString::to_string);
            let line = json!({"damage": found.damage, "first": first});
            match writeln!(io::stdout(), "{line}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => failure(error, file).tell(),
    }
}

fn end_with_the_parent() {
    // The parent is gone, whether its pipe was closed or failed.
    let _ = io::stdin().lock().read(&mut [0]);
    std::process::exit(i32::from(OTHER));
}
