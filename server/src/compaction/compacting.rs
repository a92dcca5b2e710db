//! The relay's own compaction: finds documents that are due, compacts them, and prunes the compacted changes.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall_compaction::{JobKind, Supervisor, WorkerError};
use landfall_protocol::limits as shared;
use landfall_protocol::relay::StoreFailure;

use super::CompactorState;
use super::memory::Granted;
use super::merging::snapshot_of;
use super::queue::DocumentKey;
use super::worker::{Progress, Worker, give};
use crate::clock::now_ms;
use crate::limits;
use crate::store::{CompactionTask, StoreError};

impl Worker {
    /// Marks documents as due that an earlier version failed to compact.
    pub(super) fn retry_failed(&self) {
        if let Err(error) = self.store.retry_failed_compactions(VERSION) {
            tracing::error!(error = error.chain(), "cannot schedule failed compactions again");
        }
    }

    /// Compacts one document and prunes a few rows.
    pub(super) fn step(&self, shared: &CompactorState) -> Progress {
        let compaction = |supervisor: &Supervisor| self.compact_one(shared, supervisor);
        let compacted = self.supervisor.as_ref().map_or(Progress::Done, compaction);
        let more = self.store.prune(now_ms(), limits::PRUNE_ROWS).unwrap_or_else(|error| {
            tracing::error!(error = error.chain(), "cannot prune compacted changes");
            false
        });
        match compacted {
            Progress::Done if more => Progress::More,
            compacted => compacted,
        }
    }

    fn compact_one(&self, shared: &CompactorState, supervisor: &Supervisor) -> Progress {
        let task = match self.store.compaction_candidate(now_ms(), self.options.window) {
            Ok(Some(task)) => task,
            Ok(None) => {
                self.stop_waiting();
                return Progress::Done;
            }
            Err(error) => {
                tracing::error!(error = error.chain(), "cannot look for a document to compact");
                self.stop_waiting();
                return Progress::Done;
            }
        };
        if task.is_oversized {
            return self.note_failure(&task, "oversized", &OVERSIZED);
        }
        // Reserved before the document is held, so that a merge of the document does not also wait for
        // memory.
        let Some(_room) = self.memory_for(&task) else { return Progress::Done };
        let Some(held) = CompactionClaim::new(shared, &task) else { return Progress::Done };
        let own = Supervisor { stop: Arc::clone(&held.end), ..supervisor.clone() };
        // A stop from here on also ends this compaction, through its own flag.
        if supervisor.stop.load(Ordering::Relaxed) {
            return Progress::Done;
        }
        let began = Instant::now();
        let may_write = || {
            shared.before_compaction.get().is_some_and(|notify| notify(&task.space, task.through))
        };
        match self.compact(&own, &task, may_write) {
            Ok(Some(changes)) => {
                self.metrics.compacted("compacted", began.elapsed());
                tracing::debug!(space = %task.space, document = %task.document, changes, "compacted");
                Progress::More
            }
            Ok(None) => {
                self.metrics.compacted("overtaken", began.elapsed());
                Progress::More
            }
            // The document is skipped until it is repaired, or the relay restarts.
            Err(CompactionFailure::Store(error)) if error.failure == StoreFailure::Damaged => {
                self.note_failure_under(DAMAGED, &task, "failed", &error)
            }
            Err(CompactionFailure::Store(error)) => {
                self.metrics.compacted("failed", began.elapsed());
                tracing::error!(error = error.chain(), "cannot read or write a compaction");
                Progress::Done
            }
            // Neither error is about the document.
            Err(CompactionFailure::Worker(error)) if error.is_no_worker() => {
                self.metrics.compacted("postponed", began.elapsed());
                tracing::error!(%error, "cannot start a compaction child; retrying later");
                Progress::NoChild
            }
            Err(CompactionFailure::Worker(WorkerError::Stopped)) => {
                self.metrics.compacted("yielded", began.elapsed());
                Progress::Done
            }
            Err(CompactionFailure::Worker(error @ WorkerError::TooLarge { .. })) => {
                self.note_failure(&task, "oversized", &error)
            }
            Err(CompactionFailure::Worker(error)) => self.note_failure(&task, "failed", &error),
        }
    }

