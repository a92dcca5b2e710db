//! Opens connections, sets their pragmas, and checks that SQLite applied them.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::durability::Durability;
use crate::error::{OpenError, StorageError};
use crate::files;
use crate::options::{JOURNAL_SIZE_LIMIT, Options, STATEMENT_CACHE};
use crate::schema::pragma_i64;

/// The settings of the writing connection, as SQLite reads them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pragmas {
    /// `wal` for a file, `memory` in memory.
    pub journal_mode: String,
    /// `synchronous` while a [`Durability::Full`] group runs: 2 is FULL.
    pub synchronous_full: i64,
    /// `synchronous` while a [`Durability::Relaxed`] group runs: 1 is NORMAL.
    pub synchronous_relaxed: i64,
    /// Whether references between tables are enforced.
    pub foreign_keys: bool,
    /// Whether functions and virtual tables in the file's own schema are trusted.
    pub trusted_schema: bool,
    /// In milliseconds.
    pub busy_timeout: i64,
    /// 0: the writer thread runs checkpoints itself, because SQLite's automatic checkpoint does not
    /// report a failed fsync.
    pub wal_autocheckpoint: i64,
    /// Size in bytes to which SQLite truncates the WAL when it resets it.
    pub journal_size_limit: i64,
    /// 2 is MEMORY.
    pub temp_store: i64,
    /// Negative: the page cache in KiB.
    pub cache_size: i64,
    /// Identifies the application to which the file belongs.
    pub application_id: i64,
    /// The number of migrations that were applied.
    pub user_version: i64,
}

/// Opens a connection to an existing file. `path` is never read as a URI.
pub(crate) fn connect(path: &Path, writable: bool) -> Result<Connection, StorageError> {
    let mode =
        if writable { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    // Only one thread at a time uses a connection, so SQLite's mutexes are not needed.
    let mode = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = match still(path).filter(|_| !writable) {
        Some(uri) => Connection::open_with_flags(uri, mode | OpenFlags::SQLITE_OPEN_URI)?,
        None => Connection::open_with_flags(path, mode)?,
    };
    Ok(conn)
}

/// Returns the `immutable` URI for a database in a folder that cannot be written, such as on a
/// read-only mount, if no process has it open and it has no WAL. To open it the usual way, SQLite would
/// have to create files beside it. `None` in all other cases.
fn still(path: &Path) -> Option<String> {
    let has_wal = files::length(&files::beside(path, "-wal")).ok()? > 0;
    let is_open = files::beside(path, "-shm").exists();
    if has_wal || is_open || files::may_write_beside(path) {
        return None;
    }
    let mut uri = url::Url::from_file_path(path).ok()?;
    uri.set_query(Some("immutable=1"));
    Some(uri.into())
}

/// Applies the settings that every connection needs before its first read.
pub(crate) fn prepare(conn: &Connection, options: &Options) -> rusqlite::Result<()> {
    conn.busy_timeout(options.busy_timeout)?;
    conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // Query plans then depend on the statement alone. Otherwise SQLite prepares a statement again when
    // a bound value could change the plan, which took a fifth of a busy writer's time.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", cache_size(options))
}

/// Makes a connection read-only, whatever SQL it runs.
pub(crate) fn prepare_reader(conn: &Connection, options: &Options) -> rusqlite::Result<()> {
    prepare(conn, options)?;
    leave_files(conn)?;
    conn.pragma_update(None, "query_only", true)
}

/// Keeps a connection from checkpointing when it closes. The last connection to close would empty the
/// WAL and remove it by name, and that name may belong to another database's WAL by then.
pub(crate) fn leave_files(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// Applies the settings on which the writer's guarantees depend. Call [`verify`] after the migrations.
pub(crate) fn prepare_writer(
    conn: &Connection,
    path: &Path,
    in_memory: bool,
) -> Result<(), OpenError> {
    let failed = |error| OpenError::from_storage(path, StorageError::Sqlite(error));
    let wanted = journal_mode(in_memory);
    let set = |name, value: &dyn rusqlite::ToSql| {
        // Some pragmas answer with the new value. [`verify`] reads all of them back.
        conn.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok(()),
            error => Err(error),
        })
    };
    set("journal_mode", &wanted).map_err(failed)?;
    set("journal_size_limit", &JOURNAL_SIZE_LIMIT).map_err(failed)?;
    set("wal_autocheckpoint", &0).map_err(failed)?;
    // On macOS a plain fsync does not flush the drive's cache. No effect on other systems.
    set("fullfsync", &true).map_err(failed)?;
    set("checkpoint_fullfsync", &true).map_err(failed)?;
    set("foreign_keys", &true).map_err(failed)?;
    set_durability(conn, Durability::Full).map_err(failed)
}

/// Reads the writer's settings back: SQLite ignores or changes some of them without an error.
pub(crate) fn verify(conn: &Connection, path: &Path, in_memory: bool) -> Result<(), OpenError> {
    let failed = |error| OpenError::from_storage(path, StorageError::Sqlite(error));
    let expect = |pragma, wanted: String, found: String| {
        let path = path.to_owned();
        match wanted == found {
            true => Ok(()),
            false => Err(OpenError::Setting { path, pragma, wanted, found }),
        }
    };
    let found: String =
        conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(failed)?;
    expect("journal_mode", journal_mode(in_memory).to_owned(), found)?;
    let numbers = [
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("temp_store", 2),
        ("wal_autocheckpoint", 0),
        ("journal_size_limit", JOURNAL_SIZE_LIMIT),
    ];
    for (pragma, wanted) in numbers {
        let found = pragma_i64(conn, pragma).map_err(failed)?;
        expect(pragma, wanted.to_string(), found.to_string())?;
    }
    Ok(())
}

/// Sets whether the next commit is fsynced. No effect inside a transaction.
pub(crate) fn set_durability(conn: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let value = match durability {
        Durability::Full => "FULL",
        Durability::Relaxed => "NORMAL",
    };
    conn.pragma_update(None, "synchronous", value)
}

/// Reads the settings back; leaves `synchronous` at `current`.
pub(crate) fn read_back(conn: &Connection, current: Durability) -> rusqlite::Result<Pragmas> {
    let synchronous = |durability| {
        set_durability(conn, durability)?;
        pragma_i64(conn, "synchronous")
    };
    let (full, relaxed) = (synchronous(Durability::Full), synchronous(Durability::Relaxed));
    set_durability(conn, current)?;
    let number = |name| pragma_i64(conn, name);
    Ok(Pragmas {
        journal_mode: conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
        synchronous_full: full?,
        synchronous_relaxed: relaxed?,
        foreign_keys: number("foreign_keys")? != 0,
        trusted_schema: number("trusted_schema")? != 0,
        busy_timeout: number("busy_timeout")?,
        wal_autocheckpoint: number("wal_autocheckpoint")?,
        journal_size_limit: number("journal_size_limit")?,
        temp_store: number("temp_store")?,
        cache_size: number("cache_size")?,
        application_id: number("application_id")?,
        user_version: number("user_version")?,
    })
}

fn journal_mode(in_memory: bool) -> &'static str {
    if in_memory { "memory" } else { "wal" }
}

/// SQLite reads a negative number as KiB.
fn cache_size(options: &Options) -> i64 {
    -i64::from(i32::try_from(options.page_cache_bytes / 1024).unwrap_or(i32::MAX).max(1))
}
