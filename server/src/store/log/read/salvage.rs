//! Reads a log whose pages are damaged: positions come from the indexes, and each row is read by itself, so
//! that an unreadable row affects its own document only. Slower than the ordered read by one look-up for each
//! row and one for each document.

use std::collections::BTreeMap;

use landfall_protocol::{DocumentId, Offset};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Item, Items, LogRead, SCANNED_ROWS, peekable, tombstone_of_row};
use crate::store::damage::damaged;
use crate::store::damage::is_damage;
use crate::store::rows::checked::{self};
use crate::store::rows::documents::Document;
use crate::store::rows::schema::{column, document_id, number};
use crate::store::rows::snapshots::Stored;

/// Reads the log's own index.
const KEYS: &str = "SELECT \"offset\", id FROM entry \
    WHERE space = ?1 AND \"offset\" > ?2 ORDER BY \"offset\" LIMIT ?3";

/// Reads the index of the space's documents, and that of each one's entries.
const KEYS_OF_DOCUMENTS: &str = "SELECT c.\"offset\", c.id, d.document, d.id \
    FROM document d CROSS JOIN entry c INDEXED BY entry_document \
    ON c.document = d.id AND c.\"offset\" > ?2 AND c.\"offset\" <= ?3 \
    WHERE d.space = ?1 AND d.document >= x'' ORDER BY c.\"offset\" LIMIT ?4";

/// The columns of `CHANGES` in the log module, for one row.
const CHANGE: &str = "SELECT ?2, d.document, e.kind, e.flags, e.hash, e.at_ms, \
    e.author, e.deps, ?3, ?2 > d.folded AND d.tombstone IS NULL, NULL, d.id, \
    e.\"offset\" = ?2 AND e.space = ?1 AND d.space = ?1 AND ?3 = \
    (SELECT c.id FROM entry c WHERE c.document = e.document AND c.\"offset\" = ?2) \
    FROM (SELECT 1) LEFT JOIN entry e ON e.id = ?3 LEFT JOIN document d ON d.id = e.document";

const SNAPSHOT_KEYS: &str = "SELECT \"offset\", id FROM snapshot \
    WHERE space = ?1 AND \"offset\" > ?2 AND replaced_at_ms IS NULL ORDER BY \"offset\" LIMIT ?3";

const SNAPSHOT: &str = "SELECT d.document, s.id, s.document, s.\"offset\", s.hash, s.heads, \
    s.changes, s.bytes, s.at_ms, s.replaced_at_ms \
    FROM snapshot s JOIN document d ON d.id = s.document WHERE s.id = ?1";

/// `+` keeps SQLite from reading the row itself.
const SNAPSHOT_DOCUMENT: &str = "SELECT document FROM snapshot INDEXED BY snapshot_current \
    WHERE +id = ?1 AND replaced_at_ms IS NULL";

const DOCUMENT: &str = "SELECT document FROM document WHERE space = ?1 AND +id = ?2";

const TOMBSTONE_KEYS: &str = "SELECT \"offset\", document FROM tombstone \
    WHERE space = ?1 AND \"offset\" > ?2 ORDER BY \"offset\" LIMIT ?3";

const TOMBSTONE: &str = "SELECT d.document, t.\"offset\", t.author, t.at_ms, t.hash \
    FROM tombstone t JOIN document d ON d.id = t.document WHERE t.document = ?1";

/// The position of a change: offset and row.
type Key = (u64, i64);

/// A change according to the index of its document.
struct Known {
    row: i64,
    document: DocumentId,
    document_row: i64,
}

/// The rows after a position, as the sources of a page.
pub(super) fn sources<'a>(wanted: &'a LogRead<'a>) -> rusqlite::Result<[Items<'a>; 4]> {
    let snapshots = snapshots(wanted)?;
    let tombstones = tombstones(wanted)?;
    let changes = changes(wanted)?;
    let replaced = match wanted.replaced() {
        Err(error) if is_damage(&error) => None,
        replaced => replaced?,
    };
    Ok([
        peekable(snapshots.into_iter().map(Ok)),
        peekable(replaced.into_iter().map(Ok)),
        peekable(tombstones.into_iter().map(Ok)),
        peekable(changes.into_iter().map(Ok)),
    ])
}

fn keys(wanted: &LogRead<'_>, sql: &str) -> rusqlite::Result<Vec<Key>> {
    let mut find = wanted.conn.prepare_cached(sql)?;
    let key = params![wanted.space, column(wanted.after.0)?, SCANNED_ROWS as i64];
    let of_row = |row: &Row<'_>| Ok((number(row, 0)?, row.get(1)?));
    let keys = find.query_map(key, of_row)?.collect::<rusqlite::Result<Vec<Key>>>()?;
    let is_in_order = keys.is_sorted_by(|one, next| one.0 < next.0);
    if !is_in_order || keys.last().is_some_and(|last| last.0 > wanted.head.0) {
        return Err(damaged(None, Some(wanted.after.0), "a log whose index is out of order"));
    }
    Ok(keys)
}

