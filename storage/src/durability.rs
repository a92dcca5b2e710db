//! When a commit is on disk: the two durabilities, the numbers of commits, and the watermarks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::StorageError;

/// How safe a commit is when its result is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// On disk: the WAL was fsynced first. Survives a power cut.
    Full,
    /// Committed, not yet fsynced. Survives the death of the process, not a power cut. A WAL
    /// survives as a prefix, so the next full commit makes all earlier relaxed ones durable; at the
    /// latest the database sees to it by itself after `Options::sync_idle`.
    Relaxed,
}

/// The number of a committed group, counted from 1 in each opening. 0 stands for what the file held
/// when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitNumber(pub u64);

impl fmt::Display for CommitNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a job returned, and the commit that it went into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// What the job returned.
    pub value: T,
    /// The commit of its group. On disk once `Database::synced` has reached it.
    pub number: CommitNumber,
}

type OnFailure = Arc<dyn Fn(&StorageError) + Send + Sync>;

type OnSynced = Arc<dyn Fn(CommitNumber) + Send + Sync>;

/// How far commits and fsyncs have come. Written by the writer thread only.
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

    /// Whether commits wait for an fsync.
    pub(crate) fn outstanding(&self) -> bool {
        self.synced() < self.committed()
    }

    /// Numbers a commit that just happened.
    pub(crate) fn advance(&self, synced: bool) -> CommitNumber {
        let number = self.committed.load(Ordering::Relaxed) + 1;
        self.committed.store(number, Ordering::Release);
        if synced {
            self.synced.store(number, Ordering::Release);
        }
        CommitNumber(number)
    }

    /// All that is committed is on disk, by a transaction that counts for nothing else.
    pub(crate) fn all_synced(&self) {
        self.synced.store(self.committed.load(Ordering::Relaxed), Ordering::Release);
    }

    pub(crate) fn subscribe(&self, callback: OnSynced) {
        self.on_synced.lock().push(callback);
    }

    pub(crate) fn subscribe_to_failure(&self, callback: OnFailure) {
        self.on_failure.lock().push(callback);
    }

    /// Tells the subscribers that an fsync failed.
    pub(crate) fn announce_failure(&self, error: &StorageError) {
        let callbacks = self.on_failure.lock().clone();
        for callback in callbacks {
            if catch_unwind(AssertUnwindSafe(|| callback(error))).is_err() {
                tracing::error!("a callback for a failed fsync panicked");
            }
        }
    }

    /// Tells the subscribers. No lock is held meanwhile, so that one may subscribe another.
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
