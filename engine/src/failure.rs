//! The classes of failures of a store, which errors and the status share.

use std::error::Error;

use landfall_storage::FailureClass;

/// Any error, as a closure may return it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Kinds of store failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFailure {
    /// The disk is full; free some space and try again.
    DiskFull,
    /// The store was opened read-only, or the file system is.
    ReadOnly,
    /// The file is damaged.
    Corrupt,
    /// The store is closed.
    Closed,
    /// An fsync failed: the last writes may not be on the disk, and nothing more is written. Close the
    /// store and open it again; everything that is found then is written again.
    FsyncFailed,
    /// The store's file was removed, renamed, replaced or overwritten while it was open: nothing more
    /// is written, and saved changes may be lost. Documents in memory can still be read and sent. Then
    /// close the store, put its file back or restore a copy, and open it.
    Gone,
    /// A thread of the store panicked, which is a bug of this software: the writer, or in a store that
    /// is open for reading only the thread that follows the writer. Close the store and open it again.
    Panicked,
    /// The call comes from inside a closure that changes a document.
    Reentrant,
    /// The space was removed from this store.
    SpaceRemoved,
    /// Anything else.
    Other,
}

impl std::fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DiskFull => "the disk is full",
            Self::ReadOnly => "it is read-only",
            Self::Corrupt => "the file is damaged",
            Self::Closed => "it is closed",
            Self::FsyncFailed => "an fsync failed; close it and open it again",
            Self::Gone => "its file was removed or replaced",
            Self::Panicked => "one of its threads panicked; close it and open it again",
            Self::Reentrant => "the call comes from inside a `change` or group closure",
            Self::SpaceRemoved => "the space was removed",
            Self::Other => "input or output failed",
        })
    }
}

impl From<FailureClass> for StoreFailure {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::DiskFull => Self::DiskFull,
            FailureClass::ReadOnly => Self::ReadOnly,
            FailureClass::Corrupt => Self::Corrupt,
            FailureClass::Closed => Self::Closed,
            FailureClass::FsyncFailed => Self::FsyncFailed,
            FailureClass::Gone => Self::Gone,
            FailureClass::Panicked => Self::Panicked,
            _ => Self::Other,
        }
    }
}
