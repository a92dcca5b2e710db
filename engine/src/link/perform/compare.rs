//! Reads the store for a comparison of the two ends, and for snapshot uploads.

use landfall_protocol::client::Replica;
use landfall_protocol::digest::Prefix;
use landfall_protocol::{DocumentId, Moment, SpaceName};

use super::{Outcome, Performer};
use crate::events::EventKind;
use crate::status::SyncStatus;
use crate::store::{Compared, SpaceRow};

impl Performer {
    pub(super) fn load_branches(
        &mut self,
        replica: &mut Replica,
        now: Moment,
        space: &SpaceName,
        prefixes: &[(Prefix, bool)],
    ) {
        let Some(row) = self.row(space) else { return };
        if prefixes.iter().any(|(prefix, _)| *prefix == Prefix::ROOT) {
            self.expected.remove(space);
        }
        let found = match self.is_checking(row) {
            true => self.log.compared_branches(row, prefixes).map(|read| self.read(space, read)),
            false => self.log.branches(row, prefixes),
        };
        match found {
            Ok(branches) => replica.handle_branches(now, space, &branches),
            Err(error) => replica.handle_store_failed(error.to_string()),
        }
    }

    pub(super) fn load_heads(
        &mut self,
        replica: &mut Replica,
        space: &SpaceName,
        documents: &[DocumentId],
    ) {
        let Some(row) = self.row(space) else { return };
        let found = match self.is_checking(row) {
            true => self.log.compared_heads(row, documents).map(|read| self.read(space, read)),
            false => self.log.heads_of(row, documents),
        };
        match found {
            Ok(heads) => replica.handle_heads(space, heads),
            Err(error) => replica.handle_store_failed(error.to_string()),
        }
    }

    /// Whether a read is for a check, rather than for a comparison after which no drift is reported.
    fn is_checking(&self, row: SpaceRow) -> bool {
        let sync = self.store.context.status.space(row).map(|space| space.sync);
        !matches!(sync, Some(SyncStatus::Comparing { .. }))
    }

    /// Records which documents were expected to differ when they were read.
    fn read<T>(&mut self, space: &SpaceName, read: Compared<T>) -> T {
        if !read.expected.is_empty() {
            self.expected.entry(space.clone()).or_default().extend(read.expected);
        }
        read.found
    }

    /// All that the relay has is here, except the documents that differ: entries that it could not read
    /// are not missing.
    fn forget_damage(&self, row: SpaceRow, but: Vec<DocumentId>) {
        match self.log.damaged_at_relay(row) {
            Ok(damaged) if damaged.is_empty() => {}
            Ok(_) => {
                let done = self.counted(row, |()| Outcome::Settled);
                self.log.submit_forget_damage(row, but, done);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the entries that are damaged at the relay")
            }
        }
    }

    /// A check completed; returns how many documents differed without a known reason.
    pub(super) fn checked(
        &mut self,
        space: &SpaceName,
        mut drifted: Vec<DocumentId>,
        more: u64,
    ) -> u64 {
        let expected = self.expected.remove(space).unwrap_or_default();
        let Some(row) = self.row(space) else { return drifted.len() as u64 + more };
        if more == 0 {
            self.forget_damage(row, drifted.clone());
        }
        // A rejected document, or one with deferred entries, differs as long as that lasts: it was
        // reported, and is in the status. An edited or deleted document differs until that is sent.
        drifted.retain(|document| !expected.contains(document));
        let drifted = match self.log.unexplained(row, &drifted) {
            Ok(drifted) => drifted,
            Err(error) => {
                tracing::warn!(%space, %error, "cannot read which documents are rejected");
                drifted
            }
        };
        let count = drifted.len() as u64 + more;
        for document in &drifted {
            tracing::error!(%space, %document, "the relay and this store have drifted apart");
            self.store.context.events.send(space, *document, EventKind::Drifted);
        }
        if more > 0 {
            tracing::error!(%space, more, "more documents have drifted apart");
        }
        self.store.context.status.add_check(row, count);
        count
    }
}
