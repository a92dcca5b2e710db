//! Installs a snapshot under a document's tail: the result of a local compaction, or one received from
//! an upstream. Rows that the snapshot contains are dead from then on, and removed later, in slices.

use landfall_protocol::admission::preflight;
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::{ChangeHash, DocumentId};
use rusqlite::{Connection, params};

use crate::store::log::digests::set_heads;
use crate::store::log::graph;
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{
    DocumentCounts, DocumentRow, UpstreamRow, hash_of, heads, parts, set_parts, sweep_through,
};
use crate::store::log::snapshots::{Opened, put};
use crate::store::upstream::acked;
use crate::store::upstream::links;

/// The source of a snapshot.
pub(in crate::store) enum Source {
    /// A local compaction of everything up to this local sequence number.
    Compaction { through: u64 },
    /// An upstream. `acked`: it holds everything that is in the snapshot.
    Upstream { upstream: UpstreamRow, acked: bool },
}

/// A row of the tail.
struct TailRow {
    local: u64,
    hash: ChangeHash,
    bytes: u64,
}

/// Installs a snapshot. It must contain everything that the snapshot before it contained.
pub(in crate::store) fn install(
    log_transaction: &mut LogTransaction<'_>,
    document: &DocumentId,
    opened: &Opened,
    source: &Source,
) -> rusqlite::Result<()> {
    let row = log_transaction.settle(document)?;
    let (conn, space) = (log_transaction.conn, log_transaction.space);
    let before = parts(conn, row)?;
    let (compacted, rest): (Vec<TailRow>, Vec<TailRow>) = tail(conn, row, before.base)?
        .into_iter()
        .partition(|change| opened.index.contains(&change.hash));
    // A received snapshot may contain changes that were never here, so it takes a new local number,
    // behind which whatever it lacks is renumbered.
    let base = match source {
        Source::Compaction { through } => *through,
        Source::Upstream { .. } => log_transaction.next_local(),
    };
    let after = DocumentCounts {
        base,
        tail_changes: rest.len() as u64,
        tail_bytes: rest.iter().map(|change| change.bytes).sum(),
        compacted_changes: opened.changes(),
        snapshot_bytes: opened.body.len() as u64,
        operations: match source {
            Source::Compaction { .. } => before.operations.max(opened.operations),
            // It may contain changes that were not here, so the sum is computed again.
            Source::Upstream { .. } => opened.operations + operations_behind(conn, row, &rest)?,
        },
        counter: before.counter.max(opened.counter()),
        compacted_counter: opened.counter(),
    };
    let change =
        Change { row, before, after, compacted: locals(&compacted), bytes: bytes(&compacted) };
    // Acked ranges name rows of the log, which are dead now: each upstream's counts move to the
    // snapshot.
    for upstream in links::linked(conn, space)? {
        count(conn, log_transaction, upstream, &change, source)?;
    }
    put(conn, row, opened)?;
    set_parts(conn, &mut log_transaction.totals, row, &before, &after)?;
    let moved: Vec<u64> =
        rest.iter().map(|change| change.local).filter(|local| *local <= base).collect();
    renumber(log_transaction, row, &moved)?;
    let covered = match source {
        Source::Compaction { .. } => None,
        Source::Upstream { upstream, .. } => Some(*upstream),
    };
    links::note_vacant(conn, space, covered)?;
    if let Source::Upstream { upstream, .. } = source {
        log_transaction.totals.moved = log_transaction.totals.last;
        // These numbers are vacant now, and this upstream is the one in use: its acked ranges cover
        // them.
        let mut vacant = change.compacted;
        vacant.insert(base, base);
        moved.iter().for_each(|local| drop(vacant.insert(*local, *local)));
        acked::cover(conn, *upstream, space, &vacant)?;
        let (old, new) = (heads(conn, row)?, graph::heads(conn, row)?);
        set_heads(conn, space, (row, document), &old, &new)?;
    }
    conn.prepare_cached(
        "UPDATE document SET fold_failed = NULL, fold_version = NULL, fold_reason = NULL
         WHERE id = ?1",
    )?
    .execute([row.0])?;
    // Every row that is not in the snapshot has a number greater than `base` by now.
    sweep_through(conn, row, base)?;
    log_transaction.indexes.add(row, opened.hash, std::sync::Arc::clone(&opened.index));
    Ok(())
}

fn tail(conn: &Connection, row: DocumentRow, base: u64) -> rusqlite::Result<Vec<TailRow>> {
    conn.prepare_cached(
        "SELECT local, hash, length(body) FROM change WHERE document = ?1 AND local > ?2
         ORDER BY local",
    )?
    .query_map(params![row.0, base], |row| {
        Ok(TailRow { local: row.get(0)?, hash: hash_of(row.get(1)?), bytes: row.get(2)? })
    })?
    .collect()
}

