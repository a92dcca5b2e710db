//! A document in the change index: the data needed to answer a sync message, and no more.

use std::sync::Arc;

use crate::compacted::PackedIndex;
use crate::ids::{ChangeHash, Offset};

/// A change of the tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    /// Its offset in the space's log.
    pub offset: Offset,
    /// Its hash.
    pub hash: ChangeHash,
    /// Its dependencies.
    pub dependencies: Vec<ChangeHash>,
}

/// The snapshot of a document.
#[derive(Debug, Clone)]
pub struct CompactedHistory {
    /// SHA-256 of the snapshot's bytes, its key in the store.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub bytes: u64,
    /// Its offset in the log.
    pub offset: Offset,
    /// Its heads, ascending.
    pub heads: Vec<ChangeHash>,
    /// Its changes, if they were requested.
    pub index: Option<Arc<PackedIndex>>,
}

/// A document that has changes and is not deleted.
#[derive(Debug, Clone)]
pub struct DocumentIndex {
    /// Its heads, ascending. All of them are durable.
    pub heads: Vec<ChangeHash>,
    /// The offset of its last entry.
    pub last: Offset,
    /// The snapshot, if there is one.
    pub compacted: Option<CompactedHistory>,
    /// The later changes, by ascending offset: dependencies before their dependants.
    pub tail: Vec<IndexRow>,
}
