//! A new replica fetches a document of 20,000 changes in a snapshot: bytes on the wire, the relay's
//! processor time, and the time to open the document there.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall::automerge::Automerge;
use landfall::{Durability, Options, Store};
use landfall_tests::network::Proxy;

use super::long_setup::{
    COMPACTIONS, CompactingRelay, SPACE, Typist, admin, flush, is_live, memory_mib, ms, percentile,
    processor_time, type_alone,
};
use super::setup::{options, wait};

const LONG: usize = 20_000;
const TAIL: usize = 100;
const REPLICAS: u32 = 50;
const OPENINGS: usize = 25;

pub fn fresh() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = CompactingRelay::start(&data, 0, &COMPACTIONS);
    let port = relay.port;
    let writer = options(Durability::Normal).compaction(false);
    let store = Store::open(folder.path().join("writer"), writer).unwrap();
    let space = store.space(SPACE).unwrap();
    store.connect(relay.url.as_str()).unwrap();
    let mut typist = Typist::new(&space, 1);
    type_alone(&store, &mut typist, LONG);
    flush(&store);
    store.go_offline();
    drop(relay);
    admin("compact", &data, &["--all"]);
    let relay = CompactingRelay::start(&data, port, &COMPACTIONS);
    let saved = typist.document.read(Automerge::save).unwrap();
    replicas(&relay, &store, saved.len(), 0);
    opening(&folder.path().join("replica"), &relay, &saved);
    store.go_online();
    wait(&store, is_live);
    type_alone(&store, &mut typist, TAIL);
    flush(&store);
    let heads = Automerge::load(&saved).unwrap().get_heads();
    let changes = typist.document.read(|doc| doc.get_changes(&heads)).unwrap();
    let tail = changes.iter().map(|change| change.raw_bytes().len()).sum();
    replicas(&relay, &store, saved.len(), tail);
}

fn replicas(relay: &CompactingRelay, writer: &Store, saved: usize, tail: usize) {
    let proxy = Proxy::start(relay.port);
    let changes = writer.status().spaces[SPACE].changes;
    let (mut bytes, mut times) = (Vec::new(), Vec::new());
    let mut used = Duration::ZERO;
    for n in 0..=REPLICAS {
        if n == 1 {
            // The first run fills the caches.
            used = processor_time(relay.pid());
        }
        let (before, began) = (proxy.forwarded(), Instant::now());
        let store = Store::in_memory(Options::default()).unwrap();
        store.space(SPACE).unwrap();
        store.connect(proxy.url.as_str()).unwrap();
        wait(&store, |status| is_live(status) && status.spaces[SPACE].changes == changes);
        times.push(began.elapsed());
        store.close().unwrap();
        bytes.push(proxy.forwarded() - before);
    }
    let used = (processor_time(relay.pid()) - used) / REPLICAS;
    bytes.sort_unstable();
    let (bytes, whole) = (bytes[bytes.len() / 2], saved + tail);
    println!(
        "fresh replica of {changes} changes, save() {saved} + tail {tail} bytes: {bytes} bytes on \
         the wire, both ways, with the HTTP upgrade: {:.3} of it (target 1.1), {:.1} ms",
        bytes as f64 / whole as f64,
        ms(percentile(&times, 50)),
    );
    println!(
        "  the relay's processor time for one: {:.2} ms (target 1; mean of {REPLICAS}), \
         {:.1} MiB resident after them",
        ms(used),
        memory_mib(&relay.pid().to_string(), "VmRSS").unwrap(),
    );
}

fn opening(path: &Path, relay: &CompactingRelay, saved: &[u8]) {
    let store = Store::open(path, Options::default()).unwrap();
    let space = store.space(SPACE).unwrap();
    store.connect(relay.url.as_str()).unwrap();
    wait(&store, |status| is_live(status) && status.spaces[SPACE].changes > LONG as u64);
    let id = space.documents().unwrap()[0];
    drop(space);
    store.close().unwrap();
    let (mut loads, mut opens) = (Vec::new(), Vec::new());
    for _ in 0..OPENINGS {
        let began = Instant::now();
        let loaded = black_box(Automerge::load(saved).unwrap());
        loads.push(began.elapsed());
        drop(loaded);
        let store = Store::open(path, Options::default()).unwrap();
        let space = store.space(SPACE).unwrap();
        let began = Instant::now();
        let document = space.open(id).unwrap();
        black_box(document.heads().unwrap());
        opens.push(began.elapsed());
        store.close().unwrap();
    }
    let (load, open) = (percentile(&loads, 50), percentile(&opens, 50));
    println!(
        "opening it at that replica: median {:.2} ms, automerge's own load() {:.2} ms: {:.2} × \
         (target 1.2; n {OPENINGS})",
        ms(open),
        ms(load),
        open.as_secs_f64() / load.as_secs_f64()
    );
}
