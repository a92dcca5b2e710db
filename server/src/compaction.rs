//! The relay's child processes: two threads run child processes for work that must open documents. They merge
//! uploaded snapshots, and whole documents of automerge-repo clients, with the stored ones; when no such job
//! waits, one thread compacts a document whose history is due.
//!
//! The threads never build a document themselves, and only the affected document waits for them: a child that
//! dies loses its own job and nothing else. Addresses take turns, however much the sessions of each have
//! queued.

mod compacting;
mod memory;
mod merging;
mod oversized;
mod queue;
mod repairing;
#[cfg(all(test, unix))]
mod tests;
mod worker;

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use landfall_compaction::WorkerError;
use landfall_protocol::admission::CheckedChange;
use landfall_protocol::relay::Snapshot;
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::limits;
use crate::memory::{Key, Memory};
use crate::metrics::Metrics;
use crate::repairs::Repairs;
use crate::store::{CompactionWindow, LogStore, StoreError};
pub(crate) use compacting::{CompactionFailure, VERSION};
pub(crate) use merging::brought;
use queue::Queue;
pub(crate) use worker::Worker;

/// Options of the relay's compaction.
#[derive(Debug, Clone)]
pub struct CompactionOptions {
    /// The command line of the child process; it must call `landfall_compaction::worker::main`. `None`: the
    /// relay does not compact, and accepts no snapshots from clients.
    pub worker: Option<Vec<OsString>>,
    /// Memory limit of a child in bytes. Default 1 GiB. If it is too small, long documents stay uncompacted;
    /// they still sync.
    pub memory_bytes: u64,
    /// Time limit of one compaction. Default 60 s.
    pub time: Duration,
    /// The newest entries of a log, which stay uncompacted. See
    /// [`RECENT_ENTRIES`](landfall_protocol::limits::RECENT_ENTRIES).
    pub window: CompactionWindow,
    /// How often the store is queried for a document due for compaction. Default 1 s.
    pub every: Duration,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            worker: None,
            memory_bytes: limits::COMPACTION_MEMORY_BYTES,
            time: limits::COMPACTION_TIME,
            window: CompactionWindow::default(),
            every: limits::COMPACTION_EVERY,
        }
    }
}

/// The result of merging an uploaded snapshot.
pub(crate) enum Merged {
    /// The store had all of it already.
    Nothing,
    /// The merged snapshot: stored and uploaded changes.
    Snapshot(Arc<Snapshot>),
}

/// The result of a job that opened a client's bytes.
pub(crate) enum MergeOutcome {
    /// It is merged.
    Merged(Merged),
    /// Not merged: these changes of it are new, and are to be pushed in this order.
    Changes(Vec<CheckedChange>),
    /// The same for an uploaded snapshot: merged with the stored changes it would exceed the size limit.
    TooLarge(Vec<CheckedChange>),
}

/// Why an uploaded snapshot was not merged.
pub(crate) enum MergeError {
    /// No worker is configured.
    NoWorker,
    /// The worker failed or rejected it.
    Worker(WorkerError),
    /// The store could not be read.
    Store(StoreError),
    /// It has no change in common with the stored document.
    Unrelated,
    /// The document was compacted meanwhile.
    Overtaken,
}

