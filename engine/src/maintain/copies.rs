//! The store's file as a whole: copied, put back, rewritten.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landfall_storage::{BackupError, Replacement, StorageError};

use super::{MaintainError, close, now_ms, open, size, take};
use crate::compactor;
use crate::error::{BoxError, OpenError, StoreError, StoreFailure};
use crate::store::{FoldOptions, LocalLog, Place};

/// What a restore came to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Restored {
    /// Where the store is that was there before.
    pub kept: Option<PathBuf>,
}

/// What a compaction came to.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Compacted {
    /// Documents of which something was folded.
    pub documents: u64,
    /// Changes that were folded.
    pub changes: u64,
    /// Documents that could not be folded; they are as they were.
    pub failed: u64,
    /// Bytes of the file before.
    pub bytes_before: u64,
    /// Bytes of the file after.
    pub bytes_after: u64,
}

/// Copies a store to a new file, as it is at this moment, also beside the process that has it
/// open. The copy is fsynced and checked, and has its name only then.
///
/// # Errors
/// [`MaintainError::Exists`]: nothing is ever overwritten. Nothing is left at the target.
pub fn backup(path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), MaintainError> {
    LocalLog::copy_file(path.as_ref(), target.as_ref()).map_err(|error| match error {
        BackupError::Exists { path } => MaintainError::Exists(path),
        BackupError::Source(error) => OpenError::Storage(Box::new(error)).into(),
        error => MaintainError::Copy(Box::new(error)),
    })
}

/// Puts a backup in the place of a store that nobody has open. It is checked first, document by
/// document, unless it is to be taken `unchecked`. A store that is there is replaced only if
/// `replace` says so, and kept beside the new one. Interrupted anywhere, the old store is there or
/// the new one.
///
/// A restored store takes fresh actors, and tells its relay what it has: nothing doubles.
///
/// # Errors
/// See [`MaintainError`]; then the store is as it was.
pub fn restore(
    backup: impl AsRef<Path>,
    path: impl AsRef<Path>,
    replace: bool,
    unchecked: bool,
) -> Result<Restored, MaintainError> {
    let path = path.as_ref();
    let place = seize(path)?;
    if place.is_there() && !replace {
        return Err(MaintainError::Exists(path.to_owned()));
    }
    // Beside the file itself: a link may lead to it from another folder and file system, where it
    // could not be renamed.
    let staging = beside(place.path(), ".restoring");
    clear(&staging)?;
    let kept = beside(place.path(), &format!(".replaced-{}", now_ms()));
    let kept = place.is_there().then_some(kept);
    let made = stage(backup.as_ref(), &staging, unchecked)
        .and_then(|()| place.put(&staging, kept.as_deref()).map_err(failed));
    if let Err(error) = made {
        // The first error counts.
        let _ = clear(&staging);
        return Err(error);
    }
    clear(&staging)?;
    Ok(Restored { kept })
}

/// Copies the backup, and looks whether it is sound.
fn stage(backup: &Path, staging: &Path, unchecked: bool) -> Result<(), MaintainError> {
    LocalLog::copy_file(backup, staging)
        .map_err(|error| MaintainError::BadBackup(Box::new(error) as BoxError))?;
    if unchecked {
        return Ok(());
    }
    let log = open(Place::File(staging))?;
    let found = log.verify().map_err(StoreError::from);
    let closed = close(&log);
    let found = found?;
    closed?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(MaintainError::DamagedBackup(found)),
    }
}

/// Folds the history of a store that nobody has open, and rewrites its file without the room that
/// nobody uses. `all` folds everything that the relay holds, and not only what is due.
///
/// # Errors
/// See [`MaintainError`]; what was folded before stays. Interrupted anywhere, nothing is lost.
pub fn compact(path: impl AsRef<Path>, all: bool) -> Result<Compacted, MaintainError> {
    let path = path.as_ref();
    let log = take(path)?;
    let options = if all { FoldOptions::EVERYTHING } else { FoldOptions::default() };
    let before = size(&log);
    let folded = compactor::compact(&log, &options);
    let closed = close(&log);
    drop(log);
    let (folded, bytes_before) = (folded?, before?);
    closed?;
    let place = seize(path)?;
    let rewritten = beside(place.path(), ".rewritten");
    clear(&rewritten)?;
    let made = LocalLog::copy_file(place.path(), &rewritten)
        .map_err(|error| MaintainError::Copy(Box::new(error) as BoxError))
        .and_then(|()| place.put(&rewritten, None).map_err(failed));
    if let Err(error) = made {
        // The first error counts.
        let _ = clear(&rewritten);
        return Err(error);
    }
    let made = fs::metadata(path);
    let made = made.map_err(|source| MaintainError::File { path: path.to_owned(), source })?;
    Ok(Compacted {
        documents: folded.documents,
        changes: folded.changes,
        failed: folded.failed,
        bytes_before,
        bytes_after: made.len(),
    })
}

fn seize(path: &Path) -> Result<Replacement, MaintainError> {
    let private = landfall_storage::Options::default().private;
    let place = Replacement::begin(path, private).map_err(crate::store::OpenLogError::Open);
    Ok(place.map_err(OpenError::from)?)
}

fn failed(error: StorageError) -> MaintainError {
    let class = StoreFailure::from(error.class());
    StoreError { class, source: Box::new(error) }.into()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a file with all that SQLite and the lock put beside it.
fn clear(path: &Path) -> Result<(), MaintainError> {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let path = beside(path, suffix);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(MaintainError::File { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}
