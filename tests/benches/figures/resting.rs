//! The cost of 10,000 idle documents.

use std::path::Path;
use std::time::{Duration, Instant};

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{Durability, Store, SyncStatus};
use landfall_tests::network::Proxy;

use super::measure::Samples;
use super::setup::{Relay, options, wait};

fn filled(path: &Path, documents: usize) -> Store {
    let store = Store::open(path, options(Durability::Normal)).unwrap();
    let space = store.space("default").unwrap();
    for n in 0..documents {
        space.create(|tx| Ok(tx.put(ROOT, "n", n as i64)?)).unwrap();
    }
    store
}

fn is_live(status: &landfall::Status) -> bool {
    status.spaces["default"].sync == SyncStatus::Live
}

pub fn reconnect() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"));
    let proxy = Proxy::start(relay.port);
    let store = filled(&folder.path().join("s"), 10_000);
    store.connect(proxy.url.as_str()).unwrap();
    store.flush_blocking(Duration::from_secs(300)).unwrap();
    // The echoes of the pushed changes move the cursor; only after that is the replica up to date.
    wait(&store, is_live);
    let mut samples = Samples::new("reconnect, 10,000 documents, nothing changed");
    let mut bytes = Vec::new();
    for _ in 0..20 {
        store.go_offline();
        wait(&store, |status| !is_live(status));
        let before = proxy.forwarded();
        let started = Instant::now();
        store.go_online();
        wait(&store, is_live);
        samples.add(started.elapsed());
        bytes.push(proxy.forwarded() - before);
    }
    samples.print();
    bytes.sort_unstable();
    println!("  bytes on the wire, both ways, with the HTTP upgrade: median {}", bytes[10]);
}

pub fn resident() {
    for documents in [0, 10_000, 100_000] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("relay");
        if documents > 0 {
            let relay = Relay::start(&data);
            let store = filled(&folder.path().join("s"), documents);
            store.connect(relay.url.as_str()).unwrap();
            store.flush_blocking(Duration::from_secs(600)).unwrap();
        }
        let relay = Relay::start(&data);
        let mib = relay.resident_kib() as f64 / 1024.0;
        println!("relay resident after start, {documents} documents stored: {mib:.1} MiB");
    }
}

pub fn open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    filled(&path, 10_000).close().unwrap();
    let mut samples = Samples::new("opening an engine store with 10,000 documents");
    for _ in 0..20 {
        let store = samples.time(|| Store::open(&path, options(Durability::Full)).unwrap());
        store.close().unwrap();
    }
    samples.print();
}
