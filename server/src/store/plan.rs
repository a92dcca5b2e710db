//! What somebody who has part of a document lacks of it, and those entries.

use std::collections::HashSet;

use landfall_protocol::frame::{EncodedEntry, Holding};
use landfall_protocol::ring::DocumentPlan;
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, params};

use super::documents::{self, Document};
use super::log::{change_of_row, tombstone_of_row};
use super::schema::{column, hashes, number};
use super::snapshots;

const TAIL_BACKWARDS: &str = "SELECT \"offset\", hash, deps FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\" DESC";

const CHANGE: &str = "SELECT e.\"offset\", d.document, e.kind, e.flags, e.hash, e.at_ms, \
    e.author, e.deps, e.body FROM entry e JOIN document d ON d.id = e.document \
    WHERE e.document = ?1 AND e.\"offset\" = ?2";

const TOMBSTONE: &str = "SELECT d.document, t.\"offset\", t.author, t.at_ms \
    FROM tombstone t JOIN document d ON d.id = t.document \
    WHERE t.document = ?1 AND t.\"offset\" = ?2";

/// What is to be sent of a document to somebody who has these heads.
pub(super) fn document(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    have: &[[u8; 32]],
) -> rusqlite::Result<DocumentPlan> {
    let found = documents::find(conn, name, document)?;
    let Some((_, found)) = found.filter(|(_, found)| found.leaf.is_some()) else {
        return Ok(DocumentPlan { holding: Holding::Absent, snapshot: None, offsets: Vec::new() });
    };
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
    plan.offsets = missing(conn, &found, &mut had)?;
    if found.folded > 0
        && let Some(stored) = snapshots::current(conn, found.row)?
        // Whoever has all heads of what is folded has all of it: nothing else reaches a head.
        && !stored.heads.iter().all(|(head, _)| had.contains(&head.0))
    {
        plan.snapshot = Some((stored.hash, stored.bytes, Offset(stored.offset)));
    }
    Ok(plan)
}

/// The offsets of the tail that one who has `had`, and all that it rests on, does not have. What
/// that reaches directly below the tail is in `had` afterwards.
fn missing(
    conn: &Connection,
    document: &Document,
    had: &mut HashSet<[u8; 32]>,
) -> rusqlite::Result<Vec<Offset>> {
    let mut find = conn.prepare_cached(TAIL_BACKWARDS)?;
    let mut rows = find.query(params![document.row, column(document.folded)?])?;
    let mut missing = Vec::new();
    while let Some(row) = rows.next()? {
        // Whatever rests on a change stands behind it, so one pass from the end reaches all.
        if had.contains(&row.get::<_, [u8; 32]>(1)?) {
            had.extend(hashes(row, 2)?);
        } else {
            missing.push(Offset(number(row, 0)?));
        }
    }
    missing.reverse();
    Ok(missing)
}

/// Entries by their offsets: as many from the front as fit, until one that is gone.
pub(super) fn entries(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    offsets: &[Offset],
) -> rusqlite::Result<Vec<EncodedEntry>> {
    let Some((_, found)) = documents::find(conn, name, document)? else { return Ok(Vec::new()) };
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (index, offset) in offsets.iter().take(limits::ENTRIES_COUNT).enumerate() {
        let is_snapshot = index == 0 && found.folded == offset.0;
        let entry = match is_snapshot.then(|| snapshots::current(conn, found.row)).transpose()? {
            Some(Some(stored)) => Some(stored.encoded(conn, found.id)?),
            _ => entry(conn, &found, *offset)?,
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

fn entry(
    conn: &Connection,
    document: &Document,
    offset: Offset,
) -> rusqlite::Result<Option<EncodedEntry>> {
    let key = params![document.row, column(offset.0)?];
    if document.tombstone.is_some() {
        let found = conn.prepare_cached(TOMBSTONE)?.query_row(key, tombstone_of_row).optional()?;
        return Ok(found.as_ref().map(EncodedEntry::new));
    }
    let mut change = conn.prepare_cached(CHANGE)?;
    let change = change.query_row(key, |row| change_of_row(row, row.get(8)?)).optional()?;
    Ok(change.as_ref().map(EncodedEntry::new))
}
