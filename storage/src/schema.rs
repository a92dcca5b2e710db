//! What a file must be and how it becomes that: application id, version, forward migrations.
//!
//! SQLite's `application_id` says whose file it is, its `user_version` counts the migrations that
//! it has had. Both stand in the file's header and change with the transaction.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::{Foreign, OpenError, StorageError};

/// The table of this crate's own: one row, rewritten when a commit must reach the disk although
/// nobody else has something to write.
const INTERNAL: &str = "CREATE TABLE IF NOT EXISTS storage_sync (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    rounds INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO storage_sync (id, rounds) VALUES (1, 0);";

/// Whose database it is, and the steps that lead to its present form.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// What it is called in logs and errors.
    pub name: &'static str,
    /// Marks the file as ours, in SQLite's `application_id`. Not 0, which is what every other file
    /// has.
    pub application_id: i32,
    /// Step `i` brings the version from `i` to `i + 1`, in one transaction that it must not end.
    ///
    /// Steps are only ever appended. They run with foreign keys off, so that a table can be
    /// rebuilt, and all references are checked before the commit. Table names that begin with
    /// `storage_` are this crate's.
    pub migrations: &'static [&'static str],
}

impl Schema {
    /// The version of a file that had all migrations.
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
                what: "it has more migrations than SQLite counts",
            });
        }
        Ok(())
    }
}

/// What a database turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing in it yet.
    Blank,
    /// Ours, at this version, which is not newer than the schema's.
    Version(u32),
}

/// Tells whose database a connection leads to. Reads only.
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
    // What a crash leaves between the creation of the file and its first commit: a header at most.
    if found == 0 && version == 0 && objects == 0 {
        return Ok(State::Blank);
    }
    let found = i32::try_from(found).unwrap_or_default();
    Err(OpenError::NotOurs { path: path.to_owned(), what: Foreign::OtherApplication { found } })
}

/// Brings a database to the schema's version.
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

/// Rewrites this crate's one row, so that the transaction has something for the disk.
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

/// A new file gets everything in one transaction: after a crash it is blank or complete.
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
    let what = Some("the migration left a reference that leads nowhere".to_owned());
    Err(failed(rusqlite::Error::SqliteFailure(code, what)))
}

fn migration(path: &Path, to: u32, source: StorageError) -> OpenError {
    // A full disk is a full disk, whichever statement met it.
    match OpenError::from_storage(path, source) {
        OpenError::Io { path, source } => OpenError::Migration { path, to, source },
        sorted => sorted,
    }
}

/// Errors of the very first reads: there SQLite finds out whether the bytes are a database at all.
fn unreadable(path: &Path, error: rusqlite::Error) -> OpenError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) {
        return OpenError::NotOurs { path: path.to_owned(), what: Foreign::NotSqlite };
    }
    OpenError::from_storage(path, StorageError::Sqlite(error))
}

pub(crate) fn pragma_i64(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, name, |row| row.get(0))
}
