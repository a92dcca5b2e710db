//! A relay in a separate process, a client that pushes to it, commands that are killed, and the final content
//! of a store.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use landfall_protocol::admission::preflight;
use landfall_protocol::frame::{Frame, Hello};
use landfall_protocol::portable::Record;
use landfall_protocol::{DocumentId, ReplicaId, SpaceName};
use landfall_relay::store::Inspection;
use landfall_test_rng::Rng;

use crate::harness::{Author, Client, SPACE, get_of};

pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_landfall-relay");

/// The hashes of each document's changes, sorted, including duplicates.
pub(crate) type Held = BTreeMap<DocumentId, Vec<[u8; 32]>>;

/// The program without the machine's own settings.
pub(crate) fn command<A: AsRef<std::ffi::OsStr>>(data: &Path, args: &[A]) -> Command {
    of(Path::new(RELAY), data, args)
}

/// The same with a copy of the program.
pub(crate) fn of<A: AsRef<std::ffi::OsStr>>(program: &Path, data: &Path, args: &[A]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().args(args).arg("--data").arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The result of a command.
pub(crate) struct Done(Output);

impl Done {
    pub(crate) fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    /// Checks that it succeeded; returns its output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        let errors = String::from_utf8_lossy(&self.0.stderr);
        assert_eq!(self.0.status.code(), Some(0), "{}{errors}", self.out());
        self.out()
    }

    /// Checks that it succeeded; returns its JSON output.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Checks that it failed with this code and one line that contains all of `says`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, says: &[&str]) {
        let errors = String::from_utf8_lossy(&self.0.stderr).into_owned();
        let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(self.0.status.code(), Some(code), "{}{errors}", self.out());
        assert_eq!(lines.len(), 1, "{errors}");
        assert!(lines[0].matches("; ").count() >= 2, "what; why; hint: {errors}");
        for part in says {
            assert!(lines[0].contains(part), "`{part}` is missing: {errors}");
        }
    }
}

pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(data: &Path, args: &[A]) -> Done {
    Done(command(data, args).output().unwrap())
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A relay in a separate process, killed on drop.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Served {
    pub(crate) fn start(data: &Path, args: &[&str]) -> Self {
        Self::start_program(Path::new(RELAY), data, args)
    }

    /// With a copy of the program.
    pub(crate) fn start_program(program: &Path, data: &Path, args: &[&str]) -> Self {
        let all = [&["serve", "--listen", "127.0.0.1:0"], args].concat();
        Self::of(of(program, data, &all))
    }

    /// With a command that serves.
    pub(crate) fn of(mut command: Command) -> Self {
        // Its log is discarded: an unread pipe would fill.
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let begin = concat!("landfall-relay ", env!("CARGO_PKG_VERSION"), " listening on ws://");
        let address = line.trim_end().strip_prefix(begin);
        let address = address.unwrap_or_else(|| panic!("first line: {line:?}")).parse().unwrap();
        Self { child, address }
    }

    /// The value of one of its metrics.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_, text) = runtime.block_on(get_of(self.address, "/metrics"));
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Waits until one of its metrics has a wanted value.
    pub(crate) fn until_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        let began = Instant::now();
        while !wanted(self.metric(name)) {
            assert!(began.elapsed() < Duration::from_secs(60), "{name} is {}", self.metric(name));
            // sleep: another process's progress is waited for
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it cleanly.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes `documents` documents of `changes` changes each; returns the acknowledged ones.
pub(crate) fn fill(data: &Path, documents: u8, changes: usize) -> Held {
    let relay = Served::start(data, &["--no-compact"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let held = runtime.block_on(async {
        let mut client = welcomed(relay.address).await;
        let mut held = Held::new();
        for number in 1..=documents {
            let mut author = Author::new(number);
            let mut left = changes;
            while left > 0 {
                let count = left.min(200);
                left -= count;
                push(&mut client, &mut author, count, &mut held).await;
            }
        }
        held
    });
    relay.stop();
    sorted(held)
}

/// A client that is subscribed to the space, like an engine of the first release.
async fn welcomed(address: SocketAddr) -> Client {
    let mut client = Client::connect_to(address).await;
    let (replica, versions) = (ReplicaId::from_bytes([7; 16]), vec![1]);
    let (token, agent) = (None, "test".to_owned());
    client.send(&Frame::Hello(Hello { versions, replica, token, agent })).await;
    while !matches!(client.frame().await, Frame::Welcome(_)) {}
    client.subscribe(1, SPACE, None, None).await;
    client
}

/// Pushes a document that is long enough to be compacted.
pub(crate) fn push_long(address: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut client, mut held) = (welcomed(address).await, Held::new());
        let mut author = Author::new(1);
        for _ in 0..5 {
            push(&mut client, &mut author, 200, &mut held).await;
        }
    });
}

async fn push(client: &mut Client, author: &mut Author, count: usize, held: &mut Held) {
    let changes = author.changes(count);
    let push = client.push(author.document, &changes).await;
    assert_eq!(client.acked(push).await.count as usize, count);
    let hashes = changes.iter().map(|change| preflight(change).unwrap().hash.0);
    held.entry(author.document).or_default().extend(hashes);
}

fn sorted(mut held: Held) -> Held {
    held.values_mut().for_each(|hashes| hashes.sort_unstable());
    held
}

/// A client that pushes continuously.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<parking_lot::Mutex<Held>>,
    thread: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (until, held) = (Arc::clone(&stop), Arc::clone(&acked));
        let thread = std::thread::spawn(move || write_until(address, &until, &held));
        Self { stop, acked, thread }
    }

    /// The changes acknowledged so far.
    pub(crate) fn acked(&self) -> Held {
        sorted(self.acked.lock().clone())
    }

    /// Waits until `changes` changes are acknowledged.
    pub(crate) fn until(&self, changes: usize) {
        let began = Instant::now();
        while count(&self.acked()) < changes {
            assert!(began.elapsed() < Duration::from_secs(60), "the relay does not acknowledge");
            // sleep: another thread's progress is awaited
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn end(self) -> Held {
        self.stop.store(true, Ordering::Relaxed);
        let acked = Arc::clone(&self.acked);
        self.thread.join().unwrap();
        let held = acked.lock().clone();
        sorted(held)
    }
}

fn write_until(address: SocketAddr, stop: &AtomicBool, acked: &parking_lot::Mutex<Held>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = welcomed(address).await;
        let mut authors: Vec<Author> = (101..109).map(Author::new).collect();
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let turns = authors.len();
            let author = &mut authors[turn % turns];
            let mut held = Held::new();
            push(&mut client, author, 3, &mut held).await;
            let mut acked = acked.lock();
            for (document, hashes) in held {
                acked.entry(document).or_default().extend(hashes);
            }
        }
    });
}

