//! The thread that folds histories in the background, one document at a time, and removes what is
//! folded from the log in slices. It gives way while the store is being written to.
//!
//! automerge cannot be interrupted, so each fold runs on a thread of its own, which holds the bytes
//! that were read for it and nothing of the store. At close nobody waits for it: its result is
//! dropped when it is done, and the store can be opened again meanwhile.
//!
//! It decides nothing: which document is due and what of it may be folded is the store's
//! (`store::folding`), and folding itself is `landfall-fold`'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use landfall_fold::{FoldError, FoldLimits, Folded};
use landfall_protocol::{ChangeHash, DocumentId};
use parking_lot::{Condvar, Mutex};

use crate::error::StoreError;
use crate::store::{DocumentRow, FoldInput, FoldOptions, FoldTask, LocalLog, Opened, SpaceRow};
use crate::threads::{StoreThread, Threads};

/// The shortest wait between two looks for something to fold.
const REST: Duration = Duration::from_secs(1);

/// A look costs something where many documents wait to be folded and may not yet: after it the
/// thread rests for so many times what it took.
const REST_FACTOR: u32 = 10;

/// The longest: what is too young to be folded grows older without anybody writing.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long the store is watched before a fold; and a pause between slices of removed rows.
const WATCH: Duration = Duration::from_millis(50);

/// So many commits in that time and it is busy...
const BUSY_COMMITS: u64 = 8;

/// ...but not for longer than this: somebody who always writes gets a shorter log too.
const BUSY_MOST: Duration = Duration::from_secs(5);

/// Folds that may be under way in a process, those of stores that are closed by now among them: an
/// application that opens and closes a store again and again must not gather threads.
const FOLDS_MOST: usize = 2;

/// How many folds are under way in this process.
static FOLDS: AtomicUsize = AtomicUsize::new(0);

/// Operations of the documents that are folded at close, about, all together: what automerge saves
/// and loads in half a second.
const CLOSE_OPERATIONS: u64 = 1 << 21;

/// Their bytes.
const CLOSE_BYTES: u64 = 16 * 1024 * 1024;

/// Documents that are kept for their folds at close: each has 16,384 operations at least.
const SAVED_MOST: usize = (CLOSE_OPERATIONS >> 14) as usize;

/// Rows that are removed in one transaction.
pub(crate) const SLICE: usize = 500;

/// What was folded since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Documents of which something was folded, as often as it was.
    pub(crate) documents: u64,
    /// Changes that were folded.
    pub(crate) changes: u64,
    /// Documents that could not be folded.
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
            Outcome::Folded { changes } => {
                self.documents.fetch_add(1, Ordering::Relaxed);
                self.changes.fetch_add(*changes, Ordering::Relaxed);
            }
            Outcome::Failed => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Changed => {}
        }
    }

    fn get(&self) -> Compacted {
        Compacted {
            documents: self.documents.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

#[derive(Default)]
struct State {
    /// Something was committed since the last look.
    woken: bool,
    closed: bool,
    /// What the fold under way came to, once it is done.
    folded: Option<Result<Opened, FoldError>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    counts: Counts,
}

impl Shared {
    /// Waits, unless it is closed; `false` once it is.
    fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.closed && Instant::now() < deadline {
            self.wake.wait_until(&mut state, deadline);
        }
        !state.closed
    }

    /// Waits for a commit, or until it is time to look again; `false` once it is closed.
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

/// What folds.
pub(crate) type Fold = dyn Fn(FoldInput, &FoldLimits) -> Result<Opened, FoldError> + Send + Sync;

/// The thread that folds.
pub(crate) struct Compactor {
    shared: Arc<Shared>,
    options: FoldOptions,
    thread: Mutex<Option<JoinHandle<()>>>,
    saved: Mutex<Vec<Saved>>,
}

impl Compactor {
    /// Starts the thread.
    pub(crate) fn start(
        log: LocalLog,
        options: FoldOptions,
        threads: Arc<Threads>,
    ) -> std::io::Result<Self> {
        Self::start_with(log, options, threads, Arc::new(fold))
    }

    /// Starts the thread with something else that folds.
    pub(crate) fn start_with(
        log: LocalLog,
        options: FoldOptions,
        threads: Arc<Threads>,
        fold: Arc<Fold>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        // What an earlier run left behind is looked at first.
        shared.state.lock().woken = true;
        let for_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("landfall-compact".to_owned()).spawn(move || {
                let run = || run(&for_thread, &log, &options, &threads, &fold);
                // Where it panicked once it may again: not at once.
                while threads.contain(StoreThread::Compact, run).is_err() && for_thread.pause(REST)
                {
                }
            })?;
        let saved = Mutex::default();
        Ok(Self { shared, options, thread: Mutex::new(Some(thread)), saved })
    }

    /// Something was committed. Cheap; may be called on the writer thread.
    pub(crate) fn notify(&self) {
        let mut state = self.shared.state.lock();
        if !state.woken {
            state.woken = true;
            self.shared.wake.notify_all();
        }
    }

    /// What was folded since the store was opened.
    #[cfg(test)]
    pub(crate) fn compacted(&self) -> Compacted {
        self.shared.counts.get()
    }

    /// Keeps what a document that is not in memory is saved as, for its fold at close: unless that is
    /// more than is folded then.
    pub(crate) fn keep(&self, saved: Saved) {
        let mut kept = self.saved.lock();
        let bytes: u64 = kept.iter().map(|saved| saved.bytes.len() as u64).sum();
        if kept.len() < SAVED_MOST && bytes + saved.bytes.len() as u64 <= CLOSE_BYTES {
            kept.push(saved);
        }
    }

    /// What was kept.
    pub(crate) fn take_kept(&self) -> Vec<Saved> {
        std::mem::take(&mut self.saved.lock())
    }

    /// Begins what is folded at close.
    pub(crate) fn closing<'a>(&'a self, log: &'a LocalLog) -> Closing<'a> {
        Closing { log, options: &self.options, operations: 0, bytes: 0 }
    }

    /// Ends the thread. A fold under way is left alone, and what it comes to is dropped.
    pub(crate) fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there was told by the panic hook; closing goes on.
            let _ = thread.join();
        }
    }
}

