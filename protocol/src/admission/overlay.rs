//! The overlay: what was admitted but is not yet in the store, laid over the store's view. The
//! relay's space keeps one between commits, the engine's store one within a transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckedChange, History, Known};
use crate::ids::{ActorId, ChangeHash, DocumentId, Offset};

/// Admitted changes that the store's view does not show yet.
#[derive(Debug, Default)]
pub struct Overlay {
    last_sequence: BTreeMap<(DocumentId, ActorId), u64>,
    at_sequence: BTreeMap<(DocumentId, ActorId, u64), Known>,
    max_op: BTreeMap<(DocumentId, ChangeHash), u64>,
    deleted: BTreeMap<DocumentId, Offset>,
    /// Documents that have changes, as far as this overlay was told.
    known: BTreeSet<DocumentId>,
}

impl Overlay {
    /// A change was admitted and will be stored at this position.
    pub fn add(&mut self, document: DocumentId, change: &CheckedChange, position: Offset) {
        let actor = change.actor.clone();
        self.last_sequence.insert((document, actor.clone()), change.seq);
        let known = Known { hash: change.hash, position };
        self.at_sequence.insert((document, actor, change.seq), known);
        self.max_op.insert((document, change.hash), change.max_op);
        self.known.insert(document);
    }

    /// A document's deletion was admitted and will be stored at this position.
    pub fn delete(&mut self, document: DocumentId, position: Offset) {
        self.deleted.insert(document, position);
    }

    /// A document's deletion is in the store's view now.
    pub fn settle_deletion(&mut self, document: &DocumentId) {
        self.deleted.remove(document);
    }

    /// The change with this actor, sequence number and hash is in the store's view now.
    pub fn settle(&mut self, document: DocumentId, actor: &ActorId, seq: u64, hash: ChangeHash) {
        let of_actor = (document, actor.clone());
        if self.last_sequence.get(&of_actor).is_some_and(|last| *last <= seq) {
            self.last_sequence.remove(&of_actor);
        }
        self.at_sequence.remove(&(document, actor.clone(), seq));
        self.max_op.remove(&(document, hash));
        if self
            .max_op
            .range((document, ChangeHash([0; 32]))..=(document, ChangeHash([255; 32])))
            .next()
            .is_none()
        {
            self.known.remove(&document);
        }
    }
}

/// The overlay over the store's view: what the history will be once everything is stored.
#[derive(Debug)]
pub struct Layered<'a, H> {
    /// What is on top.
    pub overlay: &'a Overlay,
    /// What is below.
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

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<Known>, H::Error> {
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
        Ok(self.overlay.known.contains(document) || self.stored.has_changes(document)?)
    }
}
