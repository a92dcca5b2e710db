//! The packed index of a snapshot: the data of each compacted change that a relay and an engine
//! need without loading the document. It is stored beside each snapshot, read whole, and can be
//! evicted and read again. It knows no document and no store.
//!
//! # The written form, version 1
//!
//! | part | bytes | holds |
//! |---|---|---|
//! | magic | 4 | `LFPI` |
//! | version | 1 | `01` |
//! | actors | number | how many actors have changes here |
//! | | each: number + bytes | length (1 to 64) and id; ascending by their bytes, each once |
//! | changes | number | how many changes the snapshot has |
//! | hashes | 32 each | the changes' hashes, dependencies before their dependants |
//! | rows | one each, same order | see below |
//! | checksum | 16 | the first 16 bytes of the SHA-256 of everything before |
//!
//! A *number* is unsigned LEB128 in its shortest form. A row is a few numbers:
//!
//! | number | holds |
//! |---|---|
//! | actor | the position of the change's actor among the actors, from 0 |
//! | growth | its last operation counter, minus the greatest of its dependencies' (0 if it has none) |
//! | dependencies | how many dependencies it has |
//! | distance, each | how many positions before this change the dependency is, from 1 |
//!
//! A sequence number is not written: an actor's changes are in order, from 1 without a gap, so a
//! change's sequence number is its position among its actor's changes. A character that is typed
//! after another takes 4 bytes besides its hash. Dependencies keep the order in which the change
//! states them. One history in one order has one written form.
//!
//! # In memory
//!
//! [`PackedIndex`] keeps the written bytes and 16 bytes a change: the order of the hashes, the
//! offset of each row, the last operation counters, and each actor's changes.

mod bytes;
mod pack;
mod parse;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::ids::{ActorId, ChangeHash};
use crate::limits;
use bytes::number_at;

/// A compacted change, the input of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactedChange {
    /// Its hash.
    pub hash: ChangeHash,
    /// Its author.
    pub actor: ActorId,
    /// Its sequence number among its actor's changes, from 1.
    pub seq: u64,
    /// The counter of its last operation; for an empty change, the one before its first.
    pub max_op: u64,
    /// Its dependencies, each once, in the order in which the change states them.
    pub dependencies: Vec<ChangeHash>,
}

/// The result of [`PackedIndex::find`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundChange {
    /// Its author.
    pub actor: ActorId,
    /// Its sequence number among its actor's changes, from 1.
    pub seq: u64,
    /// The counter of its last operation.
    pub max_op: u64,
}

/// The last change of an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOfActor {
    /// The actor.
    pub actor: ActorId,
    /// Its sequence number, which is the number of the actor's changes.
    pub seq: u64,
    /// Its hash.
    pub hash: ChangeHash,
    /// The counter of its last operation.
    pub max_op: u64,
}

/// Why bytes are not a packed index, or why changes cannot be written as one. From a store it means
/// damage (the index can be rebuilt from the snapshot); from [`PackedIndex::pack`], a mistake of
/// the caller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadIndex {
    /// The bytes do not begin with the magic number.
    #[error("not a packed index: it does not begin with LFPI")]
    Magic,
    /// A version unknown to this software.
    #[error("the packed index is of version {found}; this software reads version 1")]
    Version {
        /// The stated version.
        found: u8,
    },
    /// The bytes were altered after writing.
    #[error("the packed index is damaged: its checksum does not match")]
    Checksum,
    /// The bytes end too early, or a count exceeds the rest of the input.
    #[error("the packed index ends inside its {part}")]
    Truncated {
        /// The truncated part.
        part: &'static str,
    },
    /// A number too large for 64 bits or not in its shortest form.
    #[error("the packed index holds a bad number in its {part}")]
    Number {
        /// The part that holds it.
        part: &'static str,
    },
    /// Bytes between the last row and the checksum.
    #[error("trailing bytes after the packed index's last row: {count}")]
    TrailingBytes {
        /// Their number.
        count: usize,
    },
    /// Positions inside are 32 bits.
    #[error("a packed index has less than 4 GiB and 2³² changes")]
    TooLarge,
    /// An actor's id is not in order, of a wrong length, or without a change.
    #[error("actor {number} of the packed index is impossible: {what}")]
    Actor {
        /// Its position among the actors, from 0.
        number: usize,
        /// The reason.
        what: &'static str,
    },
    /// The index is valid, but its heads are not those of the snapshot stored with it.
    #[error("the packed index has other heads than its snapshot")]
    OtherHeads,
    /// A change contradicts those before it.
    #[error("change {position} of the packed index is impossible: {what}")]
    Change {
        /// Its position among the changes, from 0.
        position: usize,
        /// The reason.
        what: &'static str,
    },
}

