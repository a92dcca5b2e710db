//! A document edited by 5,000 commands, each of which opened the store, made one change and closed it.
//! The commands run in this process, one after the other, through the engine's API; a new process loads
//! the document. Every [`STAYS_EVERY`] commands one stays open for a moment, like a command that waits
//! for its relay: only then is there time to compact what the others left.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{DocumentId, Durability, Options, Store};

use super::long_setup::{SPACE, memory_mib, ms, percentile};
use super::setup::options;

/// The argument that makes this binary load a document, so that loading is measured in a new process.
pub const LOADER: &str = "loader-for-figures";

const COMMANDS: usize = 5_000;
/// Time limit: on a slow machine fewer commands run, and the output states how many.
const MOST: Duration = Duration::from_secs(50);
/// One of so many commands stays open...
const STAYS_EVERY: usize = 250;
/// ...for this long.
const STAYS: Duration = Duration::from_millis(200);

pub fn one_shot() {
    let clean = "clean closes";
    let torn = "unclean closes, so a new actor each";
    for (name, trusted) in [(clean, true), (torn, false)] {
        let folder = folder();
        let path = folder.path().join("store");
        let store = Store::open(&path, options(Durability::Normal)).unwrap();
        let document = store.space(SPACE).unwrap().create(|_| Ok(())).unwrap().0.id();
        store.close().unwrap();
        let times = commands(&path, document, trusted);
        println!(
            "{} one-shot commands, {name}: median {:.2} ms each, {:.2} ms of the last 500",
            times.len(),
            ms(percentile(&times, 50)),
            ms(percentile(&times[times.len().saturating_sub(500)..], 50)),
        );
        load_in_a_fresh_process(&path, document, "as they left it");
        let compacted = landfall::admin::compact(&path, true).unwrap();
        let what = format!("compacted ({} bytes of store)", compacted.bytes_after);
        load_in_a_fresh_process(&path, document, &what);
    }
}

/// A folder in memory, if the system has such a file system: each command waits for the disk several
/// times, which is not measured here.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Compacts without a recent window.
fn compaction() -> Options {
    options(Durability::Normal).keep_recent(0).keep_recent_age(Duration::ZERO)
}

fn commands(path: &Path, document: DocumentId, trusted: bool) -> Vec<Duration> {
    let began = Instant::now();
    let mut times = Vec::with_capacity(COMMANDS);
    while times.len() < COMMANDS && began.elapsed() < MOST {
        if !trusted {
            // The file's change time is not the one that the close recorded, as after a copy.
            let permissions = std::fs::metadata(path).unwrap().permissions();
            std::fs::set_permissions(path, permissions).unwrap();
        }
        let started = Instant::now();
        let store = Store::open(path, compaction()).unwrap();
        let opened = store.space(SPACE).unwrap().open(document).unwrap();
        let key = format!("k{}", times.len() % 50);
        opened.change(|tx| Ok(tx.put(ROOT, key, times.len() as i64)?)).unwrap();
        let took = started.elapsed();
        if times.len() % STAYS_EVERY == STAYS_EVERY - 1 {
            // sleep: compaction runs in the background, and a store sends no event for it
            std::thread::sleep(STAYS);
        }
        let started = Instant::now();
        store.close().unwrap();
        times.push(took + started.elapsed());
    }
    times
}

fn load_in_a_fresh_process(path: &Path, document: DocumentId, what: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .arg(LOADER)
        .arg(path)
        .args([&document.to_string(), what])
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Loads a document, and prints the time and memory that it took.
pub fn load(arguments: &[String]) -> ExitCode {
    let [path, document, what] = arguments else { return ExitCode::FAILURE };
    let spaces = landfall::admin::inspect(path).unwrap().spaces;
    let compacted: u64 = spaces[0].documents.iter().map(|found| found.compacted_changes).sum();
    let store = Store::open(path, options(Durability::Normal)).unwrap();
    let space = store.space(SPACE).unwrap();
    let before = memory_mib("self", "VmRSS").unwrap();
    let began = Instant::now();
    let document = space.open(document.parse().unwrap()).unwrap();
    document.heads().unwrap();
    let took = began.elapsed();
    let more = memory_mib("self", "VmRSS").unwrap() - before;
    let status = document.status().unwrap();
    println!(
        "  {what}: {} changes ({compacted} compacted), {} actors; loaded in {:.1} ms, {more:.1} MiB more resident, {:.1} \
         MiB by the cache's own estimate",
        status.changes,
        status.actors,
        ms(took),
        store.status().loaded.bytes as f64 / f64::from(1 << 20),
    );
    ExitCode::SUCCESS
}
