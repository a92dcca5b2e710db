//! Documents that automerge could not read, each with the version of this software and the reason.
//! Their changes stay where they are.

use landfall_protocol::DocumentId;
use landfall_storage::Durability;
use rusqlite::{Connection, OptionalExtension, params};

use crate::limits::UNREADABLE_LISTED;
use crate::store::SOFTWARE;
use crate::store::log::rows::document_row;
use crate::store::{LocalLog, SpaceRow, ViewError};

/// Why a document is quarantined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quarantine {
    /// The version that could not read it.
    pub(crate) version: String,
    /// automerge's error.
    pub(crate) reason: String,
}

/// The documents of a space that are known to be unreadable, and why; at most one more than the status
/// lists.
pub(in crate::store) fn quarantined(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<Vec<(DocumentId, String)>> {
    // A cross join, so that SQLite walks the quarantined documents, and not all documents of the space.
    conn.prepare_cached(
        "SELECT d.document, q.reason FROM quarantine q CROSS JOIN document d ON d.id = q.document
         WHERE d.space = ?1 AND NOT EXISTS (SELECT 1 FROM deleted t WHERE t.document = d.id)
         LIMIT ?2",
    )?
    .query_map(params![space.0, UNREADABLE_LISTED + 1], |row| {
        Ok((DocumentId::from_bytes(row.get(0)?), row.get(1)?))
    })?
    .collect()
}

impl LocalLog {
    /// Whether a document is known to be unreadable.
    pub(crate) fn quarantine(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<Option<Quarantine>, ViewError> {
        self.view(|conn| {
            let Some(row) = document_row(conn, space, document)? else { return Ok(None) };
            conn.prepare_cached("SELECT version, reason FROM quarantine WHERE document = ?1")?
                .query_row([row.0], |row| {
                    Ok(Quarantine { version: row.get(0)?, reason: row.get(1)? })
                })
                .optional()
        })
    }

    /// Records that a document cannot be read, and why, or that it can. Takes no fsync, and may be
    /// lost: the next load of the document finds out again.
    pub(crate) fn submit_quarantine(
        &self,
        space: SpaceRow,
        document: DocumentId,
        reason: Option<String>,
    ) {
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let Some(row) = document_row(tx, space, &document)? else { return Ok(()) };
            match reason {
                Some(reason) => tx
                    .prepare_cached(
                        "INSERT OR REPLACE INTO quarantine (document, version, reason)
                         VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![row.0, SOFTWARE, reason])?,
                None => tx
                    .prepare_cached("DELETE FROM quarantine WHERE document = ?1")?
                    .execute([row.0])?,
            };
            Ok::<_, rusqlite::Error>(())
        };
        self.db.submit(Durability::Relaxed, job, move |noted| {
            if let Err(error) = noted {
                tracing::warn!(%document, %error, "cannot store a quarantine");
            }
        });
    }
}
