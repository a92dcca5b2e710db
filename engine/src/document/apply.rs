//! Applies received changes to open documents, beside readers and writers.
//!
//! One call of automerge costs time proportional to the document's length, however small the change
//! (`docs/decisions`). So one thread of the store applies changes in batches of all that the store has,
//! on a clone that costs a fraction of that. The wait between two applies to one document grows with
//! the cost of the last one.
//!
//! The thread never waits for a writer: a document whose writer is busy leaves the queue, and the
//! writer queues it again when it is done. A panic costs one document its step, never the thread.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::build::{Job, build};
use super::slot::Slot;
use super::{OpenDocument, swap};
use crate::threads::{StoreThread, Threads, panic_text};

/// After an apply, a document rests for this many times the cost of it...
const REST_FACTOR: u32 = 3;

/// ...but no longer than this, so that a long document still follows.
const REST_MOST: Duration = Duration::from_secs(1);

/// An apply that costs less than this needs no rest.
const REST_ABOVE: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Queue {
    /// Each document is due when its rest is over.
    waiting: VecDeque<Arc<OpenDocument>>,
    closed: bool,
}

#[derive(Default)]
struct ApplierState {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The handle of the thread that applies.
pub(crate) struct Applier {
    shared: Arc<ApplierState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Applier {
    pub(crate) fn start(threads: Arc<Threads>) -> std::io::Result<Self> {
        let shared = Arc::new(ApplierState::default());
        let for_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("landfall-apply".to_owned()).spawn(move || {
                let run = || run(&for_thread, &threads);
                while threads.contain(StoreThread::Apply, run).is_err() {}
            })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// The store has changes that this open document lacks. Never waits.
    pub(crate) fn notify(&self, document: &Arc<OpenDocument>) {
        let mut slot = document.slot.lock();
        slot.arrived = true;
        self.enqueue(document, &mut slot);
    }

    /// Queues the document, whose slot the caller holds.
    pub(super) fn enqueue(&self, document: &Arc<OpenDocument>, slot: &mut Slot) {
        if !slot.queued {
            let mut queue = self.shared.queue.lock();
            if !queue.closed {
                slot.queued = true;
                queue.waiting.push_back(Arc::clone(document));
                self.shared.wake.notify_one();
            }
        }
    }

    /// Ends the thread after its present step.
    pub(crate) fn close(&self) {
        let left = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            self.shared.wake.notify_one();
            std::mem::take(&mut queue.waiting)
        };
        drop(left);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // The panic hook has reported the thread's panic; closing continues.
            let _ = thread.join();
        }
    }
}

fn run(shared: &ApplierState, threads: &Threads) {
    while let Some(document) = next(shared, threads) {
        let started = Instant::now();
        let rest = match contained_step(&document) {
            Step::Failed => REST_MOST,
            Step::Waits => Duration::ZERO,
            Step::Done => match started.elapsed() {
                cost if cost > REST_ABOVE => (cost * REST_FACTOR).min(REST_MOST),
                _ => Duration::ZERO,
            },
        };
        *document.rests_until.lock() = Some(Instant::now() + rest);
        shared.wake.notify_one();
    }
}

/// Waits for the next document that is due.
fn next(shared: &ApplierState, threads: &Threads) -> Option<Arc<OpenDocument>> {
    let mut queue = shared.queue.lock();
    loop {
        // Before a document is taken out, so that a panic loses none.
        threads.pass(StoreThread::Apply);
        if queue.closed {
            return None;
        }
        let now = Instant::now();
        let due = |document: &Arc<OpenDocument>| document.rests_until.lock().unwrap_or(now);
        if let Some(index) = queue.waiting.iter().position(|document| due(document) <= now) {
            return queue.waiting.remove(index);
        }
        match queue.waiting.iter().map(due).min() {
            Some(due) => drop(shared.wake.wait_until(&mut queue, due)),
            None => shared.wake.wait(&mut queue),
        }
    }
}

/// How a step ended.
enum Step {
    Done,
    /// A writer is busy, and queues the document again.
    Waits,
    /// The store could not be read; the step is tried again.
    Failed,
}

/// Runs a step. A panic in it, of automerge or of the engine, counts against that document alone.
fn contained_step(document: &Arc<OpenDocument>) -> Step {
    catch_unwind(AssertUnwindSafe(|| step(document))).unwrap_or_else(|panic| {
        let reason = format!("applying received changes panicked: {}", panic_text(&*panic));
        if catch_unwind(AssertUnwindSafe(|| swap::quarantine(document, reason))).is_err() {
            tracing::error!(document = %document.id, "cannot quarantine the document");
        }
        Step::Done
    })
}

/// Applies the changes that the store has and the document lacks.
fn step(document: &Arc<OpenDocument>) -> Step {
    let done = match document.next_job() {
        Job::None => return Step::Waits,
        Job::Tell => {
            document.note_unloaded();
            true
        }
        Job::Swap => swap::retry_swap(document),
        Job::Build(base) => match build(document, base) {
            Ok(Ok(built)) => swap::try_swap(document, built),
            Ok(Err(reason)) => {
                swap::give_up(document, reason);
                true
            }
            Err(error) => {
                tracing::warn!(document = %document.id, %error, "cannot read the received changes");
                let mut slot = document.slot.lock();
                (slot.building, slot.arrived) = (None, true);
                document.context.applier.enqueue(document, &mut slot);
                return Step::Failed;
            }
        },
    };
    if done { Step::Done } else { Step::Waits }
}
