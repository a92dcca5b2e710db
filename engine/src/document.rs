//! A loaded document: who may touch it when.
//!
//! The application's code never runs under a lock of ours. One short mutex, `slot`, is held for
//! look-ups only. A reader takes the published state out of it, an `Arc`, and runs its closure on
//! that (`loading`). Who makes the next state has the *writer right* (`right`): one thread of the
//! application's, from before its closure until after its commit, or the applier for the moment of
//! a swap. The right is no lock for anybody but other writers of the same document:
//!
//! - A reader that finds the only copy being changed in place waits for the engine's own commit,
//!   but not for the closure: it loads what the store holds.
//! - The applier leaves what it has built in the slot, and the writer takes it in at its next
//!   change, or calls the applier when it is done.
//!
//! A state is published by the completion of its commit, on the store's writer thread, together
//! with its event. A deletion, a failed commit and changes that were taken out of the store begin
//! a new *generation*; what was built on an older one is never published.
//!
//! A loaded document that no thread uses may be let go (`cache`), and is read from the store at the
//! next access.

mod apply;
mod branch;
mod build;
mod cache;
mod commit;
mod edit;
mod events;
mod load;
mod loading;
mod merge;
mod nesting;
mod right;
mod slot;
mod swap;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use automerge::{Automerge, ReadDoc};
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::{Condvar, Mutex};

use crate::actors::Own;
use crate::core::Core;
use crate::error::{ReadError, StoreError};
use crate::events::EventKind;
use crate::store::SpaceRow;
use slot::{Slot, State};

pub(crate) use apply::Applier;
pub(crate) use cache::{Cache, Memory};
pub(crate) use commit::commit;
pub(crate) use edit::{Edit, now_ms};
pub(crate) use load::{apply_parsed, empty, panic_text};
pub(crate) use nesting::Changing;

/// One document that the application has open, or that is loaded.
pub(crate) struct OpenDocument {
    pub(crate) core: Arc<Core>,
    pub(crate) space: SpaceName,
    pub(crate) row: SpaceRow,
    pub(crate) id: DocumentId,
    /// Orders the application's writers, fairly. Taken before `slot`, never while that is held.
    writers: Arc<Mutex<()>>,
    /// Held for look-ups only: never while code of the application's, automerge or SQLite runs.
    slot: Mutex<Slot>,
    /// Something changed in the slot that a reader or writer may wait for.
    changed: Condvar,
    /// The applier leaves the document alone until then. Taken last.
    rests_until: Mutex<Option<Instant>>,
    /// Handles that the application has. Without any, nothing that arrives is applied.
    handles: AtomicUsize,
    /// That it has very many actors was told.
    told_actors: AtomicBool,
    /// That it is quarantined was told.
    told_quarantine: AtomicBool,
    /// Makes the next computation of patches panic, as automerge might.
    #[cfg(test)]
    pub(crate) panic_in_patches: AtomicBool,
}

/// A document that an application has a handle to.
pub(crate) struct Held(Arc<OpenDocument>);

impl Held {
    pub(crate) fn new(document: Arc<OpenDocument>) -> Self {
        document.handles.fetch_add(1, Ordering::Relaxed);
        Self(document)
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Held {
    type Target = Arc<OpenDocument>;

    fn deref(&self) -> &Arc<OpenDocument> {
        &self.0
    }
}

/// What a document's slot tells of it.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// Whether it is in memory.
    pub(crate) loaded: bool,
    /// How many actors it has, if that is known without asking the store.
    pub(crate) actors: Option<u64>,
    /// Why it is quarantined, if it is in memory and is.
    pub(crate) quarantined: Option<String>,
}

/// One state of a document. Published, it is never changed: readers may have it for any time.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) automerge: Automerge,
    /// The actors that this opening has taken, once it has.
    own: Option<Own>,
    /// Everything up to this local sequence number is in `automerge`.
    applied: u64,
    /// Bytes that the store has of it.
    stored_bytes: u64,
}

