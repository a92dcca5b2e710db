//! Whole documents of an automerge-repo peer, through the hub and a child process to the log.
//!
//! The child is this package's own binary, which `cargo test` builds beside these tests; if only the tests
//! were built, they report that and skip.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::access::Rights;
use landfall_protocol::admission::{Roots, preflight};
use landfall_protocol::relay::{Author, CheckedPush, PushAnswer, PushedEntry};
use landfall_protocol::{
    Code, DocumentId, Epoch, NackClass, Offset, Scope, SessionId, SpaceName, limits,
};
use tokio::sync::{Notify, mpsc};

use super::{Attach, Event, Hub, HubChannel, HubParts, Pushed};
use crate::cli::COMPACT_WORKER;
use crate::compaction::{CompactionOptions, Compactor};
use crate::fan_out::FanOut;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::store::{
    Admin, CompactionWindow, Documents, Log, LogStore, Snapshots, SqliteStore, StoredDocument,
};

mod joined;
mod oversized;
mod spawning;
#[path = "../../tests/fixtures/world.rs"]
#[allow(dead_code, clippy::duplicate_mod, reason = "shared with the tests of the store")]
mod world;

const DOCUMENT: DocumentId = DocumentId::from_bytes([7; 16]);
const SESSION: SessionId = SessionId(1);

fn space() -> SpaceName {
    "notes".parse().unwrap()
}

/// The relay's program, if it was built.
fn program() -> Option<PathBuf> {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("landfall-relay");
    if !program.exists() {
        eprintln!("skipped: {} is not built", program.display());
        return None;
    }
    Some(program)
}

/// A hub over a store, and a session of it.
struct Bench {
    _folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    compactor: Arc<Compactor>,
    hub: Hub,
    events: mpsc::Receiver<Event>,
    last_push: u64,
}

impl Bench {
    async fn new(program: PathBuf) -> Self {
        Self::within(program, limits::SNAPSHOT_BYTES).await
    }

    /// One with a snapshot limit of `snapshot_bytes` bytes.
    async fn within(program: PathBuf, snapshot_bytes: usize) -> Self {
        Self::over(tempfile::tempdir().unwrap(), program, snapshot_bytes).await
    }

    /// Reopens it, as after a restart.
    async fn again(self) -> Self {
        self.again_within(limits::SNAPSHOT_BYTES).await
    }

    async fn again_within(self, snapshot_bytes: usize) -> Self {
        let program = program().unwrap();
        self.hub.shutdown();
        self.compactor.close();
        Self::over(self._folder, program, snapshot_bytes).await
    }

    async fn over(compactor: tempfile::TempDir, program: PathBuf, snapshot_bytes: usize) -> Self {
        let store = Arc::new(SqliteStore::open(compactor.path()).unwrap());
        let over: Arc<dyn LogStore> = store.clone();
        let metrics = Arc::new(Metrics::new());
        let worker = Some(vec![program.into(), COMPACT_WORKER.into()]);
        let snapshot_bytes = snapshot_bytes as u64;
        let window = CompactionWindow { snapshot_bytes, ..CompactionWindow::default() };
        let compactions = CompactionOptions { worker, window, ..CompactionOptions::default() };
        let memory = crate::memory::Memory::new(0);
        let compactions =
            Compactor::start(Arc::clone(&over), Arc::clone(&metrics), compactions, memory);
        let (compactions, _) = compactions.unwrap();
        let (hub, _) = Hub::start(HubParts {
            repairs: Arc::default(),
            fan_out: Arc::new(FanOut::new(Arc::clone(&metrics))),
            store: over,
            health: Arc::new(Health::default()),
            metrics,
            compactor: Arc::clone(&compactions),
            runtime: tokio::runtime::Handle::current(),
            ring_bytes: 1 << 20,
            rings: crate::hub::Rings::new(crate::memory::Memory::new(0)),
            epoch: Epoch::from_bytes([1; 16]),
        })
        .unwrap();
        let (tell, mut events) = mpsc::channel(100);
        let (overflow, grown) = (Arc::new(Notify::new()), Arc::default());
        let attach = Attach {
            session: SESSION,
            subscription: 0,
            ticket: 0,
            space: space(),
            cursor: None,
            acknowledged: None,
            scope: Scope::WHOLE_SPACE,
            holds: false,
            channel: HubChannel { events: tell, overflow, grown },
        };
        assert!(hub.attach(grant(1).key(), attach).await);
        assert!(matches!(events.recv().await, Some(Event::Attached { .. })));
        Self { _folder: compactor, store, compactor: compactions, hub, events, last_push: 0 }
    }

