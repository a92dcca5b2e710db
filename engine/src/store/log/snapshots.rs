//! Compacted histories: a document's snapshot. Beside it, only the rows of the tail are alive.

use std::sync::Arc;

use landfall_compaction::{Compacted, CompactionError, CompactionLimits};
use landfall_protocol::admission::measure;
use landfall_protocol::compacted::{BadIndex, PackedIndex};
use landfall_protocol::{ChangeHash, DocumentId};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{DocumentRow, SpaceRow, actor_row_or_new, document_row};
use crate::store::{LocalLog, ViewError};

/// A snapshot that was loaded once, with its verified index.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) hash: [u8; 32],
    pub(crate) body: Vec<u8>,
    pub(crate) index: Arc<PackedIndex>,
    /// Its operations, as admission counts them.
    pub(crate) operations: u64,
}

impl Opened {
    /// Loads the bytes of a snapshot that this store has. Costs as much as loading the document.
    pub(crate) fn open(body: Vec<u8>) -> Result<Self, CompactionError> {
        let index = super::indexes::build(&body)?;
        Ok(Self::new(landfall_compaction::hash_of(&body), body, index))
    }

    /// A snapshot that was loaded, with its SHA-256 and its index.
    pub(in crate::store) fn new(hash: [u8; 32], body: Vec<u8>, index: PackedIndex) -> Self {
        let operations = operations_of(&body);
        Self { hash, body, index: Arc::new(index), operations }
    }

    /// Loads the bytes of a snapshot that was received.
    pub(crate) fn open_within(
        body: Vec<u8>,
        limits: &CompactionLimits,
    ) -> Result<Self, CompactionError> {
        limits.check(body.len())?;
        Self::open(body)
    }

    /// The result of a compaction, which has loaded it.
    pub(crate) fn of(compacted: Compacted) -> Result<Self, BadIndex> {
        let index = PackedIndex::parse(compacted.index)?;
        Ok(Self::new(compacted.hash, compacted.snapshot, index))
    }

    /// The heads with their last operation counters, ascending.
    pub(in crate::store) fn heads(&self) -> Vec<(ChangeHash, u64)> {
        let max_op = |hash: &ChangeHash| self.index.find(hash).map_or(0, |found| found.max_op);
        self.index.heads().into_iter().map(|hash| (hash, max_op(&hash))).collect()
    }

    pub(in crate::store) fn changes(&self) -> u64 {
        self.index.len() as u64
    }

    /// Its last operation counter.
    pub(in crate::store) fn counter(&self) -> u64 {
        self.heads().into_iter().map(|(_, max_op)| max_op).max().unwrap_or_default()
    }
}

/// The operations of a chunk that was loaded.
pub(in crate::store) fn operations_of(body: &[u8]) -> u64 {
    measure(body).map_or(0, |size| size.operations)
}

