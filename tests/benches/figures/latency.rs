//! The cost of one edit: alone, with a typing peer, and until a peer receives it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall::automerge::transaction::Transactable;
use landfall::{Durability, EventKind, Origin, Store};

use super::measure::Samples;
use super::setup::{Relay, options, typed, wait};

const LONG: usize = 20_000;
const READ: usize = 18_000;

pub fn change_when_idle() {
    for (name, durability, count) in
        [("NORMAL", Durability::Normal, 2_000), ("FULL", Durability::Full, 500)]
    {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("s"), options(durability)).unwrap();
        let space = store.space("default").unwrap();
        let (document, text) = typed(&store, &space, LONG);
        let mut samples = Samples::new(format!("change() of 1 character, 20,000 changes, {name}"));
        for n in 0..count {
            samples.time(|| {
                document.change(|tx| Ok(tx.splice_text(&text, n * 7 % LONG, 0, "y")?)).unwrap();
            });
        }
        samples.print();
    }
}

/// A reader keeps the state that it reads, so the next change copies that state first.
pub fn change_beside_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("s"), options(Durability::Normal)).unwrap();
    let space = store.space("default").unwrap();
    let (document, text) = typed(&store, &space, READ);
    let mut alone = Samples::new("change() of 1 character, 18,000 changes, NORMAL");
    let mut beside = Samples::new("the same while another thread reads continuously");
    let stop = AtomicBool::new(false);
    let change = |samples: &mut Samples| {
        for n in 0..500 {
            samples.time(|| {
                document.change(|tx| Ok(tx.splice_text(&text, n * 7 % READ, 0, "y")?)).unwrap();
            });
        }
    };
    change(&mut alone);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // sleep: a closure that reads slowly
                document.read(|_| std::thread::sleep(Duration::from_millis(1))).unwrap();
            }
        });
        change(&mut beside);
        stop.store(true, Ordering::Relaxed);
    });
    alone.print();
    beside.print();
}

pub fn change_while_a_peer_types() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"));
    let stores = ["a", "b"].map(|name| {
        let store = Store::open(folder.path().join(name), options(Durability::Normal)).unwrap();
        store.connect(relay.url.as_str()).unwrap();
        store
    });
    let spaces = stores.each_ref().map(|store| store.space("default").unwrap());
    let (document, text) = typed(&stores[0], &spaces[0], LONG);
    stores[0].flush_blocking(Duration::from_secs(300)).unwrap();
    wait(&stores[1], |status| status.spaces["default"].changes >= LONG as u64 + 2);
    let peer = spaces[1].open(document.id()).unwrap();
    peer.heads().unwrap();
    let mut apply = Samples::new("one apply to it (automerge, without other load)");
    for _ in 0..100 {
        let (mut fork, mut other) = document.read(|doc| (doc.clone(), doc.fork())).unwrap();
        let mut tx = other.transaction();
        tx.splice_text(&text, 5, 0, "z").unwrap();
        tx.commit();
        let change = other.get_last_local_change().unwrap();
        apply.time(|| fork.apply_changes([change]).unwrap());
    }
    apply.print();
    let stop = AtomicBool::new(false);
    let mut samples = Samples::new("the same, NORMAL, while a peer types 10 changes/s");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                peer.change(|tx| Ok(tx.splice_text(&text, 3, 0, "p")?)).unwrap();
                // sleep: the peer types at a fixed rate
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        for n in 0..1_000 {
            samples.time(|| {
                document.change(|tx| Ok(tx.splice_text(&text, n, 0, "y")?)).unwrap();
            });
            // sleep: we type at a fixed rate
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    samples.print();
}

pub fn edit_to_event() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"));
    let stores = ["a", "b"].map(|name| {
        let store = Store::open(folder.path().join(name), options(Durability::Full)).unwrap();
        store.connect(relay.url.as_str()).unwrap();
        store
    });
    let spaces = stores.each_ref().map(|store| store.space("default").unwrap());
    let (document, text) = typed(&stores[0], &spaces[0], 10);
    wait(&stores[1], |status| status.spaces["default"].changes >= 12);
    let peer = spaces[1].open(document.id()).unwrap();
    peer.heads().unwrap();
    let mut events = stores[1].events();
    let mut whole = Samples::new("edit → event at the other replica, both FULL");
    let mut own = Samples::new("  of which change() itself (one fsync)");
    for n in 0..300 {
        let started = Instant::now();
        document.change(|tx| Ok(tx.splice_text(&text, n, 0, "y")?)).unwrap();
        own.add(started.elapsed());
        loop {
            let event = events.next_blocking().unwrap().unwrap();
            if matches!(event.kind, EventKind::Changed { origin: Origin::Remote, .. }) {
                break;
            }
        }
        whole.add(started.elapsed());
    }
    whole.print();
    own.print();
}
