//! When commits reach the disk: the two durability levels, commit numbers, and the watermarks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::StorageError;

/// How safe a commit is when its result is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// On disk: the WAL was fsynced first. Survives a power cut.
    Full,
    /// Committed, not yet fsynced. Survives a crash of the process, but not a power cut. The WAL
    /// survives as a prefix, so the next full commit makes all earlier relaxed ones durable. If there
    /// is none, the database syncs by itself after `Options::sync_idle`.
    Relaxed,
}

/// The number of a committed group, counted from 1 at each opening. 0 stands for the content that the
/// file had when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitNumber(pub u64);

impl fmt::Display for CommitNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The value that a job returned, and the number of its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// The value that the job returned.
    pub value: T,
    /// The number of the group's commit. It is on disk once `Database::synced` has reached it.
    pub number: CommitNumber,
}

type OnFailure = Arc<dyn Fn(&StorageError) + Send + Sync>;

type OnSynced = Arc<dyn Fn(CommitNumber) + Send + Sync>;

/// The watermarks of commits and fsyncs. Only the writer thread writes them.
#[derive(Default)]
pub(crate) struct Progress {
    committed: AtomicU64,
    synced: AtomicU64,
    on_synced: Mutex<Vec<OnSynced>>,
    on_failure: Mutex<Vec<OnFailure>>,
}

impl Progress {
    pub(crate) fn committed(&self) -> CommitNumber {
        CommitNumber(self.committed.load(Ordering::Acquire))
    }

    pub(crate) fn synced(&self) -> CommitNumber {
        CommitNumber(self.synced.load(Ordering::Acquire))
    }

    /// Whether there are commits without an fsync.
    pub(crate) fn outstanding(&self) -> bool {
        self.synced() < self.committed()
    }

    /// Assigns the next number to a commit that just succeeded.
    pub(crate) fn advance(&self, synced: bool) -> CommitNumber {
        let number = self.committed.load(Ordering::Relaxed) + 1;
        self.committed.store(number, Ordering::Release);
        if synced {
            self.synced.store(number, Ordering::Release);
        }
        CommitNumber(number)
    }

    /// Marks all commits as fsynced, after a transaction made only for that, which gets no number.
    pub(crate) fn all_synced(&self) {
        self.synced.store(self.committed.load(Ordering::Relaxed), Ordering::Release);
    }

    pub(crate) fn subscribe(&self, callback: OnSynced) {
        self.on_synced.lock().push(callback);
    }

    pub(crate) fn subscribe_to_failure(&self, callback: OnFailure) {
        self.on_failure.lock().push(callback);
    }

    /// Calls the subscribers after a failed fsync.
    pub(crate) fn announce_failure(&self, error: &StorageError) {
        let callbacks = self.on_failure.lock().clone();
        for callback in callbacks {
            if catch_unwind(AssertUnwindSafe(|| callback(error))).is_err() {
                tracing::error!("a callback for a failed fsync panicked");
            }
        }
    }

    /// Calls the subscribers. No lock is held meanwhile, so a callback may add another subscriber.
    pub(crate) fn announce(&self) {
        let callbacks = self.on_synced.lock().clone();
        let number = self.synced();
        for callback in callbacks {
            if catch_unwind(AssertUnwindSafe(|| callback(number))).is_err() {
                tracing::error!(%number, "a callback for synced commits panicked");
            }
        }
    }
}
