//! Rows and their values: the statements that several jobs share.

use landfall_protocol::admission::{CheckedChange, History, Known};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset};
use rusqlite::{Connection, OptionalExtension, params};

/// The row of a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SpaceRow(pub(super) i64);

/// The row of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DocumentRow(pub(super) i64);

/// The row of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpstreamRow(pub(super) i64);

pub(super) fn document_row(
    conn: &Connection,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<Option<DocumentRow>> {
    conn.prepare_cached("SELECT id FROM document WHERE space = ?1 AND document = ?2")?
        .query_row(params![space.0, document.as_bytes()], |row| row.get(0).map(DocumentRow))
        .optional()
}

pub(super) fn document_row_or_new(
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

fn actor_row(conn: &Connection, actor: &ActorId) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT id FROM actor WHERE actor = ?1")?
        .query_row([actor.to_bytes()], |row| row.get(0))
        .optional()
}

fn actor_row_or_new(conn: &Connection, actor: &ActorId) -> rusqlite::Result<i64> {
    if let Some(row) = actor_row(conn, actor)? {
        return Ok(row);
    }
    conn.prepare_cached("INSERT INTO actor (actor) VALUES (?1)")?.execute([actor.to_bytes()])?;
    Ok(conn.last_insert_rowid())
}

/// What a space's row says after a change of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpaceTotals {
    /// Changes held, which is also the last local sequence number.
    pub(crate) changes: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

pub(super) fn space_totals(conn: &Connection, space: SpaceRow) -> rusqlite::Result<SpaceTotals> {
    conn.prepare_cached("SELECT last, bytes FROM space WHERE id = ?1")?
        .query_row([space.0], |row| Ok(SpaceTotals { changes: row.get(0)?, bytes: row.get(1)? }))
}

pub(super) fn set_space_totals(
    conn: &Connection,
    space: SpaceRow,
    totals: SpaceTotals,
) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE space SET last = ?2, bytes = ?3 WHERE id = ?1")?
        .execute(params![space.0, totals.changes, totals.bytes])?;
    Ok(())
}

/// One change for the log.
pub(super) struct NewChange<'a> {
    pub(super) space: SpaceRow,
    pub(super) local: u64,
    pub(super) document: DocumentRow,
    pub(super) change: &'a CheckedChange,
    /// Who pushed it to the relay; `None` for one made here.
    pub(super) author: Option<&'a [u8]>,
    pub(super) at_ms: u64,
}

pub(super) fn insert_change(conn: &Connection, new: &NewChange<'_>) -> rusqlite::Result<()> {
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

fn hash_of(bytes: [u8; 32]) -> ChangeHash {
    ChangeHash(bytes)
}

pub(super) fn heads(conn: &Connection, document: DocumentRow) -> rusqlite::Result<Vec<ChangeHash>> {
    conn.prepare_cached("SELECT hash FROM head WHERE document = ?1 ORDER BY hash")?
        .query_map([document.0], |row| row.get(0).map(hash_of))?
        .collect()
}

pub(super) fn set_heads(
    conn: &Connection,
    document: DocumentRow,
    before: &[ChangeHash],
    after: &[ChangeHash],
) -> rusqlite::Result<()> {
    for gone in before.iter().filter(|hash| !after.contains(hash)) {
        conn.prepare_cached("DELETE FROM head WHERE document = ?1 AND hash = ?2")?
            .execute(params![document.0, gone.0])?;
    }
    for new in after.iter().filter(|hash| !before.contains(hash)) {
        conn.prepare_cached("INSERT INTO head (document, hash) VALUES (?1, ?2)")?
            .execute(params![document.0, new.0])?;
    }
    Ok(())
}

/// The heads after a change was added to them.
pub(super) fn advance_heads(heads: &mut Vec<ChangeHash>, change: &CheckedChange) {
    heads.retain(|head| !change.dependencies.contains(head));
    if let Err(place) = heads.binary_search(&change.hash) {
        heads.insert(place, change.hash);
    }
}

/// The local sequence number of a change, by its hash.
pub(super) fn local_of(
    conn: &Connection,
    document: DocumentRow,
    hash: &ChangeHash,
) -> rusqlite::Result<Option<u64>> {
    conn.prepare_cached("SELECT local FROM change WHERE document = ?1 AND hash = ?2")?
        .query_row(params![document.0, hash.0], |row| row.get(0))
        .optional()
}

/// The log as admission sees it: one space of it.
pub(super) struct StoredHistory<'a> {
    pub(super) conn: &'a Connection,
    pub(super) space: SpaceRow,
}

impl History for StoredHistory<'_> {
    type Error = rusqlite::Error;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> rusqlite::Result<Option<u64>> {
        let Some(document) = document_row(self.conn, self.space, document)? else {
            return Ok(None);
        };
        let Some(actor) = actor_row(self.conn, actor)? else { return Ok(None) };
        self.conn
            .prepare_cached("SELECT max(seq) FROM change WHERE document = ?1 AND actor = ?2")?
            .query_row(params![document.0, actor], |row| row.get(0))
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> rusqlite::Result<Option<Known>> {
        let Some(document) = document_row(self.conn, self.space, document)? else {
            return Ok(None);
        };
        let Some(actor) = actor_row(self.conn, actor)? else { return Ok(None) };
        let known = |row: &rusqlite::Row<'_>| {
            Ok(Known { hash: ChangeHash(row.get(0)?), position: Offset(row.get(1)?) })
        };
        self.conn
            .prepare_cached(
                "SELECT hash, local FROM change WHERE document = ?1 AND actor = ?2 AND seq = ?3",
            )?
            .query_row(params![document.0, actor, sequence], known)
            .optional()
    }

    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> rusqlite::Result<Option<u64>> {
        let Some(document) = document_row(self.conn, self.space, document)? else {
            return Ok(None);
        };
        self.conn
            .prepare_cached("SELECT max_op FROM change WHERE document = ?1 AND hash = ?2")?
            .query_row(params![document.0, hash.0], |row| row.get(0))
            .optional()
    }
}
