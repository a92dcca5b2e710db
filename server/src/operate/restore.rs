//! `restore`: a backup as the store of a data folder.
//!
//! The backup is copied into a folder of its own inside the data folder, opened there as a relay
//! would open it, and checked change by change. Only then is the file renamed to its place. So
//! whenever the command is killed, the old store is there or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{OperateError, now_ms};
use crate::store::copies::{self, CopyInError, Seized};
use crate::store::verify::Verified;
use crate::store::{LogStore, OpenStoreError, SqliteStore, Subject, Verification};

/// Where a backup is made ready, in the data folder.
const STAGING: &str = "restoring";

/// How a backup is restored.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RestoreOptions {
    /// Whether a store that is there is replaced.
    pub(crate) replace: bool,
    /// Whether a backup is restored whatever is damaged in it.
    pub(crate) unchecked: bool,
}

/// What was restored.
#[derive(Debug)]
pub(crate) struct Restored {
    /// What was looked at, unless it was not to be.
    pub(crate) verified: Option<Verified>,
    /// Where the store is that was there before.
    pub(crate) kept: Option<PathBuf>,
}

/// Puts a backup in the place of the store of a data folder that no relay uses.
pub(crate) fn restore(
    data: &Path,
    backup: &Path,
    options: RestoreOptions,
) -> Result<Restored, OperateError> {
    let seized = Seized::take(data)?;
    if seized.has_store() && !options.replace {
        return Err(OperateError::HasStore(data.to_owned()));
    }
    let staging = seized.file_folder().join(STAGING);
    clear(&staging)?;
    let name = format!("relay.db.replaced-{}", now_ms());
    let kept = seized.has_store().then(|| seized.file_folder().join(&name));
    let made = stage(backup, &staging, options)
        .and_then(|verified| Ok(seized.put(&staging, &name).map(|()| verified)?));
    let verified = match made {
        Ok(verified) => verified,
        Err(error) => {
            // The first error counts.
            let _ = clear(&staging);
            return Err(error);
        }
    };
    clear(&staging)?;
    match &verified {
        Some(_) => Verification::now(0, None).record(data, Subject::Store),
        // What was written down is of the store that was there before.
        None => Verification::forget(data, Subject::Store),
    }
    Ok(Restored { verified, kept })
}

/// Makes a store of the backup, and looks whether it is sound.
fn stage(
    backup: &Path,
    staging: &Path,
    options: RestoreOptions,
) -> Result<Option<Verified>, OperateError> {
    copies::copy_in(backup, staging).map_err(|error| match error {
        CopyInError::Copy(error) => OperateError::BadBackup(error),
        CopyInError::Folder(path, source) => OpenStoreError::Folder { path, source }.into(),
    })?;
    if options.unchecked {
        return Ok(None);
    }
    // As a relay would open it: an older one is migrated here, and not only at the next start.
    let store = SqliteStore::open(staging)?;
    let (mut first, mut more) = (None, 0);
    let verified = store.inspection().verify(false, &mut |finding| {
        if finding.damage.is_harmless() {
            return;
        }
        match first {
            None => first = Some(finding.to_string()),
            Some(_) => more += 1,
        }
    })?;
    if first.is_none() {
        // What was known of damage in the store that it was copied from.
        store.set_condition(&[]);
    }
    store.close()?;
    match first {
        Some(first) => Err(OperateError::DamagedBackup { first, more }),
        None => Ok(Some(verified)),
    }
}

/// Removes what an interrupted restore left.
fn clear(staging: &Path) -> Result<(), OperateError> {
    match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OperateError::Write(staging.to_owned(), error))
        }
        _ => Ok(()),
    }
}
