//! The store's file as a whole: copied out beside a running relay, put back, rewritten. All of it
//! is the file's business; what is in it is looked at elsewhere.

use std::io;
use std::path::{Path, PathBuf};

use landfall_storage::{BackupError, Database, Options, Replacement, StorageError};

use super::opening::OpenStoreError;
use super::schema::SCHEMA;
use super::sqlite::{FILE, make_folder};
use super::{FailureClass, StoreError};

/// Where a rewritten file grows, in the data folder.
const REWRITTEN: &str = "relay.db.rewritten";

/// Whether a data folder has a store. Opening one that has none would make one.
pub fn has_store(folder: &Path) -> bool {
    folder.join(FILE).exists()
}

/// Copies the store of a data folder to a new file: in one read, also beside the relay that writes
/// it, and one of an earlier version as it is. The copy is fsynced and checked by SQLite, and has
/// its name only then.
pub fn copy_out(folder: &Path, target: &Path) -> Result<(), BackupError> {
    Database::copy_file(folder.join(FILE), target, &SCHEMA, &Options::default()).map(drop)
}

/// Makes a data folder of a copy, which stays as it is.
pub fn copy_in(copy: &Path, folder: &Path) -> Result<(), CopyInError> {
    make_folder(folder).map_err(|source| CopyInError::Folder(folder.to_owned(), source))?;
    let (target, options) = (folder.join(FILE), Options::default());
    Database::copy_file(copy, target, &SCHEMA, &options).map(drop).map_err(CopyInError::Copy)
}

/// Why a data folder was not made of a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyInError {
    /// The folder cannot be made.
    #[error("the folder {path} cannot be made", path = .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// The copy cannot be read, or not written there.
    #[error(transparent)]
    Copy(BackupError),
}

/// A data folder that no relay uses and that none can use while this lives.
#[derive(Debug)]
pub struct Seized {
    folder: PathBuf,
    file: Replacement,
}

impl Seized {
    /// Takes a data folder, which is made if there is none.
    pub fn take(folder: &Path) -> Result<Self, OpenStoreError> {
        let refused = |source| OpenStoreError::Folder { path: folder.to_owned(), source };
        make_folder(folder).map_err(refused)?;
        let file = Replacement::begin(folder.join(FILE), Options::default().private)?;
        Ok(Self { folder: folder.to_owned(), file })
    }

    /// The folder of the store's file itself, which a link may lead to from the data folder: what
    /// is to be renamed over the file must be made in its file system.
    pub fn file_folder(&self) -> &Path {
        self.file.path().parent().unwrap_or(&self.folder)
    }

    /// Whether there is a store in it.
    pub fn has_store(&self) -> bool {
        self.file.is_there()
    }

    /// Moves the store of another folder, which nobody has open and which was closed in good
    /// order, here. What was here goes to `keep`, a name in
    /// [`Self::file_folder`]. Interrupted anywhere, the old store is here or the new one.
    pub fn put(&self, from: &Path, keep: &str) -> Result<(), StoreError> {
        self.put_file(&from.join(FILE), Some(keep))
    }

    /// Rewrites the file without the room that nobody uses, and in the order of its rows; it needs
    /// as much room again as what is in use. Interrupted anywhere, the old file is there or the
    /// new one.
    pub fn rewrite(&self) -> Result<(), RewriteError> {
        // Beside the file itself, which a link may lead to from this folder: it is renamed.
        let new = self.file_folder().join(REWRITTEN);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RewriteError::Place(failed(error.into())));
            }
            _ => {}
        }
        let made = copy_out(&self.folder, &new)
            .map_err(RewriteError::Copy)
            .and_then(|()| self.put_file(&new, None).map_err(RewriteError::Place));
        if made.is_err() {
            // The first error counts.
            let _ = std::fs::remove_file(&new);
        }
        made
    }

    fn put_file(&self, new: &Path, keep: Option<&str>) -> Result<(), StoreError> {
        let keep = keep.map(|name| self.file_folder().join(name));
        self.file.put(new, keep.as_deref()).map_err(failed)
    }
}

/// Why a store's file was not rewritten. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The new file could not be made.
    #[error(transparent)]
    Copy(BackupError),
    /// It could not be put in the old one's place.
    #[error(transparent)]
    Place(StoreError),
}

impl RewriteError {
    /// What kind of trouble it is.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Copy(error) => error.class(),
            Self::Place(error) => FailureClass::of_chain(error),
        }
    }
}

fn failed(error: StorageError) -> StoreError {
    StoreError::new("be replaced", error.class(), error)
}
