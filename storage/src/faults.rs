//! Fault injection for the tests of this crate and of the crates that use it.
//!
//! Always compiled, so that the tested code is the shipped code. While no fault is set, it costs one
//! relaxed atomic load per commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::error::{FailureClass, StorageError};
use crate::fault_state::FaultState;
use crate::schema::pragma_i64;
use crate::shared::Core;

/// SQLite's default limit.
const NO_PAGE_LIMIT: u32 = 0xffff_fffe;

/// Counts of events since the database was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Jobs that ran, successfully or not.
    pub jobs: u64,
    /// Groups committed.
    pub commits: u64,
    /// Those among `commits` that were fsynced.
    pub full_commits: u64,
    /// Small transactions that the database made only to sync. Not included in `commits`.
    pub syncs: u64,
}

/// Injects faults into a database, for tests. From [`Database::faults`](crate::Database::faults).
pub struct Faults {
    core: Arc<Core>,
}

impl Faults {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Makes every COMMIT wait until the returned guard is dropped: the group's jobs have run, but
    /// nothing is committed. Drop the guard before calling `close`, `pragmas` or `limit_pages`, which
    /// wait for the commit.
    #[must_use = "commits continue as soon as the guard is dropped"]
    pub fn hold_commits(&self) -> CommitHold {
        self.state().hold(|holds| holds + 1);
        CommitHold { core: Arc::clone(&self.core) }
    }

    /// Makes the next `count` commits fail with an error of this class, including those that the
    /// database makes by itself. 0 cancels an earlier request.
    pub fn fail_next_commits(&self, count: u32, class: FailureClass) {
        let state = self.state();
        let mut plan = state.plan.lock();
        plan.failures = (count > 0).then_some((count, class));
        state.rearm(&plan);
    }

    /// Makes the writer thread panic before its next COMMIT, once its jobs have run.
    pub fn panic_at_next_commit(&self) {
        let state = self.state();
        let mut plan = state.plan.lock();
        plan.panics = true;
        state.rearm(&plan);
    }

    /// Makes the next checkpoint fail with an error of this class. The next checkpoint follows the
    /// first commit that finds a long WAL, after its result is delivered.
    pub fn fail_next_checkpoint(&self, class: FailureClass) {
        self.state().plan.lock().checkpoint = Some(class);
    }

    /// Limits the file to so many pages and returns the previous limit. This makes SQLite's own code
    /// report a full disk. A limit below the current size stops all growth; `None` removes the limit.
    ///
    /// # Errors
    /// The database is closed or was opened read-only, or SQLite's own error.
    pub fn limit_pages(&self, limit: Option<u32>) -> Result<Option<u32>, StorageError> {
        self.core.with_writing_connection(|conn| {
            let before = pragma_i64(conn, "max_page_count")?;
            // The pragma never goes below the current size.
            let wanted = limit.unwrap_or(NO_PAGE_LIMIT).max(1);
            conn.pragma_update_and_check(None, "max_page_count", wanted, |_| Ok(()))?;
            let before = u32::try_from(before).unwrap_or(NO_PAGE_LIMIT);
            Ok((before != NO_PAGE_LIMIT).then_some(before))
        })
    }

    /// The counts so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let state = self.state();
        Counters {
            jobs: state.jobs.load(Ordering::Acquire),
            commits: state.commits.load(Ordering::Acquire),
            full_commits: state.full_commits.load(Ordering::Acquire),
            syncs: state.syncs.load(Ordering::Acquire),
        }
    }

    fn state(&self) -> &FaultState {
        &self.core.faults
    }
}

/// Holds commits until dropped. From [`Faults::hold_commits`].
#[must_use = "commits continue as soon as the guard is dropped"]
pub struct CommitHold {
    core: Arc<Core>,
}

impl CommitHold {
    /// Waits until the writer has run a group's jobs and waits before the COMMIT. `false` if that did
    /// not happen within `timeout`.
    #[must_use]
    pub fn wait_reached(&self, timeout: Duration) -> bool {
        let state = &self.core.faults;
        let deadline = Instant::now() + timeout;
        let mut plan = state.plan.lock();
        while !plan.waiting {
            if state.changed.wait_until(&mut plan, deadline).timed_out() {
                return plan.waiting;
            }
        }
        true
    }
}

impl Drop for CommitHold {
    fn drop(&mut self) {
        self.core.faults.hold(|holds| holds.saturating_sub(1));
    }
}
