//! Removes a space and all its data from this store. The relay and other replicas keep theirs.

use landfall_storage::{Durability, WriteError};
use rusqlite::Connection;

use crate::store::log::rows::SpaceRow;
use crate::store::upstream::report::count;
use crate::store::{LocalLog, Pending};

/// Why a space was not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemovalError {
    /// The relay is not known to hold all of it.
    #[error("the space has changes that are on no relay")]
    Unsent(Pending),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

impl LocalLog {
    /// Removes a space in one transaction. Unless it is forced, it requires that the upstream that was
    /// connected last holds all of it, and that no deleted document has orphaned edits.
    pub(crate) fn remove_space(
        &self,
        space: SpaceRow,
        force: bool,
    ) -> Result<(), WriteError<RemovalError>> {
        let whose = self.whose;
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let mut unsent = count(tx, whose.row(tx)?, space)?.pending;
            unsent.changes += lost(tx, space)?;
            if unsent.changes > 0 && !force {
                return Err(RemovalError::Unsent(unsent));
            }
            Ok(remove(tx, space)?)
        };
        self.db.write(Durability::Full, job)?;
        self.reports.forget(space);
        Ok(())
    }

    /// How many rows each table of the file has.
    #[cfg(test)]
    pub(crate) fn rows_of_tables(&self) -> Result<Vec<(String, u64)>, crate::store::ViewError> {
        self.view(|conn| {
            let names: Vec<String> = conn
                .prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let count = |name: String| {
                let sql = format!("SELECT count(*) FROM {name}");
                Ok((name, conn.query_row(&sql, [], |row| row.get(0))?))
            };
            names.into_iter().map(count).collect()
        })
    }
}

/// How many orphaned edits of deleted documents are kept.
fn lost(conn: &Connection, space: SpaceRow) -> rusqlite::Result<u64> {
    conn.query_row(
        "SELECT coalesce(sum(unsent), 0) FROM deleted WHERE space = ?1 AND kept_base IS NOT NULL",
        [space.0],
        |row| row.get(0),
    )
}

/// Deletes every row that refers to the space or to one of its documents. The schema names the tables
/// that do, so that none is forgotten.
fn remove(conn: &Connection, space: SpaceRow) -> rusqlite::Result<()> {
    let of_documents = "IN (SELECT id FROM document WHERE space = ?1)";
    for (table, column) in referring(conn, "document")? {
        delete(conn, space, &format!("DELETE FROM {table} WHERE {column} {of_documents}"))?;
    }
    for (table, column) in referring(conn, "space")? {
        if table != "document" {
            delete(conn, space, &format!("DELETE FROM {table} WHERE {column} = ?1"))?;
        }
    }
    delete(conn, space, "DELETE FROM document WHERE space = ?1")?;
    delete(conn, space, "DELETE FROM space WHERE id = ?1")
}

fn delete(conn: &Connection, space: SpaceRow, sql: &str) -> rusqlite::Result<()> {
    conn.execute(sql, [space.0]).map(drop)
}

/// The tables that refer to another one, with the column.
fn referring(conn: &Connection, to: &str) -> rusqlite::Result<Vec<(String, String)>> {
    conn.prepare(
        "SELECT t.name, f.\"from\" FROM sqlite_master t, pragma_foreign_key_list(t.name) f
         WHERE t.type = 'table' AND f.\"table\" = ?1 ORDER BY t.name",
    )?
    .query_map([to], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}
