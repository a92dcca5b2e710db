//! Compares the relay with the servers that automerge-repo's clients use today. One load client drives
//! all of them over their own protocol: the figures of `docs/performance.md`, section "Side by side".
//!
//! `cargo bench -p landfall-tests --bench repo` runs all rows; an argument after `--` selects those
//! whose name contains it. `--quick` makes them short, `--runs N` repeats them (default 3),
//! `--servers a,b` selects the servers. They never decide a pass or fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "repo/fanout.rs"]
mod fanout;
#[path = "repo/link.rs"]
mod link;
#[path = "repo/long.rs"]
mod long;
#[path = "repo/many.rs"]
mod many;
#[path = "repo/peers.rs"]
mod peers;
#[path = "repo/processes.rs"]
mod processes;
#[path = "repo/replica.rs"]
mod replica;
#[path = "repo/safety.rs"]
mod safety;
#[path = "repo/server.rs"]
mod server;
#[path = "repo/sparse.rs"]
mod sparse;
#[path = "repo/table.rs"]
mod table;
#[path = "repo/wire.rs"]
mod wire;
#[path = "repo/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Duration;

use fanout::Scene;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::Kind;
use table::{Metric, Table};

/// The parsed command line.
struct Asked {
    row: String,
    quick: bool,
    runs: usize,
    kinds: Vec<Kind>,
}

type Row = fn(Kind, bool) -> Result<Vec<Metric>, String>;

const ROWS: [(&str, Row); 9] = [
    ("fanout", fan_out),
    ("latency", latency),
    ("longlatency", latency_of_a_long_document),
    ("load", |kind, quick| match quick {
        true => long::first_load(kind, 20_000, 1),
        false => long::first_load(kind, 100_000, 3),
    }),
    ("documents", |kind, quick| many::documents(kind, if quick { 200 } else { 2_000 })),
    ("idle", |kind, quick| match quick {
        true => many::idle(kind, 200, Duration::from_secs(5)),
        false => many::idle(kind, 1_000, Duration::from_secs(30)),
    }),
    ("returning", |kind, quick| long::returning(kind, if quick { 2_000 } else { 10_000 })),
    ("kills", |kind, quick| safety::kills(kind, if quick { 3 } else { 20 })),
    ("fsyncs", |kind, _| safety::fsyncs(kind, 20)),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let first = arguments.next();
    match first.as_deref() {
        Some(server::RELAY) => return server::run_relay(arguments.collect()),
        Some(landfall_relay::cli::COMPACT_WORKER) => return landfall_relay::cli::compact_worker(),
        _ => {}
    }
    let asked = asked(first.into_iter().chain(arguments));
    raise_the_limit_of_open_files();
    let mut kinds = asked.kinds;
    kinds.retain(|kind| match kind.install() {
        Ok(()) => true,
        Err(why) => {
            println!("without {}: {why}", kind.name());
            false
        }
    });
    let mut table = Table::default();
    for (name, row) in ROWS.into_iter().filter(|(name, _)| name.contains(&asked.row)) {
        // The servers take turns, so that background load of the machine affects all of them.
        for run in 0..asked.runs {
            for &kind in &kinds {
                eprintln!("## {name}, {}, run {}", kind.name(), run + 1);
                table.add(name, kind, row(kind, asked.quick));
            }
        }
    }
    table.print(&kinds);
    ExitCode::SUCCESS
}

fn asked(mut arguments: impl Iterator<Item = String>) -> Asked {
    let mut asked = Asked { row: String::new(), quick: false, runs: 3, kinds: Kind::ALL.to_vec() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (asked.quick, asked.runs) = (true, 1),
            "--runs" => asked.runs = arguments.next().unwrap().parse().unwrap(),
            "--servers" => {
                let names = arguments.next().unwrap();
                let names: Vec<&str> = names.split(',').collect();
                asked.kinds.retain(|kind| names.contains(&kind.name()));
            }
            row => row.clone_into(&mut asked.row),
        }
    }
    asked
}

/// A thousand connections need more open files than the usual limit, at both ends.
fn raise_the_limit_of_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        println!("cannot raise the limit of open files: {error}");
    }
}

fn seconds(quick: bool, full: u64) -> Duration {
    Duration::from_secs(if quick { full / 4 } else { full })
}

/// Seventy connections on one document; all but one edit in turn.
fn fan_out(kind: Kind, quick: bool) -> Result<Vec<Metric>, String> {
    let name = "70 connections, 100 edits/s";
    let (warm, measured) = (seconds(quick, 4), seconds(quick, 20));
    let scene = Scene { name, clients: 70, rate: 100, length: 500, warm, measured, costs: true };
    fanout::run(kind, scene)
}

/// One writer and one reader.
fn latency(kind: Kind, quick: bool) -> Result<Vec<Metric>, String> {
    let name = "one writer, one reader, 20 edits/s";
    let (warm, measured) = (seconds(quick, 4), seconds(quick, 40));
    let scene = Scene { name, clients: 2, rate: 20, length: 500, warm, measured, costs: false };
    fanout::run(kind, scene)
}

fn latency_of_a_long_document(kind: Kind, quick: bool) -> Result<Vec<Metric>, String> {
    let name = "the same, document of 20,000 changes";
    let (warm, measured) = (seconds(quick, 4), seconds(quick, 40));
    let scene = Scene { name, clients: 2, rate: 20, length: 20_000, warm, measured, costs: false };
    fanout::run(kind, scene)
}
