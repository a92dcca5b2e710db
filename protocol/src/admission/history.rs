//! The half of admission that checks a change against a document's history: pure functions over a
//! read-only view, which both the relay's overlay and the engine's store implement.

use thiserror::Error;

use super::{Budget, CheckedChange, DocumentSize, OverBudget};
use crate::code::{Code, NackClass};
use crate::ids::{ActorId, ChangeHash, DocumentId, Offset};
use crate::limits;

/// A stored change, as a history reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownChange {
    /// Its hash.
    pub hash: ChangeHash,
    /// Its position: the log's offset at a relay, the local sequence number at an engine.
    pub position: Offset,
}

/// A read-only view of the stored changes, per document.
pub trait History {
    /// Why the view could not be read.
    type Error;

    /// The last sequence number of an actor in a document; `None` if it has none there.
    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> Result<Option<u64>, Self::Error>;

    /// Whether an actor has any change in a document.
    fn has_actor(&self, document: &DocumentId, actor: &ActorId) -> Result<bool, Self::Error> {
        Ok(self.last_sequence(document, actor)?.is_some())
    }

    /// The change of an actor with a sequence number.
    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, Self::Error>;

    /// The last operation counter of a change; `None` if the document does not have it.
    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Self::Error>;

    /// Where the document's tombstone is, if it is deleted.
    fn deleted_at(&self, document: &DocumentId) -> Result<Option<Offset>, Self::Error>;

    /// Whether the document has any change.
    fn has_changes(&self, document: &DocumentId) -> Result<bool, Self::Error>;

    /// The size of the document; zero if it does not exist.
    fn size(&self, document: &DocumentId) -> Result<DocumentSize, Self::Error>;

    /// The number of concurrent heads of the document. Called only for changes that are made
    /// locally or pushed: counting may take time proportional to the heads.
    fn heads(&self, document: &DocumentId) -> Result<u64, Self::Error> {
        Ok(self.size(document)?.heads)
    }

    /// Whether a change with this dependency replaces a head, or follows a change that is admitted
    /// and not yet stored. Called only for a document that has [`limits::DOCUMENT_HEADS`].
    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> Result<bool, Self::Error>;
}

/// Whether a change without dependencies may enter a document that has a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    /// Rejected: an unrelated history under a known document id is a mistake unless the user asks
    /// for a merge.
    One,
    /// Accepted: the user has asked for the histories to be merged.
    Several,
}

/// Where an admitted change comes from. Replicas add to a document concurrently, each within the
/// budget that it can see, so the next hop must not reject a change that one hop has committed.
/// Each hop therefore has more room than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made here. The document may reach 75 % of the changes and operations that a relay accepts.
    Local,
    /// Pushed to a relay, which accepts up to the [`limits`].
    Pushed,
    /// Accepted by a relay, or committed earlier. Besides the relay's changes a replica may hold as
    /// many of its own that the relay does not have, so twice the limits hold both.
    Received,
}

impl Origin {
    /// The ratio (numerator, denominator) that scales a document's limit, to leave room for
    /// concurrent additions of other replicas.
    pub(super) fn shared(self) -> (u64, u64) {
        match self {
            Self::Local => (3, 4),
            Self::Pushed => (1, 1),
            Self::Received => (2, 1),
        }
    }
}

/// The verdict on a change that is admitted or already stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next change of its actor, and all of its dependencies are present.
    New,
    /// It is already stored.
    Duplicate(KnownChange),
}

