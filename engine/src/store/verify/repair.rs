//! Repairs the findings of `verify`. Derived values are derived again. Damaged changes and snapshots
//! are removed with their dependents, and the cursor is reset, so that the upstream sends them again;
//! but only if the upstream is known to hold all of them. Otherwise they stay, and are reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::digest::DigestEntry;
use landfall_protocol::{ChangeHash, DocumentId, SpaceName};
use landfall_storage::Durability;
use rusqlite::{Connection, params};

use super::document::{document_faults, raw_rows, sides};
use super::findings::{Fault, Finding, Remedy};
use super::space::{set_damaged, set_waiting, totals, waiting};
use crate::store::log::digests::{set_digest_entry, set_heads, set_sums, sums};
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{
    DocumentCounts, DocumentRow, SpaceRow, UpstreamRow, actor_row_or_new, document_row, heads,
    parts, set_parts, set_space_totals, space_totals,
};
use crate::store::log::snapshots::{self, Opened};
use crate::store::log::{graph, tombstones};
use crate::store::upstream::superseded::drop_rows;
use crate::store::upstream::{acked, links};
use crate::store::{LocalLog, ViewError, WriteFailure};

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Documents of which changes were removed, to be received from the relay again, and how many
    /// changes.
    pub dropped: Vec<(SpaceName, DocumentId, u64)>,
    /// Findings that were repaired.
    pub repaired: Vec<Finding>,
    /// Findings that could not be repaired.
    pub left: Vec<Finding>,
}

/// Why a repair ended early. Repairs made before stay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepairError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Write(#[from] WriteFailure),
}

impl LocalLog {
    /// Checks everything and repairs what can be repaired. Open documents must be loaded again
    /// afterwards.
    pub(crate) fn repair(&self) -> Result<Repaired, RepairError> {
        let found = self.verify()?;
        let mut repaired = Repaired::default();
        if found.is_empty() {
            return Ok(repaired);
        }
        if found.iter().any(|finding| finding.fault.remedy() == Remedy::Reindex) {
            // Damage that SQLite finds beyond an index stays, and is reported at the end.
            let reindexed = self.db.write(Durability::Full, |tx| tx.execute_batch("REINDEX"));
            if let Err(error) = reindexed {
                tracing::warn!(%error, "cannot rebuild the file's indexes");
            }
        }
        let mut spaces: BTreeMap<SpaceName, (BTreeMap<DocumentId, Remedy>, bool)> = BTreeMap::new();
        for finding in &found {
            let Some(space) = &finding.space else { continue };
            let (documents, links) = spaces.entry(space.clone()).or_default();
            *links |= matches!(finding.fault, Fault::Held(_) | Fault::SnapshotBase);
            if let Some(document) = finding.document {
                let remedy = documents.entry(document).or_insert(Remedy::Derive);
                *remedy = (*remedy).max(finding.fault.remedy());
            }
        }
        for (name, (documents, links)) in spaces {
            let Ok(row) = self.ensure_space(&name) else { continue };
            for (document, remedy) in documents {
                match self.repair_document(row, document, remedy) {
                    Ok(0) => {}
                    Ok(changes) => repaired.dropped.push((name.clone(), document, changes)),
                    Err(error) => tracing::warn!(%document, %error, "cannot repair a document"),
                }
            }
            if let Err(error) = self.repair_space(row, links) {
                tracing::warn!(space = %name, %error, "cannot repair a space");
            }
        }
        repaired.left = self.verify()?;
        let is_left = |finding: &Finding| repaired.left.contains(finding);
        repaired.repaired = found.into_iter().filter(|finding| !is_left(finding)).collect();
        Ok(repaired)
    }

