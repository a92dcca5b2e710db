//! Folding: all changes of one document up to a position become one automerge document chunk, the
//! *snapshot*, and beside it a packed index of what it holds.
//!
//! Besides `engine::document` this is the only place that builds automerge documents. automerge
//! 0.12 can panic on changes that no check finds, and can take memory without bound on hostile
//! ones. So a panic is contained everywhere, and a relay folds in a child process that has limits
//! and may die: [`worker`] is the child, [`Supervisor`] its parent. It knows no store, no log
//! and no network.
//!
//! Nothing is trusted that this crate has made itself: a snapshot is loaded again, and must hold
//! the same changes, before anybody is given it.

mod absorb;
mod build;
mod error;
mod inspect;
mod since;
mod supervisor;
mod wire;
pub mod worker;

use std::fmt;

use landfall_protocol::folded::{BadIndex, PackedIndex};
use landfall_protocol::{ChangeHash, limits};
use sha2::{Digest, Sha256};

pub use absorb::{Absorbed, LeftOut, News, absorb};
pub use build::{fold, fold_loaded, fold_within, index_of, open};
pub use error::{FoldError, WorkerError};
pub use inspect::inspect;
pub use landfall_protocol::folded::LastOfActor;
pub use since::changes_since;
pub use supervisor::{Job, JobKind, Supervisor};

/// What names a snapshot: the SHA-256 of its bytes.
pub fn hash_of(snapshot: &[u8]) -> [u8; 32] {
    Sha256::digest(snapshot).into()
}

/// What a fold, or the opening of a snapshot, may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldLimits {
    /// Bytes of a snapshot, made or opened. Default [`limits::SNAPSHOT_BYTES`]: a longer one cannot
    /// be sent to anybody. What exceeds it stays single changes.
    pub snapshot_bytes: usize,
}

impl Default for FoldLimits {
    fn default() -> Self {
        Self { snapshot_bytes: limits::SNAPSHOT_BYTES }
    }
}

impl FoldLimits {
    /// Whether a snapshot of so many bytes is within them.
    pub fn check(&self, actual: usize) -> Result<(), FoldError> {
        match self.snapshot_bytes {
            limit if actual > limit => Err(FoldError::TooLarge { actual, limit }),
            _ => Ok(()),
        }
    }
}

/// A snapshot and what it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Folded {
    /// One document chunk, as automerge saves it.
    pub snapshot: Vec<u8>,
    /// The snapshot's SHA-256.
    pub hash: [u8; 32],
    /// The changes that nothing folded rests on, ascending.
    pub heads: Vec<ChangeHash>,
    /// The packed index of the folded changes ([`PackedIndex`]).
    pub index: Vec<u8>,
    /// How many changes are folded.
    pub changes: u64,
    /// The last folded change of each actor, ascending by actor.
    pub actors: Vec<LastOfActor>,
}

/// Without the bytes: they would fill any log.
impl fmt::Debug for Folded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folded")
            .field("snapshot_bytes", &self.snapshot.len())
            .field("index_bytes", &self.index.len())
            .field("changes", &self.changes)
            .field("actors", &self.actors.len())
            .field("heads", &self.heads)
            .finish_non_exhaustive()
    }
}

impl Folded {
    /// Everything that follows from a snapshot and its index. That the two belong together is the
    /// caller's word.
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
