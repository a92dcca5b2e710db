//! Copies a store of 500 MB while a writer commits at a steady rate.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use landfall::automerge::{ROOT, ScalarValue, transaction::Transactable};
use landfall::{Document, Durability, Options, Store, admin};
use landfall_test_rng::Rng;

use super::long_setup::{CompactingRelay, admin, flush, folder_bytes, ms, percentile};
use super::setup::options;

const VALUES: usize = 170;
const VALUE_BYTES: usize = 3 << 20;
const BACKUPS: usize = 3;
const BASELINE: Duration = Duration::from_millis(1_500);
/// Time between two commits of the writer.
const PACE: Duration = Duration::from_millis(3);

pub fn backup() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("relay");
    let relay = CompactingRelay::start(&data, 0, &[]);
    let path = folder.path().join("large");
    let durability = Durability::Full;
    let large = Options::default().document_cache_bytes(0).durability(Durability::Normal);
    fill(&Store::open(&path, large).unwrap(), &relay.url);
    let target = folder.path().join("backup");
    let small = Store::open(folder.path().join("small"), options(durability)).unwrap();
    let document = small.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    small.connect(relay.url.as_str()).unwrap();
    let mut n = 0;
    beside(
        &format!("relay, {} MB; change() to ack, both FULL", folder_bytes(&data) / 1_000_000),
        || {
            change(&document, &mut n);
            flush(&small);
        },
        || {
            admin("backup", &data, &[target.to_str().unwrap()]);
            std::fs::remove_file(&target).unwrap();
        },
    );
    small.close().unwrap();
    drop(relay);
    std::fs::remove_dir_all(&data).unwrap();
    engine(&path, &target);
}

fn engine(path: &Path, target: &Path) {
    let store = Store::open(path, options(Durability::Full)).unwrap();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let mut n = 0;
    let size = std::fs::metadata(path).unwrap().len() / 1_000_000;
    beside(
        &format!("engine, {size} MB; change() FULL"),
        || change(&document, &mut n),
        || {
            admin::backup(path, target).unwrap();
            std::fs::remove_file(target).unwrap();
        },
    );
}

/// Fills the store with incompressible values.
fn fill(store: &Store, url: &str) {
    let space = store.space("large").unwrap();
    let mut rng = Rng::new(5);
    for _ in 0..VALUES {
        let noise: Vec<u8> =
            (0..VALUE_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        space.create(|tx| Ok(tx.put(ROOT, "noise", ScalarValue::Bytes(noise))?)).unwrap();
    }
    store.connect(url).unwrap();
    flush(store);
    store.close().unwrap();
}

fn change(document: &Document, n: &mut i64) {
    *n += 1;
    document.change(|tx| Ok(tx.put(ROOT, "n", *n)?)).unwrap();
}

/// Measures a writer alone and during a backup, in turn.
fn beside(what: &str, mut commit: impl FnMut(), backup: impl Fn() + Sync) {
    let (mut alone, mut during, mut took) = (Vec::new(), Vec::new(), Vec::new());
    let mut write = |samples: &mut Vec<Duration>| {
        let began = Instant::now();
        commit();
        samples.push(began.elapsed());
        // sleep: the writer writes at a fixed rate
        std::thread::sleep(PACE);
    };
    for _ in 0..BACKUPS {
        let began = Instant::now();
        while began.elapsed() < BASELINE {
            write(&mut alone);
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let began = Instant::now();
                backup();
                done.store(true, Ordering::Relaxed);
                took.push(began.elapsed());
            });
            while !done.load(Ordering::Relaxed) {
                write(&mut during);
            }
        });
        // sleep: the disk finishes the work of the copy, which must not count in the next baseline
        std::thread::sleep(Duration::from_millis(500));
    }
    let at = |samples: &[Duration], percent| ms(percentile(samples, percent));
    let (a50, a99) = (at(&alone, 50), at(&alone, 99));
    let (d50, d99) = (at(&during, 50), at(&during, 99));
    let mean = |samples: &[Duration]| ms(samples.iter().sum::<Duration>()) / samples.len() as f64;
    let (a, d) = (mean(&alone), mean(&during));
    println!(
        "online backup of the {what}: median {a50:.2} → {d50:.2} ms, {:.2} × (target below 2); \
         mean {a:.2} → {d:.2} ms, {:.2} ×; p99 {a99:.2} → {d99:.2} ms, {:.2} ×; n {} and {}; a backup takes {:.1} s",
        d50 / a50,
        d / a,
        d99 / a99,
        alone.len(),
        during.len(),
        percentile(&took, 50).as_secs_f64()
    );
}
