//! Pending changes: how many an upstream is not known to hold, and where the first of them is.

use rusqlite::{Connection, OptionalExtension, params};

use super::acked::{gaps_between, has_unacked_snapshot, next_gap};
use crate::store::SpaceCount;
use crate::store::log::rows::{
    DocumentRow, SpaceRow, SpaceTotals, SpaceWaiting, UpstreamRow, parts, space_totals,
};

/// Changes that an upstream is not known to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// Changes.
    pub changes: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The pending changes of a space; with an upstream that was never connected, all of them.
pub(in crate::store) fn pending(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    totals: SpaceTotals,
    waiting: &SpaceWaiting,
) -> rusqlite::Result<Pending> {
    let acked: Option<(u64, u64)> = match upstream {
        None => None,
        Some(upstream) => conn
            .prepare_cached(
                "SELECT held_changes, held_bytes FROM link WHERE upstream = ?1 AND space = ?2",
            )?
            .query_row(params![upstream.0, space.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?,
    };
    let (changes, bytes) = acked.unwrap_or_default();
    // Superseded changes are not in the log any more, and on no relay.
    Ok(Pending {
        changes: totals.changes.saturating_sub(changes) + waiting.superseded_changes,
        bytes: totals.bytes.saturating_sub(bytes) + waiting.superseded_bytes,
    })
}

/// The pending changes of one document.
pub(in crate::store) fn pending_of_document(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<Pending> {
    let parts = parts(conn, document)?;
    let Some(upstream) = upstream else {
        return Ok(Pending { changes: parts.changes(), bytes: parts.bytes() });
    };
    let mut pending = superseded(conn, document)?;
    if has_unacked_snapshot(conn, upstream, document)? || !is_linked(conn, upstream, space)? {
        pending.changes += parts.compacted_changes;
        pending.bytes += parts.snapshot_bytes;
    }
    let last = space_totals(conn, space)?.last;
    for (first, last) in gaps_between(conn, upstream, space, parts.base + 1, last)? {
        let (changes, bytes): (u64, u64) = conn
            .prepare_cached(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM change
                 WHERE document = ?1 AND local BETWEEN ?2 AND ?3",
            )?
            .query_row(params![document.0, first, last], |row| Ok((row.get(0)?, row.get(1)?)))?;
        pending.changes += changes;
        pending.bytes += bytes;
    }
    Ok(pending)
}

fn is_linked(conn: &Connection, upstream: UpstreamRow, space: SpaceRow) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM link WHERE upstream = ?1 AND space = ?2")?
        .exists(params![upstream.0, space.0])
}

/// The first local sequence number that is not acked, including rejected documents.
pub(super) fn first_gap(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    totals: SpaceTotals,
    waiting: &SpaceWaiting,
) -> rusqlite::Result<Option<u64>> {
    let gap = next_gap(conn, upstream, space, 1, totals.last)?.map(|gap| gap.0);
    let unacked: Option<u64> = conn
        .prepare_cached("SELECT min(local) FROM owed WHERE upstream = ?1 AND space = ?2")?
        .query_row(params![upstream.0, space.0], |row| row.get(0))?;
    // Superseded changes count as older than everything in the log.
    let superseded = (waiting.superseded_changes > 0).then_some(1);
    Ok(gap.into_iter().chain(unacked).chain(superseded).min())
}

/// The first local sequence number that is not acked and not of a rejected document. It searches from
/// the link's `unacked_from` on, so that rejected changes are skipped once and not at each commit.
pub(super) fn first_unacked(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    totals: SpaceTotals,
) -> rusqlite::Result<Option<u64>> {
    let from = unacked_from(conn, upstream, space)?;
    first_unacked_after(conn, upstream, space, (from, totals.last))
}

/// As [`first_unacked`], between two numbers, both included.
pub(super) fn first_unacked_after(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    (from, last): (u64, u64),
) -> rusqlite::Result<Option<u64>> {
    let unacked: Option<u64> = conn
        .prepare_cached(
            "SELECT o.local FROM owed o WHERE o.upstream = ?1 AND o.space = ?2 AND o.local >= ?3
                 AND NOT EXISTS
                     (SELECT 1 FROM parked p WHERE p.upstream = ?1 AND p.document = o.document)
             ORDER BY o.local LIMIT 1",
        )?
        .query_row(params![upstream.0, space.0, from], |row| row.get(0))
        .optional()?;
    let mut at = from;
    while let Some((first, end)) = next_gap(conn, upstream, space, at, last)? {
        if let Some(found) = first_pushed(conn, upstream, space, (first, end))? {
            return Ok(Some(unacked.map_or(found, |unacked| unacked.min(found))));
        }
        at = end + 1;
    }
    Ok(unacked)
}

/// The first change or deletion of a range that is alive and not of a rejected document.
fn first_pushed(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    (first, last): (u64, u64),
) -> rusqlite::Result<Option<u64>> {
    let range = params![upstream.0, space.0, first, last];
    // Cross joins, so that SQLite walks the range by its index and stops at the first row.
    let change: Option<u64> = conn
        .prepare_cached(
            "SELECT c.local FROM change c CROSS JOIN document d ON d.id = c.document
             WHERE c.space = ?2 AND c.local BETWEEN ?3 AND ?4 AND c.local > d.base AND NOT EXISTS
                 (SELECT 1 FROM parked p WHERE p.upstream = ?1 AND p.document = c.document)
             ORDER BY c.local LIMIT 1",
        )?
        .query_row(range, |row| row.get(0))
        .optional()?;
    let deletion: Option<u64> = conn
        .prepare_cached(
            "SELECT x.local FROM deleted x
             WHERE x.space = ?2 AND x.local BETWEEN ?3 AND ?4 AND NOT EXISTS
                 (SELECT 1 FROM parked p WHERE p.upstream = ?1 AND p.document = x.document)
             ORDER BY x.local LIMIT 1",
        )?
        .query_row(range, |row| row.get(0))
        .optional()?;
    Ok(change.into_iter().chain(deletion).min())
}

/// A number before which there is no change to send: all unacked ones there are rejected.
pub(in crate::store) fn unacked_from(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<u64> {
    let found = conn
        .prepare_cached("SELECT unheld_from FROM link WHERE upstream = ?1 AND space = ?2")?
        .query_row(params![upstream.0, space.0], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(1))
}

/// How many numbers a count may skip again before `unacked_from` is written: most commits need not write
/// it.
const UNACKED_SLACK: u64 = 16;

/// Records how far a count searched, so that the next one begins there.
pub(super) fn note_unacked_from(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    count: &SpaceCount,
) -> rusqlite::Result<()> {
    if count.pending.changes == 0 {
        // A count without pending changes searches nothing.
        return Ok(());
    }
    let reached = count.first_unacked.unwrap_or(count.totals.last + 1);
    conn.prepare_cached(
        "UPDATE link SET unheld_from = ?3
         WHERE upstream = ?1 AND space = ?2 AND unheld_from + ?4 < ?3",
    )?
    .execute(params![upstream.0, space.0, reached, UNACKED_SLACK])?;
    Ok(())
}

/// The superseded changes of a document, which are on no relay.
pub(in crate::store) fn superseded(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<Pending> {
    conn.prepare_cached(
        "SELECT count(*), coalesce(sum(length(body)), 0) FROM displaced WHERE document = ?1
             AND NOT EXISTS (SELECT 1 FROM deleted WHERE document = ?1)",
    )?
    .query_row([document.0], |row| Ok(Pending { changes: row.get(0)?, bytes: row.get(1)? }))
}
