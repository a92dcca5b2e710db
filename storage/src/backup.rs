//! Copies a database while this or another process uses it.
//!
//! A copy is renamed to its final name only when it is complete, checked and fsynced ([`NewFile`]).
//! This module does not know what the tables hold.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use thiserror::Error;

use crate::connect;
use crate::error::{FailureClass, OpenError, StorageError};
use crate::files::{self, Found};
use crate::new_file::{NewFile, NewFileError};
use crate::options::Options;
use crate::schema::{self, Schema, State, pragma_i64};
use crate::shared::{Core, Place};

/// Interval between fsyncs of a copy that is being written.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// Why a copy was not made. In every case no file exists under the target's name.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The target exists already; a copy never overwrites a file.
    #[error("{path}: the file exists already", path = path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// Another process is copying to the same target.
    #[error("{path}: another process is writing a copy there", path = path.display())]
    Busy {
        /// The target.
        path: PathBuf,
    },
    /// The source database cannot be opened.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// The copy was written, but failed the check.
    #[error("{path}: the copy is damaged: {what}", path = path.display())]
    Unsound {
        /// The target.
        path: PathBuf,
        /// The problem that SQLite reported.
        what: String,
    },
    /// The copy failed.
    #[error("{path}: the copy failed", path = path.display())]
    Failed {
        /// The target.
        path: PathBuf,
        /// What failed.
        source: StorageError,
    },
}

impl BackupError {
    /// The failure class.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Exists { .. } => FailureClass::Other,
            Self::Busy { .. } => FailureClass::Busy,
            Self::Source(source) => source.class(),
            Self::Unsound { .. } => FailureClass::Corrupt,
            Self::Failed { source, .. } => source.class(),
        }
    }
}

impl From<NewFileError> for BackupError {
    fn from(error: NewFileError) -> Self {
        match error {
            NewFileError::Exists { path } => Self::Exists { path },
            NewFileError::Busy { path } => Self::Busy { path },
            NewFileError::Failed { path, source } => Self::Failed { path, source: source.into() },
        }
    }
}

impl Core {
    /// Copies one snapshot of the database to a new file and fsyncs it.
    pub(crate) fn backup_to(&self, target: &Path) -> Result<(), BackupError> {
        let failed = |source| BackupError::Failed { path: target.to_owned(), source };
        if self.is_closed() {
            return Err(failed(StorageError::Closed));
        }
        let growing = NewFile::begin(target, self.options.private)?;
        match &self.place {
            Place::File(path) => {
                let conn = visit(path, &self.options).map_err(failed)?;
                fill(&growing, target, &conn)?;
            }
            Place::Memory => {
                let mut filled = Ok(());
                let run = |conn: &Connection| {
                    filled = fill(&growing, target, conn);
                    Ok(())
                };
                self.with_writing_connection(run).map_err(failed)?;
                filled?;
            }
        }
        Ok(growing.finish()?)
    }
}

/// Copies a database file of `schema`, of this version or an earlier one, in one read transaction,
/// without migrating it. Another process may write the file meanwhile. Returns the schema version.
pub(crate) fn copy_file(
    source: &Path,
    target: &Path,
    schema: &Schema,
    options: &Options,
) -> Result<u32, BackupError> {
    let source = files::resolve(source)?;
    if files::inspect(&source, schema.application_id)? == Found::Nothing {
        return Err(OpenError::NotFound { path: source }.into());
    }
    let conn = visit(&source, options).map_err(|error| OpenError::from_storage(&source, error))?;
    let State::Version(version) = schema::recognise(&conn, &source, schema)? else {
        return Err(OpenError::NotFound { path: source }.into());
    };
    let growing = NewFile::begin(target, options.private)?;
    fill(&growing, target, &conn)?;
    growing.finish()?;
    Ok(version)
}

/// Opens a read-only connection from which the copy is made.
fn visit(path: &Path, options: &Options) -> Result<Connection, StorageError> {
    let conn = connect::connect(path, false)?;
    connect::prepare(&conn, options)?;
    Ok(conn)
}

/// Copies the database of a connection into a file, and checks the result.
fn fill(copy: &NewFile, target: &Path, conn: &Connection) -> Result<(), BackupError> {
    let failed = |source| BackupError::Failed { path: target.to_owned(), source };
    let path = || rusqlite::Error::InvalidPath(copy.path().to_owned());
    let name = copy.path().to_str().ok_or_else(path).map_err(|error| failed(error.into()))?;
    let copied = flushing(copy.file(), || conn.execute("VACUUM INTO ?1", [name]));
    copied.map_err(|error| failed(error.into()))?;
    let wanted = identity(conn).map_err(|error| failed(error.into()))?;
    // `VACUUM INTO` leaves the copy in the system's cache.
    copy.file().sync_all().map_err(|error| failed(error.into()))?;
    let made = connect::connect(copy.path(), false).map_err(failed)?;
    match check(&made, wanted) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(BackupError::Unsound { path: target.to_owned(), what }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Runs `fill`, which writes a file, and fsyncs the file every [`FLUSH_EVERY`] meanwhile: one large
/// fsync at the end would delay every other fsync on the disk.
fn flushing<T>(file: &File, fill: impl FnOnce() -> T) -> T {
    let (filled, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let flush = move || {
            while wait.recv_timeout(FLUSH_EVERY) == Err(RecvTimeoutError::Timeout) {
                // Only the fsync at the end decides whether the copy is safe.
                let _ = file.sync_data();
            }
        };
        // Without the thread the copy is still correct; it only delays other fsyncs.
        let _ = thread::Builder::new().name("storage-copy".to_owned()).spawn_scoped(scope, flush);
        let done = fill();
        drop(filled);
        done
    })
}

/// Returns the application id and the schema version.
fn identity(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    Ok((pragma_i64(conn, "application_id")?, pragma_i64(conn, "user_version")?))
}

/// Returns a description of what is wrong with a copy, if anything is.
fn check(copy: &Connection, wanted: (i64, i64)) -> rusqlite::Result<Option<String>> {
    if identity(copy)? != wanted {
        return Ok(Some("it lost its application id or version".to_owned()));
    }
    let verdict: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((verdict != "ok").then_some(verdict))
}
