//! The log store: the relay's data on disk, behind a trait, so that a test can delay a commit and a larger
//! installation can use another database.
//!
//! It stores and returns changes in offset order, the snapshots that replace compacted changes, tombstones,
//! and the data derived from them (heads, digests, indexes). It must not know sessions, sockets or wire
//! frames, and it admits no change: `landfall_protocol::space` does. It builds no document: compaction runs
//! elsewhere.

pub mod admin;
mod compaction;
mod contract;
mod damage;
mod log;
mod lookups;
mod rows;
mod sqlite;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::time::Duration;

use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName, limits};

pub use admin::contents::RecordSink;
pub use admin::inspect::Inspection;
pub use contract::{Admin, Documents, Log, LogStore, Snapshots};
pub use damage::condition::{Condition, DamagedPlace, Known};
pub(crate) use damage::condition::{REMEDY, RESTORE};
pub use damage::failure::{DamagedIndex, StoreError};
pub use landfall_storage::{BackupError, CommitHold, FailureClass, Faults};
pub use log::listing::{Recent, RecentPage};
pub use log::repairing::{Examined, Replaced};
pub use lookups::digests::{BranchPage, SumCursor};
pub use rows::indexes::INDEX_CACHE_BYTES;
pub use sqlite::SqliteStore;
pub use sqlite::opening::{OpenStoreError, StoreHint};
pub use sqlite::verified::{Subject, Verification};

/// Called exactly once, when a commit is durable or has failed. Runs on a thread of the store: it must not
/// block.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// How much of the end of a log stays uncompacted, so that a replica that lags slightly receives single
/// changes and no snapshot. An entry is compacted only when it is outside both bounds, offsets and age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionWindow {
    /// The last `recent_entries` offsets of the log are not compacted.
    pub recent_entries: u64,
    /// Entries younger than this are not compacted.
    pub recent_age: Duration,
    /// Largest size of a snapshot in bytes; a document that would exceed it keeps single changes.
    pub snapshot_bytes: u64,
}

impl Default for CompactionWindow {
    fn default() -> Self {
        let (recent_entries, recent_age) = (limits::RECENT_ENTRIES, limits::RECENT_AGE);
        Self { recent_entries, recent_age, ..Self::NONE }
    }
}

impl CompactionWindow {
    /// No window: every entry may be compacted.
    pub const NONE: Self = Self {
        recent_entries: 0,
        recent_age: Duration::ZERO,
        snapshot_bytes: limits::SNAPSHOT_BYTES as u64,
    };
}

/// A document whose tail is long enough to compact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionTask {
    /// Its space.
    pub space: SpaceName,
    /// The document.
    pub document: DocumentId,
    /// The last entry to compact, and the offset of the new snapshot.
    pub through: Offset,
    /// Number of tail changes to compact.
    pub changes: u64,
    /// Bytes of these changes and of the snapshot that they are merged into.
    pub bytes: u64,
    /// Whether a snapshot of it would exceed the size limit, and no prefix of the tail is worth compacting.
    pub is_oversized: bool,
    /// Whether the document has a snapshot to start from.
    pub has_base: bool,
    /// The hash and offset of that snapshot.
    base: Option<([u8; 32], Offset)>,
    /// Bytes of the changes, without the snapshot.
    tail_bytes: u64,
}

/// One input of a compaction; inputs arrive in the order in which they are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompactionInput {
    /// The document's current snapshot; at most one, first.
    Base(Vec<u8>),
    /// A change, after all its dependencies.
    Change(Vec<u8>),
}

/// Receives the inputs of a compaction; may stop the read early.
pub type CompactionSink<'a> = dyn FnMut(CompactionInput) -> ControlFlow<()> + 'a;

/// The state of a document, without its changes. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredDocument {
    /// No entry, and no sign that there ever was one.
    Absent,
    /// The document was deleted.
    Deleted,
    /// The document has changes.
    Present {
        /// The offset of its last entry; that of its snapshot if the tail is empty.
        heads: Vec<ChangeHash>,
        /// The offset of its last entry: of its snapshot, if nothing stands beyond that.
        last: Offset,
    },
}

/// Figures of a store's memory and files, for the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreGauges {
    /// Packed indexes in memory.
    pub indexes: usize,
    /// Their bytes.
    pub index_bytes: usize,
    /// Packed indexes read from disk since the start.
    pub index_loads: u64,
    /// Packed indexes found damaged since the start.
    pub damaged_indexes: u64,
    /// Bytes of the store's files.
    pub store_bytes: u64,
    /// Bytes that the relay's user may still write in the store's file system, if that can be known.
    pub free_bytes: Option<u64>,
    /// The last recorded verification of the whole store.
    pub verified: Option<Verification>,
    /// The last recorded verification of a scheduled copy.
    pub copy_verified: Option<Verification>,
}
