//! The view that admission asks: what is durable in one space, within one snapshot.

use landfall_protocol::admission::{History, Known};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset, SpaceName};
use rusqlite::{Connection, OptionalExtension, params};

use super::StoreError;
use super::schema::{column, number};

const LAST_SEQUENCE: &str = "SELECT max(seq) FROM entry \
    WHERE document = (SELECT id FROM document WHERE space = ?1 AND document = ?2) \
    AND actor = (SELECT id FROM actor WHERE actor = ?3)";

const AT_SEQUENCE: &str = "SELECT hash, \"offset\" FROM entry \
    WHERE document = (SELECT id FROM document WHERE space = ?1 AND document = ?2) \
    AND actor = (SELECT id FROM actor WHERE actor = ?3) AND seq = ?4";

const MAX_OP: &str = "SELECT max_op FROM entry \
    WHERE document = (SELECT id FROM document WHERE space = ?1 AND document = ?2) AND hash = ?3";

/// A space within a snapshot.
pub(super) struct SpaceView<'a> {
    conn: &'a Connection,
    /// `None` while nothing was ever appended to it.
    space: Option<i64>,
}

impl<'a> SpaceView<'a> {
    pub(super) fn new(conn: &'a Connection, name: &SpaceName) -> rusqlite::Result<Self> {
        Ok(Self { conn, space: space_row(conn, name)? })
    }
}

/// A space's row id; `None` while nothing was ever appended to it.
pub(super) fn space_row(conn: &Connection, name: &SpaceName) -> rusqlite::Result<Option<i64>> {
    let mut find = conn.prepare_cached("SELECT id FROM space WHERE name = ?1")?;
    find.query_row([name.as_str()], |row| row.get(0)).optional()
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::of_sqlite("look up a document's history", error)
}

impl History for SpaceView<'_> {
    type Error = StoreError;

    fn last_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
    ) -> Result<Option<u64>, StoreError> {
        let Some(space) = self.space else { return Ok(None) };
        let mut last = self.conn.prepare_cached(LAST_SEQUENCE).map_err(failed)?;
        let key = params![space, document.as_bytes(), actor.to_bytes()];
        // `max` of nothing is one row of NULL.
        let found: Option<i64> = last.query_row(key, |row| row.get(0)).map_err(failed)?;
        found.map(u64::try_from).transpose().map_err(|_| {
            failed(rusqlite::Error::IntegralValueOutOfRange(0, found.unwrap_or_default()))
        })
    }

    fn at_sequence(
        &self,
        document: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<Known>, StoreError> {
        let Some(space) = self.space else { return Ok(None) };
        let mut find = self.conn.prepare_cached(AT_SEQUENCE).map_err(failed)?;
        let sequence = column(sequence).map_err(failed)?;
        let key = params![space, document.as_bytes(), actor.to_bytes(), sequence];
        let known = |row: &rusqlite::Row<'_>| {
            Ok(Known { hash: ChangeHash(row.get(0)?), position: Offset(number(row, 1)?) })
        };
        find.query_row(key, known).optional().map_err(failed)
    }

    fn max_op(&self, document: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, StoreError> {
        let Some(space) = self.space else { return Ok(None) };
        let mut find = self.conn.prepare_cached(MAX_OP).map_err(failed)?;
        let key = params![space, document.as_bytes(), hash.0];
        find.query_row(key, |row| number(row, 0)).optional().map_err(failed)
    }
}
