//! The speed of incoming data that holds memory.

use std::time::Instant;

use super::Account;
use crate::limits;

/// Measures it, interval by interval.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The interval's start, and the bytes received by then.
    from: (Instant, u64),
}

impl Pace {
    /// An interval that starts now.
    pub(crate) fn from(bytes: u64) -> Self {
        Self { from: (Instant::now(), bytes) }
    }

    /// An interval that starts at a given time, for tests.
    #[cfg(test)]
    pub(crate) fn since(from: Instant, bytes: u64) -> Self {
        Self { from: (from, bytes) }
    }

    /// Whether the data is slower than the slowest supported link, while others wait for the account's
    /// memory. `bytes`: the bytes received so far. `reads`: the relay is reading from the peer, so it is
    /// not the cause. A share that withholds more than its part from others is judged after a shorter
    /// interval.
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
