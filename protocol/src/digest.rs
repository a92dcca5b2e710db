//! Digests of what a space holds: how two ends find out, in a few hundred bytes, which documents
//! differ between them.
//!
//! Each document has a *leaf*: 128 bits of SHA-256 over its id and its heads (or its tombstone).
//! A [`Digest`] is the number and the wrapping sum of the leaves below a [`Prefix`] of document
//! ids, so that one change moves it by one subtraction and one addition. Prefixes have a step of
//! four bits: a node has sixteen children. The sum guards against accident, not against somebody
//! who may write to the space and wants to hide it from himself.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{ChangeHash, DocumentId};
use crate::limits;

/// What a document is, as both ends must agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentState {
    /// It has these heads, sorted.
    Present(Vec<ChangeHash>),
    /// It is deleted, for good.
    Deleted,
}

/// 128 bits that stand for a document in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Leaf(pub u128);

impl Leaf {
    /// The leaf of a document with these heads. Their order does not matter.
    pub fn of_heads(document: &DocumentId, heads: &[ChangeHash]) -> Self {
        let mut sorted: Vec<&[u8; 32]> = heads.iter().map(|hash| &hash.0).collect();
        sorted.sort_unstable();
        let mut hasher = Sha256::new();
        hasher.update(b"landfall leaf heads");
        hasher.update(document.as_bytes());
        sorted.into_iter().for_each(|hash| hasher.update(hash));
        Self::cut(hasher)
    }

    /// The leaf of a deleted document.
    pub fn of_tombstone(document: &DocumentId) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"landfall leaf tombstone");
        hasher.update(document.as_bytes());
        Self::cut(hasher)
    }

    /// The leaf that a relay tells of a document of which its store cannot read something: unlike that
    /// of any state.
    pub fn of_damage(document: &DocumentId) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"landfall leaf damaged");
        hasher.update(document.as_bytes());
        Self::cut(hasher)
    }

    /// The leaf of a document in a state.
    pub fn of(document: &DocumentId, state: &DocumentState) -> Self {
        match state {
            DocumentState::Present(heads) => Self::of_heads(document, heads),
            DocumentState::Deleted => Self::of_tombstone(document),
        }
    }

    fn cut(hasher: Sha256) -> Self {
        let hash: [u8; 32] = hasher.finalize().into();
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        Self(u128::from_le_bytes(first))
    }

    /// As a store keeps it.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From a store.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

/// What names a document's deletion: the tombstone's entry id. It follows from the document, so
/// that two who delete it at once write the same entry.
pub fn tombstone_id(document: &DocumentId) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"landfall tombstone");
    hasher.update(document.as_bytes());
    hasher.finalize().into()
}

/// The sum of the leaves below a prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// How many documents, deleted ones too.
    pub count: u64,
    /// The wrapping sum of their leaves.
    pub sum: u128,
}

impl Digest {
    /// A document came, or came to this state.
    pub fn add(&mut self, leaf: Leaf) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(leaf.0);
    }

    /// A document left this state.
    pub fn remove(&mut self, leaf: Leaf) {
        self.count = self.count.saturating_sub(1);
        self.sum = self.sum.wrapping_sub(leaf.0);
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, sum: self.sum.wrapping_add(other.sum) }
    }

    /// The sum as a store keeps it.
    pub fn sum_bytes(self) -> [u8; 16] {
        self.sum.to_le_bytes()
    }
}

/// The first so many half-bytes of document ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// Half-bytes: 0 is every document, 32 is one.
    pub depth: u8,
    /// The ids' first half-bytes; the rest is 0.
    pub first: [u8; 16],
}

impl Prefix {
    /// Every document.
    pub const ROOT: Prefix = Prefix { depth: 0, first: [0; 16] };

    /// How many half-bytes an id has.
    pub const DEEPEST: u8 = 32;

