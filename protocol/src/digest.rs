//! Digests of a space's documents: they let two ends find the documents that differ between them in
//! a few hundred bytes.
//!
//! Each document has a *digest entry*, a [`DigestEntry`]: 128 bits of SHA-256 over its id and its heads
//! (or its tombstone). A [`Digest`] is the count and the wrapping sum of the entries below a
//! [`Prefix`] of document ids, so a change updates it by one subtraction and one addition. Each
//! level of prefixes adds four bits: a node has sixteen children. The sum detects accidental
//! differences. It does not detect a writer of the space who hides a difference from themselves on
//! purpose.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{ChangeHash, DocumentId};
use crate::limits;

/// The state of a document, which both ends must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentState {
    /// The document has these heads, sorted.
    Present(Vec<ChangeHash>),
    /// The document is deleted permanently.
    Deleted,
}

/// 128 bits that represent a document in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DigestEntry(pub u128);

impl DigestEntry {
    /// The digest entry of a document with these heads. Their order does not matter.
    pub fn of_heads(document: &DocumentId, heads: &[ChangeHash]) -> Self {
        let mut sorted: Vec<&[u8; 32]> = heads.iter().map(|hash| &hash.0).collect();
        sorted.sort_unstable();
        let mut hasher = Sha256::new();
        hasher.update(b"landfall leaf heads");
        hasher.update(document.as_bytes());
        sorted.into_iter().for_each(|hash| hasher.update(hash));
        Self::cut(hasher)
    }

    /// The digest entry of a deleted document.
    pub fn of_tombstone(document: &DocumentId) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"landfall leaf tombstone");
        hasher.update(document.as_bytes());
        Self::cut(hasher)
    }

    /// The digest entry that a relay reports for a document that its store cannot fully read: it
    /// differs from that of any state.
    pub fn of_damage(document: &DocumentId) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"landfall leaf damaged");
        hasher.update(document.as_bytes());
        Self::cut(hasher)
    }

    /// The digest entry of a document in a state.
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

    /// The stored form.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From the stored form.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

/// The entry id of a document's tombstone. It is derived from the document, so that two concurrent
/// deletions write the same entry.
pub fn tombstone_id(document: &DocumentId) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"landfall tombstone");
    hasher.update(document.as_bytes());
    hasher.finalize().into()
}

/// The sum of the digest entries below a prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The number of documents, including deleted ones.
    pub count: u64,
    /// The wrapping sum of their digest entries.
    pub sum: u128,
}

impl Digest {
    /// Adds a document, or its new state.
    pub fn add(&mut self, digest_entry: DigestEntry) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(digest_entry.0);
    }

    /// Removes a document's old state.
    pub fn remove(&mut self, digest_entry: DigestEntry) {
        self.count = self.count.saturating_sub(1);
        self.sum = self.sum.wrapping_sub(digest_entry.0);
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, sum: self.sum.wrapping_add(other.sum) }
    }

    /// The stored form of the sum.
    pub fn sum_bytes(self) -> [u8; 16] {
        self.sum.to_le_bytes()
    }
}

/// The first half-bytes of document ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// The number of half-bytes: 0 is every document, 32 is one.
    pub depth: u8,
    /// The ids' first half-bytes; the rest is 0.
    pub first: [u8; 16],
}

impl Prefix {
    /// Every document.
    pub const ROOT: Prefix = Prefix { depth: 0, first: [0; 16] };

    /// The number of half-bytes of an id.
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

    /// The child of this prefix that contains a document.
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

    /// Whether the depth is possible, and all half-bytes after it are 0.
    pub fn is_valid(&self) -> bool {
        self.depth <= Self::DEEPEST
            && (usize::from(self.depth)..32)
                .all(|at| self.first[at / 2] & if at % 2 == 0 { 0xf0 } else { 0x0f } == 0)
    }
}

/// The contents below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// Many documents: the digests of the sixteen children, in order.
    Children(Vec<Digest>),
    /// At most [`limits::BRANCH_ENTRIES`] documents, in order of their ids.
    DigestEntries(Vec<(DocumentId, DigestEntry)>),
}

/// A prefix and the contents below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The prefix.
    pub prefix: Prefix,
    /// The contents.
    pub node: Node,
}

impl Node {
    /// Whether it is well-formed: sixteen children, or at most the allowed number of digest
    /// entries.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Children(children) => children.len() == 16,
            Self::DigestEntries(digest_entries) => {
                digest_entries.len() <= limits::BRANCH_ENTRIES
                    && digest_entries.windows(2).all(|pair| pair[0].0 < pair[1].0)
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
    fn digest_entries_differ_exactly_if_documents_states_differ() {
        let (one, other) = (document(1, 1), document(2, 1));
        let (a, b) = (ChangeHash([1; 32]), ChangeHash([2; 32]));
        assert_eq!(DigestEntry::of_heads(&one, &[a, b]), DigestEntry::of_heads(&one, &[b, a]));
        assert_ne!(DigestEntry::of_heads(&one, &[a]), DigestEntry::of_heads(&one, &[a, b]));
        assert_ne!(DigestEntry::of_heads(&one, &[a]), DigestEntry::of_heads(&other, &[a]));
        assert_ne!(DigestEntry::of_heads(&one, &[]), DigestEntry::of_tombstone(&one));
        assert_ne!(tombstone_id(&one), tombstone_id(&other));
    }

    #[test]
    fn a_digest_is_independent_of_the_order_of_its_entries() {
        let digest_entries: Vec<DigestEntry> =
            (0..9).map(|n| DigestEntry::of_heads(&document(n, n), &[])).collect();
        let mut grown = Digest::default();
        digest_entries.iter().for_each(|digest_entry| grown.add(*digest_entry));
        grown.remove(digest_entries[4]);
        let mut other = Digest::default();
        digest_entries
            .iter()
            .rev()
            .filter(|digest_entry| **digest_entry != digest_entries[4])
            .for_each(|digest_entry| other.add(*digest_entry));
        assert_eq!(grown, other);
    }

    #[test]
    fn every_prefix_on_the_path_contains_its_document() {
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
