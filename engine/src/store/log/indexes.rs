//! The indexes of compacted histories, built from snapshots on demand.
//!
//! They are not stored: a hash is longer than a compacted change is in its snapshot. Frequent queries
//! (heads, every actor's last change) use SQL. An index is needed when a received change depends on a
//! compacted change that is no head, or repeats one. Building one costs as much as loading the
//! document, so it is done before a batch's transaction (`prepare`) where possible.

use std::collections::VecDeque;
use std::sync::Arc;

use landfall_compaction::CompactionError;
use landfall_protocol::compacted::PackedIndex;
use parking_lot::Mutex;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension};

use super::rows::DocumentRow;

/// Memory in bytes that indexes may take beyond the one in use.
const BUDGET_BYTES: usize = 32 * 1024 * 1024;

/// Identifies the snapshot of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    document: DocumentRow,
    hash: [u8; 32],
}

#[derive(Default)]
struct CachedIndexes {
    /// The least recently used one is at the front.
    indexes: VecDeque<(Key, Arc<PackedIndex>)>,
    bytes: usize,
}

/// A cache of recently used indexes.
#[derive(Default)]
pub(in crate::store) struct Indexes {
    kept: Mutex<CachedIndexes>,
}

impl Indexes {
    /// The index of a document's compacted history; `None` if it has no snapshot.
    pub(in crate::store) fn of(
        &self,
        conn: &Connection,
        document: DocumentRow,
    ) -> rusqlite::Result<Option<Arc<PackedIndex>>> {
        let hash = conn
            .prepare_cached("SELECT hash FROM snapshot WHERE document = ?1")?
            .query_row([document.0], |row| row.get::<_, [u8; 32]>(0))
            .optional()?;
        let Some(hash) = hash else { return Ok(None) };
        let key = Key { document, hash };
        if let Some(index) = self.get(key) {
            return Ok(Some(index));
        }
        let body: Vec<u8> = conn
            .prepare_cached("SELECT body FROM snapshot WHERE document = ?1")?
            .query_row([document.0], |row| row.get(0))?;
        let index = Arc::new(build(&body).map_err(unreadable)?);
        self.put(key, Arc::clone(&index));
        Ok(Some(index))
    }

    /// Caches the index of a snapshot that was just built or opened.
    pub(in crate::store) fn add(
        &self,
        document: DocumentRow,
        hash: [u8; 32],
        index: Arc<PackedIndex>,
    ) {
        self.put(Key { document, hash }, index);
    }

    fn get(&self, key: Key) -> Option<Arc<PackedIndex>> {
        let mut kept = self.kept.lock();
        let place = kept.indexes.iter().position(|(other, _)| *other == key)?;
        let found = kept.indexes.remove(place)?;
        let index = Arc::clone(&found.1);
        kept.indexes.push_back(found);
        Some(index)
    }

    fn put(&self, key: Key, index: Arc<PackedIndex>) {
        let mut kept = self.kept.lock();
        // A document has one snapshot: an index of an earlier one is useless.
        kept.indexes.retain(|(other, _)| other.document != key.document);
        kept.indexes.push_back((key, index));
        kept.bytes = kept.indexes.iter().map(|(_, index)| index.memory_bytes()).sum();
        while kept.bytes > BUDGET_BYTES && kept.indexes.len() > 1 {
            if let Some((_, gone)) = kept.indexes.pop_front() {
                kept.bytes -= gone.memory_bytes();
            }
        }
    }
}

/// Loads a snapshot and builds its index.
pub(in crate::store) fn build(snapshot: &[u8]) -> Result<PackedIndex, CompactionError> {
    landfall_compaction::index_of(snapshot)
}

/// Whether an error means that a snapshot of this store does not load any more: that affects only its
/// document.
pub(in crate::store) fn is_unreadable(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::FromSqlConversionFailure(_, Type::Blob, source) = error else {
        return false;
    };
    source.is::<CompactionError>()
}

/// The error for a snapshot of this store that does not load any more.
pub(in crate::store) fn unreadable(error: CompactionError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error))
}
