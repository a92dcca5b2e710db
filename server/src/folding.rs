//! The relay's folds: one thread that finds documents whose history is worth folding, has a child
//! process fold them, and puts the snapshot in their place; and that merges a snapshot which a
//! client offers with what there is.
//!
//! It never builds a document itself, and nobody waits for it but the one document that it is
//! at: a child that dies costs its fold and nothing else.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use landfall_fold::{Absorbed, Folded, Job, JobKind, News, Supervisor, WorkerError};
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::snapshot::Snapshot;
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Offset, SpaceName};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::limits;
use crate::metrics::Metrics;
use crate::store::{FoldInput, FoldTask, FoldWindow, LogStore, StoreError};

/// How a relay folds.
#[derive(Debug, Clone)]
pub struct FoldOptions {
    /// The command line of the child that folds; it is to call `landfall_fold::worker::main`.
    /// `None`: nothing is folded, and no folded history is taken from clients.
    pub worker: Option<Vec<OsString>>,
    /// Bytes of memory that a child may have. Default 1 GiB. Too small, and long documents stay
    /// unfolded; they still sync.
    pub memory_bytes: u64,
    /// How long one fold may take. Default 60 s.
    pub time: Duration,
    /// The youngest entries of a log, which are not folded. See
    /// [`RECENT_ENTRIES`](landfall_protocol::limits::RECENT_ENTRIES).
    pub window: FoldWindow,
    /// How often the store is asked for a document that is worth a fold. Default 1 s.
    pub every: Duration,
}

impl Default for FoldOptions {
    fn default() -> Self {
        Self {
            worker: None,
            memory_bytes: limits::FOLD_MEMORY_BYTES,
            time: limits::FOLD_TIME,
            window: FoldWindow::default(),
            every: limits::FOLD_EVERY,
        }
    }
}

/// What became of an offered snapshot.
pub(crate) enum Merged {
    /// Everything in it was there already.
    Nothing,
    /// This stands for what was there and what was offered.
    Snapshot(Arc<Snapshot>),
}

/// What came of something that had to be opened.
pub(crate) enum Brought {
    /// It is merged.
    Merged(Merged),
    /// It is not, but these changes of it are new, and are to be pushed in this order.
    Changes(Vec<CheckedChange>),
    /// The same of an offered snapshot: together with what there is it would exceed what one may
    /// have.
    Apart(Vec<CheckedChange>),
}

/// Why an offered snapshot was not merged.
pub(crate) enum MergeError {
    /// There is no worker.
    NoWorker,
    /// The worker did not take it.
    Worker(WorkerError),
    /// The store could not be read.
    Store(StoreError),
    /// It has nothing in common with what is there.
    Unrelated,
    /// The document was folded by somebody else meanwhile.
    Overtaken,
}

/// A snapshot that a client offers, whole.
pub(crate) struct Offer {
    pub(crate) space: SpaceName,
    pub(crate) document: DocumentId,
    pub(crate) hash: [u8; 32],
    pub(crate) heads: Vec<ChangeHash>,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// A document as an automerge-repo peer has it.
pub(crate) struct Chunks {
    pub(crate) space: SpaceName,
    pub(crate) document: DocumentId,
    /// In each any number of chunks, of any type.
    pub(crate) parts: Vec<Arc<Vec<u8>>>,
}

type MergeDone = Box<dyn FnOnce(Result<Brought, MergeError>) + Send>;

enum Work {
    Merge(Offer, MergeDone),
    Absorb(Chunks, MergeDone),
    /// The packed index of this document is damaged.
    Rebuild(SpaceName, DocumentId, Box<dyn FnOnce(bool) + Send>),
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    closed: bool,
}

/// Told before each fold is written: the space, and how far its log will be folded. It waits until
/// nobody is fed single entries of that any more except from the store: a session that comes from
/// the store must meet the snapshot there, and not be led past it. False if that cannot be had.
type BeforeFold = Box<dyn Fn(&SpaceName, Offset) -> bool + Send + Sync>;

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    before_fold: OnceLock<BeforeFold>,
}

