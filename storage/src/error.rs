//! The error types of the crate, sorted by who can fix the problem, and the one place that classifies
//! them.
//!
//! Each public operation has its own enum with only the errors that it can return. All of them have
//! `class()`, and all classes come from [`FailureClass::of`] and its sibling for files.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ffi;
use thiserror::Error as ThisError;

use crate::gone::{Gone, GoneFile};
use crate::holder::Holder;

/// The kind of a failure: enough for a caller to decide whether to retry, to ask for space, or to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureClass {
    /// No space left on the disk, in the quota, or below a page limit. Resolved by freeing space.
    DiskFull,
    /// The file, its folder or the handle is not writable.
    ReadOnly,
    /// The file's content is damaged, or it is not a database.
    Corrupt,
    /// Another connection held a lock for longer than the busy timeout. Worth a retry.
    Busy,
    /// The disk or the file system failed.
    Io,
    /// A file of the database was removed, renamed, replaced or overwritten while it was open. Final
    /// for this opening.
    Gone,
    /// An fsync failed, now or earlier in this opening: the operating system may have dropped pages
    /// that it was asked to write, and a later fsync would not report that. The handle refuses every
    /// write from then on; close the database and open it again.
    FsyncFailed,
    /// The writer thread panicked: a bug of this crate. The database refuses every write until it is
    /// closed and opened again.
    Panicked,
    /// The database was closed.
    Closed,
    /// None of these: a violated constraint, invalid SQL, or an error of the caller's own.
    Other,
}

impl FailureClass {
    /// The class of an SQLite error, by its extended code.
    #[must_use]
    pub fn of(error: &rusqlite::Error) -> Self {
        error.sqlite_error().map_or(Self::Other, Self::of_code)
    }

    /// The class of any error, by the first error of SQLite or of the file system in its source chain.
    #[must_use]
    pub fn of_chain(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(sqlite) = error.downcast_ref::<rusqlite::Error>() {
                return Self::of(sqlite);
            }
            // A `transparent` wrapper returns its inner error's source and hides that error, so the
            // chain may hold only the code below a rusqlite::Error.
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
            // The shared-memory file could not be extended: the disk is full.
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

    /// Makes an error of class `self`, for fault injection.
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

/// A failure of SQLite or of the file system, or a handle that can no longer do what was asked.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum StorageError {
    /// The handle was closed, or its last clone was dropped.
    #[error("the database is closed")]
    Closed,
    /// The handle was opened read-only.
    #[error("the database was opened read-only")]
    ReadOnly,
    /// A call that waits for the writer thread was made on that thread.
    #[error("this call waits for the writer thread, but it was made on that thread")]
    WouldDeadlock,
    /// SQLite rolled the whole group back while one of its jobs ran.
    #[error("SQLite rolled the whole transaction back while one of its jobs ran ({class:?})")]
    RolledBack {
        /// The class of the error that the job returned.
        class: FailureClass,
    },
    /// A file of the database is gone from its path. Earlier commits may be lost with it.
    #[error("the database's file is gone: {0}")]
    Gone(GoneFile),
    /// An fsync failed earlier in this opening, so the write was not attempted: see
    /// [`FailureClass::FsyncFailed`].
    #[error(
        "an fsync failed earlier; the database accepts no more writes; close it and open it again"
    )]
    FsyncFailed(#[source] Arc<StorageError>),
    /// The writer thread panicked: a bug of this crate. The database refuses every write until it is
    /// opened again.
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
    /// The failure class.
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

/// Why a file is not a database of this schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Foreign {
    /// The path leads to something other than a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// The file does not begin with SQLite's magic bytes.
    #[error("it is not an SQLite database")]
    NotSqlite,
    /// An SQLite database of another application.
    #[error("it is the database of another application (id {found:#x})")]
    OtherApplication {
        /// The application id in the file; 0 is SQLite's default.
        found: i32,
    },
}

