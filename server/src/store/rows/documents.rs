//! The current state of a document, as one row: read once by each commit that touches it, changed in memory,
//! written once.

use landfall_protocol::digest::DigestEntry;
use landfall_protocol::heads;
use landfall_protocol::weight::{CompactionRule, Weight};
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::limits::COMPACTION_OPERATIONS_IN_A_BYTE;
use crate::store::damage::damaged;
use crate::store::rows::schema::{column, document_id, hashes, number, optional_number};

const FIND: &str = "SELECT id, document, heads, leaf, tail_changes, tail_bytes, folded, \
    folded_changes, tombstone, fold_at, due, dead, operations FROM document WHERE space = ?1 AND document = ?2";

const AT: &str = "SELECT id, document, heads, leaf, tail_changes, tail_bytes, folded, \
    folded_changes, tombstone, fold_at, due, dead, operations FROM document WHERE id = ?1";

/// A document's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Document {
    pub(in crate::store) row: i64,
    pub(in crate::store) id: DocumentId,
    /// Ascending; empty for a deleted document.
    pub(in crate::store) heads: Vec<[u8; 32]>,
    /// Its digest entry; `None` while it has neither heads nor a tombstone.
    pub(in crate::store) digest_entry: Option<DigestEntry>,
    /// Live changes after the snapshot.
    pub(in crate::store) tail_changes: u64,
    pub(in crate::store) tail_bytes: u64,
    /// The snapshot's offset; 0 if there is none.
    pub(in crate::store) compacted: u64,
    pub(in crate::store) compacted_changes: u64,
    pub(in crate::store) tombstone: Option<u64>,
    /// The number of tail changes at which compaction is due.
    compact_at: u64,
    /// The offset at which compaction first became due, or [`HEAVY`]; `None` while it is not.
    pub(in crate::store) due: Option<u64>,
    /// Whether it has dead rows to delete.
    pub(in crate::store) dead: bool,
    /// Operations of all its changes, as admission counts them; a lower bound.
    pub(in crate::store) operations: u64,
    /// The columns that a change alone does not modify, as stored.
    kept: StableColumns,
}

/// The `due` of a heavy document: few changes with many operations, compacted at any age. No entry has this
/// offset, and it sorts before all others of its space.
pub(in crate::store) const HEAVY: u64 = 0;

/// A commit with fewer operations does not check whether a document has become heavy.
const LOOKED_AT: u64 = limits::COMPACTION_MIN_OPERATIONS / 64;

/// The operations that a commit adds to a document's tail.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::store) struct Added {
    pub(in crate::store) operations: u64,
    /// The counter of the last one.
    pub(in crate::store) max_op: u64,
}

/// The columns that a change alone does not modify: `folded`, `folded_changes`, `tombstone`, `fold_at`,
/// `due`, `dead`.
type StableColumns = (u64, u64, Option<u64>, u64, Option<u64>, bool);

