//! Operations on the store's file as a whole: copy it alongside a running relay, restore it, rewrite it. This
//! module must not read the file's content.

use std::io;
use std::path::{Path, PathBuf};

use landfall_storage::{BackupError, Database, Options, Replacement, StorageError};

use crate::store::rows::schema::SCHEMA;
use crate::store::sqlite::opening::OpenStoreError;
use crate::store::sqlite::{FILE, make_folder};
use crate::store::{FailureClass, StoreError};

/// The name of the file being rewritten, in the data folder.
const REWRITTEN: &str = "relay.db.rewritten";

/// Whether a data folder has a store. Opening a folder without one would create it.
pub fn has_store(folder: &Path) -> bool {
    folder.join(FILE).exists()
}

/// Copies the store of a data folder to a new file: in one read, which may run alongside the relay that
/// writes it; a store of an earlier version is copied as it is. The copy gets its name only after an fsync
/// and SQLite's check.
pub fn copy_out(folder: &Path, target: &Path) -> Result<(), BackupError> {
    Database::copy_file(folder.join(FILE), target, &SCHEMA, &Options::default()).map(drop)
}

/// Creates a data folder from a copy; the copy is not modified.
pub fn copy_in(copy: &Path, folder: &Path) -> Result<(), CopyInError> {
    make_folder(folder).map_err(|source| CopyInError::Folder(folder.to_owned(), source))?;
    let (target, options) = (folder.join(FILE), Options::default());
    Database::copy_file(copy, target, &SCHEMA, &options).map(drop).map_err(CopyInError::Copy)
}

/// Why a data folder could not be created from a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyInError {
    /// The folder cannot be made.
    #[error("the folder {path} cannot be made", path = .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// The copy cannot be read, or the target cannot be written.
    #[error(transparent)]
    Copy(BackupError),
}

/// Exclusive hold of a data folder: no relay uses it, and none can open it while this value lives.
#[derive(Debug)]
pub struct Seized {
    folder: PathBuf,
    file: Replacement,
}

impl Seized {
    /// Takes hold of a data folder, and creates it if absent.
    pub fn take(folder: &Path) -> Result<Self, OpenStoreError> {
        let refused = |source| OpenStoreError::Folder { path: folder.to_owned(), source };
        make_folder(folder).map_err(refused)?;
        let file = Replacement::begin(folder.join(FILE), Options::default().private)?;
        Ok(Self { folder: folder.to_owned(), file })
    }

    /// The folder of the store's file itself. A link in the data folder may point to it, and a file that is
    /// renamed over the store must be created in the same file system.
    pub fn file_folder(&self) -> &Path {
        self.file.path().parent().unwrap_or(&self.folder)
    }

    /// Whether the folder has a store.
    pub fn has_store(&self) -> bool {
        self.file.is_there()
    }

    /// Moves the store of another folder here. No process may have that store open, and it must have been
    /// closed cleanly. The store that was here is renamed to `keep`, in [`Self::file_folder`]. After a crash
    /// at any point, either the old or the new store is here.
    pub fn put(&self, from: &Path, keep: &str) -> Result<(), StoreError> {
        self.put_file(&from.join(FILE), Some(keep))
    }

    /// Rewrites the file without free pages, in row order; it needs as much free disk space as the data in
    /// use. After a crash at any point, either the old or the new file is there.
    pub fn rewrite(&self) -> Result<(), RewriteError> {
        // In the folder of the file itself, which a link may point to: the new file is renamed over it.
        let new = self.file_folder().join(REWRITTEN);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RewriteError::SnapshotPosition(failed(error.into())));
            }
            _ => {}
        }
        let made = copy_out(&self.folder, &new)
            .map_err(RewriteError::Copy)
            .and_then(|()| self.put_file(&new, None).map_err(RewriteError::SnapshotPosition));
        if made.is_err() {
            // The first error is the one returned.
            let _ = std::fs::remove_file(&new);
        }
        made
    }

    fn put_file(&self, new: &Path, keep: Option<&str>) -> Result<(), StoreError> {
        let keep = keep.map(|name| self.file_folder().join(name));
        self.file.put(new, keep.as_deref()).map_err(failed)
    }
}

/// Why a store's file could not be rewritten. The file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The new file could not be written.
    #[error(transparent)]
    Copy(BackupError),
    /// The new file could not replace the old one.
    #[error(transparent)]
    SnapshotPosition(StoreError),
}

impl RewriteError {
    /// The class of the failure.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Copy(error) => error.class(),
            Self::SnapshotPosition(error) => FailureClass::of_chain(error),
        }
    }
}

fn failed(error: StorageError) -> StoreError {
    StoreError::new("be replaced", error.class(), error)
}
