//! Helpers for long histories: a relay that compacts, its operator's commands, process figures of the
//! system, and realistic typing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use landfall::automerge::transaction::{Transactable, Transaction};
use landfall::automerge::{ObjId, ObjType, ROOT};
use landfall::{BoxError, Document, Space, Status, Store, SyncStatus};
use landfall_relay::cli::{COMPACT_WORKER, OperatorCommand};
use landfall_test_rng::Rng;
use landfall_tests::http::metric;

use super::setup::{RELAY, wait};

/// The space of every figure.
pub const SPACE: &str = "default";

/// Arguments of a relay without a recent window.
pub const COMPACTIONS: [&str; 4] = ["--keep-recent", "0", "--keep-recent-age", "0"];

const OPERATOR: &str = "operator-for-figures";
const COMPACTED: &str = "landfall_relay_compactions_total{outcome=\"compacted\"}";
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs this binary as a child of itself if the first argument is such a word: the compaction worker,
/// an operator's command, or the process that loads a document.
pub fn child(word: &str, arguments: Vec<String>) -> Option<ExitCode> {
    match word {
        COMPACT_WORKER => Some(landfall_relay::cli::compact_worker()),
        OPERATOR => {
            let arguments = std::iter::once(OPERATOR.to_owned()).chain(arguments);
            let parsed = <Operator as clap::Parser>::parse_from(arguments);
            Some(landfall_relay::cli::admin(parsed.command))
        }
        super::long_one_shot::LOADER => Some(super::long_one_shot::load(&arguments)),
        _ => None,
    }
}

#[derive(clap::Parser)]
struct Operator {
    #[command(subcommand)]
    command: OperatorCommand,
}

/// Runs an operator's command on a data folder in a separate process.
pub fn admin(command: &str, data: &Path, more: &[&str]) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([OPERATOR, command, "--data"])
        .arg(data)
        .args(more)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// A relay of the same build, killed when dropped.
pub struct CompactingRelay {
    child: Child,
    pub url: String,
    pub port: u16,
}

impl CompactingRelay {
    /// Port 0 selects a free one.
    pub fn start(data: &Path, port: u16, more: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([RELAY, "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap().to_owned();
        let port = url.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, url, port }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The number of compactions since the start, once it has not grown for some seconds.
    pub fn settled_compactions(&self) -> f64 {
        let began = Instant::now();
        let (mut last, mut since) = (metric(self.port, COMPACTED), Instant::now());
        while since.elapsed() < Duration::from_secs(3) && began.elapsed() < PATIENCE {
            // sleep: a relay does not report when it has nothing left to compact
            std::thread::sleep(Duration::from_millis(100));
            let now = metric(self.port, COMPACTED);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }
}

impl Drop for CompactingRelay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of `/proc/PID/status` in MiB; `None` if the process is gone.
pub fn memory_mib(process: &str, line: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))?;
    Some(found.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

/// Processor time of a process so far, without its children. The kernel counts it in ticks of 10 ms.
pub fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The preceding field, the name, is in parentheses and may contain any character.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Observes the children of a process while it lives.
pub struct Children {
    stop: Arc<AtomicBool>,
    peak_kib: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Children {
    pub fn watch(pid: u32) -> Self {
        let (stop, peak_kib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, peak) = (Arc::clone(&stop), Arc::clone(&peak_kib));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for child in children_of(pid) {
                    let kib = memory_mib(&child, "VmHWM").unwrap_or_default() * 1024.0;
                    peak.fetch_max(kib as u64, Ordering::Relaxed);
                }
                // sleep: no event shows that a child of another process started or grew
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, peak_kib, thread: Some(thread) }
    }

    /// The largest observed resident memory of one child.
    pub fn peak_mib(mut self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.peak_kib.load(Ordering::Relaxed) as f64 / 1024.0
    }
}

fn children_of(pid: u32) -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children")));
    lists.flatten().flat_map(|list| words(&list)).filter(|child| is_worker(child)).collect()
}

/// Between its fork and its exec, a child has its parent's command line and memory.
fn is_worker(pid: &str) -> bool {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split('\0').nth(1) == Some(COMPACT_WORKER)
}

fn words(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

/// A text typed as people type: letter by letter, with occasional deletions and jumps.
pub struct Typist {
    pub document: Document,
    text: ObjId,
    rng: Rng,
    at: usize,
    length: usize,
}

impl Typist {
    pub fn new(space: &Space, seed: u64) -> Self {
        let document = space.create(|_| Ok(())).unwrap().0;
        let text = document.change(|tx| Ok(tx.put_object(ROOT, "text", ObjType::Text)?)).unwrap();
        Self { document, text, rng: Rng::new(seed), at: 0, length: 0 }
    }

    fn step(&mut self, tx: &mut Transaction<'_>) -> Result<(), BoxError> {
        const LETTERS: &[u8] = b"etaoin shrdlu etaoin cmfwyp vbgk etaoin\n";
        let dice = self.rng.below(100);
        if dice == 0 {
            self.at = self.rng.below(self.length as u64 + 1) as usize;
        }
        if dice > 94 && self.at > 0 {
            self.at -= 1;
            self.length -= 1;
            return Ok(tx.splice_text(&self.text, self.at, 1, "")?);
        }
        let letter = LETTERS[self.rng.below(LETTERS.len() as u64) as usize];
        tx.splice_text(&self.text, self.at, 0, std::str::from_utf8(&[letter])?)?;
        self.at += 1;
        self.length += 1;
        Ok(())
    }
}

/// Makes `changes` changes of each of the typists. One commit contains all of them, so that the
/// preparation is quick; each is still a separate change.
pub fn type_together(store: &Store, typists: &mut [Typist], changes: usize) {
    store
        .group(|group| {
            for typist in typists {
                let document = typist.document.clone();
                for _ in 0..changes {
                    group.change(&document, |tx| typist.step(tx))?;
                }
            }
            Ok::<_, landfall::ChangeError>(())
        })
        .unwrap();
}

/// Types a whole document.
pub fn type_alone(store: &Store, typist: &mut Typist, changes: usize) {
    for at in (0..changes).step_by(1_000) {
        type_together(store, std::slice::from_mut(typist), (changes - at).min(1_000));
    }
}

pub fn flush(store: &Store) {
    store.flush_blocking(PATIENCE).unwrap();
}

/// Whether all spaces are live and nothing is pending.
pub fn is_live(status: &Status) -> bool {
    let live = |space: &landfall::SpaceStatus| space.sync == SyncStatus::Live;
    status.spaces.values().all(live) && status.pending().changes == 0
}

pub fn go_offline(store: &Store) {
    store.go_offline();
    wait(store, |status| !is_live(status));
}

/// Bytes of all files in a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    files.map(|file| file.metadata().map_or(0, |found| found.len())).sum()
}

/// A percentile of the samples.
pub fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
