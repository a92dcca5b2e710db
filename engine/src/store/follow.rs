//! Follows the process that writes a store, for a store that is open for reading only: reads everything
//! that was committed since the last look, in one snapshot.

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::{ChangeHash, DocumentId, SpaceName, Upstream};
use landfall_storage::{ReadError, Reader};
use rusqlite::{Connection, params};

use super::log::rows::{DocumentRow, SpaceRow, UpstreamRow, document_id, heads};
use super::log::tombstones;
use super::upstream::links;
use super::upstream::rejected::rejected;
use super::upstream::report::count;
use super::{LocalLog, Rejected, SpaceCount, ViewError};

/// A position in the history of the store's file.
pub(crate) struct Follow {
    reader: Reader,
    /// SQLite's `data_version` of this connection at the last look. It changes with every commit of
    /// another connection, and reading it reads no page.
    version: Option<i64>,
    /// Each known space with its last local number.
    seen: BTreeMap<SpaceRow, (SpaceName, u64)>,
}

/// The state of the store at a look, with the changes since the one before.
pub(crate) struct Followed {
    pub(crate) upstream: Option<Upstream>,
    /// All present spaces.
    pub(crate) spaces: Vec<FollowedSpace>,
}

/// One space at a look.
pub(crate) struct FollowedSpace {
    pub(crate) name: SpaceName,
    pub(crate) row: SpaceRow,
    pub(crate) count: SpaceCount,
    pub(crate) rejected: Vec<Rejected>,
    /// Documents that changed since the last look, with their heads; `None` if deleted.
    pub(crate) touched: Vec<(DocumentId, Option<Vec<ChangeHash>>)>,
}

impl LocalLog {
    /// Starts to follow. The first look returns everything and marks no document as touched.
    pub(crate) fn follow(&self) -> Result<Follow, ViewError> {
        let reader =
            self.db.open_reader().map_err(|error| ViewError(ReadError::Connection(error)))?;
        Ok(Follow { reader, version: None, seen: BTreeMap::new() })
    }
}

impl Follow {
    /// The changes since the last look; `None` if nothing was committed.
    pub(crate) fn look(&mut self) -> Result<Option<Followed>, ViewError> {
        let (before, seen) = (self.version, &self.seen);
        let found = self.reader.with(|conn| {
            // Within the snapshot that the rest is read in.
            let version = conn.pragma_query_value(None, "data_version", |row| row.get(0))?;
            if before == Some(version) {
                return Ok(None);
            }
            let met = links::last_attached(conn)?;
            let spaces = spaces(conn, met.map(|(row, _)| row), before.map(|_| seen))?;
            Ok::<_, rusqlite::Error>(Some((version, met, spaces)))
        })?;
        let Some((version, met, spaces)) = found else { return Ok(None) };
        self.version = Some(version);
        let seen =
            |space: &FollowedSpace| (space.row, (space.name.clone(), space.count.totals.last));
        self.seen = spaces.iter().map(seen).collect();
        Ok(Some(Followed { upstream: met.map(|(_, upstream)| upstream), spaces }))
    }
}

fn spaces(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    seen: Option<&BTreeMap<SpaceRow, (SpaceName, u64)>>,
) -> rusqlite::Result<Vec<FollowedSpace>> {
    let mut statement = conn.prepare_cached("SELECT id, name FROM space ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut spaces = Vec::new();
    while let Some(found) = rows.next()? {
        let (row, name) = (SpaceRow(found.get(0)?), found.get::<_, String>(1)?);
        // Names were checked when they were written.
        let Ok(name) = name.parse::<SpaceName>() else { continue };
        let count = count(conn, upstream, row)?;
        let touched = match seen.map(|seen| last_seen(seen, row, &name)) {
            Some(last) if last < count.totals.last => touched(conn, row, last)?,
            _ => Vec::new(),
        };
        let rejected = rejected(conn, upstream, row)?;
        spaces.push(FollowedSpace { name, row, count, rejected, touched });
    }
    Ok(spaces)
}

/// The last known local number of a space; 0 if another space had the row.
fn last_seen(seen: &BTreeMap<SpaceRow, (SpaceName, u64)>, row: SpaceRow, name: &SpaceName) -> u64 {
    seen.get(&row).filter(|(known, _)| known == name).map_or(0, |(_, last)| *last)
}

/// Documents with a change, deletion or snapshot after a local number.
fn touched(
    conn: &Connection,
    space: SpaceRow,
    last: u64,
) -> rusqlite::Result<Vec<(DocumentId, Option<Vec<ChangeHash>>)>> {
    let mut rows = BTreeSet::new();
    for sql in [
        "SELECT DISTINCT document FROM change WHERE space = ?1 AND local > ?2",
        "SELECT document FROM deleted WHERE space = ?1 AND local > ?2",
        "SELECT id FROM document WHERE space = ?1 AND base > ?2",
    ] {
        let mut statement = conn.prepare_cached(sql)?;
        let mut found = statement.query(params![space.0, last])?;
        while let Some(row) = found.next()? {
            rows.insert(DocumentRow(row.get(0)?));
        }
    }
    let of = |row| {
        let heads = match tombstones::is_deleted(conn, row)? {
            true => None,
            false => Some(heads(conn, row)?),
        };
        Ok((document_id(conn, row)?, heads))
    };
    rows.into_iter().map(of).collect()
}
