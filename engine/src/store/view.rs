//! Reading the store: what is there, for documents, status and the link.

use landfall_protocol::replica::OutboxChange;
use landfall_protocol::{ChangeHash, Code, DocumentId, Local, SpaceName, Upstream};
use landfall_storage::ReadError;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{document_row, heads};
use super::{DocumentRow, LocalLog, Pending, SpaceCount, SpaceRow, UpstreamRow, count, held};

/// The store could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the store could not be read")]
pub(crate) struct ViewError(#[from] pub(crate) ReadError<rusqlite::Error>);

/// One change of a document.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) local: u64,
    pub(crate) body: Vec<u8>,
}

/// A document whose changes the upstream refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) document: DocumentId,
    pub(crate) code: Code,
    pub(crate) what: String,
}

impl LocalLog {
    fn view<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ViewError> {
        Ok(self.db.read(query)?)
    }

    /// Every space, as it is now.
    pub(crate) fn spaces(&self) -> Result<Vec<(SpaceName, SpaceRow, SpaceCount)>, ViewError> {
        let upstream = self.upstream();
        self.view(|conn| {
            let mut statement = conn.prepare("SELECT id, name FROM space ORDER BY name")?;
            let mut rows = statement.query([])?;
            let mut spaces = Vec::new();
            while let Some(row) = rows.next()? {
                let (space, name) = (SpaceRow(row.get(0)?), row.get::<_, String>(1)?);
                // A name was checked when it was written.
                if let Ok(name) = name.parse() {
                    spaces.push((name, space, count(conn, upstream, space)?));
                }
            }
            Ok(spaces)
        })
    }

    /// The upstream in use, if any was ever met.
    pub(crate) fn known_upstream(&self) -> Result<Option<Upstream>, ViewError> {
        self.view(|conn| Ok(held::last_met(conn)?.map(|(_, upstream)| upstream)))
    }

    /// The documents of a space, in no particular order.
    pub(crate) fn documents(&self, space: SpaceRow) -> Result<Vec<DocumentId>, ViewError> {
        self.view(|conn| {
            conn.prepare_cached("SELECT document FROM document WHERE space = ?1")?
                .query_map([space.0], |row| row.get(0).map(DocumentId::from_bytes))?
                .collect()
        })
    }

    /// The row of a document; `None` if the store has no change of it.
    pub(crate) fn document(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<Option<DocumentRow>, ViewError> {
        self.view(|conn| document_row(conn, space, document))
    }

    /// A document's heads in the store.
    pub(crate) fn heads(&self, document: DocumentRow) -> Result<Vec<ChangeHash>, ViewError> {
        self.view(|conn| heads(conn, document))
    }

    /// A document's changes after a position, in order, as many as the bytes allow and at least
    /// one; `true` if there are more.
    pub(crate) fn changes_after(
        &self,
        document: DocumentRow,
        after: u64,
        most_bytes: usize,
    ) -> Result<(Vec<Stored>, bool), ViewError> {
        self.view(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT local, body FROM change WHERE document = ?1 AND local > ?2 ORDER BY local",
            )?;
            let mut rows = statement.query(params![document.0, after])?;
            let (mut changes, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let stored = Stored { local: row.get(0)?, body: row.get(1)? };
                if bytes + stored.body.len() > most_bytes && !changes.is_empty() {
                    return Ok((changes, true));
                }
                bytes += stored.body.len();
                changes.push(stored);
            }
            Ok((changes, false))
        })
    }

    /// A page of what the upstream in use does not hold; `true` if it was cut.
    pub(crate) fn outbox(
        &self,
        space: SpaceRow,
        after: Local,
        changes: usize,
        bytes: usize,
    ) -> Result<(Vec<OutboxChange>, bool), ViewError> {
        let Some(upstream) = self.upstream() else { return Ok((Vec::new(), false)) };
        self.view(|conn| held::outbox_page(conn, upstream, space, after, changes, bytes))
    }

    /// How many changes a document has here, and what of them the upstream does not hold.
    pub(crate) fn document_count(
        &self,
        space: SpaceRow,
        document: DocumentRow,
    ) -> Result<(u64, Pending), ViewError> {
        let upstream = self.upstream();
        self.view(|conn| {
            let changes = conn
                .prepare_cached("SELECT count(*) FROM change WHERE document = ?1")?
                .query_row([document.0], |row| row.get(0))?;
            Ok((changes, held::pending_of_document(conn, upstream, space, document)?))
        })
    }

    /// The documents of a space whose changes the upstream in use refuses.
    pub(crate) fn parked(&self, space: SpaceRow) -> Result<Vec<Parked>, ViewError> {
        let Some(upstream) = self.upstream() else { return Ok(Vec::new()) };
        self.view(|conn| parked(conn, upstream, space))
    }

    /// How many entries of a space were set aside.
    pub(crate) fn aside_count(&self, space: SpaceRow) -> Result<u64, ViewError> {
        self.view(|conn| {
            conn.query_row("SELECT count(*) FROM aside WHERE space = ?1", [space.0], |row| {
                row.get(0)
            })
            .optional()
            .map(Option::unwrap_or_default)
        })
    }
}

/// The documents of a space whose changes an upstream refuses.
pub(super) fn parked(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<Vec<Parked>> {
    let parked = |row: &rusqlite::Row<'_>| {
        let (document, code, what) = (row.get(0)?, Code(row.get(1)?), row.get(2)?);
        Ok(Parked { document: DocumentId::from_bytes(document), code, what })
    };
    conn.prepare_cached(
        "SELECT d.document, p.code, p.what FROM parked p JOIN document d ON d.id = p.document
         WHERE p.upstream = ?1 AND d.space = ?2 ORDER BY d.id",
    )?
    .query_map(params![upstream.0, space.0], parked)?
    .collect()
}
