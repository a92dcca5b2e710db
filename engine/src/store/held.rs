//! What an upstream is known to hold of a space: disjoint ranges of local sequence numbers. What
//! lies between them is the outbox. A dead upstream costs its ranges and nothing per new change.

use landfall_protocol::frame::Mark;
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::replica::{OutboxChange, ResumePoint};
use landfall_protocol::{Cursor, DocumentId, Epoch, Local, Offset, Scope, Upstream};
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{DocumentRow, SpaceRow, SpaceTotals, UpstreamRow, space_totals};

/// What an upstream does not hold yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// Changes.
    pub changes: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The upstream that was met last, if any ever was.
pub(super) fn last_met(conn: &Connection) -> rusqlite::Result<Option<(UpstreamRow, Upstream)>> {
    conn.prepare_cached("SELECT id, identity FROM upstream ORDER BY met DESC LIMIT 1")?
        .query_row([], |row| Ok((UpstreamRow(row.get(0)?), Upstream::from_bytes(row.get(1)?))))
        .optional()
}

/// Notes that this upstream is the one in use.
pub(super) fn meet(conn: &Connection, identity: &Upstream) -> rusqlite::Result<UpstreamRow> {
    conn.prepare_cached(
        "INSERT INTO upstream (identity, met) VALUES (?1, (SELECT count(*) FROM upstream))
         ON CONFLICT (identity) DO UPDATE SET met = (SELECT max(met) + 1 FROM upstream)
         RETURNING id",
    )?
    .query_row([identity.as_bytes()], |row| row.get(0).map(UpstreamRow))
}

pub(super) fn ensure_link(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO link (upstream, space) VALUES (?1, ?2)")?
        .execute(params![upstream.0, space.0])?;
    Ok(())
}

pub(super) fn resume_point(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<ResumePoint> {
    let point = |row: &rusqlite::Row<'_>| {
        let cursor = match row.get::<_, Option<[u8; 16]>>(0)? {
            None => None,
            Some(epoch) => Some(Cursor {
                epoch: Epoch::from_bytes(epoch),
                offset: Offset(row.get(1)?),
                // A fingerprint uses all 64 bits.
                scope: Scope(row.get::<_, i64>(2)?.cast_unsigned()),
            }),
        };
        let acknowledged = match row.get::<_, Option<[u8; 16]>>(3)? {
            None => None,
            Some(epoch) => {
                Some(Mark { epoch: Epoch::from_bytes(epoch), offset: Offset(row.get(4)?) })
            }
        };
        Ok(ResumePoint { cursor, acknowledged })
    };
    let found = conn
        .prepare_cached(
            "SELECT epoch, offset, scope, ack_epoch, ack_offset FROM link
             WHERE upstream = ?1 AND space = ?2",
        )?
        .query_row(params![upstream.0, space.0], point)
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) fn set_cursor(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    cursor: &Cursor,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE link SET epoch = ?3, offset = ?4, scope = ?5 WHERE upstream = ?1 AND space = ?2",
    )?
    .execute(params![
        upstream.0,
        space.0,
        cursor.epoch.as_bytes(),
        cursor.offset.0,
        cursor.scope.0.cast_signed()
    ])?;
    Ok(())
}

pub(super) fn set_mark(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    mark: &Mark,
) -> rusqlite::Result<()> {
    // A mark of another epoch is of a later one: an upstream's epochs only ever follow each
    // other, and a reset forgets the mark. Within one epoch the greatest counts.
    conn.prepare_cached(
        "UPDATE link SET ack_epoch = ?3, ack_offset = ?4
         WHERE upstream = ?1 AND space = ?2 AND (ack_offset IS NULL OR ack_offset < ?4)",
    )?
    .execute(params![upstream.0, space.0, mark.epoch.as_bytes(), mark.offset.0])?;
    Ok(())
}

/// Forgets the cursor, the mark, and that anything is held.
pub(super) fn reset(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE link SET epoch = NULL, offset = NULL, scope = NULL, ack_epoch = NULL,
             ack_offset = NULL, held_changes = 0, held_bytes = 0
         WHERE upstream = ?1 AND space = ?2",
    )?
    .execute(params![upstream.0, space.0])?;
    conn.prepare_cached("DELETE FROM held WHERE upstream = ?1 AND space = ?2")?
        .execute(params![upstream.0, space.0])?;
    Ok(())
}