/// Why a database was not opened. Sorted by who can fix it: the caller, the user, the disk.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum OpenError {
    /// Caller: the schema is invalid.
    #[error("the schema {name:?} cannot be used: {what}")]
    Schema {
        /// The schema's name.
        name: &'static str,
        /// The problem.
        what: &'static str,
    },
    /// User: the folder that should hold the file is missing; it is not created.
    #[error("{path}: the folder for the database does not exist", path = path.display())]
    FolderMissing {
        /// The folder.
        path: PathBuf,
        /// The file system's error.
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
        /// The process that has it open.
        holder: Holder,
    },
    /// User: the file has hard links. Locks and the write-ahead log belong to a name, so through another
    /// name a second process could open the file, and the two would overwrite each other's writes.
    #[error(
        "{path}: the file has {names} names (hard links), through which two processes could write it at once; remove the others, or put a copy in the place of this one",
        path = path.display()
    )]
    OtherNames {
        /// The file.
        path: PathBuf,
        /// The number of its names.
        names: u64,
    },
    /// User: the file does not belong to this schema; it was not changed.
    #[error("{path}: the file is not a database of this application: {what}", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Why it does not.
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
    /// User: the file needs a migration, which a read-only opening does not run.
    #[error("{path}: schema version {found} must be migrated to {needed} first", path = path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version that this release reads.
        needed: u32,
    },
    /// User: the file or its folder is not writable.
    #[error("{path}: cannot be written", path = path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The operation that was refused.
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
    /// Disk: any other error of SQLite or the file system.
    #[error("{path}: the database cannot be opened", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: StorageError,
    },
    /// Disk or our bug: SQLite did not apply a setting on which the crate's guarantees depend.
    #[error("{path}: SQLite rejected PRAGMA {pragma} = {wanted}; the value is {found}", path = path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting.
        pragma: &'static str,
        /// The value that was set.
        wanted: String,
        /// The value that SQLite reports.
        found: String,
    },
    /// Our bug: a migration failed; the file is still at the version before it.
    #[error("{path}: the migration to schema version {to} failed", path = path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// The version to which the migration leads.
        to: u32,
        /// What failed.
        source: StorageError,
    },
}

impl OpenError {
    /// Turns a lower-level failure into the variant for its class.
    pub(crate) fn from_storage(path: &Path, source: StorageError) -> Self {
        let path = path.to_owned();
        match source.class() {
            FailureClass::DiskFull => Self::DiskFull { path, source },
            FailureClass::ReadOnly => Self::Unwritable { path, source },
            FailureClass::Corrupt => Self::Corrupt { path, source },
            _ => Self::Io { path, source },
        }
    }

    /// The failure class.
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

/// Why a write failed. In every case none of it is in the database, with one exception described at
/// [`WriteError::Commit`].
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// The job itself returned an error; only this job was rolled back.
    #[error("the write failed")]
    Job(#[source] E),
    /// The job panicked with this message; only this job was rolled back.
    #[error("the write panicked: {0}")]
    Panicked(String),
    /// The group's transaction failed, and with it every job of the group; they share the cause.
    ///
    /// After [`FailureClass::FsyncFailed`] the write is absent only while the process lives: WAL frames
    /// whose fsync failed may have reached the disk, and the next opening could find them. No later
    /// commit of this opening succeeds.
    ///
    /// After [`FailureClass::Gone`] the write may be in the file that was removed or replaced.
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
    /// The failure class; for a job's own error, the class of the first SQLite error in its source
    /// chain.
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

/// Why a read failed.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ReadError<E> {
    /// The closure failed, with its own error.
    #[error("the read failed")]
    Query(#[source] E),
    /// No connection was available: the database is closed, or SQLite failed to open one or to begin.
    #[error("no connection to read from")]
    Connection(#[source] StorageError),
}

impl<E: Error + 'static> ReadError<E> {
    /// The failure class.
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
    fn an_injected_error_has_the_requested_class() {
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
