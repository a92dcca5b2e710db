//! A document's events, in the order of its states.
//!
//! An event is sent under the slot's lock, together with its state: sending only appends it to the ring
//! of events, and wakes no task itself (`notify`).

use std::sync::Arc;

use automerge::Patch;
use landfall_protocol::ChangeHash;

use super::OpenDocument;
use super::slot::{Slot, State};
use crate::events::{EventKind, Origin};

impl OpenDocument {
    /// Whether it has listeners: if not, patches need not be computed.
    pub(super) fn has_listeners(&self) -> bool {
        self.context.events.has_listeners(&self.space, &self.id)
    }

    /// Sends that the document, whose slot the caller holds, has these heads now.
    pub(super) fn tell_changed(
        &self,
        slot: &mut Slot,
        origin: Origin,
        heads: Vec<ChangeHash>,
        patches: Option<Arc<[Patch]>>,
    ) {
        slot.told = Some((origin, heads.clone()));
        self.tell(slot, EventKind::Changed { origin, heads, patches });
    }

    /// Sends an event of the document, whose slot the caller holds. No event follows a deletion.
    pub(super) fn tell(&self, slot: &Slot, kind: EventKind) {
        if !matches!(slot.state, State::Deleted) {
            self.context.events.send(&self.space, self.id, kind);
        }
    }

    /// Without a loaded state: sends an event with the store's heads and without patches.
    pub(super) fn note_unloaded(&self) {
        let log = &self.context.log;
        let heads = match log.document(self.row, &self.id) {
            Ok(Some(row)) => log.heads(row).unwrap_or_default(),
            Ok(None) | Err(_) => Vec::new(),
        };
        self.tell_changed(&mut self.slot.lock(), Origin::Remote, heads, None);
    }
}
