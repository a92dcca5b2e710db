//! Whether the relay can do its work now, for `/readyz`: set by the hub and by shutdown, read by
//! HTTP.

use std::sync::atomic::{AtomicU8, Ordering};

use landfall_protocol::space::StoreFailure;

const GOOD: u8 = 0;
const FULL: u8 = 1;
const FAILED: u8 = 2;
const STOPPING: u8 = 3;

/// The relay's readiness.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: AtomicU8,
}

impl Health {
    /// A commit or a probe was durable.
    pub(crate) fn store_works(&self) {
        self.set(GOOD);
    }

    /// A commit or a probe failed.
    pub(crate) fn store_failed(&self, failure: StoreFailure) {
        self.set(match failure {
            StoreFailure::Full => FULL,
            StoreFailure::Failed | StoreFailure::Busy => FAILED,
        });
    }

    /// The relay is being stopped; nothing takes that back.
    pub(crate) fn stopping(&self) {
        self.state.store(STOPPING, Ordering::Release);
    }

    /// Whether the store's last word was that it does not take writes.
    pub(crate) fn store_is_ill(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), FULL | FAILED)
    }

    /// Why the relay is not ready; `None` if it is.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        match self.state.load(Ordering::Acquire) {
            GOOD => None,
            FULL => Some("the disk is full: pushes are refused until there is room"),
            FAILED => Some("the store failed: pushes are refused until it takes writes again"),
            _ => Some("the relay is being stopped"),
        }
    }

    fn set(&self, state: u8) {
        let keep_stopping = |now| (now != STOPPING).then_some(state);
        // An error says that the relay is stopping, which stays so.
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, keep_stopping);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_store_counts_until_the_relay_stops() {
        let health = Health::default();
        assert_eq!(health.trouble(), None);
        health.store_failed(StoreFailure::Full);
        assert!(health.trouble().is_some_and(|why| why.contains("full")));
        assert!(health.store_is_ill());
        health.store_works();
        assert_eq!(health.trouble(), None);
        health.stopping();
        health.store_works();
        assert!(health.trouble().is_some_and(|why| why.contains("stopped")));
    }
}
