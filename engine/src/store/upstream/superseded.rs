//! Superseded changes, whose actor and sequence number another change has, and changes that an upstream
//! rejects: how they leave the log, and how the application's new changes replace them.

use std::sync::Arc;

use landfall_protocol::admission::{HistoryError, Origin, Roots, preflight};
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::{ChangeHash, DocumentId};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::{Connection, params};

use super::rejected::retry_rejected;
use super::{acked, links};
use crate::store::log::append::LocalChange;
use crate::store::log::digests::set_heads;
use crate::store::log::graph::{self, Node};
use crate::store::log::indexes::Indexes;
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{
    DocumentRow, SpaceRow, UpstreamRow, document_row, heads, merges, parts, set_parts,
};
use crate::store::{LocalLog, SpaceCount, ViewError};

pub(in crate::store) fn contains(
    conn: &Connection,
    document: DocumentRow,
    hash: &ChangeHash,
) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM displaced WHERE document = ?1 AND hash = ?2")?
        .exists(params![document.0, hash.0])
}

/// Removes a local change and its dependents from the log, so that a received change with its actor and
/// sequence number can be admitted. Returns how many; 0, and no change, if the upstream holds one of
/// them or it is in the snapshot.
pub(in crate::store) fn supersede(
    log_transaction: &mut LogTransaction<'_>,
    upstream: UpstreamRow,
    document: &DocumentId,
    hash: ChangeHash,
) -> rusqlite::Result<u64> {
    let row = log_transaction.settle(document)?;
    let (conn, space) = (log_transaction.conn, log_transaction.space);
    let gone = graph::dependents(&graph::tail(conn, row)?, &[hash]);
    let locals: IntervalSet = gone.iter().map(|node| (node.local, node.local)).collect();
    // Changes of this same batch are held too, though that is not written yet.
    let theirs = |node: &Node| is_received(conn, row, node);
    for node in &gone {
        if theirs(node)? {
            return Ok(0);
        }
    }
    if gone.is_empty() || !acked::acked_of(conn, upstream, space, &locals)?.is_empty() {
        return Ok(0);
    }
    for node in &gone {
        conn.prepare_cached(
            "INSERT OR IGNORE INTO displaced (document, hash, at_ms, body)
             SELECT document, hash, at_ms, body FROM change WHERE document = ?1 AND hash = ?2",
        )?
        .execute(params![row.0, node.hash.0])?;
    }
    drop_rows(log_transaction, document, row, &gone)?;
    Ok(gone.len() as u64)
}

/// Whether an upstream sent it.
fn is_received(conn: &Connection, row: DocumentRow, node: &Node) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT author IS NOT NULL FROM change WHERE document = ?1 AND hash = ?2")?
        .query_row(params![row.0, node.hash.0], |row| row.get(0))
}

/// Removes changes from a document's tail. No remaining change may depend on them.
pub(in crate::store) fn drop_rows(
    log_transaction: &mut LogTransaction<'_>,
    document: &DocumentId,
    row: DocumentRow,
    gone: &[Node],
) -> rusqlite::Result<()> {
    let (conn, space) = (log_transaction.conn, log_transaction.space);
    let before = parts(conn, row)?;
    let locals: IntervalSet = gone.iter().map(|node| (node.local, node.local)).collect();
    for upstream in links::linked(conn, space)? {
        for (first, last) in acked::acked_of(conn, upstream, space, &locals)?.iter() {
            let alive = acked::alive_between(conn, space, first, last)?;
            acked::add_acked(conn, upstream, space, alive, -1)?;
        }
        acked::cover(conn, upstream, space, &locals)?;
    }
    let mut after = before;
    for node in gone {
        let body: Vec<u8> = conn
            .prepare_cached("DELETE FROM change WHERE document = ?1 AND local = ?2 RETURNING body")?
            .query_row(params![row.0, node.local], |row| row.get(0))?;
        after.tail_changes = after.tail_changes.saturating_sub(1);
        after.tail_bytes = after.tail_bytes.saturating_sub(body.len() as u64);
        // Damaged changes keep counting: the operation budget may only be overestimated.
        let operations = preflight(&body).map_or(0, |change| change.stored_operations);
        after.operations = after.operations.saturating_sub(operations);
    }
    set_parts(conn, &mut log_transaction.totals, row, &before, &after)?;
    let (old, new) = (heads(conn, row)?, graph::heads(conn, row)?);
    set_heads(conn, space, (row, document), &old, &new)
}

/// A change that the upstream in use is not known to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsent {
    pub(crate) hash: ChangeHash,
    pub(crate) body: Vec<u8>,
    /// Whether it is in the log; otherwise it was superseded and is not in its document.
    pub(crate) in_log: bool,
}

