//! Another database in the place of a file that nobody writes: for a restore, and for a file that
//! is rewritten to give its free pages back.
//!
//! The new file is made beside the old one and renamed over it, so that whatever ends the process,
//! there is the old one or the new one.

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

/// The lock of a database file: while this lives, no process can open it for writing.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    _lock: Lock,
}

impl Replacement {
    /// Takes the lock. Its folder must exist; the file need not, and is not looked at.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while another handle has it open for writing.
    pub fn begin(path: impl AsRef<Path>, private: bool) -> Result<Self, OpenError> {
        let path = files::resolve(path.as_ref())?;
        let lock = Lock::take(&path, private)?;
        Ok(Self { path, _lock: lock })
    }

    /// The file, without links: what is to be renamed over it must be made beside this path, which
    /// may lie in another folder and another file system than the path that was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file to be replaced.
    pub fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Puts a whole database in the place of the file. `new` must lie in the same file system,
    /// be open nowhere, and have no files of SQLite's beside it; it is fsynced here.
    ///
    /// The old file goes to `keep`, if that is given, with everything that was committed to it. A
    /// damaged old file whose WAL cannot be brought into it is kept with its WAL beside it; only
    /// then is there a moment in which it stands in its place without the WAL.
    ///
    /// # Errors
    /// The file system's or SQLite's. Either the old file or the new one has the name then.
    pub fn put(&self, new: &Path, keep: Option<&Path>) -> Result<(), StorageError> {
        files::open_for_place(new, &self.path)?.sync_all()?;
        if self.is_there() {
            let kept_wal = keep.map(|keep| self.keep_as(keep)).transpose()?.flatten();
            match (self.settle(), kept_wal) {
                // The kept file is this one under another name: it has by now what the WAL had.
                (Ok(()), Some(wal)) => remove(&wal)?,
                (Ok(()), None) => {}
                (Err(error), _) => {
                    tracing::warn!(%error, "the old file's WAL cannot be brought into it");
                }
            }
        }
        // Also of a file that is gone: SQLite would take them for the new one's.
        for suffix in BESIDE {
            remove(&files::beside(&self.path, suffix))?;
        }
        fs::rename(new, &self.path)?;
        Ok(files::sync_folder_of(&self.path)?)
    }

    /// Brings the WAL into the file, so that the file alone is everything.
    fn settle(&self) -> Result<(), StorageError> {
        let conn = connect::connect(&self.path, true)?;
        conn.busy_timeout(Options::default().busy_timeout)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(StorageError::Io(io::Error::other("a reader holds it open")));
        }
        conn.close().map_err(|(_, error)| error.into())
    }

    /// Gives the file and its WAL second names, before anything is done to them. Gives that of the
    /// WAL, if both are names and not copies.
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

/// A second name for a file, or a copy where there are no links. True for a name.
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
