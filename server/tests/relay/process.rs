//! The binary: its first line, its exit codes, its files, and its end.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread::JoinHandle;

use landfall_protocol::Code;
use landfall_protocol::frame::Frame;

use crate::harness::{Client, SPACE, soon};

/// A relay in a separate process, killed on drop.
pub(crate) struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    /// Reads its log continuously.
    log: Option<JoinHandle<String>>,
    pub(crate) address: SocketAddr,
}

pub(crate) fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall-relay"));
    command.arg("serve").arg("--data").arg(data);
    // Without the machine's own settings.
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The same command with its standard error closed.
pub(crate) fn closed_stderr(command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(command.get_program());
    shell.args(command.get_args()).env_clear().stdout(Stdio::piped());
    shell
}

impl Process {
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_as(command(data), Stdio::piped())
    }

    /// With the caller's standard error. The log is read only if that is `Stdio::piped()`.
    pub(crate) fn start_as(mut command: Command, stderr: Stdio) -> Self {
        let mut child = command.args(FREE).stderr(stderr).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let begin = concat!("landfall-relay ", env!("CARGO_PKG_VERSION"), " listening on ws://");
        let address = line.trim_end().strip_prefix(begin);
        let address = address.unwrap_or_else(|| panic!("first line: {line:?}")).parse().unwrap();
        let log = child.stderr.take().map(|mut err| {
            std::thread::spawn(move || {
                let mut log = String::new();
                err.read_to_string(&mut log).unwrap();
                log
            })
        });
        Self { child, out, log, address }
    }

    /// Its resident memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Its peak resident memory.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for its end: exit code, the rest of its output, its log.
    pub(crate) fn ended(mut self) -> (Option<i32>, String, String) {
        let mut out = String::new();
        self.out.read_to_string(&mut out).unwrap();
        let log = self.log.take().map_or_else(String::new, |log| log.join().unwrap());
        (self.child.wait().unwrap().code(), out, log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code and the one error line of a relay that does not start.
fn refusal(output: &Output) -> (i32, String) {
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let error: Vec<&str> = log.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(error.len(), 1, "{log}");
    assert_eq!(error[0].matches("; ").count(), 2, "what; why; hint: {}", error[0]);
    assert!(output.stdout.is_empty(), "it printed an address");
    (output.status.code().unwrap(), error[0].to_owned())
}

fn refused(data: &Path, arguments: &[&str]) -> (i32, String) {
    refusal(&command(data).args(arguments).output().unwrap())
}

const FREE: &[&str] = &["--listen", "127.0.0.1:0"];

#[test]
fn it_serves_until_a_stop_signal() {
    let folder = tempfile::tempdir().unwrap();
    for signal in ["-TERM", "-INT"] {
        let relay = Process::start(&folder.path().join("data"));
        assert_ne!(relay.address.port(), 0);
        std::net::TcpStream::connect(relay.address).unwrap();
        relay.signal(signal);
        let (code, out, log) = relay.ended();
        assert_eq!((code, out.as_str()), (Some(0), ""), "{log}");
        assert!(log.lines().all(|line| line.starts_with('{')), "JSON without a terminal: {log}");
    }
}

#[test]
fn a_second_relay_on_the_same_folder_fails_at_once_and_names_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(folder.path());
    let (code, line) = refused(folder.path(), FREE);
    assert_eq!(code, 5);
    assert!(line.contains(&format!("process {} (landfall-relay)", first.child.id())), "{line}");
    first.signal("-KILL");
    drop(first);
    // The lock was released with its holder.
    drop(Process::start(folder.path()));
}

#[test]
fn a_port_in_use_and_a_foreign_address_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = folder.path().join("data");
    let (code, line) = refused(&data, &["--listen", &address]);
    assert_eq!(code, 3);
    assert!(line.contains(&address), "{line}");
    let (code, line) = refused(&data, &["--listen", "0.0.0.0:0"]);
    assert_eq!(code, 2);
    assert!(line.contains("--insecure-open"), "{line}");
    let (code, _) = refused(&data, &["--listen", "nonsense"]);
    assert_eq!(code, 2);
    let usage = command(&data).arg("--no-such-flag").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let usage_error = String::from_utf8(usage.stderr).unwrap();
    assert_eq!(usage_error.lines().count(), 1, "{usage_error}");
    assert!(
        usage_error.starts_with("error: wrong usage; ") && usage_error.contains("--no-such-flag"),
        "{usage_error}"
    );
    assert!(usage_error.ends_with("; see `landfall-relay --help`\n"), "{usage_error}");
    assert!(!data.exists(), "a relay that does not start creates nothing");
}

