//! Rows and their values: the statements that several jobs share.

use landfall_protocol::admission::CheckedChange;
use landfall_protocol::digest::DigestEntry;
use landfall_protocol::weight::{Weight, document_bytes};
use landfall_protocol::{ActorId, ChangeHash, DocumentId};
use rusqlite::{Connection, OptionalExtension, params};

/// The row of a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SpaceRow(pub(in crate::store) i64);

/// The row of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DocumentRow(pub(in crate::store) i64);

/// The row of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpstreamRow(pub(in crate::store) i64);

pub(in crate::store) fn document_row(
    conn: &Connection,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<Option<DocumentRow>> {
    conn.prepare_cached("SELECT id FROM document WHERE space = ?1 AND document = ?2")?
        .query_row(params![space.0, document.as_bytes()], |row| row.get(0).map(DocumentRow))
        .optional()
}

pub(in crate::store) fn document_row_or_new(
    conn: &Connection,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<DocumentRow> {
    if let Some(row) = document_row(conn, space, document)? {
        return Ok(row);
    }
    conn.prepare_cached("INSERT INTO document (space, document) VALUES (?1, ?2)")?
        .execute(params![space.0, document.as_bytes()])?;
    Ok(DocumentRow(conn.last_insert_rowid()))
}

pub(super) fn actor_row(conn: &Connection, actor: &ActorId) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT id FROM actor WHERE actor = ?1")?
        .query_row([actor.to_bytes()], |row| row.get(0))
        .optional()
}

pub(in crate::store) fn actor_row_or_new(
    conn: &Connection,
    actor: &ActorId,
) -> rusqlite::Result<i64> {
    if let Some(row) = actor_row(conn, actor)? {
        return Ok(row);
    }
    conn.prepare_cached("INSERT INTO actor (actor) VALUES (?1)")?.execute([actor.to_bytes()])?;
    Ok(conn.last_insert_rowid())
}

/// The document's id.
pub(in crate::store) fn document_id(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<DocumentId> {
    conn.prepare_cached("SELECT document FROM document WHERE id = ?1")?
        .query_row([document.0], |row| row.get(0).map(DocumentId::from_bytes))
}

/// Whether the application wants unrelated histories of a document merged.
pub(in crate::store) fn merges(
    conn: &Connection,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM document WHERE space = ?1 AND document = ?2 AND merges = 1")?
        .exists(params![space.0, document.as_bytes()])
}

/// The counts in a space's row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpaceTotals {
    /// The last local sequence number.
    pub(crate) last: u64,
    /// Live changes, including those in snapshots; each deletion counts as one.
    pub(crate) changes: u64,
    /// The bytes of changes and snapshots.
    pub(crate) bytes: u64,
    /// Changes and deletions that were ever added. It only increases.
    pub(crate) added: u64,
    /// The last local number that was given to a change which had a lower one, or to a snapshot that
    /// replaced such changes: a wait for everything up to a lower number includes this number.
    pub(crate) moved: u64,
}

impl SpaceTotals {
    /// Updates the totals for a document that changed from `before` to `after`.
    fn follow(&mut self, before: &DocumentCounts, after: &DocumentCounts) {
        self.added += after.changes().saturating_sub(before.changes());
        self.changes = (self.changes + after.changes()).saturating_sub(before.changes());
        self.bytes = (self.bytes + after.bytes()).saturating_sub(before.bytes());
    }
}

pub(in crate::store) fn space_totals(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<SpaceTotals> {
    conn.prepare_cached("SELECT last, changes, bytes, added, moved FROM space WHERE id = ?1")?
        .query_row([space.0], |row| {
            let (last, changes, bytes) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(SpaceTotals { last, changes, bytes, added: row.get(3)?, moved: row.get(4)? })
        })
}

/// Whether the space exists.
pub(in crate::store) fn is_space(conn: &Connection, space: SpaceRow) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM space WHERE id = ?1")?.exists([space.0])
}

/// Entries of a space beside its log. Triggers count them (`schema/status.rs`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct SpaceWaiting {
    /// Deferred entries.
    pub(in crate::store) deferred_entries: u64,
    /// Those of them that wait for dependencies.
    pub(in crate::store) deferred_waiting: u64,
    /// Those of them that stand for entries which the relay cannot read.
    pub(in crate::store) deferred_damaged: u64,
    /// Superseded changes of documents that are not deleted.
    pub(in crate::store) superseded_changes: u64,
    pub(in crate::store) superseded_bytes: u64,
}

