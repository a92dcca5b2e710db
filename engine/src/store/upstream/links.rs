//! The state of a space's sync with an upstream: the cursor, the furthest ack, and the first and last
//! of its acked ranges.

use landfall_protocol::frame::Mark;
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::{Cursor, Epoch, Local, Offset, Scope, Upstream};
use landfall_storage::Durability;
use rusqlite::{Connection, OptionalExtension, params};

use super::acked;
use super::acked::{gaps_between, hold};
use crate::store::log::rows::{self, SpaceRow, UpstreamRow, space_totals};
use crate::store::{Done, LocalLog, SpaceCount};

/// The upstream that was connected last, if any.
pub(in crate::store) fn last_attached(
    conn: &Connection,
) -> rusqlite::Result<Option<(UpstreamRow, Upstream)>> {
    conn.prepare_cached("SELECT id, identity FROM upstream ORDER BY met DESC LIMIT 1")?
        .query_row([], |row| Ok((UpstreamRow(row.get(0)?), Upstream::from_bytes(row.get(1)?))))
        .optional()
}

/// An upstream's row, if it was ever connected.
fn upstream_row(conn: &Connection, identity: &Upstream) -> rusqlite::Result<Option<UpstreamRow>> {
    conn.prepare_cached("SELECT id FROM upstream WHERE identity = ?1")?
        .query_row([identity.as_bytes()], |row| row.get(0).map(UpstreamRow))
        .optional()
}

/// The upstream that a job refers to. It is looked up in the job's own transaction: a job about one
/// upstream is never credited to another, even if another one was connected meanwhile.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Whose {
    /// The one that was connected last when the job runs.
    LastMet,
    /// This one.
    Of(Upstream),
}

impl Whose {
    /// Its row, if it was ever connected.
    pub(in crate::store) fn row(self, conn: &Connection) -> rusqlite::Result<Option<UpstreamRow>> {
        match self {
            Self::LastMet => Ok(last_attached(conn)?.map(|(row, _)| row)),
            Self::Of(upstream) => upstream_row(conn, &upstream),
        }
    }
}

/// Records that this upstream is the one in use, the last one connected. `met` increases with each
/// change of the upstream and with nothing else.
pub(in crate::store) fn meet(
    conn: &Connection,
    identity: &Upstream,
) -> rusqlite::Result<UpstreamRow> {
    if let Some((row, last)) = last_attached(conn)?
        && last == *identity
    {
        return Ok(row);
    }
    conn.prepare_cached(
        "INSERT INTO upstream (identity, met)
             VALUES (?1, (SELECT coalesce(max(met), 0) + 1 FROM upstream))
         ON CONFLICT (identity) DO UPDATE SET met = excluded.met
         RETURNING id",
    )?
    .query_row([identity.as_bytes()], |row| row.get(0).map(UpstreamRow))
}

/// Makes sure that a link exists, in the state that the upstream in use requires. A new one has no
/// acked ranges, and every snapshot is unacked.
pub(in crate::store) fn ensure_link(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    let new = conn
        .prepare_cached("INSERT OR IGNORE INTO link (upstream, space) VALUES (?1, ?2)")?
        .execute(params![upstream.0, space.0])?;
    if new > 0 {
        unack_all(conn, upstream, space)?;
    }
    let vacant = conn
        .prepare_cached(
            "UPDATE link SET vacant = 0 WHERE upstream = ?1 AND space = ?2 AND vacant = 1",
        )?
        .execute(params![upstream.0, space.0])?;
    if new > 0 || vacant > 0 {
        cover_vacant(conn, upstream, space)?;
    }
    Ok(())
}

/// Records that numbers of a space became vacant that the acked ranges of links may not cover, except
/// those of this upstream.
pub(in crate::store) fn note_vacant(
    conn: &Connection,
    space: SpaceRow,
    except: Option<UpstreamRow>,
) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE link SET vacant = 1 WHERE space = ?1 AND upstream IS NOT ?2")?
        .execute(params![space.0, except.map(|upstream| upstream.0)])?;
    Ok(())
}

fn unack_all(conn: &Connection, upstream: UpstreamRow, space: SpaceRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR IGNORE INTO owed (upstream, space, local, document)
         SELECT ?1, space, base, id FROM document WHERE space = ?2 AND folded_changes > 0",
    )?
    .execute(params![upstream.0, space.0])?;
    Ok(())
}

