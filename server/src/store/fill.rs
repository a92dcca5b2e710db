//! What follows a migration: documents that came from version 1 get their heads, counters, leaf
//! and place in the digests. In slices, each a transaction, so that an interruption costs one.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::digests::Buckets;
use super::documents::Document;
use super::schema::{column, hashes, number};

/// Entries after which a slice ends; a document is never cut.
const SLICE_ENTRIES: u64 = 20_000;

/// Documents of one slice.
pub(super) const SLICE_DOCUMENTS: usize = 1_000;

const NEXT: &str = "SELECT d.id, d.space FROM unfilled u JOIN document d ON d.id = u.document \
    ORDER BY u.document LIMIT 1";

const ENTRIES: &str = "SELECT hash, deps, length(body) FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\"";

/// Whether a document waits.
pub(super) fn is_due(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached(NEXT)?.exists([])
}

/// Fills at most so many documents in; true if there are more.
pub(super) fn slice(tx: &Connection, most: usize) -> rusqlite::Result<bool> {
    let mut entries = 0;
    for _ in 0..most {
        let mut next = tx.prepare_cached(NEXT)?;
        let found = next.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((row, space)) = found else { return Ok(false) };
        entries += document(tx, row, space)?;
        if entries >= SLICE_ENTRIES {
            break;
        }
    }
    Ok(true)
}

/// Fills one document in; how many entries it has.
fn document(tx: &Connection, row: i64, space: i64) -> rusqlite::Result<u64> {
    let mut document = Document::at(tx, row)?;
    let before = document.leaf;
    reckon(tx, &mut document)?;
    let mut buckets = Buckets::new(tx, space);
    buckets.note(&document.id, before, document.leaf)?;
    buckets.save()?;
    document.save(tx)?;
    tx.prepare_cached("DELETE FROM unfilled WHERE document = ?1")?.execute([row])?;
    Ok(document.tail_changes)
}

/// Takes heads, counters, leaf and due from a document's tail, beginning with the heads that it
/// has: those of its snapshot, if there is one.
pub(super) fn reckon(tx: &Connection, document: &mut Document) -> rusqlite::Result<()> {
    let mut heads: BTreeSet<[u8; 32]> = document.heads.iter().copied().collect();
    (document.tail_changes, document.tail_bytes) = (0, 0);
    let mut find = tx.prepare_cached(ENTRIES)?;
    let mut rows = find.query(params![document.row, column(document.folded)?])?;
    while let Some(row) = rows.next()? {
        for dependency in hashes(row, 1)? {
            heads.remove(&dependency);
        }
        heads.insert(row.get(0)?);
        document.tail_changes += 1;
        document.tail_bytes += number(row, 2)?;
    }
    document.heads = heads.into_iter().collect();
    document.leaf = document.leaf_now();
    document.reckon_due(tx)
}