/// The index of a snapshot's changes.
#[derive(Debug, Clone)]
pub struct PackedIndex {
    blob: Box<[u8]>,
    /// Offset of the hashes in `blob`.
    hashes: usize,
    /// Offset of each actor (its length byte) in `blob`.
    actors: Box<[u32]>,
    /// The beginning of each actor's part of `by_actor`, and the end of the last one.
    starts: Box<[u32]>,
    /// The positions of each actor's changes in order, one actor after the other.
    by_actor: Box<[u32]>,
    /// Offset of each change's row in `blob`.
    rows: Box<[u32]>,
    /// Each change's last operation counter.
    max_ops: Box<[u32]>,
    /// All positions, ascending by hash.
    order: Box<[u32]>,
    /// The positions of the changes without dependants, ascending by hash.
    heads: Box<[u32]>,
}

impl PackedIndex {
    /// Writes the index of these changes. Dependencies must precede their dependants, and an
    /// actor's changes must be in order, from sequence number 1.
    pub fn pack(changes: &[CompactedChange]) -> Result<Vec<u8>, BadIndex> {
        pack::pack(changes)
    }

    /// Reads an index. It never panics, whatever the bytes; its work and memory are bounded by
    /// their length.
    pub fn parse(blob: Vec<u8>) -> Result<Self, BadIndex> {
        parse::parse(blob)
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the snapshot has no changes.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The changes without dependants in the snapshot, ascending.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.heads.iter().map(|&position| self.hash(position)).collect()
    }

    /// Whether the snapshot has a change.
    pub fn contains(&self, hash: &ChangeHash) -> bool {
        self.position(hash).is_some()
    }

    /// A change by its hash.
    pub fn find(&self, hash: &ChangeHash) -> Option<FoundChange> {
        self.position(hash).map(|position| self.found(position))
    }