/// The thread that folds.
pub(crate) struct Folder {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Ends the child that is at work.
    stop: Arc<AtomicBool>,
}

impl Folder {
    /// Takes snapshots apart that exceed the limit, and starts the thread. Nothing else may write to
    /// the store before it returns. The receiver completes when the thread ends: before
    /// [`close`](Self::close) only by a bug.
    pub(crate) fn start(
        store: Arc<dyn LogStore>,
        metrics: Arc<Metrics>,
        options: FoldOptions,
    ) -> std::io::Result<(Arc<Self>, oneshot::Receiver<()>)> {
        let shared = Arc::new(Shared::default());
        let worker = Worker::new(store, metrics, options);
        let for_thread = Arc::clone(&shared);
        worker.heal_oversized();
        let stop = worker.supervisor().map_or_else(Arc::default, |s| Arc::clone(&s.stop));
        let (running, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("fold".to_owned()).spawn(move || {
            // Dropped when the thread ends, also by a panic.
            let _running = running;
            worker.run(&for_thread);
        })?;
        Ok((Arc::new(Self { shared, thread: Mutex::new(Some(thread)), stop }), ended))
    }

    /// Has somebody told before each fold is written, from now on.
    pub(crate) fn before_fold(&self, told: BeforeFold) {
        // Set once, when the relay starts.
        let _ = self.shared.before_fold.set(told);
    }

    /// Has an offered snapshot merged with what there is. `done` is called on the thread that
    /// folds.
    pub(crate) fn merge(&self, offer: Offer, done: MergeDone) {
        self.add(Work::Merge(offer, done));
    }

    /// Has a stranger's chunks merged with what there is: all of them, or nothing. `done` is called
    /// on the thread that folds.
    pub(crate) fn absorb(&self, chunks: Chunks, done: MergeDone) {
        self.add(Work::Absorb(chunks, done));
    }

    /// Has a packed index made anew from its snapshot; `done` says whether that worked.
    pub(crate) fn rebuild(
        &self,
        space: SpaceName,
        document: DocumentId,
        done: Box<dyn FnOnce(bool) + Send>,
    ) {
        self.add(Work::Rebuild(space, document, done));
    }

    fn add(&self, work: Work) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return;
        }
        queue.work.push_back(work);
        self.shared.wake.notify_one();
    }

    /// Ends the child that is at work, and has none started any more: it may have minutes to go,
    /// and the relay stops. What waits is answered so.
    pub(crate) fn end_jobs(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the thread after what it is at.
    pub(crate) fn close(&self) {
        self.end_jobs();
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic there was told by the panic hook; the relay stops all the same.
            let _ = thread.join();
        }
    }
}

/// What the thread works with; and an operator's command, on a thread of its own.
pub(crate) struct Worker {
    store: Arc<dyn LogStore>,
    metrics: Arc<Metrics>,
    supervisor: Option<Supervisor>,
    options: FoldOptions,
}

impl Worker {
    /// Over a store, with the worker that the options name.
    pub(crate) fn new(
        store: Arc<dyn LogStore>,
        metrics: Arc<Metrics>,
        options: FoldOptions,
    ) -> Self {
        let supervisor = options.worker.clone().map(|command| Supervisor {
            command,
            memory_bytes: options.memory_bytes,
            time: options.time,
            snapshot_bytes: options.window.snapshot_bytes,
            stop: Arc::default(),
        });
        Self { store, metrics, supervisor, options }
    }

    /// What starts the children that fold, if there is one.
    pub(crate) fn supervisor(&self) -> Option<&Supervisor> {
        self.supervisor.as_ref()
    }

    fn run(&self, shared: &Shared) {
        if let Err(error) = self.store.retry_failed_folds(VERSION) {
            tracing::error!(error = error.chain(), "failed folds could not be made due again");
        }
        let (mut next_look, mut pause) = (Instant::now(), None);
        while let Some(work) = next(shared, next_look) {
            match work {
                Some(Work::Merge(offer, done)) => done(self.merge(&offer)),
                Some(Work::Absorb(chunks, done)) => done(self.absorb(&chunks)),
                Some(Work::Rebuild(space, document, done)) => done(self.rebuild(&space, &document)),
                None => {
                    let looked = self.look(shared);
                    pause = matches!(looked, Looked::NoChild).then(|| longer(pause));
                    let rest = match looked {
                        Looked::More => Duration::ZERO,
                        Looked::Done | Looked::NoChild => pause.unwrap_or(self.options.every),
                    };
                    next_look = Instant::now() + rest;
                }
            }
        }
    }

