//! The worker as a separate program, for this crate's tests. Its first argument selects a failure that
//! the parent must survive.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("abort") => std::process::abort(),
        Some("hang") => loop {
            std::thread::park();
        },
        Some("babble") => {
            let much = "not a worker's message. ".repeat(10_000);
            eprintln!("{much}");
            println!("{much}");
            ExitCode::SUCCESS
        }
        Some("leave") => ExitCode::from(7),
        _ => landfall_compaction::worker::main(),
    }
}
