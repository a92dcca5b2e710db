//! Whether a received snapshot can be installed here: its history must not be unrelated, and local
//! unsent changes whose actor and sequence number it contains are superseded.

use landfall_protocol::ChangeHash;
use landfall_protocol::compacted::PackedIndex;
use rusqlite::Connection;

use crate::store::log::graph::{self, Node};
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::DocumentRow;
use crate::store::log::snapshots::compacted_heads;

/// Whether the two histories share a change; if they do, they share a root.
pub(super) fn is_related(
    log_transaction: &LogTransaction<'_>,
    row: DocumentRow,
    tail: &[Node],
    index: &PackedIndex,
) -> rusqlite::Result<bool> {
    let conn = log_transaction.conn;
    if tail.iter().any(|node| index.contains(&node.hash)) {
        return Ok(true);
    }
    let compacted = compacted_heads(conn, row)?;
    if compacted.is_empty() || compacted.iter().any(|(head, _)| index.contains(head)) {
        return Ok(!compacted.is_empty());
    }
    // The received history may end within the compacted one.
    let ours = log_transaction.indexes.of(conn, row)?;
    Ok(ours.is_some_and(|ours| ours.hashes().any(|hash| index.contains(&hash))))
}

/// The first change of the tail whose actor and sequence number another change has, and that other
/// change.
pub(super) fn conflict(
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
