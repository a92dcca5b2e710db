//! The packed index of a snapshot: what a relay and an engine must know of each folded change
//! without loading the document. It stands beside each snapshot, is read whole, and can be
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
//! | changes | number | how many changes are folded |
//! | hashes | 32 each | the changes' hashes, dependencies before what rests on them |
//! | rows | one each, same order | see below |
//! | checksum | 16 | the first 16 bytes of the SHA-256 of everything before |
//!
//! A *number* is unsigned LEB128 in its shortest form. A row is a few numbers:
//!
//! | number | holds |
//! |---|---|
//! | actor | the position of the change's actor among the actors, from 0 |
//! | growth | its last operation counter, minus the greatest of its dependencies' (0 if it has none) |
//! | dependencies | how many changes it follows |
//! | distance, each | how many changes before this one the dependency stands, from 1 |
//!
//! A sequence number is not written: an actor's changes stand in their order, from 1 without a
//! hole, so a change's sequence number is its place among its actor's. A character that is typed
//! after another takes 4 bytes besides its hash. Dependencies keep the order in which the change
//! states them. One history in one order has one written form.
//!
//! # In memory
//!
//! [`PackedIndex`] keeps the written bytes and 16 bytes a change: the order of the hashes, where
//! each row begins, the last operation counters, and each actor's changes.

mod bytes;
mod pack;
mod parse;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::ids::{ActorId, ChangeHash};
use crate::limits;
use bytes::number_at;

/// A folded change, as the index is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldedChange {
    /// Its hash.
    pub hash: ChangeHash,
    /// Who made it.
    pub actor: ActorId,
    /// Its place among its actor's changes, from 1.
    pub seq: u64,
    /// The counter of its last operation; of an empty change, the one before its first.
    pub max_op: u64,
    /// The changes that it follows, each once, in the order in which it states them.
    pub dependencies: Vec<ChangeHash>,
}

/// What [`PackedIndex::find`] tells of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundChange {
    /// Who made it.
    pub actor: ActorId,
    /// Its place among its actor's changes, from 1.
    pub seq: u64,
    /// The counter of its last operation.
    pub max_op: u64,
}

/// The last change of an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOfActor {
    /// Whose.
    pub actor: ActorId,
    /// Its place among the actor's changes: how many the actor has.
    pub seq: u64,
    /// Its hash.
    pub hash: ChangeHash,
    /// The counter of its last operation.
    pub max_op: u64,
}