pub(in crate::store) fn space_waiting(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<SpaceWaiting> {
    conn.prepare_cached(
        "SELECT aside_entries, aside_waiting, displaced_changes, displaced_bytes, aside_damaged
         FROM space WHERE id = ?1",
    )?
    .query_row([space.0], |row| {
        Ok(SpaceWaiting {
            deferred_entries: row.get(0)?,
            deferred_waiting: row.get(1)?,
            superseded_changes: row.get(2)?,
            superseded_bytes: row.get(3)?,
            deferred_damaged: row.get(4)?,
        })
    })
}

pub(in crate::store) fn set_space_totals(
    conn: &Connection,
    space: SpaceRow,
    totals: SpaceTotals,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE space SET last = ?2, changes = ?3, bytes = ?4, added = ?5, moved = ?6
         WHERE id = ?1",
    )?
    .execute(params![
        space.0,
        totals.last,
        totals.changes,
        totals.bytes,
        totals.added,
        totals.moved
    ])?;
    Ok(())
}

/// The counts of a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct DocumentCounts {
    /// Rows of `change` at or below this local number are dead.
    pub(in crate::store) base: u64,
    pub(in crate::store) tail_changes: u64,
    pub(in crate::store) tail_bytes: u64,
    pub(in crate::store) compacted_changes: u64,
    pub(in crate::store) snapshot_bytes: u64,
    /// Operations of the whole document, as admission counts them; a lower bound.
    pub(in crate::store) operations: u64,
    /// The last operation counter of the whole document.
    pub(in crate::store) counter: u64,
    /// The last operation counter of the snapshot.
    pub(in crate::store) compacted_counter: u64,
}

impl DocumentCounts {
    pub(in crate::store) fn changes(&self) -> u64 {
        self.tail_changes + self.compacted_changes
    }

    pub(in crate::store) fn bytes(&self) -> u64 {
        self.tail_bytes + self.snapshot_bytes
    }

    /// The weight of the snapshot.
    pub(in crate::store) fn compacted(&self) -> Weight {
        let (changes, bytes) = (self.compacted_changes, self.snapshot_bytes);
        Weight { changes, operations: self.compacted_counter, bytes }
    }

    /// Its bytes as limits count them.
    pub(in crate::store) fn document_bytes(&self) -> u64 {
        document_bytes(self.snapshot_bytes, self.tail_changes, self.tail_bytes)
    }
}

fn parts_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<DocumentCounts> {
    Ok(DocumentCounts {
        base: row.get(0)?,
        tail_changes: row.get(1)?,
        tail_bytes: row.get(2)?,
        compacted_changes: row.get(3)?,
        snapshot_bytes: row.get(4)?,
        operations: row.get(5)?,
        counter: row.get(6)?,
        compacted_counter: row.get(7)?,
    })
}