impl Document {
    fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let digest_entry: Option<[u8; 16]> = row.get(3)?;
        let mut document = Self {
            row: row.get(0)?,
            id: document_id(row, 1)?,
            heads: hashes(row, 2)?,
            digest_entry: digest_entry.map(DigestEntry::from_bytes),
            tail_changes: number(row, 4)?,
            tail_bytes: number(row, 5)?,
            compacted: number(row, 6)?,
            compacted_changes: number(row, 7)?,
            tombstone: optional_number(row, 8)?,
            compact_at: number(row, 9)?,
            due: optional_number(row, 10)?,
            dead: row.get(11)?,
            operations: number(row, 12)?,
            kept: StableColumns::default(),
        };
        document.kept = document.kept_now();
        Ok(document)
    }

    fn kept_now(&self) -> StableColumns {
        let Self { compacted, compacted_changes, tombstone, compact_at, due, dead, .. } = *self;
        (compacted, compacted_changes, tombstone, compact_at, due, dead)
    }

    /// Reads a document's row by space and id.
    pub(in crate::store) fn find(
        conn: &Connection,
        space: i64,
        document: &DocumentId,
    ) -> rusqlite::Result<Option<Self>> {
        let key = params![space, document.as_bytes()];
        conn.prepare_cached(FIND)?.query_row(key, Self::of_row).optional()
    }

    /// Reads a document's row by row id.
    pub(in crate::store) fn at(conn: &Connection, row: i64) -> rusqlite::Result<Self> {
        conn.prepare_cached(AT)?.query_row([row], Self::of_row)
    }

    /// Inserts the row of a document without entries.
    pub(in crate::store) fn insert(
        conn: &Connection,
        space: i64,
        document: &DocumentId,
    ) -> rusqlite::Result<Self> {
        let sql = "INSERT INTO document (space, document) VALUES (?1, ?2)";
        let row = conn.prepare_cached(sql)?.insert(params![space, document.as_bytes()])?;
        Ok(Self {
            row,
            id: *document,
            heads: Vec::new(),
            digest_entry: None,
            tail_changes: 0,
            tail_bytes: 0,
            compacted: 0,
            compacted_changes: 0,
            tombstone: None,
            compact_at: 0,
            due: None,
            dead: false,
            operations: 0,
            kept: StableColumns::default(),
        })
    }

    /// Writes the row: always the columns that are in no index, the others only if they changed.
    pub(in crate::store) fn save(&self, conn: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE document SET heads = ?2, leaf = ?3, tail_changes = ?4, tail_bytes = ?5, \
            operations = ?6 WHERE id = ?1";
        conn.prepare_cached(sql)?.execute(params![
            self.row,
            self.heads.as_flattened(),
            self.digest_entry.map(DigestEntry::to_bytes),
            column(self.tail_changes)?,
            column(self.tail_bytes)?,
            column(self.operations)?,
        ])?;
        if self.kept_now() == self.kept {
            return Ok(());
        }
        let sql = "UPDATE document SET folded = ?2, folded_changes = ?3, tombstone = ?4, \
            fold_at = ?5, due = ?6, dead = ?7 WHERE id = ?1";
        conn.prepare_cached(sql)?.execute(params![
            self.row,
            column(self.compacted)?,
            column(self.compacted_changes)?,
            self.tombstone.map(column).transpose()?,
            column(self.compact_at)?,
            self.due.map(column).transpose()?,
            self.dead,
        ])?;
        Ok(())
    }

    /// Appends a change to the tail's counters and the heads.
    pub(in crate::store) fn add_change(
        &mut self,
        hash: [u8; 32],
        dependencies: &[[u8; 32]],
        bytes: usize,
    ) {
        heads::advance(&mut self.heads, dependencies.iter().copied(), hash);
        self.tail_changes += 1;
        self.tail_bytes += bytes as u64;
    }

    /// The digest entry that follows from the current state.
    pub(in crate::store) fn digest_entry_now(&self) -> Option<DigestEntry> {
        if self.tombstone.is_some() {
            return Some(DigestEntry::of_tombstone(&self.id));
        }
        let heads: Vec<ChangeHash> = self.heads.iter().copied().map(ChangeHash).collect();
        (!heads.is_empty()).then(|| DigestEntry::of_heads(&self.id, &heads))
    }

    /// Whether it has any change.
    pub(in crate::store) fn has_changes(&self) -> bool {
        self.tail_changes > 0 || self.compacted_changes > 0
    }

    /// Records `last` as due if compaction has just become due. `added`: the operations just added.
    pub(in crate::store) fn note_due(
        &mut self,
        conn: &Connection,
        last: Offset,
        added: Added,
    ) -> rusqlite::Result<()> {
        if self.tail_changes < self.compact_at {
            return Ok(());
        }
        if self.due.is_none() && self.is_worthwhile() {
            self.due = Some(last.0);
        }
        // The check reads rows, so skip it for typing: each change adds few operations.
        let looks =
            added.operations >= LOOKED_AT && self.operations >= limits::COMPACTION_MIN_OPERATIONS;
        if looks && self.due != Some(HEAVY) && self.is_heavy(conn, added.max_op)? {
            self.due = Some(HEAVY);
        }
        Ok(())
    }

    /// Whether the tail is worth compacting, by its number of changes.
    fn is_worthwhile(&self) -> bool {
        let weight = |changes| Weight { changes, ..Weight::default() };
        CompactionRule::default()
            .is_due(&weight(self.compacted_changes), &weight(self.tail_changes))
    }

    /// Whether few changes are worth compacting by their operations, the last of which has counter `max_op`.
    /// The relay loads no document, but a client that opens one for the first time does: automerge takes some
    /// four times as long to apply a pasted text as to load it from a snapshot. The tail's bytes must be
    /// plausible for the operations: a change of 64 bytes can claim a million, at the compactor's cost.
    fn is_heavy(&self, conn: &Connection, max_op: u64) -> rusqlite::Result<bool> {
        let sql = "SELECT coalesce(max(max_op), 0) FROM folded_actor WHERE document = ?1";
        let compacted = conn.prepare_cached(sql)?.query_row([self.row], |row| number(row, 0))?;
        let operations = max_op.saturating_sub(compacted);
        let compacted = Weight { changes: self.compacted_changes, operations: compacted, bytes: 0 };
        let tail = Weight { changes: self.tail_changes, operations, bytes: 0 };
        let are_real = self.tail_bytes >= operations / COMPACTION_OPERATIONS_IN_A_BYTE;
        Ok(are_real && CompactionRule::default().is_heavy(&compacted, &tail))
    }

    /// The number of tail changes at which compaction is worthwhile.
    fn worthwhile(&self) -> u64 {
        limits::COMPACTION_MIN_CHANGES
            .max(self.compacted_changes.div_ceil(limits::COMPACTION_SHARE))
    }

    /// Recomputes when compaction is due.
    pub(in crate::store) fn reckon_due(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        (self.compact_at, self.due) = (0, None);
        if self.tombstone.is_some() || self.tail_changes == 0 {
            return Ok(());
        }
        let sql =
            "SELECT coalesce(max(max_op), 0) FROM entry WHERE document = ?1 AND \"offset\" > ?2";
        let key = params![self.row, column(self.compacted)?];
        let max_op = conn.prepare_cached(sql)?.query_row(key, |row| number(row, 0))?;
        if max_op >= limits::COMPACTION_MIN_OPERATIONS && self.is_heavy(conn, max_op)? {
            self.due = Some(HEAVY);
            return Ok(());
        }
        if !self.is_worthwhile() {
            return Ok(());
        }
        let enough = self.worthwhile();
        let sql = "SELECT \"offset\" FROM entry WHERE document = ?1 AND \"offset\" > ?2 \
            ORDER BY \"offset\" LIMIT 1 OFFSET ?3";
        let key = params![self.row, column(self.compacted)?, column(enough - 1)?];
        let mut find = conn.prepare_cached(sql)?;
        self.due = find.query_row(key, |row| number(row, 0)).optional()?;
        Ok(())
    }

    /// Postpones a failed compaction until the tail has doubled.
    pub(in crate::store) fn put_off(&mut self) {
        self.compact_at = self.tail_changes.saturating_mul(2).max(1);
        self.due = None;
    }
}