    /// Memory for reading a document and for its result: one snapshot each, one after the other. `None`: not
    /// available yet.
    fn memory_for(&self, task: &CompactionTask) -> Option<Option<Granted>> {
        let Some(memory) = &self.memory else { return Some(None) };
        let bytes = usize::try_from(task.bytes).unwrap_or(usize::MAX).min(shared::SNAPSHOT_BYTES);
        memory.take(bytes + limits::PUSH_OVERHEAD_BYTES).map(Some)
    }

    fn stop_waiting(&self) {
        if let Some(memory) = &self.memory {
            memory.leave();
        }
    }

    /// Records that a document cannot be compacted.
    fn note_failure(
        &self,
        task: &CompactionTask,
        outcome: &'static str,
        why: &dyn Display,
    ) -> Progress {
        self.note_failure_under(VERSION, task, outcome, why)
    }

    fn note_failure_under(
        &self,
        version: &str,
        task: &CompactionTask,
        outcome: &'static str,
        why: &dyn Display,
    ) -> Progress {
        self.metrics.compacted(outcome, Duration::ZERO);
        let (space, document, reason) = (&task.space, &task.document, why.to_string());
        let bytes = task.bytes;
        tracing::warn!(%space, %document, bytes, reason, "cannot compact a document; it still syncs");
        if let Err(error) = self.store.compaction_failed(task, version, &reason) {
            tracing::error!(error = error.chain(), "cannot record a failed compaction");
            return Progress::Done;
        }
        Progress::More
    }

    /// Returns the number of changes in the snapshot, or `None` if the document had changed by the time of
    /// the commit.
    pub(crate) fn compact(
        &self,
        supervisor: &Supervisor,
        task: &CompactionTask,
        may_write: impl FnOnce() -> bool,
    ) -> Result<Option<u64>, CompactionFailure> {
        let mut job = supervisor.start(JobKind::Compaction)?;
        let mut failed = None;
        let whole =
            self.store.compaction_read(task, &mut |input| give(&mut job, input, &mut failed))?;
        if let Some(error) = failed {
            // The worker's own error explains more than a broken pipe.
            return Err(CompactionFailure::Worker(job.finish().err().unwrap_or(error)));
        }
        if !whole {
            return Ok(None);
        }
        let snapshot = snapshot_of(job.finish()?)?;
        let changes = snapshot.changes;
        if !may_write() {
            return Ok(None);
        }
        Ok(self.store.compaction_commit(task, snapshot, now_ms())?.then_some(changes))
    }
}

/// A document that is being compacted: no merge of it runs meanwhile.
struct CompactionClaim<'a> {
    shared: &'a CompactorState,
    place: DocumentKey,
    /// Set when the compaction is to end.
    end: Arc<AtomicBool>,
}

impl<'a> CompactionClaim<'a> {
    /// `None` while a merge of the document runs.
    fn new(shared: &'a CompactorState, task: &CompactionTask) -> Option<Self> {
        let place = (task.space.clone(), task.document);
        let end = shared.queue.lock().hold(&place)?;
        Some(Self { shared, place, end })
    }
}

impl Drop for CompactionClaim<'_> {
    fn drop(&mut self) {
        self.shared.queue.lock().release(&self.place);
        self.shared.wake.notify_one();
    }
}

/// The reason recorded for a document whose compaction is not attempted.
const OVERSIZED: &str = "its snapshot would exceed the limit; its changes stay uncompacted";

/// The version recorded for failures caused by damage: it differs from every version, so they are retried at
/// the next start, and after a repair.
const DAMAGED: &str = "damaged";

/// The version recorded for a failed compaction.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) enum CompactionFailure {
    Store(StoreError),
    Worker(WorkerError),
}

impl From<StoreError> for CompactionFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<WorkerError> for CompactionFailure {
    fn from(error: WorkerError) -> Self {
        Self::Worker(error)
    }
}
