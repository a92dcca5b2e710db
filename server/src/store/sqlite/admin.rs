//! The embedded store's Admin role.

use landfall_protocol::error_chain;
use landfall_protocol::snapshot::Snapshot;
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};

use super::SqliteStore;
use crate::store::contract::Admin;
use crate::store::damage::condition::{Condition, Known};
use crate::store::log::repairing;
use crate::store::{
    Examined, Replaced, StoreError, StoreGauges, Subject, Verification, compaction,
};

impl Admin for SqliteStore {
    fn condition(&self) -> Condition {
        let fsync_failed = self.db.fsync_failure().map(|error| error_chain(&*error));
        let gone = self.db.gone().map(ToString::to_string);
        let writer_panicked = self.db.writer_panic().map(|error| error_chain(&*error));
        let wal = self.db.wal_damage().map(ToString::to_string);
        self.found.condition(gone, fsync_failed, writer_panicked, wal)
    }

    fn is_damaged(&self, space: &SpaceName, document: &DocumentId) -> bool {
        self.found.is_damaged(space, document)
    }

    fn known_damage(&self, space: &SpaceName, document: &DocumentId) -> Option<Known> {
        self.found.known(space, document)
    }

    fn forget_damage(&self, space: &SpaceName, document: &DocumentId, known: Known) -> bool {
        self.found.forget(space, document, known)
    }

    fn keep_condition(&self) -> bool {
        self.keep_new_condition()
    }

    fn examine(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        after: Option<Offset>,
    ) -> Result<Examined, StoreError> {
        // Bypasses the recorder: the damage is already known, and the recorder counts reads by clients to
        // determine whether it persists.
        let what = "examine a document";
        let examined = self.db.read(|conn| repairing::examine(conn, space, document, after));
        examined.map_err(|error| StoreError::of_read(what, error))
    }

    fn repair_changes(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        changes: Vec<(ChangeHash, Vec<u8>)>,
    ) -> Result<Replaced, StoreError> {
        let (space, document) = (space.clone(), *document);
        self.write("replace damaged changes", move |tx| {
            let repaired = repairing::changes(tx, &space, &document, &changes)?;
            if repaired.count > 0 {
                compaction::retry_repaired(tx, &space, &document)?;
            }
            Ok(repaired)
        })
    }

    fn repair_snapshot(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        snapshot: Snapshot,
    ) -> Result<bool, StoreError> {
        let (space, document, hash) = (space.clone(), *document, *hash);
        self.write("replace a damaged snapshot", move |tx| {
            let is_repaired = repairing::snapshot(tx, &space, &document, &hash, &snapshot)?;
            if is_repaired {
                compaction::retry_repaired(tx, &space, &document)?;
            }
            Ok(is_repaired)
        })
    }

    fn gauges(&self) -> Result<StoreGauges, StoreError> {
        let last = |subject| Verification::beside(self.db.path()?, subject);
        let failed = |error: landfall_storage::StorageError| {
            StoreError::new("read its size", error.class(), error)
        };
        Ok(StoreGauges {
            verified: last(Subject::Store),
            copy_verified: last(Subject::Copy),
            store_bytes: self.db.size_bytes().map_err(failed)?,
            free_bytes: self.db.free_bytes(),
            ..self.indexes.gauges()
        })
    }
}
