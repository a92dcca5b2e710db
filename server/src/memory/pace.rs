//! How fast something comes that keeps memory.

use std::time::Instant;

use super::Account;
use crate::limits;

/// Watches it, look by look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Since when, and the bytes that had come by then.
    from: (Instant, u64),
}

impl Pace {
    /// From now on.
    pub(crate) fn from(bytes: u64) -> Self {
        Self { from: (Instant::now(), bytes) }
    }

    /// From a moment on, for tests.
    #[cfg(test)]
    pub(crate) fn since(from: Instant, bytes: u64) -> Self {
        Self { from: (from, bytes) }
    }

    /// Whether it comes slower than the slowest link is, while others wait for the account's memory.
    /// `bytes`: what has come by now. `reads`: it is not us who hold it back. A share that keeps more
    /// than its part from others is looked at the sooner.
    pub(crate) fn is_slow(&mut self, bytes: u64, reads: bool, account: &Account) -> bool {
        let (now, (from, before)) = (Instant::now(), self.from);
        let watched = now - from;
        if !reads || watched >= limits::LARGE_LOOK {
            self.from = (now, bytes);
        }
        let came = bytes.saturating_sub(before) as f64;
        if !reads || came >= watched.as_secs_f64() * limits::SLOWEST_LINK {
            return false;
        }
        watched >= limits::LARGE_LOOK && account.is_wanted()
            || watched >= limits::PRESSED_LOOK && account.is_pressed()
    }
}
