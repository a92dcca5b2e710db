//! A replica of 10,000 documents connects to a log with an epoch that it does not know, because an
//! older copy of the relay's data was restored: the cost of the check if all is equal, and if some
//! differs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{Document, Durability, Store};
use landfall_tests::http::metric;
use landfall_tests::log::copy_folder;
use landfall_tests::network::Proxy;

use super::long_setup::{CompactingRelay, SPACE, flush, go_offline, is_live, ms};
use super::setup::{options, wait};

const DOCUMENTS: usize = 10_000;

struct Place {
    folder: tempfile::TempDir,
    relay: Option<CompactingRelay>,
    port: u16,
    proxy: Proxy,
}

impl Place {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let relay = CompactingRelay::start(&folder.path().join("relay"), 0, &[]);
        let port = relay.port;
        Self { folder, relay: Some(relay), port, proxy: Proxy::start(port) }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("relay")
    }

    /// Restarts the relay and calls `between` while it is stopped.
    fn restart(&mut self, between: impl FnOnce(&Self)) {
        self.relay = None;
        between(self);
        self.relay = Some(CompactingRelay::start(&self.data(), self.port, &[]));
    }

    /// Copies the relay's folder.
    fn keep(&mut self) {
        self.restart(|place| {
            let copy = place.folder.path().join("copy");
            let _ = std::fs::remove_dir_all(&copy);
            copy_folder(&place.data(), &copy);
        });
    }

    /// Restores that copy.
    fn put_back(&mut self) {
        self.restart(|place| {
            std::fs::remove_dir_all(place.data()).unwrap();
            copy_folder(&place.folder.path().join("copy"), &place.data());
        });
    }

    /// The number of entries that the relay took since its start.
    fn taken(&self) -> u64 {
        metric(self.port, "landfall_relay_entries_in_total") as u64
    }

    /// Returns the bytes and the time until a returning replica and the relay are in sync. `missing` is
    /// the number of entries that the relay must take from it.
    fn reconcile(&self, store: &Store, missing: u64) -> (u64, Duration) {
        let before = self.proxy.forwarded();
        let (began, taken) = (Instant::now(), self.taken());
        store.go_online();
        wait(store, is_live);
        while self.taken() < taken + missing {
            // sleep: HTTP cannot signal a change
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = began.elapsed();
        // sleep: earlier messages may still be on their way through the proxy
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(self.taken(), taken + missing, "only what is missing is sent");
        (self.proxy.forwarded() - before, took)
    }
}

pub fn unknown_epoch() {
    let mut place = Place::start();
    let open = |name| {
        let store = Store::open(place.folder.path().join(name), options(Durability::Normal));
        let store = store.unwrap();
        let space = store.space(SPACE).unwrap();
        (store, space)
    };
    let ((one, space), (other, _)) = (open("one"), open("other"));
    let documents: Vec<Document> = (0..DOCUMENTS)
        .map(|n| space.create(|tx| Ok(tx.put(ROOT, "n", n as i64)?)).unwrap().0)
        .collect();
    one.connect(place.proxy.url.as_str()).unwrap();
    flush(&one);
    other.connect(format!("ws://127.0.0.1:{}", place.port).as_str()).unwrap();
    let changes = one.status().spaces[SPACE].changes;
    wait(&other, |status| is_live(status) && status.spaces[SPACE].changes == changes);
    wait(&one, is_live);
    let equal: Vec<_> = (0..5).map(|n| equal(&mut place, &one, &other, &documents[n])).collect();
    let (least, took) = median(equal);
    println!(
        "unknown epoch, 10,000 equal documents: {least} bytes both ways, with the HTTP upgrade \
         (target 4096), {:.1} ms (target 1000)",
        ms(took)
    );
    for differing in [1, 10, 100] {
        let rounds = (0..3).map(|_| differs(&mut place, &one, &documents[..differing]));
        let (bytes, took) = median(rounds.collect());
        println!(
            "the same, {differing} documents with a change that the relay lost: {bytes} bytes \
             ({} for each beyond the equal case's), {:.1} ms",
            bytes.saturating_sub(least) / differing as u64,
            ms(took)
        );
    }
}

/// The copy lacks a change, and gets it from another replica, in a new epoch.
fn equal(place: &mut Place, one: &Store, other: &Store, document: &Document) -> (u64, Duration) {
    go_offline(one);
    go_offline(other);
    place.keep();
    for store in [one, other] {
        store.go_online();
        wait(store, is_live);
    }
    change(document);
    flush(one);
    let changes = one.status().spaces[SPACE].changes;
    wait(other, |status| is_live(status) && status.spaces[SPACE].changes == changes);
    wait(one, is_live);
    go_offline(one);
    go_offline(other);
    place.put_back();
    other.go_online();
    wait(other, is_live);
    while place.taken() < 1 {
        // sleep: HTTP cannot signal a change
        std::thread::sleep(Duration::from_millis(5));
    }
    place.reconcile(one, 0)
}

/// The copy lacks the changes made since.
fn differs(place: &mut Place, one: &Store, documents: &[Document]) -> (u64, Duration) {
    go_offline(one);
    place.keep();
    one.go_online();
    wait(one, is_live);
    documents.iter().for_each(change);
    flush(one);
    wait(one, is_live);
    go_offline(one);
    place.put_back();
    place.reconcile(one, documents.len() as u64)
}

fn change(document: &Document) {
    document.change(|tx| Ok(tx.put(ROOT, "more", next_value())?)).unwrap();
}

/// Returns another value each time.
fn next_value() -> i64 {
    use std::sync::atomic::{AtomicI64, Ordering};
    static NEXT: AtomicI64 = AtomicI64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn median(mut rounds: Vec<(u64, Duration)>) -> (u64, Duration) {
    rounds.sort_unstable();
    let bytes = rounds[rounds.len() / 2].0;
    let times: Vec<Duration> = rounds.iter().map(|round| round.1).collect();
    (bytes, super::long_setup::percentile(&times, 50))
}