    fn entry(&mut self) -> PushedEntry {
        self.last_push += 1;
        let (session, id, document) = (SESSION, self.last_push, DOCUMENT);
        PushedEntry { session, id, document, author: Author::of_all(vec![3; 16]) }
    }

    async fn push(&mut self, pushed: Pushed) {
        let grant = grant(1_000);
        assert!(self.hub.push(space(), pushed, grant).await);
    }

    async fn push_chunks(&mut self, bytes: Vec<u8>) {
        let entry = self.entry();
        self.push(Pushed::chunks(entry, Arc::new(bytes))).await;
    }

    async fn push_changes(&mut self, changes: &[Vec<u8>]) {
        let PushedEntry { session, id, document, author } = self.entry();
        let changes = changes.iter().map(|bytes| preflight(bytes).unwrap()).collect();
        let (rest, roots) = (None, Roots::One);
        let push = CheckedPush { session, id, document, author, changes, rest, roots };
        self.push(Pushed::changes(push)).await;
    }

    async fn answer(&mut self) -> PushAnswer {
        let event = tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await;
        match event.unwrap() {
            Some(Event::Answered(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn chunks(&mut self, bytes: Vec<u8>) -> PushAnswer {
        self.push_chunks(bytes).await;
        self.answer().await
    }

    fn held(&self) -> u64 {
        self.store.changes_held(&space(), &DOCUMENT).unwrap()
    }

    fn end(self) {
        self.hub.shutdown();
        self.compactor.close();
    }
}

/// A whole document, as automerge saves it.
fn whole(changes: &[Vec<u8>]) -> Vec<u8> {
    landfall_compaction::compact(&[], changes.iter().cloned()).unwrap().snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_document_is_appended_change_by_change() {
    let Some(program) = program() else { return };
    let mut bench = Bench::new(program).await;
    let all = world::typing(1, 300);
    // A later push waits for it, and depends on it.
    bench.push_chunks(whole(&all[..250])).await;
    bench.push_changes(&all[250..260]).await;
    let (first, second) = (bench.answer().await, bench.answer().await);
    assert_eq!((first.push, first.count, first.refusal), (1, 250, None));
    assert_eq!(first.added, Some((Offset(1), Offset(250))));
    assert_eq!((second.push, second.count, second.refusal), (2, 10, None));
    // From a peer with more changes and one with fewer: only new changes are added.
    let third = bench.chunks([whole(&all), all[100].clone()].concat()).await;
    assert_eq!((third.count, third.added), (40, Some((Offset(261), Offset(300)))));
    let again = bench.chunks(whole(&all)).await;
    assert_eq!((again.count, again.added, again.refusal), (1, None, None));
    assert_eq!(again.through.unwrap().offset, Offset(300));
    let index = bench.store.document_index(&space(), &DOCUMENT, false).unwrap().unwrap();
    assert_eq!((index.tail.len(), index.compacted.is_none()), (300, true));
    // A second first change is accepted.
    let other = bench.chunks(whole(&world::typing(2, 5))).await;
    assert_eq!((other.count, other.refusal), (5, None));
    assert_eq!(bench.held(), 305);
    bench.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_uploaded_document_is_stored_as_a_snapshot() {
    let Some(program) = program() else { return };
    let mut bench = Bench::new(program).await;
    let all = world::typing(1, limits::PUSH_CHANGES + 200);
    bench.push_changes(&all[..100]).await;
    assert_eq!(bench.answer().await.count, 100);
    let own = world::side_by_side(1);
    bench.push_chunks(own.concat()).await;
    bench.push_chunks(whole(&all)).await;
    bench.push_changes(&all[100..110]).await;
    let counts = [bench.answer().await, bench.answer().await, bench.answer().await];
    let counts = counts.map(|answer| (answer.push, answer.count, answer.refusal));
    assert_eq!(counts, [(2, own.len() as u32, None), (3, 1, None), (4, 10, None)]);
    assert_eq!(bench.held() as usize, all.len() + own.len());
    let index = bench.store.document_index(&space(), &DOCUMENT, true).unwrap().unwrap();
    let compacted = index.compacted.unwrap().index.unwrap();
    assert_eq!((compacted.len(), index.tail.len()), (all.len() + own.len(), 0));
    // A push that depends on an old change loads the index first, and later pushes wait. (Compacted rows that
    // are not pruned yet would answer without it.)
    while bench.store.prune(0, 1_000).unwrap() {}
    bench.store.close().unwrap();
    let mut bench = bench.again().await;
    let mut other = world::author(9);
    other.load_incremental(&all[..100].concat()).unwrap();
    let beside = [world::edit(&mut other, "beside", 1), world::edit(&mut other, "beside", 2)];
    bench.push_chunks(beside[0].clone()).await;
    bench.push_changes(&beside[1..]).await;
    let counts = [bench.answer().await, bench.answer().await];
    assert_eq!(counts.map(|answer| (answer.push, answer.count)), [(1, 1), (2, 1)]);
    assert_eq!(bench.store.gauges().unwrap().index_loads, 1);
    bench.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_upload_is_rejected_and_leaves_nothing() {
    let Some(program) = program() else { return };
    let mut bench = Bench::new(program).await;
    let all = world::typing(1, 50);
    let missing = preflight(&all[20]).unwrap().hash.to_string();
    let lacking = bench.chunks([all[..20].concat(), all[21..].concat()].concat()).await;
    let refusal = lacking.refusal.unwrap();
    assert_eq!((refusal.code, refusal.class), (Code::MISSING_DEPENDENCY, NackClass::REPUSH));
    assert!(refusal.what.contains(&missing), "{}", refusal.what);
    assert_eq!((lacking.count, bench.held()), (0, 0));
    let mut damaged = whole(&all);
    damaged[60] ^= 1;
    let refusal = bench.chunks(damaged).await.refusal.unwrap();
    assert_eq!((refusal.code, refusal.class), (Code::SNAPSHOT, NackClass::REFUSED));
    assert_eq!(bench.store.document_heads(&space(), &DOCUMENT).unwrap(), StoredDocument::Absent);
    // Later pushes are not blocked.
    let whole_one = bench.chunks(whole(&all)).await;
    assert_eq!((whole_one.count, whole_one.refusal), (50, None));
    let entry = bench.entry();
    bench.push(Pushed::Deletion(entry)).await;
    assert_eq!(bench.answer().await.count, 1);
    let refusal = bench.chunks(whole(&all)).await.refusal.unwrap();
    assert_eq!((refusal.code, refusal.class), (Code::DELETED, NackClass::REFUSED));
    bench.end();
}

/// Otherwise the answer would show that the document exists and is being merged.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_the_right_does_not_wait_for_the_documents_merge() {
    let Some(program) = program() else { return };
    let mut bench = Bench::new(program).await;
    // Its snapshot cannot be committed, so the document stays deferred.
    let hold = bench.store.faults().hold_commits();
    bench.push_chunks(whole(&world::typing(1, limits::PUSH_CHANGES + 200))).await;
    let entry = bench.entry();
    let author = Author { rights: Rights::READ, ..entry.author.clone() };
    let refused = PushedEntry { author, ..entry };
    for pushed in [
        Pushed::chunks(refused.clone(), Arc::new(vec![1])),
        Pushed::Deletion(refused.clone()),
        Pushed::changes(CheckedPush {
            session: SESSION,
            id: refused.id,
            document: DOCUMENT,
            author: refused.author.clone(),
            changes: Vec::new(),
            rest: None,
            roots: Roots::One,
        }),
    ] {
        bench.push(pushed).await;
    }
    for _ in 0..3 {
        let answer = bench.answer().await;
        assert_eq!((answer.push, answer.refusal.unwrap().code), (2, Code::FORBIDDEN));
    }
    drop(hold);
    assert_eq!((bench.answer().await.count, bench.held()), (1, limits::PUSH_CHANGES as u64 + 200));
    bench.end();
}

/// Memory for a push.
fn grant(bytes: usize) -> crate::memory::Grant {
    let memory = crate::memory::Memory::new(0);
    memory.account(crate::memory::ShareKey::Session(1)).take(crate::memory::Class::Push, bytes)
}
