//! What a commit writes, and its results.

use std::sync::Arc;

use super::PushAnswer;
use crate::frame::{EncodedEntry, Entry};
use crate::ids::{ActorId, Epoch, SpaceName};
use crate::relay::{EpochRecord, Snapshot};

/// An entry to be stored, with the data that the store indexes.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The entry as sent to clients; a snapshot's entry has no body.
    pub entry: Entry,
    /// Its effect on the document.
    pub kind: NewKind,
}

/// The effect of an entry on its document.
#[derive(Debug, Clone)]
pub enum NewKind {
    /// Adds a change.
    Change {
        /// The change's actor.
        actor: ActorId,
        /// The change's sequence number.
        seq: u64,
        /// The change's last operation counter.
        max_op: u64,
        /// Its share of the document's operations
        /// ([`DocumentSize::operations`](crate::admission::DocumentSize)).
        operations: u64,
    },
    /// Deletes the document: removes its changes and snapshots permanently.
    Tombstone,
    /// Replaces everything in the document, including the uploaded snapshot that was merged into
    /// it.
    Snapshot(Arc<Snapshot>),
}

impl NewEntry {
    /// The approximate number of bytes that it adds to the store.
    pub fn weight(&self) -> usize {
        match &self.kind {
            NewKind::Change { .. } | NewKind::Tombstone => self.entry.body.len(),
            NewKind::Snapshot(snapshot) => snapshot.body.len() + snapshot.packed.len(),
        }
    }
}

/// The contents of one commit of a space, written atomically.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The space.
    pub space: SpaceName,
    /// The epoch that this commit opens, if any.
    pub opens: Option<EpochRecord>,
    /// The entries by ascending offset; never empty.
    pub entries: Vec<NewEntry>,
}

/// The results of a commit.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The epoch and the newly durable entries, encoded once, in order. A snapshot has no body
    /// here; it is read from the store.
    pub publish: Option<(Epoch, Vec<Arc<EncodedEntry>>)>,
    /// Answers to pushes.
    pub answers: Vec<PushAnswer>,
    /// The written commit.
    pub commit: Option<Arc<Commit>>,
}
