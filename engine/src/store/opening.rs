//! What is read of a store when it is opened: of each space what its row, its lists and its counters
//! say. Nothing here may cost in proportion to the documents of a space.

use landfall_protocol::{DocumentId, SpaceName, Upstream};
use rusqlite::Connection;

use super::quarantined::quarantined;
use super::view::{Parked, parked};
use super::{LocalLog, SpaceCount, SpaceRow, ViewError, links, report};

/// A store as it is found.
#[derive(Debug)]
pub(crate) struct OpenedStore {
    /// The upstream that was met last, if any ever was.
    pub(crate) upstream: Option<Upstream>,
    pub(crate) spaces: Vec<OpenedSpace>,
}

/// A space as it is found.
#[derive(Debug)]
pub(crate) struct OpenedSpace {
    pub(crate) name: SpaceName,
    pub(crate) row: SpaceRow,
    pub(crate) count: SpaceCount,
    /// The documents whose changes the upstream refuses.
    pub(crate) parked: Vec<Parked>,
    /// The documents that could not be read, and why.
    pub(crate) unreadable: Vec<(DocumentId, String)>,
}

impl LocalLog {
    /// What there is, in one view.
    pub(crate) fn opened(&self) -> Result<OpenedStore, ViewError> {
        self.view(opened)
    }
}

fn opened(conn: &Connection) -> rusqlite::Result<OpenedStore> {
    let met = links::last_met(conn)?;
    let row = met.map(|(row, _)| row);
    let mut statement = conn.prepare("SELECT id, name FROM space ORDER BY name")?;
    let mut found = statement.query([])?;
    let mut spaces = Vec::new();
    while let Some(space) = found.next()? {
        let (space, name) = (SpaceRow(space.get(0)?), space.get::<_, String>(1)?);
        // A name was checked when it was written.
        let Ok(name) = name.parse() else { continue };
        spaces.push(OpenedSpace {
            name,
            row: space,
            count: report::count(conn, row, space)?,
            parked: parked(conn, row, space)?,
            unreadable: quarantined(conn, space)?,
        });
    }
    Ok(OpenedStore { upstream: met.map(|(_, upstream)| upstream), spaces })
}

#[cfg(test)]
impl LocalLog {
    /// What an opening asks of the store at this path, on another connection: the operations of
    /// SQLite's virtual machine that it takes.
    pub(crate) fn operations_of_opening(
        &self,
        path: &std::path::Path,
    ) -> Result<u64, rusqlite::Error> {
        let (conn, operations) = super::counting::connection(path)?;
        super::leaves::fill(&conn)?;
        super::unfold::oversized(&conn, self.document_bytes())?;
        opened(&conn)?;
        Ok(operations())
    }
}