impl Loaded {
    /// About how many bytes it takes in memory.
    fn bytes(&self) -> u64 {
        cache::estimate(&self.automerge, self.stored_bytes)
    }
}

impl OpenDocument {
    pub(crate) fn new(core: Arc<Core>, space: SpaceName, row: SpaceRow, id: DocumentId) -> Self {
        Self {
            core,
            space,
            row,
            id,
            writers: Arc::default(),
            slot: Mutex::default(),
            changed: Condvar::new(),
            rests_until: Mutex::new(None),
            handles: AtomicUsize::new(0),
            told_actors: AtomicBool::new(false),
            told_quarantine: AtomicBool::new(false),
            #[cfg(test)]
            panic_in_patches: AtomicBool::new(false),
        }
    }

    /// Which document it is, of all of the store.
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

    /// The store holds something else than what is loaded by now, and not only more: changes were
    /// taken out of it. What is loaded goes, and nothing that was built on it is published.
    pub(crate) fn outdate(self: &Arc<Self>) {
        self.begin_generation(State::Unloaded, None);
    }

    /// The document is deleted, for good; `kind` is sent after every event that was before it.
    pub(crate) fn delete(self: &Arc<Self>, kind: Option<EventKind>) {
        self.begin_generation(State::Deleted, kind);
    }

    /// Puts `state` in place of whatever is there. Never waits: it may be called on the store's
    /// writer thread.
    fn begin_generation(self: &Arc<Self>, state: State, kind: Option<EventKind>) {
        let gone = {
            let mut slot = self.slot.lock();
            if matches!((&slot.state, &state), (State::Deleted, State::Unloaded)) {
                // Nothing comes after a deletion.
                return;
            }
            let was_deleted = matches!(slot.state, State::Deleted);
            let gone = slot.begin_generation(state);
            if let Some(kind) = kind.filter(|_| !was_deleted) {
                self.core.events.send(&self.space, self.id, kind);
            }
            self.core.cache.unloaded(self);
            self.wake(&mut slot);
            if slot.arrived {
                self.core.applier.enqueue(self, &mut slot);
            }
            gone
        };
        // A large document, so not under the lock.
        drop(gone);
    }

    /// Lets the loaded state go if no thread uses it; gives whether it is gone.
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
            .inspect(|_| self.core.cache.unloaded(self))
        };
        drop(gone);
        true
    }

    /// After a load: keeps that automerge could not take all of the bytes; or notes that this
    /// version can, if an earlier one could not. Gives what is to be told.
    fn note_quarantine(&self, reason: Option<&str>) -> Result<Option<EventKind>, StoreError> {
        let core = &self.core;
        let told = self.told_quarantine.swap(reason.is_some(), Ordering::Relaxed);
        let told = reason.filter(|_| !told);
        let kind = told.map(|reason| EventKind::Quarantined { reason: reason.to_owned() });
        let known = core.log.quarantine(self.row, &self.id)?;
        if known.as_ref().map(|known| known.reason.as_str()) != reason && !core.read_only {
            core.log.submit_quarantine(self.row, self.id, reason.map(str::to_owned));
        }
        Ok(kind)
    }

    /// To be told, once: that the document has more actors than is good for it.
    fn warn_of_actors(&self, loaded: &Loaded) -> Option<EventKind> {
        let actors = loaded.automerge.stats().num_actors;
        let warn =
            actors > crate::options::MANY_ACTORS && !self.told_actors.swap(true, Ordering::Relaxed);
        warn.then(|| {
            tracing::warn!(document = %self.id, actors, "the document has very many actors");
            EventKind::ManyActors { actors }
        })
    }

    /// Calls `look` with the document if it is in memory as automerge could read all of it, and
    /// nobody is changing it. Never waits.
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

    /// What is known of it without loading it.
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
