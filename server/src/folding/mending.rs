//! What the store has lost of a document, taken out of a snapshot that a client offers: changes one by
//! one, and folded history as a fold of exactly the changes that it stood for.

use landfall_fold::{Job, JobKind, Supervisor};
use landfall_protocol::admission::change_hash;
use landfall_protocol::folded::PackedIndex;
use landfall_protocol::{ChangeHash, Offset};

use super::merging::snapshot_of;
use super::worker::Worker;
use super::{Offer, Shared};
use crate::healing::{Healing, Lost};
use crate::limits;

/// A lost snapshot that is made anew.
struct Remade {
    job: Job,
    /// What the lost one stood for.
    index: std::sync::Arc<PackedIndex>,
    hash: [u8; 32],
    offset: Offset,
}

impl Worker {
    /// Mends a document with what an offered snapshot has of what is lost, if anything is.
    pub(super) fn mend(&self, shared: &Shared, offer: &Offer) {
        let (space, document) = (&offer.space, &offer.document);
        let Some(healing) = shared.healing.get() else { return };
        let (Some(lost), Some(supervisor)) = (healing.lost(space, document), &self.supervisor)
        else {
            return;
        };
        if let Err(reason) = self.mend_with(supervisor, shared, healing, (offer, &lost)) {
            tracing::warn!(%space, %document, reason,
                "what is damaged could not be taken out of what was offered");
        }
    }

    fn mend_with(
        &self,
        supervisor: &Supervisor,
        shared: &Shared,
        healing: &Healing,
        (offer, lost): (&Offer, &Lost),
    ) -> Result<(), String> {
        let mut remade = match lost.snapshot {
            Some(hash) => Some(self.begin_remaking(supervisor, offer, hash)?),
            None => None,
        };
        let (mut found, mut bytes, mut failed) = (Vec::new(), 0, None);
        let opened = supervisor.changes_since(&offer.bytes, &[], |chunk| {
            let Ok(hash) = change_hash(&chunk) else { return };
            let folded = remade.as_mut().filter(|remade| remade.index.contains(&hash));
            if let Some(Err(error)) = folded.map(|remade| remade.job.change(&chunk)) {
                failed.get_or_insert(error.to_string());
            }
            if lost.changes.binary_search(&hash).is_ok() {
                bytes += chunk.len();
                found.push((hash, chunk));
            }
            if bytes > limits::MEND_BYTES {
                bytes = 0;
                failed = failed.take().or(self.put(healing, offer, &mut found).err());
            }
        });
        // What is right of it is put in place, whatever became of the rest.
        self.put(healing, offer, &mut found)?;
        opened.map_err(|error| error.to_string())?;
        match (failed, remade) {
            (Some(reason), _) => Err(reason),
            (None, Some(remade)) => self.finish_remaking(shared, healing, offer, remade),
            (None, None) => Ok(()),
        }
    }

    /// Puts changes in the place of those that are lost.
    fn put(
        &self,
        healing: &Healing,
        offer: &Offer,
        found: &mut Vec<(ChangeHash, Vec<u8>)>,
    ) -> Result<(), String> {
        let found = std::mem::take(found);
        if found.is_empty() {
            return Ok(());
        }
        let (space, document) = (&offer.space, &offer.document);
        let brought: Vec<ChangeHash> = found.iter().map(|(hash, _)| *hash).collect();
        let mended = self.store.mend_changes(space, document, found);
        let mended = mended.map_err(|error| error.chain())?;
        tracing::info!(%space, %document, mended, "damaged changes were replaced");
        healing.brought(space, document, &brought);
        Ok(())
    }

    fn begin_remaking(
        &self,
        supervisor: &Supervisor,
        offer: &Offer,
        hash: [u8; 32],
    ) -> Result<Remade, String> {
        // Without a whole index it is not known what the snapshot stood for.
        let index = self.store.document_index(&offer.space, &offer.document, true);
        let index = index.map_err(|error| error.chain())?.ok_or("it is gone")?;
        let folded = index.folded.filter(|folded| folded.hash == hash);
        let folded = folded.ok_or("it was folded meanwhile")?;
        let (index, offset) = (folded.index.ok_or("its index is not there")?, folded.offset);
        let job = supervisor.start(JobKind::Fold).map_err(|error| error.to_string())?;
        Ok(Remade { job, index, hash, offset })
    }

    fn finish_remaking(
        &self,
        shared: &Shared,
        healing: &Healing,
        offer: &Offer,
        remade: Remade,
    ) -> Result<(), String> {
        let (space, document) = (&offer.space, &offer.document);
        let Remade { job, index, hash, offset } = remade;
        let snapshot = job.finish().and_then(snapshot_of).map_err(|error| error.to_string())?;
        if snapshot.changes != index.len() as u64 || snapshot.head_hashes() != index.heads() {
            return Err("it does not have all that the damaged snapshot stood for".to_owned());
        }
        // Who is fed it from now on is fed the new one.
        if !shared.before_fold.get().is_none_or(|told| told(space, offset)) {
            return Err("the hub is gone".to_owned());
        }
        match self.store.mend_snapshot(space, document, &hash, snapshot) {
            Ok(true) => {
                tracing::info!(%space, %document, "a damaged snapshot was replaced");
                healing.brought(space, document, &[]);
                Ok(())
            }
            Ok(false) => Err("the damaged snapshot is another one by now".to_owned()),
            Err(error) => Err(error.chain()),
        }
    }
}
