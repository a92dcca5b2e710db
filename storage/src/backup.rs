//! A copy of a database while it is in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use thiserror::Error;

use crate::connect;
use crate::database::{Core, Place};
use crate::error::{FailureClass, StorageError};
use crate::files;

/// Why a copy was not made. Nothing is left at the target then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is a file at the target already; it is never overwritten.
    #[error("{path}: there is a file already", path = path.display())]
    Exists {
        /// The target.
        path: PathBuf,
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
            Self::Failed { source, .. } => source.class(),
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
        match files::create_new(target, self.options.private) {
            Ok(created) => drop(created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(BackupError::Exists { path: target.to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        self.fill(target).map_err(|error| {
            // Half a copy must not be taken for a whole one.
            let _ = fs::remove_file(target);
            failed(error)
        })
    }

    fn fill(&self, target: &Path) -> Result<(), StorageError> {
        match &self.place {
            Place::File(path) => {
                let conn = connect::connect(path, false)?;
                connect::prepare(&conn, &self.options)?;
                vacuum_into(&conn, target)?;
            }
            Place::Memory => {
                self.with_writing_connection(|conn| Ok(vacuum_into(conn, target)?))?;
            }
        }
        // SQLite leaves the copy in the system's cache.
        File::options().write(true).open(target)?.sync_all()?;
        Ok(files::sync_folder_of(target)?)
    }
}

fn vacuum_into(conn: &Connection, target: &Path) -> rusqlite::Result<()> {
    let name = target.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(target.to_owned()))?;
    conn.execute("VACUUM INTO ?1", [name])?;
    Ok(())
}
