//! Splits a snapshot into single changes again. A snapshot over the limit cannot be sent to any relay;
//! its single changes can.
//!
//! A store has such a snapshot from a version that did not know the limit, or after the limit was
//! lowered. It is found and split when the store is opened.

use std::sync::Arc;

use landfall_protocol::DocumentId;
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::intervals::IntervalSet;
use landfall_storage::Durability;
use rusqlite::{Connection, params};

use super::install::renumber;
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{
    DocumentCounts, DocumentRow, NewChange, SpaceRow, document_id, insert_change, parts, set_parts,
};
use crate::store::log::snapshots;
use crate::store::upstream::rejected;
use crate::store::upstream::{acked, links};
use crate::store::{LocalLog, ViewError, WriteFailure};

/// The author of a change from a snapshot: a snapshot does not store authors, so it may be any replica.
const UNKNOWN_AUTHOR: &[u8] = &[];

/// Why snapshots could not be split.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExpandError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Write(#[from] WriteFailure),
}

/// A document whose snapshot is too large.
struct Oversized {
    space: SpaceRow,
    row: DocumentRow,
    document: DocumentId,
    hash: [u8; 32],
    body: Vec<u8>,
}

impl LocalLog {
    /// Splits all snapshots of more than `most_bytes`, one after the other; returns how many. One that
    /// automerge cannot read stays as it is. Takes memory for one document.
    pub(crate) fn expand_oversized(&self, most_bytes: u64) -> Result<u64, ExpandError> {
        let mut expanded = 0;
        for (space, row) in self.view(|conn| oversized(conn, most_bytes))? {
            let Some(task) = self.view(|conn| read(conn, space, row))? else { continue };
            let (document, bytes) = (task.document, task.body.len());
            match changes_of(&task.body) {
                Ok(changes) => {
                    tracing::warn!(%document, bytes, limit = most_bytes, changes = changes.len(),
                        "a snapshot exceeds the limit; it is split into its changes");
                    expanded += u64::from(self.expand(task, changes)?);
                }
                Err(reason) => {
                    tracing::error!(%document, bytes, reason,
                        "a snapshot exceeds the limit and cannot be split into changes");
                }
            }
        }
        Ok(expanded)
    }

    /// Replaces a snapshot by its changes; `false` if the document has another one by now.
    fn expand(&self, task: Oversized, changes: Vec<CheckedChange>) -> Result<bool, WriteFailure> {
        let indexes = Arc::clone(&self.indexes);
        let space = task.space;
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let same = tx
                .prepare_cached("SELECT 1 FROM snapshot WHERE document = ?1 AND hash = ?2")?
                .exists(params![task.row.0, task.hash])?;
            if !same || parts(tx, task.row)?.compacted_changes != changes.len() as u64 {
                return Ok(false);
            }
            let mut log_transaction = LogTransaction::new(tx, &indexes, task.space)?;
            replace(&mut log_transaction, task.row, &changes)?;
            log_transaction.finish()?;
            Ok::<_, rusqlite::Error>(true)
        };
        self.write_in_space(Durability::Full, space, job).map(|committed| committed.value.1)
    }
}

/// The documents with snapshots of more than `most_bytes`.
pub(in crate::store) fn oversized(
    conn: &Connection,
    most_bytes: u64,
) -> rusqlite::Result<Vec<(SpaceRow, DocumentRow)>> {
    conn.prepare_cached(
        "SELECT space, id FROM document WHERE folded_changes > 0 AND folded_bytes > ?1
             AND NOT EXISTS (SELECT 1 FROM deleted WHERE deleted.document = document.id)",
    )?
    .query_map([most_bytes.min(i64::MAX as u64)], |row| {
        Ok((SpaceRow(row.get(0)?), DocumentRow(row.get(1)?)))
    })?
    .collect()
}

fn read(
    conn: &Connection,
    space: SpaceRow,
    row: DocumentRow,
) -> rusqlite::Result<Option<Oversized>> {
    let Some(body) = snapshots::body(conn, row)? else { return Ok(None) };
    let hash = landfall_compaction::hash_of(&body);
    Ok(Some(Oversized { space, row, document: document_id(conn, row)?, hash, body }))
}

fn changes_of(snapshot: &[u8]) -> Result<Vec<CheckedChange>, String> {
    let changes =
        landfall_compaction::changes_since(snapshot, &[]).map_err(|error| error.to_string())?;
    let checked = changes.iter().map(|change| preflight(change).map_err(|e| e.to_string()));
    checked.collect()
}

/// Appends the changes, dependencies first, and after them the tail. Each upstream's acked ranges
/// follow them.
fn replace(
    log_transaction: &mut LogTransaction<'_>,
    row: DocumentRow,
    changes: &[CheckedChange],
) -> rusqlite::Result<()> {
    let (conn, space) = (log_transaction.conn, log_transaction.space);
    let before = parts(conn, row)?;
    let tail = acked::locals(conn, row)?;
    // Rows of compacted changes that are not swept yet have the hashes of the new rows.
    conn.prepare_cached("DELETE FROM change WHERE document = ?1 AND local <= ?2")?
        .execute(params![row.0, before.base])?;
    let mut holders = Vec::new();
    for upstream in links::linked(conn, space)? {
        if !acked::has_unacked_snapshot(conn, upstream, row)? {
            let compacted = (before.compacted_changes, before.snapshot_bytes);
            acked::add_acked(conn, upstream, space, compacted, -1)?;
            holders.push(upstream);
        }
    }
    snapshots::remove(conn, row)?;
    let (mut locals, mut bytes) = (IntervalSet::new(), 0);
    for change in changes {
        let local = log_transaction.next_local();
        let (author, at_ms) = (Some(UNKNOWN_AUTHOR), 0);
        insert_change(conn, &NewChange { space, local, document: row, change, author, at_ms })?;
        locals.insert(local, local);
        bytes += change.bytes.len() as u64;
    }
    let after = DocumentCounts {
        base: 0,
        tail_changes: before.tail_changes + changes.len() as u64,
        tail_bytes: before.tail_bytes + bytes,
        compacted_changes: 0,
        snapshot_bytes: 0,
        operations: before.operations,
        counter: before.counter,
        compacted_counter: 0,
    };
    set_parts(conn, &mut log_transaction.totals, row, &before, &after)?;
    for upstream in holders {
        acked::hold(conn, upstream, space, &locals)?;
    }
    let moved: Vec<u64> = tail.iter().flat_map(|(first, last)| first..=last).collect();
    renumber(log_transaction, row, &moved)?;
    log_transaction.totals.moved = log_transaction.totals.last;
    // The old numbers of the tail are vacant now.
    for upstream in links::linked(conn, space)? {
        acked::cover(conn, upstream, space, &tail)?;
    }
    // A relay may have rejected it for its size.
    for upstream in links::linked(conn, space)? {
        rejected::retry_rejected(conn, upstream, row)?;
    }
    conn.prepare_cached(
        "UPDATE document SET sweep_through = 0, fold_failed = NULL, fold_version = NULL,
             fold_reason = NULL WHERE id = ?1",
    )?
    .execute([row.0])?;
    Ok(())
}
