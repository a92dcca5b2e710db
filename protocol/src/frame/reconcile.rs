//! Frames by which two ends find out what differs between them, and move only that.

use serde::{Deserialize, Serialize};

use super::{Entry, Filter, Mark, SubscriptionId};
use crate::digest::{Branch, Prefix};
use crate::ids::{Cursor, DocumentId, SpaceName};

/// What a side can do beyond its version: of [`features`]. Optional: an older peer skips it. A
/// client sends it after `Hello`, a relay before `Welcome`, so that each knows before it needs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Of [`features`]; unknown bits are not looked at.
    pub bits: u64,
}

/// Bits of [`Features`].
pub mod features {
    /// Snapshots in the log, in parts; `SubscribeFrom`; `PushSnapshot`.
    pub const SNAPSHOTS: u64 = 1;
    /// `Digest`, `Difference`, `Fetch`, `Document`, `Reconciled`.
    pub const RECONCILE: u64 = 2;
    /// Filters that name documents, and `Refilter`.
    pub const FILTERS: u64 = 4;
    /// `PushEntry`: deletion, and roots beside a document's first one.
    pub const ENTRIES: u64 = 8;
    /// `Ephemeral`.
    pub const EPHEMERAL: u64 = 16;
    /// `Resend`, `Resent`, `Mended`.
    pub const RESEND: u64 = 32;
    /// All that this version can do.
    pub const ALL: u64 = SNAPSHOTS | RECONCILE | FILTERS | ENTRIES | EPHEMERAL | RESEND;
}

/// A snapshot that has arrived in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The snapshot: SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// How many of its bytes are there, from the first on.
    pub bytes: u64,
}

/// As [`Subscribe`](super::Subscribe), from a client that knows snapshots and reconciliation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeFrom {
    /// The number that stands for it from now on; not in use in this session.
    pub subscription: SubscriptionId,
    /// The space.
    pub space: SpaceName,
    /// Which of its documents.
    pub filter: Filter,
    /// Where the replica's copy of the log ends.
    pub cursor: Option<Cursor>,
    /// The furthest ack seen.
    pub acknowledged: Option<Mark>,
    /// Without a cursor: the replica holds documents of this space all the same, so compare first.
    pub holds: bool,
    /// A snapshot of which some parts have arrived.
    pub partial: Option<Partial>,
}

/// Asks what lies below some prefixes of document ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestQuery {
    /// In which subscription's space.
    pub subscription: SubscriptionId,
    /// At least one.
    pub prefixes: Vec<Prefix>,
}

/// The answer to a [`DigestQuery`], branch for branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which subscription's space.
    pub subscription: SubscriptionId,
    /// The last durable offset of what was summed.
    pub head: crate::ids::Offset,
    /// In the order of the prefixes.
    pub branches: Vec<Branch>,
}

/// A document that is wanted, and what of it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The document.
    pub document: DocumentId,
    /// The asker's heads.
    pub have: Vec<[u8; 32]>,
}

/// Asks for what is missing of some documents. Answered, in this order, by
/// [`DocumentEntries`] for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// In which subscription's space.
    pub subscription: SubscriptionId,
    /// At least one.
    pub wants: Vec<Want>,
}

/// What a relay has of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// Nothing.
    Absent,
    /// Its tombstone.
    Deleted,
    /// Changes up to these heads.
    Present(Vec<[u8; 32]>),
}

/// Entries of one document that the asker lacks, apart from the log's order: they move no cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentEntries {
    /// Of which subscription.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// What the relay has of it.
    pub holding: Holding,
    /// By growing offset: at most one snapshot or tombstone, then changes.
    pub entries: Vec<Entry>,
    /// Whether another frame of this document follows.
    pub more: bool,
}

/// Another filter for a subscription. The relay stops feeding it and answers `Subscribed` with
/// the new scope and `resumed: false`; what came into scope is fetched, then it is `Reconciled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refilter {
    /// Which one.
    pub subscription: SubscriptionId,
    /// From now on.
    pub filter: Filter,
}
