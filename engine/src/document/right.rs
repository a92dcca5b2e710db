//! The writer right: its holder makes a document's next state.
//!
//! An application thread holds it through its closure and its commit. Only other writers of the same
//! document wait for it. A swap holds it while the engine computes.

use std::sync::Arc;

use parking_lot::{ArcMutexGuard, RawMutex};

use super::built::Built;
use super::slot::{Slot, Writer, thread_number};
use super::{Changing, OpenDocument};

/// The writer right of one document.
pub(super) struct Right {
    pub(super) document: Arc<OpenDocument>,
    /// The position among the application's writers; released after the right.
    _order: Option<ArcMutexGuard<RawMutex, ()>>,
}

impl Right {
    /// Waits for the document's other writers. Returns also the state that the applier has built
    /// meanwhile, which the holder must swap in first (`swap::begin_writing`).
    pub(super) fn of_application(
        document: &Arc<OpenDocument>,
        _: &Changing,
    ) -> (Self, Option<Box<Built>>) {
        let order = document.writers.lock_arc();
        let built = {
            let mut slot = document.slot.lock();
            // A swap runs no application code, so the wait is short.
            while slot.writer.is_some() {
                document.changed.wait(&mut slot);
            }
            slot.writer = Some(Writer::Application(thread_number()));
            slot.built.take()
        };
        (Self { document: Arc::clone(document), _order: Some(order) }, built)
    }

    /// The right for a swap, if no thread has it.
    pub(super) fn of_swap(document: &Arc<OpenDocument>, slot: &mut Slot) -> Option<Self> {
        match slot.writer {
            Some(_) => None,
            None => {
                slot.writer = Some(Writer::Swap);
                Some(Self { document: Arc::clone(document), _order: None })
            }
        }
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        let mut slot = self.document.slot.lock();
        slot.writer = None;
        self.document.wake(&mut slot);
    }
}

impl OpenDocument {
    /// Wakes the threads that wait for the slot, and queues the document for the applier if that can go
    /// on.
    pub(super) fn wake(self: &Arc<Self>, slot: &mut Slot) {
        self.changed.notify_all();
        if slot.calls_applier() {
            self.context.applier.enqueue(self, slot);
        }
    }
}
