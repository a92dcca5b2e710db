//! Acked ranges: disjoint ranges of local sequence numbers that an upstream is known to hold, beside
//! all snapshots except the unacked ones in `unacked`. The rest is the outbox. An abandoned upstream costs
//! its ranges and nothing for each new change.
//!
//! A number whose change is no longer in the log (compacted, superseded, of a deleted document) is
//! *vacant*. The ranges of the upstream in use cover the vacant numbers too, so that every gap between
//! them is alive; only live changes are counted.

use landfall_protocol::intervals::IntervalSet;
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::log::rows::{DocumentRow, SpaceRow, UpstreamRow, parts};

/// Adds acked ranges. Numbers that were in a range already count once.
pub(in crate::store) fn hold(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    locals: &IntervalSet,
) -> rusqlite::Result<()> {
    for (first, last) in locals.iter() {
        for (first, last) in gaps_between(conn, upstream, space, first, last)? {
            count_acked(conn, upstream, space, first, last, 1)?;
        }
    }
    cover(conn, upstream, space, locals)
}

/// Extends the ranges without counting: the changes there are counted already, or the numbers are
/// vacant.
pub(in crate::store) fn cover(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    locals: &IntervalSet,
) -> rusqlite::Result<()> {
    for (first, last) in locals.iter() {
        let (mut from, mut to) = (first, last);
        for (first, last) in touching(conn, upstream, space, first, last)? {
            from = from.min(first);
            to = to.max(last);
            delete_range(conn, upstream, space, first)?;
        }
        insert_range(conn, upstream, space, from, to)?;
    }
    Ok(())
}

/// The local sequence numbers of a document's live changes in the tail.
pub(in crate::store) fn locals(
    conn: &Connection,
    document: DocumentRow,
) -> rusqlite::Result<IntervalSet> {
    let base = parts(conn, document)?.base;
    let mut locals = IntervalSet::new();
    let mut statement = conn.prepare_cached(
        "SELECT local FROM change WHERE document = ?1 AND local > ?2 ORDER BY local",
    )?;
    let mut rows = statement.query(params![document.0, base])?;
    while let Some(row) = rows.next()? {
        let local = row.get(0)?;
        locals.insert(local, local);
    }
    Ok(locals)
}

/// The subset of these numbers that the upstream holds.
pub(in crate::store) fn acked_of(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    locals: &IntervalSet,
) -> rusqlite::Result<IntervalSet> {
    let mut acked = IntervalSet::new();
    for (first, last) in locals.iter() {
        acked.insert(first, last);
        for (first, last) in gaps_between(conn, upstream, space, first, last)? {
            acked.remove(first, last);
        }
    }
    Ok(acked)
}

/// Removes one document's changes, including its snapshot, from the acked ranges.
pub(super) fn release_document(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<()> {
    release(conn, upstream, space, &locals(conn, document)?)?;
    add_unacked(conn, upstream, space, document)
}

/// Removes changes from the acked ranges.
pub(in crate::store) fn release(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    locals: &IntervalSet,
) -> rusqlite::Result<()> {
    let released = acked_of(conn, upstream, space, locals)?;
    if let Some((first, _)) = released.iter().next() {
        conn.prepare_cached(
            "UPDATE link SET unheld_from = min(unheld_from, ?3)
             WHERE upstream = ?1 AND space = ?2",
        )?
        .execute(params![upstream.0, space.0, first])?;
    }
    for (first, last) in released.iter() {
        count_acked(conn, upstream, space, first, last, -1)?;
        for (from, to) in touching(conn, upstream, space, first, last)? {
            if to < first || last < from {
                continue;
            }
            delete_range(conn, upstream, space, from)?;
            if from < first {
                insert_range(conn, upstream, space, from, first - 1)?;
            }
            if last < to {
                insert_range(conn, upstream, space, last + 1, to)?;
            }
        }
    }
    Ok(())
}

/// Records that the upstream lacks part of a document's snapshot.
pub(in crate::store) fn add_unacked(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<()> {
    let parts = parts(conn, document)?;
    if parts.compacted_changes == 0 {
        return Ok(());
    }
    let new = conn
        .prepare_cached(
            "INSERT OR IGNORE INTO owed (upstream, space, local, document)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![upstream.0, space.0, parts.base, document.0])?;
    if new > 0 {
        let (changes, bytes) = (parts.compacted_changes, parts.snapshot_bytes);
        add_acked(conn, upstream, space, (changes, bytes), -1)?;
    }
    Ok(())
}

/// Records that the upstream holds everything in a document's snapshot.
pub(in crate::store) fn settle(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<()> {
    let gone = conn
        .prepare_cached("DELETE FROM owed WHERE upstream = ?1 AND document = ?2")?
        .execute(params![upstream.0, document.0])?;
    if gone > 0 {
        let parts = parts(conn, document)?;
        let (changes, bytes) = (parts.compacted_changes, parts.snapshot_bytes);
        add_acked(conn, upstream, space, (changes, bytes), 1)?;
    }
    Ok(())
}

/// Whether the upstream is not known to hold all of a document's snapshot.
pub(in crate::store) fn has_unacked_snapshot(
    conn: &Connection,
    upstream: UpstreamRow,
    document: DocumentRow,
) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM owed WHERE upstream = ?1 AND document = ?2")?
        .exists(params![upstream.0, document.0])
}

fn insert_range(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    first: u64,
    last: u64,
) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO held (upstream, space, first, last) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![upstream.0, space.0, first, last])?;
    Ok(())
}

fn delete_range(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    first: u64,
) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM held WHERE upstream = ?1 AND space = ?2 AND first = ?3")?
        .execute(params![upstream.0, space.0, first])?;
    Ok(())
}

