//! The history facts that a push depends on, looked up before the push is admitted. A change may
//! name tens of thousands of others, and the task that admits all pushes in order must not wait for
//! the disk for each of them.
//!
//! A document keeps its changes and actors for as long as it exists, so a found fact does not
//! become stale. A change or actor that was not found may have arrived since, so it is looked up
//! again.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckedChange, DocumentSize, History, KnownChange};
use crate::ids::{ActorId, ChangeHash, DocumentId, Offset};

/// The changes and actors that a set of changes names and does not itself contain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Dependencies.
    pub changes: Vec<ChangeHash>,
    /// Actors of referenced operations.
    pub actors: Vec<ActorId>,
}

impl Named {
    /// Collects the names from `changes`.
    pub fn by(changes: &[CheckedChange]) -> Self {
        let included: BTreeSet<&ChangeHash> = changes.iter().map(|change| &change.hash).collect();
        let dependencies = changes.iter().flat_map(|change| &change.dependencies);
        let named: BTreeSet<&ChangeHash> =
            dependencies.filter(|hash| !included.contains(hash)).collect();
        let actors: BTreeSet<&ActorId> =
            changes.iter().flat_map(|change| &change.other_actors).collect();
        let (changes, actors) =
            (named.into_iter().copied().collect(), actors.into_iter().cloned().collect());
        Self { changes, actors }
    }

    /// The number of look-ups needed.
    pub fn len(&self) -> usize {
        self.changes.len() + self.actors.len()
    }

    /// Whether there is nothing to look up.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes and returns up to `most` of them.
    pub fn take(&mut self, most: usize) -> Self {
        let changes = self.changes.split_off(self.changes.len().saturating_sub(most));
        let rest = most - changes.len();
        let actors = self.actors.split_off(self.actors.len().saturating_sub(rest));
        Self { changes, actors }
    }
}

/// Known facts about a document's history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    counters: BTreeMap<ChangeHash, u64>,
    actors: BTreeSet<ActorId>,
}

impl Facts {
    /// Looks `named` up in the history and adds the facts found.
    ///
    /// # Errors
    /// The history's error. Facts that were found before it stay.
    pub fn look_up<H: History>(
        &mut self,
        history: &H,
        document: &DocumentId,
        named: Named,
    ) -> Result<(), H::Error> {
        for hash in named.changes {
            if let Some(max_op) = history.max_op(document, &hash)? {
                self.counters.insert(hash, max_op);
            }
        }
        for actor in named.actors {
            if history.has_actor(document, &actor)? {
                self.actors.insert(actor);
            }
        }
        Ok(())
    }
}

/// A history that answers from known facts about one document first.
pub struct WithFacts<'a, H> {
    /// The document.
    pub document: DocumentId,
    /// Its known facts.
    pub facts: &'a Facts,
    /// Answers everything else.
    pub history: &'a H,
}

impl<H: History> History for WithFacts<'_, H> {
    type Error = H::Error;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> Result<Option<u64>, H::Error> {
        self.history.last_sequence(document, actor)
    }

    fn has_actor(&self, document: &DocumentId, actor: &ActorId) -> Result<bool, H::Error> {
        let is_known = *document == self.document && self.facts.actors.contains(actor);
        if is_known { Ok(true) } else { self.history.has_actor(document, actor) }
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, H::Error> {
        self.history.at_sequence(document, actor, sequence)
    }

    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, H::Error> {
        match self.facts.counters.get(hash) {
            Some(max_op) if *document == self.document => Ok(Some(*max_op)),
            _ => self.history.max_op(document, hash),
        }
    }

    fn deleted_at(&self, document: &DocumentId) -> Result<Option<Offset>, H::Error> {
        self.history.deleted_at(document)
    }

    fn has_changes(&self, document: &DocumentId) -> Result<bool, H::Error> {
        self.history.has_changes(document)
    }

    fn size(&self, document: &DocumentId) -> Result<DocumentSize, H::Error> {
        self.history.size(document)
    }

    fn heads(&self, document: &DocumentId) -> Result<u64, H::Error> {
        self.history.heads(document)
    }

    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> Result<bool, H::Error> {
        self.history.is_head(document, hash)
    }
}
