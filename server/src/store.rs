//! The log store: the relay's data on disk, behind a trait, so that a test can delay a commit and a larger
//! installation can use another database.
//!
//! It stores and returns changes in offset order, the snapshots that replace compacted changes, tombstones,
//! and the data derived from them (heads, digests, indexes). It must not know sessions, sockets or wire
//! frames, and it admits no change: `landfall_protocol::relay` does. It builds no document: compaction runs
//! elsewhere.

mod append;
mod automerge_repo;
mod checked;
mod compaction;
mod condition;
mod contents;
pub mod copies;
mod digests;
mod documents;
mod expand;
mod failure;
mod fill;
mod history;
mod indexes;
pub mod inspect;
mod known;
mod listing;
mod log;
mod opening;
mod passed;
mod plan;
mod prune;
pub mod repair;
mod repairing;
mod schema;
mod snapshots;
mod sqlite;
#[cfg(test)]
mod tests;
mod verified;
pub mod verify;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::admission::{CheckedChange, History};
use landfall_protocol::automerge_repo::DocumentIndex;
use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::{EncodedEntry, Filter, Partial};
use landfall_protocol::relay::{Chunk, Commit, DocumentPlan, Lineage, Snapshot, SnapshotPart};
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Offset, SpaceName, Upstream, limits};

pub use condition::{Condition, DamagedPlace, Known};
pub(crate) use condition::{REMEDY, RESTORE};
pub use contents::RecordSink;
pub use digests::{BranchPage, SumCursor};
pub(crate) use failure::chain;
pub use failure::{DamagedIndex, StoreError};
pub use indexes::INDEX_CACHE_BYTES;
pub use inspect::Inspection;
pub use landfall_storage::{BackupError, CommitHold, FailureClass, Faults};
pub use listing::{Recent, RecentPage};
pub use opening::{OpenStoreError, StoreHint};
pub use repairing::{Examined, Replaced};
pub use sqlite::SqliteStore;
pub use verified::{Subject, Verification};

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
    /// Bytes that the relay's user may still write in the store's file system.
    pub free_bytes: u64,
    /// The last recorded verification of the whole store.
    pub verified: Option<Verification>,
    /// The last recorded verification of a scheduled copy.
    pub copy_verified: Option<Verification>,
}

