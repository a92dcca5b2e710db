//! A store that fails on demand in ways in which SQLite does not.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use landfall_protocol::access::View;
use landfall_protocol::admission::{CheckedChange, History};
use landfall_protocol::automerge_repo::DocumentIndex;
use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::{EncodedEntry, Partial};
use landfall_protocol::relay::{
    Chunk, Commit, DocumentPlan, Lineage, Snapshot, SnapshotPart, StoreFailure,
};
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Offset, SpaceName, Upstream};
use landfall_relay::ServeOptions;
use landfall_relay::store::{
    Admin, BranchPage, CompactionSink, CompactionTask, CompactionWindow, Condition, Documents,
    Done, Examined, Known, Log, LogStore, RecentPage, Replaced, Snapshots, SqliteStore, StoreError,
    StoreGauges, StoredDocument, SumCursor,
};

use crate::harness::Relay;

/// Wraps a real store.
pub(crate) struct Double {
    store: Arc<SqliteStore>,
    /// Its reads by the hub panic.
    pub(crate) reads_panic: AtomicBool,
    /// Its reads fail.
    pub(crate) cannot_read: AtomicBool,
    /// Its `prune`, called by a compaction thread, panics.
    pub(crate) prune_panics: AtomicBool,
    /// Its replacement of damaged changes panics.
    pub(crate) repair_panics: AtomicBool,
    /// Its `open_space`, called by the hub, waits for this lock.
    pub(crate) opening: Mutex<()>,
    /// Reads so far, of any kind.
    pub(crate) reads: AtomicUsize,
}

impl Double {
    /// A relay over one.
    pub(crate) async fn serve(
        folder: &tempfile::TempDir,
        change: impl FnOnce(&mut ServeOptions),
    ) -> (Relay, Arc<Self>) {
        let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
        let double = Arc::new(Self {
            store: Arc::clone(&store),
            reads_panic: AtomicBool::new(false),
            cannot_read: AtomicBool::new(false),
            prune_panics: AtomicBool::new(false),
            repair_panics: AtomicBool::new(false),
            opening: Mutex::default(),
            reads: AtomicUsize::new(0),
        });
        let over: Arc<dyn LogStore> = double.clone();
        (Relay::start_over(folder, store, over, change).await, double)
    }

    fn counted(&self) -> &SqliteStore {
        self.reads.fetch_add(1, Ordering::Relaxed);
        &self.store
    }

    fn read(&self) -> Result<&SqliteStore, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(!self.reads_panic.load(Ordering::Relaxed), "a bug, for a test");
        if !self.cannot_read.load(Ordering::Relaxed) {
            return Ok(&self.store);
        }
        let source = Box::new(std::io::Error::other("a bad sector, for a test"));
        Err(StoreError { what: "read", failure: StoreFailure::Failed, needs_index: None, source })
    }
}

impl Log for Double {
    fn upstream(&self) -> Upstream {
        self.store.upstream()
    }

    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError> {
        let _held = self.opening.lock().unwrap();
        self.read()?.open_space(space)
    }

    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        self.read()?.with_history(space, ask)
    }

    fn look_up(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        self.counted().look_up(space, ask)
    }

    fn next(
        &self,
        space: &SpaceName,
        after: Offset,
        view: &View,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError> {
        self.read()?.next(space, after, view, partial)
    }

    fn append(&self, commit: Arc<Commit>, done: Done) {
        self.store.append(commit, done);
    }

    fn probe(&self, done: Done) {
        self.store.probe(done);
    }

    fn close(&self) -> Result<(), StoreError> {
        self.store.close()
    }
}

impl Documents for Double {
    fn load_index(&self, space: &SpaceName, document: &DocumentId) -> Result<(), StoreError> {
        self.store.load_index(space, document)
    }

