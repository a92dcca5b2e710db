//! Why the store did not do what it was asked.

use std::error::Error;

use landfall_protocol::folded::BadIndex;
use landfall_protocol::space::StoreFailure;
use landfall_protocol::{Code, DocumentId};
use thiserror::Error;

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
#[error("the store could not {what}")]
pub struct StoreError {
    /// What was asked.
    pub what: &'static str,
    /// What a pusher is told of it.
    pub failure: StoreFailure,
    /// Nothing is wrong, but this document's packed index must be loaded first.
    pub needs_index: Option<DocumentId>,
    /// The cause.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Disk: the packed index of a document's folded history is not what was written. It can be made
/// anew from the snapshot.
#[derive(Debug, Error)]
#[error("the packed index of {document} is damaged; it can be made anew from its snapshot")]
pub struct DamagedIndex {
    /// Whose.
    pub document: DocumentId,
    /// The snapshot that it stands beside: SHA-256 of its bytes.
    pub snapshot: [u8; 32],
    /// What is wrong with it.
    pub source: BadIndex,
}

/// An index is on the disk only.
#[derive(Debug, Error)]
#[error("the packed index of {0} is not in memory")]
struct IndexNotLoaded(DocumentId);

/// What was read is not what was written.
#[derive(Debug, Error)]
#[error("it is damaged")]
struct Damaged;

/// The method was not given by this store.
#[derive(Debug, Error)]
#[error("this store keeps no folded history")]
struct Unsupported;

impl StoreError {
    /// A call that panicked, as a failure.
    pub(crate) fn of_panic(source: impl Error + Send + Sync + 'static) -> Self {
        Self::failed("finish a call, which panicked", source)
    }

    /// The damage, if a packed index is damaged.
    pub fn damaged_index(&self) -> Option<&DamagedIndex> {
        self.source.downcast_ref()
    }

    /// What a peer is told of a read that failed.
    pub(crate) fn told(&self) -> (Code, String) {
        match self.failure {
            StoreFailure::Damaged => {
                let what = "what the relay's store has there is damaged; its operator must repair \
                            or restore it";
                (Code::DAMAGED, what.to_owned())
            }
            failure => {
                let refusal = failure.refusal();
                (refusal.code, refusal.what)
            }
        }
    }

    /// The error with all its causes, for one line of a log.
    pub fn chain(&self) -> String {
        chain(self)
    }

    pub(super) fn failed(what: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        let failure = StoreFailure::Failed;
        Self { what, failure, needs_index: None, source: Box::new(source) }
    }

    pub(crate) fn unsupported() -> Self {
        Self::failed("do what it was asked", Unsupported)
    }

    /// What was read has been noted as damaged.
    pub(crate) fn damaged(what: &'static str) -> Self {
        Self { failure: StoreFailure::Damaged, ..Self::failed(what, Damaged) }
    }

    /// What the store has of these changes may be damaged: that is not known yet.
    pub(crate) fn doubted() -> Self {
        let failure = StoreFailure::Examining;
        Self { failure, ..Self::failed("vouch for what is damaged", Damaged) }
    }

    pub(super) fn needs_index(document: DocumentId) -> Self {
        let error = Self::failed("look into folded history", IndexNotLoaded(document));
        Self { needs_index: Some(document), ..error }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
