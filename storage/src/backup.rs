//! A copy of a database while it is in use, also by another process.
//!
//! A copy gets its name only when it is whole, checked and on the disk ([`NewFile`]).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use thiserror::Error;

use crate::connect;
use crate::database::{Core, Place};
use crate::error::{FailureClass, OpenError, StorageError};
use crate::files::{self, Found};
use crate::new_file::{NewFile, NewFileError};
use crate::options::Options;
use crate::schema::{self, Schema, State, pragma_i64};

/// How often a growing copy is brought to the disk.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// Why a copy was not made. Nothing has the target's name then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is a file at the target already; it is never overwritten.
    #[error("{path}: there is a file already", path = path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// Another process makes a copy there.
    #[error("{path}: another process is making a copy there", path = path.display())]
    Busy {
        /// The target.
        path: PathBuf,
    },
    /// What is to be copied cannot be opened.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// The copy was made, and is not sound.
    #[error("{path}: the copy is not sound: {what}", path = path.display())]
    Unsound {
        /// The target.
        path: PathBuf,
        /// What SQLite found.
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
    /// What kind of trouble it is.
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
    /// Copies one snapshot to a new file, fsynced.
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

/// Copies a database file of `schema`, of this version or an earlier one, in one read: beside a
/// process that writes it, and without migrating it. Gives the version.
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

/// A connection that only reads a file, and writes the copy.
fn visit(path: &Path, options: &Options) -> Result<Connection, StorageError> {
    let conn = connect::connect(path, false)?;
    connect::prepare(&conn, options)?;
    Ok(conn)
}

/// Fills a file with what a connection reads, and looks whether it is sound.
fn fill(copy: &NewFile, target: &Path, conn: &Connection) -> Result<(), BackupError> {
    let failed = |source| BackupError::Failed { path: target.to_owned(), source };
    let path = || rusqlite::Error::InvalidPath(copy.path().to_owned());
    let name = copy.path().to_str().ok_or_else(path).map_err(|error| failed(error.into()))?;
    let copied = flushing(copy.file(), || conn.execute("VACUUM INTO ?1", [name]));
    copied.map_err(|error| failed(error.into()))?;
    let wanted = identity(conn).map_err(|error| failed(error.into()))?;
    // SQLite leaves the copy in the system's cache.
    copy.file().sync_all().map_err(|error| failed(error.into()))?;
    let made = connect::connect(copy.path(), false).map_err(failed)?;
    match check(&made, wanted) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(BackupError::Unsound { path: target.to_owned(), what }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Runs something that fills a file, which is brought to the disk bit by bit meanwhile: all of it at
/// the end would hold up everybody else's fsyncs.
fn flushing<T>(file: &File, fill: impl FnOnce() -> T) -> T {
    let (filled, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let flush = move || {
            while wait.recv_timeout(FLUSH_EVERY) == Err(RecvTimeoutError::Timeout) {
                // The one at the end counts.
                let _ = file.sync_data();
            }
        };
        // Without the thread it is only less kind to others.
        let _ = thread::Builder::new().name("storage-copy".to_owned()).spawn_scoped(scope, flush);
        let done = fill();
        drop(filled);
        done
    })
}

/// Whose file it is, and of which version.
fn identity(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    Ok((pragma_i64(conn, "application_id")?, pragma_i64(conn, "user_version")?))
}

/// What is wrong with a copy, if anything is.
fn check(copy: &Connection, wanted: (i64, i64)) -> rusqlite::Result<Option<String>> {
    if identity(copy)? != wanted {
        return Ok(Some("it lost its application id or version".to_owned()));
    }
    let said: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((said != "ok").then_some(said))
}
