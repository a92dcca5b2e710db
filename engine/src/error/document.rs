//! Errors of opening, waiting for and reading a document.

use landfall_protocol::{DocumentId, SpaceName};
use thiserror::Error;

use super::StoreError;
use crate::status::SyncStatus;
use crate::typed::TypedError;

/// Why a document could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenDocumentError {
    /// The store has no change of it.
    #[error(
        "the store has no document {document} in space `{space}`; create it, or wait until it arrives"
    )]
    Unknown {
        /// The document.
        document: DocumentId,
        /// The space.
        space: SpaceName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why waiting for a document failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It is permanently deleted, here or elsewhere.
    #[error("the document {document} is deleted; no more of its changes arrive")]
    Deleted {
        /// The document.
        document: DocumentId,
    },
    /// The time ran out.
    #[error("the document {document} did not arrive in space `{space}`: {}", state_of(sync.as_ref()))]
    TimedOut {
        /// The document.
        document: DocumentId,
        /// The space.
        space: SpaceName,
        /// The state of the space's sync at the end; `None` if it was removed.
        sync: Option<SyncStatus>,
    },
    /// The store failed, or was closed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn state_of(sync: Option<&SyncStatus>) -> &str {
    match sync {
        None => "the space was removed from this store",
        Some(SyncStatus::Offline) => "this store is offline; call `connect` or `go_online`",
        Some(SyncStatus::Connecting) => "no relay was reached",
        Some(SyncStatus::CatchingUp { .. } | SyncStatus::Comparing { .. }) => {
            "the space was still catching up; wait for longer"
        }
        Some(SyncStatus::Live) => {
            "everything that the relay has is here, unless `sync_only` leaves it out"
        }
        Some(SyncStatus::Refused { what, .. }) => what,
    }
}

/// Why a document could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The call comes from inside a closure that changes the same document, or from a group that has
    /// changed it: read it through the transaction there.
    #[error(
        "a document cannot be read from inside its own `change` closure; read it through the closure's argument"
    )]
    Reentrant,
    /// The document is permanently deleted, here or elsewhere.
    #[error("the document is deleted; edits that no other replica has may be in `lost_edits`")]
    Deleted,
    /// The document, or the value at the path, does not have the shape of the requested type.
    #[error("the document cannot be read as the requested type: {0}")]
    Typed(#[from] TypedError),
    /// The document had to be read from the store again, and that failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
