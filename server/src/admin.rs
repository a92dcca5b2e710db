//! The operator's commands on a store: inspect, verify, back up, restore, compact, export and import. All of
//! them block; none knows the command line.
//!
//! Commands that only read may run alongside the relay that uses the store. Commands that write take the
//! store exclusively, and fail while a relay has it.

pub(crate) mod backup;
pub(crate) mod compact;
pub(crate) mod delete;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod import_repo;
mod repo_folder;
pub(crate) mod restore;
pub(crate) mod verify;
mod writing;

pub(crate) use writing::WriteCounts;

use std::io;
use std::path::{Path, PathBuf};

use landfall_protocol::portable::PortableError;
use landfall_protocol::{DocumentId, SpaceName};
use landfall_storage::NewFileError;
use thiserror::Error;

use crate::store::admin::copies::{self, RewriteError};
use crate::store::{BackupError, OpenStoreError, StoreError};

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum AdminError {
    /// The store cannot be opened.
    #[error("the store cannot be used")]
    Open(#[from] OpenStoreError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no store.
    #[error("there is no store in {folder}", folder = .0.display())]
    NoStore(PathBuf),
    /// There is no such space.
    #[error("the store has no space `{0}`")]
    NoSpace(SpaceName),
    /// There is no such document.
    #[error("space `{0}` has no document {1}")]
    NoDocument(SpaceName, DocumentId),
    /// The copy could not be made.
    #[error("the backup was not made")]
    Backup(#[source] BackupError),
    /// The file to restore is not a complete backup.
    #[error("the backup cannot be restored")]
    BadBackup(#[source] BackupError),
    /// The content of the backup is damaged.
    #[error("the backup is damaged: {first} (and {more} more)")]
    DamagedBackup {
        /// The first finding.
        first: String,
        /// How many more there are.
        more: u64,
    },
    /// There is a store already.
    #[error("{folder} has a store already", folder = .0.display())]
    HasStore(PathBuf),
    /// A file could not be read.
    #[error("{path} cannot be read", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A file or folder could not be written.
    #[error("{path} cannot be written", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// A file could not be created.
    #[error("the file was not created")]
    NewFile(#[from] NewFileError),
    /// A folder has no document of automerge-repo.
    #[error("{folder} has no documents in the format of automerge-repo's file storage", folder = .0.display())]
    NoRepo(PathBuf),
    /// A file is not a complete portable file.
    #[error("{path} cannot be imported", path = .0.display())]
    Portable(PathBuf, #[source] PortableError),
    /// The exported content does not read back: the store is damaged.
    #[error("the space cannot be exported completely")]
    Unsound(#[source] PortableError),
    /// The file could not be rewritten.
    #[error("everything is compacted, but the file was not rewritten")]
    Rewrite(#[source] RewriteError),
    /// This program cannot start itself as a worker.
    #[error("the compaction child cannot be started")]
    NoWorker,
    /// The system gave no randomness.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// Rejects a folder without a store: a wrong name must not create one.
pub(crate) fn must_have_store(data: &Path) -> Result<(), AdminError> {
    match copies::has_store(data) {
        true => Ok(()),
        false => Err(AdminError::NoStore(data.to_owned())),
    }
}
