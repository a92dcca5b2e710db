//! A loaded document, and how access to it is ordered.
//!
//! Application code never runs under one of the engine's locks. The `slot` mutex is held for short
//! look-ups only. A reader takes the published state out of it, an `Arc`, and runs its closure on that
//! (`loading`). The next state is made by the holder of the *writer right* (`right`): one application
//! thread, from before its closure until after its commit, or the applier during a swap. Only other
//! writers of the same document wait for the right:
//!
//! - A reader that finds the only copy being changed in place waits for the engine's own commit, but
//!   not for the closure: it loads the document from the store.
//! - The applier leaves the state that it has built in the slot. The writer swaps it in before its next
//!   change, or calls the applier when it is done.
//!
//! The completion of a commit publishes a state, on the store's writer thread, together with its event.
//! A deletion, a failed commit and changes that were removed from the store begin a new *generation*;
//! states that were built on an older one are never published.
//!
//! A loaded document that no thread uses may be evicted (`cache`), and is read from the store at the
//! next access.

mod apply;
mod branch;
mod build;
mod built;
mod cache;
mod commit;
mod context;
mod edit;
mod events;
mod load;
mod loading;
mod merge;
mod nesting;
mod right;
mod slot;
mod swap;
mod transact;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use automerge::{Automerge, ReadDoc};
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::{Condvar, Mutex};
use slot::{Slot, State};

use crate::actors::Own;
use crate::error::{ReadError, StoreError};
use crate::events::EventKind;
use crate::store::SpaceRow;

pub(crate) use apply::Applier;
pub(crate) use cache::Cache;
pub(crate) use commit::commit;
pub(crate) use context::{Access, Commits, DocumentContext};
pub(crate) use edit::Edit;
pub(crate) use nesting::Changing;

/// One document that the application has open, or that is loaded.
pub(crate) struct OpenDocument {
    pub(crate) context: Arc<DocumentContext>,
    pub(crate) space: SpaceName,
    pub(crate) row: SpaceRow,
    pub(crate) id: DocumentId,
    /// Orders the application's writers, fairly. Taken before `slot`, never while that is held.
    writers: Arc<Mutex<()>>,
    /// Held for short look-ups only: never while application code, automerge or SQLite runs.
    slot: Mutex<Slot>,
    /// Signals a change in the slot that a reader or writer may wait for.
    changed: Condvar,
    /// The applier leaves the document alone until then. Locked last.
    rests_until: Mutex<Option<Instant>>,
    /// The application's handles. Without any, arriving changes are not applied.
    handles: AtomicUsize,
    /// Whether the event about very many actors was sent.
    reported_actors: AtomicBool,
    /// Whether the event about its quarantine was sent.
    reported_quarantine: AtomicBool,
    /// Makes the next computation of patches panic, as automerge might.
    #[cfg(test)]
    pub(crate) panic_in_patches: AtomicBool,
}

/// A document that an application has a handle to.
pub(crate) struct HeldDocument(Arc<OpenDocument>);

impl HeldDocument {
    pub(crate) fn new(document: Arc<OpenDocument>) -> Self {
        document.handles.fetch_add(1, Ordering::Relaxed);
        Self(document)
    }
}

impl Clone for HeldDocument {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for HeldDocument {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::ops::Deref for HeldDocument {
    type Target = Arc<OpenDocument>;

    fn deref(&self) -> &Arc<OpenDocument> {
        &self.0
    }
}

/// The facts in a document's slot.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// Whether it is in memory.
    pub(crate) loaded: bool,
    /// How many actors it has, if that is known without reading the store.
    pub(crate) actors: Option<u64>,
    /// Why it is quarantined, if it is in memory and is.
    pub(crate) quarantined: Option<String>,
}

/// One state of a document. A published state never changes: readers may keep it for any time.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) automerge: Automerge,
    /// The actors that this opening uses, once it has chosen them.
    own: Option<Own>,
    /// `automerge` contains everything up to this local sequence number.
    applied: u64,
    /// Its bytes in the store.
    stored_bytes: u64,
}

impl Loaded {
    /// An estimate of its bytes in memory.
    fn bytes(&self) -> u64 {
        cache::estimate(&self.automerge, self.stored_bytes)
    }
}

impl OpenDocument {
    pub(crate) fn new(
        context: Arc<DocumentContext>,
        space: SpaceName,
        row: SpaceRow,
        id: DocumentId,
    ) -> Self {
        Self {
            context,
            space,
            row,
            id,
            writers: Arc::default(),
            slot: Mutex::default(),
            changed: Condvar::new(),
            rests_until: Mutex::new(None),
            handles: AtomicUsize::new(0),
            reported_actors: AtomicBool::new(false),
            reported_quarantine: AtomicBool::new(false),
            #[cfg(test)]
            panic_in_patches: AtomicBool::new(false),
        }
    }

    /// Identifies the document within the store.
    pub(crate) fn key(&self) -> (SpaceRow, DocumentId) {
        (self.row, self.id)
    }