/// The operations of changes that a snapshot does not contain.
fn operations_behind(
    conn: &Connection,
    row: DocumentRow,
    rest: &[TailRow],
) -> rusqlite::Result<u64> {
    let mut body =
        conn.prepare_cached("SELECT body FROM change WHERE document = ?1 AND local = ?2")?;
    let mut operations = 0;
    for change in rest {
        let body: Vec<u8> = body.query_row(params![row.0, change.local], |row| row.get(0))?;
        operations += preflight(&body).map_or(0, |change| change.stored_operations);
    }
    Ok(operations)
}

fn locals(rows: &[TailRow]) -> IntervalSet {
    rows.iter().map(|change| (change.local, change.local)).collect()
}

fn bytes(rows: &[TailRow]) -> u64 {
    rows.iter().map(|change| change.bytes).sum()
}

/// A document before and after a snapshot is installed.
struct Change {
    row: DocumentRow,
    before: DocumentCounts,
    after: DocumentCounts,
    /// The numbers of the rows that the snapshot contains.
    compacted: IntervalSet,
    bytes: u64,
}

/// Updates an upstream's counts, and whether the snapshot is unacked there.
fn count(
    conn: &Connection,
    log_transaction: &LogTransaction<'_>,
    upstream: UpstreamRow,
    change: &Change,
    source: &Source,
) -> rusqlite::Result<()> {
    let Change { row, before, after, compacted, bytes } = change;
    let space = log_transaction.space;
    let acked_rows = acked::acked_of(conn, upstream, space, compacted)?;
    let mut acked_bytes = 0;
    for (first, last) in acked_rows.iter() {
        acked_bytes += body_bytes(conn, *row, first, last)?;
    }
    let base_acked =
        before.compacted_changes > 0 && !acked::has_unacked_snapshot(conn, upstream, *row)?;
    acked::add_acked(conn, upstream, space, (acked_rows.len(), acked_bytes), -1)?;
    if base_acked {
        let base = (before.compacted_changes, before.snapshot_bytes);
        acked::add_acked(conn, upstream, space, base, -1)?;
    }
    // Every change in the snapshot was here before, and the upstream held all of them.
    let nothing_new = after.compacted_changes == before.compacted_changes + compacted.len();
    let parts_held = (before.compacted_changes == 0 || base_acked)
        && acked_rows.len() == compacted.len()
        && acked_bytes == *bytes;
    let acked = match source {
        Source::Upstream { upstream: from, acked } if *from == upstream => *acked,
        _ => nothing_new && parts_held,
    };
    conn.prepare_cached("DELETE FROM owed WHERE upstream = ?1 AND document = ?2")?
        .execute(params![upstream.0, row.0])?;
    if acked {
        let base = (after.compacted_changes, after.snapshot_bytes);
        acked::add_acked(conn, upstream, space, base, 1)
    } else {
        conn.prepare_cached(
            "INSERT INTO owed (upstream, space, local, document) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![upstream.0, space.0, after.base, row.0])?;
        Ok(())
    }
}

fn body_bytes(conn: &Connection, row: DocumentRow, first: u64, last: u64) -> rusqlite::Result<u64> {
    conn.prepare_cached(
        "SELECT coalesce(sum(length(body)), 0) FROM change
         WHERE document = ?1 AND local BETWEEN ?2 AND ?3",
    )?
    .query_row(params![row.0, first, last], |row| row.get(0))
}

/// Gives changes new local numbers, in their order, so that they follow the snapshot. Each upstream's
/// acked ranges follow them.
pub(super) fn renumber(
    log_transaction: &mut LogTransaction<'_>,
    row: DocumentRow,
    moved: &[u64],
) -> rusqlite::Result<()> {
    let (conn, space) = (log_transaction.conn, log_transaction.space);
    let upstreams = links::linked(conn, space)?;
    let old: IntervalSet = moved.iter().map(|local| (*local, *local)).collect();
    let mut acked = Vec::with_capacity(upstreams.len());
    for upstream in upstreams {
        acked.push((upstream, acked::acked_of(conn, upstream, space, &old)?, IntervalSet::new()));
    }
    for &local in moved {
        let new = log_transaction.next_local();
        conn.prepare_cached("UPDATE change SET local = ?3 WHERE document = ?1 AND local = ?2")?
            .execute(params![row.0, local, new])?;
        for (_, before, after) in &mut acked {
            if before.contains(local) {
                after.insert(new, new);
            }
        }
    }
    acked.iter().try_for_each(|(upstream, _, after)| acked::cover(conn, *upstream, space, after))
}
