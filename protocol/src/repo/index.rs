//! A document as the change index knows it: what is needed to answer a sync message, and no more.

use std::sync::Arc;

use crate::folded::PackedIndex;
use crate::ids::{ChangeHash, Offset};

/// A change of the tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    /// Where it is in the space's log.
    pub offset: Offset,
    /// Its hash.
    pub hash: ChangeHash,
    /// The changes that it rests on.
    pub dependencies: Vec<ChangeHash>,
}

/// What is folded of a document.
#[derive(Debug, Clone)]
pub struct FoldedHistory {
    /// SHA-256 of the snapshot's bytes: how the store finds it.
    pub hash: [u8; 32],
    /// How many bytes.
    pub bytes: u64,
    /// Where it stands in the log.
    pub offset: Offset,
    /// Its heads, ascending.
    pub heads: Vec<ChangeHash>,
    /// Its changes, if they were asked for.
    pub index: Option<Arc<PackedIndex>>,
}

/// A document that has changes and is not deleted.
#[derive(Debug, Clone)]
pub struct DocumentIndex {
    /// Its heads, ascending. All of it is durable.
    pub heads: Vec<ChangeHash>,
    /// The offset of its last entry.
    pub last: Offset,
    /// What is folded.
    pub folded: Option<FoldedHistory>,
    /// What is not, by growing offset: dependencies before what rests on them.
    pub tail: Vec<IndexRow>,
}