    /// Folds one document and prunes a little.
    fn look(&self, shared: &Shared) -> Looked {
        let fold = |supervisor: &Supervisor| self.fold_one(shared, supervisor);
        let folded = self.supervisor.as_ref().map_or(Looked::Done, fold);
        let more = self.store.prune(now_ms(), limits::PRUNE_ROWS).unwrap_or_else(|error| {
            tracing::error!(error = error.chain(), "what is folded could not be pruned");
            false
        });
        match folded {
            Looked::Done if more => Looked::More,
            folded => folded,
        }
    }

    fn fold_one(&self, shared: &Shared, supervisor: &Supervisor) -> Looked {
        let task = match self.store.fold_candidate(now_ms(), self.options.window) {
            Ok(Some(task)) => task,
            Ok(None) => return Looked::Done,
            Err(error) => {
                tracing::error!(error = error.chain(), "no document could be found to fold");
                return Looked::Done;
            }
        };
        if task.is_oversized {
            return self.note_failure(&task, "oversized", &OVERSIZED);
        }
        let began = Instant::now();
        let may_write =
            || shared.before_fold.get().is_some_and(|told| told(&task.space, task.through));
        match self.fold(supervisor, &task, may_write) {
            Ok(Some(changes)) => {
                self.metrics.folded("folded", began.elapsed());
                tracing::debug!(space = %task.space, document = %task.document, changes, "folded");
                Looked::More
            }
            Ok(None) => {
                self.metrics.folded("overtaken", began.elapsed());
                Looked::More
            }
            Err(FoldFailure::Store(error)) => {
                self.metrics.folded("failed", began.elapsed());
                tracing::error!(error = error.chain(), "a fold could not be read or written");
                Looked::Done
            }
            // Neither says anything about the document.
            Err(FoldFailure::Worker(error @ WorkerError::Spawn { .. })) => {
                self.metrics.folded("postponed", began.elapsed());
                tracing::error!(%error, "no child could be started; it is tried again");
                Looked::NoChild
            }
            Err(FoldFailure::Worker(WorkerError::Stopped)) => Looked::Done,
            Err(FoldFailure::Worker(error @ WorkerError::TooLarge { .. })) => {
                self.note_failure(&task, "oversized", &error)
            }
            Err(FoldFailure::Worker(error)) => self.note_failure(&task, "failed", &error),
        }
    }

    /// Notes that a document cannot be folded.
    fn note_failure(&self, task: &FoldTask, outcome: &'static str, why: &dyn Display) -> Looked {
        self.metrics.folded(outcome, Duration::ZERO);
        let (space, document, reason) = (&task.space, &task.document, why.to_string());
        let bytes = task.bytes;
        tracing::warn!(%space, %document, bytes, reason, "a document cannot be folded; it syncs on");
        if let Err(error) = self.store.fold_failed(task, VERSION, &reason) {
            tracing::error!(error = error.chain(), "a failed fold could not be noted");
            return Looked::Done;
        }
        Looked::More
    }

    /// Takes snapshots apart that exceed the limit, and that no replica would take: an earlier
    /// version made them. Blocks; only while nothing else writes to the store.
    pub(crate) fn heal_oversized(&self) {
        let limit = self.options.window.snapshot_bytes;
        let found = self.store.oversized(limit).unwrap_or_else(|error| {
            tracing::error!(error = error.chain(), "no oversized snapshots could be looked for");
            Vec::new()
        });
        for (space, document, bytes) in found {
            match self.take_apart(&space, &document) {
                Ok(changes) => tracing::warn!(%space, %document, bytes, limit, changes,
                    "a snapshot exceeded the limit; its changes are single entries now"),
                Err(reason) => tracing::error!(%space, %document, bytes, limit, reason,
                    "a snapshot exceeds the limit and could not be taken apart"),
            }
        }
    }

