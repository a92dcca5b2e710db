//! The step after the migration from version 1: computes the heads, counters, digest entry and digests of
//! each document. Runs in slices, each a transaction, so that an interruption loses one slice.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use crate::store::lookups::digests::Buckets;
use crate::store::rows::documents::Document;
use crate::store::rows::schema::{column, hashes, number};

/// A slice ends after this many entries; a document is never split.
const SLICE_ENTRIES: u64 = 20_000;

/// Documents per slice.
pub(in crate::store) const SLICE_DOCUMENTS: usize = 1_000;

const NEXT: &str = "SELECT d.id, d.space FROM unfilled u JOIN document d ON d.id = u.document \
    ORDER BY u.document LIMIT 1";

const ENTRIES: &str = "SELECT hash, deps, length(body) FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\"";

/// Whether documents remain to be filled.
pub(in crate::store) fn is_due(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached(NEXT)?.exists([])
}

/// Fills at most `most` documents; true if more remain.
pub(in crate::store) fn slice(tx: &Connection, most: usize) -> rusqlite::Result<bool> {
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

/// Fills one document; returns its number of entries.
fn document(tx: &Connection, row: i64, space: i64) -> rusqlite::Result<u64> {
    let mut document = Document::at(tx, row)?;
    let before = document.digest_entry;
    reckon(tx, &mut document)?;
    let mut buckets = Buckets::new(tx, space);
    buckets.note(&document.id, before, document.digest_entry)?;
    buckets.save()?;
    document.save(tx)?;
    tx.prepare_cached("DELETE FROM unfilled WHERE document = ?1")?.execute([row])?;
    Ok(document.tail_changes)
}

/// Computes heads, counters, digest entry and due from a document's tail, starting from the heads in its row:
/// those of its snapshot, if there is one.
pub(in crate::store) fn reckon(tx: &Connection, document: &mut Document) -> rusqlite::Result<()> {
    let mut heads: BTreeSet<[u8; 32]> = document.heads.iter().copied().collect();
    (document.tail_changes, document.tail_bytes) = (0, 0);
    let mut find = tx.prepare_cached(ENTRIES)?;
    let mut rows = find.query(params![document.row, column(document.compacted)?])?;
    while let Some(row) = rows.next()? {
        for dependency in hashes(row, 1)? {
            heads.remove(&dependency);
        }
        heads.insert(row.get(0)?);
        document.tail_changes += 1;
        document.tail_bytes += number(row, 2)?;
    }
    document.heads = heads.into_iter().collect();
    document.digest_entry = document.digest_entry_now();
    document.reckon_due(tx)
}
