//! Many spaces, many documents, and repeated delivery of the same changes.

use landfall::automerge::{ActorId, ROOT, transaction::Transactable};
use landfall::{DocumentId, Durability, LinkStatus, Options, Store, SyncStatus};
use landfall_protocol::frame::Frame;
use landfall_tests::network::Proxy;
use landfall_tests::process::Relay;
use landfall_tests::replica::{
    Snapshot, check_counts, fresh_copy, link, open, wait_for, wait_synced, wait_until,
};
use landfall_tests::{PATIENCE, log, raw};

const DOCUMENTS: usize = 10_000;
/// Limit of the bytes of a reconnect, independent of the number of documents.
const RECONNECT_BYTES: u64 = 2 * 1024;
/// The request and the answer of the HTTP upgrade, with room for longer headers.
const UPGRADE_BYTES: u64 = 1024;

#[test]
fn two_spaces_share_one_connection_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let proxy = Proxy::start(relay.port);
    let stores = ["a", "b"].map(|name| open(&folder.path().join(name)));
    let spaces =
        stores.each_ref().map(|store| ["one", "two"].map(|name| store.space(name).unwrap()));
    stores[0].connect(link(&proxy.url)).unwrap();
    stores[1].connect(link(&relay.url)).unwrap();
    let documents = spaces[0]
        .each_ref()
        .map(|space| space.create(|tx| Ok(tx.put(ROOT, "of", space.name().as_str())?)).unwrap().0);
    for number in 0..100_i64 {
        let document = &documents[number as usize % 2];
        document.change(|tx| Ok(tx.put(ROOT, "number", number)?)).unwrap();
    }
    stores[0].flush_blocking(PATIENCE).unwrap();
    for (space, document) in spaces[1].iter().zip(&documents) {
        wait_until(&stores[1], "for each document", || {
            space.status().is_some_and(|status| status.changes == 51)
        });
        assert_eq!(space.documents().unwrap(), [document.id()]);
    }
    for (left, right) in spaces[0].iter().zip(&spaces[1]) {
        let snapshot = Snapshot::of(left);
        check_counts(left, &snapshot);
        assert_eq!(snapshot, Snapshot::of(right));
    }
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_reconnect_costs_nothing_per_document() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let proxy = Proxy::start(relay.port);
    let options = Options::default().durability(Durability::Normal);
    let store = Store::open(folder.path().join("a"), options).unwrap();
    let space = store.space("default").unwrap();
    for number in 0..DOCUMENTS {
        drop(space.create(|tx| Ok(tx.put(ROOT, "number", number as i64)?)).unwrap().0);
    }
    store.connect(link(&relay.url)).unwrap();
    wait_synced(&store);
    store.go_offline();
    wait_for(&store, "to be offline", |status| status.link == LinkStatus::Offline);
    store.connect(link(&proxy.url)).unwrap();
    wait_for(&store, "to be live again", |status| {
        status.spaces.values().all(|space| space.sync == SyncStatus::Live)
    });
    let crossed = proxy.forwarded();
    println!("{DOCUMENTS} unchanged documents: {crossed} bytes with the HTTP upgrade");
    assert_eq!(proxy.connections(), 1);
    assert!(crossed > 200, "the proxy saw nothing");
    assert!(crossed <= RECONNECT_BYTES + UPGRADE_BYTES, "{crossed} bytes without new changes");
    let status = space.status().unwrap();
    assert_eq!((status.changes, status.pending.changes), (DOCUMENTS as u64, 0));
}

#[test]
fn a_push_delivered_twice_is_acked_twice_and_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start(&data, 0);
    let document = DocumentId::from_bytes([5; 16]);
    let changes: Vec<Vec<u8>> =
        (1..=3).map(|seq| raw::change_of(ActorId::from([6; 16]), seq, "twice")).collect();
    let mut client = raw::Client::start(relay.port, "default");
    for id in 1..=2 {
        let answer = client.push(id, document, &changes);
        assert!(matches!(&answer, Frame::Ack(ack) if ack.count == 3), "{answer:?}");
    }
    // From another session, whose client may not know that the relay answered the first one.
    let answer = raw::Client::start(relay.port, "default").push(1, document, &changes);
    assert!(matches!(&answer, Frame::Ack(ack) if ack.count == 3), "{answer:?}");
    assert_eq!(fresh_copy(&relay.url, "default").changes(), 3);
    relay.kill();
    assert_eq!(log::read(&data, "default").len(), 3);
}
