//! SIGKILL of the relay while automerge-repo clients write: the heads that it reported are on its disk.
//! It compacts all the time, so that some kills hit a compaction.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall::automerge::{Automerge, ROOT, transaction::Transactable};
use landfall::{ChangeHash, Document, DocumentId, Store};
use landfall_test_rng::Rng;
use landfall_tests::process::Relay;
use landfall_tests::replica::{link, wait_synced};
use landfall_tests::repo::Peer;
use landfall_tests::site::{COMPACTIONS, SPACE, compactions};
use landfall_tests::{PATIENCE, RaiseOnDrop, log};

const KILLS: usize = 10;
/// Minimum number of reported heads between two kills.
const TOLD: usize = 30;

type Told = Mutex<BTreeSet<ChangeHash>>;

/// Kills the relay at random moments, each time after it has reported new heads.
fn kill(mut relay: Relay, data: &Path, rng: &mut Rng, told: &Told) -> Relay {
    let port = relay.port;
    for kill in 0..KILLS {
        let before = told.lock().unwrap().len();
        let began = Instant::now();
        while told.lock().unwrap().len() < before + TOLD {
            assert!(began.elapsed() < PATIENCE, "no change is acknowledged");
            // sleep: no event shows that a client has received heads
            std::thread::sleep(Duration::from_millis(1));
        }
        // sleep: the kill must come at a moment independent of the system's events
        std::thread::sleep(Duration::from_micros(rng.below(50_000)));
        relay.kill();
        let told = told.lock().unwrap().clone();
        let kept = log::hashes(&log::read(data, SPACE));
        let lost: Vec<_> = told.difference(&kept).collect();
        assert!(lost.is_empty(), "kill {kill}: confirmed, but not on the disk: {lost:?}");
        relay = Relay::start_with(data, port, COMPACTIONS);
    }
    relay
}

/// Makes a peer type and sync until `stop` is set.
fn type_and_sync(peer: &mut Peer, port: u16, told: &Told, stop: &AtomicBool) {
    peer.sync(port, told, |peer| {
        if !stop.load(Ordering::SeqCst) {
            peer.type_one();
        }
        !stop.load(Ordering::SeqCst)
    });
}

/// Makes a peer sync until its document matches.
fn settle(peer: &mut Peer, port: u16, told: &Told, wanted: impl Fn(&Automerge) -> bool) {
    let began = Instant::now();
    peer.sync(port, told, |peer| {
        assert!(began.elapsed() < PATIENCE, "{:?} does not converge", peer.doc.get_heads());
        !wanted(&peer.doc)
    });
}

fn hashes(doc: &Automerge) -> BTreeSet<ChangeHash> {
    doc.get_changes_meta(&[]).iter().map(|change| change.hash).collect()
}

#[test]
fn changes_confirmed_to_repo_clients_survive_kills() {
    let mut rng = Rng::from_environment();
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(folder.path(), 0, COMPACTIONS);
    let (port, told, stop) = (relay.port, Told::default(), AtomicBool::new(false));
    let document = DocumentId::from_bytes([1; 16]);
    let mut both = ["alice", "bob"].map(|name| Peer::new(name, document));
    let relay = std::thread::scope(|scope| {
        let _stops = RaiseOnDrop(&stop);
        for peer in &mut both {
            scope.spawn(|| type_and_sync(peer, port, &told, &stop));
        }
        kill(relay, folder.path(), &mut rng, &told)
    });
    let mut all: BTreeSet<ChangeHash> = both.iter().flat_map(|peer| hashes(&peer.doc)).collect();
    assert!(told.lock().unwrap().is_subset(&all), "the relay reported heads that no peer has");
    let [alice, bob] = &mut both;
    let count = all.len();
    std::thread::scope(|scope| {
        let told = &told;
        let has_all = move |doc: &Automerge| {
            let told = told.lock().unwrap();
            let is_told = doc.get_heads().iter().all(|head| told.contains(head));
            is_told && doc.get_changes_meta(&[]).len() == count
        };
        for peer in [&mut *alice, &mut *bob] {
            scope.spawn(move || settle(peer, port, told, has_all));
        }
    });
    let mut late = Peer::new("late", document);
    settle(&mut late, port, &told, |doc| doc.get_heads() == alice.doc.get_heads());
    assert_eq!(hashes(&late.doc), all);
    relay.kill();
    let kept = log::hashes(&log::read(folder.path(), SPACE));
    all.retain(|hash| !kept.contains(hash));
    assert!(all.is_empty(), "not in the log: {all:?}");
    println!("{KILLS} kills, {count} changes, {} heads reported", told.lock().unwrap().len());
}

fn type_until(document: &Document, stop: &AtomicBool) {
    for number in 0_i64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let typed = document.change(|tx| Ok(tx.put(ROOT, format!("{}", number % 7), number)?));
        typed.unwrap();
        // sleep: an engine types thousands a second, and the peer must keep up
        std::thread::sleep(Duration::from_millis(3));
    }
}

#[test]
fn an_engine_and_a_repo_client_converge_over_a_killed_relay() {
    let mut rng = Rng::from_environment();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = Relay::start_with(&data, 0, COMPACTIONS);
    let (port, told, stop) = (relay.port, Told::default(), AtomicBool::new(false));
    let store = Store::open(folder.path().join("engine"), compactions()).unwrap();
    let space = store.space(SPACE).unwrap();
    let document = space.create(|tx| Ok(tx.put(ROOT, "root", true)?)).unwrap().0;
    store.connect(link(&relay.url)).unwrap();
    let mut peer = Peer::new("peer", document.id());
    // A peer that types into an empty document starts a history of its own, and an engine does not
    // merge unrelated histories.
    wait_synced(&store);
    settle(&mut peer, port, &told, |doc| !doc.get_heads().is_empty());
    let _relay = std::thread::scope(|scope| {
        let _stops = RaiseOnDrop(&stop);
        scope.spawn(|| type_until(&document, &stop));
        scope.spawn(|| type_and_sync(&mut peer, port, &told, &stop));
        kill(relay, &data, &mut rng, &told)
    });
    let heads = || document.read(Automerge::get_heads).unwrap();
    settle(&mut peer, port, &told, |doc| doc.get_heads() == heads());
    wait_synced(&store);
    let same = |doc: &Automerge| hashes(doc) == hashes(&peer.doc);
    assert!(document.read(same).unwrap(), "equal heads, but different changes");
    println!("{KILLS} kills, {} changes", hashes(&peer.doc).len());
}
