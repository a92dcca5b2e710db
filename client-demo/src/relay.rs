//! The embedded relay, so that one binary is enough to try everything: the subcommand `relay`, and a separate
//! process for the tour and the replay. The only module that knows `landfall_relay`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub(crate) use landfall_relay::cli::without_empty_variables;
use landfall_relay::cli::{self, ServeArgs};
use thiserror::Error;

use crate::failure::{Exit, Failure};

/// Options of `relay`.
#[derive(Debug, clap::Args)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Exit when standard input closes, that is, when the process at its other end is gone
    #[arg(long, hide = true)]
    until_input_ends: bool,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn serve(args: RelayArgs) -> ExitCode {
    if args.until_input_ends {
        std::thread::spawn(|| {
            // The parent is gone, whether its pipe was closed or failed.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
    }
    cli::run(args.serve)
}

/// Runs the relay's compaction child.
pub(crate) fn compact_worker() -> ExitCode {
    cli::compact_worker()
}

/// Runs the relay's child that verifies a copy of its store.
pub(crate) fn verify_copy(file: &Path) -> ExitCode {
    cli::verify_copy_worker(file)
}

/// The names of the hidden subcommands that run these children.
pub(crate) const COMPACT_WORKER: &str = cli::COMPACT_WORKER;
pub(crate) const VERIFY_COPY: &str = cli::VERIFY_COPY;

/// How long a relay may take to start listening.
const START: Duration = Duration::from_secs(20);

/// Why a relay could not be started.
#[derive(Debug, Error)]
pub(crate) enum RelayError {
    /// The system could not start the process.
    #[error("cannot start the process: {0}")]
    Spawn(#[source] io::Error),
    /// It ended before it listened.
    #[error("it exited before it listened: {why}")]
    Ended { why: String },
    /// Its first line was not its address.
    #[error("its first line was `{line}`")]
    FirstLine { line: String },
    /// It printed nothing.
    #[error("it printed nothing within {} s", START.as_secs())]
    Silent,
}

impl From<RelayError> for Failure {
    fn from(error: RelayError) -> Self {
        let remedy = "try `landfall-demo relay` by hand";
        Self::new(Exit::Relay, "cannot start a relay", error, remedy)
    }
}

/// A relay in a separate process. It ends when this value is dropped, and also when this process ends in any
/// way, since that closes the relay's standard input.
pub(crate) struct RelayProcess {
    child: Child,
    url: String,
    data: PathBuf,
}

impl RelayProcess {
    /// Starts a relay on a free port.
    pub(crate) fn start(data: &Path) -> Result<Self, RelayError> {
        Self::start_at("127.0.0.1:0", data)
    }

    fn start_at(listen: &str, data: &Path) -> Result<Self, RelayError> {
        let log = data.with_extension("log");
        let errors = File::options().create(true).append(true).open(&log);
        let mut command = Command::new(std::env::current_exe().map_err(RelayError::Spawn)?);
        command
            .args(["relay", "--until-input-ends", "--listen", listen, "--data"])
            .arg(data)
            .env_remove("LANDFALL_ALLOW_ORIGIN")
            .env_remove("LANDFALL_INSECURE_OPEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.map_err(RelayError::Spawn)?);
        apart(&mut command);
        let mut child = command.spawn().map_err(RelayError::Spawn)?;
        let first = child.stdout.take().ok_or(RelayError::Silent).and_then(first_line);
        let mut relay = Self { child, url: String::new(), data: data.to_owned() };
        let first = first?;
        if first.is_empty() {
            return Err(RelayError::Ended { why: last_words(&log) });
        }
        match first.split_whitespace().find(|word| word.starts_with("ws://")) {
            Some(url) => relay.url = url.to_owned(),
            None => return Err(RelayError::FirstLine { line: first }),
        }
        Ok(relay)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Kills it like a crash (SIGKILL): it cannot finish anything.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// Starts it again after [`RelayProcess::kill`], on the same port and data.
    pub(crate) fn restart(&mut self) -> Result<(), RelayError> {
        let listen = self.url.trim_start_matches("ws://").to_owned();
        let again = Self::start_at(&listen, &self.data)?;
        *self = again;
        Ok(())
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.kill();
    }
}

/// Signals from the terminal go to this process group only; this program ends the relay itself.
#[cfg(unix)]
fn apart(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(not(unix))]
fn apart(_: &mut Command) {}

/// The first line that the process prints; empty if it ended without one.
fn first_line(output: ChildStdout) -> Result<String, RelayError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        let read = output.read_line(&mut line).map(|_| line.trim().to_owned());
        // The receiver may have timed out.
        let _ = sender.send(read);
        // Drain the rest, or the relay would block on a full pipe.
        let _ = io::copy(&mut output, &mut io::sink());
    });
    match receiver.recv_timeout(START) {
        Ok(line) => line.map_err(RelayError::Spawn),
        Err(_) => Err(RelayError::Silent),
    }
}

/// The last error that the relay logged before it ended.
fn last_words(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let last = log.lines().rev().find(|line| line.starts_with("error:"));
    last.unwrap_or("error: it printed no message").trim_start_matches("error: ").to_owned()
}
