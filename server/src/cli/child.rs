//! What a relay runs in children of its own, as hidden subcommands of every binary that carries one: a
//! child that folds, and one that verifies a copy of the store. Whatever they need of memory and time,
//! the relay does not.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::operator::failure;
use super::{Failure, OTHER};
use crate::limits;
use crate::operate::verify::verify_copy;

/// The hidden subcommand by which every binary that carries a relay is also the child that folds.
pub const FOLD_WORKER: &str = "fold-worker";

/// The one by which it is the child that verifies a copy; the file follows.
pub const VERIFY_COPY: &str = "verify-copy";

/// The child that folds: one job on standard input, its outcome on standard output.
pub fn fold_worker() -> ExitCode {
    landfall_fold::worker::main()
}

/// The child that verifies a copy: a line of JSON on standard output, `damage` with the number of damaged
/// places and `first` with the first of them. It ends when its standard input does.
pub fn verify_copy_worker(file: &Path) -> ExitCode {
    let confined = landfall_fold::worker::confine(limits::VERIFY_MEMORY_BYTES);
    let watching = std::thread::Builder::new().name("parent".to_owned()).spawn(end_with_the_parent);
    if let Err(error) = confined.and(watching.map(drop)) {
        return Failure::new(OTHER, "the child cannot be confined", error, "look at its limits")
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
    // Whether it ended or broke: nobody waits for the outcome any more.
    let _ = io::stdin().lock().read(&mut [0]);
    std::process::exit(i32::from(OTHER));
}