/// Why bytes are no packed index, or why changes cannot be written as one. Read from a store it
/// means damage (the index can be made anew from the snapshot); given to [`PackedIndex::pack`], a
/// caller's mistake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadIndex {
    /// It does not begin as an index does.
    #[error("a packed index begins with LFPI, this does not")]
    Magic,
    /// Written by a version that this one does not know.
    #[error("the packed index is of version {found}; this software reads version 1")]
    Version {
        /// The version that it states.
        found: u8,
    },
    /// The bytes are not those that were written.
    #[error("the packed index is damaged: its checksum does not match")]
    Checksum,
    /// The bytes end too early, or a count claims more than there is.
    #[error("the packed index ends inside its {part}")]
    Truncated {
        /// The part that is not whole.
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
        /// How many.
        count: usize,
    },
    /// Positions inside are 32 bits.
    #[error("a packed index has less than 4 GiB and 2³² changes")]
    TooLarge,
    /// An actor's id is not in order, of a wrong length, or without a change.
    #[error("actor {number} of the packed index is impossible: {what}")]
    Actor {
        /// Its place among the actors, from 0.
        number: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It is whole, but its heads are not those of the snapshot that it stands beside.
    #[error("the packed index has other heads than its snapshot")]
    OtherHeads,
    /// A change contradicts those before it.
    #[error("change {position} of the packed index is impossible: {what}")]
    Change {
        /// Its place among the changes, from 0.
        position: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// The index of a snapshot's changes.
#[derive(Debug, Clone)]
pub struct PackedIndex {
    blob: Box<[u8]>,
    /// Where the hashes begin in `blob`.
    hashes: usize,
    /// Where each actor (its length byte) begins in `blob`.
    actors: Box<[u32]>,
    /// Where each actor's part of `by_actor` begins, and where the last one ends.
    starts: Box<[u32]>,
    /// The positions of each actor's changes, in their order, one actor after the other.
    by_actor: Box<[u32]>,
    /// Where each change's row begins in `blob`.
    rows: Box<[u32]>,
    /// Each change's last operation counter.
    max_ops: Box<[u32]>,
    /// All positions, ascending by hash.
    order: Box<[u32]>,
    /// The positions of the changes that nothing rests on, ascending by hash.
    heads: Box<[u32]>,
}

impl PackedIndex {
    /// Writes the index of these changes. Dependencies must stand before what rests on them, and
    /// an actor's changes in their order, from sequence number 1.
    pub fn pack(changes: &[FoldedChange]) -> Result<Vec<u8>, BadIndex> {
        pack::pack(changes)
    }

    /// Reads an index. Whatever the bytes are, it never panics; its work and memory are bounded by
    /// their length.
    pub fn parse(blob: Vec<u8>) -> Result<Self, BadIndex> {
        parse::parse(blob)
    }

    /// How many changes are folded.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is folded.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The changes that nothing folded rests on, ascending.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.heads.iter().map(|&position| self.hash(position)).collect()
    }

    /// Whether a change is folded.
    pub fn contains(&self, hash: &ChangeHash) -> bool {
        self.position(hash).is_some()
    }

    /// A folded change by its hash.
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
        // Every actor of a parsed index has a change, so nothing is left out.
        let last: Vec<_> =
            (0..self.actors.len()).filter_map(|number| self.last_of(number)).collect();
        last.into_iter()
    }

    /// The changes that a folded change follows, in the order in which it states them; `None` if
    /// it is not folded.
    pub fn dependencies(&self, hash: &ChangeHash) -> Option<Vec<ChangeHash>> {
        let position = self.position(hash)?;
        Some(self.row(position).1.map(|position| self.hash(position)).collect())
    }

    /// The hashes of all folded changes, dependencies before what rests on them.
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = ChangeHash> {
        (0..self.rows.len() as u32).map(|position| self.hash(position))
    }

    /// All folded changes, dependencies before what rests on them.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = FoldedChange> {
        (0..self.rows.len() as u32).map(|position| {
            let FoundChange { actor, seq, max_op } = self.found(position);
            let dependencies = self.row(position).1.map(|dependency| self.hash(dependency));
            let (hash, dependencies) = (self.hash(position), dependencies.collect());
            FoldedChange { hash, actor, seq, max_op, dependencies }
        })
    }

    /// The changes that one who has `have`, and all that it rests on, does not have; dependencies
    /// first. Hashes that are not folded are ignored. One pass over the rows.
    pub fn missing(&self, have: &[ChangeHash]) -> Vec<ChangeHash> {
        if self.covers(have) {
            return Vec::new();
        }
        let mut had = vec![false; self.rows.len()];
        for position in have.iter().filter_map(|hash| self.position(hash)) {
            had[position as usize] = true;
        }
        // Dependencies stand before what rests on them, so one pass from the end reaches all.
        for position in (0..self.rows.len() as u32).rev() {
            if had[position as usize] {
                self.row(position).1.for_each(|dependency| had[dependency as usize] = true);
            }
        }
        let missing = had.iter().zip(self.hashes()).filter(|(had, _)| !**had);
        missing.map(|(_, hash)| hash).collect()
    }

    /// Whether one who has `have`, and all that it rests on, has every folded change: whether all
    /// heads are among them, as nothing else reaches a head.
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

    /// Bytes of memory that this takes.
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
        // Its length is below 128, so it is one byte.
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

/// Half of a SHA-256: what it guards against is damage, and the whole would cost a small document
/// half a change more.
const CHECKSUM_BYTES: usize = 16;

/// A row is at least an actor, a growth and a number of dependencies.
const ROW_LEAST_BYTES: usize = 3;

// Counters fit the 32 bits in which they are kept, and an actor's length fits one byte of LEB128.
const _: () = assert!(limits::OPERATION_COUNTER <= u32::MAX as u64 && limits::ACTOR_BYTES < 128);

/// The first bytes of the SHA-256 of what stands before it.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    std::array::from_fn(|index| digest[index])
}
