//! The servers: each a separate process on a data folder of its own, ended with its handle.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{peers, processes};

/// The argument that makes this binary a relay, so that both have the same build profile.
pub const RELAY: &str = "relay-for-figures";

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    serve: landfall_relay::cli::ServeArgs,
}

/// Runs the relay in this process.
pub fn run_relay(arguments: Vec<String>) -> ExitCode {
    let arguments = std::iter::once(RELAY.to_owned()).chain(arguments);
    let parsed = <Arguments as clap::Parser>::parse_from(arguments);
    landfall_relay::cli::run(parsed.serve)
}

/// The measured servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Our relay as it is.
    Relay,
    /// Our relay on a disk with a free fsync.
    RelayNoFsync,
    /// `server.mjs`: automerge-repo's own adapters.
    Repo,
    /// `samod/`.
    Samod,
    /// The published sync server.
    SyncServer,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::Relay, Self::RelayNoFsync, Self::Repo, Self::Samod, Self::SyncServer];

    /// The name of its column and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "landfall",
            Self::RelayNoFsync => "landfall-no-fsync",
            Self::Repo => "automerge-repo",
            Self::Samod => "samod",
            Self::SyncServer => "sync-server",
        }
    }

    /// Installs it. The error names what is missing.
    pub fn install(self) -> Result<(), String> {
        match self {
            Self::Relay => Ok(()),
            Self::RelayNoFsync => installed(&NO_FSYNC, peers::no_fsync),
            Self::Samod => installed(&SAMOD, peers::samod),
            Self::Repo | Self::SyncServer => installed(&NODE, peers::node),
        }
    }

    fn command(self, data: &Path, port: u16) -> Command {
        let port = port.to_string();
        match self {
            Self::Relay | Self::RelayNoFsync => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args([RELAY, "--listen", &format!("127.0.0.1:{port}"), "--data"]).arg(data);
                if self == Self::RelayNoFsync {
                    command.env("LD_PRELOAD", NO_FSYNC.get().unwrap());
                }
                command
            }
            Self::Repo => {
                let mut command = Command::new("node");
                command.arg("server.mjs").current_dir(NODE.get().unwrap()).arg(port).arg(data);
                command
            }
            Self::Samod => {
                let mut command = Command::new(SAMOD.get().unwrap());
                command.arg(port).arg(data);
                command
            }
            Self::SyncServer => {
                let mut command = Command::new("node");
                command.arg("node_modules/@automerge/automerge-repo-sync-server/src/index.js");
                command.current_dir(NODE.get().unwrap()).env("PORT", port).env("DATA_DIR", data);
                command
            }
        }
    }
}

static NO_FSYNC: OnceLock<PathBuf> = OnceLock::new();
static SAMOD: OnceLock<PathBuf> = OnceLock::new();
static NODE: OnceLock<PathBuf> = OnceLock::new();

fn installed(
    place: &OnceLock<PathBuf>,
    install: fn() -> Result<PathBuf, String>,
) -> Result<(), String> {
    if place.get().is_none() {
        place.get_or_init({
            let found = install()?;
            move || found
        });
    }
    Ok(())
}

/// A running server.
pub struct Server {
    kind: Kind,
    child: Child,
    root: TempDir,
    /// Its port on loopback.
    pub port: u16,
    /// Resident memory after its start on an empty folder, in MiB.
    empty_mib: f64,
    /// The server's process id under strace, where the child is strace itself.
    traced: Option<u32>,
}

impl Server {
    /// Starts a server on an empty folder.
    pub fn start(kind: Kind) -> Result<Self, String> {
        Self::start_traced(kind, None)
    }

    /// As [`Server::start`], and traces the system calls that reach the disk into a file.
    pub fn start_traced(kind: Kind, trace: Option<&Path>) -> Result<Self, String> {
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        let port = free_port();
        let child = spawn(kind, root.path(), port, trace)?;
        let mut server = Self { kind, child, root, port, empty_mib: 0.0, traced: None };
        server.wait_until_listening()?;
        server.traced = trace.and_then(|_| processes::first_child(server.child.id()));
        rest(Duration::from_millis(700));
        server.empty_mib = server.resident_mib();
        Ok(server)
    }

    /// The process that is measured.
    pub fn pid(&self) -> u32 {
        self.traced.unwrap_or_else(|| self.child.id())
    }

    /// Processor time so far, including children.
    pub fn processor_time(&self) -> Duration {
        processes::processor_time(self.pid())
    }

    /// Resident memory now, including children.
    pub fn resident_mib(&self) -> f64 {
        processes::resident_mib(self.pid())
    }

    /// The part of `mib` that exceeds the empty process.
    pub fn above_empty(&self, mib: f64) -> f64 {
        (mib - self.empty_mib).max(0.0)
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// The end of its standard error since its last start.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(12)..].join(" | ")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and after ten seconds SIGKILL.
    pub fn stop(&mut self) {
        signal(self.pid());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            rest(Duration::from_millis(10));
        }
        self.kill();
    }

    /// Starts it again on the same data, after [`Server::stop`] or [`Server::kill`].
    pub fn start_again(&mut self) -> Result<(), String> {
        self.port = free_port();
        self.child = spawn(self.kind, self.root.path(), self.port, None)?;
        self.wait_until_listening()
    }

    /// Waits until it neither computes nor writes: until deferred work is done.
    pub fn settle(&self) {
        let began = Instant::now();
        let look = || (self.processor_time(), processes::folder_bytes(&self.data()));
        let (mut last, mut since) = (look(), Instant::now());
        while since.elapsed() < Duration::from_millis(2_500)
            && began.elapsed() < Duration::from_secs(60)
        {
            rest(Duration::from_millis(250));
            let now = look();
            // A timer's tick of 10 ms does not count as work.
            if now.1 != last.1 || now.0 > last.0 + Duration::from_millis(20) {
                (last, since) = (now, Instant::now());
            }
        }
    }

    fn wait_until_listening(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended: {status}: {}", self.kind.name(), self.log()));
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return Ok(());
            }
            rest(Duration::from_millis(5));
        }
        Err(format!("{} does not listen", self.kind.name()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(traced) = self.traced {
            // strace ends with the traced process.
            signal(traced);
            rest(Duration::from_millis(300));
        }
        self.kill();
    }
}

fn spawn(kind: Kind, root: &Path, port: u16, trace: Option<&Path>) -> Result<Child, String> {
    let mut command = kind.command(&root.join("data"), port);
    if let Some(trace) = trace {
        let plain = command;
        command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(trace);
        command.args(["-e", "trace=fsync,fdatasync,sync_file_range,msync,sync,syncfs"]);
        command.arg(plain.get_program()).args(plain.get_args());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        plain.get_current_dir().map(|folder| command.current_dir(folder));
    }
    let log = std::fs::File::create(root.join("log")).map_err(|error| error.to_string())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(|error| format!("{}: {error}", kind.name()))
}

fn signal(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// A port below the system's range for client ports. A client that connects to a port of that range
/// before its server listens may get the same port and connect to itself.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 20_000 + (std::process::id() as u16 % 50) * 200;
        let port = port + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits for another process that sends no event.
pub fn rest(time: Duration) {
    // sleep: foreign servers do not report when they are ready or done
    std::thread::sleep(time);
}