    /// An actor's change with a sequence number (from 1).
    pub fn at(&self, actor: &ActorId, seq: u64) -> Option<ChangeHash> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        let changes = self.changes_of(self.actor_number(actor)?);
        changes.get(index).map(|&position| self.hash(position))
    }

    /// An actor's last change.
    pub fn last(&self, actor: &ActorId) -> Option<LastOfActor> {
        self.last_of(self.actor_number(actor)?)
    }

    /// The last change of every actor, ascending by actor.
    pub fn actors(&self) -> impl ExactSizeIterator<Item = LastOfActor> {
        // Every actor of a parsed index has a change, so the filter drops none.
        let last: Vec<_> =
            (0..self.actors.len()).filter_map(|number| self.last_of(number)).collect();
        last.into_iter()
    }

    /// The dependencies of a change, in the order in which it states them; `None` if the snapshot
    /// does not have the change.
    pub fn dependencies(&self, hash: &ChangeHash) -> Option<Vec<ChangeHash>> {
        let position = self.position(hash)?;
        Some(self.row(position).1.map(|position| self.hash(position)).collect())
    }

    /// The hashes of all changes, dependencies before their dependants.
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = ChangeHash> {
        (0..self.rows.len() as u32).map(|position| self.hash(position))
    }

    /// All changes, dependencies before their dependants.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = CompactedChange> {
        (0..self.rows.len() as u32).map(|position| {
            let FoundChange { actor, seq, max_op } = self.found(position);
            let dependencies = self.row(position).1.map(|dependency| self.hash(dependency));
            let (hash, dependencies) = (self.hash(position), dependencies.collect());
            CompactedChange { hash, actor, seq, max_op, dependencies }
        })
    }

    /// The changes that are neither in `have` nor ancestors of it, dependencies first. Unknown
    /// hashes are ignored. One pass over the rows.
    pub fn missing(&self, have: &[ChangeHash]) -> Vec<ChangeHash> {
        if self.covers(have) {
            return Vec::new();
        }
        let mut had = vec![false; self.rows.len()];
        for position in have.iter().filter_map(|hash| self.position(hash)) {
            had[position as usize] = true;
        }
        // Dependencies precede their dependants, so one pass from the end reaches all ancestors.
        for position in (0..self.rows.len() as u32).rev() {
            if had[position as usize] {
                self.row(position).1.for_each(|dependency| had[dependency as usize] = true);
            }
        }
        let missing = had.iter().zip(self.hashes()).filter(|(had, _)| !**had);
        missing.map(|(_, hash)| hash).collect()
    }

    /// Whether `have` and its ancestors include every change. This holds if all heads are in
    /// `have`: no other change has a head as an ancestor.
    pub fn covers(&self, have: &[ChangeHash]) -> bool {
        if self.heads.len() > have.len() {
            return false;
        }
        let mut have = have.to_vec();
        have.sort_unstable();
        self.heads.iter().all(|&position| have.binary_search(&self.hash(position)).is_ok())
    }

    /// The written bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.blob
    }

    /// The memory in bytes that this uses.
    pub fn memory_bytes(&self) -> usize {
        let lists = [&self.actors, &self.starts, &self.by_actor, &self.rows, &self.max_ops];
        let numbers = lists.iter().map(|list| list.len()).sum::<usize>();
        let numbers = numbers + self.order.len() + self.heads.len();
        size_of::<Self>() + self.blob.len() + numbers * size_of::<u32>()
    }

    /// The change at a position below [`PackedIndex::len`].
    fn hash(&self, position: u32) -> ChangeHash {
        let at = self.hashes + position as usize * HASH_BYTES;
        let hash = self.blob.get(at..).and_then(|rest| rest.first_chunk());
        ChangeHash(hash.copied().unwrap_or_default())
    }

    fn position(&self, hash: &ChangeHash) -> Option<u32> {
        let found = self.order.binary_search_by_key(hash, |&position| self.hash(position));
        found.ok().map(|index| self.order[index])
    }

    fn found(&self, position: u32) -> FoundChange {
        let (actor, _) = self.row(position);
        // Positions ascend within an actor's part, and this one is in it.
        let index = self.changes_of(actor).binary_search(&position).unwrap_or_default();
        let max_op = u64::from(self.max_ops[position as usize]);
        FoundChange { actor: ActorId::from(self.actor(actor)), seq: index as u64 + 1, max_op }
    }

    /// The number of a change's actor, and the positions of its dependencies.
    fn row(&self, position: u32) -> (usize, impl Iterator<Item = u32>) {
        let mut at = self.rows[position as usize] as usize;
        let actor = number_at(&self.blob, &mut at);
        let _growth = number_at(&self.blob, &mut at);
        let count = number_at(&self.blob, &mut at);
        let dependencies = (0..count).map(move |_| position - number_at(&self.blob, &mut at));
        (actor as usize, dependencies)
    }

    fn actor(&self, number: usize) -> &[u8] {
        let at = self.actors[number] as usize;
        // The length is below 128, so it takes one byte.
        &self.blob[at + 1..][..usize::from(self.blob[at])]
    }

    fn actor_number(&self, actor: &ActorId) -> Option<usize> {
        let numbers = &self.actors;
        let (mut low, mut high) = (0, numbers.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.actor(middle).cmp(actor.to_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn changes_of(&self, actor: usize) -> &[u32] {
        &self.by_actor[self.starts[actor] as usize..self.starts[actor + 1] as usize]
    }

    fn last_of(&self, number: usize) -> Option<LastOfActor> {
        let changes = self.changes_of(number);
        changes.last().map(|&position| LastOfActor {
            actor: ActorId::from(self.actor(number)),
            seq: changes.len() as u64,
            hash: self.hash(position),
            max_op: u64::from(self.max_ops[position as usize]),
        })
    }
}

const MAGIC: [u8; 4] = *b"LFPI";
const VERSION: u8 = 1;
const HASH_BYTES: usize = 32;

/// Half of a SHA-256: it only detects damage, and the whole hash would cost a small document half a
/// change more.
const CHECKSUM_BYTES: usize = 16;

/// A row has at least an actor, a growth and a number of dependencies.
const ROW_LEAST_BYTES: usize = 3;

// Counters fit the stored 32 bits, and an actor's length fits one byte of LEB128.
const _: () = assert!(limits::OPERATION_COUNTER <= u32::MAX as u64 && limits::ACTOR_BYTES < 128);

/// The first bytes of the SHA-256 of the preceding bytes.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    std::array::from_fn(|index| digest[index])
}
