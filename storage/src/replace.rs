//! Replaces a database file that no process has open for writing: for a restore, and for rewriting a
//! file to release its free pages.
//!
//! The new file is created beside the old one and renamed over it, so that after a crash the path has
//! either the old file or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::connect;
use crate::error::{OpenError, StorageError};
use crate::files;
use crate::lock::Lock;
use crate::options::Options;

/// SQLite's own files beside a database.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Holds the lock of a database file: while it lives, no process can open the file for writing.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    _lock: Lock,
}

impl Replacement {
    /// Takes the lock. The folder must exist; the file need not exist, and is not checked.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another handle has it open for writing.
    pub fn begin(path: impl AsRef<Path>, private: bool) -> Result<Self, OpenError> {
        let path = files::resolve(path.as_ref())?;
        let lock = Lock::take(&path, private)?;
        Ok(Self { path, _lock: lock })
    }

    /// The path with symbolic links resolved. Create the new file beside this path: it may be in
    /// another folder and on another file system than the path that was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file to replace.
    pub fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Replaces the file with a complete database. `new` must be on the same file system, be open
    /// nowhere, and have no SQLite files beside it. This fsyncs it.
    ///
    /// With `keep`, the old file is kept under that name, with everything that was committed to it. If
    /// the WAL of a damaged old file cannot be checkpointed, the old file is kept with its WAL beside
    /// it; only in this case is the old file briefly at its path without its WAL.
    ///
    /// # Errors
    /// The file system's or SQLite's. Either the old file or the new one is at the path then.
    pub fn put(&self, new: &Path, keep: Option<&Path>) -> Result<(), StorageError> {
        files::open_for_place(new, &self.path)?.sync_all()?;
        if self.is_there() {
            let kept_wal = keep.map(|keep| self.keep_as(keep)).transpose()?.flatten();
            match (self.settle(), kept_wal) {
                // The kept file is a hard link to this one, so it contains what was in the WAL.
                (Ok(()), Some(wal)) => remove(&wal)?,
                (Ok(()), None) => {}
                (Err(error), _) => {
                    tracing::warn!(%error, "cannot checkpoint the WAL of the old file");
                }
            }
        }
        // Done even if the old file is missing: SQLite would take its leftovers for the new file's.
        for suffix in BESIDE {
            remove(&files::beside(&self.path, suffix))?;
        }
        fs::rename(new, &self.path)?;
        Ok(files::sync_folder_of(&self.path)?)
    }

    /// Checkpoints the WAL, so that the database file alone is complete.
    fn settle(&self) -> Result<(), StorageError> {
        let conn = connect::connect(&self.path, true)?;
        conn.busy_timeout(Options::default().busy_timeout)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(StorageError::Io(io::Error::other("a reader has it open")));
        }
        conn.close().map_err(|(_, error)| error.into())
    }

    /// Gives the file and its WAL second names before they change. Returns the WAL's second name, if
    /// both are hard links and not copies.
    fn keep_as(&self, keep: &Path) -> io::Result<Option<PathBuf>> {
        if fs::symlink_metadata(keep).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (wal, kept_wal) = (files::beside(&self.path, "-wal"), files::beside(keep, "-wal"));
        let has_wal = fs::symlink_metadata(&wal).is_ok();
        let wal_is_linked = has_wal && duplicate(&wal, &kept_wal)?;
        let is_linked = duplicate(&self.path, keep)?;
        files::sync_folder_of(keep)?;
        Ok((wal_is_linked && is_linked).then_some(kept_wal))
    }
}

/// Makes a hard link to a file, or a copy where links are not possible. Returns true for a link.
fn duplicate(from: &Path, to: &Path) -> io::Result<bool> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(true);
    }
    files::copy(from, to)?;
    Ok(false)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
