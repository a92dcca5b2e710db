//! The thread that compacts histories in the background, one document at a time, and removes compacted
//! rows from the log in slices. It yields while the store is being written to.
//!
//! automerge cannot be interrupted, so each compaction runs on a thread of its own, which holds the
//! bytes that were read for it and nothing of the store. `close` does not wait for it: its result is
//! dropped when it is done, and the store can be opened again meanwhile.
//!
//! It decides nothing: `store::compaction` decides which document is due and which changes may be
//! compacted, and `landfall-compaction` builds the snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use landfall_compaction::{Compacted, CompactionError, CompactionLimits};
use landfall_protocol::{ChangeHash, DocumentId};
use parking_lot::{Condvar, Mutex};

use crate::clock::now_ms;
use crate::error::StoreError;
use crate::store::{
    CompactionInput, CompactionOptions, CompactionTask, DocumentRow, LocalLog, Opened, SpaceRow,
};
use crate::threads::{StoreThread, Threads};

/// The shortest wait between two searches for documents to compact.
const REST: Duration = Duration::from_secs(1);

/// A search is costly where many documents have long tails that may not be compacted yet: afterwards
/// the thread rests for this many times its duration.
const REST_FACTOR: u32 = 10;

/// The longest wait: changes reach the age for compaction without further commits.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long commits are counted before a compaction; also the pause between slices of removed rows.
const WATCH: Duration = Duration::from_millis(50);

/// From this many commits in that time on, the store counts as busy...
const BUSY_COMMITS: u64 = 8;

/// ...but compaction waits no longer than this: a store that is written all the time needs it too.
const BUSY_MOST: Duration = Duration::from_secs(5);

/// The most compactions in progress in a process, including those of stores that are closed by now: an
/// application that opens and closes a store repeatedly must not accumulate threads.
const COMPACTIONS_MOST: usize = 2;

/// How many compactions are in progress in this process.
static COMPACTIONS: AtomicUsize = AtomicUsize::new(0);

/// The approximate total of operations in documents that are compacted at close: automerge saves and
/// loads that many in half a second.
const CLOSE_OPERATIONS: u64 = 1 << 21;

/// The total of their bytes.
const CLOSE_BYTES: u64 = 16 * 1024 * 1024;

/// The most built documents that are kept until they are compacted at close: each has at least 16,384
/// operations.
const SAVED_MOST: usize = (CLOSE_OPERATIONS >> 14) as usize;

/// How many rows one transaction removes.
pub(crate) const SLICE: usize = 500;

/// The compactions since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CompactionReport {
    /// Compactions of documents; a document counts each time.
    pub(crate) documents: u64,
    /// Changes that were compacted.
    pub(crate) changes: u64,
    /// Documents that could not be compacted.
    pub(crate) failed: u64,
}

