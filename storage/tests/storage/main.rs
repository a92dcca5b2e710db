//! The guarantees of `landfall-storage`, tested through its public API: one binary, one module per
//! guarantee.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test fails by panicking, and is its own documentation"
)]

mod closing;
mod durability;
mod failed_fsync;
mod full_disk;
mod gone;
mod groups;
mod opening;
mod reading;
mod replacing;
mod support;
mod two_processes;
mod writer_panic;
