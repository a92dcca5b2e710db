//! Why a store could not be opened.

use std::path::PathBuf;
use thiserror::Error;

use crate::failure::BoxError;
use crate::store::OpenLogError;

/// Why a store could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the store open.
    #[error("the store {path} is in use by {holder}; close that first, or open it read-only")]
    StoreInUse {
        /// The store's file.
        path: PathBuf,
        /// The process that holds it: its id and name.
        holder: String,
    },
    /// The file is no store.
    #[error("{path} is not a Landfall store: {what}; choose another path")]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// A description of the file.
        what: String,
    },
    /// A later version of this software wrote it.
    #[error("the store has format {found}, this version reads up to {supported}; upgrade")]
    TooNew {
        /// The file's format.
        found: u32,
        /// The latest that this version reads.
        supported: u32,
    },
    /// An earlier version wrote it, and it was to be opened for reading only. Opening it once for
    /// editing upgrades it to this version's format.
    #[error("the store has format {found}, this version reads {needed}; open it once for editing")]
    TooOld {
        /// The file's format.
        found: u32,
        /// The format that this version reads.
        needed: u32,
    },
    /// The folder or file cannot be read or written, or the disk is full or broken.
    #[error("the store cannot be opened: {0}")]
    Storage(#[source] BoxError),
    /// A thread could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
}

impl From<OpenLogError> for OpenError {
    fn from(error: OpenLogError) -> Self {
        use landfall_storage::OpenError as Storage;
        match error {
            OpenLogError::Open(Storage::InUse { holder, path, .. }) => {
                Self::StoreInUse { path, holder: holder.to_string() }
            }
            OpenLogError::Open(Storage::NotOurs { path, what, .. }) => {
                Self::NotAStore { path, what: what.to_string() }
            }
            OpenLogError::Open(Storage::TooNew { found, supported, .. }) => {
                Self::TooNew { found, supported }
            }
            OpenLogError::Open(Storage::TooOld { found, needed, .. }) => {
                Self::TooOld { found, needed }
            }
            OpenLogError::Open(other) => Self::Storage(Box::new(other)),
            other => Self::Storage(Box::new(other)),
        }
    }
}
