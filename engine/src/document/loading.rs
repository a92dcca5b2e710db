//! The state that a reader receives, and loading it from the store.
//!
//! A reader may wait for the engine (a load, a commit), but for an application's closure only within
//! its patience. Loads run without the lock, and their result is put into the slot only if the slot
//! still expects it.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::load::{self, FoundDocument};
use super::slot::{Look, Slot, State, StoreCopy};
use super::{Changing, Loaded, OpenDocument};
use crate::error::{ReadError, StoreError};
use crate::failure::StoreFailure;

type Guard<'a> = MutexGuard<'a, Slot>;

impl OpenDocument {
    /// The last committed state.
    pub(super) fn committed(self: &Arc<Self>) -> Result<Arc<Loaded>, ReadError> {
        if self.context.access.is_closed() {
            return Err(StoreError::closed().into());
        }
        self.context.access.present(self.row)?;
        let (nested, mut patience) = (Changing::is_here(), None);
        let mut slot = self.slot.lock();
        if slot.is_mine() {
            return Err(ReadError::Reentrant);
        }
        loop {
            match slot.look(nested, &mut patience) {
                Look::Here(loaded) => {
                    drop(slot);
                    self.context.cache.used(self);
                    return Ok(loaded);
                }
                Look::Deleted => return Err(ReadError::Deleted),
                Look::Load => slot = self.load(slot)?,
                Look::LoadCopy(edit) => slot = self.load_copy(slot, edit)?,
                Look::Wait(None) => self.changed.wait(&mut slot),
                Look::Wait(Some(until)) => drop(self.changed.wait_until(&mut slot, until)),
            }
        }
    }

    /// Loads the document into the slot, unless the slot has changed by then, possibly to a later state
    /// than the loaded one. The caller looks again.
    pub(super) fn load<'a>(
        self: &'a Arc<Self>,
        mut slot: Guard<'a>,
    ) -> Result<Guard<'a>, StoreError> {
        let number = slot.begin_load();
        drop(slot);
        let unfinished = Unfinished { document: self, load: Load::State(number) };
        let found = load::load(&self.context.log, self.row, &self.id)
            .inspect_err(|error| self.note_unreadable(number, error))?;
        let (state, quarantined) = match found {
            FoundDocument::Document { loaded, quarantined } => (Some(loaded), quarantined),
            FoundDocument::Deleted => (None, None),
        };
        let mut events = Vec::new();
        if let Some(loaded) = &state {
            events.extend(self.note_quarantine(quarantined.as_deref())?);
            events.extend(self.warn_of_actors(loaded));
        }
        let bytes = state.as_ref().map(|loaded| loaded.bytes());
        {
            let mut slot = self.slot.lock();
            if slot.is_loading(number) {
                if let Some(bytes) = bytes {
                    self.context.cache.put(self, bytes);
                }
                slot.state = state.map_or(State::Deleted, State::Published);
                self.context.status.set_unreadable(self.row, self.id, quarantined.clone());
                slot.quarantined = quarantined;
            }
            events.into_iter().for_each(|kind| self.tell(&slot, kind));
        }
        drop(unfinished);
        self.context.cache.make_room(self);
        Ok(self.slot.lock())
    }

    /// Makes the status show a failed load if the store is damaged there.
    fn note_unreadable(&self, load: u64, error: &StoreError) {
        let slot = self.slot.lock();
        if error.class == StoreFailure::Corrupt && slot.is_loading(load) {
            self.context.status.set_unreadable(self.row, self.id, Some(error.to_string()));
        }
    }

    /// Loads a copy of the committed state while an edit changes the only copy. Later readers share the
    /// copy until the edit ends.
    fn load_copy<'a>(
        self: &'a Arc<Self>,
        mut slot: Guard<'a>,
        edit: u64,
    ) -> Result<Guard<'a>, ReadError> {
        if let Some(in_place) = slot.in_place(edit) {
            in_place.copy = StoreCopy::Loading;
        }
        drop(slot);
        let unfinished = Unfinished { document: self, load: Load::Copy(edit) };
        let found = load::load(&self.context.log, self.row, &self.id)?;
        let FoundDocument::Document { loaded, .. } = found else { return Err(ReadError::Deleted) };
        {
            let mut slot = self.slot.lock();
            // A copy that is late is discarded: the edit's own state may lack changes that it has.
            if let Some(in_place) = slot.in_place(edit).filter(|edit| !edit.committing) {
                in_place.copy = StoreCopy::Loaded(loaded);
            }
        }
        drop(unfinished);
        Ok(self.slot.lock())
    }
}

enum Load {
    /// For the state, with this number.
    State(u64),
    /// For a copy beside this edit.
    Copy(u64),
}

/// A load in progress. However it ends, waiting readers look again.
struct Unfinished<'a> {
    document: &'a Arc<OpenDocument>,
    load: Load,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut slot = self.document.slot.lock();
        match self.load {
            Load::State(number) => {
                if slot.is_loading(number) {
                    slot.state = State::Unloaded;
                }
            }
            Load::Copy(edit) => {
                if let Some(in_place) = slot.in_place(edit)
                    && matches!(in_place.copy, StoreCopy::Loading)
                {
                    in_place.copy = StoreCopy::None;
                }
            }
        }
        self.document.wake(&mut slot);
    }
}