    /// Gives the number of changes that the snapshot had.
    fn take_apart(&self, space: &SpaceName, document: &DocumentId) -> Result<usize, String> {
        let supervisor = self.supervisor.as_ref().ok_or("there is no worker to open it")?;
        let mut base = None;
        let read = self.store.document_bases(space, document, &mut |input| {
            if let FoldInput::Base(bytes) = input {
                base = Some(bytes);
            }
            ControlFlow::Break(())
        });
        read.map_err(|error| error.chain())?;
        let body = base.ok_or("it is gone")?;
        let hash = landfall_fold::hash_of(&body);
        let (mut changes, mut bytes, mut bad) = (Vec::new(), 0, None);
        let opened = supervisor.changes_since(&body, &[], |change| {
            bytes += change.len();
            match preflight(&change) {
                _ if bytes > limits::UNFOLD_BYTES => bad = Some("its changes are too long".into()),
                Ok(checked) => changes.push(checked),
                Err(error) => bad = Some(error.to_string()),
            }
        });
        opened.map_err(|error| error.to_string())?;
        if let Some(bad) = bad {
            return Err(bad);
        }
        let (count, mut epoch) = (changes.len(), [0; 16]);
        getrandom::fill(&mut epoch).map_err(|error| error.to_string())?;
        let epoch = Epoch::from_bytes(epoch);
        match self.store.unfold(space, document, &hash, changes, epoch) {
            Ok(true) => Ok(count),
            Ok(false) => Err("it is another one than its index says".to_owned()),
            Err(error) => Err(error.chain()),
        }
    }

    /// Gives the number of changes that the snapshot has, or `None` if the document was another
    /// by the time that it was done.
    pub(crate) fn fold(
        &self,
        supervisor: &Supervisor,
        task: &FoldTask,
        may_write: impl FnOnce() -> bool,
    ) -> Result<Option<u64>, FoldFailure> {
        let mut job = supervisor.start(JobKind::Fold)?;
        let mut failed = None;
        let whole = self.store.fold_read(task, &mut |input| give(&mut job, input, &mut failed))?;
        if let Some(error) = failed {
            // What the worker says of its own end is better than a broken pipe.
            return Err(FoldFailure::Worker(job.finish().err().unwrap_or(error)));
        }
        if !whole {
            return Ok(None);
        }
        let snapshot = snapshot_of(job.finish()?)?;
        let changes = snapshot.changes;
        if !may_write() {
            return Ok(None);
        }
        Ok(self.store.fold_commit(task, snapshot, now_ms())?.then_some(changes))
    }

    /// Merges an offered snapshot with what there is. If both together exceed a snapshot, what is
    /// new in it comes as single changes.
    pub(crate) fn merge(&self, offer: &Offer) -> Result<Brought, MergeError> {
        let Some(supervisor) = &self.supervisor else { return Err(MergeError::NoWorker) };
        let began = Instant::now();
        let merged = self.merge_with(supervisor, offer);
        let outcome = match &merged {
            Ok(Brought::Apart(_)) => "oversized",
            Ok(_) => "folded",
            Err(_) => "failed",
        };
        self.metrics.folded(outcome, began.elapsed());
        merged
    }

    /// What is new in an offered snapshot of so many changes, as single changes.
    fn merge_apart(&self, offer: &Offer, theirs: u64) -> Result<Brought, MergeError> {
        let (space, document) = (offer.space.clone(), offer.document);
        let chunks = Chunks { space, document, parts: vec![Arc::clone(&offer.bytes)] };
        match self.absorb(&chunks)? {
            // There is something here, and they have nothing of it.
            Brought::Changes(changes) if changes.len() as u64 == theirs => {
                Err(MergeError::Unrelated)
            }
            Brought::Changes(changes) => Ok(Brought::Apart(changes)),
            brought => Ok(brought),
        }
    }