    fn store_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        snapshot: &[u8; 32],
        packed: Vec<u8>,
    ) -> Result<bool, StoreError> {
        self.store.store_index(space, document, snapshot, packed)
    }

    fn plan_document(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        have: &[[u8; 32]],
    ) -> Result<DocumentPlan, StoreError> {
        self.counted().plan_document(space, document, have)
    }

    fn read_entries(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        offsets: &[Offset],
    ) -> Result<Vec<EncodedEntry>, StoreError> {
        self.counted().read_entries(space, document, offsets)
    }

    fn branches(
        &self,
        space: &SpaceName,
        prefixes: &[Prefix],
        cursor: SumCursor,
        rows: usize,
    ) -> Result<BranchPage, StoreError> {
        self.counted().branches(space, prefixes, cursor, rows)
    }

    fn branches_of(
        &self,
        space: &SpaceName,
        documents: &[DocumentId],
        prefixes: &[Prefix],
    ) -> Result<BranchPage, StoreError> {
        self.read()?.branches_of(space, documents, prefixes)
    }

    fn document_heads(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<StoredDocument, StoreError> {
        self.counted().document_heads(space, document)
    }

    fn document_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        with_compacted: bool,
    ) -> Result<Option<DocumentIndex>, StoreError> {
        self.counted().document_index(space, document, with_compacted)
    }

    fn changes_known(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hashes: &[ChangeHash],
    ) -> Result<Vec<ChangeHash>, StoreError> {
        self.counted().changes_known(space, document, hashes)
    }

    fn recent_documents(
        &self,
        space: &SpaceName,
        since: Offset,
        before: Option<Offset>,
        most: usize,
    ) -> Result<RecentPage, StoreError> {
        self.counted().recent_documents(space, since, before, most)
    }

    fn changes_held(&self, space: &SpaceName, document: &DocumentId) -> Result<u64, StoreError> {
        self.counted().changes_held(space, document)
    }
}

impl Snapshots for Double {
    fn snapshot_entry(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
    ) -> Result<Option<EncodedEntry>, StoreError> {
        self.counted().snapshot_entry(space, hash)
    }

    fn snapshot_part(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
        from: u64,
    ) -> Result<Option<SnapshotPart>, StoreError> {
        self.counted().snapshot_part(space, hash, from)
    }

    fn document_bases(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        self.store.document_bases(space, document, sink)
    }

    fn compaction_candidate(
        &self,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        self.store.compaction_candidate(now_ms, window)
    }

    fn compaction_task(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        self.store.compaction_task(space, document, now_ms, window)
    }

    fn compaction_read(
        &self,
        task: &CompactionTask,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        self.store.compaction_read(task, sink)
    }

    fn compaction_commit(
        &self,
        task: &CompactionTask,
        snapshot: Snapshot,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.store.compaction_commit(task, snapshot, now_ms)
    }

    fn compaction_failed(
        &self,
        task: &CompactionTask,
        version: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.store.compaction_failed(task, version, reason)
    }

    fn retry_failed_compactions(&self, version: &str) -> Result<(), StoreError> {
        self.store.retry_failed_compactions(version)
    }

    fn prune(&self, now_ms: u64, rows: usize) -> Result<bool, StoreError> {
        assert!(!self.prune_panics.load(Ordering::Relaxed), "a bug, for a test");
        self.store.prune(now_ms, rows)
    }

    fn oversized(&self, most_bytes: u64) -> Result<Vec<(SpaceName, DocumentId, u64)>, StoreError> {
        self.store.oversized(most_bytes)
    }

    fn expand(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        changes: Vec<CheckedChange>,
        fresh: Epoch,
    ) -> Result<bool, StoreError> {
        self.store.expand(space, document, hash, changes, fresh)
    }
}

impl Admin for Double {
    fn condition(&self) -> Condition {
        self.store.condition()
    }

    fn is_damaged(&self, space: &SpaceName, document: &DocumentId) -> bool {
        self.store.is_damaged(space, document)
    }

    fn known_damage(&self, space: &SpaceName, document: &DocumentId) -> Option<Known> {
        self.store.known_damage(space, document)
    }

    fn forget_damage(&self, space: &SpaceName, document: &DocumentId, known: Known) -> bool {
        self.store.forget_damage(space, document, known)
    }

    fn keep_condition(&self) -> bool {
        self.store.keep_condition()
    }

    fn examine(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        after: Option<Offset>,
    ) -> Result<Examined, StoreError> {
        self.store.examine(space, document, after)
    }

    fn repair_changes(
        &self,
        space: &SpaceName,
        document: &landfall_protocol::DocumentId,
        changes: Vec<(landfall_protocol::ChangeHash, Vec<u8>)>,
    ) -> Result<Replaced, StoreError> {
        assert!(!self.repair_panics.load(Ordering::Relaxed), "a bug, for a test");
        self.store.repair_changes(space, document, changes)
    }

    fn repair_snapshot(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        snapshot: Snapshot,
    ) -> Result<bool, StoreError> {
        self.store.repair_snapshot(space, document, hash, snapshot)
    }

    fn gauges(&self) -> Result<StoreGauges, StoreError> {
        self.store.gauges()
    }
}
