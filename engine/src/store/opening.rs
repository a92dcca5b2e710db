//! The reads of an opening: each space's row, lists and counters. Nothing here may cost in proportion
//! to the documents of a space.

use landfall_protocol::{DocumentId, SpaceName, Upstream};
use rusqlite::Connection;

use super::documents::quarantined::quarantined;
use super::upstream::rejected::rejected;
use super::upstream::{links, report};
use super::{LocalLog, Rejected, SpaceCount, SpaceRow, ViewError};

/// The state of a store when it is opened.
#[derive(Debug)]
pub(crate) struct OpenedStore {
    /// The upstream that was connected last, if any.
    pub(crate) upstream: Option<Upstream>,
    pub(crate) spaces: Vec<OpenedSpace>,
}

/// The state of a space when the store is opened.
#[derive(Debug)]
pub(crate) struct OpenedSpace {
    pub(crate) name: SpaceName,
    pub(crate) row: SpaceRow,
    pub(crate) count: SpaceCount,
    /// The documents whose changes the upstream rejects.
    pub(crate) rejected: Vec<Rejected>,
    /// The unreadable documents, with the reasons.
    pub(crate) unreadable: Vec<(DocumentId, String)>,
}

impl LocalLog {
    /// The state, from one snapshot of the store.
    pub(crate) fn opened(&self) -> Result<OpenedStore, ViewError> {
        self.view(opened)
    }
}

fn opened(conn: &Connection) -> rusqlite::Result<OpenedStore> {
    let met = links::last_attached(conn)?;
    let row = met.map(|(row, _)| row);
    let mut statement = conn.prepare("SELECT id, name FROM space ORDER BY name")?;
    let mut found = statement.query([])?;
    let mut spaces = Vec::new();
    while let Some(space) = found.next()? {
        let (space, name) = (SpaceRow(space.get(0)?), space.get::<_, String>(1)?);
        // Names were checked when they were written.
        let Ok(name) = name.parse() else { continue };
        spaces.push(OpenedSpace {
            name,
            row: space,
            count: report::count(conn, row, space)?,
            rejected: rejected(conn, row, space)?,
            unreadable: quarantined(conn, space)?,
        });
    }
    Ok(OpenedStore { upstream: met.map(|(_, upstream)| upstream), spaces })
}

#[cfg(test)]
impl LocalLog {
    /// Opens the store at this path on another connection, and returns how many operations of SQLite's
    /// virtual machine the reads take.
    pub(crate) fn operations_of_opening(
        &self,
        path: &std::path::Path,
    ) -> Result<u64, rusqlite::Error> {
        let (conn, operations) = super::counting::connection(path)?;
        super::digests::fill(&conn)?;
        super::snapshot::expand::oversized(&conn, self.document_bytes())?;
        opened(&conn)?;
        Ok(operations())
    }
}
