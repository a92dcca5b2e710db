//! The packed indexes that were used last, bounded in bytes. It must not know where an index is stored.

use std::sync::Arc;

use landfall_protocol::compacted::PackedIndex;
use lru::LruCache;

/// A cache of packed indexes by the row of their document. A document has one snapshot, so an index replaces
/// that of an earlier snapshot.
pub struct IndexCache {
    budget: usize,
    indexes: LruCache<i64, Cached>,
    bytes: usize,
}

struct Cached {
    /// The hash of the snapshot that the index belongs to.
    snapshot: [u8; 32],
    index: Arc<PackedIndex>,
}

impl IndexCache {
    /// A cache that evicts the least recently used indexes beyond `budget` bytes of memory.
    pub fn new(budget: usize) -> Self {
        Self { budget, indexes: LruCache::unbounded(), bytes: 0 }
    }

    /// The index of a document's snapshot. An index of another snapshot is not returned.
    pub fn get(&mut self, document: i64, snapshot: &[u8; 32]) -> Option<Arc<PackedIndex>> {
        let cached = self.indexes.get(&document)?;
        (cached.snapshot == *snapshot).then(|| Arc::clone(&cached.index))
    }

    /// Inserts an index. It stays, whatever its size, until the next insertion: its caller needs it.
    pub fn insert(&mut self, document: i64, snapshot: [u8; 32], index: Arc<PackedIndex>) {
        self.bytes += index.memory_bytes();
        if let Some((_, replaced)) = self.indexes.push(document, Cached { snapshot, index }) {
            self.bytes -= replaced.index.memory_bytes();
        }
        while self.bytes > self.budget && self.indexes.len() > 1 {
            let Some((_, evicted)) = self.indexes.pop_lru() else { break };
            self.bytes -= evicted.index.memory_bytes();
        }
    }

    /// The number of indexes.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Whether it has no index.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// The bytes of the indexes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