/// The end of the copy of the log, and the furthest ack.
pub(in crate::store) fn cursor(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<(Option<Cursor>, Option<Mark>)> {
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
        Ok((cursor, acknowledged))
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

pub(in crate::store) fn set_cursor(
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

pub(in crate::store) fn set_mark(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    mark: &Mark,
) -> rusqlite::Result<()> {
    // A mark of another epoch is of a later one: an upstream's epochs only follow each other, and a
    // reset forgets the mark. Within one epoch the greatest counts.
    conn.prepare_cached(
        "UPDATE link SET ack_epoch = ?3, ack_offset = ?4
         WHERE upstream = ?1 AND space = ?2 AND (ack_offset IS NULL OR ack_offset < ?4)",
    )?
    .execute(params![upstream.0, space.0, mark.epoch.as_bytes(), mark.offset.0])?;
    Ok(())
}

/// How many entries of a space the upstream is known to have and cannot read. A trigger counts them.
pub(in crate::store) fn damaged(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<u64> {
    let found = conn
        .prepare_cached("SELECT damaged FROM link WHERE upstream = ?1 AND space = ?2")?
        .query_row(params![upstream.0, space.0], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Forgets the cursor, the mark and all acked ranges.
pub(in crate::store) fn reset(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE link SET epoch = NULL, offset = NULL, scope = NULL, ack_epoch = NULL,
             ack_offset = NULL, held_changes = 0, held_bytes = 0, unheld_from = 1
         WHERE upstream = ?1 AND space = ?2",
    )?
    .execute(params![upstream.0, space.0])?;
    conn.prepare_cached("DELETE FROM held WHERE upstream = ?1 AND space = ?2")?
        .execute(params![upstream.0, space.0])?;
    conn.prepare_cached("DELETE FROM owed WHERE upstream = ?1 AND space = ?2")?
        .execute(params![upstream.0, space.0])?;
    // Its log is another one by now: it reports again which entries are still damaged.
    forget_damage(conn, upstream, space)?;
    unack_all(conn, upstream, space)?;
    cover_vacant(conn, upstream, space)
}

/// Forgets only the cursor: the log is read again from its start, or compared.
pub(in crate::store) fn forget_cursor(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE link SET epoch = NULL, offset = NULL, scope = NULL
         WHERE upstream = ?1 AND space = ?2",
    )?
    .execute(params![upstream.0, space.0])?;
    Ok(())
}

/// Extends the acked ranges over the vacant numbers, as the upstream in use requires.
fn cover_vacant(conn: &Connection, upstream: UpstreamRow, space: SpaceRow) -> rusqlite::Result<()> {
    let last = space_totals(conn, space)?.last;
    let mut vacant = IntervalSet::new();
    for (first, last) in gaps_between(conn, upstream, space, 1, last)? {
        let mut next = first;
        let mut statement = conn.prepare_cached(
            "SELECT c.local FROM change c JOIN document d ON d.id = c.document
             WHERE c.space = ?1 AND c.local BETWEEN ?2 AND ?3 AND c.local > d.base
             UNION ALL SELECT local FROM deleted WHERE space = ?1 AND local BETWEEN ?2 AND ?3
             ORDER BY 1",
        )?;
        let mut rows = statement.query(params![space.0, first, last])?;
        while let Some(row) = rows.next()? {
            let local: u64 = row.get(0)?;
            if local > next {
                vacant.insert(next, local - 1);
            }
            next = local + 1;
        }
        if next <= last {
            vacant.insert(next, last);
        }
    }
    hold(conn, upstream, space, &vacant)
}

/// Every upstream that this space was ever linked with.
pub(in crate::store) fn linked(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<Vec<UpstreamRow>> {
    conn.prepare_cached("SELECT upstream FROM link WHERE space = ?1")?
        .query_map([space.0], |row| row.get(0).map(UpstreamRow))?
        .collect()
}

impl LocalLog {
    /// Forgets the cursor, the mark and the acked ranges of the upstream in use. Returns the last local
    /// sequence number.
    pub(crate) fn submit_reset(&self, space: SpaceRow, done: Done<(SpaceCount, Local)>) {
        self.submit_link(space, done, move |tx, upstream| {
            reset(tx, upstream, space)?;
            for table in ["parked", "refused"] {
                tx.prepare_cached(&format!(
                    "DELETE FROM {table} WHERE upstream = ?1
                         AND document IN (SELECT id FROM document WHERE space = ?2)"
                ))?
                .execute(params![upstream.0, space.0])?;
            }
            Ok(Local(rows::space_totals(tx, space)?.last))
        });
    }

    /// Records changes that the upstream in use has on its disk.
    pub(crate) fn submit_acknowledged(
        &self,
        space: SpaceRow,
        locals: Vec<Local>,
        mark: Mark,
        done: Done<(SpaceCount, ())>,
    ) {
        let mut ranges = IntervalSet::new();
        for local in locals {
            ranges.insert(local.0, local.0);
        }
        self.submit_link(space, done, move |tx, upstream| {
            acked::hold(tx, upstream, space, &ranges)?;
            set_mark(tx, upstream, space, &mark)
        });
    }

    /// Bookkeeping about the upstream in use. A power cut may lose it, and it is then done again, since
    /// pushing is idempotent. So it takes no fsync of its own.
    pub(in crate::store) fn submit_link<T: Default + Send + 'static>(
        &self,
        space: SpaceRow,
        done: Done<(SpaceCount, T)>,
        job: impl FnOnce(&Connection, UpstreamRow) -> rusqlite::Result<T> + Send + 'static,
    ) {
        let whose = self.whose;
        let job = move |tx: &rusqlite::Transaction<'_>| match whose.row(tx)? {
            Some(upstream) => job(tx, upstream),
            None => Ok(T::default()),
        };
        self.submit_in_space(Durability::Relaxed, space, job, done);
    }
}

/// Removes the records of entries that the upstream has and cannot read.
pub(super) fn forget_damage(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM aside WHERE space = ?1 AND kind = 7 AND upstream = ?2";
    conn.prepare_cached(sql)?.execute(params![space.0, upstream.0])?;
    Ok(())
}