    fn repair_document(
        &self,
        space: SpaceRow,
        document: DocumentId,
        remedy: Remedy,
    ) -> Result<u64, WriteFailure> {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = whose.row(tx)?;
            let Some(row) = document_row(tx, space, &document)? else { return Ok(0) };
            let mut dropped = 0;
            // Nothing of a deleted document is sent again, and its orphaned edits exist only here.
            if remedy == Remedy::Fetch
                && !tombstones::is_deleted(tx, row)?
                && let Some(upstream) = upstream
            {
                let mut log_transaction = LogTransaction::new(tx, &indexes, space)?;
                dropped = drop_damaged(&mut log_transaction, upstream, &document, row)?;
                log_transaction.finish()?;
            }
            derive(tx, space, &document, row)?;
            if let Some(upstream) = upstream.filter(|_| dropped > 0) {
                links::forget_cursor(tx, upstream, space)?;
            }
            Ok::<_, rusqlite::Error>(dropped)
        };
        self.db.write(Durability::Full, job).map(|committed| committed.value)
    }

    fn repair_space(&self, space: SpaceRow, links: bool) -> Result<(), WriteFailure> {
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let (noted, counted) = (space_totals(tx, space)?, totals(tx, space)?);
            let last = noted.last.max(counted.last);
            let added = noted.added.max(counted.added);
            set_space_totals(
                tx,
                space,
                crate::store::SpaceTotals { last, added, moved: noted.moved, ..counted },
            )?;
            set_waiting(tx, space, &waiting(tx, space)?)?;
            set_sums(tx, space, &sums(tx, space)?)?;
            for upstream in links::linked(tx, space)? {
                set_damaged(tx, upstream, space)?;
                if links {
                    // The recorded sync state is unreliable: the two ends compare their documents.
                    links::reset(tx, upstream, space)?;
                }
            }
            Ok::<_, rusqlite::Error>(())
        };
        self.db.write(Durability::Full, job).map(drop)
    }
}

/// Removes damaged changes with their dependents, if the upstream holds all of them. Returns how many.
fn drop_damaged(
    log_transaction: &mut LogTransaction<'_>,
    upstream: UpstreamRow,
    document: &DocumentId,
    row: DocumentRow,
) -> rusqlite::Result<u64> {
    let (conn, space) = (log_transaction.conn, log_transaction.space);
    let faults = document_faults(conn, space, row, document)?;
    let whole = faults.iter().any(|fault| matches!(fault, Fault::Snapshot(_) | Fault::Identity));
    let damaged: Vec<ChangeHash> = faults
        .iter()
        .filter_map(|fault| match fault {
            Fault::Change { hash, .. } | Fault::Dependency { hash, .. } | Fault::Sequence(hash) => {
                Some(*hash)
            }
            _ => None,
        })
        .collect();
    let nodes = graph::tail(conn, row)?;
    let gone = if whole { nodes } else { graph::dependents(&nodes, &damaged) };
    let locals = gone.iter().map(|node| (node.local, node.local)).collect();
    let acked = acked::acked_of(conn, upstream, space, &locals)?;
    let unacked = whole && acked::has_unacked_snapshot(conn, upstream, row)?;
    if acked.len() != gone.len() as u64 || unacked || (gone.is_empty() && !whole) {
        return Ok(0);
    }
    let before = parts(conn, row)?;
    if whole {
        forget_compacted(conn, space, row, &before)?;
        let after = DocumentCounts { compacted_changes: 0, snapshot_bytes: 0, ..before };
        set_parts(conn, &mut log_transaction.totals, row, &before, &after)?;
    }
    drop_rows(log_transaction, document, row, &gone)?;
    if whole {
        // Its history starts again: new rows are numbered after all earlier ones.
        let now = parts(conn, row)?;
        set_parts(
            conn,
            &mut log_transaction.totals,
            row,
            &now,
            &DocumentCounts { base: 0, ..now },
        )?;
        conn.prepare_cached("DELETE FROM change WHERE document = ?1")?.execute([row.0])?;
    }
    Ok(gone.len() as u64 + if whole { before.compacted_changes } else { 0 })
}

fn forget_compacted(
    conn: &Connection,
    space: SpaceRow,
    row: DocumentRow,
    before: &DocumentCounts,
) -> rusqlite::Result<()> {
    for upstream in links::linked(conn, space)? {
        if before.compacted_changes > 0 && !acked::has_unacked_snapshot(conn, upstream, row)? {
            let compacted = (before.compacted_changes, before.snapshot_bytes);
            acked::add_acked(conn, upstream, space, compacted, -1)?;
        }
    }
    snapshots::remove(conn, row)
}

