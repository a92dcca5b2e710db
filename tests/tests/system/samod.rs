//! samod, the Rust client of the automerge-repo protocol, with the relay and the engine.

mod link;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use landfall::automerge::transaction::Transactable;
use landfall::automerge::{Automerge, AutomergeError, ChangeHash, ROOT, ReadDoc};
use landfall::{Document, EventKind, Options, Space, Store};
use landfall_tests::PATIENCE;
use landfall_tests::process::Relay;
use landfall_tests::replica::{link, wait_synced, wait_until};
use landfall_tests::site::SPACE;
use samod::{AutomergeUrl, BackoffConfig, DocHandle, PeerId, Repo};
use tokio::runtime::Runtime;

use link::Ws;

const EDITS: usize = 40;

/// A samod repo with a connection to a relay that reconnects. It ends when dropped.
struct Sam {
    runtime: Runtime,
    repo: Repo,
}

impl Sam {
    fn start(name: &str, url: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let repo = runtime.block_on(async {
            let repo = Repo::build_tokio().with_peer_id(PeerId::from(name)).load().await;
            let backoff = BackoffConfig {
                initial_delay: Duration::from_millis(20),
                max_delay: Duration::from_millis(200),
                max_retries: None,
            };
            let dialer = repo.dial(backoff, Arc::new(Ws(url.to_owned()))).unwrap();
            let established = tokio::time::timeout(PATIENCE, dialer.established()).await;
            established.expect("the relay answers").unwrap();
            repo
        });
        Self { runtime, repo }
    }

    fn find(&self, url: &str) -> Option<DocHandle> {
        let url: AutomergeUrl = url.parse().unwrap();
        let found = self.repo.find(url.document_id().clone());
        let found = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, found).await });
        found.expect("find ends").unwrap()
    }

    fn create(&self) -> DocHandle {
        let mut content = Automerge::new();
        put_in(&mut content, "root", 0);
        self.runtime.block_on(self.repo.create(content)).unwrap()
    }

    /// Waits until a condition on a document holds; changes wake it.
    fn wait_until(&self, handle: &DocHandle, what: &str, holds: impl Fn(&Automerge) -> bool) {
        let mut changes = Box::pin(handle.changes());
        let waiting = async {
            while !handle.with_document(|doc| holds(doc)) {
                changes.next().await.expect("the document stays open");
            }
        };
        let waited = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, waiting).await });
        let keys = handle.with_document(|doc| doc.keys(ROOT).count());
        assert!(waited.is_ok(), "timed out waiting {what}; there are {keys} keys");
    }
}

impl Drop for Sam {
    fn drop(&mut self) {
        let stopping = self.repo.stop();
        let stopped = async { tokio::time::timeout(PATIENCE, stopping).await };
        let stopped = self.runtime.block_on(stopped);
        assert!(stopped.is_ok() || std::thread::panicking(), "samod does not stop");
    }
}

fn put_in(doc: &mut Automerge, key: &str, value: i64) {
    let put = doc.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, value));
    put.unwrap();
}

fn keys(doc: &Automerge) -> usize {
    doc.keys(ROOT).count()
}

fn samod_heads(handle: &DocHandle) -> Vec<ChangeHash> {
    sorted(handle.with_document(|doc| doc.get_heads()))
}

fn heads(document: &Document) -> Vec<ChangeHash> {
    sorted(document.read(Automerge::get_heads).unwrap())
}

fn sorted(mut heads: Vec<ChangeHash>) -> Vec<ChangeHash> {
    heads.sort();
    heads
}

fn engine(url: &str) -> (Store, Space) {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space(SPACE).unwrap();
    store.connect(link(url)).unwrap();
    (store, space)
}

fn engine_puts(document: &Document, name: &str) {
    for number in 0..EDITS {
        document.change(|tx| Ok(tx.put(ROOT, format!("{name} {number}"), 1)?)).unwrap();
    }
}

fn samod_puts(handle: &DocHandle, name: &str) {
    for number in 0..EDITS {
        handle.with_document(|doc| put_in(doc, &format!("{name} {number}"), 1));
    }
}

