//! The parent of workers: starts one worker per job, sends its input, and survives every failure of it.
//! All calls block, so use a thread that may.

mod watch;

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use landfall_protocol::ChangeHash;

use crate::wire::{JobHeader, Tag, read_part, write_part};
use crate::{Absorbed, Compacted, LeftOut, NewContent, WorkerError};
use watch::Watch;

/// How many bytes of a worker's standard error are kept; the rest is read and dropped.
const SAID_BYTES: u64 = 4 * 1024;

/// Size of the buffer for a worker's input: the capacity of a pipe on Linux.
const BUFFER_BYTES: usize = 64 * 1024;

/// The kind of a worker's job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobKind {
    /// [`compact`](crate::compact()) the snapshots and changes that follow, snapshots first.
    Compaction,
    /// [`inspect`](crate::inspect()) the one snapshot that follows.
    Inspect {
        /// The SHA-256 that it should have.
        hash: [u8; 32],
    },
    /// [`absorb`](crate::absorb()) the parts that follow into the document of the snapshots and then
    /// the changes that follow the parts.
    Absorb {
        /// Accept the valid chunks, and report the others.
        salvage: bool,
    },
    /// [`inspect`](crate::inspect()) the one part that follows, then [`compact`](crate::compact()) it with
    /// the existing document: the snapshots and then the changes that follow the part.
    Merge {
        /// The SHA-256 that the part should have.
        hash: [u8; 32],
        /// The heads that it should have, ascending; `None` if they are not known.
        heads: Option<Vec<ChangeHash>>,
    },
    /// [`changes_since`](crate::changes_since()) of the one snapshot that follows.
    ChangesSince {
        /// Changes that the receiver has, together with all their dependencies.
        have: Vec<ChangeHash>,
    },
}

/// Starts workers.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// The worker's command line: a program that calls [`worker::main`](crate::worker::main).
    pub command: Vec<OsString>,
    /// Address space that a worker may have, in bytes (Linux). The program itself takes some of it: 64
    /// MiB is the smallest sensible value.
    pub memory_bytes: u64,
    /// Wall-clock limit of a job from its start. It includes the time in which the parent gathers the
    /// input.
    pub time: Duration,
    /// Size of a snapshot that a worker may make or open, in bytes:
    /// [`SNAPSHOT_BYTES`](landfall_protocol::limits::SNAPSHOT_BYTES), except in tests.
    pub snapshot_bytes: u64,
    /// Kills all workers once it is set, because their caller is stopping.
    pub stop: Arc<AtomicBool>,
}

impl Supervisor {
    /// Starts a worker for a job.
    pub fn start(&self, kind: JobKind) -> Result<Job, WorkerError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
        let mut words = self.command.iter();
        let program = words.next().cloned().unwrap_or_default();
        let spawn =
            |source| WorkerError::Spawn { command: program.to_string_lossy().into_owned(), source };
        let mut command = Command::new(&program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if cfg!(unix) {
            // A process that handles untrusted bytes needs nothing from our environment.
            command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        }
        let mut child = command.spawn().map_err(spawn)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let watch = Watch::start(child, self.time, Arc::clone(&self.stop));
        let (Some(input), Some(output), Some(errors)) = pipes else {
            watch.end();
            return Err(spawn(io::Error::other("it has no pipes")));
        };
        let watch = watch.watching().map_err(spawn)?;
        let said = thread::Builder::new().name("compact-stderr".to_owned());
        let said = said.spawn(move || first_words(errors)).map_err(spawn)?;
        let mut job = Job {
            watch,
            input: BufWriter::with_capacity(BUFFER_BYTES, input),
            output: BufReader::new(output),
            said: Some(said),
            limits: (self.memory_bytes, self.time),
        };
        let header = JobHeader {
            memory_bytes: self.memory_bytes,
            time: self.time,
            snapshot_bytes: self.snapshot_bytes,
            kind,
        };
        let sent = header.write(&mut job.input);
        job.sent(sent)?;
        Ok(job)
    }