/// Why the unsent changes of a document were not replaced. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplaceError {
    #[error("the document's unsent changes differ from the given ones; read them again")]
    Changed,
    #[error("a new change does not fit the document's history: {0}")]
    History(#[from] HistoryError),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

impl LocalLog {
    /// A document's changes that are known not to be on the disk of the upstream in use, dependencies
    /// first: those in the log for which it answered so, with their dependents, then superseded ones,
    /// whose actor and sequence number other changes have there. A change that was pushed without an
    /// answer is excluded: it may be there, and its content would be duplicated.
    pub(crate) fn not_taken(
        &self,
        space: SpaceRow,
        document: DocumentRow,
    ) -> Result<Vec<Unsent>, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let upstream = whose.row(conn)?;
            let mut found = Vec::new();
            for node in refused_nodes(conn, upstream, space, document)? {
                found.push(
                    conn.prepare_cached(
                        "SELECT hash, body FROM change WHERE document = ?1 AND local = ?2",
                    )?
                    .query_row(params![document.0, node.local], |row| unsent_of(row, true))?,
                );
            }
            found.extend(superseded_of(conn, document)?);
            Ok(found)
        })
    }

    /// A document's changes that the upstream in use is not known to hold, dependencies first: those in
    /// the log, then superseded ones. Changes in the snapshot are excluded.
    pub(crate) fn unsent(
        &self,
        space: SpaceRow,
        document: DocumentRow,
    ) -> Result<Vec<Unsent>, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let upstream = whose.row(conn)?;
            let mut unsent = Vec::new();
            for (first, last) in unacked(conn, upstream, space, document)?.iter() {
                unsent.extend(
                    conn.prepare_cached(
                        "SELECT hash, body FROM change
                         WHERE document = ?1 AND local BETWEEN ?2 AND ?3 ORDER BY local",
                    )?
                    .query_map(params![document.0, first, last], |row| unsent_of(row, true))?
                    .collect::<rusqlite::Result<Vec<_>>>()?,
                );
            }
            unsent.extend(superseded_of(conn, document)?);
            Ok(unsent)
        })
    }

    /// Replaces changes of a document by others, in one transaction: `old` is the result of
    /// [`LocalLog::not_taken`]. The document is no longer rejected. `committed` is called on the writer
    /// thread, in the order of the commits, before this returns.
    pub(crate) fn replace_unsent(
        &self,
        space: SpaceRow,
        document: DocumentId,
        old: Vec<ChangeHash>,
        new: Vec<LocalChange>,
        committed: impl FnOnce() + Send + 'static,
    ) -> Result<(), WriteError<ReplaceError>> {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = whose.row(tx)?;
            let row = document_row(tx, space, &document)?.ok_or(ReplaceError::Changed)?;
            replace(tx, &indexes, upstream, (space, row, &document), &old, &new)
        };
        let done = move |result: Result<Committed<(SpaceCount, ())>, _>| {
            if result.is_ok() {
                committed();
            }
            // The receiver waits below, so sending cannot fail.
            let _ = sender.send(result.map(drop));
        };
        self.submit_in_space(Durability::Full, space, job, done);
        receiver.recv().unwrap_or(Err(WriteError::Closed))
    }
}

/// The local numbers of a document's tail that the upstream in use is not known to hold.
fn unacked(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<IntervalSet> {
    let mut unacked = acked::locals(conn, document)?;
    if let Some(upstream) = upstream {
        for (first, last) in acked::acked_of(conn, upstream, space, &unacked)?.iter() {
            unacked.remove(first, last);
        }
    }
    Ok(unacked)
}

fn unsent_of(row: &rusqlite::Row<'_>, in_log: bool) -> rusqlite::Result<Unsent> {
    Ok(Unsent { hash: ChangeHash(row.get(0)?), body: row.get(1)?, in_log })
}

fn superseded_of(conn: &Connection, document: DocumentRow) -> rusqlite::Result<Vec<Unsent>> {
    conn.prepare_cached("SELECT hash, body FROM displaced WHERE document = ?1 ORDER BY id")?
        .query_map([document.0], |row| unsent_of(row, false))?
        .collect()
}

/// The changes of a document's tail that the upstream in use answered it does not have, and their
/// dependents, in the order of the log.
fn refused_nodes(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<Vec<Node>> {
    let Some(upstream) = upstream else { return Ok(Vec::new()) };
    let refused: Vec<ChangeHash> = conn
        .prepare_cached("SELECT hash FROM refused WHERE upstream = ?1 AND document = ?2")?
        .query_map(params![upstream.0, document.0], |row| row.get(0).map(ChangeHash))?
        .collect::<rusqlite::Result<_>>()?;
    if refused.is_empty() {
        return Ok(Vec::new());
    }
    let nodes = graph::dependents(&graph::tail(conn, document)?, &refused);
    let unacked = unacked(conn, Some(upstream), space, document)?;
    // They may have reached the upstream by another way since, with their dependents.
    match nodes.iter().all(|node| unacked.contains(node.local)) {
        true => Ok(nodes),
        false => Ok(Vec::new()),
    }
}

fn replace(
    conn: &Connection,
    indexes: &Indexes,
    upstream: Option<UpstreamRow>,
    (space, row, document): (SpaceRow, DocumentRow, &DocumentId),
    old: &[ChangeHash],
    new: &[LocalChange],
) -> Result<(), ReplaceError> {
    let gone = refused_nodes(conn, upstream, space, row)?;
    let superseded = superseded_of(conn, row)?;
    let there = gone.iter().map(|node| node.hash).chain(superseded.iter().map(|one| one.hash));
    if !there.eq(old.iter().copied()) {
        return Err(ReplaceError::Changed);
    }
    let mut log_transaction = LogTransaction::new(conn, indexes, space)?;
    drop_rows(&mut log_transaction, document, row, &gone)?;
    conn.prepare_cached("DELETE FROM displaced WHERE document = ?1")?.execute([row.0])?;
    if let Some(upstream) = upstream {
        retry_rejected(conn, upstream, row)?;
    }
    let roots = if merges(conn, space, document)? { Roots::Several } else { Roots::One };
    for LocalChange { change, at_ms, .. } in new {
        // Admitted as a local change: a relay need not have room beyond the local limits.
        log_transaction.admit(document, change, roots, Origin::Local)??;
        log_transaction.append(*document, change, None, *at_ms)?;
    }
    log_transaction.totals.moved = log_transaction.totals.last;
    Ok(log_transaction.finish()?)
}
