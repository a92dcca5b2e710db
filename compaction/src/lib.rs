//! Compaction: turns all changes of one document up to an offset into one automerge document chunk, the
//! *snapshot*, and a packed index of its changes.
//!
//! Besides `engine::document` this is the only place that builds automerge documents. automerge 0.12
//! can panic on changes that pass every check, and can take unbounded memory on hostile ones. So panics
//! are contained everywhere, and a relay compacts in a child process that has limits and may die:
//! [`worker`] is the child, [`Supervisor`] its parent. This crate must not know a store, a log or the
//! network.
//!
//! The crate does not trust its own output either: it loads each snapshot again, and returns it only if
//! it holds the same changes.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        reason = "a test fails by panicking"
    )
)]

mod absorb;
mod build;
mod cache;
mod error;
mod inspect;
mod since;
mod supervisor;
mod wire;
pub mod worker;

use std::fmt;

use landfall_protocol::compacted::{BadIndex, PackedIndex};
use landfall_protocol::{ChangeHash, limits};
use sha2::{Digest, Sha256};

pub use absorb::{Absorbed, LeftOut, NewContent, absorb};
pub use build::{compact, compact_loaded, compact_within, index_of, open};
pub use cache::IndexCache;
pub use error::{CompactionError, WorkerError};
pub use inspect::inspect;
pub use landfall_protocol::compacted::LastOfActor;
pub use since::changes_since;
pub use supervisor::{Job, JobKind, Supervisor};

/// The name of a snapshot: the SHA-256 of its bytes.
pub fn hash_of(snapshot: &[u8]) -> [u8; 32] {
    Sha256::digest(snapshot).into()
}

/// Limits for making or opening a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionLimits {
    /// Bytes of a snapshot, made or opened. Default [`limits::SNAPSHOT_BYTES`], because a longer one
    /// cannot be sent. Beyond it the history stays single changes.
    pub snapshot_bytes: usize,
}

impl Default for CompactionLimits {
    fn default() -> Self {
        Self { snapshot_bytes: limits::SNAPSHOT_BYTES }
    }
}

impl CompactionLimits {
    /// Checks that a snapshot of so many bytes is within the limits.
    pub fn check(&self, actual: usize) -> Result<(), CompactionError> {
        match self.snapshot_bytes {
            limit if actual > limit => Err(CompactionError::TooLarge { actual, limit }),
            _ => Ok(()),
        }
    }
}

/// A snapshot and its properties.
#[derive(Clone, PartialEq, Eq)]
pub struct Compacted {
    /// One document chunk, as automerge saves it.
    pub snapshot: Vec<u8>,
    /// The snapshot's SHA-256.
    pub hash: [u8; 32],
    /// The heads: the changes on which no other one depends, ascending.
    pub heads: Vec<ChangeHash>,
    /// The packed index of its changes ([`PackedIndex`]).
    pub index: Vec<u8>,
    /// The number of its changes.
    pub changes: u64,
    /// The last change of each actor, ascending by actor.
    pub actors: Vec<LastOfActor>,
}

/// Omits the bytes, which would flood a log.
impl fmt::Debug for Compacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compacted")
            .field("snapshot_bytes", &self.snapshot.len())
            .field("index_bytes", &self.index.len())
            .field("changes", &self.changes)
            .field("actors", &self.actors.len())
            .field("heads", &self.heads)
            .finish_non_exhaustive()
    }
}

impl Compacted {
    /// Derives all fields from a snapshot and its index. The caller guarantees that the two belong
    /// together.
    pub fn from_parts(snapshot: Vec<u8>, index: Vec<u8>) -> Result<Self, BadIndex> {
        let parsed = PackedIndex::parse(index.clone())?;
        Ok(Self {
            hash: Sha256::digest(&snapshot).into(),
            heads: parsed.heads(),
            changes: parsed.len() as u64,
            actors: parsed.actors().collect(),
            snapshot,
            index,
        })
    }
}