    fn merge_with(&self, supervisor: &Supervisor, offer: &Offer) -> Result<Brought, MergeError> {
        let worker = MergeError::Worker;
        let inspected = supervisor.inspect(&offer.bytes, offer.hash).map_err(worker)?;
        let mut theirs = inspected.heads.clone();
        theirs.sort_unstable();
        if theirs != offer.heads {
            let reason = "its heads are not those that were told".to_owned();
            return Err(worker(WorkerError::Refused { reason }));
        }
        let mut inputs = 0;
        let mut failed = None;
        let mut job = supervisor.start(JobKind::Fold).map_err(worker)?;
        let mut given = false;
        let whole = self.store.document_bases(&offer.space, &offer.document, &mut |input| {
            inputs += 1;
            if !given && matches!(input, FoldInput::Change(_)) {
                // Snapshots come before changes.
                given = true;
                if let Err(error) = job.base(&offer.bytes) {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            give(&mut job, input, &mut failed)
        });
        let whole = whole.map_err(MergeError::Store)?;
        if inputs == 0 {
            drop(job);
            let theirs = snapshot_of(inspected).map_err(worker)?;
            return Ok(Brought::Merged(Merged::Snapshot(Arc::new(theirs))));
        }
        if failed.is_none() && whole && !given {
            failed = job.base(&offer.bytes).err();
        }
        if let Some(error) = failed {
            return Err(worker(job.finish().err().unwrap_or(error)));
        }
        let both = match job.finish() {
            // Each of the two is sound, but no snapshot may have both: for its bytes, its heads or
            // its budget. Admission judges the changes.
            Err(error @ (WorkerError::TooLarge { .. } | WorkerError::Refused { .. })) => {
                let (space, document) = (&offer.space, &offer.document);
                tracing::warn!(%space, %document, %error,
                    "a document and a snapshot that was offered do not fit one; it syncs on");
                return self.merge_apart(offer, inspected.changes);
            }
            both => snapshot_of(both.map_err(worker)?).map_err(worker)?,
        };
        self.judge_merge(offer, &inspected, both).map(Brought::Merged)
    }

    /// Whether the two had anything in common, and whether anything came of it.
    fn judge_merge(
        &self,
        offer: &Offer,
        theirs: &Folded,
        both: Snapshot,
    ) -> Result<Merged, MergeError> {
        let store = MergeError::Store;
        let ours = self.store.changes_held(&offer.space, &offer.document).map_err(store)?;
        if both.changes == ours {
            return Ok(Merged::Nothing);
        }
        if both.changes == ours + theirs.changes {
            return Err(MergeError::Unrelated);
        }
        Ok(Merged::Snapshot(Arc::new(both)))
    }

    /// What is new in a stranger's chunks; all of them, or an error.
    fn absorb(&self, chunks: &Chunks) -> Result<Brought, MergeError> {
        brought(self.open_chunks(chunks, false)?.news)
    }

    /// Has a child open a stranger's chunks. With `salvage`, what is sound of them.
    pub(crate) fn open_chunks(
        &self,
        chunks: &Chunks,
        salvage: bool,
    ) -> Result<Absorbed, MergeError> {
        let Some(supervisor) = &self.supervisor else { return Err(MergeError::NoWorker) };
        let began = Instant::now();
        let opened = self.open_with(supervisor, chunks, salvage);
        let outcome = if opened.is_ok() { "folded" } else { "failed" };
        self.metrics.folded(outcome, began.elapsed());
        opened
    }

    fn open_with(
        &self,
        supervisor: &Supervisor,
        chunks: &Chunks,
        salvage: bool,
    ) -> Result<Absorbed, MergeError> {
        let Chunks { space, document, parts } = chunks;
        let mut job = supervisor.start(JobKind::Absorb { salvage }).map_err(MergeError::Worker)?;
        let mut failed = parts.iter().try_for_each(|part| job.part(part)).err();
        if failed.is_none() {
            let mut sink = |input| give(&mut job, input, &mut failed);
            let whole = self.store.document_bases(space, document, &mut sink);
            if !whole.map_err(MergeError::Store)? && failed.is_none() {
                return Err(MergeError::Overtaken);
            }
        }
        match failed {
            // What the worker says of its own end is better than a broken pipe.
            Some(error) => Err(MergeError::Worker(job.finish_absorbed().err().unwrap_or(error))),
            None => job.finish_absorbed().map_err(MergeError::Worker),
        }
    }

    pub(crate) fn rebuild(&self, space: &SpaceName, document: &DocumentId) -> bool {
        let Some(supervisor) = &self.supervisor else { return false };
        let mut base = None;
        let read = self.store.document_bases(space, document, &mut |input| {
            if let FoldInput::Base(bytes) = input {
                base = Some(bytes);
            }
            ControlFlow::Break(())
        });
        let (Ok(_), Some(body)) = (read, base) else { return false };
        let hash = landfall_fold::hash_of(&body);
        let made = supervisor.inspect(&body, hash).map_err(|error| error.to_string());
        let stored = made.and_then(|folded| {
            let stored = self.store.store_index(space, document, &hash, folded.index);
            stored.map_err(|error| error.chain())
        });
        if let Err(reason) = &stored {
            tracing::error!(%space, %document, reason, "a damaged index could not be made anew");
        }
        stored.unwrap_or(false)
    }
}

/// What came of looking for something to fold or to prune.
enum Looked {
    /// There may be more to do at once.
    More,
    /// Nothing for now.
    Done,
    /// No child could be started: no file handles, no processes, no program.
    NoChild,
}

/// How long no child is started, after so long a pause before.
fn longer(pause: Option<Duration>) -> Duration {
    pause.map_or(limits::SPAWN_PAUSE, |last| (2 * last).min(limits::LONGEST_SPAWN_PAUSE))
}

/// Why a document is not even tried to be folded.
const OVERSIZED: &str = "its snapshot would exceed the limit; its changes stay single";

/// The version with which a fold failed.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) enum FoldFailure {
    Store(StoreError),
    Worker(WorkerError),
}

impl From<StoreError> for FoldFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<WorkerError> for FoldFailure {
    fn from(error: WorkerError) -> Self {
        Self::Worker(error)
    }
}

fn give(job: &mut Job, input: FoldInput, failed: &mut Option<WorkerError>) -> ControlFlow<()> {
    let given = match &input {
        FoldInput::Base(snapshot) => job.base(snapshot),
        FoldInput::Change(change) => job.change(change),
    };
    match given {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *failed = Some(error);
            ControlFlow::Break(())
        }
    }
}

