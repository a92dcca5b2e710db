//! A store's contents, for people. It reads rows and counts, and loads no document.

use landfall_protocol::frame::Filter;
use landfall_protocol::{Cursor, DocumentId, SpaceName, Upstream};
use rusqlite::{Connection, params};

use crate::store::ingest::resume;
use crate::store::log::rows::{self, SpaceRow, UpstreamRow};
use crate::store::upstream::{links, pending};
use crate::store::{LocalLog, Pending, ViewError};

/// A store's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// Bytes of the file, or of memory for a store in memory.
    pub bytes: u64,
    /// How many of them are free: they are used again before the file grows.
    pub free_bytes: u64,
    /// Its spaces, by name.
    pub spaces: Vec<InspectedSpace>,
}

/// A space's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedSpace {
    /// Its name.
    pub name: SpaceName,
    /// The last local sequence number.
    pub last: u64,
    /// The documents of it that are synced.
    pub filter: Filter,
    /// Documents that were deleted: their tombstones stay.
    pub deleted: u64,
    /// Deferred entries.
    pub deferred: u64,
    /// The relays that it was ever synced with.
    pub upstreams: Vec<InspectedUpstream>,
    /// Its documents, ordered by id.
    pub documents: Vec<InspectedDocument>,
}

/// The state of a space's sync with a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedUpstream {
    /// The relay.
    pub upstream: Upstream,
    /// Whether it was the last one connected.
    pub in_use: bool,
    /// The end of the copy of its log.
    pub cursor: Option<Cursor>,
    /// Changes that it is not known to hold.
    pub pending: Pending,
}

/// A document's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedDocument {
    /// The document.
    pub document: DocumentId,
    /// Changes that are not compacted.
    pub tail_changes: u64,
    /// Their bytes.
    pub tail_bytes: u64,
    /// Changes in its snapshot.
    pub compacted_changes: u64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// How many heads it has.
    pub heads: u64,
    /// How many actors have made changes of it.
    pub actors: u64,
    /// Why its last compaction failed, if it did.
    pub compaction_failed: Option<String>,
}

impl LocalLog {
    /// Reads all counts. Reads no change and loads no document.
    pub(crate) fn inspect(&self) -> Result<Inspection, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let in_use = whose.row(conn)?;
            let number = |pragma: &str| -> rusqlite::Result<u64> {
                conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            };
            let page = number("page_size")?;
            let (pages, free) = (number("page_count")?, number("freelist_count")?);
            let mut spaces = Vec::new();
            let names: Vec<(i64, String)> = conn
                .prepare("SELECT id, name FROM space ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (row, name) in names {
                // Names were checked when they were written.
                let Ok(name) = name.parse() else { continue };
                spaces.push(inspect_space(conn, name, SpaceRow(row), in_use)?);
            }
            Ok(Inspection { bytes: page * pages, free_bytes: page * free, spaces })
        })
    }
}

fn inspect_space(
    conn: &Connection,
    name: SpaceName,
    space: SpaceRow,
    in_use: Option<UpstreamRow>,
) -> rusqlite::Result<InspectedSpace> {
    let totals = rows::space_totals(conn, space)?;
    let waiting = rows::space_waiting(conn, space)?;
    let count = |table: &str| -> rusqlite::Result<u64> {
        let sql = format!("SELECT count(*) FROM {table} WHERE space = ?1");
        conn.query_row(&sql, [space.0], |row| row.get(0))
    };
    let mut upstreams = Vec::new();
    for upstream in links::linked(conn, space)? {
        upstreams.push(InspectedUpstream {
            upstream: conn
                .prepare_cached("SELECT identity FROM upstream WHERE id = ?1")?
                .query_row([upstream.0], |row| row.get(0).map(Upstream::from_bytes))?,
            in_use: in_use == Some(upstream),
            cursor: links::cursor(conn, upstream, space)?.0,
            pending: pending::pending(conn, Some(upstream), space, totals, &waiting)?,
        });
    }
    let filter = resume::filter(conn, space)?;
    let (deleted, deferred) = (count("deleted")?, count("aside")?);
    let documents = inspect_documents(conn, space)?;
    let last = totals.last;
    Ok(InspectedSpace { name, last, filter, deleted, deferred, upstreams, documents })
}

fn inspect_documents(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<Vec<InspectedDocument>> {
    let inspected = |row: &rusqlite::Row<'_>| {
        Ok(InspectedDocument {
            document: DocumentId::from_bytes(row.get(0)?),
            tail_changes: row.get(1)?,
            tail_bytes: row.get(2)?,
            compacted_changes: row.get(3)?,
            snapshot_bytes: row.get(4)?,
            heads: row.get(5)?,
            actors: row.get(6)?,
            compaction_failed: row.get(7)?,
        })
    };
    conn.prepare(
        "SELECT document, tail_changes, tail_bytes, folded_changes, folded_bytes,
             (SELECT count(*) FROM head WHERE document = d.id),
             (SELECT count(*) FROM (SELECT actor FROM change WHERE document = d.id
                 UNION SELECT actor FROM folded_actor WHERE document = d.id)),
             CASE WHEN fold_failed IS NULL THEN NULL ELSE fold_reason END
         FROM document d WHERE space = ?1 AND tail_changes + folded_changes > 0
         ORDER BY document",
    )?
    .query_map(params![space.0], inspected)?
    .collect()
}
