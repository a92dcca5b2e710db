//! The log store: what the relay keeps on disk, behind a trait so that a test can hold a commit
//! back and a larger installation can bring another database.
//!
//! It keeps what it is given and reads it back: changes in the order of their offsets, snapshots
//! that stand for folded ones, tombstones, and what follows from them (heads, digests, indexes).
//! It must not know sessions, sockets or frames' bytes on the wire, and it never judges a change:
//! that is `landfall_protocol::space`. It builds no document: a fold is done elsewhere.

mod append;
mod checked;
mod condition;
mod contents;
pub mod copies;
mod digests;
mod documents;
mod failure;
mod fill;
mod folding;
mod history;
mod indexes;
pub mod inspect;
mod known;
mod listing;
mod log;
mod mending;
mod opening;
mod passed;
mod plan;
mod prune;
pub mod repair;
mod repo;
mod schema;
mod snapshots;
mod sqlite;
#[cfg(test)]
mod tests;
mod unfold;
mod verified;
pub mod verify;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::admission::{CheckedChange, History};
use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::{EncodedEntry, Filter, Partial};
use landfall_protocol::lineage::Lineage;
use landfall_protocol::repo::DocumentIndex;
use landfall_protocol::ring::{Chunk, DocumentPlan, SnapshotPart};
use landfall_protocol::snapshot::Snapshot;
use landfall_protocol::space::Commit;
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
pub use mending::{Examined, Replaced};
pub use opening::{OpenStoreError, StoreHint};
pub use sqlite::SqliteStore;
pub use verified::{Subject, Verification};

/// Called once, when a commit is durable or has failed; on a thread of the store, so it must
/// neither wait nor take long.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// How much of the end of a log is left unfolded, so that a replica that is slightly behind is fed
/// single changes and never a snapshot. An entry is folded only if both say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldWindow {
    /// So many of the log's last offsets are not folded.
    pub recent_entries: u64,
    /// Nothing younger is folded.
    pub recent_age: Duration,
    /// Bytes that a snapshot may have: what exceeds it stays single changes.
    pub snapshot_bytes: u64,
}

impl Default for FoldWindow {
    fn default() -> Self {
        let (recent_entries, recent_age) = (limits::RECENT_ENTRIES, limits::RECENT_AGE);
        Self { recent_entries, recent_age, ..Self::NONE }
    }
}

impl FoldWindow {
    /// Everything may be folded.
    pub const NONE: Self = Self {
        recent_entries: 0,
        recent_age: Duration::ZERO,
        snapshot_bytes: limits::SNAPSHOT_BYTES as u64,
    };
}

/// A document whose tail is worth a fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldTask {
    /// Its space.
    pub space: SpaceName,
    /// The document.
    pub document: DocumentId,
    /// The last entry that is folded: where the snapshot will stand.
    pub through: Offset,
    /// Changes of the tail that are folded.
    pub changes: u64,
    /// Their bytes, and those of the snapshot that they are folded into.
    pub bytes: u64,
    /// Whether a snapshot of it would surely be too large, and no part of it is worth one.
    pub is_oversized: bool,
    /// Whether there is a snapshot to begin from.
    pub has_base: bool,
    /// That snapshot's hash and offset.
    base: Option<([u8; 32], Offset)>,
    /// Bytes of the changes alone.
    tail_bytes: u64,
}

/// What a fold is made of, in the order in which it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoldInput {
    /// The snapshot that stands for what is folded already; at most one, first.
    Base(Vec<u8>),
    /// A change, after all that it rests on.
    Change(Vec<u8>),
}

/// Takes what a fold is made of, and may say that it has enough.
pub type FoldSink<'a> = dyn FnMut(FoldInput) -> ControlFlow<()> + 'a;

/// What there is of a document, in a few bytes. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing, and nothing says that there ever was.
    Absent,
    /// It was deleted.
    Deleted,
    /// Changes.
    Present {
        /// Its heads, ascending.
        heads: Vec<ChangeHash>,
        /// The offset of its last entry: of its snapshot, if nothing stands beyond that.
        last: Offset,
    },
}

