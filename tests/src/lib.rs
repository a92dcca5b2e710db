//! What the whole-system tests share: real relay processes, real stores, a network that can be
//! cut, seeds that are printed. Everything that is started here ends with its handle.

pub mod embedded;
pub mod http;
pub mod log;
pub mod network;
pub mod process;
pub mod raw;
pub mod replica;
pub mod repo;
pub mod rng;
pub mod site;
pub mod traces;

use std::time::Duration;

/// How long a test waits for something that should happen at once. Not a figure: a machine may be
/// slow, and a test that passes never waits that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Raised when dropped, by a panic too: threads of a test that look at it end with the test.
#[derive(Debug)]
pub struct RaiseOnDrop<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}