fn run(
    shared: &Arc<Shared>,
    log: &LocalLog,
    options: &FoldOptions,
    threads: &Threads,
    fold: &Arc<Fold>,
) {
    while shared.next() {
        threads.pass(StoreThread::Compact);
        let began = Instant::now();
        if let Err(error) = round(shared, log, options, fold) {
            tracing::warn!(%error, "compaction could not go on");
        }
        let rest = (began.elapsed() * REST_FACTOR).clamp(REST, LOOK_AGAIN);
        if !shared.pause(rest) {
            return;
        }
    }
}

/// Folds what is due, and removes what is dead.
fn round(
    shared: &Arc<Shared>,
    log: &LocalLog,
    options: &FoldOptions,
    fold: &Arc<Fold>,
) -> Result<(), StoreError> {
    let mut done = BTreeSet::new();
    loop {
        if !sweep(shared, log)? {
            return Ok(());
        }
        let due = due(log, options, &done)?;
        if due.is_empty() {
            return Ok(());
        }
        for task in due {
            if !wait_for_quiet(shared, log) {
                return Ok(());
            }
            let Some(outcome) = fold_apart(shared, log, &task, options.limits, fold)? else {
                return Ok(());
            };
            shared.counts.add(&outcome);
            done.insert(task.row);
            if !sweep(shared, log)? {
                return Ok(());
            }
        }
    }
}

