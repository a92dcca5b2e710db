//! A store that fails on demand in ways in which SQLite does not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use landfall_protocol::admission::History;
use landfall_protocol::frame::{Filter, Partial};
use landfall_protocol::relay::{Chunk, Commit, Lineage, StoreFailure};
use landfall_protocol::{Offset, SpaceName, Upstream};
use landfall_relay::ServeOptions;
use landfall_relay::store::{Done, LogStore, Replaced, SqliteStore, StoreError};

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
        });
        let over: Arc<dyn LogStore> = double.clone();
        (Relay::start_over(folder, store, over, change).await, double)
    }

    fn read(&self) -> Result<&SqliteStore, StoreError> {
        assert!(!self.reads_panic.load(Ordering::Relaxed), "a bug, for a test");
        if !self.cannot_read.load(Ordering::Relaxed) {
            return Ok(&self.store);
        }
        let source = Box::new(std::io::Error::other("a bad sector, for a test"));
        Err(StoreError { what: "read", failure: StoreFailure::Failed, needs_index: None, source })
    }
}

impl LogStore for Double {
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

    fn next(
        &self,
        space: &SpaceName,
        after: Offset,
        filter: &Filter,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError> {
        self.read()?.next(space, after, filter, partial)
    }

    fn prune(&self, now_ms: u64, rows: usize) -> Result<bool, StoreError> {
        assert!(!self.prune_panics.load(Ordering::Relaxed), "a bug, for a test");
        self.store.prune(now_ms, rows)
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

    fn beneath(&self) -> Option<&dyn LogStore> {
        Some(&*self.store)
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
