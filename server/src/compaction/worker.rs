//! The work of one thread; an operator's command runs it without the thread.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_compaction::{Job, Supervisor, WorkerError};
use landfall_protocol::{DocumentId, SpaceName};

use super::memory::CompactionMemory;
use super::queue::{Claim, Next};
use super::{CompactionOptions, CompactorState, MergeError, MergeOutcome, Merged, Work};
use crate::limits;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::store::{CompactionInput, LogStore, StoreError};

/// The state of a thread, or of an operator's command on a thread of its own.
pub(crate) struct Worker {
    pub(super) store: Arc<dyn LogStore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) supervisor: Option<Supervisor>,
    pub(super) options: CompactionOptions,
    /// A relay's memory budget. An operator's command has no budget.
    pub(super) memory: Option<CompactionMemory>,
}

impl Worker {
    /// Over a store, with the worker in the options.
    pub(crate) fn new(
        store: Arc<dyn LogStore>,
        metrics: Arc<Metrics>,
        options: CompactionOptions,
    ) -> Self {
        let supervisor = options.worker.clone().map(|command| Supervisor {
            command,
            memory_bytes: options.memory_bytes,
            time: options.time,
            snapshot_bytes: options.window.snapshot_bytes,
            stop: Arc::default(),
        });
        Self { store, metrics, supervisor, options, memory: None }
    }

    /// The same, with memory for its own compactions reserved from a relay's budget.
    pub(super) fn within(self, memory: Memory) -> Self {
        Self { memory: Some(CompactionMemory::new(memory)), ..self }
    }

    /// The supervisor that starts children, if a worker is configured.
    pub(crate) fn supervisor(&self) -> Option<&Supervisor> {
        self.supervisor.as_ref()
    }

    /// Works until the queue is closed.
    pub(super) fn run(&self, shared: &CompactorState) {
        let mut pause = None;
        while let Some(next) = next(shared) {
            match next {
                Next::Job(claim, work) => {
                    let _busy = Busy { shared, claim };
                    match work {
                        Work::Merge(upload, done) => {
                            let (place, part) = ((&upload.space, &upload.document), &upload.bytes);
                            let is_repaired =
                                self.repair_from(shared, place, std::slice::from_ref(part));
                            done(checked_outcome(is_repaired, self.merge(&upload)));
                        }
                        Work::Absorb(chunks, done) => {
                            let place = (&chunks.space, &chunks.document);
                            let is_repaired = self.repair_from(shared, place, &chunks.parts);
                            done(checked_outcome(is_repaired, self.absorb(&chunks)));
                        }
                        Work::Rebuild(space, document, done) => {
                            done(self.rebuild(&space, &document));
                        }
                    }
                }
                Next::Look => {
                    let looked = self.step(shared);
                    pause = matches!(looked, Progress::NoChild).then(|| longer(pause));
                    let rest = match looked {
                        Progress::More => Duration::ZERO,
                        Progress::Done | Progress::NoChild => pause.unwrap_or(self.options.every),
                    };
                    shared.queue.lock().looked(Instant::now() + rest);
                    shared.wake.notify_one();
                }
            }
        }
    }

    pub(crate) fn rebuild(&self, space: &SpaceName, document: &DocumentId) -> bool {
        let Some(supervisor) = &self.supervisor else { return false };
        let mut base = None;
        let read = self.store.document_bases(space, document, &mut |input| {
            if let CompactionInput::Base(bytes) = input {
                base = Some(bytes);
            }
            ControlFlow::Break(())
        });
        let (Ok(_), Some(body)) = (read, base) else { return false };
        let hash = landfall_compaction::hash_of(&body);
        let made = supervisor.inspect(&body, hash).map_err(|error| error.to_string());
        let stored = made.and_then(|compacted| {
            let stored = self.store.store_index(space, document, &hash, compacted.index);
            stored.map_err(|error| error.chain())
        });
        if let Err(reason) = &stored {
            tracing::error!(%space, %document, reason, "cannot rebuild a damaged index");
        }
        stored.unwrap_or(false)
    }
}

/// "Nothing new" acknowledges that the store has everything uploaded. For a damaged document that is only
/// known if the upload was compared with the stored bytes; else the result is `doubted`.
fn checked_outcome(
    is_repaired: bool,
    brought: Result<MergeOutcome, MergeError>,
) -> Result<MergeOutcome, MergeError> {
    match brought {
        Ok(MergeOutcome::Merged(Merged::Nothing)) if !is_repaired => {
            Err(MergeError::Store(StoreError::doubted()))
        }
        brought => brought,
    }
}

/// A running job's claim, returned on drop: another job may wait for it.
struct Busy<'a> {
    shared: &'a CompactorState,
    claim: Claim,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.shared.queue.lock().done(&self.claim);
        self.shared.wake.notify_one();
    }
}

/// The result of a look for documents to compact or rows to prune.
pub(super) enum Progress {
    /// There may be more to do immediately.
    More,
    /// Nothing for now.
    Done,
    /// No child could be started: no file handles, no processes, no program.
    NoChild,
}

/// The pause before the next attempt to start a child, after a pause of `pause`.
fn longer(pause: Option<Duration>) -> Duration {
    pause.map_or(limits::SPAWN_PAUSE, |last| (2 * last).min(limits::LONGEST_SPAWN_PAUSE))
}

/// Passes an input to a child; keeps its error.
pub(super) fn give(
    job: &mut Job,
    input: CompactionInput,
    failed: &mut Option<WorkerError>,
) -> ControlFlow<()> {
    let given = match &input {
        CompactionInput::Base(snapshot) => job.base(snapshot),
        CompactionInput::Change(change) => job.change(change),
    };
    match given {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *failed = Some(error);
            ControlFlow::Break(())
        }
    }
}

/// Waits for a job, or for the time to look; `None` when the queue is closed.
fn next(shared: &CompactorState) -> Option<Next<Work>> {
    let mut queue = shared.queue.lock();
    loop {
        if queue.is_closed() {
            return None;
        }
        let until = match queue.next(Instant::now()) {
            Ok(next) => return Some(next),
            Err(until) => until,
        };
        match until {
            Some(until) => drop(shared.wake.wait_until(&mut queue, until)),
            None => shared.wake.wait(&mut queue),
        }
    }
}
