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

use automerge::{Automerge, PatchLog};
use parking_lot::{Condvar, Mutex};

use super::load::{Whole, apply_parsed, parse};
use super::{Content, OpenDocument};
use crate::error::StoreError;
use crate::events::{EventKind, Origin};
use crate::store::Stored;

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
    let missing = match read(document, applied) {
        Ok(missing) => missing,
        Err(error) => {
            tracing::warn!(document = %document.id, %error, "what arrived could not be read");
            release_clone(document, true);
            return Again::Later;
        }
    };
    let built = match missing {
        Missing::Nothing => {
            release_clone(document, false);
            return Again::No;
        }
        Missing::Changes { page, more } => extend(document, base, &page, more),
        Missing::Everything(whole) => anew(&whole),
    };
    let published = built.and_then(|built| {
        let more = built.more;
        swap(document, built).map(|()| more)
    });
    match published {
        Ok(true) => Again::Soon,
        Ok(false) => Again::No,
        Err(reason) => give_up(document, reason),
    }
}

/// What the store has could not be added to what is loaded. Either it cannot be loaded at all, or
/// changes were taken out of the store meanwhile, and it is the loaded content that is wrong.
fn give_up(document: &Arc<OpenDocument>, reason: String) -> Again {
    let log = &document.core.log;
    let whole = match log.document(document.row, &document.id).map_err(StoreError::from) {
        Ok(Some(row)) => Whole::read(log, row, None),
        Ok(None) => Ok(Whole::default()),
        Err(error) => Err(error),
    };
    match whole.map(|whole| whole.build()) {
        Ok(Ok(_)) => {
            let _writer = document.writer.lock();
            document.let_go(&mut document.content.write());
            tell_unloaded(document);
            Again::No
        }
        Ok(Err(_)) => {
            quarantine(document, reason);
            Again::No
        }
        Err(error) => {
            tracing::warn!(document = %document.id, %error, "the document could not be read again");
            release_clone(document, true);
            Again::Later
        }
    }
}

/// What the store has and a document has not.
enum Missing {
    Nothing,
    /// Changes; `more` if that is not all.
    Changes {
        page: Vec<Stored>,
        more: bool,
    },
    /// Some of it is folded by now, so the document is built anew. From all of it: a part might
    /// lack local changes that the document has.
    Everything(Whole),
}

fn read(document: &OpenDocument, applied: u64) -> Result<Missing, StoreError> {
    let log = &document.core.log;
    let Some(row) = log.document(document.row, &document.id)? else { return Ok(Missing::Nothing) };
    let (page, more) = log.changes_after(row, applied, BATCH_BYTES)?;
    if page.iter().any(|stored| stored.folded) {
        return Ok(Missing::Everything(Whole::read(log, row, Some(page))?));
    }
    match page.is_empty() {
        true => Ok(Missing::Nothing),
        false => Ok(Missing::Changes { page, more }),
    }
}

/// A new state of a document, not yet published.
struct Built {
    automerge: Automerge,
    /// Everything up to this local sequence number is in it.
    last: u64,
    /// The store has more.
    more: bool,
    /// Bytes that the store has of it.
    bytes: Bytes,
    /// How it came from the state before, if that is known.
    patches: Option<PatchLog>,
}

enum Bytes {
    /// So many more than before.
    More(u64),
    All(u64),
}

fn extend(
    document: &OpenDocument,
    base: Automerge,
    page: &[Stored],
    more: bool,
) -> Result<Built, String> {
    let mut patches = match document.core.events.has_listeners() {
        true => PatchLog::active(),
        false => PatchLog::inactive(),
    };
    let last = page.last().map_or(0, |stored| stored.local);
    let bytes = page.iter().map(|stored| stored.body.len() as u64).sum();
    let automerge = apply_parsed(base, parse(page)?, &mut patches)?;
    Ok(Built { automerge, last, more, bytes: Bytes::More(bytes), patches: Some(patches) })
}

fn anew(whole: &Whole) -> Result<Built, String> {
    let (last, bytes) = (whole.last, Bytes::All(whole.bytes));
    Ok(Built { automerge: whole.build()?, last, more: false, bytes, patches: None })
}

fn take_clone(document: &OpenDocument) -> Option<(Automerge, u64)> {
    let _writer = document.writer.lock();
    // Under the lock, and together with `since_clone`: as long as either is set, a local change
    // does not say that everything before it is applied.
    document.dirty.store(false, Ordering::Release);
    let mut content = document.content.write();
    let stale = document.stale.swap(false, Ordering::AcqRel);
    let stays = document.is_held() && !stale;
    match &mut *content {
        Content::Loaded(loaded) if loaded.quarantined.is_none() && stays => {
            loaded.since_clone = Some(Vec::new());
            Some((loaded.automerge.clone(), loaded.applied))
        }
        // It takes nothing any more.
        Content::Loaded(_) if stays => None,
        // It will be loaded with everything, should somebody want it.
        Content::Loaded(_) | Content::Unloaded => {
            document.let_go(&mut content);
            None
        }
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
fn swap(document: &Arc<OpenDocument>, new: Built) -> Result<(), String> {
    let Built { automerge: mut built, last, more, bytes, patches } = new;
    let _writer = document.writer.lock();
    // Under the lock: a local change must not count as applied what was not even read.
    document.dirty.fetch_or(more, Ordering::AcqRel);
    let (meanwhile, seen) = match &mut *document.content.write() {
        Content::Loaded(loaded) => (loaded.since_clone.take(), loaded.automerge.get_heads()),
        Content::Unloaded => (None, Vec::new()),
    };
    // Without a list, the content was reloaded meanwhile, with everything.
    let Some(meanwhile) = meanwhile else {
        tell_unloaded(document);
        return Ok(());
    };
    let undisturbed = meanwhile.is_empty();
    if !undisturbed {
        built = apply_parsed(built, meanwhile, &mut PatchLog::inactive())?;
    }
    let listening = document.core.events.has_listeners();
    let patches = listening.then(|| match patches.filter(|_| undisturbed) {
        Some(mut log) => built.make_patches(&mut log),
        None => built.diff(&seen, &built.get_heads()),
    });
    let heads = built.get_heads();
    {
        let mut content = document.content.write();
        if let Content::Loaded(loaded) = &mut *content {
            built.set_actor(loaded.automerge.get_actor().clone());
            loaded.automerge = built;
            loaded.applied = loaded.applied.max(last);
            loaded.stored_bytes = match bytes {
                Bytes::More(more) => loaded.stored_bytes + more,
                Bytes::All(all) => all,
            };
        }
        document.weigh(&content);
    }
    let patches = patches.map(Into::into);
    let kind = EventKind::Changed { origin: Origin::Remote, heads, patches };
    document.core.events.send(&document.space, document.id, kind);
    Ok(())
}

/// Keeps the last good state and says why. The bytes stay in the store.
fn quarantine(document: &OpenDocument, reason: String) {
    let _writer = document.writer.lock();
    tracing::error!(document = %document.id, reason, "the document is quarantined");
    if let Content::Loaded(loaded) = &mut *document.content.write() {
        loaded.since_clone = None;
        loaded.quarantined = Some(reason.clone());
    }
    document.told_quarantine.store(true, Ordering::Relaxed);
    document.core.log.submit_quarantine(document.row, document.id, Some(reason.clone()));
    document.core.events.send(&document.space, document.id, EventKind::Quarantined { reason });
}
