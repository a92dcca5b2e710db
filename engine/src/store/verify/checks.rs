//! Checks the store: bytes against hashes, changes against their dependencies, snapshots against their
//! heads, and derived values against their sources. It changes nothing.

use landfall_protocol::{DocumentId, SpaceName};
use rusqlite::Connection;

use super::document::document_faults;
use super::findings::{Fault, Finding};
use super::space::space_faults;
use crate::store::log::rows::{DocumentRow, SpaceRow};
use crate::store::{LocalLog, ViewError};

impl LocalLog {
    /// Checks everything. Each document's snapshot is loaded, one after the other.
    ///
    /// # Errors
    /// If the store cannot be read at all. Damage that SQLite reports is a finding.
    pub(crate) fn verify(&self) -> Result<Vec<Finding>, ViewError> {
        let mut findings = Vec::new();
        let mut add = |space: Option<&SpaceName>, document, faults: Vec<Fault>| {
            let finding = |fault| Finding { space: space.cloned(), document, fault };
            findings.extend(faults.into_iter().map(finding));
        };
        add(None, None, self.faults(file_faults)?);
        let mut names = Vec::new();
        let read = self.faults(|conn| {
            names = space_names(conn)?;
            Ok(Vec::new())
        })?;
        add(None, None, read);
        let whose = self.whose;
        for (name, space) in names {
            let mut documents = Vec::new();
            let read = self.faults(|conn| {
                documents = documents_of(conn, space)?;
                space_faults(conn, space, whose.row(conn)?)
            })?;
            add(Some(&name), None, read);
            for (row, id) in documents {
                let faults = self.faults(|conn| document_faults(conn, space, row, &id))?;
                add(Some(&name), Some(id), faults);
            }
        }
        Ok(findings)
    }

    /// Runs a check; data that SQLite cannot read is a fault too.
    fn faults(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<Vec<Fault>>,
    ) -> Result<Vec<Fault>, ViewError> {
        match self.view(look) {
            Ok(faults) => Ok(faults),
            Err(error) if is_damage(&error) => Ok(vec![Fault::File(deepest_cause(&error))]),
            Err(error) => Err(error),
        }
    }
}

fn is_damage(error: &ViewError) -> bool {
    use landfall_storage::{FailureClass, ReadError};
    let value = |error: &rusqlite::Error| {
        matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::QueryReturnedNoRows
                // The schema's tables are stored as text, which can be damaged too.
                | rusqlite::Error::SqlInputError { .. }
        )
    };
    error.0.class() == FailureClass::Corrupt
        || matches!(&error.0, ReadError::Query(error) if value(error))
}

fn deepest_cause(error: &ViewError) -> String {
    let source = std::error::Error::source(error);
    let deeper = source.and_then(std::error::Error::source);
    deeper.or(source).map_or_else(|| error.to_string(), ToString::to_string)
}

fn file_faults(conn: &Connection) -> rusqlite::Result<Vec<Fault>> {
    let lines: Vec<String> = conn
        .prepare("PRAGMA integrity_check(20)")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").map(Fault::File).collect())
}

fn space_names(conn: &Connection) -> rusqlite::Result<Vec<(SpaceName, SpaceRow)>> {
    let mut statement = conn.prepare("SELECT id, name FROM space ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        if let Ok(name) = row.get::<_, String>(1)?.parse() {
            names.push((name, SpaceRow(row.get(0)?)));
        }
    }
    Ok(names)
}

fn documents_of(
    conn: &Connection,
    space: SpaceRow,
) -> rusqlite::Result<Vec<(DocumentRow, DocumentId)>> {
    conn.prepare("SELECT id, document FROM document WHERE space = ?1 ORDER BY id")?
        .query_map([space.0], |row| {
            Ok((DocumentRow(row.get(0)?), DocumentId::from_bytes(row.get(1)?)))
        })?
        .collect()
}