/// Removes what is dead; `false` once it is closed.
fn sweep(shared: &Shared, log: &LocalLog) -> Result<bool, StoreError> {
    // Asked first: a job that removes nothing would be committed and synced all the same.
    while log.has_dead_rows()? && log.sweep(SLICE)? {
        if !shared.pause(WATCH) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives way to those who write; `false` once it is closed.
fn wait_for_quiet(shared: &Shared, log: &LocalLog) -> bool {
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

/// Folds all that may be folded and removes what is dead, on this thread, for somebody who asked
/// for it. A document that cannot be folded is counted and passed over.
pub(crate) fn compact(log: &LocalLog, options: &FoldOptions) -> Result<Compacted, StoreError> {
    let (counts, mut done) = (Counts::default(), BTreeSet::new());
    loop {
        let due = due(log, options, &done)?;
        if due.is_empty() {
            break;
        }
        for task in due {
            counts.add(&fold_here(log, &task, &options.limits)?);
            done.insert(task.row);
        }
    }
    while log.has_dead_rows()? && log.sweep(SLICE)? {}
    Ok(counts.get())
}

/// Everything that is due, but for documents that this round has looked at.
fn due(
    log: &LocalLog,
    options: &FoldOptions,
    done: &BTreeSet<DocumentRow>,
) -> Result<Vec<FoldTask>, StoreError> {
    let mut due = Vec::new();
    for space in log.space_rows()? {
        let tasks = log.fold_candidates(space, options, now_ms())?;
        due.extend(tasks.into_iter().filter(|task| !done.contains(&task.row)));
    }
    Ok(due)
}

enum Outcome {
    Folded {
        changes: u64,
    },
    /// The document is not what it was when the fold began.
    Changed,
    Failed,
}

/// Folds a document on this thread.
fn fold_here(log: &LocalLog, task: &FoldTask, limits: &FoldLimits) -> Result<Outcome, StoreError> {
    let Some(input) = log.fold_read(task)? else { return Ok(Outcome::Changed) };
    settle(log, task, fold(input, limits))
}

/// Folds a document on a thread of its own; `None` once it is closed, whether or not that is done.
fn fold_apart(
    shared: &Arc<Shared>,
    log: &LocalLog,
    task: &FoldTask,
    limits: FoldLimits,
    fold: &Arc<Fold>,
) -> Result<Option<Outcome>, StoreError> {
    let Some(mut under_way) = UnderWay::begin(shared) else { return Ok(None) };
    let Some(input) = log.fold_read(task)? else { return Ok(Some(Outcome::Changed)) };
    shared.state.lock().folded = None;
    let fold = Arc::clone(fold);
    std::thread::Builder::new()
        .name("landfall-fold".to_owned())
        .spawn(move || under_way.end(fold(input, &limits)))
        .map_err(StoreError::of_thread)?;
    let folded = {
        let mut state = shared.state.lock();
        loop {
            if state.closed {
                return Ok(None);
            }
            match state.folded.take() {
                Some(folded) => break folded,
                None => shared.wake.wait(&mut state),
            }
        }
    };
    settle(log, task, folded).map(Some)
}

/// A fold of this process. Dropped, it counts as one that ended badly.
struct UnderWay {
    shared: Arc<Shared>,
    outcome: Option<Result<Opened, FoldError>>,
}

impl UnderWay {
    /// Waits until another one may begin; `None` once the store is closed.
    fn begin(shared: &Arc<Shared>) -> Option<Self> {
        let more = |now: usize| (now < FOLDS_MOST).then_some(now + 1);
        while FOLDS.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            if !shared.pause(WATCH) {
                return None;
            }
        }
        Some(Self { shared: Arc::clone(shared), outcome: None })
    }

    fn end(&mut self, outcome: Result<Opened, FoldError>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        FOLDS.fetch_sub(1, Ordering::AcqRel);
        let panicked = || Err(FoldError::Panicked("outside automerge".to_owned()));
        let outcome = self.outcome.take().unwrap_or_else(panicked);
        let mut state = self.shared.state.lock();
        if !state.closed {
            state.folded = Some(outcome);
        }
        self.shared.wake.notify_all();
    }
}

fn fold(input: FoldInput, limits: &FoldLimits) -> Result<Opened, FoldError> {
    let snapshots: Vec<&[u8]> = input.snapshot.as_deref().into_iter().collect();
    let folded = landfall_fold::fold_within(&snapshots, input.changes, limits)?;
    Ok(Opened::of(folded)?)
}

/// Puts what a fold came to in place, or notes why it failed.
fn settle(
    log: &LocalLog,
    task: &FoldTask,
    folded: Result<Opened, FoldError>,
) -> Result<Outcome, StoreError> {
    match folded {
        Ok(opened) => match log.fold_commit(task, opened)? {
            true => {
                tracing::debug!(document = %task.document, changes = task.changes, "folded");
                Ok(Outcome::Folded { changes: task.changes })
            }
            false => Ok(Outcome::Changed),
        },
        Err(error) => {
            tracing::warn!(document = %task.document, %error, "a document could not be folded");
            log.fold_failed(task, error.to_string())?;
            Ok(Outcome::Failed)
        }
    }
}

/// A document as automerge saves it, which nobody has loaded yet.
pub(crate) struct Saved {
    pub(crate) key: (SpaceRow, DocumentId),
    /// Its only head.
    pub(crate) head: ChangeHash,
    pub(crate) bytes: Vec<u8>,
}

/// What is folded at close: documents that are loaded, of which a fold is due, while that is cheap.
pub(crate) struct Closing<'a> {
    log: &'a LocalLog,
    options: &'a FoldOptions,
    operations: u64,
    bytes: u64,
}

impl Closing<'_> {
    /// Folds a document if that is due. `fold` is given the heads that the document must have, and
    /// gives nothing if it is not loaded as that. False once enough was done.
    pub(crate) fn fold(
        &mut self,
        (space, document): (SpaceRow, DocumentId),
        fold: impl FnOnce(&FoldLimits, &[ChangeHash]) -> Option<Result<Folded, FoldError>>,
    ) -> Result<bool, StoreError> {
        let task = self.log.fold_candidate(space, &document, self.options, now_ms())?;
        let Some(task) = task.filter(|task| task.whole) else { return Ok(true) };
        if self.operations + task.operations > CLOSE_OPERATIONS
            || self.bytes + task.bytes > CLOSE_BYTES
        {
            // A smaller one may still be cheap.
            return Ok(true);
        }
        let heads = self.log.heads(task.row)?;
        let Some(folded) = fold(&self.options.limits, &heads) else { return Ok(true) };
        self.operations += task.operations;
        self.bytes += task.bytes;
        let opened = folded.and_then(|folded| Ok(Opened::of(folded)?));
        settle(self.log, &task, opened)?;
        // The rows that it made dead: the rest is removed when the store is opened again.
        self.log.sweep(SLICE)?;
        Ok(self.operations < CLOSE_OPERATIONS && self.bytes < CLOSE_BYTES)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