/// The number of changes.
pub(crate) fn count(held: &Held) -> usize {
    held.values().map(Vec::len).sum()
}

/// The whole content of a space in a stopped store, compacted or not, read in full.
pub(crate) fn held_of(data: &Path, space: &str) -> Held {
    let space: SpaceName = space.parse().unwrap();
    let inspection = Inspection::open(data).unwrap();
    let mut held = Held::new();
    let (mut document, mut snapshot) = (DocumentId::from_bytes([0; 16]), (Vec::new(), 0));
    inspection
        .contents(&space, &mut |record| {
            match record {
                Record::Document(id) => document = id,
                Record::Snapshot { bytes, .. } => snapshot = (Vec::new(), bytes as usize),
                Record::Part(part) => {
                    snapshot.0.extend(part);
                    if snapshot.0.len() == snapshot.1 {
                        let changes = landfall_compaction::changes_since(&snapshot.0, &[]).unwrap();
                        let hashes = changes.iter().map(|chunk| preflight(chunk).unwrap().hash.0);
                        held.entry(document).or_default().extend(hashes);
                    }
                }
                Record::Change { chunk, .. } => {
                    held.entry(document).or_default().push(preflight(&chunk).unwrap().hash.0);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    sorted(held)
}

pub(crate) fn held(data: &Path) -> Held {
    held_of(data, SPACE)
}

/// Checks that the store opens, is whole, and has all of `least`, without duplicates.
#[track_caller]
pub(crate) fn check(data: &Path, least: &Held) -> Held {
    run(data, &["verify"]).ok();
    let held = held(data);
    for (document, hashes) in &held {
        assert!(hashes.windows(2).all(|two| two[0] != two[1]), "{document}: doubled");
    }
    for (document, hashes) in least {
        let have = held.get(document).map(Vec::as_slice).unwrap_or_default();
        let missing = hashes.iter().filter(|hash| have.binary_search(hash).is_err()).count();
        assert_eq!(missing, 0, "{document}: acknowledged and missing");
    }
    held
}

/// Copies a data folder of a stopped relay.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Starts a command and kills it at a random time within `time`. Returns whether it was killed before it
/// ended.
pub(crate) fn killed(mut command: Command, time: Duration, random: &mut Rng) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let after = Duration::from_micros(random.below(time.as_micros() as u64));
    // sleep: a random instant is what is tried
    std::thread::sleep(after);
    let ended = child.try_wait().unwrap();
    if let Some(status) = ended {
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(status.success(), "{errors}");
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// The duration of a command.
pub(crate) fn time_of(done: impl FnOnce() -> Done) -> Duration {
    let began = Instant::now();
    done().ok();
    began.elapsed()
}

/// A folder, and names in it.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
