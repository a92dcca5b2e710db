//! One link: which relay its status refers to, what it answers, and how it reconnects.

use std::time::Duration;

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{
    CheckError, FlushError, LinkOptions, LinkStatus, NotCompared, Options, Store, SyncStatus,
};
use landfall_tests::PATIENCE;
use landfall_tests::network::Proxy;
use landfall_tests::process::Relay;
use landfall_tests::replica::{fresh_copy, link, open, wait_for, wait_synced, wait_until};

/// A port on which no process listens.
const UNREACHABLE: &str = "ws://127.0.0.1:9";
const HOUR: Duration = Duration::from_secs(3_600);

fn is_live(store: &Store) -> bool {
    store.status().spaces.values().all(|space| space.sync == SyncStatus::Live)
}

/// This link checks its connection only when the application requests it.
fn never_looks(url: &str) -> LinkOptions {
    LinkOptions::new(url)
        .ping_after(HOUR)
        .drop_after(HOUR)
        .handshake(HOUR)
        .reconnect_first(HOUR)
        .reconnect_most(HOUR)
}

#[test]
fn flush_and_status_report_on_the_current_relay() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["r1", "r2"].map(|name| Relay::start(&folder.path().join(name), 0));
    let store = open(&folder.path().join("store"));
    store.space("s").unwrap().create(|_| Ok(())).unwrap();
    store.connect(link(&first.url)).unwrap();
    store.flush_blocking(PATIENCE).unwrap();
    for _ in 0..3 {
        store.go_offline();
        wait_for(&store, "to be offline", |status| status.link == LinkStatus::Offline);
        store.go_online();
        wait_until(&store, "to be live", || is_live(&store));
    }
    let of_first = store.status().upstream;
    // Everything is on the first relay's disk, and nothing on the disk of a relay that was never
    // reached.
    store.connect(link(UNREACHABLE)).unwrap();
    let flushed = store.flush_blocking(Duration::from_millis(200));
    assert!(matches!(flushed, Err(FlushError::TimedOut { reached: false, .. })), "{flushed:?}");
    store.go_offline();
    let flushed = store.flush_blocking(PATIENCE);
    assert!(matches!(flushed, Err(FlushError::Offline { reached: false, .. })), "{flushed:?}");
    store.connect(link(&second.url)).unwrap();
    store.flush_blocking(PATIENCE).unwrap();
    assert_eq!(fresh_copy(&second.url, "s").changes(), 1);
    let of_second = store.status().upstream;
    assert_ne!(of_second, of_first);
    store.close().unwrap();
    let store = open(&folder.path().join("store"));
    assert_eq!(store.status().upstream, of_second, "the current relay");
}

#[test]
fn a_store_may_have_hundreds_of_spaces() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let store = Store::in_memory(Options::default().compaction(false)).unwrap();
    for number in 0..300 {
        let space = store.space(&format!("s{number:03}")).unwrap();
        space.create(|tx| Ok(tx.put(ROOT, "number", number)?)).unwrap();
    }
    store.connect(link(&relay.url)).unwrap();
    store.flush_blocking(PATIENCE).unwrap();
    wait_until(&store, "for every space", || is_live(&store));
    for space in ["s000", "s256", "s299"] {
        assert_eq!(fresh_copy(&relay.url, space).changes(), 1, "{space}");
    }
    assert_eq!(store.check_blocking().unwrap(), 0);
}

#[test]
fn a_space_created_during_connect_is_synced() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    for _ in 0..20 {
        let store = Store::in_memory(Options::default().compaction(false)).unwrap();
        store.space("first").unwrap();
        let (connecting, options) = (store.clone(), link(&relay.url));
        let thread = std::thread::spawn(move || connecting.connect(options).unwrap());
        for number in 0..30 {
            store.space(&format!("s{number}")).unwrap();
        }
        thread.join().unwrap();
        wait_until(&store, "for every space", || is_live(&store));
        store.close().unwrap();
    }
}

