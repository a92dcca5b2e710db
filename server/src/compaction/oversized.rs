//! Splits snapshots that exceed the size limit: their changes become single entries again.

use std::ops::ControlFlow;

use landfall_protocol::admission::preflight;
use landfall_protocol::{DocumentId, Epoch, SpaceName};

use super::worker::Worker;
use crate::limits;
use crate::store::CompactionInput;

impl Worker {
    /// Splits the oversized snapshots that an earlier version made, and that replicas reject. Blocks; no
    /// other writer may use the store meanwhile.
    pub(crate) fn repair_oversized(&self) {
        let limit = self.options.window.snapshot_bytes;
        let found = self.store.oversized(limit).unwrap_or_else(|error| {
            tracing::error!(error = error.chain(), "cannot look for oversized snapshots");
            Vec::new()
        });
        for (space, document, bytes) in found {
            match self.take_apart(&space, &document) {
                Ok(changes) => tracing::warn!(%space, %document, bytes, limit, changes,
                    "a snapshot exceeded the limit; the relay split it into single changes"),
                Err(reason) => tracing::error!(%space, %document, bytes, limit, reason,
                    "a snapshot exceeds the limit, and the relay cannot split it into single changes"),
            }
        }
    }

    /// Returns the number of changes that the snapshot had.
    fn take_apart(&self, space: &SpaceName, document: &DocumentId) -> Result<usize, String> {
        let supervisor = self.supervisor.as_ref().ok_or("the relay has no compaction worker")?;
        let mut base = None;
        let read = self.store.document_bases(space, document, &mut |input| {
            if let CompactionInput::Base(bytes) = input {
                base = Some(bytes);
            }
            ControlFlow::Break(())
        });
        read.map_err(|error| error.chain())?;
        let body = base.ok_or("the snapshot is gone")?;
        let hash = landfall_compaction::hash_of(&body);
        let (mut changes, mut bytes, mut bad) = (Vec::new(), 0, None);
        let opened = supervisor.changes_since(&body, &[], |change| {
            bytes += change.len();
            match preflight(&change) {
                _ if bytes > limits::EXPAND_BYTES => bad = Some("its changes are too large".into()),
                Ok(checked) => changes.push(checked),
                Err(error) => bad = Some(error.to_string()),
            }
        });
        opened.map_err(|error| error.to_string())?;
        if let Some(bad) = bad {
            return Err(bad);
        }
        let (count, mut epoch) = (changes.len(), [0; 16]);
        getrandom::fill(&mut epoch).map_err(|error| error.to_string())?;
        let epoch = Epoch::from_bytes(epoch);
        match self.store.expand(space, document, &hash, changes, epoch) {
            Ok(true) => Ok(count),
            Ok(false) => Err("the stored document no longer matches it".to_owned()),
            Err(error) => Err(error.chain()),
        }
    }
}
