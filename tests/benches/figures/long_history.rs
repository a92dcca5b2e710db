//! 200,000 changes in 100 documents and 20,000 in one: the relay's memory while it takes and compacts
//! them, the size of both stores on disk after that, and the relay's memory at rest.

use std::path::Path;
use std::time::{Duration, Instant};

use landfall::{Durability, Options, Store, admin};

use super::long_setup::{
    COMPACTIONS, Children, CompactingRelay, SPACE, Typist, admin, flush, folder_bytes, memory_mib,
    type_alone, type_together,
};

const DOCUMENTS: usize = 100;
const EACH: usize = 2_000;
const LONG: usize = 20_000;

pub fn history() {
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (folder.path().join("relay"), folder.path().join("store"));
    let relay = CompactingRelay::start(&data, 0, &COMPACTIONS);
    // The engine compacts only on request, so both stores start from single changes.
    let options = Options::default().durability(Durability::Normal).compaction(false);
    let store = Store::open(&path, options).unwrap();
    let space = store.space(SPACE).unwrap();
    store.connect(relay.url.as_str()).unwrap();
    let mut typists: Vec<Typist> =
        (0..DOCUMENTS as u64).map(|seed| Typist::new(&space, seed)).collect();
    ingest(&relay, &store, &mut typists);
    typists.push(Typist::new(&space, 4_711));
    type_alone(&store, &mut typists[DOCUMENTS], LONG);
    flush(&store);
    relay.settled_compactions();
    let all = store.status().spaces[SPACE].changes;
    let saved: usize =
        typists.iter().map(|typist| typist.document.read(|doc| doc.save().len()).unwrap()).sum();
    drop(relay);
    println!("{} documents, {all} changes, Σ save() {saved} bytes", typists.len());
    relay_store(&data, typists.len(), all, saved);
    at_rest(folder.path(), &data);
    drop(typists);
    store.close().unwrap();
    engine_store(&path, DOCUMENTS + 1, saved);
}

fn ingest(relay: &CompactingRelay, store: &Store, typists: &mut [Typist]) {
    let process = relay.pid().to_string();
    let before = memory_mib(&process, "VmRSS").unwrap();
    let children = Children::watch(relay.pid());
    let began = Instant::now();
    // Some changes of each document in turn, as if many people wrote at once.
    for _ in 0..EACH / 20 {
        for some in typists.chunks_mut(DOCUMENTS / 2) {
            type_together(store, some, 20);
        }
    }
    flush(store);
    let took = began.elapsed().as_secs_f64();
    let compactions = relay.settled_compactions();
    let peak = memory_mib(&process, "VmHWM").unwrap();
    println!(
        "relay while it takes 200,000 changes into 100 documents ({took:.1} s) and compacts \
         ({compactions} compactions): at most {peak:.1} MiB resident ({before:.1} before; target 150), \
         a child at most {:.1} MiB (limit 1024)",
        children.peak_mib()
    );
}

fn relay_store(data: &Path, documents: usize, changes: u64, saved: usize) {
    let before = folder_bytes(data);
    let began = Instant::now();
    admin("compact", data, &["--all"]);
    let (took, after) = (began.elapsed().as_secs_f64(), folder_bytes(data));
    let target = saved as f64 * 1.5 + 40.0 * changes as f64 + 512.0 * documents as f64;
    let over = (after as f64 - 1.5 * saved as f64 - 512.0 * documents as f64) / changes as f64;
    println!(
        "relay store after `compact --all` ({took:.1} s): {after} bytes ({before} before), target \
         {target:.0}: {:.2} of it; {over:.1} bytes a compacted change (target 40)",
        after as f64 / target
    );
}

fn engine_store(path: &Path, documents: usize, saved: usize) {
    let began = Instant::now();
    let compacted = admin::compact(path, true).unwrap();
    let took = began.elapsed().as_secs_f64();
    let target = saved as f64 * 1.5 + 512.0 * documents as f64;
    println!(
        "engine store after `admin::compact(all)` ({took:.1} s, {} documents compacted): {} bytes \
         ({} before), target {target:.0}: {:.2} of it; {:.0} bytes a document beyond Σ save()",
        compacted.documents,
        compacted.bytes_after,
        compacted.bytes_before,
        compacted.bytes_after as f64 / target,
        (compacted.bytes_after as f64 - saved as f64) / documents as f64,
    );
}

fn at_rest(folder: &Path, data: &Path) {
    for (name, data) in [("nothing", folder.join("empty")), ("all that", data.to_owned())] {
        let relay = CompactingRelay::start(&data, 0, &COMPACTIONS);
        // sleep: the work that it does after a start is part of its rest
        std::thread::sleep(Duration::from_secs(2));
        let mib = memory_mib(&relay.pid().to_string(), "VmRSS").unwrap();
        println!("relay at rest with {name} stored: {mib:.1} MiB resident (target 25, ± 2)");
    }
}