/// A space's row id; `None` before its first append. The name is compared with the row's: a damaged index
/// would otherwise answer with the documents of another space.
pub(in crate::store) fn space_row(
    conn: &Connection,
    name: &SpaceName,
) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT i.id, s.name IS ?1 FROM space i LEFT JOIN space s ON s.id = i.id \
        WHERE i.name = ?1";
    let mut find = conn.prepare_cached(sql)?;
    let found = find.query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match found {
        Some((_, false)) => Err(damaged(None, None, "a space whose index names another row")),
        found => Ok(found.map(|(row, _)| row)),
    }
}

/// The row id of a space's document, even if the row itself cannot be read.
pub(in crate::store) fn row_of(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
) -> rusqlite::Result<Option<i64>> {
    let Some(space) = space_row(conn, name)? else { return Ok(None) };
    let sql = "SELECT id FROM document WHERE space = ?1 AND document = ?2";
    let key = params![space, document.as_bytes()];
    conn.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()
}

/// A space's document, by the names of both.
pub(in crate::store) fn find(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
) -> rusqlite::Result<Option<(i64, Document)>> {
    let Some(space) = space_row(conn, name)? else { return Ok(None) };
    Ok(Document::find(conn, space, document)?.map(|found| (space, found)))
}

/// The last offset of a log, whether or not its entry still exists.
pub(in crate::store) fn head(conn: &Connection, space: i64) -> rusqlite::Result<Offset> {
    let mut find = conn.prepare_cached("SELECT head FROM space WHERE id = ?1")?;
    find.query_row([space], |row| number(row, 0)).map(Offset)
}

/// Reads a space's name from its row.
pub(in crate::store) fn space_name(text: String) -> rusqlite::Result<SpaceName> {
    SpaceName::try_from(text)
        .map_err(|_| crate::store::rows::schema::broken("a space's name is invalid"))
}
