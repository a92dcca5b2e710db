//! Returns freed memory to the operating system.
//!
//! glibc keeps freed memory in its arenas: after a burst of large messages a relay would stay at its peak
//! size. The choice of this remedy over another allocator:
//! `docs/decisions/0065-freed-memory-is-given-back.md`.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};

use crate::limits;
use crate::metrics::Metrics;

/// Trims each [`TRIM_EVERY`](crate::limits::TRIM_EVERY) if there was enough traffic since the last trim, and
/// once more when the relay is quiet again. Runs until it is dropped.
pub(crate) async fn trim_on_traffic(metrics: Arc<Metrics>) {
    let mut ticks = interval(limits::TRIM_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut traffic = Traffic::default();
    loop {
        ticks.tick().await;
        if traffic.is_trim_due(metrics.bytes_in.get() + metrics.bytes_out.get()) {
            // A trim takes milliseconds per 100 MiB, too long for an async worker.
            if tokio::task::spawn_blocking(trim).await.is_err() {
                tracing::error!("cannot return free memory to the system");
            }
        }
    }
}

/// The traffic since the last trim.
#[derive(Debug, Default)]
struct Traffic {
    trimmed_at: u64,
    last: u64,
}

impl Traffic {
    /// `bytes` is the total since the start. A little traffic is trimmed when it is over.
    fn is_trim_due(&mut self, bytes: u64) -> bool {
        let (since, is_quiet) = (bytes - self.trimmed_at, bytes == self.last);
        self.last = bytes;
        let is_due = since >= limits::TRIM_BYTES || (is_quiet && since >= limits::TRIM_QUIET_BYTES);
        if is_due {
            self.trimmed_at = bytes;
        }
        is_due
    }
}

pub(crate) use glibc::map_large;
use glibc::trim;

/// Calls of glibc. They have no safe interface; neither takes a pointer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc's calls have no safe interface")]
mod glibc {
    use crate::limits;

    /// Has allocations of at least [`LARGE_ALLOCATION`](crate::limits::LARGE_ALLOCATION) bytes returned to
    /// the operating system as soon as they are freed. By default glibc raises that threshold to the largest
    /// freed allocation, up to 32 MiB, and keeps smaller ones. Called once, when the process starts.
    pub(crate) fn map_large() {
        // SAFETY: the call sets a number under its own lock. A failure leaves the default.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, limits::LARGE_ALLOCATION) };
    }

    pub(super) fn trim() {
        // SAFETY: glibc documents the call as thread-safe. 0: keep no free memory at the top of the heap.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}

/// Other allocators return memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub(crate) fn map_large() {}

    pub(super) fn trim() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trim_is_due_after_heavy_traffic_and_after_quiet_follows_some() {
        let mut traffic = Traffic::default();
        assert!(!traffic.is_trim_due(0), "an idle relay does nothing");
        assert!(traffic.is_trim_due(limits::TRIM_BYTES));
        assert!(!traffic.is_trim_due(limits::TRIM_BYTES));
        let some = limits::TRIM_BYTES + limits::TRIM_QUIET_BYTES;
        assert!(!traffic.is_trim_due(some), "more may come");
        assert!(traffic.is_trim_due(some), "it is over");
        assert!(!traffic.is_trim_due(some) && !traffic.is_trim_due(some + 1));
        assert!(!traffic.is_trim_due(some + 1), "too little to matter");
    }
}
