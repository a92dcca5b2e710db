//! Documents whose changes an upstream rejects, or which have superseded changes: recording them, listing
//! them, and letting the outbox send them again.

use landfall_protocol::{Code, DocumentId, Local};
use rusqlite::{Connection, OptionalExtension, params};

use super::{acked, pending};
use crate::store::log::rows::{DocumentRow, SpaceRow, UpstreamRow, document_row};
use crate::store::log::tombstones;
use crate::store::{Done, LocalLog, SpaceCount, ViewError};

/// A document whose changes the upstream rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) document: DocumentId,
    pub(crate) code: Code,
    pub(crate) what: String,
}

/// A rejection by an upstream, and its reason.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) what: String,
    /// Whether the deletion is rejected, rather than changes.
    pub(crate) deletion: bool,
}

impl LocalLog {
    /// Records that the upstream rejects a document's changes, or its deletion if `refused` has that
    /// flag.
    pub(crate) fn submit_reject(
        &self,
        space: SpaceRow,
        document: DocumentId,
        refused: Refused,
        done: Done<(SpaceCount, ())>,
    ) {
        let Refused { code, what, deletion } = refused;
        self.submit_link(space, done, move |tx, upstream| {
            if let Some(document) = document_row(tx, space, &document)?
                // Deleted meanwhile: its changes are gone, and its deletion is still to be sent.
                && (deletion || !tombstones::is_deleted(tx, document)?)
            {
                tx.prepare_cached(
                    "INSERT INTO parked (upstream, document, code, what) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET code = excluded.code, what = excluded.what",
                )?
                .execute(params![upstream.0, document.0, code.0, what])?;
            }
            Ok(())
        });
    }

    /// Makes the outbox send a document's changes again.
    pub(crate) fn submit_requeue(
        &self,
        space: SpaceRow,
        document: DocumentId,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            match document_row(tx, space, &document)? {
                Some(row) => acked::release_document(tx, upstream, space, row),
                None => Ok(()),
            }
        });
    }

    /// Lets the outbox send a document's changes again, although the upstream rejected them.
    pub(crate) fn submit_retry(
        &self,
        space: SpaceRow,
        document: DocumentId,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            let Some(row) = document_row(tx, space, &document)? else { return Ok(()) };
            retry_rejected(tx, upstream, row)
        });
    }

    /// Records the upstream's answer that it does not have these changes of a document.
    pub(crate) fn submit_refused(
        &self,
        space: SpaceRow,
        document: DocumentId,
        locals: Vec<Local>,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            let Some(row) = document_row(tx, space, &document)? else { return Ok(()) };
            for local in locals {
                tx.prepare_cached(
                    "INSERT OR IGNORE INTO refused (upstream, document, hash)
                     SELECT ?1, document, hash FROM change WHERE document = ?2 AND local = ?3",
                )?
                .execute(params![upstream.0, row.0, local.0])?;
            }
            Ok(())
        });
    }

    /// The documents of a space whose changes the upstream in use rejects.
    pub(crate) fn rejected(&self, space: SpaceRow) -> Result<Vec<Rejected>, ViewError> {
        self.view(|conn| rejected(conn, self.whose.row(conn)?, space))
    }
}

/// Increases whenever the list of [`rejected`] documents changes.
pub(in crate::store) fn refusals(conn: &Connection, space: SpaceRow) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT refusals FROM space WHERE id = ?1")?
        .query_row([space.0], |row| row.get(0))
}

/// Why a document's changes are rejected, or superseded.
pub(in crate::store) fn rejected_document(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    row: DocumentRow,
    document: &DocumentId,
) -> rusqlite::Result<Option<Rejected>> {
    let Some(upstream) = upstream else { return Ok(None) };
    let found = conn
        .prepare_cached("SELECT code, what FROM parked WHERE upstream = ?1 AND document = ?2")?
        .query_row(params![upstream.0, row.0], |row| {
            Ok(Rejected { document: *document, code: Code(row.get(0)?), what: row.get(1)? })
        })
        .optional()?;
    match found {
        Some(rejected) => Ok(Some(rejected)),
        None if pending::superseded(conn, row)?.changes > 0 => Ok(Some(refusal(*document))),
        None => Ok(None),
    }
}

/// The documents of a space whose changes an upstream rejects, or which have superseded changes.
pub(in crate::store) fn rejected(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
) -> rusqlite::Result<Vec<Rejected>> {
    let Some(upstream) = upstream else { return Ok(Vec::new()) };
    let rejected = |row: &rusqlite::Row<'_>| {
        let (document, code, what) = (row.get(0)?, Code(row.get(1)?), row.get(2)?);
        Ok(Rejected { document: DocumentId::from_bytes(document), code, what })
    };
    let mut all: Vec<Rejected> = conn
        .prepare_cached(
            "SELECT d.document, p.code, p.what FROM parked p CROSS JOIN document d ON d.id = p.document
             WHERE p.upstream = ?1 AND d.space = ?2 ORDER BY d.id",
        )?
        .query_map(params![upstream.0, space.0], rejected)?
        .collect::<rusqlite::Result<_>>()?;
    for refused in refused(conn, space)? {
        if !all.iter().any(|rejected| rejected.document == refused.document) {
            all.push(refused);
        }
    }
    Ok(all)
}

/// The refusal under which a document with superseded changes is reported.
pub(super) fn refusal(document: DocumentId) -> Rejected {
    let what = "changes of another copy of this store superseded these; re-author them".to_owned();
    Rejected { document, code: Code::CONFLICTING_SEQUENCE, what }
}

/// The documents of a space with superseded changes, reported like those that a relay rejects.
pub(in crate::store) fn refused(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<Vec<Rejected>> {
    let refused = |row: &rusqlite::Row<'_>| Ok(refusal(DocumentId::from_bytes(row.get(0)?)));
    conn.prepare_cached(
        "SELECT DISTINCT d.document FROM displaced x CROSS JOIN document d ON d.id = x.document
         WHERE d.space = ?1 AND NOT EXISTS (SELECT 1 FROM deleted t WHERE t.document = d.id)
         ORDER BY d.id",
    )?
    .query_map([space.0], refused)?
    .collect()
}

/// Lets the outbox send the document again: forgets the upstream's earlier refusals.
pub(in crate::store) fn retry_rejected(
    conn: &Connection,
    upstream: UpstreamRow,
    document: DocumentRow,
) -> rusqlite::Result<()> {
    for table in ["parked", "refused"] {
        let sql = format!("DELETE FROM {table} WHERE upstream = ?1 AND document = ?2");
        conn.prepare_cached(&sql)?.execute(params![upstream.0, document.0])?;
    }
    Ok(())
}
