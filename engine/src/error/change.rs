//! Why a change was not made.

use landfall_protocol::admission::{FormError, HistoryError};
use landfall_protocol::{ChangeHash, DocumentId};
use thiserror::Error;

use super::StoreError;
use crate::failure::BoxError;
use crate::store::AppendError;
use crate::typed::TypedError;

/// Why a change was not made. Whatever the reason, it left no trace.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The closure returned an error.
    #[error("the change was abandoned: {0}")]
    Closure(#[source] BoxError),
    /// The document could not be read or written as a value of the type.
    #[error("the document cannot be edited as the requested type: {0}")]
    Typed(#[source] TypedError),
    /// The change is larger than a relay accepts.
    #[error("the change has {actual} bytes, the limit is {limit}; split it into several")]
    ChangeTooLarge {
        /// The limit in bytes.
        limit: usize,
        /// Its size in bytes.
        actual: usize,
    },
    /// The change has more operations than a relay accepts
    /// ([`CHANGE_OPERATIONS`](crate::CHANGE_OPERATIONS)): one for each character that is inserted or
    /// deleted, each value that is set, each object that is created.
    #[error("the change has {actual} operations, the limit is {limit}; split it into several")]
    TooManyOperations {
        /// The limit.
        limit: u64,
        /// How many it has.
        actual: u64,
    },
    /// The document has, or would have with the change, more bytes than local changes may bring it to:
    /// 75 % of the limit for a document ([`Options::document_bytes`](crate::Options::document_bytes)).
    /// Deleting content does not help, as a deletion is a change too and the history keeps the deleted
    /// content. Changes of other replicas still arrive.
    #[error(
        "document {document} would have {bytes} bytes, the limit for local changes is {limit}; copy its present content to a new document and continue there"
    )]
    DocumentTooLarge {
        /// The document.
        document: DocumentId,
        /// Its bytes with the change: those of its snapshot and its tail.
        bytes: u64,
        /// The size in bytes to which local changes may bring it.
        limit: u64,
    },
    /// A relay would reject the form of the change.
    #[error("a relay would refuse the change: {0}")]
    NotAdmitted(#[source] FormError),
    /// The change does not fit the document's history in the store. The next change uses a fresh actor.
    #[error("the change does not fit the store: {0}; try again")]
    Conflict(#[source] BoxError),
    /// The call comes from inside the closure of another change or group, of any document or store.
    #[error(
        "a change cannot start inside the closure of another change or group; change several documents in one group"
    )]
    Reentrant,
    /// A group received a document of another store.
    #[error(
        "the document {document} belongs to another store than the group; use one group for each store"
    )]
    OtherStore {
        /// The document.
        document: DocumentId,
    },
    /// `change_at` received the hash of a change that the document does not have.
    #[error(
        "the document has no change {missing} to edit at; wait until it arrives, or use heads that the document returned"
    )]
    UnknownHeads {
        /// The first missing one.
        missing: ChangeHash,
    },
    /// automerge could not read all of the document's bytes.
    #[error("document {document} is quarantined and accepts no changes: {reason}")]
    Quarantined {
        /// The document.
        document: DocumentId,
        /// automerge's error.
        reason: String,
    },
    /// The document has reached a limit: changes, operations, or counters of operations.
    #[error("the document accepts no more changes: {0}; continue in another document")]
    DocumentFull(#[source] BoxError),
    /// The document is permanently deleted, here or elsewhere.
    #[error("the document is deleted; create a new one")]
    Deleted,
    /// The store failed. The document is back at the state in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FormError> for ChangeError {
    fn from(error: FormError) -> Self {
        match error {
            FormError::TooLarge { limit, actual } => Self::ChangeTooLarge { limit, actual },
            FormError::Counter { .. } => Self::DocumentFull(Box::new(error)),
            FormError::Operations { limit, actual } => Self::TooManyOperations { limit, actual },
            other => Self::NotAdmitted(other),
        }
    }
}

impl From<landfall_storage::WriteError<AppendError>> for ChangeError {
    fn from(error: landfall_storage::WriteError<AppendError>) -> Self {
        let class = error.class().into();
        match error {
            landfall_storage::WriteError::Job(AppendError::History(HistoryError::Deleted)) => {
                Self::Deleted
            }
            landfall_storage::WriteError::Job(AppendError::History(
                error @ (HistoryError::OverBudget(_) | HistoryError::CounterHole { .. }),
            )) => Self::DocumentFull(Box::new(error)),
            landfall_storage::WriteError::Job(AppendError::History(error)) => {
                Self::Conflict(Box::new(error))
            }
            landfall_storage::WriteError::Job(AppendError::DocumentTooLarge {
                document,
                bytes,
                limit,
            }) => Self::DocumentTooLarge { document, bytes, limit },
            other => Self::Store(StoreError { class, source: Box::new(other) }),
        }
    }
}
