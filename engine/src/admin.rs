//! Maintenance of a store's file: inspect, verify, repair, back up, restore, compact, export and import
//! as a portable file. For tools, and for applications that offer it to their users.
//!
//! Every function takes a path and blocks. Reading functions work beside the process that has the store
//! open. Writing functions lock the store, and fail while a process has it open; a store that is open
//! in this program must be closed first.

mod copies;
mod portable;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use copies::{Restored, backup, compact, restore};
pub use landfall_protocol::portable::{Counts, PortableError};
pub use portable::{Exported, Imported, LeftOut, OutsideReason, export, import};

use crate::error::{OpenError, StoreError, counted};
use crate::failure::BoxError;
use crate::store::{ExpandError, LocalLog, OpenMode, RepairError};
pub use crate::store::{
    Fault, Finding, InspectedDocument, InspectedSpace, InspectedUpstream, Inspection, Repaired,
};
use crate::{SpaceName, random};

/// Why an operation on a store's file failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It has no such space.
    #[error("the store has no space `{0}`")]
    NoSpace(SpaceName),
    /// There is a file already, and it is not overwritten.
    #[error("{path} already exists", path = .0.display())]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("{path} cannot be read or written", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The copy was not made.
    #[error("the copy was not made")]
    Copy(#[source] BoxError),
    /// The backup is no complete store.
    #[error("the backup cannot be restored")]
    BadBackup(#[source] BoxError),
    /// The backup's contents are damaged.
    #[error("the backup is damaged in {}, the first: {}", counted(.0.len() as u64, "place"), first(.0))]
    DamagedBackup(Vec<Finding>),
    /// The file is no complete portable file.
    #[error("the file cannot be imported")]
    Portable(#[from] PortableError),
}

fn first(findings: &[Finding]) -> String {
    findings.first().map(ToString::to_string).unwrap_or_default()
}

/// Lists the contents of a store, also beside the process that has it open. It reads no change and
/// loads no document.
///
/// # Errors
/// If it cannot be opened or read.
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection, AdminError> {
    Ok(open(OpenMode::ReadOnly(path.as_ref()))?.inspect().map_err(StoreError::from)?)
}

/// Verifies the contents of a store against their hashes, also beside the process that has it open.
/// Every document is loaded, one after the other.
///
/// # Errors
/// If it cannot be opened or read at all. Damage is a finding, not an error.
pub fn verify(path: impl AsRef<Path>) -> Result<Vec<Finding>, AdminError> {
    Ok(open(OpenMode::ReadOnly(path.as_ref()))?.verify().map_err(StoreError::from)?)
}

/// Verifies a store that no process has open, and repairs it. Damaged changes that the relay holds are
/// removed, and received again at the next connection.
///
/// # Errors
/// If it cannot be opened, read or written. Repairs made before stay.
pub fn repair(path: impl AsRef<Path>) -> Result<Repaired, AdminError> {
    let log = take(path.as_ref())?;
    let repaired = log.repair().map_err(|error| match error {
        RepairError::View(error) => StoreError::from(error),
        RepairError::Write(error) => StoreError::from(error),
    });
    let closed = close(&log);
    let repaired = repaired?;
    closed?;
    Ok(repaired)
}

fn open(place: OpenMode<'_>) -> Result<LocalLog, AdminError> {
    let fresh = random::replica_id().map_err(|error| OpenError::Storage(Box::new(error)))?;
    let log = LocalLog::open(place, landfall_storage::Options::default(), fresh);
    Ok(log.map_err(OpenError::from)?)
}

/// Opens an existing store that no process has open, to change it. It is then not in the state that the
/// application left, so no actor is used again.
fn take(path: &Path) -> Result<LocalLog, AdminError> {
    if !path.exists() {
        let source = io::ErrorKind::NotFound.into();
        return Err(AdminError::File { path: path.to_owned(), source });
    }
    let log = open(OpenMode::File(path))?;
    log.expand_oversized(log.document_bytes()).map_err(|error| match error {
        ExpandError::View(error) => StoreError::from(error),
        ExpandError::Write(error) => StoreError::from(error),
    })?;
    log.take_clean_close(None).map_err(StoreError::from)?;
    Ok(log)
}

fn close(log: &LocalLog) -> Result<(), StoreError> {
    log.database().close().map_err(|error| {
        let class = crate::StoreFailure::from(error.class());
        StoreError { class, source: Box::new(error) }
    })
}

fn size(log: &LocalLog) -> Result<u64, StoreError> {
    log.database().size_bytes().map_err(|error| {
        let class = crate::StoreFailure::from(error.class());
        StoreError { class, source: Box::new(error) }
    })
}
