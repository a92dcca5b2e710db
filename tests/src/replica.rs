//! Helpers for replicas in tests: opening, connecting, waiting, comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use landfall::automerge::{AutoSerde, Automerge, Change, ReadDoc};
use landfall::{
    ChangeHash, Document, DocumentId, LinkOptions, Options, Space, Status, Store, SyncStatus,
};

use crate::PATIENCE;

/// Link options for tests, with short waits.
pub fn link(url: &str) -> LinkOptions {
    LinkOptions::new(url)
        .reconnect_first(Duration::from_millis(20))
        .reconnect_most(Duration::from_millis(200))
}

/// Opens a store with default options.
///
/// # Panics
/// If it cannot be opened.
pub fn open(path: &Path) -> Store {
    Store::open(path, Options::default()).expect("the store opens")
}

/// Syncs a new replica with a relay alone, and returns a snapshot of the space. The replica must have
/// every change once and no deferred ones.
///
/// # Panics
/// If it has others, or does not sync.
pub fn fresh_copy(url: &str, space: &str) -> Snapshot {
    let store = Store::in_memory(Options::default()).expect("a store in memory");
    let space = store.space(space).expect("a space");
    store.connect(link(url)).expect("a relay's URL");
    wait_synced(&store);
    let snapshot = Snapshot::of(&space);
    check_counts(&space, &snapshot);
    store.close().expect("the store closes");
    snapshot
}

/// Checks that the store has exactly the changes of a snapshot of its space, each once.
///
/// # Panics
/// If it has others.
pub fn check_counts(space: &Space, snapshot: &Snapshot) {
    let status = space.status().expect("the store has the space");
    let deleted = space.deleted_documents().expect("the space lists").len();
    let changes = snapshot.changes() + deleted;
    assert_eq!(status.changes, changes as u64, "changes are missing or duplicated");
    assert_eq!(status.deferred, 0, "entries are deferred");
    assert_eq!(status.rejected, [], "documents have rejected changes");
}

/// Waits until every space is live and nothing is pending.
///
/// # Panics
/// As [`wait_for`].
pub fn wait_synced(store: &Store) {
    wait_for(store, "to be synced", |status| {
        status.pending().changes == 0
            && status.spaces.values().all(|space| space.sync == SyncStatus::Live)
    });
}

/// Waits until the status matches; panics with the last status otherwise.
///
/// # Panics
/// If it takes longer than [`PATIENCE`].
pub fn wait_for(store: &Store, what: &str, wanted: impl Fn(&Status) -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime for the timer");
    let mut watch = store.watch();
    let waited = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, watch.until(|status| wanted(status))).await
    });
    assert!(matches!(waited, Ok(Some(_))), "timed out waiting {what}: {:#?}", store.status());
}

/// Waits until a condition on a space holds; events wake it.
///
/// # Panics
/// If it takes longer than [`PATIENCE`].
pub fn wait_until(store: &Store, what: &str, mut holds: impl FnMut() -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime for the timer");
    let mut events = store.events();
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting {what}: {:#?}", store.status());
        // The timeout covers an event between the check and the wait.
        runtime.block_on(async {
            let _ = tokio::time::timeout(Duration::from_millis(100), events.next()).await;
        });
    }
}

/// The hashes of a document's changes.
///
/// # Panics
/// If the document cannot be read.
pub fn hashes(document: &Document) -> BTreeSet<ChangeHash> {
    let changes = document.read(|doc| doc.get_changes(&[])).expect("the document reads");
    changes.iter().map(Change::hash).collect()
}

/// The state that must be equal at synced replicas: per document its heads, its changes, and its
/// visible state with every concurrent value. (Not the saved bytes: automerge writes changes in the
/// order in which they were applied.)
#[derive(PartialEq, Eq)]
pub struct Snapshot {
    documents: BTreeMap<DocumentId, (BTreeSet<ChangeHash>, BTreeSet<ChangeHash>, String)>,
}

impl Snapshot {
    /// Takes a snapshot of every document of a space, with everything that the store has of it.
    ///
    /// # Panics
    /// If the space cannot be read.
    pub fn of(space: &Space) -> Self {
        let ids = space.documents().expect("the space lists");
        let documents = ids.into_iter().map(|id| {
            let document = space.open(id).expect("a listed document opens");
            settle(&document);
            let all = hashes(&document);
            let (heads, state) = document
                .read(|doc| (doc.get_heads().into_iter().collect(), canonical(doc)))
                .expect("the document reads");
            (id, (heads, all, state))
        });
        Self { documents: documents.collect() }
    }

    /// The hashes of every change.
    pub fn hashes(&self) -> BTreeSet<ChangeHash> {
        self.documents.values().flat_map(|document| document.1.iter().copied()).collect()
    }

    /// The hashes of a document's changes; none if it does not exist.
    pub fn hashes_of(&self, document: &DocumentId) -> BTreeSet<ChangeHash> {
        self.documents.get(document).map(|found| found.1.clone()).unwrap_or_default()
    }

    /// The total number of changes.
    pub fn changes(&self) -> usize {
        self.documents.values().map(|document| document.1.len()).sum()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        for (id, (heads, all, state)) in &self.documents {
            let state: String = state.chars().take(200).collect();
            map.entry(id, &format_args!("{} changes, heads {heads:?}: {state}", all.len()));
        }
        map.finish()
    }
}

/// Waits until an open document shows everything that the store has of it: received changes are applied
/// in the background, shortly after they are stored.
fn settle(document: &Document) {
    let deadline = Instant::now() + PATIENCE;
    let stored = || document.status().expect("the store reads").changes as usize;
    while hashes(document).len() < stored() {
        assert!(Instant::now() < deadline, "not applied: {:?}", document.status());
        // sleep: only spaces the polls; the event of the apply may have come before the first
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The visible state of a document after it is rebuilt with its changes in a canonical order, and the
/// conflicts of every key of the root.
fn canonical(doc: &Automerge) -> String {
    let mut changes = doc.get_changes(&[]);
    changes.sort_by_key(|change| (change.max_op(), change.hash()));
    let mut rebuilt = Automerge::new();
    rebuilt.apply_changes(changes).expect("the document's own changes apply");
    let visible = serde_json::to_string(&AutoSerde::from(&rebuilt)).expect("a document is JSON");
    let own = serde_json::to_string(&AutoSerde::from(doc)).expect("a document is JSON");
    assert_eq!(visible, own, "the state depends on the order in which changes arrived");
    let conflicts: Vec<String> = rebuilt
        .keys(landfall::automerge::ROOT)
        .map(|key| {
            let all = rebuilt.get_all(landfall::automerge::ROOT, &key).unwrap_or_default();
            let mut all: Vec<String> =
                all.iter().map(|(value, id)| format!("{value} {id}")).collect();
            all.sort();
            format!("{key}: {all:?}")
        })
        .collect();
    format!("{visible}\n{}", conflicts.join("\n"))
}