    /// Compacts in a worker: sends all snapshots and changes at once.
    pub fn compact(
        &self,
        snapshots: &[&[u8]],
        changes: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Compacted, WorkerError> {
        let mut job = self.start(JobKind::Compaction)?;
        snapshots.iter().try_for_each(|snapshot| job.base(snapshot))?;
        changes.into_iter().try_for_each(|change| job.change(&change))?;
        job.finish()
    }

    /// Inspects an untrusted snapshot in a worker.
    pub fn inspect(&self, snapshot: &[u8], hash: [u8; 32]) -> Result<Compacted, WorkerError> {
        let mut job = self.start(JobKind::Inspect { hash })?;
        job.base(snapshot)?;
        job.finish()
    }

    /// Absorbs untrusted chunks in a worker: sends parts, snapshots and changes at once.
    pub fn absorb(
        &self,
        parts: &[&[u8]],
        snapshots: &[&[u8]],
        changes: impl IntoIterator<Item = Vec<u8>>,
        salvage: bool,
    ) -> Result<Absorbed, WorkerError> {
        let mut job = self.start(JobKind::Absorb { salvage })?;
        parts.iter().try_for_each(|part| job.part(part))?;
        snapshots.iter().try_for_each(|snapshot| job.base(snapshot))?;
        changes.into_iter().try_for_each(|change| job.change(&change))?;
        job.finish_absorbed()
    }

    /// Extracts changes from a snapshot in a worker. `take` receives them one by one, dependencies
    /// first. If the worker dies meanwhile, `take` has received only some of them.
    pub fn changes_since(
        &self,
        snapshot: &[u8],
        have: &[ChangeHash],
        take: impl FnMut(Vec<u8>),
    ) -> Result<(), WorkerError> {
        let mut job = self.start(JobKind::ChangesSince { have: have.to_vec() })?;
        job.base(snapshot)?;
        job.finish_changes(take)
    }
}

/// A running job. Dropping it early kills the worker. It never leaves a process behind.
#[derive(Debug)]
pub struct Job {
    watch: Watch,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
    said: Option<JoinHandle<String>>,
    limits: (u64, Duration),
}

impl Job {
    /// The worker's process id, for a log.
    pub fn id(&self) -> u32 {
        self.watch.id()
    }

    /// Sends a snapshot. An error means that the worker ended.
    pub fn base(&mut self, snapshot: &[u8]) -> Result<(), WorkerError> {
        let sent = write_part(&mut self.input, Tag::Snapshot, snapshot);
        self.sent(sent)
    }

    /// Sends untrusted chunks. An error means that the worker ended.
    pub fn part(&mut self, chunks: &[u8]) -> Result<(), WorkerError> {
        let sent = write_part(&mut self.input, Tag::Part, chunks);
        self.sent(sent)
    }

    /// Sends a change. An error means that the worker ended.
    pub fn change(&mut self, change: &[u8]) -> Result<(), WorkerError> {
        let sent = write_part(&mut self.input, Tag::Change, change);
        self.sent(sent)
    }

    /// Waits for the verdict on the part of a [`JobKind::Merge`] job; returns its number of changes. An
    /// error means that the part is invalid. Read no more input for the job before this returns.
    pub fn sound(&mut self) -> Result<u64, WorkerError> {
        let sent = self.input.flush();
        self.sent(sent)?;
        match self.receive()? {
            (Tag::Valid, count) => {
                let count =
                    <[u8; 8]>::try_from(count).map_err(|_| invalid("the count is not 8 bytes"))?;
                Ok(u64::from_le_bytes(count))
            }
            _ => Err(invalid("neither a verdict on the snapshot nor a refusal")),
        }
    }

    /// Waits for the result of a [`JobKind::Compaction`], [`JobKind::Inspect`] or [`JobKind::Merge`] job.
    pub fn finish(mut self) -> Result<Compacted, WorkerError> {
        self.send_end()?;
        let (mut snapshot, mut index) = (None, None);
        loop {
            match self.receive()? {
                (Tag::Snapshot, bytes) => snapshot = Some(bytes),
                (Tag::Index, bytes) => index = Some(bytes),
                (Tag::End, _) => break,
                _ => return Err(invalid("an unexpected part in the result of a compaction")),
            }
        }
        let (Some(snapshot), Some(index)) = (snapshot, index) else {
            return Err(invalid("the result of a compaction lacks its snapshot or its index"));
        };
        Compacted::from_parts(snapshot, index).map_err(invalid)
    }

    /// Waits for the result of a [`JobKind::ChangesSince`] job, change by change. The changes before an
    /// error are correct but incomplete.
    pub fn finish_changes(mut self, mut take: impl FnMut(Vec<u8>)) -> Result<(), WorkerError> {
        self.send_end()?;
        loop {
            match self.receive()? {
                (Tag::Change, change) => take(change),
                (Tag::End, _) => return Ok(()),
                _ => return Err(invalid("an unexpected part in a list of changes")),
            }
        }
    }