#[test]
fn samod_and_an_engine_edit_one_document_while_the_relay_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let relay = Relay::start(data.path(), 0);
    let (store, space) = engine(&relay.url);
    let document = space.create(|tx| Ok(tx.put(ROOT, "root", 0)?)).unwrap().0;
    wait_synced(&store);
    let sam = Sam::start("sam", &relay.url);
    let sue = Sam::start("sue", &relay.url);
    let url = document.id().to_string();
    let (his, hers) = (
        sam.find(&url).expect("the document is available"),
        sue.find(&url).expect("the document is available"),
    );

    let edit = |round: &str| {
        std::thread::scope(|scope| {
            scope.spawn(|| engine_puts(&document, &format!("engine {round}")));
            scope.spawn(|| samod_puts(&his, &format!("sam {round}")));
            scope.spawn(|| samod_puts(&hers, &format!("sue {round}")));
        });
    };
    edit("live");
    let port = relay.port;
    relay.kill();
    edit("without a relay");
    let relay = Relay::start(data.path(), port);
    edit("again");

    let all = 1 + 3 * 3 * EDITS;
    sam.wait_until(&his, "for sam to have it all", |doc| keys(doc) == all);
    sue.wait_until(&hers, "for sue to have it all", |doc| keys(doc) == all);
    wait_until(&store, "to have it all", || document.read(keys).unwrap() == all);
    assert_eq!(samod_heads(&his), samod_heads(&hers));
    assert_eq!(samod_heads(&his), heads(&document));
    drop((sam, sue));

    // The relay alone has everything too.
    let (alone, its_space) = engine(&relay.url);
    wait_until(&alone, "for the document", || {
        its_space.open(document.id()).is_ok_and(|copy| copy.read(keys).unwrap() == all)
    });
    assert_eq!(heads(&its_space.open(document.id()).unwrap()), heads(&document));
}

#[test]
fn samod_peers_sync_through_the_relay_online_and_later() {
    let data = tempfile::tempdir().unwrap();
    let relay = Relay::start(data.path(), 0);
    let first = Sam::start("first", &relay.url);
    let original = first.create();
    let second = Sam::start("second", &relay.url);
    let copy = second.find(&original.url().to_string()).expect("the document is available");
    samod_puts(&copy, "second");
    first.wait_until(&original, "for the edits", |doc| keys(doc) == 1 + EDITS);
    drop((first, second));

    let third = Sam::start("third", &relay.url);
    let late = third.find(&original.url().to_string()).expect("the relay has it");
    third.wait_until(&late, "for all of it", |doc| keys(doc) == 1 + EDITS);
    // A document that no peer has is reported as unavailable.
    let nobody = Store::in_memory(Options::default()).unwrap().space(SPACE).unwrap();
    let nowhere = nobody.create(|tx| Ok(tx.put(ROOT, "root", 0)?)).unwrap().0;
    assert!(third.find(&nowhere.id().to_string()).is_none());
}

#[test]
fn samod_and_an_engine_exchange_ephemeral_messages() {
    let data = tempfile::tempdir().unwrap();
    let relay = Relay::start(data.path(), 0);
    let (store, space) = engine(&relay.url);
    let mut events = store.events();
    let document = space.create(|tx| Ok(tx.put(ROOT, "root", 0)?)).unwrap().0;
    wait_synced(&store);
    let sam = Sam::start("sam", &relay.url);
    let handle = sam.find(&document.id().to_string()).expect("the document is available");
    let mut heard = Box::pin(handle.ephemera());

    document.broadcast(*b"\x65hello").unwrap();
    let next = async { tokio::time::timeout(PATIENCE, heard.next()).await };
    let received = sam.runtime.block_on(next).expect("samod receives the engine's message");
    assert_eq!(received.as_deref(), Some(&b"\x65hello"[..]));

    handle.broadcast(b"\x66answer".to_vec());
    let answer = async {
        loop {
            let event =
                events.next().await.expect("the store is open").expect("no event is dropped");
            if let EventKind::Ephemeral { sender, data, .. } = event.kind {
                return (sender, data.to_vec());
            }
        }
    };
    let answer = async { tokio::time::timeout(PATIENCE, answer).await };
    let (sender, data) = sam.runtime.block_on(answer).expect("the engine receives samod's message");
    assert_eq!((sender.as_str(), data.as_slice()), ("sam", &b"\x66answer"[..]));
}
