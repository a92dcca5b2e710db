//! Compaction, in this process and in child processes that die.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "compaction/absorbing.rs"]
mod absorbing;
#[path = "compaction/compacting.rs"]
mod compacting;
#[path = "compaction/figures.rs"]
mod figures;
#[path = "compaction/histories.rs"]
mod histories;
#[path = "compaction/strangers.rs"]
mod strangers;
#[path = "compaction/workers.rs"]
mod workers;
