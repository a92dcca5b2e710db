//! The additions of one transaction to a space's log. Rows are written at once; heads, digest entries
//! and counts at its end.

use std::collections::BTreeMap;

use landfall_protocol::admission::{
    CheckedChange, History as _, HistoryError, Layered, Origin, Overlay, Roots, Verdict, admit_from,
};
use landfall_protocol::digest::DigestEntry;
use landfall_protocol::{ChangeHash, DocumentId, Offset};
use rusqlite::Connection;

use super::digests::{digest_entry_of, move_digest_entry, put_heads};
use super::history::StoredHistory;
use super::indexes::Indexes;
use super::rows::{
    DocumentCounts, DocumentRow, NewChange, SpaceRow, SpaceTotals, advance_heads, document_or_new,
    document_row_or_new, heads, insert_change, set_space_totals, set_tail, space_totals,
};

/// The state of one transaction in one space.
pub(in crate::store) struct LogTransaction<'a> {
    pub(in crate::store) conn: &'a Connection,
    pub(in crate::store) indexes: &'a Indexes,
    pub(in crate::store) space: SpaceRow,
    pub(in crate::store) totals: SpaceTotals,
    pub(super) overlay: Overlay,
    open: BTreeMap<DocumentId, Open>,
}

/// A document that the transaction adds to.
struct Open {
    row: DocumentRow,
    heads_before: Vec<ChangeHash>,
    heads: Vec<ChangeHash>,
    parts_before: DocumentCounts,
    parts: DocumentCounts,
    digest_entry: Option<DigestEntry>,
}

impl<'a> LogTransaction<'a> {
    pub(in crate::store) fn new(
        conn: &'a Connection,
        indexes: &'a Indexes,
        space: SpaceRow,
    ) -> rusqlite::Result<Self> {
        let totals = space_totals(conn, space)?;
        let (overlay, open) = (Overlay::default(), BTreeMap::new());
        Ok(Self { conn, indexes, space, totals, overlay, open })
    }

    /// Admits a change against the stored history and the additions of this transaction.
    pub(in crate::store) fn admit(
        &self,
        document: &DocumentId,
        change: &CheckedChange,
        roots: Roots,
        origin: Origin,
    ) -> rusqlite::Result<Result<Verdict, HistoryError>> {
        let stored = StoredHistory::new(self.conn, self.space, self.indexes);
        let history = Layered { overlay: &self.overlay, stored: &stored };
        admit_from(&history, document, change, roots, origin)
    }

    /// The next local sequence number.
    pub(in crate::store) fn next_local(&mut self) -> u64 {
        self.totals.last += 1;
        self.totals.last
    }

    /// Appends an admitted change; returns its local number.
    pub(in crate::store) fn append(
        &mut self,
        document: DocumentId,
        change: &CheckedChange,
        author: Option<&[u8]>,
        at_ms: u64,
    ) -> rusqlite::Result<u64> {
        let local = self.next_local();
        let (conn, space) = (self.conn, self.space);
        let open = self.open(&document)?;
        advance_heads(&mut open.heads, change);
        open.parts.tail_changes += 1;
        open.parts.tail_bytes += change.bytes.len() as u64;
        open.parts.operations += change.stored_operations;
        open.parts.counter = open.parts.counter.max(change.max_op);
        let row = open.row;
        insert_change(conn, &NewChange { space, local, document: row, change, author, at_ms })?;
        self.overlay.add(document, change, Offset(local));
        Ok(local)
    }

    /// The bytes, as limits count them, of a document that this transaction has added to.
    pub(in crate::store) fn document_bytes(&self, document: &DocumentId) -> u64 {
        self.open.get(document).map_or(0, |open| open.parts.document_bytes())
    }

    /// The row of a document, which is created if it is missing.
    pub(in crate::store) fn row(&self, document: &DocumentId) -> rusqlite::Result<DocumentRow> {
        match self.open.get(document) {
            Some(open) => Ok(open.row),
            None => document_row_or_new(self.conn, self.space, document),
        }
    }

    fn open(&mut self, document: &DocumentId) -> rusqlite::Result<&mut Open> {
        if !self.open.contains_key(document) {
            let (row, parts, digest_entry) = document_or_new(self.conn, self.space, document)?;
            let heads = heads(self.conn, row)?;
            let (heads_before, parts_before) = (heads.clone(), parts);
            let open = Open { row, heads_before, heads, parts_before, parts, digest_entry };
            self.open.insert(*document, open);
        }
        #[expect(clippy::expect_used, reason = "inserted above if it was not there")]
        Ok(self.open.get_mut(document).expect("open"))
    }

    /// Writes a document's collected state, so that SQL shows all of it; returns its row.
    pub(in crate::store) fn settle(
        &mut self,
        document: &DocumentId,
    ) -> rusqlite::Result<DocumentRow> {
        let Some(open) = self.open.remove(document) else { return self.row(document) };
        let digest_entry = digest_entry_of(document, &open.heads);
        put_heads(self.conn, open.row, &open.heads_before, &open.heads)?;
        let parts = (&open.parts_before, &open.parts);
        set_tail(self.conn, &mut self.totals, open.row, parts, digest_entry)?;
        move_digest_entry(self.conn, self.space, document, open.digest_entry, digest_entry)?;
        Ok(open.row)
    }

    /// Writes the collected state of all documents.
    pub(in crate::store) fn settle_all(&mut self) -> rusqlite::Result<()> {
        let open: Vec<DocumentId> = self.open.keys().copied().collect();
        open.iter().try_for_each(|document| self.settle(document).map(drop))
    }

    /// Whether a document has a change, in its tail or its snapshot.
    pub(in crate::store) fn knows(
        &self,
        document: &DocumentId,
        hash: &ChangeHash,
    ) -> rusqlite::Result<bool> {
        let stored = StoredHistory::new(self.conn, self.space, self.indexes);
        Ok(stored.max_op(document, hash)?.is_some())
    }

    /// Writes everything that is not written yet.
    pub(in crate::store) fn finish(mut self) -> rusqlite::Result<()> {
        self.settle_all()?;
        set_space_totals(self.conn, self.space, self.totals)
    }
}
