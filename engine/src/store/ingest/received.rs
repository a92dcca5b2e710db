//! The effects of a received batch, and why a batch is not written.

use landfall_protocol::{ChangeHash, DocumentId, Offset};
use landfall_storage::{Committed, WriteError};

use super::prepare::PrepareError;
use crate::store::{Came, ExceededLimit, SpaceCount};

/// Why a batch was not written. The connection then restarts from the store's state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the relay echoes change {0}, which this store does not have")]
    UnknownEcho(ChangeHash),
    #[error("the entries follow offset {after}, the store's cursor is at {at}")]
    NotNext { at: Offset, after: Offset },
    #[error("no upstream is known")]
    NoUpstream,
    #[error("a part of a snapshot begins at {from} of {total}, the parts before it end at {at}")]
    Part { from: u64, at: u64, total: u64 },
    #[error(transparent)]
    Prepare(#[from] Box<PrepareError>),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// A document that a batch added to.
#[derive(Debug)]
pub(crate) struct TouchedDocument {
    pub(crate) document: DocumentId,
    pub(crate) heads: Vec<ChangeHash>,
}

/// A document that the upstream reported as deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) document: DocumentId,
    /// Changes that the upstream was not known to hold. If there are any, the document's bytes are kept
    /// until the application exports or discards them.
    pub(crate) unsent: u64,
}

/// A document whose local changes were superseded: other changes have their actor and sequence number,
/// so they left the log and have to be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superseded {
    pub(crate) document: DocumentId,
    pub(crate) changes: u64,
}

/// The effects of a batch.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) touched: Vec<TouchedDocument>,
    /// Entries that were deferred, with the reason.
    pub(crate) deferred: Vec<(DocumentId, String)>,
    /// Documents of which an unrelated history was deferred.
    pub(crate) unrelated: Vec<DocumentId>,
    /// How many deferred entries are in their documents now.
    pub(crate) recovered: u64,
    pub(crate) deleted: Vec<Deleted>,
    /// How many of the deleted documents this store had.
    pub(crate) known_deleted: u64,
    /// How many changes were added to documents.
    pub(crate) changes: u64,
    pub(crate) superseded: Vec<Superseded>,
    /// Documents that exceed limits after this batch, once for each limit.
    pub(crate) oversized: Vec<(DocumentId, ExceededLimit)>,
}

impl Received {
    /// The counts of the batch for the status.
    pub(in crate::store) fn came(&self) -> Came {
        Came { written: true, changes: self.changes, deleted: self.known_deleted }
    }
}

/// The result of a job that wrote a batch, with the count of its space.
type CountedResult<E> = Result<Committed<(SpaceCount, Received)>, WriteError<E>>;

/// Calls `done` without the count, which was reported.
pub(in crate::store) fn received_only<E>(
    done: impl FnOnce(Result<Committed<Received>, WriteError<E>>) + Send + 'static,
) -> impl FnOnce(CountedResult<E>) + Send + 'static {
    move |result| {
        done(result.map(|Committed { value: (_, value), number }| Committed { value, number }));
    }
}
