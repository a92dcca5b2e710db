//! Applying what arrived, beside readers and writers.
//!
//! One call of automerge costs time proportional to the document's length, whatever it brings
//! (`docs/decisions`), so changes are applied in batches of whatever the store has, on a clone
//! that costs a fraction of that, by one thread of the store. The wait between two applies to one
//! document grows with what the last one cost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use automerge::{Automerge, Change, Patch, PatchLog};
use parking_lot::{Condvar, Mutex};

use super::load::apply_parsed;
use super::{Content, OpenDocument};
use crate::events::{EventKind, Origin};

/// Bytes of changes in one apply.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// After an apply, a document rests for this many times what it cost...
const REST_FACTOR: u32 = 3;

/// ...but no longer than this, so that a long document still follows.
const REST_MOST: Duration = Duration::from_secs(1);

/// An apply that costs less than this needs no rest.
const REST_ABOVE: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Queue {
    /// Each is due when its rest is over.
    waiting: VecDeque<Arc<OpenDocument>>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The thread that applies.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Applier {
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("landfall-apply".to_owned())
            .spawn(move || run(&for_thread))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// The store has changes that this open document has not.
    pub(crate) fn notify(&self, document: Arc<OpenDocument>) {
        if !document.dirty.swap(true, Ordering::AcqRel) {
            self.shared.queue.lock().waiting.push_back(document);
            self.shared.wake.notify_one();
        }
    }

    /// Ends the thread after what it is at.
    pub(crate) fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there was told by the panic hook; closing goes on.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    while let Some(document) = next(shared) {
        let started = Instant::now();
        let again = step(&document);
        let rest = match started.elapsed() {
            _ if again == Again::Later => REST_MOST,
            cost if cost > REST_ABOVE => (cost * REST_FACTOR).min(REST_MOST),
            _ => Duration::ZERO,
        };
        *document.rests_until.lock() = Some(Instant::now() + rest);
        if again != Again::No {
            shared.queue.lock().waiting.push_back(document);
        }
    }
}

/// Waits for the next document that is due.
fn next(shared: &Shared) -> Option<Arc<OpenDocument>> {
    let mut queue = shared.queue.lock();
    loop {
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

/// Whether a document is to be looked at again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    No,
    /// There is more than one batch.
    Soon,
    /// The store could not be read.
    Later,
}

/// Applies what the store has and the document has not.
fn step(document: &Arc<OpenDocument>) -> Again {
    let Some((base, applied)) = take_clone(document) else {
        tell_unloaded(document);
        return Again::No;
    };
    let page = document.core.log.document(document.row, &document.id).and_then(|row| match row {
        Some(row) => document.core.log.changes_after(row, applied, BATCH_BYTES),
        None => Ok((Vec::new(), false)),
    });
    let (page, more) = match page {
        Ok(page) => page,
        Err(error) => {
            tracing::warn!(document = %document.id, %error, "what arrived could not be read");
            release_clone(document, true);
            return Again::Later;
        }
    };
    let Some(last) = page.last().map(|stored| stored.local) else {
        release_clone(document, false);
        return Again::No;
    };
    let mut patches = match document.core.events.has_listeners() {
        true => PatchLog::active(),
        false => PatchLog::inactive(),
    };
    let parsed: Result<Vec<Change>, String> = page
        .into_iter()
        .map(|stored| Change::from_bytes(stored.body).map_err(|error| error.to_string()))
        .collect();
    match parsed.and_then(|changes| apply_parsed(base, changes, &mut patches)) {
        Ok(built) => {
            swap(document, built, Batch { last, more }, patches);
            if more { Again::Soon } else { Again::No }
        }
        Err(reason) => {
            quarantine(document, reason);
            Again::No
        }
    }
}

/// What was read from the store: up to which local sequence number, and whether that was all.
struct Batch {
    last: u64,
    more: bool,
}

fn take_clone(document: &OpenDocument) -> Option<(Automerge, u64)> {
    let _writer = document.writer.lock();
    // Under the lock, and together with `since_clone`: as long as either is set, a local change
    // does not say that everything before it is applied.
    document.dirty.store(false, Ordering::Release);
    let mut content = document.content.write();
    match &mut *content {
        Content::Loaded(loaded) if loaded.quarantined.is_none() => {
            loaded.since_clone = Some(Vec::new());
            Some((loaded.automerge.clone(), loaded.applied))
        }
        // It will be loaded with everything, or takes nothing any more.
        Content::Loaded(_) | Content::Unloaded => None,
    }
}

/// Nothing is loaded that could be brought up to date; the app is told all the same.
fn tell_unloaded(document: &OpenDocument) {
    let log = &document.core.log;
    let heads = match log.document(document.row, &document.id) {
        Ok(Some(row)) => log.heads(row).unwrap_or_default(),
        Ok(None) | Err(_) => Vec::new(),
    };
    let kind = EventKind::Changed { origin: Origin::Remote, heads, patches: None };
    document.core.events.send(&document.space, document.id, kind);
}

/// Gives up on a clone, without anything to publish.
fn release_clone(document: &OpenDocument, still_dirty: bool) {
    let _writer = document.writer.lock();
    document.dirty.fetch_or(still_dirty, Ordering::AcqRel);
    if let Content::Loaded(loaded) = &mut *document.content.write() {
        loaded.since_clone = None;
    }
}

/// Publishes the new state. Local changes that were made meanwhile are added to it first; only
/// writers wait for that, readers go on with the old state.
fn swap(document: &OpenDocument, mut built: Automerge, batch: Batch, mut log: PatchLog) {
    let _writer = document.writer.lock();
    // Under the lock: a local change must not count as applied what was not even read.
    document.dirty.fetch_or(batch.more, Ordering::AcqRel);
    let (meanwhile, seen) = match &mut *document.content.write() {
        Content::Loaded(loaded) => (loaded.since_clone.take(), loaded.automerge.get_heads()),
        Content::Unloaded => (None, Vec::new()),
    };
    // Without a list, the content was reloaded meanwhile, with everything.
    let Some(meanwhile) = meanwhile else { return tell_unloaded(document) };
    let listening = document.core.events.has_listeners();
    let patches: Option<Vec<Patch>> = if meanwhile.is_empty() {
        listening.then(|| built.make_patches(&mut log))
    } else {
        built = match apply_parsed(built, meanwhile, &mut PatchLog::inactive()) {
            Ok(built) => built,
            Err(reason) => return quarantine_content(document, reason),
        };
        listening.then(|| built.diff(&seen, &built.get_heads()))
    };
    let heads = built.get_heads();
    if let Content::Loaded(loaded) = &mut *document.content.write() {
        built.set_actor(loaded.automerge.get_actor().clone());
        loaded.automerge = built;
        loaded.applied = loaded.applied.max(batch.last);
    }
    let patches = patches.map(Into::into);
    let kind = EventKind::Changed { origin: Origin::Remote, heads, patches };
    document.core.events.send(&document.space, document.id, kind);
}

fn quarantine(document: &OpenDocument, reason: String) {
    let _writer = document.writer.lock();
    quarantine_content(document, reason);
}

/// Keeps the last good state and says why. The bytes stay in the store.
fn quarantine_content(document: &OpenDocument, reason: String) {
    tracing::error!(document = %document.id, reason, "the document is quarantined");
    if let Content::Loaded(loaded) = &mut *document.content.write() {
        loaded.since_clone = None;
        loaded.quarantined = Some(reason.clone());
    }
    document.core.events.send(&document.space, document.id, EventKind::Quarantined { reason });
}
