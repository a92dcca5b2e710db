//! What can go wrong, sorted by who can mend it, and the one place that classifies it.
//!
//! Each public operation has its own enum with only what that operation can return. All of them
//! answer `class()`, and all classes come from [`FailureClass::of`] and its sibling for files.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ffi;
use thiserror::Error as ThisError;

use crate::identity::{Gone, GoneFile};
use crate::lock::Holder;

/// What kind of trouble a failure is: enough for a caller to decide whether to retry, to ask for
/// space, or to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// No space left on the disk, in the quota, or below a page limit. Goes away with space.
    DiskFull,
    /// The file, its folder or the handle cannot be written.
    ReadOnly,
    /// The file's content is damaged, or it is not a database.
    Corrupt,
    /// Someone else held a lock for longer than the busy timeout. Worth a retry.
    Busy,
    /// The disk or the file system failed.
    Io,
    /// A file of the database was removed, renamed, replaced or overwritten while it was open. Final
    /// until it is opened again.
    Gone,
    /// An fsync failed, now or earlier in this opening: the operating system may have dropped what
    /// it was asked to write, and a later fsync would not say so. The handle refuses every write
    /// from then on; close the database and open it again.
    FsyncFailed,
    /// The writer thread panicked, our bug. Nothing is written until the database is closed and opened
    /// again.
    Panicked,
    /// The database was closed.
    Closed,
    /// None of these: a constraint, a mistake in SQL, a failure of the caller's own.
    Other,
}

impl FailureClass {
    /// The class of an error of SQLite's, by its extended code.
    #[must_use]
    pub fn of(error: &rusqlite::Error) -> Self {
        error.sqlite_error().map_or(Self::Other, Self::of_code)
    }

    /// The class of any error, by the first error of SQLite's or of the file system's in its chain.
    #[must_use]
    pub fn of_chain(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(sqlite) = error.downcast_ref::<rusqlite::Error>() {
                return Self::of(sqlite);
            }
            // A `transparent` wrapper hands out its inner error's source and hides that error, so
            // the code below a rusqlite::Error may be all that is seen of it.
            if let Some(code) = error.downcast_ref::<ffi::Error>() {
                return Self::of_code(code);
            }
            if let Some(storage) = error.downcast_ref::<StorageError>() {
                return storage.class();
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return Self::of_io(io);
            }
            next = error.source();
        }
        Self::Other
    }

    fn of_code(error: &ffi::Error) -> Self {
        match error.extended_code {
            ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA => return Self::Corrupt,
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => return Self::FsyncFailed,
            // The shared-memory file could not be made as long as it must be: no room for it.
            ffi::SQLITE_IOERR_SHMSIZE => return Self::DiskFull,
            _ => {}
        }
        // The low byte of an extended code is the primary one.
        match error.extended_code & 0xff {
            ffi::SQLITE_FULL => Self::DiskFull,
            ffi::SQLITE_READONLY | ffi::SQLITE_PERM => Self::ReadOnly,
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => Self::Corrupt,
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => Self::Busy,
            ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN => Self::Io,
            _ => Self::Other,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io,
        }
    }

    /// An error that classifies as `self`, for fault injection.
    pub(crate) fn injected(self) -> StorageError {
        let code = match self {
            Self::DiskFull => ffi::SQLITE_FULL,
            Self::ReadOnly => ffi::SQLITE_READONLY,
            Self::Corrupt => ffi::SQLITE_CORRUPT,
            Self::Busy => ffi::SQLITE_BUSY,
            Self::Io => ffi::SQLITE_IOERR_WRITE,
            Self::FsyncFailed => ffi::SQLITE_IOERR_FSYNC,
            Self::Closed => return StorageError::Closed,
            Self::Panicked => {
                return StorageError::WriterPanicked { panic: "injected for a test".to_owned() };
            }
            Self::Gone => {
                let path = PathBuf::from("injected for a test");
                return StorageError::Gone(GoneFile { path, how: Gone::Removed });
            }
            Self::Other => ffi::SQLITE_ERROR,
        };
        let what = Some("injected for a test".to_owned());
        StorageError::Sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), what))
    }
}

