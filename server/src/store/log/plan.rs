//! The entries of a document that a peer with part of it lacks.

use std::collections::HashSet;

use landfall_protocol::frame::{EncodedEntry, Entry, Holding};
use landfall_protocol::ring::DocumentPlan;
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::damage::damaged;
use crate::store::damage::is_damage;
use crate::store::log::read::{SkippedRead, change_of_row, tombstone_of_row};
use crate::store::rows::checked::{self};
use crate::store::rows::documents::{self, Document};
use crate::store::rows::schema::{column, hashes, number};
use crate::store::rows::snapshots::{self, Stored};

const TAIL_BACKWARDS: &str = "SELECT \"offset\", hash, deps FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\" DESC";

const CHANGE: &str = "SELECT e.\"offset\", d.document, e.kind, e.flags, e.hash, e.at_ms, \
    e.author, e.deps, e.body, e.document = ?1 AND e.\"offset\" = ?2 \
    FROM entry i LEFT JOIN entry e ON e.id = i.id LEFT JOIN document d ON d.id = ?1 \
    WHERE i.document = ?1 AND i.\"offset\" = ?2";

const TOMBSTONE: &str = "SELECT d.document, t.\"offset\", t.author, t.at_ms, t.hash \
    FROM tombstone t JOIN document d ON d.id = t.document \
    WHERE t.document = ?1 AND t.\"offset\" = ?2";

/// The entries to send to a peer with these heads.
pub(in crate::store) fn document(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    have: &[[u8; 32]],
) -> rusqlite::Result<DocumentPlan> {
    let found = documents::find(conn, name, document)?;
    let Some((_, found)) = found.filter(|(_, found)| found.digest_entry.is_some()) else {
        return Ok(DocumentPlan { holding: Holding::Absent, snapshot: None, offsets: Vec::new() });
    };
    checked::document(conn, &found)?;
    if let Some(tombstone) = found.tombstone {
        let offsets = vec![Offset(tombstone)];
        return Ok(DocumentPlan { holding: Holding::Deleted, snapshot: None, offsets });
    }
    let mut plan = DocumentPlan {
        holding: Holding::Present(found.heads.clone()),
        snapshot: None,
        offsets: Vec::new(),
    };
    let mut had: HashSet<[u8; 32]> = have.iter().copied().collect();
    if found.heads.iter().all(|head| had.contains(head)) {
        return Ok(plan);
    }
    let stored = match found.compacted {
        0 => None,
        _ => snapshots::current(conn, found.row)?,
    };
    plan.offsets = missing(conn, &found, stored.as_ref(), &mut had)?;
    if let Some(stored) = stored
        // A peer with all heads of the snapshot has all its changes: every change is an ancestor of a head.
        && !stored.heads.iter().all(|(head, _)| had.contains(&head.0))
    {
        plan.snapshot = Some((stored.hash, stored.bytes, Offset(stored.offset)));
    }
    Ok(plan)
}

/// The offsets of the tail that a peer with `had` and its ancestors lacks. Afterwards `had` also contains the
/// dependencies of the peer's tail changes, down to the snapshot.
fn missing(
    conn: &Connection,
    document: &Document,
    stored: Option<&Stored>,
    had: &mut HashSet<[u8; 32]>,
) -> rusqlite::Result<Vec<Offset>> {
    let mut find = conn.prepare_cached(TAIL_BACKWARDS)?;
    let mut rows = find.query(params![document.row, column(document.compacted)?])?;
    let (mut missing, mut seen) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let hash: [u8; 32] = row.get(1)?;
        seen.push(hash);
        // A change follows its dependencies, so one backward pass finds all ancestors.
        if had.contains(&hash) {
            had.extend(hashes(row, 2)?);
        } else {
            missing.push(Offset(number(row, 0)?));
        }
    }
    checked::tail(document, stored, seen.into_iter())?;
    missing.reverse();
    Ok(missing)
}

/// Entries by their offsets: as many from the front as fit, up to one that no longer exists. A damaged entry
/// is replaced by a damage entry, and reported in `damage`.
pub(in crate::store) fn entries(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    offsets: &[Offset],
    damage: &mut Vec<SkippedRead>,
) -> rusqlite::Result<Vec<EncodedEntry>> {
    let Some((_, found)) = documents::find(conn, name, document)? else { return Ok(Vec::new()) };
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (index, offset) in offsets.iter().take(limits::ENTRIES_COUNT).enumerate() {
        let read = match index == 0 && found.compacted == offset.0 {
            true => compacted(conn, &found),
            false => entry(conn, &found, *offset),
        };
        let entry = match read {
            Err(error) if is_damage(&error) => {
                damage.push((Some(found.id), error));
                Some(EncodedEntry::new(&Entry::of_damage(*offset, Some(found.id))))
            }
            read => read?,
        };
        let Some(entry) = entry else { break };
        bytes += entry.len();
        if bytes > limits::ENTRIES_TARGET_BYTES && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The snapshot of a document.
fn compacted(conn: &Connection, document: &Document) -> rusqlite::Result<Option<EncodedEntry>> {
    let stored = snapshots::current(conn, document.row)?;
    stored.map(|stored| stored.encoded(conn, document.id)).transpose()
}

fn entry(
    conn: &Connection,
    document: &Document,
    offset: Offset,
) -> rusqlite::Result<Option<EncodedEntry>> {
    let key = params![document.row, column(offset.0)?];
    if document.tombstone.is_some() {
        return tombstone(conn, document.row, offset);
    }
    let mut change = conn.prepare_cached(CHANGE)?;
    let of_row = |row: &Row<'_>| {
        if row.get::<_, Option<bool>>(9)? != Some(true) {
            let what = "a row that does not match its index entry";
            return Err(damaged(Some(document.id), Some(offset.0), what));
        }
        let entry = change_of_row(row, row.get(8)?)?;
        checked::change(&entry)?;
        Ok(EncodedEntry::new(&entry))
    };
    change.query_row(key, of_row).optional()
}

/// The tombstone of a document, verified.
pub(in crate::store) fn tombstone(
    conn: &Connection,
    document: i64,
    offset: Offset,
) -> rusqlite::Result<Option<EncodedEntry>> {
    let of_row = |row: &Row<'_>| {
        let entry = tombstone_of_row(row)?;
        checked::tombstone(&entry, &row.get(4)?)?;
        Ok(EncodedEntry::new(&entry))
    };
    let key = params![document, column(offset.0)?];
    conn.prepare_cached(TOMBSTONE)?.query_row(key, of_row).optional()
}