pub(in crate::store) fn parts(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<DocumentCounts> {
    conn.prepare_cached(
        "SELECT base, tail_changes, tail_bytes, folded_changes, folded_bytes, operations,
             counter, folded_counter FROM document WHERE id = ?1",
    )?
    .query_row([document.0], parts_of)
}

/// A document's row with its counts and its digest entry; it is created if it is missing.
pub(super) fn document_or_new(
    conn: &Connection,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<(DocumentRow, DocumentCounts, Option<DigestEntry>)> {
    let found = conn
        .prepare_cached(
            "SELECT base, tail_changes, tail_bytes, folded_changes, folded_bytes, operations,
                 counter, folded_counter, leaf, id
             FROM document WHERE space = ?1 AND document = ?2",
        )?
        .query_row(params![space.0, document.as_bytes()], |row| {
            let digest_entry = row.get::<_, Option<[u8; 16]>>(8)?.map(DigestEntry::from_bytes);
            Ok((DocumentRow(row.get(9)?), parts_of(row)?, digest_entry))
        })
        .optional()?;
    match found {
        Some(found) => Ok(found),
        None => Ok((document_row_or_new(conn, space, document)?, DocumentCounts::default(), None)),
    }
}

/// Writes a document's counts, and updates its space's totals.
pub(in crate::store) fn set_parts(
    conn: &Connection,
    totals: &mut SpaceTotals,
    document: DocumentRow,
    before: &DocumentCounts,
    after: &DocumentCounts,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE document SET base = ?2, tail_changes = ?3, tail_bytes = ?4, folded_changes = ?5,
             folded_bytes = ?6, operations = ?7, counter = ?8, folded_counter = ?9
         WHERE id = ?1",
    )?
    .execute(params![
        document.0,
        after.base,
        after.tail_changes,
        after.tail_bytes,
        after.compacted_changes,
        after.snapshot_bytes,
        after.operations,
        after.counter,
        after.compacted_counter,
    ])?;
    totals.follow(before, after);
    Ok(())
}

/// Marks the rows of a document up to a local number as removable. A mark only increases, and is never
/// set beyond rows that are needed.
pub(in crate::store) fn sweep_through(
    conn: &Connection,
    document: DocumentRow,
    local: u64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE document SET sweep_through = max(sweep_through, ?2) WHERE id = ?1",
    )?
    .execute(params![document.0, local])?;
    Ok(())
}

/// As [`set_parts`], for a document that grows at its end; with its digest entry.
pub(super) fn set_tail(
    conn: &Connection,
    totals: &mut SpaceTotals,
    document: DocumentRow,
    (before, after): (&DocumentCounts, &DocumentCounts),
    digest_entry: Option<DigestEntry>,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE document SET tail_changes = ?2, tail_bytes = ?3, leaf = ?4, operations = ?5,
             counter = ?6
         WHERE id = ?1",
    )?
    .execute(params![
        document.0,
        after.tail_changes,
        after.tail_bytes,
        digest_entry.map(DigestEntry::to_bytes),
        after.operations,
        after.counter,
    ])?;
    totals.follow(before, after);
    Ok(())
}

/// One change for the log.
pub(in crate::store) struct NewChange<'a> {
    pub(in crate::store) space: SpaceRow,
    pub(in crate::store) local: u64,
    pub(in crate::store) document: DocumentRow,
    pub(in crate::store) change: &'a CheckedChange,
    /// The replica that pushed it to the relay; `None` for a local change.
    pub(in crate::store) author: Option<&'a [u8]>,
    pub(in crate::store) at_ms: u64,
}

pub(in crate::store) fn insert_change(
    conn: &Connection,
    new: &NewChange<'_>,
) -> rusqlite::Result<()> {
    let actor = actor_row_or_new(conn, &new.change.actor)?;
    conn.prepare_cached(
        "INSERT INTO change
             (space, local, document, hash, actor, seq, max_op, author, at_ms, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        new.space.0,
        new.local,
        new.document.0,
        new.change.hash.0,
        actor,
        new.change.seq,
        new.change.max_op,
        new.author,
        new.at_ms,
        new.change.bytes,
    ])?;
    Ok(())
}

pub(in crate::store) fn hash_of(bytes: [u8; 32]) -> ChangeHash {
    ChangeHash(bytes)
}

pub(in crate::store) fn heads(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<Vec<ChangeHash>> {
    conn.prepare_cached("SELECT hash FROM head WHERE document = ?1 ORDER BY hash")?
        .query_map([document.0], |row| row.get(0).map(hash_of))?
        .collect()
}

/// The heads after a change was added to them.
pub(super) fn advance_heads(heads: &mut Vec<ChangeHash>, change: &CheckedChange) {
    landfall_protocol::heads::advance(heads, change.dependencies.iter().copied(), change.hash);
}

/// The local sequence number of a change in the tail, by its hash.
pub(in crate::store) fn local_of(
    conn: &Connection,
    document: DocumentRow,
    hash: &ChangeHash,
) -> rusqlite::Result<Option<u64>> {
    conn.prepare_cached(
        "SELECT c.local FROM change c JOIN document d ON d.id = c.document
         WHERE c.document = ?1 AND c.hash = ?2 AND c.local > d.base",
    )?
    .query_row(params![document.0, hash.0], |row| row.get(0))
    .optional()
}
