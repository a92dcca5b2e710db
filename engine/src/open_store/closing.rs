//! How a store is closed: compaction of what is due, then the end of its threads and its log.

use std::sync::{Arc, Weak};

use landfall_compaction::CompactionLimits;
use landfall_protocol::{ChangeHash, DocumentId};

use super::OpenStore;
use crate::compactor::{Compactor, Saved};
use crate::document::OpenDocument;
use crate::error::StoreError;
use crate::failure::StoreFailure;
use crate::store::SpaceRow;

impl OpenStore {
    /// Calls fail from now on.
    pub(crate) fn begin_close(&self) {
        self.context.access.close();
    }

    /// Ends the threads, then the log, in the order in which they use each other. The threads that use
    /// this store from outside have ended.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let context = &self.context;
        if let Some(compactor) = &context.commits.compactor {
            compactor.close();
        }
        context.applier.close();
        if let Some(compactor) = &context.commits.compactor {
            self.compact_at_close(compactor);
        }
        let leaving = context.actors.close(&context.log);
        let closed = context.log.database().close().map_err(|error| {
            let class = StoreFailure::from(error.class());
            StoreError { class, source: Box::new(error) }
        });
        if let (Ok(()), Some(leaving)) = (&closed, leaving) {
            leaving.leave();
        }
        context.cache.close();
        context.events.close();
        context.status.close();
        self.notifier.close();
        closed
    }

    /// Keeps the bytes with which automerge saved a document that is not in memory, so that it can be
    /// compacted at close without applying its changes again.
    pub(crate) fn compact_later(
        &self,
        key: (SpaceRow, DocumentId),
        head: ChangeHash,
        bytes: Vec<u8>,
    ) {
        if let Some(compactor) = &self.context.commits.compactor {
            compactor.keep(Saved { key, head, bytes });
        }
    }

    /// Compacts the due documents whose saved bytes or loaded state is in memory, within a budget: a program
    /// that opens a store, pastes a long text and closes it leaves no time for a background compaction.
    fn compact_at_close(&self, compactor: &Compactor) {
        let open: Vec<Arc<OpenDocument>> =
            self.documents.lock().values().filter_map(Weak::upgrade).collect();
        let mut closing = compactor.closing(&self.context.log);
        for Saved { key, head, bytes } in compactor.take_kept() {
            let compaction = |limits: &CompactionLimits, heads: &[ChangeHash]| {
                let compacted =
                    (heads == [head]).then(|| landfall_compaction::open(bytes, limits))?;
                // Saved bytes with other heads are outdated: the document is then compacted from its log,
                // as all others are.
                compacted.ok().filter(|compacted| compacted.heads == heads).map(Ok)
            };
            match closing.compact(key, compaction) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "cannot compact at close"),
            }
        }
        for document in open {
            let compaction = |limits: &CompactionLimits, heads: &[ChangeHash]| {
                document.with_loaded(|automerge| {
                    let is_whole = automerge.get_heads() == heads;
                    is_whole.then(|| landfall_compaction::compact_loaded(automerge, limits))
                })?
            };
            match closing.compact(document.key(), compaction) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "cannot compact at close"),
            }
        }
    }
}
