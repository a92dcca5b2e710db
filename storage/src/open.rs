//! Opens a path, in a fixed order, and returns a connection on which the crate's guarantees hold.
//!
//! A file that is not ours, in use or too new keeps its content, because the checks come before the first
//! write to it. Its mode may be narrowed all the same ([`Options::private`]).

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::connect;
use crate::error::{FailureClass, OpenError, StorageError};
use crate::files::{self, Found};
use crate::identity::FileWatch;
use crate::lock::Lock;
use crate::names;
use crate::options::{OLDEST_SQLITE, Options};
use crate::schema::{self, Schema, State};
use crate::wal::{self, WalDamage};

/// A database that is ready for its writer thread.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) conn: Connection,
    pub(crate) lock: Option<Lock>,
    pub(crate) watch: FileWatch,
    /// The damage of the write-ahead log that the previous process left, if any.
    pub(crate) wal: Option<WalDamage>,
}

/// Opens a file for writing, creating and migrating it as needed.
pub(crate) fn writable(
    path: &Path,
    schema: &Schema,
    options: &Options,
) -> Result<Opened, OpenError> {
    check_usable(schema)?;
    let path = files::resolve(path)?;
    files::inspect(&path, schema.application_id)?;
    names::refuse_others(&path)?;
    let lock = Lock::take(&path, options.private)?;
    // Inspected again under the lock: the previous holder may just have created the file.
    let found = files::inspect(&path, schema.application_id)?;
    prepare_files(&path, options, found).map_err(|error| failed(&path, error.into()))?;
    let wal = look_at_wal(&path);
    // A killed process may have left frames in the WAL that were never fsynced. They now count as
    // commit 0, which is reported as on disk. The fsync is of the file: a commit would need space.
    files::sync_if_there(&files::beside(&path, "-wal"))
        .map_err(|error| failed(&path, error.into()))?;

    let before = std::fs::metadata(&path).map_err(|error| failed(&path, error.into()))?;
    let conn = connect::connect(&path, true).map_err(|error| failed(&path, error))?;
    refuse_silent_read_only(&conn, &path)?;
    set_up(&conn, &path, schema, options, false)?;
    settle_wal(&conn, options).map_err(|error| failed(&path, error.into()))?;
    let watch =
        FileWatch::of_writer(&path, &before).map_err(|error| failed(&path, error.into()))?;
    tracing::debug!(path = %path.display(), schema = schema.name, "opened");
    Ok(Opened { path, conn, lock: Some(lock), watch, wal })
}

/// Returns the damage of the write-ahead log, if any, and copies the log first: SQLite will overwrite
/// it.
fn look_at_wal(path: &Path) -> Option<WalDamage> {
    let damage = match wal::wal_damage(path) {
        Ok(damage) => damage?,
        Err(error) => {
            tracing::warn!(%error, "cannot check the write-ahead log");
            return None;
        }
    };
    let copy = files::beside(path, "-wal.damaged");
    tracing::error!(path = %path.display(), copy = %copy.display(), %damage,
        "the write-ahead log is damaged");
    if !copy.exists()
        && let Err(error) = files::copy(&files::beside(path, "-wal"), &copy)
    {
        tracing::warn!(%error, "cannot copy the damaged write-ahead log");
    }
    Some(damage)
}

/// Opens an in-memory database, which lives as long as its handle.
pub(crate) fn in_memory(schema: &Schema, options: &Options) -> Result<Opened, OpenError> {
    check_usable(schema)?;
    let path = PathBuf::from(":memory:");
    let conn = Connection::open_in_memory().map_err(|error| failed(&path, error.into()))?;
    set_up(&conn, &path, schema, options, true)?;
    Ok(Opened { path, conn, lock: None, watch: FileWatch::default(), wal: None })
}

