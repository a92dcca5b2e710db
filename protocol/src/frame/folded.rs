//! Frames that carry what is no single change: snapshots in parts, and entries of other kinds.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::SubscriptionId;
use crate::ids::DocumentId;

/// A piece of a snapshot. From a relay: it belongs to the next snapshot entry of this
/// subscription that has no body; a part of another snapshot, or one that begins at 0, puts an
/// end to the one before. It moves no cursor. From a client: what `Wanted` asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Of which subscription.
    pub subscription: SubscriptionId,
    /// The document that the snapshot is of.
    pub document: DocumentId,
    /// The snapshot: SHA-256 of all its bytes.
    pub hash: [u8; 32],
    /// All its bytes.
    pub total: u64,
    /// Where this piece begins.
    pub from: u64,
    /// The piece; never empty.
    pub bytes: ByteBuf,
}

/// Offers a document's folded history, instead of its changes one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushSnapshot {
    /// Grows strictly within a session, in one row with pushes.
    pub id: u64,
    /// The subscription whose space this goes to.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// How many bytes.
    pub total: u64,
    /// Its heads, sorted.
    pub heads: Vec<[u8; 32]>,
}

/// Which bytes of an offered snapshot the relay wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The offer.
    pub id: u64,
    /// The next part begins here: what was sent of it before need not be sent again.
    pub from: u64,
    /// Parts may be sent up to here.
    pub up_to: u64,
}

/// Pushes an entry that is no ordinary change. Answered by `Ack` with a count of 1, or `Nack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushEntry {
    /// Grows strictly within a session, in one row with pushes.
    pub id: u64,
    /// The subscription whose space this goes to.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// Of [`entry_kind`](super::entry_kind).
    pub kind: u16,
    /// Of [`entry_flags`](super::entry_flags).
    pub flags: u16,
    /// Names the entry: a tombstone's id, a change's hash.
    pub entry: [u8; 32],
    /// The kind's own bytes.
    pub body: ByteBuf,
}
