//! Checks a space's own records: its counts, its sums, the acked ranges of its upstreams. It changes
//! nothing unless a repair asks for it.

use landfall_protocol::Local;
use rusqlite::{Connection, params};

use super::findings::Fault;
use crate::store::log::digests;
use crate::store::log::rows::{
    SpaceRow, SpaceTotals, SpaceWaiting, UpstreamRow, space_totals, space_waiting,
};
use crate::store::upstream::outbox::outbox_page;
use crate::store::upstream::{acked, links, pending};

/// The faults of a space, without those of its documents.
pub(super) fn space_faults(
    conn: &Connection,
    space: SpaceRow,
    in_use: Option<UpstreamRow>,
) -> rusqlite::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let noted = space_totals(conn, space)?;
    let counted = totals(conn, space)?;
    if (noted.changes, noted.bytes) != (counted.changes, counted.bytes)
        || noted.last < counted.last
        || noted.added < counted.changes
        || space_waiting(conn, space)? != waiting(conn, space)?
    {
        faults.push(Fault::Counts);
    }
    let (kept, sums) = (digests::kept_sums(conn, space)?, digests::sums(conn, space)?);
    for (bucket, (kept, sum)) in (0u8..=255).zip(kept.iter().zip(&sums)) {
        if kept != sum {
            faults.push(Fault::Digest(bucket));
        }
    }
    for upstream in links::linked(conn, space)? {
        let ranges = ranges(conn, upstream, space)?;
        if !ranges_are_possible(&ranges, noted.last) {
            faults.push(Fault::Held("they overlap or end beyond the log"));
            continue;
        }
        if !unacked_is_right(conn, upstream, space)? {
            faults.push(Fault::Held("an unacked snapshot does not exist"));
        }
        if links::damaged(conn, upstream, space)? != damaged(conn, upstream, space)? {
            faults.push(Fault::Counts);
        }
        let (changes, bytes) = acked_counts(conn, upstream, space, &ranges)?;
        if (changes, bytes) != noted_counts(conn, upstream, space)? {
            faults.push(Fault::Held("their counts are wrong"));
        } else if in_use == Some(upstream) && !outbox_is_right(conn, upstream, space, &noted)? {
            faults.push(Fault::Held("the outbox differs from the rest of the log"));
        }
    }
    Ok(faults)
}

