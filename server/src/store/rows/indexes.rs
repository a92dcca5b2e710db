//! An LRU cache of packed indexes, bounded in bytes.

use std::collections::HashMap;
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

/// The cached indexes.
pub(in crate::store) struct IndexCache {
    budget: usize,
    held: Mutex<LoadedIndexes>,
    loads: AtomicU64,
    damaged: AtomicU64,
}

#[derive(Default)]
struct LoadedIndexes {
    indexes: HashMap<Key, Slot>,
    bytes: usize,
    /// Counts uses, to find the least recently used.
    clock: u64,
}

struct Slot {
    index: Arc<PackedIndex>,
    used: u64,
}

impl IndexCache {
    pub(in crate::store) fn new(budget: usize) -> Self {
        let (loads, damaged) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { budget, held: Mutex::default(), loads, damaged }
    }

    pub(in crate::store) fn get(&self, key: &Key) -> Option<Arc<PackedIndex>> {
        let mut held = self.held.lock();
        held.clock += 1;
        let clock = held.clock;
        let slot = held.indexes.get_mut(key)?;
        slot.used = clock;
        Some(Arc::clone(&slot.index))
    }

    /// Inserts an index. It stays, whatever its size, until the next insertion: its caller is waiting for it.
    pub(in crate::store) fn insert(&self, key: Key, index: PackedIndex) -> Arc<PackedIndex> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held.lock();
        // An index of an earlier snapshot of the document is not needed again.
        held.retain(|held| held.0 != key.0);
        let bytes = index.memory_bytes();
        while held.bytes + bytes > self.budget && !held.indexes.is_empty() {
            let oldest = held.indexes.iter().min_by_key(|(_, slot)| slot.used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else { break };
            held.retain(|held| *held != oldest);
        }
        held.clock += 1;
        let used = held.clock;
        held.bytes += bytes;
        let index = Arc::new(index);
        held.indexes.insert(key, Slot { index: Arc::clone(&index), used });
        index
    }

    pub(in crate::store) fn note_damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::store) fn gauges(&self) -> StoreGauges {
        let held = self.held.lock();
        StoreGauges {
            indexes: held.indexes.len(),
            index_bytes: held.bytes,
            index_loads: self.loads.load(Ordering::Relaxed),
            damaged_indexes: self.damaged.load(Ordering::Relaxed),
            ..StoreGauges::default()
        }
    }
}

impl LoadedIndexes {
    fn retain(&mut self, keep: impl Fn(&Key) -> bool) {
        self.indexes.retain(|key, _| keep(key));
        self.bytes = self.indexes.values().map(|slot| slot.index.memory_bytes()).sum();
    }
}
