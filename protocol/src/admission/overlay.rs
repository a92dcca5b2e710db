//! The overlay: admitted changes that are not yet in the store, layered over the store's view. The
//! relay's space keeps one between commits, the engine's store one within a transaction.

use std::collections::BTreeMap;

use super::{CheckedChange, DocumentSize, History, KnownChange};
use crate::ids::{ActorId, ChangeHash, DocumentId, Offset};

/// Admitted changes that the store's view does not show yet.
#[derive(Debug, Default)]
pub struct Overlay {
    last_sequence: BTreeMap<(DocumentId, ActorId), u64>,
    at_sequence: BTreeMap<(DocumentId, ActorId, u64), KnownChange>,
    max_op: BTreeMap<(DocumentId, ChangeHash), u64>,
    deleted: BTreeMap<DocumentId, Offset>,
    /// Admitted changes by document.
    pending: BTreeMap<DocumentId, Pending>,
}

/// The admitted changes of one document.
#[derive(Debug, Default)]
struct Pending {
    changes: BTreeMap<ChangeHash, Added>,
    /// Their total size. Its heads are the changes here that no other change here depends on.
    size: DocumentSize,
}

/// The size that a change adds to its document.
#[derive(Debug)]
struct Added {
    bytes: u64,
    operations: u64,
    /// Whether another admitted change depends on it.
    followed: bool,
}

impl Pending {
    fn add(&mut self, change: &CheckedChange) {
        for dependency in &change.dependencies {
            if let Some(before) = self.changes.get_mut(dependency).filter(|it| !it.followed) {
                before.followed = true;
                self.size.heads -= 1;
            }
        }
        let (bytes, operations) = (change.bytes.len() as u64, change.stored_operations);
        let added = Added { bytes, operations, followed: false };
        if self.changes.insert(change.hash, added).is_none() {
            self.size.bytes += bytes;
            self.size.operations += operations;
            self.size.changes += 1;
            self.size.heads += 1;
        }
    }

    fn settle(&mut self, hash: &ChangeHash) {
        if let Some(Added { bytes, operations, followed }) = self.changes.remove(hash) {
            self.size.bytes -= bytes;
            self.size.operations -= operations;
            self.size.changes -= 1;
            self.size.heads -= u64::from(!followed);
        }
    }
}

impl Overlay {
    /// Adds an admitted change that will be stored at this position.
    pub fn add(&mut self, document: DocumentId, change: &CheckedChange, position: Offset) {
        let actor = change.actor.clone();
        self.last_sequence.insert((document, actor.clone()), change.seq);
        let known = KnownChange { hash: change.hash, position };
        self.at_sequence.insert((document, actor, change.seq), known);
        self.max_op.insert((document, change.hash), change.max_op);
        self.pending.entry(document).or_default().add(change);
    }

    /// Adds an admitted deletion of a document, which will be stored at this position.
    pub fn delete(&mut self, document: DocumentId, position: Offset) {
        self.deleted.insert(document, position);
    }

    /// Removes a deletion that the store's view now shows.
    pub fn settle_deletion(&mut self, document: &DocumentId) {
        self.deleted.remove(document);
    }

    /// Removes a change that the store's view now shows.
    pub fn settle(&mut self, document: DocumentId, actor: &ActorId, seq: u64, hash: ChangeHash) {
        let of_actor = (document, actor.clone());
        if self.last_sequence.get(&of_actor).is_some_and(|last| *last <= seq) {
            // A later admitted change of the actor keeps the entry.
            self.last_sequence.remove(&of_actor);
        }
        self.at_sequence.remove(&(document, actor.clone(), seq));
        self.max_op.remove(&(document, hash));
        if let Some(pending) = self.pending.get_mut(&document) {
            pending.settle(&hash);
            if pending.changes.is_empty() {
                self.pending.remove(&document);
            }
        }
    }
}

/// The overlay over the store's view: the history as it will be once every admitted change is
/// stored.
#[derive(Debug)]
pub struct Layered<'a, H> {
    /// The upper layer.
    pub overlay: &'a Overlay,
    /// The lower layer.
    pub stored: &'a H,
}

impl<H: History> History for Layered<'_, H> {
    type Error = H::Error;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> Result<Option<u64>, H::Error> {
        match self.overlay.last_sequence.get(&(*document, actor.clone())) {
            Some(last) => Ok(Some(*last)),
            None => self.stored.last_sequence(document, actor),
        }
    }

    fn has_actor(&self, document: &DocumentId, actor: &ActorId) -> Result<bool, H::Error> {
        match self.overlay.last_sequence.contains_key(&(*document, actor.clone())) {
            true => Ok(true),
            false => self.stored.has_actor(document, actor),
        }
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, H::Error> {
        match self.overlay.at_sequence.get(&(*document, actor.clone(), sequence)) {
            Some(known) => Ok(Some(*known)),
            None => self.stored.at_sequence(document, actor, sequence),
        }
    }

    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, H::Error> {
        match self.overlay.max_op.get(&(*document, *hash)) {
            Some(max_op) => Ok(Some(*max_op)),
            None => self.stored.max_op(document, hash),
        }
    }
    fn deleted_at(&self, document: &DocumentId) -> Result<Option<Offset>, H::Error> {
        match self.overlay.deleted.get(document) {
            Some(position) => Ok(Some(*position)),
            None => self.stored.deleted_at(document),
        }
    }

    fn has_changes(&self, document: &DocumentId) -> Result<bool, H::Error> {
        Ok(self.overlay.pending.contains_key(document) || self.stored.has_changes(document)?)
    }

    fn size(&self, document: &DocumentId) -> Result<DocumentSize, H::Error> {
        let mut size = self.stored.size(document)?;
        if let Some(pending) = self.overlay.pending.get(document) {
            size.bytes = size.bytes.saturating_add(pending.size.bytes);
            let lasting = DocumentSize::lasting(pending.size.bytes);
            size.lasting_bytes = size.lasting_bytes.saturating_add(lasting);
            size.changes = size.changes.saturating_add(pending.size.changes);
            size.operations = size.operations.saturating_add(pending.size.operations);
            size.heads = size.heads.saturating_add(pending.size.heads);
        }
        Ok(size)
    }

    fn heads(&self, document: &DocumentId) -> Result<u64, H::Error> {
        let pending = self.overlay.pending.get(document).map_or(0, |pending| pending.size.heads);
        Ok(self.stored.heads(document)?.saturating_add(pending))
    }

    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> Result<bool, H::Error> {
        // An admitted change counts as a head: a follower of it adds no head beyond the one already
        // counted.
        match self.overlay.max_op.contains_key(&(*document, *hash)) {
            true => Ok(true),
            false => self.stored.is_head(document, hash),
        }
    }
}