/// Why a well-formed change does not fit the document's history.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryError {
    /// A dependency is not present.
    #[error("it depends on change {missing}, which is missing; send that first")]
    MissingDependency {
        /// The first missing dependency.
        missing: ChangeHash,
    },
    /// Its actor's sequence numbers would have a gap.
    #[error(
        "actor {actor} is at sequence {last}, so {actual} cannot follow; send the changes between them first"
    )]
    SequenceGap {
        /// The actor.
        actor: ActorId,
        /// The last sequence number present.
        last: u64,
        /// The change's sequence number.
        actual: u64,
    },
    /// Another change of this actor has this sequence number.
    #[error("actor {actor} already has another change {held} as sequence {sequence}")]
    ConflictingSequence {
        /// The actor.
        actor: ActorId,
        /// The sequence number.
        sequence: u64,
        /// The stored change with that number.
        held: ChangeHash,
    },
    /// Its first operation counter is not greater than those of its dependencies.
    #[error(
        "its first operation is {start_op}, which is not past its dependencies' last, {dependency}"
    )]
    Counter {
        /// The change's first operation counter.
        start_op: u64,
        /// The greatest operation counter of its dependencies.
        dependency: u64,
    },
    /// Its operation counters would leave a gap that no honest author leaves, which would exhaust
    /// the counters.
    #[error(
        "its first operation is {start_op}, more than {} past its dependencies' last, {dependency}",
        limits::COUNTER_HOLE
    )]
    CounterHole {
        /// The change's first operation counter.
        start_op: u64,
        /// The greatest operation counter of its dependencies.
        dependency: u64,
    },
    /// The document has reached its budget. Existing changes stay; start another document.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The document is deleted.
    #[error("the document is deleted, and a deletion is final")]
    Deleted,
    /// It has no dependencies, and the document has a history.
    #[error("it has no dependencies, but the document has a history: the two are unrelated")]
    Unrelated,
    /// It names an actor that has no change in this document.
    #[error("it refers to actor {actor}, which has no change in this document")]
    UnknownActor {
        /// The actor.
        actor: ActorId,
    },
}

impl HistoryError {
    /// The code and class of the nack.
    pub fn nack(&self) -> (Code, NackClass) {
        match self {
            Self::MissingDependency { .. } => (Code::MISSING_DEPENDENCY, NackClass::REPUSH),
            Self::SequenceGap { .. } => (Code::SEQUENCE_GAP, NackClass::REPUSH),
            Self::UnknownActor { .. } => (Code::UNKNOWN_ACTOR, NackClass::REPUSH),
            Self::ConflictingSequence { .. } => (Code::CONFLICTING_SEQUENCE, NackClass::REFUSED),
            Self::Counter { .. } | Self::CounterHole { .. } => (Code::COUNTER, NackClass::REFUSED),
            Self::OverBudget(_) => (Code::DOCUMENT_FULL, NackClass::REFUSED),
            Self::Deleted => (Code::DELETED, NackClass::REFUSED),
            Self::Unrelated => (Code::UNRELATED, NackClass::REFUSED),
        }
    }
}

/// Admits or rejects a well-formed pushed change by the history of its document.
///
/// The outer error is the view's own; the inner one gives the reason for the rejection.
pub fn admit<H: History>(
    history: &H,
    document: &DocumentId,
    change: &CheckedChange,
    roots: Roots,
) -> Result<Result<Verdict, HistoryError>, H::Error> {
    admit_from(history, document, change, roots, Origin::Pushed)
}

