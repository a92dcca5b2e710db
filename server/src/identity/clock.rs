//! The clocks that identification reads. Tests set their own.

use std::time::{Duration, Instant};

/// The time of day, which tokens name, and a clock that never steps, which paces look-ups.
pub(crate) trait Clock: Send + Sync {
    /// Now, in milliseconds of Unix time.
    fn unix_ms(&self) -> u64;
    /// The time since a fixed moment.
    fn monotonic(&self) -> Duration;
}

/// The system's clocks.
pub(super) struct SystemClock {
    began: Instant,
}

impl SystemClock {
    pub(super) fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        crate::clock::now_ms()
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
}