/// Adds to what is held. What was held already counts once.
pub(super) fn hold(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    locals: &IntervalSet,
) -> rusqlite::Result<()> {
    for (first, last) in locals.iter() {
        for (first, last) in gaps_between(conn, upstream, space, first, last)? {
            count_held(conn, upstream, space, first, last, 1)?;
        }
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

/// Takes one document's changes out of what is held.
pub(super) fn release_document(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<()> {
    let locals: Vec<u64> = conn
        .prepare_cached("SELECT local FROM change WHERE document = ?1 ORDER BY local")?
        .query_map([document.0], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for local in locals {
        for (first, last) in touching(conn, upstream, space, local, local)? {
            if !(first..=last).contains(&local) {
                continue;
            }
            count_held(conn, upstream, space, local, local, -1)?;
            delete_range(conn, upstream, space, first)?;
            if first < local {
                insert_range(conn, upstream, space, first, local - 1)?;
            }
            if local < last {
                insert_range(conn, upstream, space, local + 1, last)?;
            }
        }
    }
    Ok(())
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

fn count_held(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    first: u64,
    last: u64,
    sign: i64,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE link SET held_changes = held_changes + ?5 * (?4 - ?3 + 1),
             held_bytes = held_bytes + ?5 * (SELECT coalesce(sum(length(body)), 0) FROM change
                                             WHERE space = ?2 AND local BETWEEN ?3 AND ?4)
         WHERE upstream = ?1 AND space = ?2",
    )?
    .execute(params![upstream.0, space.0, first, last, sign])?;
    Ok(())
}

/// The held ranges that overlap or adjoin `first..=last`, in order.
fn touching(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    first: u64,
    last: u64,
) -> rusqlite::Result<Vec<(u64, u64)>> {
    // Ranges are disjoint, so going down from `last` the first that ends before `first` ends it.
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

/// What of `first..=last` is not held, in order.
pub(super) fn gaps_between(
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

/// What the upstream does not hold of a space; of an upstream never met, everything.
pub(super) fn pending(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    totals: SpaceTotals,
) -> rusqlite::Result<Pending> {
    let held: Option<(u64, u64)> = match upstream {
        None => None,
        Some(upstream) => conn
            .prepare_cached(
                "SELECT held_changes, held_bytes FROM link WHERE upstream = ?1 AND space = ?2",
            )?
            .query_row(params![upstream.0, space.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?,
    };
    let (changes, bytes) = held.unwrap_or_default();
    Ok(Pending { changes: totals.changes - changes, bytes: totals.bytes - bytes })
}

/// What the upstream does not hold of one document.
pub(super) fn pending_of_document(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    document: DocumentRow,
) -> rusqlite::Result<Pending> {
    let last = space_totals(conn, space)?.changes;
    let gaps = match upstream {
        None => vec![(1, last)],
        Some(upstream) => gaps_between(conn, upstream, space, 1, last)?,
    };
    let mut pending = Pending::default();
    for (first, last) in gaps {
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

/// The first local sequence number that is not held and not of a parked document.
pub(super) fn first_unheld(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<Option<u64>> {
    let (page, _) = outbox_page(conn, upstream, space, Local(0), 1, 1)?;
    Ok(page.first().map(|change| change.local.0))
}

/// A page of the outbox, without parked documents; `true` if it was cut.
pub(super) fn outbox_page(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    after: Local,
    changes: usize,
    bytes: usize,
) -> rusqlite::Result<(Vec<OutboxChange>, bool)> {
    let last = space_totals(conn, space)?.changes;
    let mut page = Vec::new();
    let mut weight = 0;
    for (first, last) in gaps_between(conn, upstream, space, after.0 + 1, last)? {
        let mut statement = conn.prepare_cached(
            "SELECT c.local, d.document, c.body FROM change c JOIN document d ON d.id = c.document
             WHERE c.space = ?2 AND c.local BETWEEN ?3 AND ?4 AND NOT EXISTS
                 (SELECT 1 FROM parked p WHERE p.upstream = ?1 AND p.document = c.document)
             ORDER BY c.local",
        )?;
        let mut rows = statement.query(params![upstream.0, space.0, first, last])?;
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(2)?;
            if page.len() >= changes || (weight + body.len() > bytes && !page.is_empty()) {
                return Ok((page, true));
            }
            weight += body.len();
            let document = DocumentId::from_bytes(row.get(1)?);
            page.push(OutboxChange { local: Local(row.get(0)?), document, bytes: body });
        }
    }
    Ok((page, false))
}
