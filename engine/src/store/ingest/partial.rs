//! The parts of a snapshot that is being received: kept across connections and restarts, one snapshot
//! for each space and upstream.

use landfall_protocol::frame::Partial;
use landfall_protocol::{DocumentId, limits};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::log::rows::{SpaceRow, UpstreamRow};
use crate::store::{LocalLog, ReceiveError};

/// A part of a snapshot.
#[derive(Debug)]
pub(crate) struct SnapshotPart {
    pub(crate) document: DocumentId,
    pub(crate) hash: [u8; 32],
    /// The total size of the snapshot in bytes.
    pub(crate) total: u64,
    /// The offset in bytes at which this part begins.
    pub(crate) from: u64,
    pub(crate) bytes: Vec<u8>,
}

impl LocalLog {
    /// Stores a part. One that begins at 0 replaces the parts of any earlier snapshot; every other one
    /// must continue the parts that are there.
    pub(crate) fn submit_part(
        &self,
        space: SpaceRow,
        part: SnapshotPart,
        done: impl FnOnce(Result<Committed<()>, WriteError<ReceiveError>>) + Send + 'static,
    ) {
        let whose = self.whose;
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = whose.row(tx)?.ok_or(ReceiveError::NoUpstream)?;
            keep(tx, upstream, space, &part)
        };
        self.db.submit(Durability::Relaxed, job, done);
    }
}

fn keep(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    part: &SnapshotPart,
) -> Result<(), ReceiveError> {
    let known = partial(conn, upstream, space)?.filter(|known| known.hash == part.hash);
    let at = known.map_or(0, |known| known.bytes);
    let end = part.from + part.bytes.len() as u64;
    if part.total > limits::SNAPSHOT_BYTES as u64 || end > part.total {
        return Err(ReceiveError::Part { from: part.from, at, total: part.total });
    }
    if part.from == 0 {
        forget(conn, upstream, space)?;
        conn.prepare_cached(
            "INSERT INTO partial (upstream, space, document, hash, total, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, 0)",
        )?
        .execute(params![
            upstream.0,
            space.0,
            part.document.as_bytes(),
            part.hash,
            part.total
        ])?;
    } else if part.from != at {
        return Err(ReceiveError::Part { from: part.from, at, total: part.total });
    }
    conn.prepare_cached(
        "INSERT INTO partial_part (upstream, space, start, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![upstream.0, space.0, part.from, part.bytes])?;
    conn.prepare_cached("UPDATE partial SET bytes = ?3 WHERE upstream = ?1 AND space = ?2")?
        .execute(params![upstream.0, space.0, end])?;
    Ok(())
}

/// The snapshot that has arrived in part.
pub(in crate::store) fn partial(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<Option<Partial>> {
    conn.prepare_cached("SELECT hash, bytes FROM partial WHERE upstream = ?1 AND space = ?2")?
        .query_row(params![upstream.0, space.0], |row| {
            Ok(Partial { hash: row.get(0)?, bytes: row.get(1)? })
        })
        .optional()
}

/// Removes the parts that have arrived.
pub(in crate::store) fn forget(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM partial_part WHERE upstream = ?1 AND space = ?2")?
        .execute(params![upstream.0, space.0])?;
    conn.prepare_cached("DELETE FROM partial WHERE upstream = ?1 AND space = ?2")?
        .execute(params![upstream.0, space.0])?;
    Ok(())
}
