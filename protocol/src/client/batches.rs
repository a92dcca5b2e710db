//! What a replica's store is asked to write: received entries, each checked.

use thiserror::Error;

use crate::admission::{CheckedChange, FormError};
use crate::frame::{Entry, Holding};
use crate::ids::{ChangeHash, Cursor, DocumentId, Offset, SpaceName};

/// The heads of a document in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentHeads {
    /// The document.
    pub document: DocumentId,
    /// Its heads; none if the document is absent or deleted.
    pub heads: Vec<ChangeHash>,
    /// Some of their ancestors, at growing distances (1, 2, 4, 8 … changes). A relay that does not
    /// know the heads finds the common history here and does not send it.
    pub older: Vec<ChangeHash>,
}

/// Entries to write with the new cursor in one transaction, and only if the stored cursor is where
/// the batch begins: a batch after one that failed must not be written.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The space.
    pub space: SpaceName,
    /// The offset of the previous cursor; 0 if there must be none.
    pub after: Offset,
    /// The cursor after the batch.
    pub cursor: Cursor,
    /// The entries, in order.
    pub entries: Vec<Incoming>,
    /// Their weight; to be returned in [`handle_stored`](super::Replica::handle_stored).
    pub bytes: usize,
}

/// The entries of a fetched document.
#[derive(Debug, Clone)]
pub struct DocumentBatch {
    /// The space.
    pub space: SpaceName,
    /// The document.
    pub document: DocumentId,
    /// The relay's state of it.
    pub holding: Holding,
    /// The entries, in order.
    pub entries: Vec<Incoming>,
    /// Whether this is the last piece.
    pub last: bool,
    /// Whether the relay could not read an entry of this piece or of an earlier one.
    pub damaged: bool,
    /// Their weight; to be returned in [`handle_stored`](super::Replica::handle_stored).
    pub bytes: usize,
}

/// One received entry after the stateless checks.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// A change that passed the preflight.
    Change {
        /// Its position in the log.
        offset: Offset,
        /// Its document.
        document: DocumentId,
        /// The change.
        change: CheckedChange,
        /// The author: the identity of the session that pushed it.
        author: Vec<u8>,
        /// When the relay stored it, in milliseconds since 1970.
        at_ms: u64,
        /// Whether it begins another history, which an author asked to merge into the document.
        second_root: bool,
    },
    /// A snapshot: all changes of the document in the log up to here.
    Snapshot {
        /// Its position in the log.
        offset: Offset,
        /// Its document.
        document: DocumentId,
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its heads, as the relay states them.
        heads: Vec<ChangeHash>,
        /// Its bytes; `None` if they arrived in parts, which the store has.
        body: Option<Vec<u8>>,
    },
    /// The relay accepted this snapshot, which we uploaded on this connection.
    SnapshotEcho {
        /// Its document.
        document: DocumentId,
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its heads: the relay holds them and their ancestors.
        heads: Vec<ChangeHash>,
    },
    /// The document is deleted permanently.
    Tombstone {
        /// Its position in the log.
        offset: Offset,
        /// Its document.
        document: DocumentId,
        /// The author of the deletion.
        author: Vec<u8>,
        /// When it was deleted, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The relay holds this change, which we pushed on this connection.
    Echo {
        /// Its document.
        document: DocumentId,
        /// Its hash.
        hash: crate::ids::ChangeHash,
    },
    /// A deferred entry: kept, not applied.
    Deferred {
        /// The entry as received.
        entry: Entry,
        /// Why it cannot be applied.
        reason: DeferredReason,
    },
}

/// Why a received entry is deferred.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeferredReason {
    /// Its kind is of a later version.
    #[error("this version does not know entries of kind {0}; a later version reads them")]
    UnknownKind(u16),
    /// The relay has the entry and cannot read it. The next comparison fetches it again.
    #[error(
        "the entry is damaged in the relay's store; its operator must repair or restore the store"
    )]
    Damaged,
    /// Its bytes do not pass the preflight.
    #[error("the change is malformed: {0}")]
    Form(#[from] FormError),
    /// Its bytes are another change than its header states.
    #[error("the entry's id differs from the hash of its change")]
    WrongId,
    /// A snapshot beyond the size limit. The next comparison fetches its document again.
    #[error("the snapshot has {actual} bytes, the limit is {limit}; it was not stored")]
    SnapshotTooLarge {
        /// Its bytes, as the relay states them.
        actual: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A snapshot that differs from its entry, or that automerge cannot read: the reason. The next
    /// comparison fetches its document again.
    #[error("the snapshot is invalid: {0}")]
    Snapshot(String),
}
