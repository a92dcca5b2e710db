//! Why a store was not opened, and what a person can do about it.

use std::io;
use std::path::PathBuf;

use landfall_storage::{OpenError, StorageError};
use thiserror::Error;

use super::StoreError;

/// Why a store was not opened.
#[derive(Debug, Error)]
pub enum OpenStoreError {
    /// User: the data folder cannot be made or used.
    #[error("the data folder {path} cannot be used", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// User or disk: the file in it was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Disk: the file opened, but its identity could not be read or written.
    #[error("the store's identity could not be read")]
    Identity(#[source] StoreError),
    /// Disk: the file was migrated, but what follows the migration could not be written. Opening
    /// it again goes on.
    #[error("the store could not be brought to this version; open it again to go on")]
    Migration(#[source] StoreError),
    /// Our bug or the system's: no randomness for a new store's identity.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// What a person can do about a store that does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHint {
    /// Another process has it.
    InUse,
    /// It is not a relay's store.
    WrongFile,
    /// A newer release wrote it.
    Newer,
    /// An earlier release wrote it, and what only reads cannot bring it to this one's format.
    Older,
    /// It may not be written.
    Unwritable,
    /// The disk is full.
    Full,
    /// None of these.
    Other,
}

impl OpenStoreError {
    /// What a person can do about it.
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

/// Whether the file that indexes the WAL could not get its size. SQLite calls that an I/O error;
/// it is what a disk without a free block comes to.
fn lacks_index_room(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}
