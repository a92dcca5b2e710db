//! The way in: from a path to a connection that every promise can rest on, in a fixed order.
//!
//! Refusals come before changes: a file that is not ours, in use or too new is left as it was.

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
    /// How the write-ahead log that was left behind is damaged.
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
    // Looked at again under the lock: the holder before us may just have created it.
    let found = files::inspect(&path, schema.application_id)?;
    prepare_files(&path, options, found).map_err(|error| failed(&path, error.into()))?;
    let wal = look_at_wal(&path);
    // What a killed process left in the WAL may never have been fsynced, yet it is told from now on
    // as commit 0, which is on disk. By the file and not by a commit, which takes room.
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

/// What is wrong with the write-ahead log, which is kept as a copy then: SQLite will write over it.
fn look_at_wal(path: &Path) -> Option<WalDamage> {
    let damage = match wal::wal_damage(path) {
        Ok(damage) => damage?,
        Err(error) => {
            tracing::warn!(%error, "the write-ahead log could not be looked at");
            return None;
        }
    };
    let copy = files::beside(path, "-wal.damaged");
    tracing::error!(path = %path.display(), copy = %copy.display(), %damage, "a commit is lost");
    if !copy.exists()
        && let Err(error) = files::copy(&files::beside(path, "-wal"), &copy)
    {
        tracing::warn!(%error, "the damaged write-ahead log could not be copied");
    }
    Some(damage)
}

/// Opens a database that lives as long as its handle.
pub(crate) fn in_memory(schema: &Schema, options: &Options) -> Result<Opened, OpenError> {
    check_usable(schema)?;
    let path = PathBuf::from(":memory:");
    let conn = Connection::open_in_memory().map_err(|error| failed(&path, error.into()))?;
    set_up(&conn, &path, schema, options, true)?;
    Ok(Opened { path, conn, lock: None, watch: FileWatch::default(), wal: None })
}

/// Checks that a file can be read as it stands; it takes no lock and leaves no connection.
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

/// Undoes what a process left half done that was killed while the file had a rollback journal: at
/// its making, or when it was rewritten. A connection that only reads may not do that, and would be
/// refused. SQLite itself sees whether anybody is still at it.
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
        // Created here and not by SQLite, for its mode.
        drop(files::open_or_create(path, options.private, files::folder_of(path))?);
        files::sync_folder_of(path)?;
    }
    if options.private {
        files::make_private(path)?;
    }
    Ok(())
}

/// Moves what an earlier process left in the WAL into the database, which writes it once more. If
/// that process met a failed fsync, some pages of the WAL may be in the system's cache only, and no
/// fsync of the WAL would bring them to the disk. Best effort: readers of other processes are not
/// waited for, and it may need room that is not there.
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

/// SQLite falls back to reading when a file may not be written, and says so to nobody.
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
