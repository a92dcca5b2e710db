//! Frames of entries that are not single changes: snapshots in parts, and entries of other kinds.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::SubscriptionId;
use crate::ids::DocumentId;

/// A piece of a snapshot. From a relay, it belongs to the next snapshot entry of this subscription
/// that has no body; a part of another snapshot, or one at offset 0, discards the previous one. It
/// does not move the cursor. From a client, it answers `UploadFrom`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The snapshot's document.
    pub document: DocumentId,
    /// The snapshot: SHA-256 of all its bytes.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub total: u64,
    /// Offset of this piece.
    pub from: u64,
    /// The piece; never empty.
    pub bytes: ByteBuf,
}

/// Announces the upload of a document's snapshot, instead of its changes one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushSnapshot {
    /// Grows strictly within a session, in one sequence with pushes.
    pub id: u64,
    /// The subscription whose space this goes to.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub total: u64,
    /// Its heads, sorted.
    pub heads: Vec<[u8; 32]>,
}

/// The bytes of a snapshot upload that the relay wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadFrom {
    /// The upload.
    pub id: u64,
    /// Offset of the next part: earlier bytes need not be sent again.
    pub from: u64,
    /// Parts may be sent up to this offset.
    pub up_to: u64,
}

/// Pushes an entry that is not an ordinary change. Answered by `Ack` with a count of 1, or `Nack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushEntry {
    /// Grows strictly within a session, in one sequence with pushes.
    pub id: u64,
    /// The subscription whose space this goes to.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// Of [`entry_kind`](super::entry_kind).
    pub kind: u16,
    /// Of [`entry_flags`](super::entry_flags).
    pub flags: u16,
    /// Identifies the entry: a tombstone's id, a change's hash.
    pub entry: [u8; 32],
    /// The bytes of its kind.
    pub body: ByteBuf,
}
