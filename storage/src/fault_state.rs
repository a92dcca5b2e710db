//! The faults that a test requested, and the counts of what the writer thread did. The writer thread
//! reads it before every commit; `faults` sets it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::error::{FailureClass, StorageError};

/// The state behind [`Faults`](crate::Faults), which the writer thread reads.
#[derive(Default)]
pub(crate) struct FaultState {
    /// Whether `plan` requests anything: spares every commit the mutex.
    armed: AtomicBool,
    pub(crate) plan: Mutex<Plan>,
    pub(crate) changed: Condvar,
    pub(crate) jobs: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) full_commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

/// The faults that a test requested.
#[derive(Default)]
pub(crate) struct Plan {
    holds: usize,
    /// Whether the writer is waiting before a COMMIT.
    pub(crate) waiting: bool,
    pub(crate) failures: Option<(u32, FailureClass)>,
    /// Whether the writer thread panics before its next COMMIT.
    pub(crate) panics: bool,
    /// The class of the error with which the next checkpoint fails.
    pub(crate) checkpoint: Option<FailureClass>,
}

impl FaultState {
    /// Called before every COMMIT: waits while commits are held, then fails or panics if a test
    /// requested it.
    pub(crate) fn before_commit(&self) -> Result<(), StorageError> {
        if !self.armed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut plan = self.plan.lock();
        while plan.holds > 0 {
            plan.waiting = true;
            self.changed.notify_all();
            self.changed.wait(&mut plan);
        }
        plan.waiting = false;
        if std::mem::take(&mut plan.panics) {
            self.rearm(&plan);
            drop(plan);
            // Without the panic hook, because this panic is intended.
            std::panic::resume_unwind(Box::new("ordered by a test"));
        }
        let error = plan.failures.map(|(left, class)| {
            plan.failures = left.checked_sub(1).filter(|left| *left > 0).map(|left| (left, class));
            class.injected()
        });
        self.rearm(&plan);
        error.map_or(Ok(()), Err)
    }

    /// Called before every checkpoint: fails if a test requested it.
    pub(crate) fn before_checkpoint(&self) -> Result<(), StorageError> {
        match self.plan.lock().checkpoint.take() {
            Some(class) => Err(class.injected()),
            None => Ok(()),
        }
    }

    pub(crate) fn rearm(&self, plan: &Plan) {
        let is_armed = plan.holds > 0 || plan.failures.is_some() || plan.panics;
        self.armed.store(is_armed, Ordering::Relaxed);
    }

    pub(crate) fn hold(&self, change: impl FnOnce(usize) -> usize) {
        let mut plan = self.plan.lock();
        plan.holds = change(plan.holds);
        self.rearm(&plan);
        self.changed.notify_all();
    }
}
