//! Compacted histories: at both ends, on the wire, cut in the middle, and with a document that makes
//! automerge panic.

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ActorId, ObjType, ROOT, ReadDoc, ScalarValue};
use landfall::{Document, Options, Space, Store};
use landfall_protocol::frame::entry_kind;
use landfall_test_rng::Rng;
use landfall_tests::network::Proxy;
use landfall_tests::process::Relay;
use landfall_tests::replica::{Snapshot, fresh_copy, link, wait_for, wait_synced, wait_until};
use landfall_tests::site::{COMPACTIONS, SPACE, compactions};
use landfall_tests::{PATIENCE, http, log, raw};

const COMPACTED: &str = "landfall_relay_compactions_total{outcome=\"compacted\"}";

/// Types `characters` characters, one change each.
fn type_text(space: &Space, characters: usize) -> Document {
    let document = space.create(|tx| Ok(tx.put_object(ROOT, "text", ObjType::Text).map(drop)?));
    let (document, ()) = document.unwrap();
    let text = document.read(|doc| doc.get(ROOT, "text").unwrap().unwrap().1).unwrap();
    for at in 0..characters {
        document.change(|tx| Ok(tx.splice_text(&text, at, 0, "x")?)).unwrap();
    }
    document
}

fn wait_compacted(relay: &Relay, compactions: f64) {
    http::wait("for a compaction", || http::metric(relay.port, COMPACTED) >= compactions);
}

fn relaxed() -> Options {
    compactions().durability(landfall::Durability::Normal)
}

#[test]
fn a_new_replica_receives_compacted_history_in_few_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start_with(&data, 0, COMPACTIONS);
    let store = Store::open(folder.path().join("a"), relaxed()).unwrap();
    let space = store.space(SPACE).unwrap();
    store.connect(link(&relay.url)).unwrap();
    let document = type_text(&space, 3_000);
    store.flush_blocking(PATIENCE).unwrap();
    // Waits until the uncompacted tail is shorter than the compaction rule leaves.
    wait_compacted(&relay, 1.0);
    // The proxy counts the bytes that the new replica receives.
    let proxy = Proxy::start(relay.port);
    let tail = |entries: &[landfall_protocol::frame::Entry]| -> usize {
        let changes = entries.iter().filter(|entry| entry.kind == entry_kind::CHANGE);
        changes.map(|entry| entry.body.len() + 200).sum()
    };
    // A compaction is due while there is one change for every two in the snapshot.
    let changes = |entries: &[landfall_protocol::frame::Entry]| {
        entries.iter().filter(|entry| entry.kind == entry_kind::CHANGE).count()
    };
    http::wait("for the last compaction", || changes(&log::read(&data, SPACE)) <= 1_000);
    let entries = log::read(&data, SPACE);
    assert!(entries.iter().any(|entry| entry.kind == entry_kind::SNAPSHOT), "nothing is compacted");
    let snapshot = Snapshot::of(&space);
    assert_eq!(fresh_copy(&proxy.url, SPACE), snapshot);
    let saved = document.read(|doc| doc.save().len()).unwrap();
    let all: usize = 3_000 * 200;
    let forwarded = proxy.forwarded() as usize;
    assert!(forwarded < saved + tail(&entries) + 8_000, "{forwarded} bytes for {saved} saved");
    assert!(forwarded < all / 2 + all / 4);
    store.close().unwrap();
    relay.kill();
    assert_eq!(log::hashes(&log::read(&data, SPACE)), snapshot.hashes());
    // The store was compacted too, and still has everything.
    let again = Store::open(folder.path().join("a"), compactions()).unwrap();
    assert_eq!(Snapshot::of(&again.space(SPACE).unwrap()), snapshot);
}

