//! A network that cuts, swallows and delays: the status shows it, the link reconnects, and no change is
//! lost or duplicated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{Document, LinkStatus, Store, SyncStatus};
use landfall_test_rng::Rng;
use landfall_tests::embedded::Embedded;
use landfall_tests::network::Proxy;
use landfall_tests::process::Relay;
use landfall_tests::replica::{
    Snapshot, check_counts, fresh_copy, link, open, wait_for, wait_synced,
};
use landfall_tests::{PATIENCE, RaiseOnDrop, http, log};

const SPACE: &str = "default";
const CUTS: usize = 50;

/// Edits until `stop` is set; returns the number of changes.
fn edit_until(store: &Store, document: &Document, stop: &AtomicBool) -> u64 {
    let me = store.replica();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return number;
        }
        document.change(|tx| Ok(tx.put(ROOT, "text", format!("{me} {number}"))?)).unwrap();
    }
    0
}

#[test]
fn connections_cut_at_random_bytes_lose_nothing() {
    let mut rng = Rng::from_environment();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start(&data, 0);
    let proxy = Proxy::start(relay.port);
    let stores = ["a", "b"].map(|name| open(&folder.path().join(name)));
    let spaces = stores.each_ref().map(|store| store.space(SPACE).unwrap());
    let documents = spaces.each_ref().map(|space| space.create_named("d", |_| Ok(())).unwrap());
    stores.iter().for_each(|store| store.connect(link(&proxy.url)).unwrap());
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        let stops = RaiseOnDrop(&stop);
        let editing: Vec<_> = stores
            .iter()
            .zip(&documents)
            .map(|(store, document)| scope.spawn(|| edit_until(store, document, &stop)))
            .collect();
        for _ in 0..CUTS {
            let before = proxy.connections();
            // From inside the HTTP upgrade to well into the data transfer.
            proxy.cut_after(rng.below(20_000));
            for store in &stores {
                wait_for(store, "to come back", |status| {
                    proxy.connections() > before && status.link == LinkStatus::Online
                });
            }
        }
        drop(stops);
        editing.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    for store in &stores {
        wait_for(store, "for every change", |status| {
            status.spaces.values().all(|space| space.changes == made + 1)
        });
        wait_synced(store);
    }
    let snapshots = spaces.each_ref().map(Snapshot::of);
    assert_eq!(snapshots[0], snapshots[1]);
    assert_eq!(snapshots[0].changes() as u64, made + 1);
    spaces.iter().zip(&snapshots).for_each(|(space, snapshot)| check_counts(space, snapshot));
    assert_eq!(snapshots[0], fresh_copy(&relay.url, SPACE));
    relay.kill();
    assert_eq!(log::hashes(&log::read(&data, SPACE)), snapshots[0].hashes());
    println!("{CUTS} cuts, {} connections, {made} changes", proxy.connections());
    assert!(proxy.connections() > CUTS as u64);
}

#[test]
fn a_silent_connection_is_detected_at_both_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (ping, drop_after) = (Duration::from_millis(300), Duration::from_millis(600));
    let relay = Embedded::start(&folder.path().join("relay"), ping, drop_after);
    let proxy = Proxy::start(relay.port);
    let store = open(&folder.path().join("a"));
    let space = store.space(SPACE).unwrap();
    let document = space.create(|tx| Ok(tx.put(ROOT, "text", "before")?)).unwrap().0;
    let options = link(&proxy.url).ping_after(ping).drop_after(drop_after).handshake(drop_after);
    store.connect(options).unwrap();
    wait_synced(&store);
    // Longer silence than either end tolerates: only pings keep the connection alive.
    let quiet = drop_after * 4;
    // sleep: the test shows that nothing happens in this time
    std::thread::sleep(quiet);
    assert_eq!(store.status().link, LinkStatus::Online);
    assert_eq!(proxy.connections(), 1);
    proxy.swallow(true);
    let swallowed = Instant::now();
    document.change(|tx| Ok(tx.put(ROOT, "text", "into the void")?)).unwrap();
    wait_for(&store, "to leave live", |status| {
        status.spaces.values().all(|space| space.sync != SyncStatus::Live)
    });
    let noticed = swallowed.elapsed();
    wait_for(&store, "to report the reason", |status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("silent"))
    });
    assert_eq!(store.status().pending().changes, 1);
    http::wait("for the relay to free its session", || {
        http::metric(relay.port, "landfall_relay_sessions") == 0.0
    });
    let freed = swallowed.elapsed();
    println!("silent connection: detected after {noticed:?}, freed after {freed:?}");
    assert!(noticed >= Duration::from_millis(200), "the connection ended before the silence limit");
    proxy.swallow(false);
    wait_synced(&store);
    assert_eq!(Snapshot::of(&space), fresh_copy(&relay.url, SPACE));
}

#[test]
fn a_reader_far_behind_a_steady_stream_catches_up_connected() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let proxy = Proxy::start(relay.port);
    let options = landfall::Options::default().durability(landfall::Durability::Normal);
    let writer = Store::open(folder.path().join("writer"), options).unwrap();
    let space = writer.space(SPACE).unwrap();
    let documents: Vec<Document> = (0..20).map(|_| space.create(|_| Ok(())).unwrap().0).collect();
    // More than the relay's ring holds, so that the reader starts with entries from the disk.
    let long = "x-".repeat(600);
    for number in 0..4_000 {
        let noise = format!("{long}{number}");
        documents[number % 20].change(|tx| Ok(tx.put(ROOT, "text", noise)?)).unwrap();
    }
    writer.connect(link(&relay.url)).unwrap();
    writer.flush_blocking(PATIENCE).unwrap();
    let reader = open(&folder.path().join("reader"));
    let copy = reader.space(SPACE).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = RaiseOnDrop(&stop);
        scope.spawn(|| edit_until(&writer, &documents[0], &stop));
        reader.connect(link(&proxy.url)).unwrap();
        wait_for(&reader, "to be live behind a stream", |status| {
            status.spaces.values().all(|space| space.sync == SyncStatus::Live)
        });
        let then = copy.status().unwrap().changes;
        assert!(then >= 4_020, "live with {then} changes only");
        wait_for(&reader, "to follow the stream", |status| {
            status.spaces.values().all(|space| space.changes >= then + 50)
        });
    });
    writer.flush_blocking(PATIENCE).unwrap();
    let all = writer.status().spaces.values().map(|space| space.changes).sum::<u64>();
    wait_for(&reader, "for every change", |status| {
        status.spaces.values().all(|space| space.changes == all)
    });
    assert_eq!(Snapshot::of(&space), Snapshot::of(&copy));
    assert_eq!(proxy.connections(), 1, "the connection was cut meanwhile");
}