    /// Waits for the result of a [`JobKind::Absorb`] job.
    pub fn finish_absorbed(mut self) -> Result<Absorbed, WorkerError> {
        self.send_end()?;
        let (mut changes, mut snapshot, mut index) = (Vec::new(), None, None);
        let mut left_out = Vec::new();
        let left_out_count = loop {
            match self.receive()? {
                (Tag::Change, change) => changes.push(change),
                (Tag::Snapshot, bytes) => snapshot = Some(bytes),
                (Tag::Index, bytes) => index = Some(bytes),
                (Tag::LeftOut, content) => left_out.push(read_left_out(&content)?),
                (Tag::End, count) => {
                    let count = <[u8; 8]>::try_from(count);
                    break u64::from_le_bytes(
                        count.map_err(|_| invalid("the count in the end marker is not 8 bytes"))?,
                    );
                }
                _ => return Err(invalid("an unexpected part in the result of an absorption")),
            }
        };
        let news = match (snapshot, index) {
            (None, None) if changes.is_empty() => NewContent::Nothing,
            (None, None) => NewContent::Changes(changes),
            (Some(snapshot), Some(index)) if changes.is_empty() => {
                let compacted = Compacted::from_parts(snapshot, index).map_err(invalid)?;
                NewContent::Snapshot(Box::new(compacted))
            }
            _ => {
                return Err(invalid(
                    "an absorption's result lacks its snapshot or its index, or also has changes",
                ));
            }
        };
        Ok(Absorbed { news, left_out, left_out_count })
    }

    /// The input stays open after the end marker: if it closed, the worker would assume that the parent
    /// died.
    fn send_end(&mut self) -> Result<(), WorkerError> {
        let sent = write_part(&mut self.input, Tag::End, &[]);
        let sent = sent.and_then(|()| self.input.flush());
        self.sent(sent)
    }

    fn sent(&mut self, sent: io::Result<()>) -> Result<(), WorkerError> {
        if sent.is_ok() {
            return Ok(());
        }
        // The worker no longer reads: it died, or it has sent the reason why it stopped.
        loop {
            self.receive()?;
        }
    }

    /// Reads the next part of the answer; a refusal or the end of the pipe is an error.
    fn receive(&mut self) -> Result<(Tag, Vec<u8>), WorkerError> {
        // A part cannot be larger than the worker's memory.
        match read_part(&mut self.output, self.limits.0) {
            Ok((Tag::Missing, hash)) => {
                let hash =
                    <[u8; 32]>::try_from(hash).map_err(|_| invalid("the hash is not 32 bytes"))?;
                Err(WorkerError::Missing { missing: ChangeHash(hash) })
            }
            Ok((Tag::TooLarge, numbers)) => {
                let [actual, limit] = match numbers.as_chunks().0 {
                    [actual, limit] => [actual, limit]
                        .map(|n| usize::try_from(u64::from_le_bytes(*n)).unwrap_or(usize::MAX)),
                    _ => return Err(invalid("the size and the limit are not two numbers")),
                };
                Err(WorkerError::TooLarge { actual, limit })
            }
            Ok((Tag::Refused, reason)) => {
                Err(WorkerError::Refused { reason: String::from_utf8_lossy(&reason).into_owned() })
            }
            Ok(part) => Ok(part),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(invalid(error)),
            Err(_) => Err(self.death()),
        }
    }

    /// Ends the worker if it still runs, and returns the reason of its death.
    fn death(&mut self) -> WorkerError {
        let ended = self.watch.end();
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        match ended.status {
            _ if ended.stopped => WorkerError::Stopped,
            _ if ended.late => WorkerError::TimedOut { limit: self.limits.1 },
            Ok(status) if out_of_processor_time(status) => {
                WorkerError::TimedOut { limit: self.limits.1 }
            }
            Ok(status) if status.code() == Some(i32::from(crate::worker::OTHER_RELEASE)) => {
                WorkerError::OtherRelease { said }
            }
            Ok(status) => WorkerError::Died { how: status.to_string(), said },
            Err(error) => WorkerError::Died { how: error.to_string(), said },
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.watch.end();
        if let Some(said) = self.said.take() {
            let _ = said.join();
        }
    }
}

fn read_left_out(content: &[u8]) -> Result<LeftOut, WorkerError> {
    let Some((part, reason)) = content.split_first_chunk() else {
        return Err(invalid("an omission does not name its part"));
    };
    let part = usize::try_from(u64::from_le_bytes(*part)).unwrap_or(usize::MAX);
    Ok(LeftOut { part, reason: String::from_utf8_lossy(reason).into_owned() })
}

fn invalid(what: impl ToString) -> WorkerError {
    WorkerError::Answer { what: what.to_string() }
}

/// Returns the beginning of the worker's standard error. Reads the rest so that the worker never
/// blocks.
fn first_words(mut errors: impl Read) -> String {
    let mut beginning = Vec::new();
    let _ = errors.by_ref().take(SAID_BYTES).read_to_end(&mut beginning);
    let _ = io::copy(&mut errors, &mut io::sink());
    String::from_utf8_lossy(&beginning).trim_end().to_owned()
}

#[cfg(unix)]
fn out_of_processor_time(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    // `SIGXCPU`, by POSIX.
    status.signal() == Some(24)
}

#[cfg(not(unix))]
fn out_of_processor_time(_: ExitStatus) -> bool {
    false
}