/// From the index alone. Fails if that is damaged too.
fn known(wanted: &LogRead<'_>, through: u64) -> rusqlite::Result<BTreeMap<u64, Known>> {
    let mut find = wanted.conn.prepare_cached(KEYS_OF_DOCUMENTS)?;
    let (from, through) = (column(wanted.after.0)?, column(through)?);
    let key = params![wanted.space, from, through, SCANNED_ROWS as i64];
    let of_row = |row: &Row<'_>| {
        let known =
            Known { row: row.get(1)?, document: document_id(row, 2)?, document_row: row.get(3)? };
        Ok((number(row, 0)?, known))
    };
    find.query_map(key, of_row)?.collect()
}

fn changes(wanted: &LogRead<'_>) -> rusqlite::Result<Vec<Item>> {
    let by_log = keys(wanted, KEYS);
    let through = match &by_log {
        Ok(keys) if keys.len() == SCANNED_ROWS => keys.last().map_or(0, |last| last.0),
        _ => wanted.head.0,
    };
    let known = known(wanted, through);
    let keys = match (by_log, &known) {
        (Ok(keys), _) => keys,
        (Err(error), Ok(known)) if is_damage(&error) => {
            wanted.note(None, error);
            known.iter().map(|(offset, known)| (*offset, known.row)).collect()
        }
        (Err(error), _) => return Err(error),
    };
    let known = match known {
        Err(error) if is_damage(&error) => {
            wanted.note(None, error);
            BTreeMap::new()
        }
        known => known?,
    };
    keys.into_iter().map(|key| change(wanted, key, known.get(&key.0))).collect()
}

fn change(
    wanted: &LogRead<'_>,
    (offset, row): Key,
    known: Option<&Known>,
) -> rusqlite::Result<Item> {
    let error = match read_change(wanted, offset, row) {
        Err(error) if is_damage(&error) => error,
        read => return read,
    };
    let Some(known) = known else { return Ok(Item::Damaged(Offset(offset), None, error)) };
    if known.row != row
        && let Ok(item) = read_change(wanted, offset, known.row)
    {
        wanted.note(None, error);
        return Ok(item);
    }
    // A dead change need not be sent, so its damage costs nothing here.
    let document = Document::at(wanted.conn, known.document_row);
    let is_dead = |of: &Document| of.compacted >= offset || of.tombstone.is_some();
    if !wanted.view.contains(&known.document) || document.as_ref().is_ok_and(is_dead) {
        wanted.note(Some(known.document), error);
        return Ok(Item::Passed(Offset(offset)));
    }
    Ok(Item::Damaged(Offset(offset), Some(known.document), error))
}

fn read_change(wanted: &LogRead<'_>, offset: u64, row: i64) -> rusqlite::Result<Item> {
    let key = params![wanted.space, column(offset)?, row];
    wanted.conn.prepare_cached(CHANGE)?.query_row(key, |row| wanted.change(row))
}

fn snapshots(wanted: &LogRead<'_>) -> rusqlite::Result<Vec<Item>> {
    let mut find = wanted.conn.prepare_cached(SNAPSHOT)?;
    let mut snapshots = Vec::new();
    for (offset, row) in keys(wanted, SNAPSHOT_KEYS)? {
        let read = find.query_row([row], |row| {
            Ok(wanted.snapshot(document_id(row, 0)?, Stored::of_row(row, 1)?))
        });
        snapshots.push(match read {
            Ok(item) if item.offset().0 == offset => item,
            Err(error) if !is_damage(&error) => return Err(error),
            read => {
                let what = "a snapshot's row that does not match its index entry";
                let error = read.err().unwrap_or_else(|| damaged(None, Some(offset), what));
                let mut find = wanted.conn.prepare_cached(SNAPSHOT_DOCUMENT)?;
                let document = find.query_row([row], |row| row.get(0)).optional();
                let document = document.ok().flatten();
                let document = document.and_then(|row| named(wanted.conn, wanted.space, row));
                Item::Damaged(Offset(offset), document, error)
            }
        });
    }
    Ok(snapshots)
}

fn tombstones(wanted: &LogRead<'_>) -> rusqlite::Result<Vec<Item>> {
    let mut find = wanted.conn.prepare_cached(TOMBSTONE)?;
    let mut tombstones = Vec::new();
    for (offset, row) in keys(wanted, TOMBSTONE_KEYS)? {
        let read = find.query_row([row], |row| {
            tombstone_of_row(row).and_then(|entry| {
                checked::tombstone(&entry, &row.get(4)?)?;
                Ok(entry)
            })
        });
        tombstones.push(match read {
            Ok(entry) if entry.offset.0 != offset => {
                let what = "a tombstone's row that does not match its index entry";
                Item::Damaged(Offset(offset), None, damaged(None, Some(offset), what))
            }
            Ok(entry) if wanted.view.contains(&entry.document) => Item::Tombstone(entry),
            Ok(_) => Item::Passed(Offset(offset)),
            Err(error) if is_damage(&error) => {
                let document = named(wanted.conn, wanted.space, row);
                Item::Damaged(Offset(offset), document, error)
            }
            Err(error) => return Err(error),
        });
    }
    Ok(tombstones)
}

/// The id of a document, from the index of the space's documents.
fn named(conn: &Connection, space: i64, row: i64) -> Option<DocumentId> {
    let mut find = conn.prepare_cached(DOCUMENT).ok()?;
    find.query_row([space, row], |row| document_id(row, 0)).ok()
}
