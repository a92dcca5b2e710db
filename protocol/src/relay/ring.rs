//! A space's ring: the latest live entries, encoded once, for all sessions that are nearly up to
//! date. A session behind the ring reads from the store, which the ring does not know.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::frame::{EncodedEntry, Holding, entry_kind};
use crate::ids::{DocumentId, Epoch, Offset};
use crate::limits;

/// Entries that cover (`after`, `up_to`] of a log.
#[derive(Debug, Clone)]
pub struct Page {
    /// The position before the page.
    pub after: Offset,
    /// The position of the last entry.
    pub up_to: Offset,
    /// The epoch of `up_to`.
    pub epoch: Epoch,
    /// The log's last durable offset when the page was made.
    pub head: Offset,
    /// The entries, in order.
    pub entries: Vec<Arc<EncodedEntry>>,
}

/// The next piece of a log for one subscription.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Entries. A snapshot among them has its body, or all its parts were sent before.
    Entries(Page),
    /// A piece of the next snapshot.
    Part(SnapshotPart),
}

/// A piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The snapshot's document.
    pub document: DocumentId,
    /// SHA-256 of all its bytes.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub total: u64,
    /// Offset of the piece.
    pub from: u64,
    /// The piece.
    pub bytes: Vec<u8>,
}

/// The entries of one document that a relay sends to a client that has part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentPlan {
    /// The relay's state of it.
    pub holding: Holding,
    /// The snapshot, if the client lacks some of its changes: hash, bytes, offset.
    pub snapshot: Option<([u8; 32], u64, Offset)>,
    /// The offsets of the later changes that the client lacks, in order; for a deleted document,
    /// that of its tombstone.
    pub offsets: Vec<Offset>,
}

impl DocumentPlan {
    /// Of a document that does not exist.
    pub fn of_absent() -> Self {
        Self { holding: Holding::Absent, snapshot: None, offsets: Vec::new() }
    }
}

/// The ring of one space. All its entries belong to the relay's present epoch.
#[derive(Debug)]
pub struct Ring {
    entries: VecDeque<Arc<EncodedEntry>>,
    bytes: usize,
    capacity: usize,
    /// The ring has every durable entry after this offset.
    after: Offset,
    head: Offset,
    epoch: Option<Epoch>,
}

impl Ring {
    /// An empty ring over a log that ends at `head`.
    pub fn new(head: Offset, capacity: usize) -> Self {
        let entries = VecDeque::new();
        Self { entries, bytes: 0, capacity, after: head, head, epoch: None }
    }

    /// The last durable offset.
    pub fn head(&self) -> Offset {
        self.head
    }

    /// The bytes of its entries.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds durable entries in order, and drops the oldest beyond the capacity.
    pub fn publish(&mut self, epoch: Epoch, entries: impl IntoIterator<Item = Arc<EncodedEntry>>) {
        self.epoch = Some(epoch);
        for entry in entries {
            self.head = entry.offset();
            if entry.kind() == entry_kind::SNAPSHOT {
                // The snapshot's body is only in the store: sessions before it read from there.
                self.entries.clear();
                (self.bytes, self.after) = (0, entry.offset());
                continue;
            }
            self.bytes += entry.len();
            self.entries.push_back(entry);
        }
        while self.bytes > self.capacity {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.len();
            self.after = oldest.offset();
        }
    }