/// A failure below: of SQLite, of the file system, or of a handle that cannot do it any more.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum StorageError {
    /// The handle was closed, or its last clone is gone.
    #[error("the database is closed")]
    Closed,
    /// The handle was opened read-only.
    #[error("the database was opened read-only")]
    ReadOnly,
    /// A call that must wait for the writer thread was made on that thread.
    #[error("this call waits for the writer thread, and was made on it")]
    WouldDeadlock,
    /// SQLite rolled the whole group back while one of its jobs ran.
    #[error("SQLite rolled the whole transaction back while one of its jobs ran ({class:?})")]
    RolledBack {
        /// What the job at fault met, as far as its error tells.
        class: FailureClass,
    },
    /// A file of the database is not where it was. What was committed before may be gone with it.
    #[error("the database's file is gone: {0}")]
    Gone(GoneFile),
    /// An fsync failed earlier in this opening, so the write was not tried: see
    /// [`FailureClass::FsyncFailed`].
    #[error(
        "an fsync failed earlier, so nothing more is written; close the database and open it again"
    )]
    FsyncFailed(#[source] Arc<StorageError>),
    /// Our bug: the writer thread panicked, and nothing is written until the database is opened
    /// again.
    #[error("the writer thread panicked ({panic}); close the database and open it again")]
    WriterPanicked {
        /// The panic's message.
        panic: String,
    },
    /// SQLite failed.
    #[error("SQLite failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The file system failed.
    #[error("the file system failed")]
    Io(#[from] io::Error),
}

impl StorageError {
    /// What kind of trouble it is.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Closed => FailureClass::Closed,
            Self::WriterPanicked { .. } => FailureClass::Panicked,
            Self::ReadOnly => FailureClass::ReadOnly,
            Self::WouldDeadlock => FailureClass::Other,
            Self::RolledBack { class } => *class,
            Self::Gone(_) => FailureClass::Gone,
            Self::FsyncFailed(_) => FailureClass::FsyncFailed,
            Self::Sqlite(error) => FailureClass::of(error),
            Self::Io(error) => FailureClass::of_io(error),
        }
    }
}

/// What makes a file not ours to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Foreign {
    /// The path leads to something that is not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// The file does not begin as an SQLite database does.
    #[error("it is not an SQLite database")]
    NotSqlite,
    /// An SQLite database of another application.
    #[error("it is the database of another application (id {found:#x})")]
    OtherApplication {
        /// The application id in the file; 0 is SQLite's default.
        found: i32,
    },
}

/// Why a database was not opened. Sorted by who can mend it: the caller, the user, the disk.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum OpenError {
    /// Caller: the schema cannot be used as it is.
    #[error("the schema {name:?} cannot be used: {what}")]
    Schema {
        /// The schema's name.
        name: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// User: the folder that should hold the file is missing; it is not created.
    #[error("{path}: the folder for the database does not exist", path = path.display())]
    FolderMissing {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// User: a read-only opening found no file.
    #[error("{path}: there is no such database", path = path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// User: another process, or another handle in this one, has it open for writing.
    #[error("{path}: the database is in use by {holder}", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// User: the file has hard links. Through another name a second process could open it at the same
    /// time, since locks and the write-ahead log go by name; both would overwrite what the other wrote.
    #[error(
        "{path}: the file has {names} names (hard links), through which two processes could write it at once; remove the others, or put a copy in the place of this one",
        path = path.display()
    )]
    OtherNames {
        /// The file.
        path: PathBuf,
        /// How many names it has.
        names: u64,
    },
    /// User: the file is somebody else's; it was not touched.
    #[error("{path}: this file is not ours: {what}", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What tells it apart.
        what: Foreign,
    },
    /// User: a newer release wrote the file; upgrade to open it.
    #[error("{path}: schema version {found} is newer than {supported}", path = path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this release knows.
        supported: u32,
    },
    /// User: the file needs a migration, and a read-only opening cannot give it one.
    #[error("{path}: schema version {found} must be migrated to {needed} first", path = path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version that this release reads.
        needed: u32,
    },
    /// User: the file or its folder cannot be written.
    #[error("{path}: cannot be written", path = path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What was refused.
        source: StorageError,
    },
    /// Disk: no space left.
    #[error("{path}: the disk is full", path = path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: StorageError,
    },
    /// Disk: the content is damaged.
    #[error("{path}: the database is damaged", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: StorageError,
    },
    /// Disk: anything else that SQLite or the file system refused.
    #[error("{path}: the database cannot be opened", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: StorageError,
    },
    /// Disk or our bug: SQLite did not take a setting on which our promises rest.
    #[error("{path}: SQLite did not take PRAGMA {pragma} = {wanted}, it is {found}", path = path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting.
        pragma: &'static str,
        /// What was asked for.
        wanted: String,
        /// What it reads back as.
        found: String,
    },
    /// Our bug: a migration failed; the file still is at the version before it.
    #[error("{path}: the migration to schema version {to} failed", path = path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// The version that it leads to.
        to: u32,
        /// What failed.
        source: StorageError,
    },
}

impl OpenError {
    /// Sorts what failed below by its class.
    pub(crate) fn from_storage(path: &Path, source: StorageError) -> Self {
        let path = path.to_owned();
        match source.class() {
            FailureClass::DiskFull => Self::DiskFull { path, source },
            FailureClass::ReadOnly => Self::Unwritable { path, source },
            FailureClass::Corrupt => Self::Corrupt { path, source },
            _ => Self::Io { path, source },
        }
    }

