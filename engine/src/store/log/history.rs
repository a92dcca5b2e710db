//! The log as admission sees it: the rows of the tail, then the snapshot's facts in SQL, then its
//! index. It only reads.

use std::cell::Cell;

use landfall_protocol::admission::{DocumentSize, History, KnownChange};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset};
use rusqlite::{Connection, OptionalExtension, params};

use super::indexes::Indexes;
use super::rows::{DocumentRow, SpaceRow, actor_row, document_row, hash_of, parts};
use super::snapshots::compacted_heads;

/// One space of the log, for the duration of one admission.
pub(super) struct StoredHistory<'a> {
    conn: &'a Connection,
    space: SpaceRow,
    indexes: &'a Indexes,
    /// The row that was looked up last: all queries of an admission are about one document.
    last: Cell<Option<(DocumentId, Option<DocumentRow>)>>,
}

impl<'a> StoredHistory<'a> {
    pub(in crate::store) fn new(
        conn: &'a Connection,
        space: SpaceRow,
        indexes: &'a Indexes,
    ) -> Self {
        Self { conn, space, indexes, last: Cell::new(None) }
    }

    fn row(&self, document: &DocumentId) -> rusqlite::Result<Option<DocumentRow>> {
        if let Some((last, row)) = self.last.get()
            && last == *document
        {
            return Ok(row);
        }
        let row = document_row(self.conn, self.space, document)?;
        self.last.set(Some((*document, row)));
        Ok(row)
    }

    /// The sequence number and hash of an actor's last compacted change.
    fn last_compacted(
        &self,
        document: DocumentRow,
        actor: i64,
    ) -> rusqlite::Result<Option<(u64, ChangeHash)>> {
        self.conn
            .prepare_cached(
                "SELECT seq, hash FROM folded_actor WHERE document = ?1 AND actor = ?2",
            )?
            .query_row(params![document.0, actor], |row| Ok((row.get(0)?, hash_of(row.get(1)?))))
            .optional()
    }
}

/// Rows of compacted changes may still exist until they are swept: their contents are still valid.
impl History for StoredHistory<'_> {
    type Error = rusqlite::Error;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> rusqlite::Result<Option<u64>> {
        let Some(document) = self.row(document)? else { return Ok(None) };
        let Some(actor) = actor_row(self.conn, actor)? else { return Ok(None) };
        let last: Option<u64> = self
            .conn
            .prepare_cached("SELECT max(seq) FROM change WHERE document = ?1 AND actor = ?2")?
            .query_row(params![document.0, actor], |row| row.get(0))?;
        let compacted = self.last_compacted(document, actor)?.map(|(seq, _)| seq);
        Ok(last.max(compacted))
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> rusqlite::Result<Option<KnownChange>> {
        let Some(document) = self.row(document)? else { return Ok(None) };
        let Some(row) = actor_row(self.conn, actor)? else { return Ok(None) };
        let known = |row: &rusqlite::Row<'_>| {
            Ok(KnownChange { hash: hash_of(row.get(0)?), position: Offset(row.get(1)?) })
        };
        let in_tail = self
            .conn
            .prepare_cached(
                "SELECT hash, local FROM change WHERE document = ?1 AND actor = ?2 AND seq = ?3",
            )?
            .query_row(params![document.0, row, sequence], known)
            .optional()?;
        if in_tail.is_some() {
            return Ok(in_tail);
        }
        let Some((last, hash)) = self.last_compacted(document, row)? else { return Ok(None) };
        let position = Offset(parts(self.conn, document)?.base);
        if sequence == last {
            return Ok(Some(KnownChange { hash, position }));
        }
        if sequence > last {
            return Ok(None);
        }
        let index = self.indexes.of(self.conn, document)?;
        let hash = index.and_then(|index| index.at(actor, sequence));
        Ok(hash.map(|hash| KnownChange { hash, position }))
    }

    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> rusqlite::Result<Option<u64>> {
        let Some(document) = self.row(document)? else { return Ok(None) };
        let in_tail = self
            .conn
            .prepare_cached("SELECT max_op FROM change WHERE document = ?1 AND hash = ?2")?
            .query_row(params![document.0, hash.0], |row| row.get(0))
            .optional()?;
        if in_tail.is_some() {
            return Ok(in_tail);
        }
        let heads = compacted_heads(self.conn, document)?;
        if let Some((_, max_op)) = heads.iter().find(|(head, _)| head == hash) {
            return Ok(Some(*max_op));
        }
        if heads.is_empty() {
            return Ok(None);
        }
        let index = self.indexes.of(self.conn, document)?;
        Ok(index.and_then(|index| index.find(hash)).map(|found| found.max_op))
    }

    fn deleted_at(&self, document: &DocumentId) -> rusqlite::Result<Option<Offset>> {
        let Some(document) = self.row(document)? else { return Ok(None) };
        self.conn
            .prepare_cached("SELECT local FROM deleted WHERE document = ?1")?
            .query_row([document.0], |row| row.get(0).map(Offset))
            .optional()
    }

    fn has_changes(&self, document: &DocumentId) -> rusqlite::Result<bool> {
        let Some(document) = self.row(document)? else { return Ok(false) };
        Ok(parts(self.conn, document)?.changes() > 0)
    }

    fn size(&self, document: &DocumentId) -> rusqlite::Result<DocumentSize> {
        let Some(document) = self.row(document)? else { return Ok(DocumentSize::default()) };
        let parts = parts(self.conn, document)?;
        let (bytes, changes, operations) = (parts.bytes(), parts.changes(), parts.operations);
        // Callers that need the number of heads read `heads`.
        let lasting_bytes = parts.snapshot_bytes + DocumentSize::lasting(parts.tail_bytes);
        Ok(DocumentSize { bytes, lasting_bytes, changes, operations, heads: 0 })
    }

    fn heads(&self, document: &DocumentId) -> rusqlite::Result<u64> {
        let Some(document) = self.row(document)? else { return Ok(0) };
        self.conn
            .prepare_cached("SELECT count(*) FROM head WHERE document = ?1")?
            .query_row([document.0], |row| row.get(0))
    }

    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> rusqlite::Result<bool> {
        let Some(document) = self.row(document)? else { return Ok(false) };
        self.conn
            .prepare_cached("SELECT 1 FROM head WHERE document = ?1 AND hash = ?2")?
            .exists(params![document.0, hash.0])
    }
}
