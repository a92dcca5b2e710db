//! Deletion: a tombstone with its own local sequence number, so that the outbox sends it as it sends a
//! change. The tombstone stays for ever; the document's bytes are removed in slices.

use std::sync::Arc;

use landfall_protocol::DocumentId;
use landfall_protocol::digest::DigestEntry;
use landfall_protocol::intervals::IntervalSet;
use landfall_storage::Durability;
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::log::digests::set_digest_entry;
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{
    DocumentCounts, DocumentRow, SpaceRow, UpstreamRow, document_row, parts, set_parts,
    sweep_through,
};
use crate::store::log::snapshots;
use crate::store::log::tombstones::{dead_through, is_deleted, local};
use crate::store::upstream::{acked, links};
use crate::store::{Done, LocalLog, SpaceCount, ViewError};

/// The values of a tombstone.
pub(in crate::store) struct Tombstone<'a> {
    /// The deleting replica; `None` for this one.
    pub(in crate::store) author: Option<&'a [u8]>,
    /// The time in milliseconds since 1970.
    pub(in crate::store) at_ms: u64,
    /// The upstream that sent it, and so holds it.
    pub(in crate::store) from: Option<UpstreamRow>,
    /// Without an upstream: changes here that the deleting replica did not know of. 0 for a local
    /// deletion.
    pub(in crate::store) unaware: u64,
}

/// Deletes a document. Returns how many of its changes are orphaned: made here and not known to be at
/// the upstream that sent the deletion. `None` if it was already deleted.
pub(in crate::store) fn delete(
    log_transaction: &mut LogTransaction<'_>,
    document: &DocumentId,
    tombstone: &Tombstone<'_>,
) -> rusqlite::Result<Option<u64>> {
    let row = log_transaction.settle(document)?;
    let (conn, space) = (log_transaction.conn, log_transaction.space);
    if let Some(local) = local(conn, row)? {
        if let Some(upstream) = tombstone.from {
            acked::hold(conn, upstream, space, &IntervalSet::from_iter([(local, local)]))?;
        }
        return Ok(None);
    }
    let before = parts(conn, row)?;
    let unsent = match tombstone.from {
        Some(upstream) => unsent(conn, upstream, space, row)?,
        None => tombstone.unaware,
    };
    let local = log_transaction.next_local();
    let locals = acked::locals(conn, row)?;
    // The counts of acked changes include live changes only, so that every upstream's lose the
    // document.
    for upstream in links::linked(conn, space)? {
        uncount(conn, upstream, space, row, &before, &locals)?;
    }
    conn.prepare_cached(
        "INSERT INTO deleted (document, space, local, author, at_ms, kept_base, unsent)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        row.0,
        space.0,
        local,
        tombstone.author,
        tombstone.at_ms,
        (unsent > 0).then_some(before.base),
        unsent
    ])?;
    let after = DocumentCounts { base: local, ..DocumentCounts::default() };
    set_parts(conn, &mut log_transaction.totals, row, &before, &after)?;
    log_transaction.totals.changes += 1;
    log_transaction.totals.added += 1;
    conn.prepare_cached("DELETE FROM head WHERE document = ?1")?.execute([row.0])?;
    set_digest_entry(conn, space, (row, document), Some(DigestEntry::of_tombstone(document)))?;
    forget_rest(conn, space, row, document)?;
    if unsent == 0 {
        free(conn, row)?;
    }
    if let Some(upstream) = tombstone.from {
        acked::hold(conn, upstream, space, &IntervalSet::from_iter([(local, local)]))?;
    }
    Ok(Some(unsent))
}

/// Removes a document from an upstream's counts; its numbers are vacant from then on.
fn uncount(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    row: DocumentRow,
    before: &DocumentCounts,
    locals: &IntervalSet,
) -> rusqlite::Result<()> {
    for (first, last) in acked::acked_of(conn, upstream, space, locals)?.iter() {
        let alive = acked::alive_between(conn, space, first, last)?;
        acked::add_acked(conn, upstream, space, alive, -1)?;
    }
    if before.compacted_changes > 0 && !acked::has_unacked_snapshot(conn, upstream, row)? {
        let compacted = (before.compacted_changes, before.snapshot_bytes);
        acked::add_acked(conn, upstream, space, compacted, -1)?;
    }
    conn.prepare_cached("DELETE FROM owed WHERE upstream = ?1 AND document = ?2")?
        .execute(params![upstream.0, row.0])?;
    acked::cover(conn, upstream, space, locals)
}

/// How many of a document's changes an upstream is not known to hold.
fn unsent(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    row: DocumentRow,
) -> rusqlite::Result<u64> {
    let pending =
        crate::store::upstream::pending::pending_of_document(conn, Some(upstream), space, row)?;
    Ok(pending.changes)
}