    /// What kind of trouble it is.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::FolderMissing { .. } | Self::NotFound { .. } => FailureClass::Io,
            Self::InUse { .. } => FailureClass::Busy,
            Self::Unwritable { .. } => FailureClass::ReadOnly,
            Self::DiskFull { source, .. }
            | Self::Corrupt { source, .. }
            | Self::Io { source, .. }
            | Self::Migration { source, .. } => source.class(),
            Self::Schema { .. }
            | Self::OtherNames { .. }
            | Self::NotOurs { .. }
            | Self::TooNew { .. }
            | Self::TooOld { .. }
            | Self::Setting { .. } => FailureClass::Other,
        }
    }
}

/// Why a write did not happen. In every case nothing of it is in the database, with one exception
/// named at [`WriteError::Commit`].
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// The job itself failed, with its own error; it was rolled back alone.
    #[error("the write failed")]
    Job(#[source] E),
    /// The job panicked, with this message; it was rolled back alone.
    #[error("the write panicked: {0}")]
    Panicked(String),
    /// The group's transaction failed, and every job of it with it; they share the cause.
    ///
    /// After [`FailureClass::FsyncFailed`] the outcome is known only while the process lives:
    /// frames whose fsync failed may have reached the disk, and the next opening could find them.
    /// No later commit of this opening succeeds.
    ///
    /// After [`FailureClass::Gone`] it may stand in the file that is gone.
    #[error("the commit failed")]
    Commit(#[source] Arc<StorageError>),
    /// The handle was opened read-only.
    #[error("the database was opened read-only")]
    ReadOnly,
    /// The handle was closed.
    #[error("the database is closed")]
    Closed,
    /// A blocking write was made on the writer thread; use `submit` there.
    #[error("a blocking write was made on the writer thread")]
    WouldDeadlock,
}

impl<E: Error + 'static> WriteError<E> {
    /// What kind of trouble it is; for a job's own error, by the first error of SQLite's in its
    /// chain of sources.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Job(error) => FailureClass::of_chain(error),
            Self::Commit(error) => error.class(),
            Self::ReadOnly => FailureClass::ReadOnly,
            Self::Closed => FailureClass::Closed,
            Self::Panicked(_) | Self::WouldDeadlock => FailureClass::Other,
        }
    }
}

/// Why a read gave no answer.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ReadError<E> {
    /// The closure failed, with its own error.
    #[error("the read failed")]
    Query(#[source] E),
    /// No connection could be had: closed, or SQLite refused to open or begin.
    #[error("no connection to read from")]
    Connection(#[source] StorageError),
}

impl<E: Error + 'static> ReadError<E> {
    /// What kind of trouble it is.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Query(error) => FailureClass::of_chain(error),
            Self::Connection(error) => error.class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, ThisError)]
    enum Wrapped {
        #[error(transparent)]
        Transparent(#[from] rusqlite::Error),
        #[error("kept")]
        Kept(#[source] rusqlite::Error),
    }

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn classes_follow_the_extended_code() {
        for (code, class) in [
            (ffi::SQLITE_FULL, FailureClass::DiskFull),
            (ffi::SQLITE_READONLY_DBMOVED, FailureClass::ReadOnly),
            (ffi::SQLITE_CORRUPT_INDEX, FailureClass::Corrupt),
            (ffi::SQLITE_IOERR_CORRUPTFS, FailureClass::Corrupt),
            (ffi::SQLITE_BUSY_SNAPSHOT, FailureClass::Busy),
            (ffi::SQLITE_IOERR_WRITE, FailureClass::Io),
            (ffi::SQLITE_IOERR_FSYNC, FailureClass::FsyncFailed),
            (ffi::SQLITE_IOERR_DIR_FSYNC, FailureClass::FsyncFailed),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, FailureClass::Other),
        ] {
            assert_eq!(FailureClass::of(&failure(code)), class, "code {code}");
        }
    }

    #[test]
    fn the_class_is_found_below_a_callers_own_error() {
        let kept = WriteError::Job(Wrapped::Kept(failure(ffi::SQLITE_FULL)));
        assert_eq!(kept.class(), FailureClass::DiskFull);
        let hidden = WriteError::Job(Wrapped::Transparent(failure(ffi::SQLITE_FULL)));
        assert_eq!(hidden.class(), FailureClass::DiskFull);
    }

    #[test]
    fn an_injected_error_has_the_class_that_was_asked_for() {
        for class in [
            FailureClass::DiskFull,
            FailureClass::ReadOnly,
            FailureClass::Corrupt,
            FailureClass::Busy,
            FailureClass::Io,
            FailureClass::FsyncFailed,
            FailureClass::Closed,
            FailureClass::Panicked,
            FailureClass::Other,
        ] {
            assert_eq!(class.injected().class(), class);
        }
    }
}
