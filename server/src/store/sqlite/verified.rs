//! The record of the last verification of the whole store, or of its newest scheduled copy: when it ended,
//! and its result. The record is a small file beside the store, not in it: `verify` runs beside the relay,
//! and only the relay writes the store. A missing or incomplete file counts as no record.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use landfall_storage::{read_beside, write_beside};
use serde_json::{Value, json};

use crate::store::sqlite::FILE;

/// The subject of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The store itself, by `verify` or before it was restored.
    Store,
    /// A scheduled copy made by the relay.
    Copy,
}

/// A verification of all content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// Number of damaged places.
    pub damage: u64,
    /// The name of the copy, if the subject is one.
    pub copy: Option<String>,
}

impl Subject {
    /// The suffix of its file, after the store's name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Store => ".verified",
            Self::Copy => ".copy-verified",
        }
    }
}

impl Verification {
    /// One that ends now.
    pub fn now(damage: u64, copy: Option<String>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: since.as_secs(), damage, copy }
    }

    /// The last one of a data folder's store, or of its copies.
    pub fn last(folder: &Path, subject: Subject) -> Option<Self> {
        Self::beside(&folder.join(FILE), subject)
    }

    /// The same, by the store's file.
    pub(in crate::store) fn beside(file: &Path, subject: Subject) -> Option<Self> {
        let value: Value = serde_json::from_slice(&read_beside(file, subject.suffix())?).ok()?;
        let copy = value["copy"].as_str().map(str::to_owned);
        Some(Self { at: value["at"].as_u64()?, damage: value["damage"].as_u64()?, copy })
    }

    /// Clears the record: the store was replaced.
    pub fn forget(folder: &Path, subject: Subject) {
        if Self::last(folder, subject).is_some()
            && let Err(error) = write_beside(&folder.join(FILE), subject.suffix(), b"")
        {
            tracing::debug!(%error, "what was written of the last verification stays");
        }
    }

    /// Writes the record, if this process may write there. It is used for display only.
    pub fn record(&self, folder: &Path, subject: Subject) {
        let Self { at, damage, copy } = self;
        let line = format!("{}\n", json!({"at": at, "damage": damage, "copy": copy}));
        if let Err(error) = write_beside(&folder.join(FILE), subject.suffix(), line.as_bytes()) {
            tracing::debug!(%error, "the result of the verification could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_verification_is_read_and_a_truncated_one_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let of = |subject| Verification::last(folder.path(), subject);
        let made = Verification { at: 1_796_066_100, damage: 3, copy: None };
        made.record(folder.path(), Subject::Store);
        assert_eq!(of(Subject::Store), None, "there is no store");
        let file = folder.path().join(FILE);
        std::fs::write(&file, "").unwrap();
        made.record(folder.path(), Subject::Store);
        let copy = Verification { copy: Some("relay-x.db".to_owned()), ..made.clone() };
        copy.record(folder.path(), Subject::Copy);
        let again = Verification { damage: 0, ..made };
        again.record(folder.path(), Subject::Store);
        assert_eq!((of(Subject::Store), of(Subject::Copy)), (Some(again), Some(copy)));
        let names = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(names.count(), 3, "nothing else is left");
        let verified = folder.path().join("relay.db.verified");
        for bad in ["", "{", "{\"at\":1}", "[]", &" ".repeat(5_000)] {
            std::fs::write(&verified, bad).unwrap();
            assert_eq!(of(Subject::Store), None, "{bad:?}");
        }
    }
}
