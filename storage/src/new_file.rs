//! A file that has its name only when it is whole.
//!
//! It grows beside its target, under a name of its own. So whatever ends the process, a file with
//! the target's name is a good one. What a killed process left is removed by the next one that
//! makes a file there.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::{self, UNFINISHED};

/// Why a file was not made. Nothing has its name then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NewFileError {
    /// There is one already; it is never overwritten.
    #[error("{path}: there is a file already", path = path.display())]
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// Another process makes one there.
    #[error("{path}: another process is making a file there", path = path.display())]
    Busy {
        /// The name.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("{path}: the file could not be made", path = path.display())]
    Failed {
        /// The name.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A file under way. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    path: PathBuf,
    /// Locked, so that two processes cannot fill one file. Let go last.
    file: File,
}

impl NewFile {
    /// Begins a file, empty, for its owner only if it is to be private.
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

    /// Makes the file and locks it; `None` if another process is at it. What a killed process left
    /// is removed and not used again: it may be a finished copy under its second name.
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

    /// Where it is while it grows.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself, open for writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// [`NewFileError::Exists`] if somebody else took the name meanwhile.
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
            // Not every file system has links: then there is a moment in which another file could
            // get the name, and be overwritten.
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
        // Half a file is of no use. What is finished has another name by now.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks a file, if it still has its name and nobody else has locked it.
fn lock(file: File, path: &Path) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(is_at(&file, path).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether this is the file that has this name.
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
