//! The view of the store that admission reads: what is durable, without the changes whose stored bytes may be
//! damaged.

use std::collections::BTreeSet;

use landfall_protocol::admission::{DocumentSize, History, KnownChange};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset};

use crate::store::StoreError;

/// The store's view as a sized type, which the machine requires.
pub(crate) struct Durable<'a> {
    pub(crate) view: &'a dyn History<Error = StoreError>,
    /// Pushed changes whose stored bytes may be damaged, or lost with a snapshot.
    pub(crate) doubted: &'a BTreeSet<ChangeHash>,
}

impl History for Durable<'_> {
    type Error = StoreError;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> Result<Option<u64>, StoreError> {
        self.view.last_sequence(document, actor)
    }

    fn has_actor(&self, document: &DocumentId, actor: &ActorId) -> Result<bool, StoreError> {
        self.view.has_actor(document, actor)
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, StoreError> {
        let known = self.view.at_sequence(document, actor, sequence)?;
        // Admission looks up a pushed change by its own number to recognise a repetition.
        match known.as_ref().is_some_and(|known| self.doubted.contains(&known.hash)) {
            true => Err(StoreError::doubted()),
            false => Ok(known),
        }
    }

    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, StoreError> {
        self.view.max_op(document, hash)
    }
    fn deleted_at(&self, document: &DocumentId) -> Result<Option<Offset>, StoreError> {
        self.view.deleted_at(document)
    }

    fn has_changes(&self, document: &DocumentId) -> Result<bool, StoreError> {
        self.view.has_changes(document)
    }

    fn size(&self, document: &DocumentId) -> Result<DocumentSize, StoreError> {
        self.view.size(document)
    }

    fn heads(&self, document: &DocumentId) -> Result<u64, StoreError> {
        self.view.heads(document)
    }

    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> Result<bool, StoreError> {
        self.view.is_head(document, hash)
    }
}