    /// Reads the last committed state. No lock is held while `read` runs.
    pub(crate) fn read<T>(
        self: &Arc<Self>,
        read: impl FnOnce(&Loaded) -> T,
    ) -> Result<T, ReadError> {
        let state = self.committed()?;
        Ok(read(&state))
    }

    /// Drops the loaded state after changes were removed from the store: it is no prefix of the store's
    /// state any more. States built on it are not published.
    pub(crate) fn outdate(self: &Arc<Self>) {
        self.begin_generation(State::Unloaded, None);
    }

    /// The document is deleted permanently; `kind` is sent after all earlier events.
    pub(crate) fn delete(self: &Arc<Self>, kind: Option<EventKind>) {
        self.begin_generation(State::Deleted, kind);
    }

    /// Replaces the present state by `state`. Never waits: it may be called on the store's writer
    /// thread.
    fn begin_generation(self: &Arc<Self>, state: State, kind: Option<EventKind>) {
        let gone = {
            let mut slot = self.slot.lock();
            if matches!((&slot.state, &state), (State::Deleted, State::Unloaded)) {
                // A deletion is final.
                return;
            }
            let was_deleted = matches!(slot.state, State::Deleted);
            let gone = slot.begin_generation(state);
            if let Some(kind) = kind.filter(|_| !was_deleted) {
                self.context.events.send(&self.space, self.id, kind);
            }
            self.context.cache.unloaded(self);
            self.wake(&mut slot);
            if slot.arrived {
                self.context.applier.enqueue(self, &mut slot);
            }
            gone
        };
        // Dropping a large document takes long, so not under the lock.
        drop(gone);
    }

    /// Drops the loaded state if no thread uses it; returns whether it is dropped.
    pub(crate) fn try_unload(&self) -> bool {
        let gone = {
            let mut slot = self.slot.lock();
            if slot.writer.is_some() || slot.building.is_some() {
                return false;
            }
            match &slot.state {
                State::Published(loaded) if Arc::strong_count(loaded) > 1 => return false,
                State::Loading(_) | State::InPlace(_) => return false,
                State::Deleted => None,
                State::Published(_) | State::Unloaded => {
                    Some(std::mem::replace(&mut slot.state, State::Unloaded))
                }
            }
            .inspect(|_| self.context.cache.unloaded(self))
        };
        drop(gone);
        true
    }

    /// After a load: records that automerge could not read all of the bytes, or that this version can
    /// although an earlier one could not. Returns the event to send.
    fn note_quarantine(&self, reason: Option<&str>) -> Result<Option<EventKind>, StoreError> {
        let context = &self.context;
        let reported = self.reported_quarantine.swap(reason.is_some(), Ordering::Relaxed);
        let reported = reason.filter(|_| !reported);
        let kind = reported.map(|reason| EventKind::Quarantined { reason: reason.to_owned() });
        let known = context.log.quarantine(self.row, &self.id)?;
        if known.as_ref().map(|known| known.reason.as_str()) != reason && !context.access.read_only
        {
            context.log.submit_quarantine(self.row, self.id, reason.map(str::to_owned));
        }
        Ok(kind)
    }

    /// The event, sent once, that the document has too many actors.
    fn warn_of_actors(&self, loaded: &Loaded) -> Option<EventKind> {
        let actors = loaded.automerge.stats().num_actors;
        let warn = actors > crate::limits::MANY_ACTORS
            && !self.reported_actors.swap(true, Ordering::Relaxed);
        warn.then(|| {
            tracing::warn!(document = %self.id, actors, "the document has too many actors");
            EventKind::ManyActors { actors }
        })
    }

    /// Calls `look` with the document if it is in memory, complete, and not being changed. Never waits.
    pub(crate) fn with_loaded<T>(&self, look: impl FnOnce(&Automerge) -> T) -> Option<T> {
        let loaded = {
            let slot = self.slot.try_lock()?;
            match &slot.state {
                State::Published(loaded) if slot.quarantined.is_none() => Arc::clone(loaded),
                _ => return None,
            }
        };
        Some(look(&loaded.automerge))
    }

    /// The facts about it that need no load.
    pub(crate) fn condition(&self) -> Condition {
        let (published, loaded, quarantined) = {
            let slot = self.slot.lock();
            let (published, loaded) = match &slot.state {
                State::Published(loaded) => (Some(Arc::clone(loaded)), true),
                State::InPlace(_) => (None, true),
                State::Unloaded | State::Loading(_) | State::Deleted => (None, false),
            };
            (published, loaded, slot.quarantined.clone().filter(|_| loaded))
        };
        let actors = published.map(|loaded| loaded.automerge.stats().num_actors);
        Condition { loaded, actors, quarantined }
    }

    /// Whether the application has a handle to it.
    pub(crate) fn is_held(&self) -> bool {
        self.handles.load(Ordering::Relaxed) > 0
    }
}
