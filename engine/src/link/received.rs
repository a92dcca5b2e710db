//! Publishes what a relay has sent, after it is in the store: wakes the applier, invalidates documents and
//! sends events.

use std::sync::Arc;

use landfall_protocol::frame::DAMAGED_UNKNOWN;
use landfall_protocol::{DocumentId, SpaceName};
use landfall_storage::Committed;

use super::commands::LinkCommands;
use crate::events::{EventKind, Origin};
use crate::open_store::OpenStore;
use crate::store::{DocumentLimit, ExceededLimit, Received, SpaceRow};

/// Publishes received entries and ephemeral messages.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(super) store: Arc<OpenStore>,
    pub(super) commands: Arc<LinkCommands>,
}

impl Publisher {
    /// A batch is in the store. Called on the writer thread: it must not block.
    pub(crate) fn received(&self, space: &SpaceName, row: SpaceRow, received: Committed<Received>) {
        let (store, context) = (&self.store, &self.store.context);
        let received = received.value;
        context.commits.notify_compactor();
        if !received.deferred.is_empty() {
            // A comparison may bring the missing dependencies.
            self.commands.check(row);
        }
        for (document, reason) in received.deferred {
            tracing::warn!(%space, %document, reason, "deferred an entry");
            if document == DAMAGED_UNKNOWN {
                continue;
            }
            context.events.send(space, document, EventKind::Deferred { reason });
        }
        for document in received.unrelated {
            tracing::warn!(%space, %document, "deferred an unrelated history under the same document id");
            context.events.send(space, document, EventKind::Unrelated);
        }
        for (document, excess) in received.oversized {
            if !self.commands.oversized.is_new((row, document, excess.of)) {
                continue;
            }
            let ExceededLimit { of, actual, limit } = excess;
            tracing::warn!(%space, %document, %of, actual, limit, "a document exceeds a limit; it continues to sync");
            let kind = match of {
                DocumentLimit::Bytes => EventKind::Oversized { bytes: actual, limit },
                _ => EventKind::OverBudget { excess },
            };
            context.events.send(space, document, kind);
        }
        for superseded in received.superseded {
            let (document, changes) = (superseded.document, superseded.changes);
            tracing::warn!(%space, %document, changes, "changes made here were superseded");
            context.events.send(space, document, EventKind::Conflicted);
            store.forget_document(row, document);
        }
        for deleted in received.deleted {
            let (document, unsent) = (deleted.document, deleted.unsent);
            store.delete_document(space, row, document, Some(EventKind::Deleted { unsent }));
        }
        for touched in received.touched {
            match store.known(row, touched.document) {
                Some(open) => context.applier.notify(&open),
                None => {
                    let (origin, heads) = (Origin::Remote, touched.heads);
                    let kind = EventKind::Changed { origin, heads, patches: None };
                    context.events.send(space, touched.document, kind);
                }
            }
        }
    }

    /// Emits a received ephemeral message if the application has the document open.
    pub(crate) fn heard(&self, space: &SpaceName, row: SpaceRow, id: DocumentId, kind: EventKind) {
        let open = self.store.known(row, id);
        if open.is_some_and(|open| open.is_held()) {
            self.store.context.events.send(space, id, kind);
        }
    }
}