/// Derives everything of a document that follows from its bytes.
fn derive(
    conn: &Connection,
    space: SpaceRow,
    document: &DocumentId,
    row: DocumentRow,
) -> rusqlite::Result<()> {
    if tombstones::is_deleted(conn, row)? {
        return derive_deleted(conn, space, document, row);
    }
    let before = parts(conn, row)?;
    let mut after = before;
    (after.compacted_changes, after.snapshot_bytes) = (0, 0);
    (after.operations, after.counter, after.compacted_counter) = (0, 0, 0);
    let mut index = None;
    if let Some(body) = snapshots::body(conn, row)? {
        let length = body.len() as u64;
        // An unreadable snapshot stays as it is: it is reported, and nothing can be derived from it.
        let Ok(opened) = Opened::open(body) else { return Ok(()) };
        conn.prepare_cached("DELETE FROM folded_actor WHERE document = ?1")?.execute([row.0])?;
        snapshots::put(conn, row, &opened)?;
        (after.compacted_changes, after.snapshot_bytes) = (opened.changes(), length);
        (after.operations, after.compacted_counter) = (opened.operations, opened.counter());
        after.counter = after.compacted_counter;
        index = Some(opened.index);
    }
    after.base = base(&sides(conn, row, index.as_deref())?, before.base, index.is_some());
    let rows = raw_rows(conn, row, after.base)?;
    after.tail_changes = rows.len() as u64;
    after.tail_bytes = rows.iter().map(|raw| raw.body.len() as u64).sum();
    for raw in rows {
        let Ok(change) = raw.check() else { continue };
        after.operations += change.stored_operations;
        after.counter = after.counter.max(change.max_op);
        if (&change.actor, change.seq, change.max_op) != (&raw.actor, raw.seq, raw.max_op) {
            let actor = actor_row_or_new(conn, &change.actor)?;
            conn.prepare_cached(
                "UPDATE change SET actor = ?3, seq = ?4, max_op = ?5
                 WHERE document = ?1 AND local = ?2",
            )?
            .execute(params![row.0, raw.local, actor, change.seq, change.max_op])?;
        }
    }
    // Totals are computed again after all documents.
    set_parts(conn, &mut space_totals(conn, space)?, row, &before, &after)?;
    derive_mark(conn, row)?;
    let (old, new) = (heads(conn, row)?, graph::heads(conn, row)?);
    set_heads(conn, space, (row, document), &old, &new)
}

fn derive_deleted(
    conn: &Connection,
    space: SpaceRow,
    document: &DocumentId,
    row: DocumentRow,
) -> rusqlite::Result<()> {
    let local: u64 = conn
        .prepare_cached("SELECT local FROM deleted WHERE document = ?1")?
        .query_row([row.0], |row| row.get(0))?;
    let before = parts(conn, row)?;
    let after = DocumentCounts { base: local, ..DocumentCounts::default() };
    set_parts(conn, &mut space_totals(conn, space)?, row, &before, &after)?;
    conn.prepare_cached("DELETE FROM head WHERE document = ?1")?.execute([row.0])?;
    derive_mark(conn, row)?;
    set_digest_entry(conn, space, (row, document), Some(DigestEntry::of_tombstone(document)))
}

/// Marks exactly the unneeded rows as removable: the present mark may be wrong.
fn derive_mark(conn: &Connection, row: DocumentRow) -> rusqlite::Result<()> {
    let dead_through = tombstones::dead_through(conn, row)?;
    conn.prepare_cached(
        "UPDATE document SET sweep_through = CASE WHEN EXISTS
             (SELECT 1 FROM change WHERE document = ?1 AND local <= ?2) THEN ?2 ELSE 0 END
         WHERE id = ?1",
    )?
    .execute(params![row.0, dead_through])?;
    Ok(())
}

/// The local number at which the snapshot ends, given which rows it contains: the others must come
/// after it.
fn base(sides: &[(u64, bool)], noted: u64, has_snapshot: bool) -> u64 {
    if !has_snapshot {
        return 0;
    }
    let alive = sides.iter().filter(|(_, compacted)| !compacted).map(|(local, _)| *local).min();
    let end = alive.unwrap_or(u64::MAX);
    let dead: BTreeSet<u64> = sides
        .iter()
        .filter(|(local, compacted)| *compacted && *local < end)
        .map(|side| side.0)
        .collect();
    match dead.last() {
        Some(last) => noted.max(*last).min(end - 1),
        None => noted.min(end - 1),
    }
}