    /// Drops everything up to the offset of a snapshot that is about to be written, so that
    /// sessions before it read from the store. Call it before the snapshot is written. Later would
    /// lose entries: the store no longer has the compacted changes, so a session could read past
    /// them there, continue with later entries from the ring, and never receive the snapshot.
    pub fn forget_through(&mut self, offset: Offset) {
        while self.entries.front().is_some_and(|entry| entry.offset() <= offset) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.len();
            }
        }
        self.after = self.after.max(offset.min(self.head));
    }

    /// The next page after a position; `None` if the position is before the ring and the page must
    /// come from the store. An empty page means that the position is the head.
    pub fn page(&self, after: Offset) -> Option<Page> {
        if after < self.after {
            return None;
        }
        let epoch = self.epoch.unwrap_or(Epoch::from_bytes([0; 16]));
        let first = self.entries.partition_point(|entry| entry.offset() <= after);
        let mut page = Page { after, up_to: after, epoch, head: self.head, entries: Vec::new() };
        let mut bytes = 0;
        for entry in self.entries.range(first..).take(limits::ENTRIES_COUNT) {
            bytes += entry.len();
            if bytes > limits::ENTRIES_TARGET_BYTES && !page.entries.is_empty() {
                break;
            }
            page.up_to = entry.offset();
            page.entries.push(Arc::clone(entry));
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Entry;
    use serde_bytes::ByteBuf;

    fn entry(offset: u64, body: usize) -> Arc<EncodedEntry> {
        Arc::new(EncodedEntry::new(&Entry {
            offset: Offset(offset),
            document: DocumentId::from_bytes([0; 16]),
            kind: entry_kind::CHANGE,
            flags: 0,
            id: [0; 32],
            dependencies: vec![],
            author: ByteBuf::new(),
            at_ms: 0,
            body: ByteBuf::from(vec![0; body]),
        }))
    }

    const EPOCH: Epoch = Epoch::from_bytes([1; 16]);

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let mut ring = Ring::new(Offset(10), 1 << 20);
        ring.publish(EPOCH, (11..=3_000).map(|offset| entry(offset, 10)));
        let (mut after, mut seen) = (Offset(10), Vec::new());
        loop {
            let page = ring.page(after).unwrap();
            if page.entries.is_empty() {
                break;
            }
            assert_eq!(page.after, after);
            assert!(page.entries.len() <= limits::ENTRIES_COUNT);
            seen.extend(page.entries.iter().map(|entry| entry.offset().0));
            after = page.up_to;
        }
        assert_eq!(seen, (11..=3_000).collect::<Vec<_>>());
    }

    #[test]
    fn the_ring_is_bounded_and_has_no_page_for_evicted_offsets() {
        let mut ring = Ring::new(Offset(0), 10_000);
        assert!(ring.page(Offset(0)).unwrap().entries.is_empty());
        ring.publish(EPOCH, (1..=100).map(|offset| entry(offset, 1_000)));
        assert!(ring.bytes() <= 10_000);
        assert!(ring.page(Offset(50)).is_none());
        assert!(ring.page(Offset(95)).is_some());
        assert_eq!(ring.head(), Offset(100));
    }

    #[test]
    fn compacted_offsets_are_served_from_the_store() {
        let mut ring = Ring::new(Offset(0), 1 << 20);
        ring.publish(EPOCH, (1..=100).map(|offset| entry(offset, 10)));
        ring.forget_through(Offset(60));
        assert!(ring.page(Offset(59)).is_none());
        assert_eq!(ring.page(Offset(60)).unwrap().entries.len(), 40);
        ring.forget_through(Offset(40));
        assert!(ring.page(Offset(59)).is_none());
        ring.forget_through(Offset(200));
        assert!(ring.page(Offset(99)).is_none() && ring.bytes() == 0);
        assert!(ring.page(Offset(100)).unwrap().entries.is_empty());
    }

    #[test]
    fn a_session_behind_the_snapshot_is_served_from_the_store() {
        let mut ring = Ring::new(Offset(0), 1 << 20);
        ring.publish(EPOCH, (1..=100).map(|offset| entry(offset, 10)));
        ring.forget_through(Offset(60));
        assert!(ring.page(Offset(59)).is_none());
        assert_eq!(ring.page(Offset(60)).unwrap().entries.len(), 40);
        ring.forget_through(Offset(1_000));
        assert!(ring.page(Offset(100)).unwrap().entries.is_empty());
        assert_eq!(ring.bytes(), 0);
    }

    #[test]
    fn one_large_entry_is_a_page_of_its_own() {
        let mut ring = Ring::new(Offset(0), 1 << 24);
        let large = limits::ENTRIES_TARGET_BYTES * 2;
        ring.publish(EPOCH, [entry(1, large), entry(2, 10)]);
        assert_eq!(ring.page(Offset(0)).unwrap().entries.len(), 1);
        assert_eq!(ring.page(Offset(1)).unwrap().up_to, Offset(2));
    }
}