/// A relay's store: one log for each space, and the index that admission queries.
///
/// All calls may block, except that [`LogStore::append`] and [`LogStore::probe`] only wait for space in the
/// store's queue. A store that wraps another one returns it from [`LogStore::beneath`]; every method that the
/// wrapper does not implement is forwarded to it.
pub trait LogStore: Send + Sync + 'static {
    /// The relay's stable identity, generated when the store was created.
    fn upstream(&self) -> Upstream;

    /// A space's lineage. An unknown space is an empty log; the call does not create it.
    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError>;

    /// Calls `ask` with one read snapshot of the durable state of a space. A look-up that needs a packed
    /// index which is not in memory fails with `StoreError::needs_index` set: call [`LogStore::load_index`],
    /// then retry.
    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError>;

    /// The same for callers other than the hub: it may queue behind other reads of the store.
    fn look_up(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        below(self)?.look_up(space, ask)
    }

    /// The next piece of a log after a position: every live entry, snapshot and tombstone in offset order,
    /// bounded like an `Entries` frame; `None` at the log's end. A page may be empty and still advance the
    /// position.
    ///
    /// `partial` is a snapshot of which the reader has the first bytes. If it is the next entry, or was
    /// replaced and is still retained, the read continues where that reader stopped.
    fn next(
        &self,
        space: &SpaceName,
        after: Offset,
        filter: &Filter,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError>;

    /// Writes a commit atomically, in one group commit with whatever else is queued; calls `done` after the
    /// fsync.
    fn append(&self, commit: Arc<Commit>, done: Done);

    /// Tests whether the store accepts writes, with a write that leaves no trace.
    fn probe(&self, done: Done);

    /// Finishes the queued writes and closes the files. Later calls fail.
    fn close(&self) -> Result<(), StoreError>;

    /// The wrapped store, for a store that wraps another.
    fn beneath(&self) -> Option<&dyn LogStore> {
        None
    }

    /// Loads the packed index of a document's snapshot into memory. If the index is damaged, the error's
    /// [`StoreError::damaged_index`] is set: the caller can rebuild the index from the snapshot.
    fn load_index(&self, space: &SpaceName, document: &DocumentId) -> Result<(), StoreError> {
        below(self)?.load_index(space, document)
    }

    /// Stores a rebuilt packed index; false if the snapshot is no longer the document's, or the bytes are no
    /// index. If its heads differ from those in the snapshot's row, the row is damaged: the index was built
    /// from verified bytes.
    fn store_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        snapshot: &[u8; 32],
        packed: Vec<u8>,
    ) -> Result<bool, StoreError> {
        below(self)?.store_index(space, document, snapshot, packed)
    }

    /// The entries of a document that a peer with these heads lacks. Unknown hashes are ignored.
    fn plan_document(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        have: &[[u8; 32]],
    ) -> Result<DocumentPlan, StoreError> {
        below(self)?.plan_document(space, document, have)
    }

    /// Reads changes and tombstones by the offsets in a plan: as many from the front as one frame takes, at
    /// least one. The result ends before the first entry that no longer exists; if it is empty, plan the
    /// document again. The first offset may be that of the document's snapshot; [`LogStore::snapshot_entry`]
    /// identifies the snapshot by its hash.
    fn read_entries(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        offsets: &[Offset],
    ) -> Result<Vec<EncodedEntry>, StoreError> {
        below(self)?.read_entries(space, document, offsets)
    }

    /// A snapshot's entry: with its body if the body fits in an entry, else without, to be sent after the
    /// snapshot's parts. `None` if the snapshot no longer exists.
    fn snapshot_entry(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
    ) -> Result<Option<EncodedEntry>, StoreError> {
        below(self)?.snapshot_entry(space, hash)
    }

    /// A part of a snapshot, current or replaced and still retained; `None` if the snapshot no longer exists
    /// or has no byte at that position.
    fn snapshot_part(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
        from: u64,
    ) -> Result<Option<SnapshotPart>, StoreError> {
        below(self)?.snapshot_part(space, hash, from)
    }

    /// The digests below some prefixes of document ids, and the log's head at that moment: from a cursor on,
    /// as far as `rows` rows allow.
    fn branches(
        &self,
        space: &SpaceName,
        prefixes: &[Prefix],
        cursor: SumCursor,
        rows: usize,
    ) -> Result<BranchPage, StoreError> {
        below(self)?.branches(space, prefixes, cursor, rows)
    }

    /// The state of a document: one row look-up, however long the document is.
    fn document_heads(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<StoredDocument, StoreError> {
        below(self)?.document_heads(space, document)
    }

    /// A document as an index, at one moment; `None` if it is absent or deleted. With the compacted changes
    /// if requested: the call then loads them into memory, and reports a damaged index through
    /// [`StoreError::damaged_index`].
    fn document_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        with_compacted: bool,
    ) -> Result<Option<DocumentIndex>, StoreError> {
        below(self)?.document_index(space, document, with_compacted)
    }

    /// Those of some changes that a document has, ascending. Costs one look-up per change, however long the
    /// document is. Reports a damaged index through [`StoreError::damaged_index`].
    fn changes_known(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hashes: &[ChangeHash],
    ) -> Result<Vec<ChangeHash>, StoreError> {
        below(self)?.changes_known(space, document, hashes)
    }

    /// The documents of a space whose last entry is after an offset, and before another one if given: newest
    /// first, bounded in number and to what one short read finds. Includes deleted documents, unless the
    /// range begins at the log's start.
    fn recent_documents(
        &self,
        space: &SpaceName,
        since: Offset,
        before: Option<Offset>,
        most: usize,
    ) -> Result<RecentPage, StoreError> {
        below(self)?.recent_documents(space, since, before, most)
    }

    /// The number of changes of a document, compacted ones included.
    fn changes_held(&self, space: &SpaceName, document: &DocumentId) -> Result<u64, StoreError> {
        below(self)?.changes_held(space, document)
    }

    /// Passes a whole document to the sink, its snapshot, then its tail, in short reads. True if the sink
    /// accepted everything; false if it stopped early, or the document was compacted meanwhile.
    fn document_bases(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        below(self)?.document_bases(space, document, sink)
    }

    /// A document that is due for compaction, if any. Cheap if there is none.
    fn compaction_candidate(
        &self,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        below(self)?.compaction_candidate(now_ms, window)
    }

    /// The compaction of one document, due or not; `None` if its whole tail is inside the window.
    fn compaction_task(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        below(self)?.compaction_task(space, document, now_ms, window)
    }

    /// Passes the inputs of a compaction to the sink, in short reads. True if the sink accepted everything;
    /// false if it stopped early or the document has changed.
    fn compaction_read(
        &self,
        task: &CompactionTask,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        below(self)?.compaction_read(task, sink)
    }

    /// Durably replaces what the compaction read by a snapshot; false, without effect, if the document has
    /// changed.
    fn compaction_commit(
        &self,
        task: &CompactionTask,
        snapshot: Snapshot,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        below(self)?.compaction_commit(task, snapshot, now_ms)
    }

    /// Records that this version of the software could not compact a document: it is retried when the tail
    /// has doubled, or by another version.
    fn compaction_failed(
        &self,
        task: &CompactionTask,
        version: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        below(self)?.compaction_failed(task, version, reason)
    }

    /// Marks compactions that failed with another version as due. Called at the start.
    fn retry_failed_compactions(&self, version: &str) -> Result<(), StoreError> {
        below(self)?.retry_failed_compactions(version)
    }

    /// Deletes some dead rows; true if more remain. A later call continues an interrupted deletion, also
    /// after a crash.
    fn prune(&self, now_ms: u64, max_rows: usize) -> Result<bool, StoreError> {
        below(self)?.prune(now_ms, max_rows)
    }

    /// The damage and failures found since the store was opened. Reads nothing from disk.
    fn condition(&self) -> Condition {
        self.beneath().map(LogStore::condition).unwrap_or_default()
    }

    /// Whether a read found this document damaged. Pushes to it are then rejected before they can fail a
    /// commit that other pushes share.
    fn is_damaged(&self, space: &SpaceName, document: &DocumentId) -> bool {
        self.beneath().is_some_and(|store| store.is_damaged(space, document))
    }

    /// The known damage of a document; `None` if no read met any. Reads nothing from disk.
    fn known_damage(&self, space: &SpaceName, document: &DocumentId) -> Option<Known> {
        self.beneath().and_then(|store| store.known_damage(space, document))
    }

    /// Clears the damage of a document that was examined and found whole. `known` is the state before the
    /// examination; false, without effect, if a read met damage meanwhile.
    fn forget_damage(&self, space: &SpaceName, document: &DocumentId, known: Known) -> bool {
        self.beneath().is_some_and(|store| store.forget_damage(space, document, known))
    }

    /// Persists the known damage if it changed, so that it survives a restart. Waits for the disk. False if
    /// the write failed: call it again.
    fn keep_condition(&self) -> bool {
        self.beneath().is_none_or(LogStore::keep_condition)
    }

    /// Checks a document against the rows that refer to it, one bounded read per call: first everything
    /// except its changes, then its tail after an offset. An error that is damage means that no client's copy
    /// of the changes can repair it.
    fn examine(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        after: Option<Offset>,
    ) -> Result<Examined, StoreError> {
        below(self)?.examine(space, document, after)
    }

    /// Durably replaces damaged bytes of a document's changes, each in its own row; returns how many were
    /// replaced, and which changes are whole. Skips bytes that do not match their hash, changes that the
    /// document does not have, and changes whose bytes are whole.
    fn repair_changes(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        changes: Vec<(ChangeHash, Vec<u8>)>,
    ) -> Result<Replaced, StoreError> {
        below(self)?.repair_changes(space, document, changes)
    }

    /// Durably replaces a snapshot whose bytes are damaged, at its offset. Only if the current snapshot has
    /// this hash and stands for the same changes; false otherwise.
    fn repair_snapshot(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        snapshot: Snapshot,
    ) -> Result<bool, StoreError> {
        below(self)?.repair_snapshot(space, document, hash, snapshot)
    }

    /// The documents whose snapshots exceed `most_bytes` bytes, with the size of each.
    fn oversized(&self, most_bytes: u64) -> Result<Vec<(SpaceName, DocumentId, u64)>, StoreError> {
        below(self)?.oversized(most_bytes)
    }

    /// Replaces a document's snapshot by its changes, dependencies first, at the end of the log and in an
    /// epoch of their own; false if the document has changed. No other append may run meanwhile.
    fn expand(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        changes: Vec<CheckedChange>,
        fresh: Epoch,
    ) -> Result<bool, StoreError> {
        below(self)?.expand(space, document, hash, changes, fresh)
    }

    /// Figures of the store's memory, files and damaged indexes.
    fn gauges(&self) -> StoreGauges {
        self.beneath().map(LogStore::gauges).unwrap_or_default()
    }
}

/// The wrapped store, which implements what this one does not.
fn below<S: LogStore + ?Sized>(store: &S) -> Result<&dyn LogStore, StoreError> {
    store.beneath().ok_or_else(StoreError::unsupported)
}
