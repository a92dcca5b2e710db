//! The contract of a relay's store, by role: the log, the documents, the snapshots, and the administration.
//! Another database implements these traits; `sqlite` is the embedded implementation.
//!
//! Each call is complete in itself: no transaction and no lock spans two calls, and everything that can fail
//! over a network returns a [`StoreError`]. Callers choose the thread: each trait says which calls may block.

use std::sync::Arc;

use landfall_protocol::access::View;
use landfall_protocol::admission::{CheckedChange, History};
use landfall_protocol::automerge_repo::DocumentIndex;
use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::{EncodedEntry, Partial};
use landfall_protocol::relay::{Chunk, Commit, DocumentPlan, Lineage, Snapshot, SnapshotPart};
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Offset, SpaceName, Upstream};

use crate::store::{
    BranchPage, CompactionSink, CompactionTask, CompactionWindow, Condition, Done, Examined, Known,
    RecentPage, Replaced, StoreError, StoreGauges, StoredDocument, SumCursor,
};

/// A relay's store: one log for each space, and the index that admission queries.
pub trait LogStore: Log + Documents + Snapshots + Admin + 'static {}

impl<S: Log + Documents + Snapshots + Admin + 'static> LogStore for S {}

/// The log of each space.
///
/// [`Log::append`] and [`Log::probe`] return at once, or wait for space in the store's queue; they report
/// through their callback. [`Log::open_space`] and [`Log::with_history`] run on the hub's thread and delay
/// the admission of all pushes while they wait; the other calls run on threads that may block.
pub trait Log: Send + Sync {
    /// The relay's stable identity, generated when the store was created.
    fn upstream(&self) -> Upstream;

    /// A space's lineage. An unknown space is an empty log; the call does not create it.
    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError>;

    /// Calls `ask` with one read snapshot of the durable state of a space. A look-up that needs a packed
    /// index which is not in memory fails with `StoreError::needs_index` set: call [`Documents::load_index`],
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
    ) -> Result<(), StoreError>;

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
        view: &View,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError>;

    /// Writes a commit atomically, in one group commit with whatever else is queued; calls `done` after the
    /// fsync.
    fn append(&self, commit: Arc<Commit>, done: Done);

    /// Tests whether the store accepts writes, with a write that leaves no trace.
    fn probe(&self, done: Done);

    /// Finishes the queued writes and closes the files. Later calls fail.
    fn close(&self) -> Result<(), StoreError>;
}

/// Documents, as sessions read them: their state, their digests, their entries, and the packed indexes of
/// their snapshots.
///
/// All calls run on threads that may block, a bounded number of them at a time, except
/// [`Documents::changes_held`], which also the hub's thread calls.
pub trait Documents: Send + Sync {
    /// Loads the packed index of a document's snapshot into memory. If the index is damaged, the error's
    /// [`StoreError::damaged_index`] is set: the caller can rebuild the index from the snapshot.
    fn load_index(&self, space: &SpaceName, document: &DocumentId) -> Result<(), StoreError>;

    /// Stores a rebuilt packed index; false if the snapshot is no longer the document's, or the bytes are no
    /// index. If its heads differ from those in the snapshot's row, the row is damaged: the index was built
    /// from verified bytes.
    fn store_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        snapshot: &[u8; 32],
        packed: Vec<u8>,
    ) -> Result<bool, StoreError>;

    /// The entries of a document that a peer with these heads lacks. Unknown hashes are ignored.
    fn plan_document(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        have: &[[u8; 32]],
    ) -> Result<DocumentPlan, StoreError>;

    /// Reads changes and tombstones by the offsets in a plan: as many from the front as one frame takes, at
    /// least one. The result ends before the first entry that no longer exists; if it is empty, plan the
    /// document again. The first offset may be that of the document's snapshot; [`Snapshots::snapshot_entry`]
    /// identifies the snapshot by its hash.
    fn read_entries(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        offsets: &[Offset],
    ) -> Result<Vec<EncodedEntry>, StoreError>;

    /// The digests below some prefixes of document ids, and the log's head at that moment: from a cursor on,
    /// as far as `rows` rows allow.
    fn branches(
        &self,
        space: &SpaceName,
        prefixes: &[Prefix],
        cursor: SumCursor,
        rows: usize,
    ) -> Result<BranchPage, StoreError>;

    /// As [`Documents::branches`], of some documents only, in the order of their ids: as if the space had no
    /// others. Costs one look-up per document, present or not.
    fn branches_of(
        &self,
        space: &SpaceName,
        documents: &[DocumentId],
        prefixes: &[Prefix],
    ) -> Result<BranchPage, StoreError>;

    /// The state of a document: one row look-up, however long the document is.
    fn document_heads(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<StoredDocument, StoreError>;

    /// A document as an index, at one moment; `None` if it is absent or deleted. With the compacted changes
    /// if requested: the call then loads them into memory, and reports a damaged index through
    /// [`StoreError::damaged_index`].
    fn document_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        with_compacted: bool,
    ) -> Result<Option<DocumentIndex>, StoreError>;

    /// Those of some changes that a document has, ascending. Costs one look-up per change, however long the
    /// document is. Reports a damaged index through [`StoreError::damaged_index`].
    fn changes_known(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hashes: &[ChangeHash],
    ) -> Result<Vec<ChangeHash>, StoreError>;

    /// The documents of a space whose last entry is after an offset, and before another one if given: newest
    /// first, bounded in number and to what one short read finds. Includes deleted documents, unless the
    /// range begins at the log's start.
    fn recent_documents(
        &self,
        space: &SpaceName,
        since: Offset,
        before: Option<Offset>,
        most: usize,
    ) -> Result<RecentPage, StoreError>;

    /// The number of changes of a document, compacted ones included.
    fn changes_held(&self, space: &SpaceName, document: &DocumentId) -> Result<u64, StoreError>;
}