/// Adds the live changes of a range to an upstream's counts, or subtracts them.
fn count_acked(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    first: u64,
    last: u64,
    sign: i64,
) -> rusqlite::Result<()> {
    let alive = alive_between(conn, space, first, last)?;
    add_acked(conn, upstream, space, alive, sign)
}

/// How many changes and deletions of a range are alive, and their bytes.
pub(in crate::store) fn alive_between(
    conn: &Connection,
    space: SpaceRow,
    first: u64,
    last: u64,
) -> rusqlite::Result<(u64, u64)> {
    let (changes, bytes): (u64, u64) = conn
        .prepare_cached(
            "SELECT count(*), coalesce(sum(length(c.body)), 0)
             FROM change c JOIN document d ON d.id = c.document
             WHERE c.space = ?1 AND c.local BETWEEN ?2 AND ?3 AND c.local > d.base",
        )?
        .query_row(params![space.0, first, last], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let deletions: u64 = conn
        .prepare_cached(
            "SELECT count(*) FROM deleted WHERE space = ?1 AND local BETWEEN ?2 AND ?3",
        )?
        .query_row(params![space.0, first, last], |row| row.get(0))?;
    Ok((changes + deletions, bytes))
}

/// Adds to a link's counts of acked changes, or subtracts.
pub(in crate::store) fn add_acked(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    (changes, bytes): (u64, u64),
    sign: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE link SET held_changes = max(held_changes + ?3 * ?4, 0),
             held_bytes = max(held_bytes + ?3 * ?5, 0)
         WHERE upstream = ?1 AND space = ?2",
    )?
    .execute(params![upstream.0, space.0, sign, changes, bytes])?;
    Ok(())
}

/// The acked ranges that overlap or adjoin `first..=last`, in order.
fn touching(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    first: u64,
    last: u64,
) -> rusqlite::Result<Vec<(u64, u64)>> {
    // The ranges are disjoint: going down from `last`, the first one that ends before `first` ends the
    // search.
    let mut statement = conn.prepare_cached(
        "SELECT first, last FROM held WHERE upstream = ?1 AND space = ?2 AND first <= ?3
         ORDER BY first DESC",
    )?;
    let mut rows = statement.query(params![upstream.0, space.0, last + 1])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let range: (u64, u64) = (row.get(0)?, row.get(1)?);
        if range.1 + 1 < first {
            break;
        }
        found.push(range);
    }
    found.reverse();
    Ok(found)
}

/// Whether the upstream holds one number.
pub(in crate::store) fn is_acked(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    local: u64,
) -> rusqlite::Result<bool> {
    Ok(next_gap(conn, upstream, space, local, local)?.is_none())
}

/// The first gap of `from..=last` between acked ranges.
pub(super) fn next_gap(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    from: u64,
    last: u64,
) -> rusqlite::Result<Option<(u64, u64)>> {
    let mut at = from;
    while at <= last {
        let end: Option<u64> = conn
            .prepare_cached(
                "SELECT last FROM held WHERE upstream = ?1 AND space = ?2 AND first <= ?3
                 ORDER BY first DESC LIMIT 1",
            )?
            .query_row(params![upstream.0, space.0, at], |row| row.get(0))
            .optional()?;
        if let Some(end) = end.filter(|end| *end >= at) {
            at = end + 1;
            continue;
        }
        let next: Option<u64> = conn
            .prepare_cached(
                "SELECT min(first) FROM held WHERE upstream = ?1 AND space = ?2 AND first > ?3",
            )?
            .query_row(params![upstream.0, space.0, at], |row| row.get(0))?;
        return Ok(Some((at, next.map_or(last, |next| last.min(next - 1)))));
    }
    Ok(None)
}

/// The gaps of `first..=last` between acked ranges, in order.
pub(in crate::store) fn gaps_between(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    first: u64,
    last: u64,
) -> rusqlite::Result<Vec<(u64, u64)>> {
    let mut gaps = Vec::new();
    let mut next = first;
    for (from, to) in touching(conn, upstream, space, first, last)? {
        if from > next && next <= last {
            gaps.push((next, last.min(from - 1)));
        }
        next = next.max(to + 1);
    }
    if next <= last {
        gaps.push((next, last));
    }
    Ok(gaps)
}
