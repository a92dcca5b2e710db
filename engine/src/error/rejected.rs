//! Errors of exporting and remaking rejected changes.

use landfall_protocol::admission::{FormError, HistoryError};
use thiserror::Error;

use super::StoreError;
use crate::failure::BoxError;
use crate::reauthor::ReauthorError;
use crate::store::{ReplaceError, ViewError};

/// Why rejected changes or orphaned edits could not be exported or made again. They are kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RejectedChangesError {
    /// The relay rejects nothing of the document.
    #[error("the relay refuses no change of the document")]
    NothingRejected,
    /// The relay rejects the document, but has not answered which changes it does not have; or they are
    /// in the snapshot. Send them again with [`Space::retry`](crate::Space::retry) and wait for the
    /// answer, or export them.
    #[error(
        "the relay has not reported which changes it lacks; retry the document and wait for its \
         answer, or export the document"
    )]
    Unanswered,
    /// The document was edited, or the relay accepted something, in between.
    #[error("the document changed meanwhile; try again")]
    Changed,
    /// automerge could not build the document, or decode a change.
    #[error("the document could not be rebuilt: {0}")]
    Rebuild(#[source] BoxError),
    /// The relay would reject the form of a change that was made again.
    #[error("a relay would refuse the new change: {0}")]
    Form(#[source] FormError),
    /// The document has reached the limit for local changes, so that the relay might reject the new
    /// ones: changes, operations, or counters of operations.
    #[error(
        "the document accepts no more changes: {0}; export the edits and continue in another document"
    )]
    DocumentFull(#[source] BoxError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ViewError> for RejectedChangesError {
    fn from(error: ViewError) -> Self {
        Self::Store(error.into())
    }
}

impl From<ReauthorError> for RejectedChangesError {
    fn from(error: ReauthorError) -> Self {
        Self::Rebuild(Box::new(error))
    }
}

impl From<landfall_storage::WriteError<ReplaceError>> for RejectedChangesError {
    fn from(error: landfall_storage::WriteError<ReplaceError>) -> Self {
        let class = error.class().into();
        match error {
            landfall_storage::WriteError::Job(ReplaceError::Changed) => Self::Changed,
            landfall_storage::WriteError::Job(ReplaceError::History(
                error @ (HistoryError::OverBudget(_) | HistoryError::CounterHole { .. }),
            )) => Self::DocumentFull(Box::new(error)),
            landfall_storage::WriteError::Job(ReplaceError::History(error)) => {
                Self::Rebuild(Box::new(error))
            }
            other => Self::Store(StoreError { class, source: Box::new(other) }),
        }
    }
}
