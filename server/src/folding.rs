//! The relay's children: two threads that have child processes open what only they may open. They
//! merge a snapshot which a client offers with what there is, and a whole document of an
//! automerge-repo client; and when none of these waits, one of them finds a document whose history is
//! worth folding and puts a snapshot in its place.
//!
//! They never build a document themselves, and nobody waits for them but the one document that they
//! are at: a child that dies costs its fold and nothing else. Addresses have their turns one after the
//! other, whatever the sessions of each have queued.

mod apart;
mod compacting;
mod mending;
mod merging;
mod queue;
mod room;
#[cfg(all(test, unix))]
mod tests;
mod worker;

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use landfall_fold::WorkerError;
use landfall_protocol::admission::CheckedChange;
use landfall_protocol::snapshot::Snapshot;
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::healing::Healing;
use crate::limits;
use crate::memory::{Key, Memory};
use crate::metrics::Metrics;
use crate::store::{FoldWindow, LogStore, StoreError};
pub(crate) use compacting::{FoldFailure, VERSION};
pub(crate) use merging::brought;
use queue::Queue;
pub(crate) use worker::Worker;

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
    /// `None` if they are not known.
    pub(crate) heads: Option<Vec<ChangeHash>>,
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

/// Told before each fold is written: the space, and how far its log will be folded. It waits until
/// nobody is fed single entries of that any more except from the store: a session that comes from
/// the store must meet the snapshot there, and not be led past it. False if that cannot be had.
type BeforeFold = Box<dyn Fn(&SpaceName, Offset) -> bool + Send + Sync>;

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue<Work>>,
    wake: Condvar,
    before_fold: OnceLock<BeforeFold>,
    healing: OnceLock<Arc<Healing>>,
}

/// The threads that have children work.
pub(crate) struct Folder {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Ends the children that are at work.
    stop: Arc<AtomicBool>,
}

impl Folder {
    /// Takes snapshots apart that exceed the limit, and starts the threads. Nothing else may write to
    /// the store before it returns. The receiver completes when one of the threads ends: before
    /// [`close`](Self::close) only by a bug.
    pub(crate) fn start(
        store: Arc<dyn LogStore>,
        metrics: Arc<Metrics>,
        options: FoldOptions,
        memory: Memory,
    ) -> std::io::Result<(Arc<Self>, oneshot::Receiver<()>)> {
        let shared = Arc::new(Shared::default());
        let worker = Arc::new(Worker::new(store, metrics, options).within(memory));
        worker.heal_oversized();
        worker.retry_failed();
        let stop = worker.supervisor().map_or_else(Arc::default, |s| Arc::clone(&s.stop));
        let (running, ended) = oneshot::channel();
        let running = Arc::new(Mutex::new(Some(running)));
        let folder = Arc::new(Self { shared, threads: Mutex::default(), stop });
        for number in 1..=limits::CHILDREN {
            let (worker, shared) = (Arc::clone(&worker), Arc::clone(&folder.shared));
            let running = Ends(Arc::clone(&running));
            let thread = std::thread::Builder::new().name(format!("fold-{number}"));
            let thread = thread.spawn(move || {
                let _running = running;
                worker.run(&shared);
            })?;
            folder.threads.lock().push(thread);
        }
        Ok((folder, ended))
    }

    /// Has somebody told before each fold is written, from now on.
    pub(crate) fn before_fold(&self, told: BeforeFold) {
        // Set once, when the relay starts.
        let _ = self.shared.before_fold.set(told);
    }

    /// Has what clients offer looked through for what is lost, from now on.
    pub(crate) fn heal_with(&self, healing: Arc<Healing>) {
        // Set once, when the relay starts.
        let _ = self.shared.healing.set(healing);
    }

    /// Has a session's snapshot merged with what there is. `done` is called on one of the threads.
    pub(crate) fn merge(&self, session: Key, offer: Offer, done: MergeDone) {
        let document = (offer.space.clone(), offer.document);
        self.add(session, document, Work::Merge(offer, done));
    }

    /// Has a session's chunks merged with what there is: all of them, or nothing. `done` is called on
    /// one of the threads.
    pub(crate) fn absorb(&self, session: Key, chunks: Chunks, done: MergeDone) {
        let document = (chunks.space.clone(), chunks.document);
        self.add(session, document, Work::Absorb(chunks, done));
    }

    /// Has a packed index made anew from its snapshot; `done` says whether that worked.
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

    /// Ends the children that are at work, and has none started any more: they may have minutes to
    /// go, and the relay stops. What waits is answered so.
    pub(crate) fn end_jobs(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.queue.lock().end_fold();
    }

    /// Ends the threads after what they are at.
    pub(crate) fn close(&self) {
        self.end_jobs();
        self.shared.queue.lock().close();
        self.shared.wake.notify_all();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic there was told by the panic hook; the relay stops all the same.
            let _ = thread.join();
        }
    }
}

/// Dropped when a thread ends, also by a panic: the first one that does is told.
struct Ends(Arc<Mutex<Option<oneshot::Sender<()>>>>);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.lock().take());
    }
}
