//! The indexes of compacted histories, built from snapshots on demand.
//!
//! They are not stored: a hash is longer than a compacted change is in its snapshot. Frequent queries
//! (heads, every actor's last change) use SQL. An index is needed when a received change depends on a
//! compacted change that is no head, or repeats one. Building one costs as much as loading the
//! document, so it is done before a batch's transaction (`prepare`) where possible.

use std::sync::Arc;

use landfall_compaction::{CompactionError, IndexCache};
use landfall_protocol::compacted::PackedIndex;
use parking_lot::Mutex;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension};

use super::rows::DocumentRow;

/// Memory in bytes that indexes may take beyond the one in use.
const BUDGET_BYTES: usize = 32 * 1024 * 1024;

/// A cache of recently used indexes.
pub(in crate::store) struct Indexes {
    cached: Mutex<IndexCache>,
}

impl Default for Indexes {
    fn default() -> Self {
        Self { cached: Mutex::new(IndexCache::new(BUDGET_BYTES)) }
    }
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
        let cached = self.cached.lock().get(document.0, &hash);
        if cached.is_some() {
            return Ok(cached);
        }
        let body: Vec<u8> = conn
            .prepare_cached("SELECT body FROM snapshot WHERE document = ?1")?
            .query_row([document.0], |row| row.get(0))?;
        let index = Arc::new(build(&body).map_err(unreadable)?);
        self.add(document, hash, Arc::clone(&index));
        Ok(Some(index))
    }

    /// Caches the index of a snapshot that was just built or opened.
    pub(in crate::store) fn add(
        &self,
        document: DocumentRow,
        hash: [u8; 32],
        index: Arc<PackedIndex>,
    ) {
        self.cached.lock().insert(document.0, hash, index);
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