/// What a store has in memory and has met, for the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreGauges {
    /// Packed indexes in memory.
    pub indexes: usize,
    /// Their bytes.
    pub index_bytes: usize,
    /// Packed indexes that were read from the disk, since the start.
    pub index_loads: u64,
    /// Packed indexes that were found to be damaged, since the start.
    pub damaged_indexes: u64,
    /// Bytes of the store's files.
    pub store_bytes: u64,
    /// Bytes that can still be written where they are.
    pub free_bytes: u64,
    /// The last verification of all of the store that was written down.
    pub verified: Option<Verification>,
    /// The last one of a copy that was made on a schedule.
    pub copy_verified: Option<Verification>,
}

/// A relay's store: one log for each space, and the index that admission asks.
///
/// All calls may block, except that [`LogStore::append`] and [`LogStore::probe`] only wait for
/// room in the store's queue. A store that stands before another one names it as
/// [`LogStore::beneath`], and everything that it does not do itself goes there.
pub trait LogStore: Send + Sync + 'static {
    /// The relay's stable identity, drawn when the store was made.
    fn upstream(&self) -> Upstream;

    /// A space's lineage. An unknown space is an empty log, and asking makes nothing.
    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError>;

    /// Calls `ask` with one snapshot of what is durable in a space. A look-up that needs a packed
    /// index which is not in memory fails with `StoreError::needs_index` set: have it loaded by
    /// [`LogStore::load_index`] and ask again.
    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError>;

    /// The same for what need not be the hub's turn.
    fn look_up(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        below(self)?.look_up(space, ask)
    }

    /// The next piece of a log after a position: every live entry, snapshot and tombstone in
    /// offset order, bounded as an `Entries` frame is; `None` at the log's end. A page may be
    /// empty and still move on.
    ///
    /// `partial` is the snapshot of which some bytes have arrived: if it comes next, or is one that
    /// was replaced and is still kept, it goes on where it stopped.
    fn next(
        &self,
        space: &SpaceName,
        after: Offset,
        filter: &Filter,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError>;

    /// Writes a commit, all of it or nothing, with whatever else waits; `done` comes after its
    /// fsync.
    fn append(&self, commit: Arc<Commit>, done: Done);

    /// Tries whether the store takes writes, by one that leaves nothing behind.
    fn probe(&self, done: Done);

    /// Finishes what is queued and lets go of the files. Later calls fail.
    fn close(&self) -> Result<(), StoreError>;

    /// The store behind this one, for a store that stands before another.
    fn beneath(&self) -> Option<&dyn LogStore> {
        None
    }

    /// Brings the packed index of a document's folded history into memory. If it is damaged, the
    /// error's [`StoreError::damaged_index`] says so: it can be made anew from the snapshot.
    fn load_index(&self, space: &SpaceName, document: &DocumentId) -> Result<(), StoreError> {
        below(self)?.load_index(space, document)
    }

    /// Puts a packed index that was made anew in its place; false if the snapshot is not the
    /// document's any more, or it is no index. If it has other heads than the snapshot's row, that row
    /// is damaged, since the index was made of bytes that were checked.
    fn store_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        snapshot: &[u8; 32],
        packed: Vec<u8>,
    ) -> Result<bool, StoreError> {
        below(self)?.store_index(space, document, snapshot, packed)
    }

    /// What the store would send of a document to somebody who has these heads; hashes that it
    /// does not know are not looked at.
    fn plan_document(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        have: &[[u8; 32]],
    ) -> Result<DocumentPlan, StoreError> {
        below(self)?.plan_document(space, document, have)
    }

    /// Changes and tombstones by their offsets, as a plan names them: as many from the front as one
    /// frame takes, at least one. The row ends before an entry that is gone; if it is empty, the
    /// document must be planned again. The first offset may be that of the document's snapshot;
    /// [`LogStore::snapshot_entry`] names it without doubt.
    fn read_entries(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        offsets: &[Offset],
    ) -> Result<Vec<EncodedEntry>, StoreError> {
        below(self)?.read_entries(space, document, offsets)
    }

    /// A snapshot's entry: with its body if that may stand in an entry, else without, to be sent
    /// behind its parts. `None` if it is gone.
    fn snapshot_entry(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
    ) -> Result<Option<EncodedEntry>, StoreError> {
        below(self)?.snapshot_entry(space, hash)
    }

    /// A part of a snapshot, of its document's present one or of one that was replaced and is
    /// still kept; `None` if it is gone or has no byte there.
    fn snapshot_part(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
        from: u64,
    ) -> Result<Option<SnapshotPart>, StoreError> {
        below(self)?.snapshot_part(space, hash, from)
    }

    /// What lies below some prefixes of document ids, and the log's head at that moment: from a cursor
    /// on, as far as so many rows tell.
    fn branches(
        &self,
        space: &SpaceName,
        prefixes: &[Prefix],
        cursor: SumCursor,
        rows: usize,
    ) -> Result<BranchPage, StoreError> {
        below(self)?.branches(space, prefixes, cursor, rows)
    }

    /// Where a document stands: one look at its row, whatever its length.
    fn document_heads(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<Standing, StoreError> {
        below(self)?.document_heads(space, document)
    }

    /// A document as an index, as it was at one moment; `None` if it is absent or deleted. With
    /// the changes that are folded, if they are asked for: that brings them into memory, and a
    /// damaged index is told by [`StoreError::damaged_index`].
    fn document_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        with_folded: bool,
    ) -> Result<Option<DocumentIndex>, StoreError> {
        below(self)?.document_index(space, document, with_folded)
    }

    /// Those of some changes that a document has, ascending. Costs a look-up for each, whatever the
    /// document's length. A damaged index is told by [`StoreError::damaged_index`].
    fn changes_known(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hashes: &[ChangeHash],
    ) -> Result<Vec<ChangeHash>, StoreError> {
        below(self)?.changes_known(space, document, hashes)
    }

    /// The documents of a space whose last entry stands behind an offset, and before another one if that
    /// is given: newest first, at most so many, and only as far as one short read gets. With those that
    /// were deleted, unless everything from the log's beginning is asked for.
    fn recent_documents(
        &self,
        space: &SpaceName,
        since: Offset,
        before: Option<Offset>,
        most: usize,
    ) -> Result<RecentPage, StoreError> {
        below(self)?.recent_documents(space, since, before, most)
    }

    /// How many changes there are of a document, folded ones too.
    fn changes_held(&self, space: &SpaceName, document: &DocumentId) -> Result<u64, StoreError> {
        below(self)?.changes_held(space, document)
    }

    /// Gives all that there is of a document: its snapshot, then its tail, in short reads. True if
    /// the sink took everything; false if it had enough, or the document was folded meanwhile.
    fn document_bases(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        sink: &mut FoldSink<'_>,
    ) -> Result<bool, StoreError> {
        below(self)?.document_bases(space, document, sink)
    }

    /// A document that is worth a fold now, if there is one. Cheap if there is none.
    fn fold_candidate(
        &self,
        now_ms: u64,
        window: FoldWindow,
    ) -> Result<Option<FoldTask>, StoreError> {
        below(self)?.fold_candidate(now_ms, window)
    }

    /// The fold of one document, whether it is worth it or not; `None` if nothing of its tail is
    /// outside the window.
    fn fold_task(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        now_ms: u64,
        window: FoldWindow,
    ) -> Result<Option<FoldTask>, StoreError> {
        below(self)?.fold_task(space, document, now_ms, window)
    }

    /// Gives what a fold is made of, in short reads. True if the sink took everything, false if it
    /// had enough or the document is another by now.
    fn fold_read(&self, task: &FoldTask, sink: &mut FoldSink<'_>) -> Result<bool, StoreError> {
        below(self)?.fold_read(task, sink)
    }

    /// Puts a snapshot in the place of what was read for it, durably; false if the document is
    /// another by now, and the snapshot is of no use.
    fn fold_commit(
        &self,
        task: &FoldTask,
        snapshot: Snapshot,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        below(self)?.fold_commit(task, snapshot, now_ms)
    }

    /// Notes that a fold did not succeed with this version of the software: it is tried again when
    /// the document's tail has doubled, or by another version.
    fn fold_failed(&self, task: &FoldTask, version: &str, reason: &str) -> Result<(), StoreError> {
        below(self)?.fold_failed(task, version, reason)
    }

    /// Makes folds that failed with another version of the software due again. Called at the start.
    fn retry_failed_folds(&self, version: &str) -> Result<(), StoreError> {
        below(self)?.retry_failed_folds(version)
    }

    /// Deletes some of what nobody reads any more; true if there is more. What is half done is
    /// finished by a later call, also after a crash.
    fn prune(&self, now_ms: u64, max_rows: usize) -> Result<bool, StoreError> {
        below(self)?.prune(now_ms, max_rows)
    }

    /// What was found to be wrong with the store since it was opened. Reads nothing.
    fn condition(&self) -> Condition {
        self.beneath().map(LogStore::condition).unwrap_or_default()
    }

    /// Whether a read has found this document damaged: what is pushed to it is refused before it
    /// can take the commit of others with it.
    fn is_damaged(&self, space: &SpaceName, document: &DocumentId) -> bool {
        self.beneath().is_some_and(|store| store.is_damaged(space, document))
    }

    /// What is known of a document's damage; `None` if no read has met any. Reads nothing.
    fn known_damage(&self, space: &SpaceName, document: &DocumentId) -> Option<Known> {
        self.beneath().and_then(|store| store.known_damage(space, document))
    }

    /// A document was examined and is whole, since this was known of it. False if a read has met damage
    /// in it meanwhile.
    fn forget_damage(&self, space: &SpaceName, document: &DocumentId, known: Known) -> bool {
        self.beneath().is_some_and(|store| store.forget_damage(space, document, known))
    }

    /// Has the store keep what is known of damage, if that is new: it is known again when the store is
    /// opened next. Waits for the disk. False if it could not be kept: then it is to be called again.
    fn keep_condition(&self) -> bool {
        self.beneath().is_none_or(LogStore::keep_condition)
    }

    /// Holds a document against what names it, some of it in one short read: everything beside its
    /// changes first, then its tail from behind an offset on. An error that is damage: something of it
    /// is damaged that nobody's copy of its changes can set right.
    fn examine(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        after: Option<Offset>,
    ) -> Result<Examined, StoreError> {
        below(self)?.examine(space, document, after)
    }

    /// Puts the bytes of changes in the place of those of a document that are damaged, each in its own
    /// row, durably; gives how many were, and which are whole. Bytes that are not those of their hash, and changes that
    /// the document does not have or whose bytes are whole, are left alone.
    fn mend_changes(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        changes: Vec<(ChangeHash, Vec<u8>)>,
    ) -> Result<Replaced, StoreError> {
        below(self)?.mend_changes(space, document, changes)
    }

    /// Puts a snapshot in the place of one whose bytes are damaged, at its offset, durably. Only if it
    /// is the one with this hash, and stands for the same changes; false otherwise.
    fn mend_snapshot(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        snapshot: Snapshot,
    ) -> Result<bool, StoreError> {
        below(self)?.mend_snapshot(space, document, hash, snapshot)
    }

    /// The documents whose snapshots have more than so many bytes, with these.
    fn oversized(&self, most_bytes: u64) -> Result<Vec<(SpaceName, DocumentId, u64)>, StoreError> {
        below(self)?.oversized(most_bytes)
    }

    /// Puts the changes of a document's snapshot, dependencies first, in its place, at the end of
    /// the log and in an epoch of their own; false if it is another by now. Nothing else may be
    /// appended meanwhile.
    fn unfold(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        changes: Vec<CheckedChange>,
        fresh: Epoch,
    ) -> Result<bool, StoreError> {
        below(self)?.unfold(space, document, hash, changes, fresh)
    }

    /// What is in memory, and what was met.
    fn gauges(&self) -> StoreGauges {
        self.beneath().map(LogStore::gauges).unwrap_or_default()
    }
}

/// The store that does what this one does not.
fn below<S: LogStore + ?Sized>(store: &S) -> Result<&dyn LogStore, StoreError> {
    store.beneath().ok_or_else(StoreError::unsupported)
}
