//! Frames of the comparison: two ends find the documents that differ, and exchange only those.

use serde::{Deserialize, Serialize};

use super::{Entry, Filter, Mark, SubscriptionId};
use crate::digest::{Branch, Prefix};
use crate::ids::{Cursor, DocumentId, SpaceName};

/// A side's abilities beyond its version, from [`features`]. Optional: an older peer skips it. A
/// client sends it after `Hello`, a relay before `Welcome`, so that each knows them in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Of [`features`]; unknown bits are ignored.
    pub bits: u64,
}

/// Bits of [`Features`].
pub mod features {
    /// Snapshots in the log, in parts; `SubscribeFrom`; `PushSnapshot`.
    pub const SNAPSHOTS: u64 = 1;
    /// `Digest`, `Difference`, `Fetch`, `Document`, `Compared`.
    pub const COMPARE: u64 = 2;
    /// Filters that name documents, and `Refilter`.
    pub const FILTERS: u64 = 4;
    /// `PushEntry`: deletion, and roots beside a document's first one.
    pub const ENTRIES: u64 = 8;
    /// `Ephemeral`.
    pub const EPHEMERAL: u64 = 16;
    /// `Resend`, `Resent`, `Repaired`.
    pub const RESEND: u64 = 32;
    /// `Token`.
    pub const TOKEN: u64 = 64;
    /// All features of this version.
    pub const ALL: u64 = SNAPSHOTS | COMPARE | FILTERS | ENTRIES | EPHEMERAL | RESEND | TOKEN;
}

/// A partially received snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The snapshot: SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// The number of received bytes, from the first on.
    pub bytes: u64,
}

/// As [`Subscribe`](super::Subscribe), from a client that supports snapshots and comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeFrom {
    /// Its number from now on; not in use in this session.
    pub subscription: SubscriptionId,
    /// The space.
    pub space: SpaceName,
    /// The wanted documents.
    pub filter: Filter,
    /// The end of the replica's copy of the log.
    pub cursor: Option<Cursor>,
    /// The greatest mark of an ack received.
    pub acknowledged: Option<Mark>,
    /// The replica has documents of this space although it has no cursor, so compare first.
    pub holds: bool,
    /// A snapshot of which some parts have arrived.
    pub partial: Option<Partial>,
}

/// Requests the branches below some prefixes of document ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestQuery {
    /// The subscription, which gives the space.
    pub subscription: SubscriptionId,
    /// At least one.
    pub prefixes: Vec<Prefix>,
}

/// The answer to a [`DigestQuery`], branch for branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The subscription, which gives the space.
    pub subscription: SubscriptionId,
    /// The last durable offset at the time of the sums.
    pub head: crate::ids::Offset,
    /// In the order of the prefixes.
    pub branches: Vec<Branch>,
}

/// A wanted document, and what the asker has of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The document.
    pub document: DocumentId,
    /// The asker's heads, and some of their ancestors.
    pub have: Vec<[u8; 32]>,
}

/// Requests the missing entries of some documents. Answered, in this order, by [`DocumentEntries`]
/// for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The subscription, which gives the space.
    pub subscription: SubscriptionId,
    /// At least one.
    pub wants: Vec<Want>,
}

/// A relay's state of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// It does not have the document.
    Absent,
    /// It has the tombstone.
    Deleted,
    /// It has changes up to these heads.
    Present(Vec<[u8; 32]>),
}

/// Entries of one document that the asker lacks, outside the log's order: they do not move the
/// cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentEntries {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// The relay's state of it.
    pub holding: Holding,
    /// By ascending offset: at most one snapshot or tombstone, then changes.
    pub entries: Vec<Entry>,
    /// Whether another frame of this document follows.
    pub more: bool,
}

/// A new filter for a subscription. The relay stops feeding it and answers `Subscribed` with the
/// new scope and `resumed: false`. The client fetches the documents that came into scope, then
/// sends `Compared`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refilter {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The new filter.
    pub filter: Filter,
}
