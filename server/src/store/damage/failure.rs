//! The errors of the store.

use std::error::Error;

use landfall_protocol::compacted::BadIndex;
use landfall_protocol::relay::StoreFailure;
use landfall_protocol::{Code, DocumentId, error_chain};
use thiserror::Error;

/// Why the store could not perform an operation.
#[derive(Debug, Error)]
#[error("the store could not {what}")]
pub struct StoreError {
    /// The operation.
    pub what: &'static str,
    /// The failure as reported to the client that pushed.
    pub failure: StoreFailure,
    /// No failure: this document's packed index must be loaded first.
    pub needs_index: Option<DocumentId>,
    /// The cause.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Disk: the packed index of a document's snapshot differs from the one written. It can be rebuilt from the
/// snapshot.
#[derive(Debug, Error)]
#[error("the packed index of {document} is damaged; it can be rebuilt from its snapshot")]
pub struct DamagedIndex {
    /// The document.
    pub document: DocumentId,
    /// The snapshot that it belongs to: SHA-256 of its bytes.
    pub snapshot: [u8; 32],
    /// Why it does not parse.
    pub source: BadIndex,
}

/// An index is not in memory.
#[derive(Debug, Error)]
#[error("the packed index of {0} is not in memory")]
struct IndexNotLoaded(DocumentId);

/// The value read differs from the value written.
#[derive(Debug, Error)]
#[error("it is damaged")]
struct Damaged;

/// This store does not implement the method.
#[derive(Debug, Error)]
#[error("this store does not support it")]
struct Unsupported;

impl StoreError {
    /// The failure of a call that panicked.
    pub(crate) fn of_panic(source: impl Error + Send + Sync + 'static) -> Self {
        Self::failed("finish a call that panicked", source)
    }

    /// The damage, if the error is a damaged packed index.
    pub fn damaged_index(&self) -> Option<&DamagedIndex> {
        self.source.downcast_ref()
    }

    /// The code and text that a peer receives for a failed read.
    pub(crate) fn for_client(&self) -> (Code, String) {
        match self.failure {
            StoreFailure::Damaged => {
                let what =
                    "the relay's store is damaged there; its operator must repair or restore it";
                (Code::DAMAGED, what.to_owned())
            }
            failure => {
                let refusal = failure.refusal();
                (refusal.code, refusal.what)
            }
        }
    }

    /// The error with all its causes, in one line for the log.
    pub fn chain(&self) -> String {
        error_chain(self)
    }

    pub(in crate::store) fn failed(
        what: &'static str,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        let failure = StoreFailure::Failed;
        Self { what, failure, needs_index: None, source: Box::new(source) }
    }

    pub(crate) fn unsupported() -> Self {
        Self::failed("perform the operation", Unsupported)
    }

    /// The value was recorded as damaged.
    pub(crate) fn damaged(what: &'static str) -> Self {
        Self { failure: StoreFailure::Damaged, ..Self::failed(what, Damaged) }
    }

    /// The store's copy of these changes may be damaged; the examination has not finished.
    pub(crate) fn doubted() -> Self {
        let failure = StoreFailure::Examining;
        Self { failure, ..Self::failed("confirm changes that may be damaged", Damaged) }
    }

    pub(in crate::store) fn needs_index(document: DocumentId) -> Self {
        let error = Self::failed("search compacted history", IndexNotLoaded(document));
        Self { needs_index: Some(document), ..error }
    }
}