/// As [`admit`], for a change of any origin.
pub fn admit_from<H: History>(
    history: &H,
    document: &DocumentId,
    change: &CheckedChange,
    roots: Roots,
    origin: Origin,
) -> Result<Result<Verdict, HistoryError>, H::Error> {
    // A deletion is final: no later change can revive the document.
    if history.deleted_at(document)?.is_some() {
        return Ok(Err(HistoryError::Deleted));
    }
    let last = history.last_sequence(document, &change.actor)?.unwrap_or(0);
    // Pushes are retried, so a change that is already stored is a duplicate and no error.
    if change.seq <= last {
        return repeated(history, document, change);
    }
    // Sequence numbers of one actor have no gaps: a vector clock states only the last one.
    if change.seq != last + 1 {
        let (actor, actual) = (change.actor.clone(), change.seq);
        return Ok(Err(HistoryError::SequenceGap { actor, last, actual }));
    }
    // A second root would merge an unrelated history into the document.
    let is_root = change.dependencies.is_empty() && roots == Roots::One;
    if is_root && history.has_changes(document)? {
        return Ok(Err(HistoryError::Unrelated));
    }
    // Every dependency must be stored: the log is ordered so that a reader can apply it from the
    // start.
    let mut past = 0;
    for dependency in &change.dependencies {
        match history.max_op(document, dependency)? {
            Some(max_op) => past = past.max(max_op),
            None => return Ok(Err(HistoryError::MissingDependency { missing: *dependency })),
        }
    }
    past = past.max(own_counter(history, document, change)?);
    // automerge 0.12 cannot load an empty change whose counter does not directly follow its
    // dependencies.
    let is_next = change.start_op == past + 1;
    if change.start_op <= past || (change.operations == 0 && !is_next) {
        let (start_op, dependency) = (change.start_op, past);
        return Ok(Err(HistoryError::Counter { start_op, dependency }));
    }
    // Counters are never reused, so one large gap could exhaust them for all later authors.
    if change.start_op - past > limits::COUNTER_HOLE {
        let (start_op, dependency) = (change.start_op, past);
        return Ok(Err(HistoryError::CounterHole { start_op, dependency }));
    }
    // An operation cannot refer to an actor that has no change in the document.
    for actor in &change.other_actors {
        if !history.has_actor(document, actor)? {
            return Ok(Err(HistoryError::UnknownActor { actor: actor.clone() }));
        }
    }
    Ok(within_budget(history, document, change, origin)?.map(|()| Verdict::New).map_err(Into::into))
}

/// Checks whether the document may grow by this change.
fn within_budget<H: History>(
    history: &H,
    document: &DocumentId,
    change: &CheckedChange,
    origin: Origin,
) -> Result<Result<(), OverBudget>, H::Error> {
    let size = history.size(document)?;
    let (bytes, operations) = (change.bytes.len() as u64, change.stored_operations);
    if let Err(over) = size.check_growth(bytes, operations, origin) {
        return Ok(Err(over));
    }
    // A change that a relay or this store has already accepted must be admitted, whatever the heads
    // here: otherwise it would be requested again forever.
    if origin == Origin::Received {
        return Ok(Ok(()));
    }
    let (limit, heads) = (limits::DOCUMENT_HEADS as u64, history.heads(document)?);
    if heads < limit {
        return Ok(Ok(()));
    }
    // At the limit, accept only a change that follows a head: it replaces that head and adds none.
    for dependency in &change.dependencies {
        if history.is_head(document, dependency)? {
            return Ok(Ok(()));
        }
    }
    Ok(Err(OverBudget { budget: Budget::Heads, limit, actual: heads + 1 }))
}

/// The last operation counter of the actor's previous change. An actor's counters only grow.
/// automerge 0.12 can apply and save a change that does not depend on its actor's previous change,
/// but cannot load it again. Checking that the previous change is an ancestor would need a graph
/// walk; checking its counter is cheap. Compaction, which loads its own output, finds the changes
/// that this check misses.
fn own_counter<H: History>(
    history: &H,
    document: &DocumentId,
    change: &CheckedChange,
) -> Result<u64, H::Error> {
    if change.seq <= 1 {
        return Ok(0);
    }
    let Some(own) = history.at_sequence(document, &change.actor, change.seq - 1)? else {
        return Ok(0);
    };
    if change.dependencies.contains(&own.hash) {
        return Ok(0);
    }
    Ok(history.max_op(document, &own.hash)?.unwrap_or(0))
}

fn repeated<H: History>(
    history: &H,
    document: &DocumentId,
    change: &CheckedChange,
) -> Result<Result<Verdict, HistoryError>, H::Error> {
    let (actor, sequence) = (&change.actor, change.seq);
    let Some(known) = history.at_sequence(document, actor, sequence)? else {
        // The view knows a later sequence number but not this one, so it cannot prove a duplicate.
        let (actor, last) = (actor.clone(), sequence - 1);
        return Ok(Err(HistoryError::SequenceGap { actor, last, actual: sequence }));
    };
    if known.hash == change.hash {
        return Ok(Ok(Verdict::Duplicate(known)));
    }
    let (actor, held) = (actor.clone(), known.hash);
    Ok(Err(HistoryError::ConflictingSequence { actor, sequence, held }))
}

#[cfg(test)]
mod tests;
