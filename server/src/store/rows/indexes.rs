//! Packed indexes: read from disk, parsed, and cached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use landfall_protocol::compacted::{BadIndex, PackedIndex};
use parking_lot::Mutex;

use crate::store::StoreGauges;
use crate::store::rows::snapshots::Stored;

/// Bytes of packed indexes kept in memory: those of some 600,000 compacted changes. Above that, the least
/// recently used are evicted.
pub const INDEX_CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Identifies an index: the document's row, and the hash of the snapshot that it belongs to.
pub(in crate::store) type Key = (i64, [u8; 32]);

/// An index as read from disk, parsed into memory after the read ends.
pub(in crate::store) struct Unloaded {
    pub(in crate::store) key: Key,
    pub(in crate::store) packed: Vec<u8>,
    /// The snapshot that it belongs to.
    pub(in crate::store) stored: Stored,
}

impl Unloaded {
    /// Parses it. An intact index of another snapshot counts as damaged.
    pub(in crate::store) fn parse(self) -> Result<PackedIndex, BadIndex> {
        let index = PackedIndex::parse(self.packed)?;
        let heads = self.stored.heads.iter().map(|(head, _)| *head);
        match heads.eq(index.heads()) && index.len() as u64 == self.stored.changes {
            true => Ok(index),
            false => Err(BadIndex::OtherHeads),
        }
    }
}

/// The cached indexes, and how often one was loaded or found damaged.
pub(in crate::store) struct IndexCache {
    cached: Mutex<landfall_compaction::IndexCache>,
    loads: AtomicU64,
    damaged: AtomicU64,
}

impl IndexCache {
    pub(in crate::store) fn new(budget: usize) -> Self {
        let cached = Mutex::new(landfall_compaction::IndexCache::new(budget));
        Self { cached, loads: AtomicU64::new(0), damaged: AtomicU64::new(0) }
    }

    pub(in crate::store) fn get(&self, (document, snapshot): &Key) -> Option<Arc<PackedIndex>> {
        self.cached.lock().get(*document, snapshot)
    }

    pub(in crate::store) fn insert(
        &self,
        (document, snapshot): Key,
        index: PackedIndex,
    ) -> Arc<PackedIndex> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let index = Arc::new(index);
        self.cached.lock().insert(document, snapshot, Arc::clone(&index));
        index
    }

    pub(in crate::store) fn note_damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::store) fn gauges(&self) -> StoreGauges {
        let cached = self.cached.lock();
        StoreGauges {
            indexes: cached.len(),
            index_bytes: cached.bytes(),
            index_loads: self.loads.load(Ordering::Relaxed),
            damaged_indexes: self.damaged.load(Ordering::Relaxed),
            ..StoreGauges::default()
        }
    }
}