    /// The prefix with one more half-byte (0 to 15); a prefix of full depth is its own child.
    #[must_use]
    pub fn child(self, nibble: u8) -> Self {
        if self.depth >= Self::DEEPEST {
            return self;
        }
        let (at, high) = (usize::from(self.depth / 2), self.depth.is_multiple_of(2));
        let mut first = self.first;
        first[at] |= if high { nibble << 4 } else { nibble & 15 };
        Self { depth: self.depth + 1, first }
    }

    /// Which child of this prefix a document is below.
    pub fn child_of(self, document: &DocumentId) -> u8 {
        let byte = document.as_bytes()[usize::from(self.depth / 2).min(15)];
        if self.depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }

    /// The first and the last document id below it.
    pub fn range(self) -> ([u8; 16], [u8; 16]) {
        let mut last = self.first;
        for at in usize::from(self.depth)..32 {
            last[at / 2] |= if at % 2 == 0 { 0xf0 } else { 0x0f };
        }
        (self.first, last)
    }

    /// Whether it is one: of possible depth, and 0 behind it.
    pub fn is_valid(&self) -> bool {
        self.depth <= Self::DEEPEST
            && (usize::from(self.depth)..32)
                .all(|at| self.first[at / 2] & if at % 2 == 0 { 0xf0 } else { 0x0f } == 0)
    }
}

/// What lies below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// Many documents: the digests of the sixteen children, in order.
    Children(Vec<Digest>),
    /// At most [`limits::BRANCH_LEAVES`]: the documents themselves, in order of their ids.
    Leaves(Vec<(DocumentId, Leaf)>),
}

/// A prefix and what lies below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The prefix.
    pub prefix: Prefix,
    /// What lies below.
    pub node: Node,
}

impl Node {
    /// Whether it is of its form: sixteen children, or as many leaves as may be.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Children(children) => children.len() == 16,
            Self::Leaves(leaves) => {
                leaves.len() <= limits::BRANCH_LEAVES
                    && leaves.windows(2).all(|pair| pair[0].0 < pair[1].0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(first: u8, rest: u8) -> DocumentId {
        let mut bytes = [rest; 16];
        bytes[0] = first;
        DocumentId::from_bytes(bytes)
    }

    #[test]
    fn a_leaf_tells_documents_states_and_nothing_else_apart() {
        let (one, other) = (document(1, 1), document(2, 1));
        let (a, b) = (ChangeHash([1; 32]), ChangeHash([2; 32]));
        assert_eq!(Leaf::of_heads(&one, &[a, b]), Leaf::of_heads(&one, &[b, a]));
        assert_ne!(Leaf::of_heads(&one, &[a]), Leaf::of_heads(&one, &[a, b]));
        assert_ne!(Leaf::of_heads(&one, &[a]), Leaf::of_heads(&other, &[a]));
        assert_ne!(Leaf::of_heads(&one, &[]), Leaf::of_tombstone(&one));
        assert_ne!(tombstone_id(&one), tombstone_id(&other));
    }

    #[test]
    fn a_digest_follows_its_leaves_in_any_order() {
        let leaves: Vec<Leaf> = (0..9).map(|n| Leaf::of_heads(&document(n, n), &[])).collect();
        let mut grown = Digest::default();
        leaves.iter().for_each(|leaf| grown.add(*leaf));
        grown.remove(leaves[4]);
        let mut other = Digest::default();
        leaves.iter().rev().filter(|leaf| **leaf != leaves[4]).for_each(|leaf| other.add(*leaf));
        assert_eq!(grown, other);
    }

    #[test]
    fn prefixes_lead_to_their_documents() {
        let document = DocumentId::from_bytes(*b"\x5a\xb3cdefghijklmno\xf7");
        let mut prefix = Prefix::ROOT;
        for _ in 0..32 {
            let (first, last) = prefix.range();
            assert!(first <= *document.as_bytes() && *document.as_bytes() <= last);
            assert!(prefix.is_valid());
            prefix = prefix.child(prefix.child_of(&document));
        }
        assert_eq!(prefix.range(), (*document.as_bytes(), *document.as_bytes()));
        assert!(!Prefix { depth: 1, first: [0x5a; 16] }.is_valid());
        assert!(!Prefix { depth: 33, first: [0; 16] }.is_valid());
    }
}
