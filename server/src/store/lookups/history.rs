//! The view that admission queries: the durable state of one space, within one read snapshot of the store.
//!
//! A change of the tail is a row. A compacted one is looked up where that is cheapest: the last change of
//! each actor and the snapshot's heads are rows too; all others are in the packed index, which may have to be
//! loaded first. A compacted change's position is its snapshot's.

use std::cell::RefCell;
use std::sync::Arc;

use landfall_protocol::admission::{DocumentSize, History, KnownChange};
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset, SpaceName};
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::StoreError;
use crate::store::damage::condition::{Operation, Recorder};
use crate::store::rows::documents::{Document, space_row};
use crate::store::rows::indexes::IndexCache;
use crate::store::rows::schema::{column, number};
use crate::store::rows::snapshots::{self, Stored};

const LAST_SEQUENCE: &str = "SELECT max(seq) FROM entry WHERE document = ?1 AND actor = ?2";

const AT_SEQUENCE: &str = "SELECT hash, \"offset\" FROM entry \
    WHERE document = ?1 AND actor = ?2 AND seq = ?3";

const MAX_OP: &str = "SELECT max_op FROM entry WHERE document = ?1 AND hash = ?2";

const COMPACTED: &str =
    "SELECT seq, hash, max_op FROM folded_actor WHERE document = ?1 AND actor = ?2";

/// A space within a read snapshot.
pub(in crate::store) struct SpaceView<'a> {
    conn: &'a Connection,
    /// `None` before the first append to the space.
    space: Option<i64>,
    indexes: &'a IndexCache,
    name: &'a SpaceName,
    found: &'a Recorder,
    /// The last document queried: one push queries one document.
    last: RefCell<Option<(DocumentId, Option<Arc<LiveDocument>>)>>,
    last_actor: RefCell<Option<(ActorId, Option<i64>)>>,
}

/// A document that exists and is not deleted.
struct LiveDocument {
    document: Document,
    snapshot: Option<Stored>,
}

/// The last compacted change of an actor.
struct Compacted {
    seq: u64,
    hash: ChangeHash,
}

impl<'a> SpaceView<'a> {
    pub(in crate::store) fn new(
        conn: &'a Connection,
        name: &'a SpaceName,
        indexes: &'a IndexCache,
        found: &'a Recorder,
    ) -> rusqlite::Result<Self> {
        let (last, last_actor) = (RefCell::new(None), RefCell::new(None));
        let space = space_row(conn, name)?;
        Ok(Self { conn, space, indexes, name, found, last, last_actor })
    }

    fn document(&self, document: &DocumentId) -> rusqlite::Result<Option<Arc<LiveDocument>>> {
        let mut last = self.last.borrow_mut();
        if let Some((_, found)) = last.as_ref().filter(|(id, _)| id == document) {
            return Ok(found.clone());
        }
        let found = match self.space {
            Some(space) => Document::find(self.conn, space, document)?,
            None => None,
        };
        let found = match found {
            Some(document) if document.compacted > 0 => {
                let snapshot = snapshots::current(self.conn, document.row)?;
                Some(Arc::new(LiveDocument { document, snapshot }))
            }
            found => found.map(|document| Arc::new(LiveDocument { document, snapshot: None })),
        };
        *last = Some((*document, found.clone()));
        Ok(found)
    }

    /// A document that is not deleted.
    fn present(&self, document: &DocumentId) -> rusqlite::Result<Option<Arc<LiveDocument>>> {
        Ok(self.document(document)?.filter(|found| found.document.tombstone.is_none()))
    }

    fn actor(&self, actor: &ActorId) -> rusqlite::Result<Option<i64>> {
        let mut last = self.last_actor.borrow_mut();
        if let Some((_, row)) = last.as_ref().filter(|(id, _)| id == actor) {
            return Ok(*row);
        }
        let mut find = self.conn.prepare_cached("SELECT id FROM actor WHERE actor = ?1")?;
        let row = find.query_row([actor.to_bytes()], |row| row.get(0)).optional()?;
        *last = Some((actor.clone(), row));
        Ok(row)
    }

    fn compacted(&self, found: &LiveDocument, actor: i64) -> rusqlite::Result<Option<Compacted>> {
        if found.document.compacted == 0 {
            return Ok(None);
        }
        let mut find = self.conn.prepare_cached(COMPACTED)?;
        let compacted = |row: &rusqlite::Row<'_>| {
            Ok(Compacted { seq: number(row, 0)?, hash: ChangeHash(row.get(1)?) })
        };
        find.query_row([found.document.row, actor], compacted).optional()
    }

    /// Records a failed read.
    fn failed<'b>(
        &'b self,
        document: &'b DocumentId,
    ) -> impl Fn(rusqlite::Error) -> StoreError + 'b {
        let what = "look up a document's history";
        let operation = Operation::of_document(what, self.name, document);
        move |error| self.found.note(operation, StoreError::of_sqlite(what, error))
    }

    fn index(
        &self,
        found: &LiveDocument,
        snapshot: &Stored,
    ) -> Result<Arc<PackedIndex>, StoreError> {
        let key = (found.document.row, snapshot.hash);
        self.indexes.get(&key).ok_or_else(|| StoreError::needs_index(found.document.id))
    }

    fn row_at(
        &self,
        found: &LiveDocument,
        actor: i64,
        seq: u64,
    ) -> rusqlite::Result<Option<KnownChange>> {
        let mut find = self.conn.prepare_cached(AT_SEQUENCE)?;
        let known = |row: &rusqlite::Row<'_>| {
            // A dead row that is not deleted yet has the position of the snapshot that replaces it.
            let offset = number(row, 1)?;
            let position = Offset(if offset <= found.document.compacted {
                found.document.compacted
            } else {
                offset
            });
            Ok(KnownChange { hash: ChangeHash(row.get(0)?), position })
        };
        find.query_row(params![found.document.row, actor, column(seq)?], known).optional()
    }
}

