//! Operations on the store's file as a whole: backup, restore, and rewriting it compactly.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landfall_storage::{BackupError, Replacement, StorageError};

use super::{AdminError, close, open, size, take};
use crate::clock::now_ms;
use crate::compactor;
use crate::error::{OpenError, StoreError};
use crate::failure::{BoxError, StoreFailure};
use crate::store::{CompactionOptions, LocalLog, OpenMode};

/// The result of a restore.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Restored {
    /// The path of the store that was replaced.
    pub kept: Option<PathBuf>,
}

/// The result of a compaction.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Documents that were compacted.
    pub documents: u64,
    /// Changes that were compacted.
    pub changes: u64,
    /// Documents that could not be compacted; they are unchanged.
    pub failed: u64,
    /// Bytes of the file before.
    pub bytes_before: u64,
    /// Bytes of the file after.
    pub bytes_after: u64,
}

/// Copies the present state of a store to a new file, also beside the process that has it open. The
/// copy is fsynced and checked before it gets its name.
///
/// # Errors
/// [`AdminError::Exists`]: no file is ever overwritten. On an error nothing is left at the target.
pub fn backup(path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), AdminError> {
    LocalLog::copy_file(path.as_ref(), target.as_ref()).map_err(|error| match error {
        BackupError::Exists { path } => AdminError::Exists(path),
        BackupError::Source(error) => OpenError::Storage(Box::new(error)).into(),
        error => AdminError::Copy(Box::new(error)),
    })
}

/// Replaces a store that no process has open by a backup. The backup is verified first, document by
/// document, unless `unchecked` is set. An existing store is replaced only if `replace` is set, and is
/// kept beside the new one. If it is interrupted, either the old store is there or the new one.
///
/// A restored store uses fresh actors and compares its documents with its relay, so that nothing is
/// duplicated.
///
/// # Errors
/// See [`AdminError`]; the store is then unchanged.
pub fn restore(
    backup: impl AsRef<Path>,
    path: impl AsRef<Path>,
    replace: bool,
    unchecked: bool,
) -> Result<Restored, AdminError> {
    let path = path.as_ref();
    let place = seize(path)?;
    if place.is_there() && !replace {
        return Err(AdminError::Exists(path.to_owned()));
    }
    // Beside the file itself: a symbolic link may point to it from another folder and file system, from
    // which a rename would fail.
    let staging = beside(place.path(), ".restoring");
    clear(&staging)?;
    let kept = beside(place.path(), &format!(".replaced-{}", now_ms()));
    let kept = place.is_there().then_some(kept);
    let made = stage(backup.as_ref(), &staging, unchecked)
        .and_then(|()| place.put(&staging, kept.as_deref()).map_err(failed));
    if let Err(error) = made {
        // The first error is returned.
        let _ = clear(&staging);
        return Err(error);
    }
    clear(&staging)?;
    Ok(Restored { kept })
}

/// Copies the backup, and verifies it.
fn stage(backup: &Path, staging: &Path, unchecked: bool) -> Result<(), AdminError> {
    LocalLog::copy_file(backup, staging)
        .map_err(|error| AdminError::BadBackup(Box::new(error) as BoxError))?;
    if unchecked {
        return Ok(());
    }
    let log = open(OpenMode::File(staging))?;
    let found = log.verify().map_err(StoreError::from);
    let closed = close(&log);
    let found = found?;
    closed?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(AdminError::DamagedBackup(found)),
    }
}

/// Compacts the history of a store that no process has open, and rewrites its file without free space.
/// With `all`, everything that the relay holds is compacted, not only documents that are due.
///
/// # Errors
/// See [`AdminError`]; earlier compactions stay. If it is interrupted, nothing is lost.
pub fn compact(path: impl AsRef<Path>, all: bool) -> Result<CompactionReport, AdminError> {
    let path = path.as_ref();
    let log = take(path)?;
    let options = if all { CompactionOptions::EVERYTHING } else { CompactionOptions::default() };
    let before = size(&log);
    let compacted = compactor::compact(&log, &options);
    let closed = close(&log);
    drop(log);
    let (compacted, bytes_before) = (compacted?, before?);
    closed?;
    let place = seize(path)?;
    let rewritten = beside(place.path(), ".rewritten");
    clear(&rewritten)?;
    let made = LocalLog::copy_file(place.path(), &rewritten)
        .map_err(|error| AdminError::Copy(Box::new(error) as BoxError))
        .and_then(|()| place.put(&rewritten, None).map_err(failed));
    if let Err(error) = made {
        // The first error is returned.
        let _ = clear(&rewritten);
        return Err(error);
    }
    let made = fs::metadata(path);
    let made = made.map_err(|source| AdminError::File { path: path.to_owned(), source })?;
    Ok(CompactionReport {
        documents: compacted.documents,
        changes: compacted.changes,
        failed: compacted.failed,
        bytes_before,
        bytes_after: made.len(),
    })
}

fn seize(path: &Path) -> Result<Replacement, AdminError> {
    let private = landfall_storage::Options::default().private;
    let place = Replacement::begin(path, private).map_err(crate::store::OpenLogError::Open);
    Ok(place.map_err(OpenError::from)?)
}

fn failed(error: StorageError) -> AdminError {
    let class = StoreFailure::from(error.class());
    StoreError { class, source: Box::new(error) }.into()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a file with the files that SQLite and the lock created beside it.
fn clear(path: &Path) -> Result<(), AdminError> {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let path = beside(path, suffix);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(AdminError::File { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}