/// The totals of a space's documents; `last` is the greatest local number in use.
pub(in crate::store) fn totals(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<SpaceTotals> {
    let (changes, bytes, base): (u64, u64, u64) = conn
        .prepare_cached(
            "SELECT coalesce(sum(tail_changes + folded_changes), 0),
                 coalesce(sum(tail_bytes + folded_bytes), 0), coalesce(max(base), 0)
             FROM document WHERE space = ?1",
        )?
        .query_row([space.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let (deletions, deleted): (u64, u64) = conn
        .prepare_cached("SELECT count(*), coalesce(max(local), 0) FROM deleted WHERE space = ?1")?
        .query_row([space.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let last: u64 = conn
        .prepare_cached("SELECT coalesce(max(local), 0) FROM change WHERE space = ?1")?
        .query_row([space.0], |row| row.get(0))?;
    let (last, changes) = (last.max(base).max(deleted), changes + deletions);
    Ok(SpaceTotals { last, changes, bytes, added: changes, moved: 0 })
}

/// The entries beside a space's log, counted row by row.
pub(in crate::store) fn waiting(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<SpaceWaiting> {
    let (deferred_entries, deferred_waiting, deferred_damaged) = conn
        .prepare_cached(
            "SELECT count(*), coalesce(sum(wait = 1), 0), coalesce(sum(kind = 7), 0)
             FROM aside WHERE space = ?1",
        )?
        .query_row([space.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let (superseded_changes, superseded_bytes) = conn
        .prepare_cached(
            "SELECT count(*), coalesce(sum(length(x.body)), 0)
             FROM displaced x CROSS JOIN document d ON d.id = x.document
             WHERE d.space = ?1 AND NOT EXISTS (SELECT 1 FROM deleted t WHERE t.document = d.id)",
        )?
        .query_row([space.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(SpaceWaiting {
        deferred_entries,
        deferred_waiting,
        deferred_damaged,
        superseded_changes,
        superseded_bytes,
    })
}

/// Sets the counters of these entries.
pub(super) fn set_waiting(
    conn: &Connection,
    space: SpaceRow,
    waiting: &SpaceWaiting,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE space SET aside_entries = ?2, aside_waiting = ?3, displaced_changes = ?4,
             displaced_bytes = ?5, aside_damaged = ?6, refusals = refusals + 1 WHERE id = ?1",
    )?
    .execute(params![
        space.0,
        waiting.deferred_entries,
        waiting.deferred_waiting,
        waiting.superseded_changes,
        waiting.superseded_bytes,
        waiting.deferred_damaged
    ])?;
    Ok(())
}

/// The entries of a space that an upstream cannot read, counted row by row.
fn damaged(conn: &Connection, upstream: UpstreamRow, space: SpaceRow) -> rusqlite::Result<u64> {
    conn.prepare_cached(
        "SELECT count(*) FROM aside WHERE upstream = ?1 AND space = ?2 AND kind = 7",
    )?
    .query_row(params![upstream.0, space.0], |row| row.get(0))
}

/// Sets the counter of these entries.
pub(super) fn set_damaged(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE link SET damaged = ?3 WHERE upstream = ?1 AND space = ?2")?
        .execute(params![upstream.0, space.0, damaged(conn, upstream, space)?])?;
    Ok(())
}

pub(in crate::store) fn ranges(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<Vec<(u64, u64)>> {
    conn.prepare_cached(
        "SELECT first, last FROM held WHERE upstream = ?1 AND space = ?2 ORDER BY first",
    )?
    .query_map(params![upstream.0, space.0], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

fn ranges_are_possible(ranges: &[(u64, u64)], last: u64) -> bool {
    ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)
        && ranges.iter().all(|(first, end)| 1 <= *first && first <= end && *end <= last)
}

fn unacked_is_right(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<bool> {
    let wrong = conn
        .prepare_cached(
            "SELECT 1 FROM owed o LEFT JOIN document d ON d.id = o.document
             WHERE o.upstream = ?1 AND o.space = ?2
                 AND (d.id IS NULL OR d.folded_changes = 0 OR d.base <> o.local OR d.space <> ?2)",
        )?
        .exists(params![upstream.0, space.0])?;
    Ok(!wrong)
}

/// The acked changes of an upstream, computed from its ranges and its unacked snapshots.
pub(super) fn acked_counts(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    ranges: &[(u64, u64)],
) -> rusqlite::Result<(u64, u64)> {
    let (mut changes, mut bytes): (u64, u64) = conn
        .prepare_cached(
            "SELECT coalesce(sum(folded_changes), 0), coalesce(sum(folded_bytes), 0)
             FROM document d WHERE space = ?2 AND NOT EXISTS
                 (SELECT 1 FROM owed o WHERE o.upstream = ?1 AND o.document = d.id)",
        )?
        .query_row(params![upstream.0, space.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for (first, last) in ranges {
        let (more, more_bytes) = acked::alive_between(conn, space, *first, *last)?;
        (changes, bytes) = (changes + more, bytes + more_bytes);
    }
    Ok((changes, bytes))
}

fn noted_counts(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<(u64, u64)> {
    conn.prepare_cached(
        "SELECT held_changes, held_bytes FROM link WHERE upstream = ?1 AND space = ?2",
    )?
    .query_row(params![upstream.0, space.0], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Whether the outbox and the rejected documents together equal the pending counts, and whether the
/// gaps between the ranges contain nothing vacant.
fn outbox_is_right(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    noted: &SpaceTotals,
) -> rusqlite::Result<bool> {
    let gaps = acked::gaps_between(conn, upstream, space, 1, noted.last)?;
    for (first, last) in &gaps {
        if acked::alive_between(conn, space, *first, *last)?.0 != last - first + 1 {
            return Ok(false);
        }
    }
    let waiting = space_waiting(conn, space)?;
    let pending = pending::pending(conn, Some(upstream), space, *noted, &waiting)?;
    let (page, _) = outbox_page(conn, upstream, space, Local(0), 1, 1)?;
    let first = page.first().map(|change| change.local.0);
    let from = pending::unacked_from(conn, upstream, space)?;
    Ok((pending.changes > 0 || page.is_empty()) && first.is_none_or(|first| from <= first))
}