#[test]
fn an_interrupted_snapshot_transfer_resumes() {
    let mut rng = Rng::new(11);
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder.path().join("relay"), 0, COMPACTIONS);
    let store = Store::open(folder.path().join("a"), relaxed()).unwrap();
    let space = store.space(SPACE).unwrap();
    store.connect(link(&relay.url)).unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    for number in 0..300 {
        let noise: Vec<u8> = (0..2_000).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        let key = format!("k{number}");
        document.change(|tx| Ok(tx.put(ROOT, key, ScalarValue::Bytes(noise))?)).unwrap();
    }
    store.flush_blocking(PATIENCE).unwrap();
    wait_compacted(&relay, 1.0);
    let snapshot = Snapshot::of(&space);
    let saved = document.read(|doc| doc.save().len()).unwrap() as u64;
    // The same store file is used over the cuts and over a restart of the application.
    let proxy = Proxy::start(relay.port);
    let path = folder.path().join("b");
    for _ in 0..3 {
        let reader = Store::open(&path, Options::default()).unwrap();
        let copy = reader.space(SPACE).unwrap();
        let before = proxy.forwarded();
        proxy.cut_after(saved / 5);
        reader.connect(link(&proxy.url)).unwrap();
        // After a cut it reconnects at once, and may have received everything already.
        http::wait("for the cut", || {
            let arrived = copy.status().is_some_and(|status| status.changes == 301);
            arrived || proxy.forwarded() - before >= saved / 5
        });
        reader.close().unwrap();
    }
    let reader = Store::open(&path, Options::default()).unwrap();
    let copy = reader.space(SPACE).unwrap();
    reader.connect(link(&proxy.url)).unwrap();
    wait_synced(&reader);
    wait_for(&reader, "for the document", |status| {
        status.spaces.values().all(|space| space.changes == 301)
    });
    assert_eq!(Snapshot::of(&copy), snapshot);
    let forwarded = proxy.forwarded();
    assert!(forwarded < saved * 3 / 2, "{forwarded} bytes for a snapshot of {saved}");
}

#[test]
fn a_quarantined_document_affects_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start_with(&data, 0, COMPACTIONS);
    let store = Store::open(folder.path().join("a"), relaxed()).unwrap();
    let space = store.space(SPACE).unwrap();
    store.connect(link(&relay.url)).unwrap();
    let documents: Vec<Document> = (0..50).map(|_| type_text(&space, 10)).collect();
    let poisoned = type_text(&space, 600);
    store.flush_blocking(PATIENCE).unwrap();
    wait_compacted(&relay, 1.0);
    // Its dependencies exist, but it edits an object that does not: admission cannot detect that.
    let heads = poisoned.heads().unwrap();
    let counter = 1 + poisoned.read(|doc| doc.get_changes(&[]).last().unwrap().max_op()).unwrap();
    let bad = raw::change_on_nothing(ActorId::random(), &heads, counter);
    let answer = raw::Client::start_from(relay.port, SPACE).push(1, poisoned.id(), &[bad]);
    assert!(matches!(answer, landfall_protocol::frame::Frame::Ack(_)), "{answer:?}");
    let is_quarantined = || poisoned.status().unwrap().quarantined.is_some();
    wait_until(&store, "for the quarantine", is_quarantined);
    // The earlier state stays readable, and the document refuses edits.
    let text = |document: &Document| {
        document.read(|doc| doc.get(ROOT, "text").unwrap().is_some()).unwrap()
    };
    assert!(text(&poisoned));
    assert!(poisoned.change(|tx| Ok(tx.put(ROOT, "more", 1)?)).is_err());
    for document in &documents {
        document.change(|tx| Ok(tx.put(ROOT, "more", 1)?)).unwrap();
    }
    wait_synced(&store);
    // A new replica receives the other documents, and the poisoned one too, which is contained there as
    // well.
    let reader = Store::open(folder.path().join("b"), compactions()).unwrap();
    let copy = reader.space(SPACE).unwrap();
    reader.connect(link(&relay.url)).unwrap();
    wait_synced(&reader);
    for document in &documents {
        let there = copy.open(document.id()).unwrap();
        assert_eq!(there.heads().unwrap(), document.heads().unwrap());
    }
    let there = copy.open(poisoned.id()).unwrap();
    assert!(text(&there), "the last good state");
    assert!(there.status().unwrap().quarantined.is_some());
    assert_eq!(http::get(relay.port, "/readyz").0, 200);
}
