//! Measures the figures of `docs/performance.md` on this machine, for this code.
//!
//! `cargo bench -p landfall-tests --bench figures` runs all of them; an argument after `--` selects
//! those whose name contains it. They never decide a pass or fail: machines differ and are noisy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "figures/bulk.rs"]
mod bulk;
#[path = "figures/latency.rs"]
mod latency;
#[path = "figures/long.rs"]
mod long;
#[path = "figures/long_backup.rs"]
mod long_backup;
#[path = "figures/long_epoch.rs"]
mod long_epoch;
#[path = "figures/long_fresh.rs"]
mod long_fresh;
#[path = "figures/long_history.rs"]
mod long_history;
#[path = "figures/long_one_shot.rs"]
mod long_one_shot;
#[path = "figures/long_setup.rs"]
mod long_setup;
#[path = "figures/lookups.rs"]
mod lookups;
#[path = "figures/measure.rs"]
mod measure;
#[path = "figures/resting.rs"]
mod resting;
#[path = "figures/setup.rs"]
mod setup;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let first = arguments.next();
    if first.as_deref() == Some(setup::RELAY) {
        return setup::run_relay(arguments.collect());
    }
    if let Some(word) = first.as_deref()
        && let Some(code) = long_setup::child(word, arguments.by_ref().collect())
    {
        return code;
    }
    let all: [(&str, fn()); 10] = [
        ("disk", measure::disk),
        ("change", latency::change_when_idle),
        ("reader", latency::change_beside_a_reader),
        ("typing", latency::change_while_a_peer_types),
        ("event", latency::edit_to_event),
        ("bulk", bulk::offline_changes),
        ("reconnect", resting::reconnect),
        ("resident", resting::resident),
        ("open", resting::open),
        ("lookups", lookups::look_ups),
    ];
    let wanted = |name: &str| first.as_deref().is_none_or(|first| name.contains(first));
    for (name, run) in all.into_iter().chain(long::FIGURES) {
        if wanted(name) {
            println!("## {name}");
            run();
        }
    }
    ExitCode::SUCCESS
}