/// What a child found in chunks, as what is to be done with it. The child has seen a stranger's
/// bytes, so its word for a change's form is not enough.
pub(crate) fn brought(news: News) -> Result<Brought, MergeError> {
    match news {
        News::Nothing => Ok(Brought::Merged(Merged::Nothing)),
        News::Changes(changes) => {
            let checked: Result<Vec<_>, _> = changes.iter().map(|bytes| preflight(bytes)).collect();
            checked.map(Brought::Changes).map_err(|error| {
                MergeError::Worker(WorkerError::Refused { reason: error.to_string() })
            })
        }
        News::Snapshot(folded) => {
            let snapshot = snapshot_of(*folded).map_err(MergeError::Worker)?;
            Ok(Brought::Merged(Merged::Snapshot(Arc::new(snapshot))))
        }
    }
}

pub(crate) fn snapshot_of(folded: Folded) -> Result<Snapshot, WorkerError> {
    let Folded { snapshot, hash, index, .. } = folded;
    Snapshot::new(snapshot, hash, index)
        .map_err(|error| WorkerError::Refused { reason: error.to_string() })
}

/// Waits for work, or until it is time to look for some; `None` at the end.
fn next(shared: &Shared, look: Instant) -> Option<Option<Work>> {
    let mut queue = shared.queue.lock();
    loop {
        if queue.closed {
            return None;
        }
        if let Some(work) = queue.work.pop_front() {
            return Some(Some(work));
        }
        if shared.wake.wait_until(&mut queue, look).timed_out() {
            return Some(None);
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
