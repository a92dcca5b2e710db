//! What a push rests on, looked up before it is judged: a change may name tens of thousands of others, and
//! whoever judges all pushes in a row must not wait for the disk for each.
//!
//! That a document has a change or an actor stays true for as long as the document is there. So it
//! does not matter how old such a fact is. What was not found may have come since, and is asked again.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckedChange, DocumentSize, History, Known};
use crate::ids::{ActorId, ChangeHash, DocumentId, Offset};

/// What changes name that they do not bring themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Changes that they depend on.
    pub changes: Vec<ChangeHash>,
    /// Actors whose operations they refer to.
    pub actors: Vec<ActorId>,
}

impl Named {
    /// By these changes.
    pub fn by(changes: &[CheckedChange]) -> Self {
        let brought: BTreeSet<&ChangeHash> = changes.iter().map(|change| &change.hash).collect();
        let dependencies = changes.iter().flat_map(|change| &change.dependencies);
        let named: BTreeSet<&ChangeHash> =
            dependencies.filter(|hash| !brought.contains(hash)).collect();
        let actors: BTreeSet<&ActorId> =
            changes.iter().flat_map(|change| &change.other_actors).collect();
        let (changes, actors) =
            (named.into_iter().copied().collect(), actors.into_iter().cloned().collect());
        Self { changes, actors }
    }

    /// How many look-ups they cost.
    pub fn len(&self) -> usize {
        self.changes.len() + self.actors.len()
    }

    /// Whether there is nothing to look up.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes up to so many out of it.
    pub fn take(&mut self, most: usize) -> Self {
        let changes = self.changes.split_off(self.changes.len().saturating_sub(most));
        let rest = most - changes.len();
        let actors = self.actors.split_off(self.actors.len().saturating_sub(rest));
        Self { changes, actors }
    }
}

/// What is known of a document's history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    counters: BTreeMap<ChangeHash, u64>,
    actors: BTreeSet<ActorId>,
}

impl Facts {
    /// Adds what the history has of these.
    ///
    /// # Errors
    /// As the history's; what was found before stays.
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

/// A history of which some is known of one document.
pub struct Foreknown<'a, H> {
    /// The document.
    pub document: DocumentId,
    /// What is known of it.
    pub facts: &'a Facts,
    /// What is asked for all else.
    pub history: &'a H,
}

impl<H: History> History for Foreknown<'_, H> {
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
    ) -> Result<Option<Known>, H::Error> {
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
