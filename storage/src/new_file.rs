//! Creates a file that gets its name only once it is complete.
//!
//! The file is written beside its target under a temporary name. A file with the target's name is therefore
//! complete, even if the process is killed at any time. The next process that creates a file there removes
//! the leftover of a killed one.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::{self, UNFINISHED};

/// Why a file was not created. No file has the target's name then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NewFileError {
    /// The target exists already; it is never overwritten.
    #[error("{path}: the file exists already", path = path.display())]
    Exists {
        /// The target's path.
        path: PathBuf,
    },
    /// Another process is creating the file.
    #[error("{path}: another process is writing a file there", path = path.display())]
    Busy {
        /// The target's path.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("{path}: the file could not be created", path = path.display())]
    Failed {
        /// The target's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A file that is being written. Dropping it before `finish` removes it.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    path: PathBuf,
    /// Locked, so that two processes cannot write one file. Dropped last.
    file: File,
}

impl NewFile {
    /// Creates an empty file; `private` restricts it to its owner.
    ///
    /// # Errors
    /// See [`NewFileError`].
    pub fn begin(target: impl Into<PathBuf>, private: bool) -> Result<Self, NewFileError> {
        let target = target.into();
        if fs::symlink_metadata(&target).is_ok() {
            return Err(NewFileError::Exists { path: target });
        }
        let path = files::beside(&target, UNFINISHED);
        match Self::own(&path, private) {
            Ok(Some(file)) => Ok(Self { target, path, file }),
            Ok(None) => Err(NewFileError::Busy { path: target }),
            Err(source) => Err(NewFileError::Failed { path: target, source }),
        }
    }

    /// Creates the file and locks it; `None` if another process is writing it. Removes the leftover of a
    /// killed process instead of reusing it: it may be a second link to a finished copy.
    fn own(path: &Path, private: bool) -> io::Result<Option<File>> {
        match files::create_new(path, private) {
            Ok(file) => return lock(file, path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if lock(files::open_or_create(path, private, path)?, path)?.is_none() {
            return Ok(None);
        }
        fs::remove_file(path)?;
        match files::create_new(path, private) {
            Ok(file) => lock(file, path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The temporary path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself, open for writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fsyncs the file and gives it its name.
    ///
    /// # Errors
    /// [`NewFileError::Exists`] if another process took the name meanwhile.
    pub fn finish(self) -> Result<(), NewFileError> {
        match self.name() {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(NewFileError::Exists { path: self.target.clone() })
            }
            Err(source) => Err(NewFileError::Failed { path: self.target.clone(), source }),
        }
    }

    fn name(&self) -> io::Result<()> {
        self.file.sync_all()?;
        match fs::hard_link(&self.path, &self.target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // Some file systems have no hard links. There, a file that another process creates with this name
            // between the check and the rename would be overwritten.
            Err(_) if fs::symlink_metadata(&self.target).is_err() => {
                fs::rename(&self.path, &self.target)?;
            }
            Err(error) => return Err(error),
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        files::sync_folder_of(&self.target)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // An incomplete file is of no use. A finished one no longer has this path.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks a file, if it still has its name and no other process holds the lock.
fn lock(file: File, path: &Path) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(is_at(&file, path).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether `path` leads to this file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(file), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (file.dev(), file.ino()) == (named.dev(), named.ino())
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}
