//! Starts this project's programs as a user would, and ends them when their handles are dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::PATIENCE;

/// The path of a program, built into the same target folder as this test.
///
/// # Panics
/// If it was not built: `cargo build --workspace --bins` does that.
pub fn binary(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().expect("a test knows its own path");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

/// A relay process. It is killed when dropped.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    /// Its URL: `ws://127.0.0.1:PORT`.
    pub url: String,
    /// Its port.
    pub port: u16,
}

impl Relay {
    /// Starts a relay on a data folder and a port (0 selects a free one), and waits until it listens.
    ///
    /// # Panics
    /// If the relay does not start.
    pub fn start(data: &Path, port: u16) -> Self {
        Self::start_with(data, port, &[])
    }

    /// As [`Relay::start`], with additional arguments.
    ///
    /// # Panics
    /// If the relay does not start.
    pub fn start_with(data: &Path, port: u16, more: &[&str]) -> Self {
        let mut child = Command::new(binary("landfall-relay"))
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the relay starts");
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("the relay prints a line");
        let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
        let Some(port) = port else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the relay printed {line:?} instead of its address");
        };
        Self { child, url, port }
    }

    /// Sends SIGKILL, as `kill -9` does: the process runs no further code.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM, as an operator's tools do, and returns the exit status.
    ///
    /// # Panics
    /// If the process does not end.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .expect("the process runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "SIGTERM did not end the relay");
            // sleep: std has no wait with a deadline; this only spaces the polls
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
