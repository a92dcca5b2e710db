//! The half of admission that looks at a document's history: pure functions over a read-only
//! view, which both the relay's overlay and the engine's store implement.

use thiserror::Error;

use super::{Budget, CheckedChange, DocumentSize, OverBudget};
use crate::code::{Code, NackClass};
use crate::ids::{ActorId, ChangeHash, DocumentId, Offset};
use crate::limits;

/// What is known of a stored change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its hash.
    pub hash: ChangeHash,
    /// Its position: the log's offset at a relay, the local sequence number at an engine.
    pub position: Offset,
}

/// A read-only view of the changes that are held, per document.
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
    ) -> Result<Option<Known>, Self::Error>;

    /// The last operation counter of a change; `None` if the document does not have it.
    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Self::Error>;

    /// Where the document's tombstone is, if it is deleted.
    fn deleted_at(&self, document: &DocumentId) -> Result<Option<Offset>, Self::Error>;

    /// Whether the document has any change.
    fn has_changes(&self, document: &DocumentId) -> Result<bool, Self::Error>;

    /// How large the document is; nothing if there is none.
    fn size(&self, document: &DocumentId) -> Result<DocumentSize, Self::Error>;

    /// How many concurrent heads the document has. Asked only of changes that are made or pushed:
    /// counting may cost in proportion to them.
    fn heads(&self, document: &DocumentId) -> Result<u64, Self::Error> {
        Ok(self.size(document)?.heads)
    }

    /// Whether a change that has this dependency takes the place of a head, or of a change that is
    /// admitted and not stored yet. Asked only of a document that has
    /// [`limits::DOCUMENT_HEADS`].
    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> Result<bool, Self::Error>;
}

/// Whether a change may begin a history in a document that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    /// It may not: a document's id that comes back with an unrelated history is a mistake, until
    /// somebody says otherwise.
    One,
    /// Somebody has asked for the histories to be merged.
    Several,
}

/// From where a change comes that is judged. Replicas add to a document at the same time, each
/// within what it can see, so what one has committed must not be refused by the next: each step of
/// a change's way has more room than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is made here. The document may get 75 % of the changes and operations that a relay takes.
    Local,
    /// It is pushed to a relay, which takes what [`limits`] say.
    Pushed,
    /// A relay has taken it, or it was committed before. Beside what the relay has, a replica may
    /// have as much of its own that the relay does not have: twice the limits hold both.
    Received,
}

impl Origin {
    /// By how much a limit of one document is multiplied, and then divided, for what other
    /// replicas add meanwhile.
    pub(super) fn shared(self) -> (u64, u64) {
        match self {
            Self::Local => (3, 4),
            Self::Pushed => (1, 1),
            Self::Received => (2, 1),
        }
    }
}

/// A change that may be stored, or need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is next for its actor, and everything that it rests on is there.
    New,
    /// It is there already.
    Duplicate(Known),
}

/// Why a well-formed change does not fit the document's history.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryError {
    /// It rests on a change that is not there.
    #[error("it depends on change {missing}, which is not there; send that first")]
    MissingDependency {
        /// The first one that is missing.
        missing: ChangeHash,
    },
    /// Its actor's sequence numbers would have a hole.
    #[error("actor {actor} is at sequence {last}, so {actual} cannot follow; send what is between")]
    SequenceGap {
        /// Whose.
        actor: ActorId,
        /// The last one that is there.
        last: u64,
        /// The change's own.
        actual: u64,
    },
    /// A different change of this actor has this sequence number.
    #[error("actor {actor} already has another change {held} as sequence {sequence}")]
    ConflictingSequence {
        /// Whose.
        actor: ActorId,
        /// Which number.
        sequence: u64,
        /// The change that has it.
        held: ChangeHash,
    },
    /// Its operations would not come after those that it rests on.
    #[error(
        "its first operation is {start_op}, which is not past {dependency} of what it depends on"
    )]
    Counter {
        /// The change's first operation counter.
        start_op: u64,
        /// The greatest operation counter of its dependencies.
        dependency: u64,
    },
    /// Its operations would leave a hole that no honest author leaves: counters would run out.
    #[error(
        "its first operation is {start_op}, more than {} past {dependency} of what it depends on",
        limits::COUNTER_HOLE
    )]
    CounterHole {
        /// The change's first operation counter.
        start_op: u64,
        /// The greatest operation counter of its dependencies.
        dependency: u64,
    },
    /// The document has as much as one may have. What is there stays; start another document.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The document is deleted.
    #[error("the document is deleted, and a deletion is for good")]
    Deleted,
    /// It begins a history in a document that has one.
    #[error("it rests on nothing, and the document has a history already: the two are unrelated")]
    Unrelated,
    /// It names an actor that has no change in this document.
    #[error("it names actor {actor}, which has no change in this document")]
    UnknownActor {
        /// Which.
        actor: ActorId,
    },
}

