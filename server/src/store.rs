//! The log store: what the relay keeps on disk, behind a trait so that a test can hold a commit
//! back and a larger installation can bring another database.
//!
//! It keeps what it is given and reads it back. It must not know sessions, sockets or frames'
//! bytes on the wire, and it never judges a change: that is `landfall_protocol::space`.

mod append;
mod history;
mod pages;
mod schema;
mod sqlite;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::sync::Arc;

use landfall_protocol::admission::History;
use landfall_protocol::lineage::Lineage;
use landfall_protocol::ring::Page;
use landfall_protocol::space::{Commit, StoreFailure};
use landfall_protocol::{Offset, SpaceName, Upstream};
use thiserror::Error;

pub use landfall_storage::{CommitHold, FailureClass, Faults};
pub use sqlite::{OpenStoreError, SqliteStore, StoreHint};

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
#[error("the store could not {what}")]
pub struct StoreError {
    /// What was asked.
    pub what: &'static str,
    /// What a pusher is told of it.
    pub failure: StoreFailure,
    /// The cause.
    pub source: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// A call that panicked, as a failure.
    pub(crate) fn of_panic(source: impl Error + Send + Sync + 'static) -> Self {
        let (what, failure) = ("finish a call, which panicked", StoreFailure::Failed);
        Self { what, failure, source: Box::new(source) }
    }

    /// The error with all its causes, for one line of a log.
    pub fn chain(&self) -> String {
        chain(self)
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

/// Called once, when a commit is durable or has failed; on a thread of the store, so it must
/// neither wait nor take long.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A relay's store: one log for each space, and the index that admission asks.
///
/// All calls may block, except that [`LogStore::append`] and [`LogStore::probe`] only wait for
/// room in the store's queue.
pub trait LogStore: Send + Sync + 'static {
    /// The relay's stable identity, drawn when the store was made.
    fn upstream(&self) -> Upstream;

    /// A space's lineage. An unknown space is an empty log, and asking makes nothing.
    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError>;

    /// Calls `ask` with one snapshot of what is durable in a space.
    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError>;

    /// The next page of a log after a position, bounded as an `Entries` frame is; `None` at its
    /// end.
    fn page(&self, space: &SpaceName, after: Offset) -> Result<Option<Page>, StoreError>;

    /// Writes a commit, all of it or nothing, with whatever else waits; `done` comes after its
    /// fsync.
    fn append(&self, commit: Arc<Commit>, done: Done);

    /// Tries whether the store takes writes, by one that leaves nothing behind.
    fn probe(&self, done: Done);

    /// Finishes what is queued and lets go of the files. Later calls fail.
    fn close(&self) -> Result<(), StoreError>;
}
