//! Entries that a relay has and cannot read. They are recorded in `deferred`, with the kind
//! [`DAMAGED`](landfall_protocol::frame::entry_kind::DAMAGED), until the relay has sent them or is
//! found to have nothing that is missing here.

use landfall_protocol::frame::{DAMAGED_UNKNOWN, Entry};
use landfall_protocol::{Code, DocumentId, Offset, limits};
use rusqlite::{Connection, params};

use super::links;
use crate::store::ViewError;
use crate::store::log::rows::{document_row, space_waiting};
use crate::store::{Done, LocalLog, SpaceCount, SpaceRow, UpstreamRow};

/// Removes the records of one document: everything that the upstream has of it has arrived.
pub(in crate::store) fn forget_document(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    document: &DocumentId,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM aside \
        WHERE space = ?1 AND document = ?2 AND kind = 7 AND upstream = ?3";
    let key = params![space.0, document.as_bytes(), upstream.0];
    conn.prepare_cached(sql)?.execute(key)?;
    Ok(())
}

/// Whether a damaged entry is not recorded yet. Offset 0 means that the relay named only the document:
/// such a record is redundant beside one with an offset, which replaces it.
pub(in crate::store) fn is_new(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    entry: &Entry,
) -> rusqlite::Result<bool> {
    let of_document = "space = ?1 AND document = ?2 AND kind = 7 AND upstream = ?3";
    let key = params![space.0, entry.document.as_bytes(), upstream.0];
    if entry.offset == Offset(0) {
        let sql = format!("SELECT 1 FROM aside WHERE {of_document}");
        return Ok(!conn.prepare_cached(&sql)?.exists(key)?);
    }
    let sql = format!("DELETE FROM aside WHERE {of_document} AND offset = 0");
    conn.prepare_cached(&sql)?.execute(key)?;
    Ok(true)
}

/// Whether one more record fits. If necessary, removes the records of other upstreams, together with
/// their cursors: those relays report the damage again at the next connection.
pub(in crate::store) fn make_room(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<bool> {
    let most = limits::DAMAGED_ENTRIES as u64;
    if space_waiting(conn, space)?.deferred_damaged < most {
        return Ok(true);
    }
    if links::damaged(conn, upstream, space)? >= most {
        return Ok(false);
    }
    for other in links::linked(conn, space)? {
        if other != upstream && links::damaged(conn, other, space)? > 0 {
            links::forget_cursor(conn, other, space)?;
            links::forget_damage(conn, other, space)?;
        }
    }
    Ok(true)
}

impl LocalLog {
    /// Records that a comparison found nothing of the upstream in use missing here, except in these
    /// documents.
    pub(crate) fn submit_forget_damage(
        &self,
        space: SpaceRow,
        but: Vec<DocumentId>,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            if but.is_empty() {
                return links::forget_damage(tx, upstream, space);
            }
            let sql = "SELECT DISTINCT document FROM aside \
                WHERE space = ?1 AND kind = 7 AND upstream = ?2";
            let mut find = tx.prepare_cached(sql)?;
            let id = |row: &rusqlite::Row<'_>| row.get(0).map(DocumentId::from_bytes);
            let reported = find.query_map(params![space.0, upstream.0], id)?;
            let reported = reported.collect::<rusqlite::Result<Vec<DocumentId>>>()?;
            // Damage without a document may belong to any of the documents that differ.
            let is_equal = |of: &&DocumentId| !but.contains(of) && **of != DAMAGED_UNKNOWN;
            reported
                .iter()
                .filter(is_equal)
                .try_for_each(|of| forget_document(tx, upstream, space, of))
        });
    }

    /// Whether the upstream in use rejects a document because its copy is damaged.
    pub(crate) fn is_refused_as_damaged(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<bool, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let Some(upstream) = whose.row(conn)? else { return Ok(false) };
            let Some(row) = document_row(conn, space, document)? else { return Ok(false) };
            let sql = "SELECT 1 FROM parked WHERE upstream = ?1 AND document = ?2 AND code = ?3";
            let key = params![upstream.0, row.0, Code::DAMAGED.0];
            conn.prepare_cached(sql)?.exists(key)
        })
    }

    /// The documents of which the upstream in use could not send something, each once; `None` stands
    /// for documents that it could not name.
    pub(crate) fn damaged_at_relay(
        &self,
        space: SpaceRow,
    ) -> Result<Vec<Option<DocumentId>>, ViewError> {
        let sql = "SELECT DISTINCT document FROM aside \
            WHERE space = ?1 AND kind = 7 AND upstream = ?2 ORDER BY document";
        self.view(|conn| {
            let Some(upstream) = self.whose.row(conn)? else { return Ok(Vec::new()) };
            let mut find = conn.prepare_cached(sql)?;
            let id = |row: &rusqlite::Row<'_>| row.get(0).map(DocumentId::from_bytes);
            let named = |id: DocumentId| (id != DAMAGED_UNKNOWN).then_some(id);
            let found = find.query_map(params![space.0, upstream.0], id)?;
            found.map(|id| id.map(named)).collect::<rusqlite::Result<_>>()
        })
    }
}
