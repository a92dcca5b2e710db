//! Tombstones: whether a document is deleted, and which of its rows nothing needs any more.

use rusqlite::{Connection, OptionalExtension};

use super::rows::DocumentRow;

pub(in crate::store) fn is_deleted(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM deleted WHERE document = ?1")?.exists([document.0])
}

/// The local sequence number of a document's tombstone.
pub(in crate::store) fn local(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<Option<u64>> {
    conn.prepare_cached("SELECT local FROM deleted WHERE document = ?1")?
        .query_row([document.0], |row| row.get(0))
        .optional()
}

/// The local number up to which nothing needs a document's rows: they are in its snapshot, or the
/// document is deleted and has no orphaned edits.
pub(in crate::store) fn dead_through(conn: &Connection, row: DocumentRow) -> rusqlite::Result<u64> {
    conn.prepare_cached(
        "SELECT coalesce((SELECT kept_base FROM deleted WHERE document = ?1), base)
         FROM document WHERE id = ?1",
    )?
    .query_row([row.0], |row| row.get(0))
}
