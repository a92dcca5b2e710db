//! The limits that a document exceeds through changes of other replicas. It is stored and synced all
//! the same.

use landfall_protocol::admission::DocumentSize;
use landfall_protocol::limits;
use rusqlite::Connection;

use crate::store::log::rows::{DocumentRow, parts};

/// A limited quantity of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DocumentLimit {
    /// Bytes of its snapshot and its tail.
    Bytes,
    /// Changes.
    Changes,
    /// Operations, as a saved document holds them.
    Operations,
    /// Concurrent heads.
    Heads,
}

impl std::fmt::Display for DocumentLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Changes => "changes",
            Self::Operations => "operations",
            Self::Heads => "concurrent heads",
        })
    }
}

/// A limit that a document exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceededLimit {
    /// The quantity.
    pub of: DocumentLimit,
    /// The document's value.
    pub actual: u64,
    /// The limit for a document of its size in bytes.
    pub limit: u64,
}

/// The limits that a document exceeds, given its limit in bytes. A relay accepts no change beyond them,
/// but the merge of several replicas' changes can exceed them.
pub(in crate::store) fn excesses(
    conn: &Connection,
    document: DocumentRow,
    most_bytes: u64,
) -> rusqlite::Result<Vec<ExceededLimit>> {
    let parts = parts(conn, document)?;
    let heads: u64 = conn
        .prepare_cached("SELECT count(*) FROM head WHERE document = ?1")?
        .query_row([document.0], |row| row.get(0))?;
    let most_operations = DocumentSize::most_operations(parts.bytes());
    let each = [
        (DocumentLimit::Bytes, parts.document_bytes(), most_bytes),
        (DocumentLimit::Changes, parts.changes(), limits::DOCUMENT_CHANGES),
        (DocumentLimit::Operations, parts.operations, most_operations),
        (DocumentLimit::Heads, heads, limits::DOCUMENT_HEADS as u64),
    ];
    let excess =
        |(of, actual, limit)| (actual > limit).then_some(ExceededLimit { of, actual, limit });
    Ok(each.into_iter().filter_map(excess).collect())
}