#[test]
fn a_check_always_returns() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let store = open(&folder.path().join("store"));
    let space = store.space("s").unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    assert!(matches!(store.check_blocking(), Err(CheckError::Offline { .. })));
    store.connect(link(&relay.url)).unwrap();
    wait_synced(&store);
    for number in 0..4 {
        document.change(|tx| Ok(tx.put(ROOT, "number", number)?)).unwrap();
        assert_eq!(store.check_blocking().unwrap(), 0);
    }
    // The connection closes during the wait, and reconnects.
    let checking = store.clone();
    let thread = std::thread::spawn(move || checking.check_blocking());
    store.go_offline();
    let checked = thread.join().unwrap();
    assert!(matches!(checked, Ok(0) | Err(CheckError::Offline { .. })), "{checked:?}");
    store.go_online();
    assert_eq!(store.check_blocking().unwrap(), 0);
    let checking = store.clone();
    store.space("removed").unwrap();
    let thread = std::thread::spawn(move || checking.check_blocking());
    store.remove_space("removed", true).unwrap();
    match thread.join().unwrap() {
        Ok(0) => {}
        Err(CheckError::NotCompared { spaces, .. }) => {
            assert!(matches!(&spaces[..], [(_, NotCompared::Removed)]), "{spaces:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Without `reconnect_now`, this link would check its connection after an hour.
#[test]
fn reconnect_now_drops_hanging_attempts_and_dead_connections() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let proxy = Proxy::start(relay.port);
    let store = open(&folder.path().join("store"));
    let document = store.space("s").unwrap().create(|_| Ok(())).unwrap().0;
    proxy.swallow(true);
    store.connect(never_looks(&proxy.url)).unwrap();
    wait_until(&store, "for a hanging attempt", || proxy.connections() == 1);
    proxy.swallow(false);
    // The first attempt's connection stays without an answer.
    store.reconnect_now();
    store.flush_blocking(PATIENCE).unwrap();
    // A healthy connection stays.
    let before = proxy.connections();
    store.reconnect_now();
    document.change(|tx| Ok(tx.put(ROOT, "number", 1)?)).unwrap();
    store.flush_blocking(PATIENCE).unwrap();
    assert_eq!(proxy.connections(), before);
    // A connection that died silently does not.
    proxy.swallow(true);
    document.change(|tx| Ok(tx.put(ROOT, "number", 2)?)).unwrap();
    store.reconnect_now();
    wait_for(&store, "for the dead connection to be dropped", |status| {
        status.link != LinkStatus::Online
    });
    proxy.swallow(false);
    store.reconnect_now();
    store.flush_blocking(PATIENCE).unwrap();
}

#[test]
fn the_deletion_of_a_refused_document_is_sent_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let [one, two] = ["one", "two"].map(|name| open(&folder.path().join(name)));
    let [first, second] = [&one, &two].map(|store| store.space("s").unwrap());
    let template = |n: i64| {
        move |tx: &mut landfall::automerge::transaction::Transaction<'_>| {
            tx.put(ROOT, "version", n)?;
            Ok(())
        }
    };
    let document = first.create_named("config", template(1)).unwrap();
    second.create_named("config", template(2)).unwrap();
    one.connect(link(&relay.url)).unwrap();
    one.flush_blocking(PATIENCE).unwrap();
    two.connect(link(&relay.url)).unwrap();
    let rejected = || second.status().is_some_and(|status| !status.rejected.is_empty());
    wait_until(&two, "for the refusal", rejected);
    assert!(matches!(two.flush_blocking(PATIENCE), Err(FlushError::Refused { .. })));
    second.delete(document.id()).unwrap();
    two.flush_blocking(PATIENCE).unwrap();
    wait_until(&one, "for the deletion", || first.is_deleted(&document.id()).unwrap());
}

#[test]
fn a_removed_space_is_fetched_again_from_the_relay() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let store = open(&folder.path().join("store"));
    let space = store.space("s").unwrap();
    let document = space.create(|tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap().0;
    store.connect(link(&relay.url)).unwrap();
    store.flush_blocking(PATIENCE).unwrap();
    for round in 2..5 {
        store.remove_space("s", false).unwrap();
        assert!(document.read(|_| ()).is_err());
        let again = store.space("s").unwrap();
        wait_until(&store, "for the document", || again.contains(&document.id()).unwrap());
        again.open(document.id()).unwrap().change(|tx| Ok(tx.put(ROOT, "k", round)?)).unwrap();
        store.flush_blocking(PATIENCE).unwrap();
    }
    assert_eq!(fresh_copy(&relay.url, "s").changes(), 4);
}
