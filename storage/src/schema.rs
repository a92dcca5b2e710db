//! Recognises a database file by its application id and version, and migrates it forwards.
//!
//! SQLite's `application_id` identifies the owner of the file; its `user_version` counts the migrations
//! that were applied. Both are in the file's header and change with the transaction.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::{Foreign, OpenError, StorageError};

/// This crate's own table. Its one row is rewritten when a transaction has nothing else to write, but
/// must reach the disk.
const INTERNAL: &str = "CREATE TABLE IF NOT EXISTS storage_sync (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    rounds INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO storage_sync (id, rounds) VALUES (1, 0);";

/// The owner of a database, and the migrations that lead to its present form.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Its name in logs and errors.
    pub name: &'static str,
    /// Marks the file as ours, in SQLite's `application_id`. Must not be 0, which is SQLite's default.
    pub application_id: i32,
    /// Step `i` migrates from version `i` to `i + 1`, in one transaction that it must not end.
    ///
    /// Only append steps. They run with foreign keys off, so that a table can be rebuilt; all
    /// references are checked before the commit. Table names that begin with `storage_` are reserved
    /// for this crate.
    pub migrations: &'static [&'static str],
}

impl Schema {
    /// The version of a file with all migrations applied.
    #[must_use]
    pub fn version(&self) -> u32 {
        u32::try_from(self.migrations.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn check_usable(&self) -> Result<(), OpenError> {
        let name = self.name;
        if self.application_id == 0 {
            return Err(OpenError::Schema { name, what: "its application id is 0" });
        }
        if i32::try_from(self.migrations.len()).is_err() {
            return Err(OpenError::Schema {
                name,
                what: "it has more migrations than SQLite can number",
            });
        }
        Ok(())
    }
}

/// The state in which a database was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is empty.
    Blank,
    /// It is ours, at this version, which is not newer than the schema's.
    Version(u32),
}

/// Finds out to which application a database belongs. Reads only.
pub(crate) fn recognise(
    conn: &Connection,
    path: &Path,
    schema: &Schema,
) -> Result<State, OpenError> {
    let failed = |error| unreadable(path, error);
    let found = pragma_i64(conn, "application_id").map_err(failed)?;
    let version = pragma_i64(conn, "user_version").map_err(failed)?;
    if found == i64::from(schema.application_id) {
        let (found, supported) = (u32::try_from(version).unwrap_or(u32::MAX), schema.version());
        if found > supported {
            return Err(OpenError::TooNew { path: path.to_owned(), found, supported });
        }
        return Ok(State::Version(found));
    }
    let objects: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    // A crash between the creation of the file and its first commit leaves at most a header.
    if found == 0 && version == 0 && objects == 0 {
        return Ok(State::Blank);
    }
    let found = i32::try_from(found).unwrap_or_default();
    Err(OpenError::NotOurs { path: path.to_owned(), what: Foreign::OtherApplication { found } })
}

/// Migrates a database to the schema's version.
pub(crate) fn migrate(
    conn: &Connection,
    path: &Path,
    schema: &Schema,
    state: State,
) -> Result<(), OpenError> {
    let failed = |error| OpenError::from_storage(path, StorageError::Sqlite(error));
    conn.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    run_steps(conn, path, schema, state)?;
    conn.execute_batch(INTERNAL).map_err(failed)?;
    conn.pragma_update(None, "foreign_keys", true).map_err(failed)
}

/// Updates this crate's one row, so that the transaction has something to write to the disk.
pub(crate) fn touch(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE storage_sync SET rounds = rounds + 1 WHERE id = 1")?.execute([])?;
    Ok(())
}

fn run_steps(
    conn: &Connection,
    path: &Path,
    schema: &Schema,
    state: State,
) -> Result<(), OpenError> {
    let failed = |error| OpenError::from_storage(path, StorageError::Sqlite(error));
    match state {
        State::Blank => initialise(conn, path, schema)?,
        State::Version(from) => {
            for to in from + 1..=schema.version() {
                let tx = begin(conn).map_err(failed)?;
                apply(&tx, path, schema, to)?;
                check_references(&tx, path, to)?;
                tx.commit().map_err(|error| migration(path, to, error.into()))?;
                tracing::info!(schema = schema.name, version = to, "migrated");
            }
        }
    }
    Ok(())
}

/// Applies all migrations to a new file in one transaction: after a crash it is empty or complete.
fn initialise(conn: &Connection, path: &Path, schema: &Schema) -> Result<(), OpenError> {
    let failed = |error| OpenError::from_storage(path, StorageError::Sqlite(error));
    let tx = begin(conn).map_err(failed)?;
    tx.pragma_update(None, "application_id", schema.application_id).map_err(failed)?;
    tx.execute_batch(INTERNAL).map_err(failed)?;
    for to in 1..=schema.version() {
        apply(&tx, path, schema, to)?;
    }
    check_references(&tx, path, schema.version())?;
    tx.commit().map_err(failed)
}

fn begin(conn: &Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new_unchecked(conn, TransactionBehavior::Immediate)
}

fn apply(tx: &Transaction<'_>, path: &Path, schema: &Schema, to: u32) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| migration(path, to, error.into());
    let step = schema.migrations.get(to as usize - 1).copied().unwrap_or_default();
    tx.execute_batch(step).map_err(failed)?;
    if tx.is_autocommit() {
        let what = "the migration ended its own transaction";
        return Err(OpenError::Schema { name: schema.name, what });
    }
    tx.pragma_update(None, "user_version", to).map_err(failed)
}

fn check_references(tx: &Transaction<'_>, path: &Path, to: u32) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| migration(path, to, error.into());
    let mut check = tx.prepare("PRAGMA foreign_key_check").map_err(failed)?;
    if !check.exists([]).map_err(failed)? {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
    let what = Some("the migration left a foreign key without its row".to_owned());
    Err(failed(rusqlite::Error::SqliteFailure(code, what)))
}

fn migration(path: &Path, to: u32, source: StorageError) -> OpenError {
    // A full disk is reported as such, whichever statement failed.
    match OpenError::from_storage(path, source) {
        OpenError::Io { path, source } => OpenError::Migration { path, to, source },
        sorted => sorted,
    }
}

/// Maps errors of the first reads, at which SQLite detects whether the file is a database.
fn unreadable(path: &Path, error: rusqlite::Error) -> OpenError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) {
        return OpenError::NotOurs { path: path.to_owned(), what: Foreign::NotSqlite };
    }
    OpenError::from_storage(path, StorageError::Sqlite(error))
}

pub(crate) fn pragma_i64(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, name, |row| row.get(0))
}