/// A complete snapshot that a client uploaded.
pub(crate) struct Upload {
    pub(crate) space: SpaceName,
    pub(crate) document: DocumentId,
    pub(crate) hash: [u8; 32],
    /// `None` if unknown.
    pub(crate) heads: Option<Vec<ChangeHash>>,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// A document as an automerge-repo peer sent it.
pub(crate) struct Chunks {
    pub(crate) space: SpaceName,
    pub(crate) document: DocumentId,
    /// Each part holds any number of chunks, of any type.
    pub(crate) parts: Vec<Arc<Vec<u8>>>,
}

type MergeDone = Box<dyn FnOnce(Result<MergeOutcome, MergeError>) + Send>;

enum Work {
    Merge(Upload, MergeDone),
    Absorb(Chunks, MergeDone),
    /// Rebuilds the damaged packed index of this document.
    Rebuild(SpaceName, DocumentId, Box<dyn FnOnce(bool) + Send>),
}

/// Called before a compaction commits, with the space and the offset `through`; blocks until no session is
/// being served offsets ≤ `through` from the ring. A session that reads the store must meet the snapshot
/// there, and not be moved past it by the ring. False if that cannot be guaranteed.
type BeforeCompaction = Box<dyn Fn(&SpaceName, Offset) -> bool + Send + Sync>;

#[derive(Default)]
struct CompactorState {
    queue: Mutex<Queue<Work>>,
    wake: Condvar,
    before_compaction: OnceLock<BeforeCompaction>,
    repairs: OnceLock<Arc<Repairs>>,
}

/// The threads that run children.
pub(crate) struct Compactor {
    shared: Arc<CompactorState>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Terminates the running children.
    stop: Arc<AtomicBool>,
}

impl Compactor {
    /// Splits snapshots that exceed the size limit, and starts the threads. No other writer may use the store
    /// before this returns. The receiver completes when one of the threads ends: before
    /// [`close`](Self::close) only by a bug.
    pub(crate) fn start(
        store: Arc<dyn LogStore>,
        metrics: Arc<Metrics>,
        options: CompactionOptions,
        memory: Memory,
    ) -> std::io::Result<(Arc<Self>, oneshot::Receiver<()>)> {
        let shared = Arc::new(CompactorState::default());
        let worker = Arc::new(Worker::new(store, metrics, options).within(memory));
        worker.repair_oversized();
        worker.retry_failed();
        let stop = worker.supervisor().map_or_else(Arc::default, |s| Arc::clone(&s.stop));
        let (running, ended) = oneshot::channel();
        let running = Arc::new(Mutex::new(Some(running)));
        let compactor = Arc::new(Self { shared, threads: Mutex::default(), stop });
        for number in 1..=limits::CHILDREN {
            let (worker, shared) = (Arc::clone(&worker), Arc::clone(&compactor.shared));
            let running = Ends(Arc::clone(&running));
            let thread = std::thread::Builder::new().name(format!("compaction-{number}"));
            let thread = thread.spawn(move || {
                let _running = running;
                worker.run(&shared);
            })?;
            compactor.threads.lock().push(thread);
        }
        Ok((compactor, ended))
    }

    /// Sets the callback that runs before each compaction commits.
    pub(crate) fn before_compaction(&self, notify: BeforeCompaction) {
        // Set once, when the relay starts.
        let _ = self.shared.before_compaction.set(notify);
    }

    /// Sets the repairs that are notified of data found in clients' uploads.
    pub(crate) fn repair_with(&self, repairs: Arc<Repairs>) {
        // Set once, when the relay starts.
        let _ = self.shared.repairs.set(repairs);
    }

    /// Queues the merge of a session's snapshot with the stored document. `done` runs on one of the threads.
    pub(crate) fn merge(&self, session: Key, upload: Upload, done: MergeDone) {
        let document = (upload.space.clone(), upload.document);
        self.add(session, document, Work::Merge(upload, done));
    }

    /// Queues the merge of a session's chunks with the stored document: all of them, or none. `done` runs on
    /// one of the threads.
    pub(crate) fn absorb(&self, session: Key, chunks: Chunks, done: MergeDone) {
        let document = (chunks.space.clone(), chunks.document);
        self.add(session, document, Work::Absorb(chunks, done));
    }

    /// Queues the rebuild of a packed index from its snapshot; `done` receives whether it succeeded.
    pub(crate) fn rebuild(
        &self,
        space: SpaceName,
        document: DocumentId,
        done: Box<dyn FnOnce(bool) + Send>,
    ) {
        let work = Work::Rebuild(space.clone(), document, done);
        self.add(Key::RELAY, (space, document), work);
    }

    fn add(&self, owner: Key, document: (SpaceName, DocumentId), work: Work) {
        self.shared.queue.lock().add(owner, document, work);
        self.shared.wake.notify_one();
    }

    /// Terminates the running children, which may have minutes to go, and prevents new ones: the relay is
    /// stopping. Queued jobs fail.
    pub(crate) fn end_jobs(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.queue.lock().end_compaction();
    }

    /// Ends the threads after their current job.
    pub(crate) fn close(&self) {
        self.end_jobs();
        self.shared.queue.lock().close();
        self.shared.wake.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The panic hook has logged a panic of the thread; the relay stops all the same.
            let _ = thread.join();
        }
    }
}

/// Dropped when a thread ends, also by a panic: the first drop completes the receiver.
struct Ends(Arc<Mutex<Option<oneshot::Sender<()>>>>);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.lock().take());
    }
}
