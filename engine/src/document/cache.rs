//! The cache of loaded documents: the most recently used ones, within a budget of bytes.
//!
//! The cache holds the documents themselves, so that one without handles stays loaded too. Its own lock
//! is taken last, for short look-ups, even while a document's slot is held. It locks slots only in
//! `make_room`, one at a time and without its own lock; documents that are being read, changed or
//! applied to stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use automerge::{Automerge, ReadDoc};
use landfall_protocol::DocumentId;
use parking_lot::Mutex;

use super::OpenDocument;
use crate::status::Memory;
use crate::store::SpaceRow;

/// Measured with automerge 0.12: the bytes of an empty document, and of the data kept beside it.
const DOCUMENT_BYTES: u64 = 16 * 1024;

/// Measured: 150 to 200 bytes a change when it was loaded, 230 to 300 when it was applied.
const CHANGE_BYTES: u64 = 240;

/// Measured: 1 byte for a character of a long paste, 33 for an entry of a map, beside its value.
const OPERATION_BYTES: u64 = 32;

/// How many documents one round tries before the lock is taken again.
const ROUND: usize = 16;

type Key = (SpaceRow, DocumentId);

/// An estimate of a loaded document's bytes. Values count with their bytes in the store, where they may
/// be compressed: a document of large values that compress well takes more than this.
pub(super) fn estimate(automerge: &Automerge, stored_bytes: u64) -> u64 {
    let stats = automerge.stats();
    // automerge keeps a clock of 4 bytes per actor for every 16 changes, and more clocks the more often
    // actors alternate.
    let clocks = stats.num_changes.saturating_mul(stats.num_actors) / 4;
    let history = stats.num_changes.saturating_mul(CHANGE_BYTES);
    let content = stats.num_ops.saturating_mul(OPERATION_BYTES);
    [clocks, history, content, stored_bytes].into_iter().fold(DOCUMENT_BYTES, u64::saturating_add)
}

/// The loaded documents of one store.
pub(crate) struct Cache {
    budget: u64,
    entries: Mutex<Entries>,
    memory: Arc<Memory>,
}

#[derive(Default)]
struct Entries {
    by_key: BTreeMap<Key, Entry>,
    /// Least recently used first.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: u64,
    closed: bool,
}

struct Entry {
    document: Arc<OpenDocument>,
    bytes: u64,
    used: u64,
}

impl Entries {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.by_key.remove(key)?;
        self.by_use.remove(&entry.used);
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

impl Cache {
    pub(crate) fn new(budget: u64, memory: Arc<Memory>) -> Self {
        Self { budget, entries: Mutex::default(), memory }
    }

    /// A document was used.
    pub(super) fn used(&self, document: &OpenDocument) {
        let mut entries = self.entries.lock();
        let key = document.key();
        let now = entries.uses;
        let Some(entry) = entries.by_key.get(&key) else { return };
        let before = entry.used;
        if before == now {
            return;
        }
        let used = entries.next_use();
        entries.by_use.remove(&before);
        entries.by_use.insert(used, key);
        if let Some(entry) = entries.by_key.get_mut(&key) {
            entry.used = used;
        }
    }

    /// A document is loaded, or its size has changed. The caller holds its slot, and calls `make_room`
    /// after it has released it.
    pub(super) fn put(&self, document: &Arc<OpenDocument>, bytes: u64) {
        let replaced = {
            let mut entries = self.entries.lock();
            if entries.closed {
                return;
            }
            let key = document.key();
            let replaced = entries.remove(&key);
            let used = entries.next_use();
            entries.by_use.insert(used, key);
            entries.bytes += bytes;
            let document = Arc::clone(document);
            entries.by_key.insert(key, Entry { document, bytes, used });
            self.publish(&entries);
            replaced
        };
        drop(replaced);
    }

    /// A document was unloaded. The caller holds its slot, and a reference to it.
    pub(super) fn unloaded(&self, document: &OpenDocument) {
        let removed = {
            let mut entries = self.entries.lock();
            let removed = entries.remove(&document.key());
            self.publish(&entries);
            removed
        };
        drop(removed);
    }

    /// Evicts the least recently used documents until the budget is kept. `stays` is in use and stays
    /// whatever its size. The caller holds no slot.
    pub(super) fn make_room(&self, stays: &Arc<OpenDocument>) {
        let mut tried = 0;
        loop {
            let round: Vec<(u64, Arc<OpenDocument>)> = {
                let entries = self.entries.lock();
                if entries.bytes <= self.budget {
                    return;
                }
                let entry = |(used, key): (&u64, &Key)| {
                    let document = &entries.by_key.get(key)?.document;
                    (!Arc::ptr_eq(document, stays)).then(|| (*used, Arc::clone(document)))
                };
                entries.by_use.range(tried + 1..).filter_map(entry).take(ROUND).collect()
            };
            if round.is_empty() {
                return;
            }
            for (used, document) in round {
                tried = used;
                // It calls `unloaded` if it can be evicted.
                if document.try_unload() && self.entries.lock().bytes <= self.budget {
                    return;
                }
            }
        }
    }

    /// Drops all documents permanently: they hold this cache's owner.
    pub(crate) fn close(&self) {
        let gone = {
            let mut entries = self.entries.lock();
            entries.closed = true;
            entries.by_use.clear();
            entries.bytes = 0;
            let gone = std::mem::take(&mut entries.by_key);
            self.publish(&entries);
            gone
        };
        drop(gone);
    }

    fn publish(&self, entries: &Entries) {
        self.memory.documents.store(entries.by_key.len() as u64, Ordering::Relaxed);
        self.memory.bytes.store(entries.bytes, Ordering::Relaxed);
    }
}
