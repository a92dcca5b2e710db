//! Compaction in the store: which document is due, the inputs of a compaction, and the commit that replaces
//! them by a snapshot. The compaction itself runs elsewhere, and may fail.
//!
//! A document's `due` is the offset at which compaction first became worthwhile. The document can be
//! compacted when that offset has left the window. So the documents of a space are visited by `due`, and the
//! first one that is still inside the window ends the scan of its space. Heavy documents come first and
//! ignore the window: for a replica that has not read them yet, a snapshot is cheaper than the few changes.

pub(in crate::store) mod expand;
pub(in crate::store) mod prune;

use std::time::Duration;

use landfall_protocol::snapshot::Snapshot;
use landfall_protocol::weight::{CompactionRule, Weight, document_bytes};
use landfall_protocol::{DocumentId, Offset, SpaceName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::limits;
use crate::store::damage::damaged;
use crate::store::rows::actors::Actors;
use crate::store::rows::checked::{self};
use crate::store::rows::documents::head;
use crate::store::rows::documents::{self, Document, HEAVY};
use crate::store::rows::passed::PassedOver;
use crate::store::rows::schema::{broken, column, number};
use crate::store::rows::snapshots;
use crate::store::{CompactionInput, CompactionTask, CompactionWindow};

/// Bytes of changes, and their number, per read of a compaction.
const READ_BYTES: usize = 1024 * 1024;
const READ_ROWS: usize = 4_096;

const NEXT_DUE: &str = "SELECT space, id, due FROM document \
    WHERE due IS NOT NULL AND (space, due, id) > (?1, ?2, ?3) ORDER BY space, due, id LIMIT 1";

const AT_OR_AFTER: &str = "SELECT \"offset\", at_ms FROM entry \
    WHERE document = ?1 AND \"offset\" >= ?2 ORDER BY \"offset\" LIMIT 1";

const LAST_AT: &str = "SELECT max(\"offset\") FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 AND \"offset\" <= ?3";

const WEIGH: &str = "SELECT count(*), total(length(body)) FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 AND \"offset\" <= ?3";

const LENGTHS: &str = "SELECT \"offset\", length(body) FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 AND \"offset\" <= ?3 ORDER BY \"offset\"";

const READ: &str = "SELECT \"offset\", body, hash FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 AND \"offset\" <= ?3 ORDER BY \"offset\" LIMIT ?4";

/// The entries of a space that are outside the window.
struct Reach {
    through: u64,
    until_ms: u64,
    /// Later entries were written while the clock was wrong: their age is meaningless.
    future_ms: u64,
    snapshot_bytes: u64,
}

impl Reach {
    fn new(
        conn: &Connection,
        space: i64,
        now_ms: u64,
        window: CompactionWindow,
    ) -> rusqlite::Result<Self> {
        let CompactionWindow { recent_entries, recent_age, snapshot_bytes } = window;
        let through = head(conn, space)?.0.saturating_sub(recent_entries);
        // Without a minimum age, timestamps do not matter.
        let until_ms = match recent_age {
            Duration::ZERO => u64::MAX,
            age => now_ms.saturating_sub(millis(age)),
        };
        let future_ms = now_ms.saturating_add(millis(limits::CLOCK_SKEW));
        Ok(Self { through, until_ms, future_ms, snapshot_bytes })
    }

    fn has(&self, offset: u64, at_ms: u64) -> bool {
        offset <= self.through && (at_ms <= self.until_ms || at_ms > self.future_ms)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The first document that is due for compaction.
pub(super) fn candidate(
    conn: &Connection,
    now_ms: u64,
    window: CompactionWindow,
    passed: &mut PassedOver,
) -> rusqlite::Result<Option<CompactionTask>> {
    let mut next = conn.prepare_cached(NEXT_DUE)?;
    let mut last = (-1, i64::MAX, i64::MAX);
    loop {
        let due = |row: &Row<'_>| Ok((row.get(0)?, row.get(2)?, row.get(1)?));
        let found = next.query_row(params![last.0, last.1, last.2], due).optional()?;
        let Some((space, due, row)) = found else { return Ok(None) };
        let task = due_task(conn, (space, row, due), now_ms, window);
        last = match passed.unless(row, task)? {
            Some(Some(task)) => return Ok(Some(task)),
            // A heavy document ignores the window, so this says nothing about the later ones.
            Some(None) if u64::try_from(due) == Ok(HEAVY) => (space, due, row),
            // All later documents of the space are due at higher offsets, so skip to the next space.
            Some(None) => (space, i64::MAX, i64::MAX),
            None => (space, due, row),
        };
    }
}

/// The compaction of the first due document of a space.
fn due_task(
    conn: &Connection,
    (space, row, due): (i64, i64, i64),
    now_ms: u64,
    window: CompactionWindow,
) -> rusqlite::Result<Option<CompactionTask>> {
    let reach = Reach::new(conn, space, now_ms, window)?;
    let due = u64::try_from(due).map_err(|_| broken("a document is due at a negative offset"))?;
    if due == HEAVY {
        let all = CompactionWindow { recent_entries: 0, recent_age: Duration::ZERO, ..window };
        let reach = Reach::new(conn, space, now_ms, all)?;
        return of_document(conn, space, Document::at(conn, row)?, &reach);
    }
    // Reads the entry only if the offset is outside the window.
    if due > reach.through {
        return Ok(None);
    }
    match at_or_after(conn, row, due)? {
        Some((offset, at)) if reach.has(offset, at) => {
            of_document(conn, space, Document::at(conn, row)?, &reach)
        }
        _ => Ok(None),
    }
}

/// The compaction of one document.
pub(super) fn task(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    now_ms: u64,
    window: CompactionWindow,
) -> rusqlite::Result<Option<CompactionTask>> {
    let Some((space, found)) = documents::find(conn, name, document)? else { return Ok(None) };
    if found.tombstone.is_some() {
        return Ok(None);
    }
    let reach = Reach::new(conn, space, now_ms, window)?;
    of_document(conn, space, found, &reach)
}

fn at_or_after(
    conn: &Connection,
    document: i64,
    offset: u64,
) -> rusqlite::Result<Option<(u64, u64)>> {
    let mut find = conn.prepare_cached(AT_OR_AFTER)?;
    let place = |row: &Row<'_>| Ok((number(row, 0)?, number(row, 1)?));
    find.query_row(params![document, column(offset)?], place).optional()
}

fn of_document(
    conn: &Connection,
    space: i64,
    document: Document,
    reach: &Reach,
) -> rusqlite::Result<Option<CompactionTask>> {
    let Some(through) = last_compactable(conn, &document, reach)? else { return Ok(None) };
    let base = snapshots::current(conn, document.row)?;
    let base_bytes = base.as_ref().map_or(0, |base| base.bytes);
    let (mut through, mut tail) = (through, weigh(conn, &document, through)?);
    let mut is_oversized = false;
    if document_bytes(base_bytes, tail.changes, tail.bytes) > reach.snapshot_bytes {
        let cut = fitting(conn, &document, base_bytes, (through, reach.snapshot_bytes))?;
        let part = weigh(conn, &document, cut)?;
        let compacted =
            Weight { changes: document.compacted_changes, operations: 0, bytes: base_bytes };
        is_oversized = !CompactionRule::default().is_due(&compacted, &part);
        if !is_oversized {
            (through, tail) = (last_at(conn, &document, cut)?.unwrap_or(cut), part);
        }
    }
    let (changes, tail_bytes) = (tail.changes, tail.bytes);
    let mut name = conn.prepare_cached("SELECT name FROM space WHERE id = ?1")?;
    let name: String = name.query_row([space], |row| row.get(0))?;
    let name = SpaceName::try_from(name);
    Ok(Some(CompactionTask {
        space: name.map_err(|_| broken("a space's name is invalid"))?,
        document: document.id,
        through: Offset(through),
        changes,
        bytes: tail_bytes + base_bytes,
        is_oversized,
        has_base: base.is_some(),
        base: base.map(|base| (base.hash, Offset(base.offset))),
        tail_bytes,
    }))
}

/// The last entry of the tail outside the window, by binary search: timestamps ascend with offsets, except
/// where a clock was set back.
fn last_compactable(
    conn: &Connection,
    document: &Document,
    reach: &Reach,
) -> rusqlite::Result<Option<u64>> {
    // Everything up to `low` is outside the window; `high` is the first offset inside.
    let (mut low, mut high) = (document.compacted, reach.through.saturating_add(1));
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match at_or_after(conn, document.row, middle)? {
            Some((offset, at_ms)) if offset < high && reach.has(offset, at_ms) => low = offset,
            _ => high = middle,
        }
    }
    last_at(conn, document, low)
}

/// The last entry of the tail up to an offset.
fn last_at(conn: &Connection, document: &Document, low: u64) -> rusqlite::Result<Option<u64>> {
    let key = params![document.row, column(document.compacted)?, column(low)?];
    // `max` over no rows is one row of NULL.
    conn.prepare_cached(LAST_AT)?
        .query_row(key, |row| crate::store::rows::schema::optional_number(row, 0))
}

/// The weight of the tail up to an offset.
fn weigh(conn: &Connection, document: &Document, through: u64) -> rusqlite::Result<Weight> {
    let key = params![document.row, column(document.compacted)?, column(through)?];
    conn.prepare_cached(WEIGH)?.query_row(key, |row| {
        let bytes: f64 = row.get(1)?;
        Ok(Weight { changes: number(row, 0)?, operations: 0, bytes: bytes as u64 })
    })
}

/// How far the tail can be compacted into a snapshot of at most `most` bytes, estimated from the sizes of its
/// changes. The snapshot will be smaller, and a later compaction takes the rest.
fn fitting(
    conn: &Connection,
    document: &Document,
    base_bytes: u64,
    (through, most): (u64, u64),
) -> rusqlite::Result<u64> {
    let mut find = conn.prepare_cached(LENGTHS)?;
    let key = params![document.row, column(document.compacted)?, column(through)?];
    let mut rows = find.query(key)?;
    let (mut fits, mut bytes) = (document.compacted, base_bytes);
    while let Some(row) = rows.next()? {
        bytes += document_bytes(0, 1, number(row, 1)?);
        if bytes > most {
            break;
        }
        fits = number(row, 0)?;
    }
    Ok(fits)
}

/// The document's row, if it is not deleted and still has the snapshot that the task was made from.
fn unchanged(
    conn: &Connection,
    task: &CompactionTask,
) -> rusqlite::Result<Option<(i64, Document)>> {
    let found = documents::find(conn, &task.space, &task.document)?;
    let Some((space, document)) = found.filter(|(_, found)| found.tombstone.is_none()) else {
        return Ok(None);
    };
    let base = match document.compacted {
        0 => None,
        _ => snapshots::current(conn, document.row)?,
    };
    let is_same = base.map(|base| (base.hash, Offset(base.offset))) == task.base;
    Ok(is_same.then_some((space, document)))
}

/// The next inputs of a compaction.
pub(super) struct Batch {
    pub(super) inputs: Vec<CompactionInput>,
    /// Where the next batch starts; `None` after the last.
    pub(super) next: Option<Offset>,
}

/// Reads the first batch (`after` is `None`) or a later one; `None` if the document has changed.
pub(super) fn batch(
    conn: &Connection,
    task: &CompactionTask,
    after: Option<Offset>,
) -> rusqlite::Result<Option<Batch>> {
    let Some((_, document)) = unchanged(conn, task)? else { return Ok(None) };
    let mut inputs = Vec::new();
    let after = match after {
        Some(after) => after.0,
        None => {
            inputs.extend(base(conn, &document)?);
            document.compacted
        }
    };
    let place = (document.row, after, task.through.0);
    let next = changes(conn, place, &mut inputs)?;
    Ok(Some(Batch { inputs, next: next.map(Offset) }))
}

fn base(conn: &Connection, document: &Document) -> rusqlite::Result<Option<CompactionInput>> {
    let Some(stored) = snapshots::current(conn, document.row)? else { return Ok(None) };
    stored.whole(conn, document.id).map(CompactionInput::Base).map(Some)
}

/// Reads the bodies of a document's tail in (after, through], up to one read's bounds; returns where to
/// continue, if more remain.
fn changes(
    conn: &Connection,
    (document, mut after, through): (i64, u64, u64),
    inputs: &mut Vec<CompactionInput>,
) -> rusqlite::Result<Option<u64>> {
    let mut read = conn.prepare_cached(READ)?;
    let key = params![document, column(after)?, column(through)?, READ_ROWS as i64];
    let mut rows = read.query(key)?;
    let (mut bytes, mut taken) = (0, 0);
    while let Some(row) = rows.next()? {
        let body: Vec<u8> = row.get(1)?;
        let tell = |what| damaged(None, number(row, 0).ok(), what);
        checked::body(&body, &row.get(2)?).map_err(tell)?;
        (after, bytes, taken) = (number(row, 0)?, bytes + body.len(), taken + 1);
        inputs.push(CompactionInput::Change(body));
        if bytes >= READ_BYTES {
            return Ok(Some(after));
        }
    }
    Ok((taken == READ_ROWS).then_some(after))
}

/// A task that reads a whole document; `None` if it has no entries.
pub(super) fn everything(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
) -> rusqlite::Result<Option<CompactionTask>> {
    let Some((space, found)) = documents::find(conn, name, document)? else { return Ok(None) };
    if found.tombstone.is_some() {
        return Ok(None);
    }
    let base = snapshots::current(conn, found.row)?;
    let base_bytes = base.as_ref().map_or(0, |base| base.bytes);
    Ok(Some(CompactionTask {
        space: name.clone(),
        document: *document,
        through: head(conn, space)?,
        changes: found.tail_changes,
        bytes: found.tail_bytes + base_bytes,
        is_oversized: false,
        has_base: base.is_some(),
        base: base.map(|base| (base.hash, Offset(base.offset))),
        tail_bytes: found.tail_bytes,
    }))
}

/// Replaces what the task read by a snapshot; false if the document has changed.
pub(super) fn commit(
    tx: &Connection,
    task: &CompactionTask,
    snapshot: &Snapshot,
    now_ms: u64,
) -> rusqlite::Result<bool> {
    let Some((space, mut document)) = unchanged(tx, task)? else { return Ok(false) };
    if snapshot.changes != document.compacted_changes + task.changes {
        return Err(broken("a snapshot with another number of changes than were read"));
    }
    let place = snapshots::SnapshotPosition { space, offset: task.through };
    snapshots::replace(tx, &mut Actors::new(tx), &mut document, place, snapshot, now_ms)?;
    document.tail_changes = document.tail_changes.saturating_sub(task.changes);
    document.tail_bytes = document.tail_bytes.saturating_sub(task.tail_bytes);
    document.reckon_due(tx)?;
    document.save(tx)?;
    tx.prepare_cached("DELETE FROM fold_failure WHERE document = ?1")?.execute([document.row])?;
    Ok(true)
}

/// Records that a compaction failed.
pub(super) fn failed(
    tx: &Connection,
    task: &CompactionTask,
    version: &str,
    reason: &str,
) -> rusqlite::Result<()> {
    let Some((_, mut document)) = unchanged(tx, task)? else { return Ok(()) };
    document.put_off();
    document.save(tx)?;
    let sql = "INSERT OR REPLACE INTO fold_failure (document, version, reason) VALUES (?1, ?2, ?3)";
    tx.prepare_cached(sql)?.execute(params![document.row, version, reason])?;
    Ok(())
}

/// Marks compactions that failed with another version as due.
pub(super) fn retry(tx: &Connection, version: &str) -> rusqlite::Result<()> {
    let mut find = tx.prepare_cached("SELECT document FROM fold_failure WHERE version <> ?1")?;
    let rows: Vec<i64> = find.query_map([version], |row| row.get(0))?.collect::<Result<_, _>>()?;
    // A damaged document is reported by the next read of it, and stays as it is here.
    let mut passed = PassedOver::default();
    rows.into_iter().try_for_each(|row| passed.unless(row, due_again(tx, row)).map(drop))
}

/// A document was repaired: retries its compaction if that had failed.
pub(super) fn retry_repaired(
    tx: &Connection,
    space: &SpaceName,
    document: &DocumentId,
) -> rusqlite::Result<()> {
    let Some((_, found)) = documents::find(tx, space, document)? else { return Ok(()) };
    let mut failed = tx.prepare_cached("SELECT 1 FROM fold_failure WHERE document = ?1")?;
    if failed.exists([found.row])? { due_again(tx, found.row) } else { Ok(()) }
}

fn due_again(tx: &Connection, row: i64) -> rusqlite::Result<()> {
    let mut document = Document::at(tx, row)?;
    document.reckon_due(tx)?;
    document.save(tx)?;
    tx.prepare_cached("DELETE FROM fold_failure WHERE document = ?1")?.execute([row])?;
    Ok(())
}