#[derive(Default)]
struct Counts {
    documents: AtomicU64,
    changes: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn add(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Compacted { changes } => {
                self.documents.fetch_add(1, Ordering::Relaxed);
                self.changes.fetch_add(*changes, Ordering::Relaxed);
            }
            Outcome::Failed => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Changed => {}
        }
    }

    fn get(&self) -> CompactionReport {
        CompactionReport {
            documents: self.documents.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

#[derive(Default)]
struct State {
    /// There was a commit since the last search.
    woken: bool,
    closed: bool,
    /// The result of the compaction in progress, once it is done.
    compacted: Option<Result<Opened, CompactionError>>,
}

#[derive(Default)]
struct CompactorState {
    state: Mutex<State>,
    wake: Condvar,
    counts: Counts,
}

impl CompactorState {
    /// Waits; `false` once it is closed.
    fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.closed && Instant::now() < deadline {
            self.wake.wait_until(&mut state, deadline);
        }
        !state.closed
    }

    /// Waits for a commit, or until it is time to search again; `false` once it is closed.
    fn next(&self) -> bool {
        let deadline = Instant::now() + LOOK_AGAIN;
        let mut state = self.state.lock();
        while !state.closed && !state.woken && Instant::now() < deadline {
            self.wake.wait_until(&mut state, deadline);
        }
        state.woken = false;
        !state.closed
    }
}

/// Builds the snapshot of a compaction.
pub(crate) type Compaction =
    dyn Fn(CompactionInput, &CompactionLimits) -> Result<Opened, CompactionError> + Send + Sync;

/// The handle of the compaction thread.
pub(crate) struct Compactor {
    shared: Arc<CompactorState>,
    options: CompactionOptions,
    thread: Mutex<Option<JoinHandle<()>>>,
    saved: Mutex<Vec<Saved>>,
}

impl Compactor {
    /// Starts the thread.
    pub(crate) fn start(
        log: LocalLog,
        options: CompactionOptions,
        threads: Arc<Threads>,
    ) -> std::io::Result<Self> {
        Self::start_with(log, options, threads, Arc::new(snapshot_of))
    }

    /// Starts the thread with another function that compacts.
    pub(crate) fn start_with(
        log: LocalLog,
        options: CompactionOptions,
        threads: Arc<Threads>,
        compaction: Arc<Compaction>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(CompactorState::default());
        // Starts with a search, for rows and tails that an earlier run left behind.
        shared.state.lock().woken = true;
        let for_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("landfall-compact".to_owned()).spawn(move || {
                let run = || run(&for_thread, &log, &options, &threads, &compaction);
                // It may panic again on the same document, so it pauses first.
                while threads.contain(StoreThread::Compact, run).is_err() && for_thread.pause(REST)
                {
                }
            })?;
        let saved = Mutex::default();
        Ok(Self { shared, options, thread: Mutex::new(Some(thread)), saved })
    }

    /// Called after a commit. Cheap; may be called on the writer thread.
    pub(crate) fn notify(&self) {
        let mut state = self.shared.state.lock();
        if !state.woken {
            state.woken = true;
            self.shared.wake.notify_all();
        }
    }

    /// The compactions since the store was opened.
    #[cfg(test)]
    pub(crate) fn compacted(&self) -> CompactionReport {
        self.shared.counts.get()
    }

    /// Keeps the saved form of a document that is not in memory, to compact it at close, within the
    /// budget of that.
    pub(crate) fn keep(&self, saved: Saved) {
        let mut kept = self.saved.lock();
        let bytes: u64 = kept.iter().map(|saved| saved.bytes.len() as u64).sum();
        if kept.len() < SAVED_MOST && bytes + saved.bytes.len() as u64 <= CLOSE_BYTES {
            kept.push(saved);
        }
    }

    /// Takes the kept documents.
    pub(crate) fn take_kept(&self) -> Vec<Saved> {
        std::mem::take(&mut self.saved.lock())
    }

    /// Begins the compactions at close.
    pub(crate) fn closing<'a>(&'a self, log: &'a LocalLog) -> Closing<'a> {
        Closing { log, options: &self.options, operations: 0, bytes: 0 }
    }

    /// Ends the thread. A compaction in progress finishes by itself, and its result is dropped.
    pub(crate) fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            // The panic hook has reported the thread's panic; closing continues.
            let _ = thread.join();
        }
    }
}

fn run(
    shared: &Arc<CompactorState>,
    log: &LocalLog,
    options: &CompactionOptions,
    threads: &Threads,
    compaction: &Arc<Compaction>,
) {
    while shared.next() {
        threads.pass(StoreThread::Compact);
        let began = Instant::now();
        if let Err(error) = round(shared, log, options, compaction) {
            tracing::warn!(%error, "cannot search for documents to compact; trying again later");
        }
        // So a search uses at most a tenth of the time, however long it takes.
        let rest = (began.elapsed() * REST_FACTOR).clamp(REST, LOOK_AGAIN);
        if !shared.pause(rest) {
            return;
        }
    }
}

