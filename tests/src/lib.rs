//! Shared helpers of the system tests: real relay processes, real stores, a network that can be cut,
//! and printed seeds. Everything that a helper starts ends when its handle is dropped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

pub mod embedded;
pub mod http;
pub mod log;
pub mod network;
pub mod process;
pub mod raw;
pub mod replica;
pub mod repo;
pub mod site;
pub mod traces;

use std::time::Duration;

/// How long a test waits for an event that is expected at once. Not a performance figure: a machine may
/// be slow, and a passing test never waits that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Sets the flag when dropped, also by a panic, so that threads that check it end with the test.
#[derive(Debug)]
pub struct RaiseOnDrop<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}
