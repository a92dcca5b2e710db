//! `restore`: makes a backup the store of a data folder.
//!
//! Copies the backup into a staging folder inside the data folder, opens it there as a relay would, and
//! checks every change. Only then renames the file into place. If the command is killed at any time, the
//! store is either the old or the new one. It must not know the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::AdminError;
use crate::clock::now_ms;
use crate::store::admin::copies::{self, CopyInError, Seized};
use crate::store::admin::verify::Verified;
use crate::store::{Log, OpenStoreError, SqliteStore, Subject, Verification};

/// The staging folder in the data folder.
const STAGING: &str = "restoring";

/// Options of a restore.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RestoreOptions {
    /// Whether to replace an existing store.
    pub(crate) replace: bool,
    /// Whether to restore a damaged backup.
    pub(crate) unchecked: bool,
}

/// The result of a restore.
#[derive(Debug)]
pub(crate) struct Restored {
    /// Totals of the checked data; `None` if the check was skipped.
    pub(crate) verified: Option<Verified>,
    /// The path of the previous store.
    pub(crate) kept: Option<PathBuf>,
}

/// Replaces the store of a data folder, which no relay may use, with a backup.
pub(crate) fn restore(
    data: &Path,
    backup: &Path,
    options: RestoreOptions,
) -> Result<Restored, AdminError> {
    let seized = Seized::take(data)?;
    if seized.has_store() && !options.replace {
        return Err(AdminError::HasStore(data.to_owned()));
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
            // The first error takes precedence.
            let _ = clear(&staging);
            return Err(error);
        }
    };
    clear(&staging)?;
    match &verified {
        Some(_) => Verification::now(0, None).record(data, Subject::Store),
        // The recorded verification is of the previous store.
        None => Verification::forget(data, Subject::Store),
    }
    Ok(Restored { verified, kept })
}

/// Makes a store of the backup, and verifies it.
fn stage(
    backup: &Path,
    staging: &Path,
    options: RestoreOptions,
) -> Result<Option<Verified>, AdminError> {
    copies::copy_in(backup, staging).map_err(|error| match error {
        CopyInError::Copy(error) => AdminError::BadBackup(error),
        CopyInError::Folder(path, source) => OpenStoreError::Folder { path, source }.into(),
    })?;
    if options.unchecked {
        return Ok(None);
    }
    // Opened as a relay would: this migrates an older store now, and not only at the next start.
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
        // The copy contains records of damage of the store that was backed up; this one is intact.
        store.set_condition(&[]);
    }
    store.close()?;
    match first {
        Some(first) => Err(AdminError::DamagedBackup { first, more }),
        None => Ok(Some(verified)),
    }
}

/// Removes the leftover of an interrupted restore.
fn clear(staging: &Path) -> Result<(), AdminError> {
    match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(AdminError::Write(staging.to_owned(), error))
        }
        _ => Ok(()),
    }
}
