//! Replaces damaged data of the store by data of a client's upload: single changes, and a damaged snapshot by
//! a compaction of exactly the changes that it covered.

use std::sync::Arc;

use landfall_compaction::{Job, JobKind, Supervisor};
use landfall_protocol::admission::change_hash;
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};

use super::CompactorState;
use super::merging::snapshot_of;
use super::worker::Worker;
use crate::limits;
use crate::repairs::Repairs;

/// A document of a space.
type DocumentKey<'a> = (&'a SpaceName, &'a DocumentId);

/// A damaged snapshot that is being rebuilt.
struct Rebuilding {
    job: Job,
    /// The changes that the damaged one covered.
    index: Arc<PackedIndex>,
    hash: [u8; 32],
    offset: Offset,
}

impl Worker {
    /// If a document is known to be damaged, repairs it from the uploaded parts. False if the repair did not
    /// complete: the store may then lack changes that the upload contains.
    pub(super) fn repair_from(
        &self,
        shared: &CompactorState,
        place: DocumentKey<'_>,
        parts: &[Arc<Vec<u8>>],
    ) -> bool {
        let (space, document) = place;
        if self.store.known_damage(space, document).is_none() {
            return true;
        }
        let (Some(repairs), Some(supervisor)) = (shared.repairs.get(), &self.supervisor) else {
            return false;
        };
        let repaired = self.repair_with(supervisor, shared, repairs, (place, parts));
        if let Err(reason) = &repaired {
            tracing::warn!(%space, %document, reason,
                "cannot find the damaged changes in the data that a client sent");
        }
        repaired.is_ok()
    }

    fn repair_with(
        &self,
        supervisor: &Supervisor,
        shared: &CompactorState,
        repairs: &Repairs,
        (place, parts): (DocumentKey<'_>, &[Arc<Vec<u8>>]),
    ) -> Result<(), String> {
        let damaged = repairs.damaged(place.0, place.1).and_then(|damaged| damaged.snapshot);
        let mut rebuilding = match damaged {
            Some(hash) => Some(self.begin_rebuild(supervisor, place, hash)?),
            None => None,
        };
        let (mut found, mut bytes, mut failed) = (Vec::new(), 0, None);
        let mut take = |chunk: Vec<u8>| {
            let Ok(hash) = change_hash(&chunk) else { return };
            let compacted =
                rebuilding.as_mut().filter(|rebuilding| rebuilding.index.contains(&hash));
            if let Some(Err(error)) = compacted.map(|rebuilding| rebuilding.job.change(&chunk)) {
                failed.get_or_insert(error.to_string());
            }
            // All changes: which ones the store has damaged may not be known yet.
            bytes += chunk.len();
            found.push((hash, chunk));
            if bytes > limits::REPAIR_BYTES {
                bytes = 0;
                failed = failed.take().or(self.put(repairs, place, &mut found).err());
            }
        };
        let opened =
            parts.iter().try_for_each(|part| supervisor.changes_since(part, &[], &mut take));
        // Whole changes are written, even if the rest of the upload was rejected.
        self.put(repairs, place, &mut found)?;
        opened.map_err(|error| error.to_string())?;
        match (failed, rebuilding) {
            (Some(reason), _) => Err(reason),
            (None, Some(rebuilding)) => self.finish_rebuild(shared, repairs, place, rebuilding),
            (None, None) => Ok(()),
        }
    }

    /// Replaces damaged changes by these.
    fn put(
        &self,
        repairs: &Repairs,
        (space, document): DocumentKey<'_>,
        found: &mut Vec<(ChangeHash, Vec<u8>)>,
    ) -> Result<(), String> {
        let found = std::mem::take(found);
        if found.is_empty() {
            return Ok(());
        }
        let repaired = self.store.repair_changes(space, document, found);
        let replaced = repaired.map_err(|error| error.chain())?.count;
        if replaced > 0 {
            tracing::info!(%space, %document, replaced, "damaged changes were replaced");
            repairs.data_arrived(space, document);
        }
        Ok(())
    }

    fn begin_rebuild(
        &self,
        supervisor: &Supervisor,
        (space, document): DocumentKey<'_>,
        hash: [u8; 32],
    ) -> Result<Rebuilding, String> {
        // Without a whole index, the changes that the snapshot covered are unknown.
        let index = self.store.document_index(space, document, true);
        let index = index.map_err(|error| error.chain())?.ok_or("the document is gone")?;
        let compacted = index.compacted.filter(|compacted| compacted.hash == hash);
        let compacted = compacted.ok_or("it has been compacted since")?;
        let (index, offset) = (compacted.index.ok_or("its index is missing")?, compacted.offset);
        let job = supervisor.start(JobKind::Compaction).map_err(|error| error.to_string())?;
        Ok(Rebuilding { job, index, hash, offset })
    }

    fn finish_rebuild(
        &self,
        shared: &CompactorState,
        repairs: &Repairs,
        (space, document): DocumentKey<'_>,
        rebuilding: Rebuilding,
    ) -> Result<(), String> {
        let Rebuilding { job, index, hash, offset } = rebuilding;
        let snapshot = job.finish().and_then(snapshot_of).map_err(|error| error.to_string())?;
        if snapshot.changes != index.len() as u64 || snapshot.head_hashes() != index.heads() {
            return Err("it lacks changes of the damaged snapshot".to_owned());
        }
        // Sessions that are served the document from now on receive the new snapshot.
        if !shared.before_compaction.get().is_none_or(|notify| notify(space, offset)) {
            return Err("the hub has ended".to_owned());
        }
        match self.store.repair_snapshot(space, document, &hash, snapshot) {
            Ok(true) => {
                tracing::info!(%space, %document, "a damaged snapshot was replaced");
                repairs.data_arrived(space, document);
                Ok(())
            }
            Ok(false) => Err("another snapshot has replaced the damaged one".to_owned()),
            Err(error) => Err(error.chain()),
        }
    }
}
