//! A document's folded history as plain data: what a fold made, before anybody stores it.

use crate::admission::measure;
use crate::folded::{BadIndex, PackedIndex};
use crate::ids::ChangeHash;

pub use crate::folded::LastOfActor;

/// An automerge document chunk that stands for changes, with what admission must know of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// SHA-256 of `body`.
    pub hash: [u8; 32],
    /// The heads, sorted, each with its last operation counter.
    pub heads: Vec<(ChangeHash, u64)>,
    /// The last change of every actor.
    pub actors: Vec<LastOfActor>,
    /// How many changes are folded.
    pub changes: u64,
    /// How many operations are ([`DocumentSize::operations`](crate::admission::DocumentSize)).
    pub operations: u64,
    /// The chunk.
    pub body: Vec<u8>,
    /// The packed index of the changes ([`folded`](crate::folded)).
    pub packed: Vec<u8>,
}

impl Snapshot {
    /// Everything that follows from a chunk, its SHA-256 and its packed index. That the three
    /// belong together is the caller's word.
    ///
    /// # Errors
    /// If the index is none.
    pub fn new(body: Vec<u8>, hash: [u8; 32], packed: Vec<u8>) -> Result<Self, BadIndex> {
        let index = PackedIndex::parse(packed)?;
        let max_op = |head: &ChangeHash| index.find(head).map_or(0, |found| found.max_op);
        Ok(Self {
            hash,
            heads: index.heads().into_iter().map(|head| (head, max_op(&head))).collect(),
            actors: index.actors().collect(),
            changes: index.len() as u64,
            // The fold that loaded the chunk has measured it before.
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
