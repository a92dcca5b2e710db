//! A document's snapshot as plain data: the result of a compaction, before it is stored. Never
//! loads the chunk.

use crate::admission::measure;
use crate::compacted::{BadIndex, LastOfActor, PackedIndex};
use crate::ids::ChangeHash;

/// An automerge document chunk that represents changes, with the data that admission needs of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// SHA-256 of `body`.
    pub hash: [u8; 32],
    /// The heads, sorted, each with its last operation counter.
    pub heads: Vec<(ChangeHash, u64)>,
    /// The last change of every actor.
    pub actors: Vec<LastOfActor>,
    /// The number of changes.
    pub changes: u64,
    /// The number of operations ([`DocumentSize::operations`](crate::admission::DocumentSize)).
    pub operations: u64,
    /// The chunk.
    pub body: Vec<u8>,
    /// The packed index of the changes ([`compacted`](crate::compacted)).
    pub packed: Vec<u8>,
}

impl Snapshot {
    /// Derives everything from a chunk, its SHA-256 and its packed index. The caller guarantees
    /// that the three belong together.
    ///
    /// # Errors
    /// If the index is invalid.
    pub fn new(body: Vec<u8>, hash: [u8; 32], packed: Vec<u8>) -> Result<Self, BadIndex> {
        let index = PackedIndex::parse(packed)?;
        let max_op = |head: &ChangeHash| index.find(head).map_or(0, |found| found.max_op);
        Ok(Self {
            hash,
            heads: index.heads().into_iter().map(|head| (head, max_op(&head))).collect(),
            actors: index.actors().collect(),
            changes: index.len() as u64,
            // The compaction that loaded the chunk has measured it before.
            operations: measure(&body).map_or(0, |size| size.operations),
            body,
            packed: index.as_bytes().to_vec(),
        })
    }

    /// The heads without their counters.
    pub fn head_hashes(&self) -> Vec<ChangeHash> {
        self.heads.iter().map(|(hash, _)| *hash).collect()
    }
}