/// Compacts the documents that are due, and removes dead rows.
fn round(
    shared: &Arc<CompactorState>,
    log: &LocalLog,
    options: &CompactionOptions,
    compaction: &Arc<Compaction>,
) -> Result<(), StoreError> {
    let mut done = BTreeSet::new();
    // A compaction takes a while, and other documents may be due afterwards. `done` keeps a document
    // that is still due, for example because it changed meanwhile, from being taken twice in a round.
    loop {
        if !sweep(shared, log)? {
            return Ok(());
        }
        let due = due(log, options, &done)?;
        if due.is_empty() {
            return Ok(());
        }
        for task in due {
            // Compaction competes with the application's writes for CPU and the writer, and can wait.
            if !wait_for_quiet(shared, log) {
                return Ok(());
            }
            let Some(outcome) = compact_on_thread(shared, log, &task, options.limits, compaction)?
            else {
                return Ok(());
            };
            shared.counts.add(&outcome);
            done.insert(task.row);
            // Dead rows of one document are removed before the next one is compacted, so that the file
            // does not grow by all of them first.
            if !sweep(shared, log)? {
                return Ok(());
            }
        }
    }
}

/// Removes dead rows; `false` once it is closed.
fn sweep(shared: &CompactorState, log: &LocalLog) -> Result<bool, StoreError> {
    // A read, because an empty write job would still be committed and synced.
    while log.has_dead_rows()? && log.sweep(SLICE)? {
        if !shared.pause(WATCH) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits while the store is busy; `false` once it is closed.
fn wait_for_quiet(shared: &CompactorState, log: &LocalLog) -> bool {
    let began = Instant::now();
    loop {
        let before = log.database().committed().0;
        if !shared.pause(WATCH) {
            return false;
        }
        let commits = log.database().committed().0.saturating_sub(before);
        if commits < BUSY_COMMITS || began.elapsed() > BUSY_MOST {
            return true;
        }
    }
}

/// Compacts every document that is due under `options` and removes dead rows, on the calling thread. A
/// document that cannot be compacted is counted and skipped.
pub(crate) fn compact(
    log: &LocalLog,
    options: &CompactionOptions,
) -> Result<CompactionReport, StoreError> {
    let (counts, mut done) = (Counts::default(), BTreeSet::new());
    loop {
        let due = due(log, options, &done)?;
        if due.is_empty() {
            break;
        }
        for task in due {
            counts.add(&compact_here(log, &task, &options.limits)?);
            done.insert(task.row);
        }
    }
    while log.has_dead_rows()? && log.sweep(SLICE)? {}
    Ok(counts.get())
}

/// Every document that is due, except those that this round has already taken.
fn due(
    log: &LocalLog,
    options: &CompactionOptions,
    done: &BTreeSet<DocumentRow>,
) -> Result<Vec<CompactionTask>, StoreError> {
    let mut due = Vec::new();
    for space in log.space_rows()? {
        let tasks = log.compaction_candidates(space, options, now_ms())?;
        due.extend(tasks.into_iter().filter(|task| !done.contains(&task.row)));
    }
    Ok(due)
}

enum Outcome {
    Compacted {
        changes: u64,
    },
    /// The document has changed since the compaction began.
    Changed,
    Failed,
}

/// Compacts a document on this thread.
fn compact_here(
    log: &LocalLog,
    task: &CompactionTask,
    limits: &CompactionLimits,
) -> Result<Outcome, StoreError> {
    let Some(input) = log.compaction_read(task)? else { return Ok(Outcome::Changed) };
    settle(log, task, snapshot_of(input, limits))
}

/// Compacts a document on a thread of its own; `None` once it is closed, whether or not that is done.
fn compact_on_thread(
    shared: &Arc<CompactorState>,
    log: &LocalLog,
    task: &CompactionTask,
    limits: CompactionLimits,
    build: &Arc<Compaction>,
) -> Result<Option<Outcome>, StoreError> {
    let Some(mut under_way) = UnderWay::begin(shared) else { return Ok(None) };
    let Some(input) = log.compaction_read(task)? else { return Ok(Some(Outcome::Changed)) };
    shared.state.lock().compacted = None;
    let build = Arc::clone(build);
    std::thread::Builder::new()
        .name("landfall-compaction".to_owned())
        .spawn(move || under_way.end(build(input, &limits)))
        .map_err(StoreError::of_thread)?;
    let compacted = {
        let mut state = shared.state.lock();
        loop {
            if state.closed {
                return Ok(None);
            }
            match state.compacted.take() {
                Some(compacted) => break compacted,
                None => shared.wake.wait(&mut state),
            }
        }
    };
    settle(log, task, compacted).map(Some)
}

/// A compaction of this process. Dropping it without a result counts as a failure.
struct UnderWay {
    shared: Arc<CompactorState>,
    outcome: Option<Result<Opened, CompactionError>>,
}

impl UnderWay {
    /// Waits until another one may begin; `None` once the store is closed.
    fn begin(shared: &Arc<CompactorState>) -> Option<Self> {
        let more = |now: usize| (now < COMPACTIONS_MOST).then_some(now + 1);
        while COMPACTIONS.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            if !shared.pause(WATCH) {
                return None;
            }
        }
        Some(Self { shared: Arc::clone(shared), outcome: None })
    }

    fn end(&mut self, outcome: Result<Opened, CompactionError>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        COMPACTIONS.fetch_sub(1, Ordering::AcqRel);
        let panicked = || Err(CompactionError::Panicked("outside automerge".to_owned()));
        let outcome = self.outcome.take().unwrap_or_else(panicked);
        let mut state = self.shared.state.lock();
        if !state.closed {
            state.compacted = Some(outcome);
        }
        self.shared.wake.notify_all();
    }
}

fn snapshot_of(
    input: CompactionInput,
    limits: &CompactionLimits,
) -> Result<Opened, CompactionError> {
    let snapshots: Vec<&[u8]> = input.snapshot.as_deref().into_iter().collect();
    let compacted = landfall_compaction::compact_within(&snapshots, input.changes, limits)?;
    Ok(Opened::of(compacted)?)
}

/// Installs the result of a compaction, or records why it failed.
fn settle(
    log: &LocalLog,
    task: &CompactionTask,
    compacted: Result<Opened, CompactionError>,
) -> Result<Outcome, StoreError> {
    match compacted {
        Ok(opened) => match log.compaction_commit(task, opened)? {
            true => {
                tracing::debug!(document = %task.document, changes = task.changes, "compacted");
                Ok(Outcome::Compacted { changes: task.changes })
            }
            false => Ok(Outcome::Changed),
        },
        Err(error) => {
            tracing::warn!(document = %task.document, %error, "cannot compact a document");
            log.compaction_failed(task, error.to_string())?;
            Ok(Outcome::Failed)
        }
    }
}

/// A document in automerge's saved form, which was not loaded since it was built.
pub(crate) struct Saved {
    pub(crate) key: (SpaceRow, DocumentId),
    /// Its only head.
    pub(crate) head: ChangeHash,
    pub(crate) bytes: Vec<u8>,
}

/// The compactions at close: kept and loaded documents that are due, within a budget.
pub(crate) struct Closing<'a> {
    log: &'a LocalLog,
    options: &'a CompactionOptions,
    operations: u64,
    bytes: u64,
}