#[test]
fn an_unusable_folder_or_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let (code, line) = refused(&file.join("below"), FREE);
    assert_eq!(code, 4);
    assert!(line.contains("below"), "{line}");

    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("relay.db"), b"these are somebody's notes").unwrap();
    let (code, line) = refused(&foreign, FREE);
    assert_eq!(code, 4);
    assert!(line.contains("not a database of this") && line.contains("--data"), "{line}");
    let kept = std::fs::read(foreign.join("relay.db")).unwrap();
    assert_eq!(kept, b"these are somebody's notes");

    let newer = folder.path().join("newer");
    let relay = Process::start(&newer);
    relay.signal("-TERM");
    relay.ended();
    let store = rusqlite::Connection::open(newer.join("relay.db")).unwrap();
    store.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let (code, line) = refused(&newer, FREE);
    assert_eq!(code, 4);
    assert!(line.contains("99") && line.contains("newer"), "{line}");
}

#[cfg(unix)]
#[test]
fn a_folder_without_permission_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // Not even root can create a folder there.
    let (code, line) = refused(Path::new("/proc/landfall"), FREE);
    assert_eq!(code, 4, "{line}");
    drop(folder);
}

#[cfg(unix)]
#[test]
fn its_files_are_accessible_to_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("deep/data");
    let relay = Process::start(&data);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut files = 0;
    for file in std::fs::read_dir(&data).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert!(files >= 2);
    drop(relay);
}

#[test]
fn settings_come_from_the_environment_too() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("from-env");
    let mut child = Command::new(env!("CARGO_BIN_EXE_landfall-relay"))
        .arg("serve")
        .env_clear()
        .env("LANDFALL_DATA", &data)
        .env("LANDFALL_LISTEN", "localhost:0")
        .env("LANDFALL_LOG_FORMAT", "human")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = concat!("landfall-relay ", env!("CARGO_PKG_VERSION"), " listening on ws://");
    assert!(line.starts_with(begin), "{line}");
    assert!(data.join("relay.db").exists());
}

/// A log line names its session once, and a clean stop logs no warning.
#[tokio::test]
async fn json_lines_name_their_session_once_and_a_stop_logs_no_warning() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Process::start(&folder.path().join("data"));
    let mut client = Client::connect_to(relay.address).await;
    client.say_hello().await;
    client.subscribe(1, SPACE, None, None).await;
    // It names the first of its spaces, even after unsubscribing from it.
    for number in 1..20 {
        client.send(&Frame::Unsubscribe(number)).await;
        client.subscribe(number + 1, &format!("other-{number}"), None, None).await;
    }
    relay.signal("-TERM");
    let (frames, _) = client.until_end().await;
    assert!(
        matches!(frames.last(), Some(Frame::Error(error)) if error.code == Code::SHUTTING_DOWN)
    );
    let ended = tokio::task::spawn_blocking(move || relay.ended());
    let (code, _, log) = soon(ended).await.unwrap();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    let closed = log.lines().find(|line| line.contains("session closed")).unwrap();
    assert_eq!(closed.matches("\"session\":1").count(), 1, "{closed}");
    assert_eq!(closed.matches(&format!("\"space\":\"{SPACE}\"")).count(), 1, "{closed}");
}
