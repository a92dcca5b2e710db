//! Reading what the machine needs to compare the two ends, and to offer folded history.

use landfall_protocol::digest::Prefix;
use landfall_protocol::replica::Replica;
use landfall_protocol::{DocumentId, Moment, SpaceName};

use super::Performer;
use crate::events::EventKind;

impl Performer {
    pub(super) fn load_branches(
        &self,
        replica: &mut Replica,
        now: Moment,
        space: &SpaceName,
        prefixes: &[(Prefix, bool)],
    ) {
        let Some(row) = self.row(space) else { return };
        match self.core.log.branches(row, prefixes) {
            Ok(branches) => replica.handle_branches(now, space, &branches),
            Err(error) => replica.handle_store_failed(error.to_string()),
        }
    }

    pub(super) fn load_heads(
        &self,
        replica: &mut Replica,
        space: &SpaceName,
        documents: &[DocumentId],
    ) {
        let Some(row) = self.row(space) else { return };
        match self.core.log.heads_of(row, documents) {
            Ok(heads) => replica.handle_heads(space, heads),
            Err(error) => replica.handle_store_failed(error.to_string()),
        }
    }

    pub(super) fn load_snapshot_part(
        &self,
        replica: &mut Replica,
        now: Moment,
        space: &SpaceName,
        document: DocumentId,
        hash: [u8; 32],
        from: u64,
    ) {
        let Some(row) = self.row(space) else { return };
        match self.core.log.snapshot_part(row, &document, &hash, from) {
            Ok(part) => replica.handle_snapshot_part(now, space, document, from, part),
            Err(error) => replica.handle_store_failed(error.to_string()),
        }
    }

    /// A check came to its end; gives how many documents differed without a known reason.
    pub(super) fn checked(&self, space: &SpaceName, drifted: &[DocumentId], more: u64) -> u64 {
        let Some(row) = self.row(space) else { return drifted.len() as u64 + more };
        // A document that is refused, or of which something is aside, differs as long as it is: that
        // was told, and is in the status.
        let drifted = match self.log.unexplained(row, drifted) {
            Ok(drifted) => drifted,
            Err(error) => {
                tracing::warn!(%space, %error, "what is refused could not be read");
                drifted.to_vec()
            }
        };
        let count = drifted.len() as u64 + more;
        for document in &drifted {
            tracing::error!(%space, %document, "the relay and this store had drifted apart");
            self.core.events.send(space, *document, EventKind::Drifted);
        }
        if more > 0 {
            tracing::error!(%space, more, "the relay and this store had drifted apart elsewhere too");
        }
        self.core.status.add_check(row, count);
        count
    }
}