impl Closing<'_> {
    /// Compacts a document if it is due. `build` receives the heads that the document must have, and
    /// returns `None` if it is not loaded at these heads. Returns `false` once the budget is used up.
    pub(crate) fn compact(
        &mut self,
        (space, document): (SpaceRow, DocumentId),
        build: impl FnOnce(
            &CompactionLimits,
            &[ChangeHash],
        ) -> Option<Result<Compacted, CompactionError>>,
    ) -> Result<bool, StoreError> {
        let task = self.log.compaction_candidate(space, &document, self.options, now_ms())?;
        let Some(task) = task.filter(|task| task.whole) else { return Ok(true) };
        if self.operations + task.operations > CLOSE_OPERATIONS
            || self.bytes + task.bytes > CLOSE_BYTES
        {
            // A smaller document may still fit the budget.
            return Ok(true);
        }
        let heads = self.log.heads(task.row)?;
        let Some(compacted) = build(&self.options.limits, &heads) else { return Ok(true) };
        self.operations += task.operations;
        self.bytes += task.bytes;
        let opened = compacted.and_then(|compacted| Ok(Opened::of(compacted)?));
        settle(self.log, &task, opened)?;
        // Removes one slice of its dead rows: the next opening removes the rest.
        self.log.sweep(SLICE)?;
        Ok(self.operations < CLOSE_OPERATIONS && self.bytes < CLOSE_BYTES)
    }
}