impl History for SpaceView<'_> {
    type Error = StoreError;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> Result<Option<u64>, StoreError> {
        let Some(found) = self.present(document).map_err(self.failed(document))? else {
            return Ok(None);
        };
        let Some(actor) = self.actor(actor).map_err(self.failed(document))? else {
            return Ok(None);
        };
        let mut last = self.conn.prepare_cached(LAST_SEQUENCE).map_err(self.failed(document))?;
        // `max` over no rows is one row of NULL.
        let sequence =
            |row: &rusqlite::Row<'_>| crate::store::rows::schema::optional_number(row, 0);
        let in_tail =
            last.query_row([found.document.row, actor], sequence).map_err(self.failed(document))?;
        // Dead rows that are not deleted yet may have lower sequence numbers than the snapshot.
        let compacted = self
            .compacted(&found, actor)
            .map_err(self.failed(document))?
            .map(|compacted| compacted.seq);
        Ok(in_tail.max(compacted))
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, StoreError> {
        let Some(found) = self.present(document).map_err(self.failed(document))? else {
            return Ok(None);
        };
        let Some(row) = self.actor(actor).map_err(self.failed(document))? else { return Ok(None) };
        if let Some(known) = self.row_at(&found, row, sequence).map_err(self.failed(document))? {
            return Ok(Some(known));
        }
        let compacted = self.compacted(&found, row).map_err(self.failed(document))?;
        let (Some(snapshot), Some(compacted)) = (&found.snapshot, compacted) else {
            return Ok(None);
        };
        let position = Offset(snapshot.offset);
        if sequence >= compacted.seq {
            let hash = compacted.hash;
            return Ok((sequence == compacted.seq).then_some(KnownChange { hash, position }));
        }
        let hash = self.index(&found, snapshot)?.at(actor, sequence);
        Ok(hash.map(|hash| KnownChange { hash, position }))
    }

    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, StoreError> {
        let Some(found) = self.present(document).map_err(self.failed(document))? else {
            return Ok(None);
        };
        let mut find = self.conn.prepare_cached(MAX_OP).map_err(self.failed(document))?;
        let key = params![found.document.row, hash.0];
        let in_tail =
            find.query_row(key, |row| number(row, 0)).optional().map_err(self.failed(document))?;
        let (None, Some(snapshot)) = (in_tail, &found.snapshot) else { return Ok(in_tail) };
        if let Ok(at) = snapshot.heads.binary_search_by_key(hash, |(head, _)| *head) {
            return Ok(Some(snapshot.heads[at].1));
        }
        Ok(self.index(&found, snapshot)?.find(hash).map(|found| found.max_op))
    }

    fn deleted_at(&self, document: &DocumentId) -> Result<Option<Offset>, StoreError> {
        let found = self.document(document).map_err(self.failed(document))?;
        Ok(found.and_then(|found| found.document.tombstone).map(Offset))
    }

    fn has_changes(&self, document: &DocumentId) -> Result<bool, StoreError> {
        let found = self.present(document).map_err(self.failed(document))?;
        Ok(found.is_some_and(|found| found.document.has_changes()))
    }

    fn size(&self, document: &DocumentId) -> Result<DocumentSize, StoreError> {
        let found = self.present(document).map_err(self.failed(document))?;
        Ok(found.map_or_else(DocumentSize::default, |found| {
            let Document { tail_bytes, tail_changes, compacted_changes, operations, .. } =
                found.document;
            let snapshot_bytes = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes);
            let heads = found.document.heads.len() as u64;
            let (bytes, changes) = (tail_bytes + snapshot_bytes, tail_changes + compacted_changes);
            let lasting_bytes = snapshot_bytes + DocumentSize::lasting(tail_bytes);
            DocumentSize { bytes, lasting_bytes, changes, operations, heads }
        }))
    }

    fn is_head(&self, document: &DocumentId, hash: &ChangeHash) -> Result<bool, StoreError> {
        let found = self.present(document).map_err(self.failed(document))?;
        Ok(found.is_some_and(|found| found.document.heads.binary_search(&hash.0).is_ok()))
    }
}