/// The heads of a document's snapshot with their last operation counters; none if it has no snapshot.
pub(in crate::store) fn compacted_heads(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<Vec<(ChangeHash, u64)>> {
    let heads = conn
        .prepare_cached("SELECT heads FROM snapshot WHERE document = ?1")?
        .query_row([document.0], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    Ok(heads.map(|heads| unpack_heads(&heads)).unwrap_or_default())
}

pub(in crate::store) fn unpack_heads(bytes: &[u8]) -> Vec<(ChangeHash, u64)> {
    let head = |bytes: &[u8; 40]| {
        let (mut hash, mut max_op) = ([0; 32], [0; 8]);
        hash.copy_from_slice(&bytes[..32]);
        max_op.copy_from_slice(&bytes[32..]);
        (ChangeHash(hash), u64::from_le_bytes(max_op))
    };
    bytes.as_chunks().0.iter().map(head).collect()
}

fn pack_heads(heads: &[(ChangeHash, u64)]) -> Vec<u8> {
    let head = |(hash, max_op): &(ChangeHash, u64)| {
        hash.0.into_iter().chain(max_op.to_le_bytes()).collect::<Vec<u8>>()
    };
    heads.iter().flat_map(head).collect()
}

/// Replaces a document's snapshot. The new one must contain everything in the old one.
pub(in crate::store) fn put(
    conn: &Connection,
    document: DocumentRow,
    opened: &Opened,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO snapshot (document, hash, heads, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![document.0, opened.hash, pack_heads(&opened.heads()), opened.body])?;
    for last in opened.index.actors() {
        let actor = actor_row_or_new(conn, &last.actor)?;
        conn.prepare_cached(
            "INSERT INTO folded_actor (document, actor, seq, hash) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET seq = excluded.seq, hash = excluded.hash
                 WHERE hash <> excluded.hash",
        )?
        .execute(params![document.0, actor, last.seq, last.hash.0])?;
    }
    Ok(())
}

/// Removes a document's snapshot.
pub(in crate::store) fn remove(conn: &Connection, document: DocumentRow) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM folded_actor WHERE document = ?1")?.execute([document.0])?;
    // Through the index, which begins with the upstream, of which there are few.
    conn.prepare_cached(
        "DELETE FROM owed WHERE upstream IN (SELECT id FROM upstream) AND document = ?1",
    )?
    .execute([document.0])?;
    conn.prepare_cached("DELETE FROM snapshot WHERE document = ?1")?.execute([document.0])?;
    Ok(())
}

pub(in crate::store) fn body(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<Option<Vec<u8>>> {
    conn.prepare_cached("SELECT body FROM snapshot WHERE document = ?1")?
        .query_row([document.0], |row| row.get(0))
        .optional()
}

/// A document's snapshot, which is loaded before its other changes.
#[derive(Debug)]
pub(crate) struct SnapshotBase {
    /// Its local number: changes after it are applied to it.
    pub(crate) local: u64,
    /// An automerge document chunk.
    pub(crate) body: Vec<u8>,
    /// Its SHA-256.
    pub(crate) hash: [u8; 32],
}

/// A document's snapshot, if its local number is greater than a position.
pub(in crate::store) fn base_after(
    conn: &Connection,
    document: DocumentRow,
    after: u64,
) -> rusqlite::Result<Option<SnapshotBase>> {
    conn.prepare_cached(
        "SELECT d.base, s.body, s.hash FROM document d JOIN snapshot s ON s.document = d.id
         WHERE d.id = ?1 AND d.folded_changes > 0 AND d.base > ?2",
    )?
    .query_row(params![document.0, after], |row| {
        Ok(SnapshotBase { local: row.get(0)?, body: row.get(1)?, hash: row.get(2)? })
    })
    .optional()
}

impl LocalLog {
    /// The bytes of a document's snapshot, all at once: SQLite reads the whole value even for a part of
    /// it. `None` if the document has another snapshot by now.
    pub(crate) fn snapshot_body(
        &self,
        space: SpaceRow,
        document: &DocumentId,
        hash: &[u8; 32],
    ) -> Result<Option<Vec<u8>>, ViewError> {
        self.view(|conn| {
            let Some(row) = document_row(conn, space, document)? else { return Ok(None) };
            conn.prepare_cached("SELECT body FROM snapshot WHERE document = ?1 AND hash = ?2")?
                .query_row(params![row.0, hash], |row| row.get(0))
                .optional()
        })
    }

    /// Whether this is a document's snapshot. Reads none of its bytes.
    pub(crate) fn has_snapshot(
        &self,
        space: SpaceRow,
        document: &DocumentId,
        hash: &[u8; 32],
    ) -> Result<bool, ViewError> {
        self.view(|conn| {
            let Some(row) = document_row(conn, space, document)? else { return Ok(false) };
            conn.prepare_cached("SELECT 1 FROM snapshot WHERE document = ?1 AND hash = ?2")?
                .exists(params![row.0, hash])
        })
    }
}
