//! Deletes dead rows in slices: compacted changes, everything of a deleted document, and replaced snapshots.
//! Each slice is a transaction of its own, and the rows themselves mark what remains, so that a crash between
//! two slices loses nothing.

use std::collections::BTreeSet;

use landfall_protocol::{DocumentId, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, params};

use crate::limits::CLOCK_SKEW;
use crate::store::rows::documents::{self, Document};
use crate::store::rows::passed::PassedOver;
use crate::store::rows::schema::column;
use crate::store::rows::snapshots;

/// Deleting a piece of a snapshot costs about as much as this many rows.
const PIECE_ROWS: usize = 32;

/// By ascending offset, so that the last change of each actor is deleted last.
const DEAD_ENTRIES: &str = "DELETE FROM entry WHERE id IN (SELECT id FROM entry \
    WHERE document = ?1 AND \"offset\" <= ?2 ORDER BY \"offset\" LIMIT ?3)";

const DEAD_ACTORS: &str = "DELETE FROM folded_actor WHERE document = ?1 AND actor IN \
    (SELECT actor FROM folded_actor WHERE document = ?1 LIMIT ?2)";

/// Deletes some rows; true if more may remain. Skips `damaged` documents unless they are deleted: their dead
/// rows may be the only copy of what cannot be read.
pub(in crate::store) fn prune(
    tx: &Connection,
    (now_ms, max_rows): (u64, usize),
    damaged: &[(SpaceName, DocumentId)],
    passed: &mut PassedOver,
) -> rusqlite::Result<bool> {
    let mut kept = BTreeSet::new();
    for (space, document) in damaged {
        kept.extend(documents::row_of(tx, space, document)?);
    }
    let mut left = max_rows.max(PIECE_ROWS);
    while left > 0 {
        let deleted = match dead_rows(tx, left, &kept, passed)? {
            0 => replaced_snapshots(tx, now_ms, left, &kept)?,
            deleted => deleted,
        };
        if deleted == 0 {
            return Ok(false);
        }
        left = left.saturating_sub(deleted);
    }
    Ok(true)
}

/// Deletes rows of one document; a document without any left is no longer `dead`.
fn dead_rows(
    tx: &Connection,
    most: usize,
    kept: &BTreeSet<i64>,
    passed: &mut PassedOver,
) -> rusqlite::Result<usize> {
    let sql = "SELECT id FROM document WHERE dead = 1 AND id > ?1 ORDER BY id LIMIT 1";
    let mut next = tx.prepare_cached(sql)?;
    let mut last = i64::MIN;
    loop {
        let Some(row) = next.query_row([last], |row| row.get::<_, i64>(0)).optional()? else {
            return Ok(0);
        };
        last = row;
        let Some(document) = passed.unless(row, Document::at(tx, row))? else { continue };
        if document.tombstone.is_some() || !kept.contains(&row) {
            return dead_rows_of(tx, &document, most);
        }
    }
}

fn dead_rows_of(tx: &Connection, document: &Document, most: usize) -> rusqlite::Result<usize> {
    let (row, is_deleted) = (document.row, document.tombstone.is_some());
    let through = if is_deleted { i64::MAX } else { column(document.compacted)? };
    let mut delete = tx.prepare_cached(DEAD_ENTRIES)?;
    let mut deleted = delete.execute(params![row, through, most as i64])?;
    if deleted < most && is_deleted {
        let mut delete = tx.prepare_cached(DEAD_ACTORS)?;
        deleted += delete.execute(params![row, (most - deleted) as i64])?;
    }
    if deleted < most {
        let mut done = tx.prepare_cached("UPDATE document SET dead = 0 WHERE id = ?1")?;
        done.execute([row])?;
        deleted += 1;
    }
    Ok(deleted)
}

/// Deletes pieces of one snapshot whose retention has ended; then the snapshot.
fn replaced_snapshots(
    tx: &Connection,
    now_ms: u64,
    most: usize,
    kept: &BTreeSet<i64>,
) -> rusqlite::Result<usize> {
    let grace = u64::try_from(limits::SNAPSHOT_GRACE.as_millis()).unwrap_or(u64::MAX);
    let until = column(now_ms.saturating_sub(grace).min(i64::MAX as u64))?;
    // A replacement time in the future was written while the clock was wrong.
    let skew = u64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(u64::MAX);
    let future = column(now_ms.saturating_add(skew).min(i64::MAX as u64))?;
    let sql = "SELECT id, document FROM snapshot WHERE replaced_at_ms IS NOT NULL \
        AND (replaced_at_ms <= ?1 OR replaced_at_ms > ?2) ORDER BY replaced_at_ms";
    let mut over = tx.prepare_cached(sql)?;
    let over = over.query_map([until, future], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut over = over.filter(|found| found.as_ref().map_or(true, |(_, of)| !kept.contains(of)));
    let Some((row, _)) = over.next().transpose()? else { return Ok(0) };
    let row: i64 = row;
    // An incomplete snapshot must not be found: 0 hides it before its first piece goes.
    let mut forget = tx.prepare_cached("UPDATE snapshot SET replaced_at_ms = 0 WHERE id = ?1")?;
    forget.execute([row])?;
    let (low, high) = snapshots::pieces(row);
    let most = (most / PIECE_ROWS).max(1);
    let sql = "DELETE FROM snapshot_piece WHERE id IN (SELECT id FROM snapshot_piece \
        WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)";
    let deleted = tx.prepare_cached(sql)?.execute(params![low, high, most as i64])?;
    if deleted < most {
        tx.prepare_cached("DELETE FROM snapshot_index WHERE snapshot = ?1")?.execute([row])?;
        tx.prepare_cached("DELETE FROM snapshot WHERE id = ?1")?.execute([row])?;
    }
    Ok(PIECE_ROWS * deleted.max(1))
}