/// Removes everything except the document's bytes.
fn forget_rest(
    conn: &Connection,
    space: SpaceRow,
    row: DocumentRow,
    document: &DocumentId,
) -> rusqlite::Result<()> {
    for table in ["parked", "refused", "own_actor", "quarantine"] {
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE document = ?1"))?
            .execute([row.0])?;
    }
    for table in ["aside", "partial"] {
        if table == "partial" {
            conn.prepare_cached(
                "DELETE FROM partial_part WHERE space = ?1 AND EXISTS
                     (SELECT 1 FROM partial p WHERE p.space = ?1 AND p.document = ?2
                          AND p.upstream = partial_part.upstream)",
            )?
            .execute(params![space.0, document.as_bytes()])?;
        }
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE space = ?1 AND document = ?2"))?
            .execute(params![space.0, document.as_bytes()])?;
    }
    Ok(())
}

/// Frees a deleted document's bytes: the snapshot at once, rows later, in slices.
fn free(conn: &Connection, row: DocumentRow) -> rusqlite::Result<()> {
    snapshots::remove(conn, row)?;
    conn.prepare_cached("DELETE FROM displaced WHERE document = ?1")?.execute([row.0])?;
    sweep_through(conn, row, dead_through(conn, row)?)
}

/// A deleted document with orphaned edits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OrphanedDocument {
    pub(crate) document: DocumentId,
    /// How many of its changes were never sent.
    pub(crate) unsent: u64,
}

/// All bytes of a deleted document: the snapshot, then changes, dependencies first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LostBytes {
    pub(crate) snapshot: Option<Vec<u8>>,
    pub(crate) changes: Vec<Vec<u8>>,
    /// The superseded changes among them, which were never sent.
    pub(crate) superseded: Vec<Vec<u8>>,
}

impl LocalLog {
    /// Deletes a document here, and at the upstream when it is connected next.
    pub(crate) fn submit_delete(
        &self,
        space: SpaceRow,
        document: DocumentId,
        at_ms: u64,
        done: Done<(SpaceCount, bool)>,
    ) {
        let indexes = Arc::clone(&self.indexes);
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let mut log_transaction = LogTransaction::new(tx, &indexes, space)?;
            let tombstone = Tombstone { author: None, at_ms, from: None, unaware: 0 };
            let new = delete(&mut log_transaction, &document, &tombstone)?.is_some();
            log_transaction.finish()?;
            Ok(new)
        };
        self.submit_in_space(Durability::Full, space, job, done);
    }

    /// Whether a document is deleted.
    pub(crate) fn deleted(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<bool, ViewError> {
        self.view(|conn| match document_row(conn, space, document)? {
            Some(row) => is_deleted(conn, row),
            None => Ok(false),
        })
    }

    /// The deleted documents of a space.
    pub(crate) fn deleted_documents(&self, space: SpaceRow) -> Result<Vec<DocumentId>, ViewError> {
        self.view(|conn| {
            conn.prepare_cached(
                "SELECT d.document FROM deleted x JOIN document d ON d.id = x.document
                 WHERE x.space = ?1 ORDER BY x.local",
            )?
            .query_map([space.0], |row| row.get(0).map(DocumentId::from_bytes))?
            .collect()
        })
    }

    /// Deleted documents of a space with orphaned edits, which the application has neither exported nor
    /// discarded.
    pub(crate) fn lost(&self, space: SpaceRow) -> Result<Vec<OrphanedDocument>, ViewError> {
        self.view(|conn| {
            let lost = |row: &rusqlite::Row<'_>| {
                let document = DocumentId::from_bytes(row.get(0)?);
                Ok(OrphanedDocument { document, unsent: row.get(1)? })
            };
            conn.prepare_cached(
                "SELECT d.document, x.unsent FROM deleted x JOIN document d ON d.id = x.document
                 WHERE x.space = ?1 AND x.kept_base IS NOT NULL ORDER BY x.local",
            )?
            .query_map([space.0], lost)?
            .collect()
        })
    }

    /// The bytes of a deleted document that are kept; `None` if none are.
    pub(crate) fn orphaned_bytes(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<Option<LostBytes>, ViewError> {
        self.view(|conn| {
            let Some(row) = document_row(conn, space, document)? else { return Ok(None) };
            let kept: Option<Option<u64>> = conn
                .prepare_cached("SELECT kept_base FROM deleted WHERE document = ?1")?
                .query_row([row.0], |row| row.get(0))
                .optional()?;
            let Some(base) = kept.flatten() else { return Ok(None) };
            let changes = conn
                .prepare_cached(
                    "SELECT body FROM change WHERE document = ?1 AND local > ?2 ORDER BY local",
                )?
                .query_map(params![row.0, base], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let superseded = conn
                .prepare_cached("SELECT body FROM displaced WHERE document = ?1 ORDER BY id")?
                .query_map([row.0], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Some(LostBytes { snapshot: snapshots::body(conn, row)?, changes, superseded }))
        })
    }

    /// Frees the bytes of a deleted document that were kept.
    pub(crate) fn submit_discard(
        &self,
        space: SpaceRow,
        document: DocumentId,
        done: Done<(SpaceCount, ())>,
    ) {
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let Some(row) = document_row(tx, space, &document)? else { return Ok(()) };
            let kept = tx
                .prepare_cached(
                    "UPDATE deleted SET kept_base = NULL, unsent = 0
                     WHERE document = ?1 AND kept_base IS NOT NULL",
                )?
                .execute([row.0])?;
            if kept > 0 { free(tx, row) } else { Ok(()) }
        };
        self.submit_in_space(Durability::Full, space, job, done);
    }
}
