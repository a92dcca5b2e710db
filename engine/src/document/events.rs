//! A document's events, in the order of what they tell.
//!
//! An event is put into the slot together with the state that it tells. It is sent without the
//! lock, since that wakes the application's tasks; one thread at a time sends, so that the order
//! stays.

use std::sync::Arc;

use automerge::Patch;
use landfall_protocol::ChangeHash;

use super::OpenDocument;
use super::slot::{Slot, State};
use crate::events::{EventKind, Origin};

impl Slot {
    /// The document has these heads now. No event follows a deletion.
    pub(super) fn tell_changed(
        &mut self,
        origin: Origin,
        heads: Vec<ChangeHash>,
        patches: Option<Arc<[Patch]>>,
    ) {
        if !matches!(self.state, State::Deleted) {
            self.told = Some((origin, heads.clone()));
            self.events.push_back(EventKind::Changed { origin, heads, patches });
        }
    }
}

impl OpenDocument {
    /// Sends what waits in the slot, unless another thread is at it: then that one does. The caller
    /// holds no lock and no writer right: this wakes the application's tasks.
    pub(crate) fn tell_pending(&self) {
        loop {
            let kinds = {
                let mut slot = self.slot.lock();
                if slot.sending || slot.events.is_empty() {
                    return;
                }
                slot.sending = true;
                std::mem::take(&mut slot.events)
            };
            let sending = Sending(self);
            for kind in kinds {
                self.core.events.send(&self.space, self.id, kind);
            }
            drop(sending);
        }
    }

    /// Nothing is loaded that could say more: the next `tell_pending` sends an event with the
    /// store's heads and without patches.
    pub(super) fn note_unloaded(&self) {
        let log = &self.core.log;
        let heads = match log.document(self.row, &self.id) {
            Ok(Some(row)) => log.heads(row).unwrap_or_default(),
            Ok(None) | Err(_) => Vec::new(),
        };
        self.slot.lock().tell_changed(Origin::Remote, heads, None);
    }
}

/// Ends even if a task's waker panics.
struct Sending<'a>(&'a OpenDocument);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.slot.lock().sending = false;
    }
}
