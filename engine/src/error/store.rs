//! The failure of an open store, which most operations can return.

use thiserror::Error;

use crate::failure::{BoxError, StoreFailure};
use crate::store::{ViewError, WriteFailure};

/// The store failed: the disk is full, broken or gone, or the store is closed.
#[derive(Debug, Error)]
#[error("the store failed ({class}): {source}")]
#[non_exhaustive]
pub struct StoreError {
    /// The kind of failure.
    pub class: StoreFailure,
    /// The error of SQLite or of the system.
    #[source]
    pub source: BoxError,
}

impl StoreError {
    /// An error of this kind with its cause.
    pub fn new(class: StoreFailure, source: impl Into<BoxError>) -> Self {
        Self { class, source: source.into() }
    }

    /// A thread could not be started.
    pub(crate) fn of_thread(source: std::io::Error) -> Self {
        Self { class: StoreFailure::Other, source: Box::new(source) }
    }

    /// The thread that follows the writer panicked.
    pub(crate) fn panicked(what: &str) -> Self {
        let what = format!("the thread that follows the writer panicked: {what}");
        Self { class: StoreFailure::Panicked, source: what.into() }
    }

    /// The store is closed, or is being closed.
    pub(crate) fn closed() -> Self {
        Self { class: StoreFailure::Closed, source: "the store is closed".into() }
    }

    /// The caller is inside a closure that changes a document.
    pub(crate) fn reentrant() -> Self {
        Self { class: StoreFailure::Reentrant, source: "return from the closure first".into() }
    }

    pub(crate) fn space_removed() -> Self {
        let class = StoreFailure::SpaceRemoved;
        Self { class, source: "the space was removed from this store; open it again".into() }
    }

    pub(crate) fn read_only() -> Self {
        let class = StoreFailure::ReadOnly;
        Self { class, source: "the store was opened read-only".into() }
    }
}

impl From<ViewError> for StoreError {
    fn from(error: ViewError) -> Self {
        Self { class: error.0.class().into(), source: Box::new(error) }
    }
}

impl From<WriteFailure> for StoreError {
    fn from(error: WriteFailure) -> Self {
        Self { class: error.class().into(), source: Box::new(error) }
    }
}
