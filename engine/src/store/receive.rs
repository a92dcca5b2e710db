//! Writing what arrives: admitted like our own, with its cursor, in one transaction.

use std::collections::BTreeMap;

use landfall_protocol::admission::{CheckedChange, Layered, Overlay, Verdict, admit};
use landfall_protocol::frame::Entry;
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::replica::{Batch, Incoming};
use landfall_protocol::{ChangeHash, DocumentId, Offset};
use landfall_storage::{Durability, WriteError};
use rusqlite::{Connection, params};

use super::rows::{
    NewChange, StoredHistory, advance_heads, document_row, document_row_or_new, heads,
    insert_change, local_of, set_heads, set_space_totals, space_totals,
};
use super::{
    Committed, DocumentRow, LocalLog, SpaceCount, SpaceRow, SpaceTotals, UpstreamRow, count, held,
};

/// Why a batch was not written. The connection then begins again from what the store holds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the relay echoes change {0}, which this store does not hold")]
    UnknownEcho(ChangeHash),
    #[error("the entries follow offset {after}, the store's cursor is at {at}")]
    NotNext { at: Offset, after: Offset },
    #[error("no upstream is known")]
    NoUpstream,
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// A document that a batch added to.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) document: DocumentId,
    pub(crate) heads: Vec<ChangeHash>,
}

/// What a batch brought.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) touched: Vec<Touched>,
    /// Entries that were set aside, with the reason.
    pub(crate) aside: Vec<(DocumentId, String)>,
    pub(crate) count: SpaceCount,
}

impl LocalLog {
    /// Writes a batch and its cursor. Without an fsync of its own: a WAL survives as a prefix, so
    /// after a power cut the cursor and the entries are gone together, and come again.
    pub(crate) fn submit_received(
        &self,
        space: SpaceRow,
        batch: Batch,
        done: impl FnOnce(Result<Committed<Received>, WriteError<ReceiveError>>) + Send + 'static,
    ) {
        let upstream = self.upstream();
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = upstream.ok_or(ReceiveError::NoUpstream)?;
            let cursor = held::resume_point(tx, upstream, space)?.cursor;
            let at = cursor.map_or(Offset(0), |cursor| cursor.offset);
            if at != batch.after {
                // The batch before it failed, or a reset did. A cursor must never skip anything.
                return Err(ReceiveError::NotNext { at, after: batch.after });
            }
            let mut writing = Writing::new(tx, upstream, space)?;
            for incoming in batch.entries {
                writing.take(incoming)?;
            }
            writing.finish(&batch.cursor)
        };
        self.db.submit(Durability::Relaxed, job, done);
    }
}

/// The state of one batch's transaction.
struct Writing<'a> {
    conn: &'a Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    totals: SpaceTotals,
    overlay: Overlay,
    held: IntervalSet,
    documents: BTreeMap<DocumentId, Open>,
    aside: Vec<(DocumentId, String)>,
}

struct Open {
    row: DocumentRow,
    before: Vec<ChangeHash>,
    after: Vec<ChangeHash>,
}

impl<'a> Writing<'a> {
    fn new(conn: &'a Connection, upstream: UpstreamRow, space: SpaceRow) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            upstream,
            space,
            totals: space_totals(conn, space)?,
            overlay: Overlay::default(),
            held: IntervalSet::new(),
            documents: BTreeMap::new(),
            aside: Vec::new(),
        })
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), ReceiveError> {
        match incoming {
            Incoming::Change { offset, document, change, author, at_ms } => {
                self.change(offset, document, change, author, at_ms)
            }
            Incoming::Echo { document, hash } => self.echo(&document, hash),
            Incoming::Aside { entry, reason } => Ok(self.put_aside(&entry, reason.to_string())?),
        }
    }

    fn echo(&mut self, document: &DocumentId, hash: ChangeHash) -> Result<(), ReceiveError> {
        let row = document_row(self.conn, self.space, document)?;
        let local = match row {
            Some(row) => local_of(self.conn, row, &hash)?,
            None => None,
        };
        let local = local.ok_or(ReceiveError::UnknownEcho(hash))?;
        self.held.insert(local, local);
        Ok(())
    }

    fn change(
        &mut self,
        offset: Offset,
        document: DocumentId,
        change: CheckedChange,
        author: Vec<u8>,
        at_ms: u64,
    ) -> Result<(), ReceiveError> {
        let stored = StoredHistory { conn: self.conn, space: self.space };
        let history = Layered { overlay: &self.overlay, stored: &stored };
        match admit(&history, &document, &change)? {
            Ok(Verdict::Duplicate(known)) => {
                self.held.insert(known.position.0, known.position.0);
            }
            Ok(Verdict::New) => self.append(document, &change, &author, at_ms)?,
            Err(reason) => {
                let entry = Entry::of_change(offset, document, change, &author, at_ms);
                self.put_aside(&entry, reason.to_string())?;
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        document: DocumentId,
        change: &CheckedChange,
        author: &[u8],
        at_ms: u64,
    ) -> rusqlite::Result<()> {
        self.totals.changes += 1;
        self.totals.bytes += change.bytes.len() as u64;
        let local = self.totals.changes;
        if !self.documents.contains_key(&document) {
            let row = document_row_or_new(self.conn, self.space, &document)?;
            let before = heads(self.conn, row)?;
            self.documents.insert(document, Open { row, after: before.clone(), before });
        }
        let Some(open) = self.documents.get_mut(&document) else { return Ok(()) };
        advance_heads(&mut open.after, change);
        let (space, author, row) = (self.space, Some(author), open.row);
        insert_change(
            self.conn,
            &NewChange { space, local, document: row, change, author, at_ms },
        )?;
        self.overlay.add(document, change, Offset(local));
        self.held.insert(local, local);
        Ok(())
    }

    fn put_aside(&mut self, entry: &Entry, reason: String) -> rusqlite::Result<()> {
        let new = self
            .conn
            .prepare_cached(
                "INSERT OR IGNORE INTO aside (upstream, space, offset, document, kind, flags, hash,
                     dependencies, author, at_ms, body, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                self.upstream.0,
                self.space.0,
                entry.offset.0,
                entry.document.as_bytes(),
                entry.kind,
                entry.flags,
                entry.id,
                entry.dependencies.concat(),
                entry.author.as_slice(),
                entry.at_ms,
                entry.body.as_slice(),
                reason,
            ])?;
        // After a reset the same entries come again.
        if new > 0 {
            self.aside.push((entry.document, reason));
        }
        Ok(())
    }

    fn finish(self, cursor: &landfall_protocol::Cursor) -> Result<Received, ReceiveError> {
        let Self { conn, upstream, space, .. } = self;
        set_space_totals(conn, space, self.totals)?;
        let mut touched = Vec::with_capacity(self.documents.len());
        for (document, open) in self.documents {
            set_heads(conn, open.row, &open.before, &open.after)?;
            touched.push(Touched { document, heads: open.after });
        }
        held::hold(conn, upstream, space, &self.held)?;
        held::set_cursor(conn, upstream, space, cursor)?;
        let count = count(conn, Some(upstream), space)?;
        Ok(Received { touched, aside: self.aside, count })
    }
}
