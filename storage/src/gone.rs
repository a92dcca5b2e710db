//! What happened to a file of an open database: the value that errors carry.

use std::path::PathBuf;

use thiserror::Error;

/// A file of an open database that is no longer at its path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path} {how}", path = path.display())]
pub struct GoneFile {
    /// The file.
    pub path: PathBuf,
    /// What happened to it.
    pub how: Gone,
}

/// What happened to a file of an open database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Gone {
    /// The path does not exist: the file, or a folder above it, was removed or renamed.
    #[error("was removed or renamed")]
    Removed,
    /// The path refers to another file.
    #[error("was replaced by another file")]
    Replaced,
    /// Another program wrote the file.
    #[error("was overwritten by another program")]
    Overwritten,
}