/// Checks that a file can be read in its present state. Takes no lock and leaves no connection open.
pub(crate) fn read_only(
    path: &Path,
    schema: &Schema,
    options: &Options,
) -> Result<(PathBuf, FileWatch), OpenError> {
    check_usable(schema)?;
    let path = files::resolve(path)?;
    if files::inspect(&path, schema.application_id)? == Found::Nothing {
        return Err(OpenError::NotFound { path });
    }
    roll_back(&path).map_err(|error| failed(&path, error))?;
    let watch = FileWatch::of_reader(&path).map_err(|error| failed(&path, error.into()))?;
    let conn = connect::connect(&path, false).map_err(|error| failed(&path, error))?;
    connect::prepare_reader(&conn, options).map_err(|error| failed(&path, error.into()))?;
    match schema::recognise(&conn, &path, schema)? {
        State::Version(found) if found == schema.version() => Ok((path, watch)),
        State::Version(found) => Err(OpenError::TooOld { path, found, needed: schema.version() }),
        State::Blank => Err(OpenError::NotFound { path }),
    }
}

/// Rolls back a transaction that a killed process left in a rollback journal, from when it created or
/// rewrote the file. A read-only connection cannot roll back, and SQLite would refuse to read. SQLite
/// itself detects whether another process still uses the journal.
fn roll_back(path: &Path) -> Result<(), StorageError> {
    let journal = files::beside(path, "-journal");
    if !std::fs::metadata(&journal).is_ok_and(|journal| journal.len() > 0) {
        return Ok(());
    }
    let conn = connect::connect(path, true)?;
    let look = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    Ok(look.map(drop)?)
}

fn check_usable(schema: &Schema) -> Result<(), OpenError> {
    schema.check_usable()?;
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(OpenError::Setting {
            path: PathBuf::new(),
            pragma: "SQLite's version",
            wanted: format!("at least {OLDEST_SQLITE}"),
            found: rusqlite::version_number().to_string(),
        });
    }
    Ok(())
}

fn prepare_files(path: &Path, options: &Options, found: Found) -> std::io::Result<()> {
    if found == Found::Nothing {
        // Created here and not by SQLite, so that it gets the right mode.
        drop(files::open_or_create(path, options.private, files::folder_of(path))?);
        files::sync_folder_of(path)?;
    }
    if options.private {
        files::make_private(path)?;
    }
    Ok(())
}

/// Checkpoints the WAL that an earlier process left, which writes its pages once more. If that process
/// had a failed fsync, some pages of the WAL may be in the system's cache only, and no fsync of the WAL
/// would write them to the disk. Best effort: it does not wait for readers of other processes, and it
/// may need space that the disk does not have.
fn settle_wal(conn: &Connection, options: &Options) -> rusqlite::Result<()> {
    conn.busy_timeout(std::time::Duration::ZERO)?;
    let result = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    conn.busy_timeout(options.busy_timeout)?;
    match result {
        Err(error) if FailureClass::of(&error) == FailureClass::FsyncFailed => Err(error),
        Err(error) => {
            tracing::debug!(%error, "the WAL stays as the last process left it");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// SQLite silently falls back to a read-only connection when the file is not writable; this refuses it.
fn refuse_silent_read_only(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    match conn.is_readonly("main") {
        Ok(false) => Ok(()),
        Ok(true) => {
            let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied).into();
            Err(OpenError::Unwritable { path: path.to_owned(), source })
        }
        Err(error) => Err(failed(path, error.into())),
    }
}

fn set_up(
    conn: &Connection,
    path: &Path,
    schema: &Schema,
    options: &Options,
    in_memory: bool,
) -> Result<(), OpenError> {
    connect::prepare(conn, options).map_err(|error| failed(path, error.into()))?;
    let state = schema::recognise(conn, path, schema)?;
    connect::prepare_writer(conn, path, in_memory)?;
    schema::migrate(conn, path, schema, state)?;
    connect::verify(conn, path, in_memory)
}

fn failed(path: &Path, source: StorageError) -> OpenError {
    OpenError::from_storage(path, source)
}
