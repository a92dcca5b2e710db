//! Why a store could not be opened, and what an operator can do.

use std::io;
use std::path::PathBuf;

use landfall_storage::{OpenError, StorageError};
use thiserror::Error;

use crate::store::StoreError;

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenStoreError {
    /// User: the data folder cannot be made or used.
    #[error("the data folder {path} cannot be used", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// User or disk: the store's file could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Disk: the file opened, but its identity could not be read or written.
    #[error("the store's identity could not be read")]
    Identity(#[source] StoreError),
    /// Disk: the file was migrated, but the step after the migration could not be written. Opening it again
    /// continues that step.
    #[error("the migration of the store could not be finished; open the store again to continue")]
    Migration(#[source] StoreError),
    /// Our bug or the system's: no randomness for a new store's identity.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// Remedies for a store that does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHint {
    /// Another process has it open.
    InUse,
    /// It is not a relay's store.
    WrongFile,
    /// A newer release wrote it.
    Newer,
    /// An earlier release wrote it, and a read-only opening cannot migrate it.
    Older,
    /// It is not writable.
    Unwritable,
    /// The disk is full.
    Full,
    /// None of these.
    Other,
}

impl OpenStoreError {
    /// The remedy to suggest to the operator.
    pub fn hint(&self) -> StoreHint {
        let Self::Open(error) = self else {
            return match self {
                Self::Folder { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    StoreHint::Full
                }
                Self::Folder { .. } => StoreHint::Unwritable,
                _ => StoreHint::Other,
            };
        };
        match error {
            OpenError::InUse { .. } => StoreHint::InUse,
            OpenError::NotOurs { .. } => StoreHint::WrongFile,
            OpenError::TooNew { .. } => StoreHint::Newer,
            OpenError::TooOld { .. } => StoreHint::Older,
            OpenError::Unwritable { .. } | OpenError::FolderMissing { .. } => StoreHint::Unwritable,
            OpenError::DiskFull { .. } => StoreHint::Full,
            OpenError::Io { source: StorageError::Sqlite(error), .. }
                if lacks_index_room(error) =>
            {
                StoreHint::Full
            }
            _ => StoreHint::Other,
        }
    }
}

/// Whether the WAL's index file could not be extended. SQLite reports an I/O error; the cause is a disk
/// without a free block.
fn lacks_index_room(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}
