//! Reads the store for documents, status and the link.

use landfall_protocol::client::OutboxChange;
use landfall_protocol::{ChangeHash, DocumentId, Local, SpaceName};
use rusqlite::params;

use super::actors;
use super::excess::{ExceededLimit, excesses};
use crate::store::log::rows::{document_row, heads, parts, space_totals};
use crate::store::log::snapshots::{SnapshotBase, base_after};
use crate::store::log::tombstones;
use crate::store::upstream::rejected::rejected_document;
use crate::store::upstream::{acked, outbox, pending, report};
use crate::store::{DocumentRow, LocalLog, Pending, Rejected, SpaceCount, SpaceRow, ViewError};

/// A stored change or snapshot of a document.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Its local number: later ones are greater.
    pub(crate) local: u64,
    /// A change; or, if `compacted`, an automerge document chunk.
    pub(crate) body: Vec<u8>,
    /// It stands for everything up to `local`, including changes that are not stored singly any more.
    /// It may be merged into a document that has part of it.
    pub(crate) compacted: bool,
    /// The hash that the body must have: a change's hash, or the SHA-256 of a snapshot. A body with
    /// another hash is damaged, and must not be shown.
    pub(crate) hash: [u8; 32],
}

/// The store's facts about one document.
#[derive(Debug, Default)]
pub(crate) struct DocumentFacts {
    /// Its changes; its deletion counts as one.
    pub(crate) changes: u64,
    /// Those of them that the upstream is not known to hold.
    pub(crate) pending: Pending,
    /// Why its changes are rejected, if they are.
    pub(crate) rejected: Option<Rejected>,
    /// How many actors have made changes of it.
    pub(crate) actors: u64,
    /// The last local sequence number of its space.
    pub(crate) last: u64,
    /// The limits that it exceeds.
    pub(crate) exceeded: Vec<ExceededLimit>,
}

impl LocalLog {
    /// Every space with its present counts.
    pub(crate) fn spaces(&self) -> Result<Vec<(SpaceName, SpaceRow, SpaceCount)>, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let upstream = whose.row(conn)?;
            let mut statement = conn.prepare("SELECT id, name FROM space ORDER BY name")?;
            let mut rows = statement.query([])?;
            let mut spaces = Vec::new();
            while let Some(row) = rows.next()? {
                let (space, name) = (SpaceRow(row.get(0)?), row.get::<_, String>(1)?);
                // A name was checked when it was written.
                if let Ok(name) = name.parse() {
                    spaces.push((name, space, report::count(conn, upstream, space)?));
                }
            }
            Ok(spaces)
        })
    }

    /// The rows of all spaces.
    pub(crate) fn space_rows(&self) -> Result<Vec<SpaceRow>, ViewError> {
        self.view(|conn| {
            conn.prepare_cached("SELECT id FROM space ORDER BY id")?
                .query_map([], |row| row.get(0).map(SpaceRow))?
                .collect()
        })
    }

    /// The upstream in use, if any was ever connected.
    #[cfg(test)]
    pub(crate) fn known_upstream(&self) -> Result<Option<landfall_protocol::Upstream>, ViewError> {
        self.view(|conn| {
            Ok(crate::store::upstream::links::last_attached(conn)?.map(|(_, upstream)| upstream))
        })
    }

    /// The documents of a space, in no particular order.
    pub(crate) fn documents(&self, space: SpaceRow) -> Result<Vec<DocumentId>, ViewError> {
        self.view(|conn| {
            conn.prepare_cached(
                "SELECT document FROM document
                 WHERE space = ?1 AND tail_changes + folded_changes > 0",
            )?
            .query_map([space.0], |row| row.get(0).map(DocumentId::from_bytes))?
            .collect()
        })
    }

    /// The row of a document; `None` if the store has no change of it, or it is deleted.
    pub(crate) fn document(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<Option<DocumentRow>, ViewError> {
        self.view(|conn| match document_row(conn, space, document)? {
            Some(row) if parts(conn, row)?.changes() > 0 => Ok(Some(row)),
            _ => Ok(None),
        })
    }

    /// A document's heads in the store.
    pub(crate) fn heads(&self, document: DocumentRow) -> Result<Vec<ChangeHash>, ViewError> {
        self.view(|conn| heads(conn, document))
    }

    /// A document's changes after a position, in order, as many as the bytes allow and at least one;
    /// `true` if there are more. If the snapshot's local number is greater than the position, the
    /// snapshot comes first, then its tail.
    pub(crate) fn changes_after(
        &self,
        document: DocumentRow,
        after: u64,
        most_bytes: usize,
    ) -> Result<(Vec<Stored>, bool), ViewError> {
        self.view(|conn| {
            let (mut pieces, mut bytes, mut after) = (Vec::new(), 0, after);
            if let Some(SnapshotBase { local, body, hash }) = base_after(conn, document, after)? {
                (bytes, after) = (body.len(), local);
                pieces.push(Stored { local, body, compacted: true, hash });
            }
            let mut statement = conn.prepare_cached(
                "SELECT local, body, hash FROM change
                 WHERE document = ?1 AND local > max(?2, (SELECT base FROM document WHERE id = ?1))
                 ORDER BY local",
            )?;
            let mut rows = statement.query(params![document.0, after])?;
            while let Some(row) = rows.next()? {
                let (local, body, hash) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let stored: Stored = Stored { local, body, compacted: false, hash };
                if bytes + stored.body.len() > most_bytes && !pieces.is_empty() {
                    return Ok((pieces, true));
                }
                bytes += stored.body.len();
                pieces.push(stored);
            }
            Ok((pieces, false))
        })
    }

    /// A page of changes that the upstream in use does not hold; `true` if it was cut.
    pub(crate) fn outbox(
        &self,
        space: SpaceRow,
        after: Local,
        changes: usize,
        bytes: usize,
    ) -> Result<(Vec<OutboxChange>, bool), ViewError> {
        self.view(|conn| match self.whose.row(conn)? {
            Some(upstream) => outbox::outbox_page(conn, upstream, space, after, changes, bytes),
            None => Ok((Vec::new(), false)),
        })
    }

    /// The facts about one document, read in one snapshot, so that they are consistent.
    pub(crate) fn document_facts(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<DocumentFacts, ViewError> {
        let (whose, most_bytes) = (self.whose, self.document_bytes());
        self.view(|conn| {
            let upstream = whose.row(conn)?;
            let last = space_totals(conn, space)?.last;
            let facts = DocumentFacts { last, ..DocumentFacts::default() };
            let Some(row) = document_row(conn, space, document)? else { return Ok(facts) };
            let rejected = rejected_document(conn, upstream, row, document)?;
            if let Some(local) = tombstones::local(conn, row)? {
                let acked = match upstream {
                    Some(upstream) => acked::is_acked(conn, upstream, space, local)?,
                    None => false,
                };
                let pending = Pending { changes: u64::from(!acked), bytes: 0 };
                return Ok(DocumentFacts { changes: 1, pending, rejected, ..facts });
            }
            let changes = parts(conn, row)?.changes();
            let pending = pending::pending_of_document(conn, upstream, space, row)?;
            let actors = actors::count(conn, row)?;
            let exceeded = excesses(conn, row, most_bytes)?;
            Ok(DocumentFacts { changes, pending, rejected, actors, exceeded, ..facts })
        })
    }

    /// How many changes are in a document's snapshot.
    pub(crate) fn compacted_changes(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<u64, ViewError> {
        self.view(|conn| match document_row(conn, space, document)? {
            Some(row) => Ok(parts(conn, row)?.compacted_changes),
            None => Ok(0),
        })
    }
}
