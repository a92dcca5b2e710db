//! Whether a received snapshot can be installed here: its history must not be unrelated, and local
//! unsent changes whose actor and sequence number it contains are superseded.

use landfall_protocol::ChangeHash;
use landfall_protocol::admission::HistoryError;
use landfall_protocol::compacted::PackedIndex;
use rusqlite::Connection;

use super::deferred::Wait;
use super::prepare::ReadySnapshot;
use super::receive::ReceiveTransaction;
use crate::store::log::graph::{self, Node};
use crate::store::log::rows::{DocumentRow, merges, parts};
use crate::store::log::snapshots::compacted_heads;

/// Prepares a document for a received snapshot; returns why it cannot be installed now, if it cannot.
pub(in crate::store) fn check(
    writing: &mut ReceiveTransaction<'_>,
    ready: &ReadySnapshot,
    row: DocumentRow,
) -> rusqlite::Result<Result<(), (Wait, String)>> {
    let (conn, space) = (writing.log_transaction.conn, writing.log_transaction.space);
    let index = &ready.theirs().index;
    let tail = graph::tail(conn, row)?;
    if parts(conn, row)?.changes() > 0
        && !merges(conn, space, &ready.document)?
        && !is_related(writing, row, &tail, index)?
    {
        return Ok(Err((Wait::Merge, HistoryError::Unrelated.to_string())));
    }
    while let Some((hash, theirs)) = conflict(conn, row, index)? {
        if !writing.make_room(ready.document, hash)? {
            let reason = format!("it contains {theirs} in place of {hash}, which the relay has");
            return Ok(Err((Wait::Never, reason)));
        }
    }
    Ok(Ok(()))
}

/// Whether the two histories share a change; if they do, they share a root.
fn is_related(
    writing: &ReceiveTransaction<'_>,
    row: DocumentRow,
    tail: &[Node],
    index: &PackedIndex,
) -> rusqlite::Result<bool> {
    let conn = writing.log_transaction.conn;
    if tail.iter().any(|node| index.contains(&node.hash)) {
        return Ok(true);
    }
    let compacted = compacted_heads(conn, row)?;
    if compacted.is_empty() || compacted.iter().any(|(head, _)| index.contains(head)) {
        return Ok(!compacted.is_empty());
    }
    // The received history may end within the compacted one.
    let ours = writing.log_transaction.indexes.of(conn, row)?;
    Ok(ours.is_some_and(|ours| ours.hashes().any(|hash| index.contains(&hash))))
}

/// The first change of the tail whose actor and sequence number another change has, and that other
/// change.
fn conflict(
    conn: &Connection,
    row: DocumentRow,
    index: &PackedIndex,
) -> rusqlite::Result<Option<(ChangeHash, ChangeHash)>> {
    let other = |node: &Node| {
        let theirs = index.at(&node.actor, node.seq).filter(|theirs| *theirs != node.hash)?;
        Some((node.hash, theirs))
    };
    Ok(graph::tail(conn, row)?.iter().find_map(other))
}