impl HistoryError {
    /// The code and class that the pusher is told.
    pub fn nack(&self) -> (Code, NackClass) {
        match self {
            Self::MissingDependency { .. } => (Code::MISSING_DEPENDENCY, NackClass::RECONCILE),
            Self::SequenceGap { .. } => (Code::SEQUENCE_GAP, NackClass::RECONCILE),
            Self::UnknownActor { .. } => (Code::UNKNOWN_ACTOR, NackClass::RECONCILE),
            Self::ConflictingSequence { .. } => (Code::CONFLICTING_SEQUENCE, NackClass::REFUSED),
            Self::Counter { .. } | Self::CounterHole { .. } => (Code::COUNTER, NackClass::REFUSED),
            Self::OverBudget(_) => (Code::DOCUMENT_FULL, NackClass::REFUSED),
            Self::Deleted => (Code::DELETED, NackClass::REFUSED),
            Self::Unrelated => (Code::UNRELATED, NackClass::REFUSED),
        }
    }
}

/// Judges a checked change that is pushed against the history of its document.
///
/// The outer error is the view's own; the inner one says why the change does not fit.
pub fn admit<H: History>(
    history: &H,
    document: &DocumentId,
    change: &CheckedChange,
    roots: Roots,
) -> Result<Result<Verdict, HistoryError>, H::Error> {
    admit_from(history, document, change, roots, Origin::Pushed)
}

/// As [`admit`], of a change that comes from elsewhere.
pub fn admit_from<H: History>(
    history: &H,
    document: &DocumentId,
    change: &CheckedChange,
    roots: Roots,
    origin: Origin,
) -> Result<Result<Verdict, HistoryError>, H::Error> {
    if history.deleted_at(document)?.is_some() {
        return Ok(Err(HistoryError::Deleted));
    }
    let last = history.last_sequence(document, &change.actor)?.unwrap_or(0);
    if change.seq <= last {
        return repeated(history, document, change);
    }
    if change.seq != last + 1 {
        let (actor, actual) = (change.actor.clone(), change.seq);
        return Ok(Err(HistoryError::SequenceGap { actor, last, actual }));
    }
    let is_root = change.dependencies.is_empty() && roots == Roots::One;
    if is_root && history.has_changes(document)? {
        return Ok(Err(HistoryError::Unrelated));
    }
    let mut past = 0;
    for dependency in &change.dependencies {
        match history.max_op(document, dependency)? {
            Some(max_op) => past = past.max(max_op),
            None => return Ok(Err(HistoryError::MissingDependency { missing: *dependency })),
        }
    }
    past = past.max(own_counter(history, document, change)?);
    // An empty change anywhere but right after them cannot be loaded again by automerge 0.12.
    let is_next = change.start_op == past + 1;
    if change.start_op <= past || (change.operations == 0 && !is_next) {
        let (start_op, dependency) = (change.start_op, past);
        return Ok(Err(HistoryError::Counter { start_op, dependency }));
    }
    if change.start_op - past > limits::COUNTER_HOLE {
        let (start_op, dependency) = (change.start_op, past);
        return Ok(Err(HistoryError::CounterHole { start_op, dependency }));
    }
    for actor in &change.other_actors {
        if !history.has_actor(document, actor)? {
            return Ok(Err(HistoryError::UnknownActor { actor: actor.clone() }));
        }
    }
    Ok(within_budget(history, document, change, origin)?.map(|()| Verdict::New).map_err(Into::into))
}

/// Whether the document may grow by this change.
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
    // What a relay has taken, or this store, must come in beside whatever is here: it would be asked
    // for again and again.
    if origin == Origin::Received {
        return Ok(Ok(()));
    }
    let (limit, heads) = (limits::DOCUMENT_HEADS as u64, history.heads(document)?);
    if heads < limit {
        return Ok(Ok(()));
    }
    for dependency in &change.dependencies {
        if history.is_head(document, dependency)? {
            return Ok(Ok(()));
        }
    }
    Ok(Err(OverBudget { budget: Budget::Heads, limit, actual: heads + 1 }))
}

/// The last operation counter of the actor's previous change: an actor's counters only grow, and
/// a change that does not rest on its own predecessor can be applied and saved by automerge 0.12
/// but not loaded again. (That it is an ancestor would need a walk; its counter is what costs
/// nothing. What passes all the same is found by the fold, which loads what it saved.)
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
        // A view that knows a later sequence number but not this one: nothing may rest on it.
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
