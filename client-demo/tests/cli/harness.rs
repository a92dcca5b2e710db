//! Runs the program: each test has a folder of its own, and ends the processes that it started.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

const DEMO: &str = env!("CARGO_BIN_EXE_landfall-demo");

/// A folder with stores, which the program runs in.
pub struct Home {
    folder: TempDir,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tmp", "run"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The program without our environment variables, and without a terminal.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(DEMO);
        for name in ["STORE", "RELAY", "SPACE", "LISTEN", "DATA"] {
            command.env_remove(format!("LANDFALL_{name}"));
        }
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env_remove("VISUAL")
            .env("DEMO", DEMO)
            .stdin(Stdio::null());
        command
    }

    /// A shell's command line in the same environment; `$DEMO` is the program.
    pub fn shell(&self, line: &str) -> Command {
        let like = self.command([] as [&str; 0]);
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(self.folder.path()).stdin(Stdio::null());
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    pub fn run(&self, args: &[&str]) -> Done {
        Done(self.command(args).output().unwrap())
    }

    /// With a relay's URL.
    pub fn at(&self, relay: &Relay, args: &[&str]) -> Done {
        self.run(&[&["--relay", &relay.url], args].concat())
    }

    pub fn with_input(&self, args: &[&str], input: &str) -> Done {
        let mut command = self.command(args);
        let streams = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
        let [stdin, stdout, stderr] = streams;
        let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Done(child.wait_with_output().unwrap())
    }

    /// Starts the program; its lines can be read one by one.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    /// The files that the program left in the folder for temporary files.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// The outcome of a run.
pub struct Done(Output);

impl Done {
    pub fn of(command: &mut Command) -> Self {
        Self(command.output().unwrap())
    }

    pub fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Checks that it succeeded; returns its output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code(), Some(0), "{}{}", self.out(), self.err());
        self.out()
    }

    /// Checks that it failed with this code and one line that contains all these parts.
    #[track_caller]
    pub fn failed(self, code: i32, says: &[&str]) {
        let err = self.err();
        let lines: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(self.code(), Some(code), "{}{err}", self.out());
        assert_eq!(lines.len(), 1, "{err}");
        assert_eq!(err.lines().last(), lines.first().copied(), "{err}");
        for part in says {
            assert!(lines[0].contains(part), "`{part}` is missing: {err}");
        }
        assert!(lines[0].contains("; "), "it names no remedy: {err}");
    }
}

/// A program that runs until it is stopped.
pub struct Running {
    pub child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended");
        line
    }

    /// Reads up to a line that contains this part.
    pub fn until(&mut self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Sends a signal; returns the exit code.
    pub fn signal(mut self, signal: &str) -> Option<i32> {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay, served by the program itself.
pub struct Relay {
    pub url: String,
    running: Running,
}

impl Relay {
    pub fn start(home: &Home) -> Self {
        Self::start_at(home, "127.0.0.1:0")
    }

    fn start_at(home: &Home, listen: &str) -> Self {
        let mut running = home.start(&["relay", "--listen", listen, "--data", "relay-data"]);
        let first = running.line();
        let url = first.split_whitespace().last().unwrap().to_owned();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(first, format!("landfall-relay {version} listening on {url}\n"));
        Self { url, running }
    }

    /// Kills it, as in a crash.
    pub fn kill(&mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }

    /// Kills it, replaces its data by a copy, and restarts it.
    pub fn restore(&mut self, home: &Home, copy: &str) {
        self.kill();
        std::fs::remove_dir_all(home.path("relay-data")).unwrap();
        std::fs::rename(home.path(copy), home.path("relay-data")).unwrap();
        self.restart(home);
    }

    /// Kills it, copies its data, and restarts it.
    pub fn copy(&mut self, home: &Home, copy: &str) {
        self.kill();
        std::fs::create_dir(home.path(copy)).unwrap();
        for entry in std::fs::read_dir(home.path("relay-data")).unwrap() {
            let file = entry.unwrap();
            std::fs::copy(file.path(), home.path(copy).join(file.file_name())).unwrap();
        }
        self.restart(home);
    }

    /// Restarts it on the same port and data.
    pub fn restart(&mut self, home: &Home) {
        *self = Self::start_at(home, self.url.trim_start_matches("ws://"));
    }
}

/// Whether a process is running.
pub fn is_running(process: &str) -> bool {
    Path::new("/proc").join(process).exists()
}