/// Snapshots, the compactions that make them, and the deletion of what they stand for.
///
/// All calls run on threads that may block: [`Snapshots::snapshot_part`] on a session's behalf, the others
/// on the threads of the compactor and in the operator's commands.
pub trait Snapshots: Send + Sync {
    /// A snapshot's entry: with its body if the body fits in an entry, else without, to be sent after the
    /// snapshot's parts. `None` if the snapshot no longer exists.
    fn snapshot_entry(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
    ) -> Result<Option<EncodedEntry>, StoreError>;

    /// A part of a snapshot, current or replaced and still retained; `None` if the snapshot no longer exists
    /// or has no byte at that position.
    fn snapshot_part(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
        from: u64,
    ) -> Result<Option<SnapshotPart>, StoreError>;

    /// Passes a whole document to the sink, its snapshot, then its tail, in short reads. True if the sink
    /// accepted everything; false if it stopped early, or the document was compacted meanwhile.
    fn document_bases(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError>;

    /// A document that is due for compaction, if any. Cheap if there is none.
    fn compaction_candidate(
        &self,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError>;

    /// The compaction of one document, due or not; `None` if its whole tail is inside the window.
    fn compaction_task(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError>;

    /// Passes the inputs of a compaction to the sink, in short reads. True if the sink accepted everything;
    /// false if it stopped early or the document has changed.
    fn compaction_read(
        &self,
        task: &CompactionTask,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError>;

    /// Durably replaces what the compaction read by a snapshot; false, without effect, if the document has
    /// changed.
    fn compaction_commit(
        &self,
        task: &CompactionTask,
        snapshot: Snapshot,
        now_ms: u64,
    ) -> Result<bool, StoreError>;

    /// Records that this version of the software could not compact a document: it is retried when the tail
    /// has doubled, or by another version.
    fn compaction_failed(
        &self,
        task: &CompactionTask,
        version: &str,
        reason: &str,
    ) -> Result<(), StoreError>;

    /// Marks compactions that failed with another version as due. Called at the start.
    fn retry_failed_compactions(&self, version: &str) -> Result<(), StoreError>;

    /// Deletes some dead rows; true if more remain. A later call continues an interrupted deletion, also
    /// after a crash.
    fn prune(&self, now_ms: u64, max_rows: usize) -> Result<bool, StoreError>;

    /// The documents whose snapshots exceed `most_bytes` bytes, with the size of each.
    fn oversized(&self, most_bytes: u64) -> Result<Vec<(SpaceName, DocumentId, u64)>, StoreError>;

    /// Replaces a document's snapshot by its changes, dependencies first, at the end of the log and in an
    /// epoch of their own; false if the document has changed. No other append may run meanwhile.
    fn expand(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        changes: Vec<CheckedChange>,
        fresh: Epoch,
    ) -> Result<bool, StoreError>;
}

/// The store's condition: the damage found, its repair, and figures.
///
/// What a client causes ([`Admin::is_damaged`], [`Admin::known_damage`]) and [`Admin::condition`] is answered
/// from memory and never blocks. All other calls run on threads that may block.
pub trait Admin: Send + Sync {
    /// The damage and failures found since the store was opened. Reads nothing from disk.
    fn condition(&self) -> Condition;

    /// Whether a read found this document damaged. Pushes to it are then rejected before they can fail a
    /// commit that other pushes share.
    fn is_damaged(&self, space: &SpaceName, document: &DocumentId) -> bool;

    /// The known damage of a document; `None` if no read met any. Reads nothing from disk.
    fn known_damage(&self, space: &SpaceName, document: &DocumentId) -> Option<Known>;

    /// Clears the damage of a document that was examined and found whole. `known` is the state before the
    /// examination; false, without effect, if a read met damage meanwhile.
    fn forget_damage(&self, space: &SpaceName, document: &DocumentId, known: Known) -> bool;

    /// Persists the known damage if it changed, so that it survives a restart. Waits for the disk. False if
    /// the write failed: call it again.
    fn keep_condition(&self) -> bool;

    /// Checks a document against the rows that refer to it, one bounded read per call: first everything
    /// except its changes, then its tail after an offset. An error that is damage means that no client's copy
    /// of the changes can repair it.
    fn examine(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        after: Option<Offset>,
    ) -> Result<Examined, StoreError>;

    /// Durably replaces damaged bytes of a document's changes, each in its own row; returns how many were
    /// replaced, and which changes are whole. Skips bytes that do not match their hash, changes that the
    /// document does not have, and changes whose bytes are whole.
    fn repair_changes(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        changes: Vec<(ChangeHash, Vec<u8>)>,
    ) -> Result<Replaced, StoreError>;

    /// Durably replaces a snapshot whose bytes are damaged, at its offset. Only if the current snapshot has
    /// this hash and stands for the same changes; false otherwise.
    fn repair_snapshot(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        snapshot: Snapshot,
    ) -> Result<bool, StoreError>;

    /// Figures of the store's memory, files and damaged indexes.
    fn gauges(&self) -> Result<StoreGauges, StoreError>;
}
