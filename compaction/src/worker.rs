//! The worker: the child process that performs one compaction job and exits. A program that embeds the relay
//! runs it as a hidden subcommand whose body is [`main`].
//!
//! It reads its job from standard input, limits its own memory and processor time before it parses any
//! document bytes, and answers on standard output. It exits when its parent does. It must not know a store.

use std::io::{self, BufWriter, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use landfall_protocol::ChangeHash;
use landfall_protocol::admission::HistoryError;

use crate::absorb::Absorbing;
use crate::inspect::inspect_within;
use crate::wire::{JobHeader, Tag, invalid, read_part, write_part};
use crate::{
    Absorbed, Compacted, CompactionError, CompactionLimits, JobKind, NewContent, changes_since,
    compact_within,
};

/// The most bytes of a reason that are sent to the parent.
const REASON_BYTES: usize = 4 * 1024;

/// Stack of the thread that waits for the parent's death: it only calls `read` and `exit`.
const WAITING_STACK_BYTES: usize = 64 * 1024;

/// Exit code when the parent died before the job was done.
const ABANDONED: u8 = 3;

/// Exit code when the parent is of another release: the program file was replaced.
pub(crate) const OTHER_RELEASE: u8 = 4;

/// Performs one job. Call it first in the process, before any thread is started and any large allocation is
/// made.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            // Standard error is read by the supervisor, or by a person who ran the worker by hand.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(OTHER_RELEASE)
        }
        Err(_) => ExitCode::from(ABANDONED),
    }
}

fn run() -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let job = JobHeader::read(&mut stdin)?;
    limit(job.memory_bytes, job.time)?;
    let input = Parts { stdin: Some(stdin) };
    let limits = CompactionLimits {
        snapshot_bytes: usize::try_from(job.snapshot_bytes).unwrap_or(usize::MAX),
    };
    let answer = match job.kind {
        JobKind::Compaction => compact_parts(input, None, &limits)?.map(Answer::Compacted),
        JobKind::Merge { hash, heads } => {
            merge_parts(input, hash, heads.as_deref(), &limits)?.map(Answer::Compacted)
        }
        JobKind::Inspect { hash } => {
            let inspected = inspect_within(&input.only_snapshot()?, hash, &limits);
            inspected.map(|compacted| Answer::Compacted(Box::new(compacted)))
        }
        JobKind::ChangesSince { have } => {
            changes_since(&input.only_snapshot()?, &have).map(Answer::Changes)
        }
        JobKind::Absorb { salvage } => {
            absorb_parts(input, Absorbing::new(salvage, limits))?.map(Answer::Absorbed)
        }
    };
    send(answer)
}

/// Checks an uploaded snapshot and reports to the parent that it is sound, then compacts it together with the
/// stored history.
fn merge_parts(
    mut input: Parts,
    hash: [u8; 32],
    heads: Option<&[ChangeHash]>,
    limits: &CompactionLimits,
) -> io::Result<Result<Box<Compacted>, CompactionError>> {
    let (Tag::Part, offered) = input.next()? else {
        return Err(invalid("a merge job without the uploaded snapshot"));
    };
    let theirs = match inspect_within(&offered, hash, limits) {
        Ok(theirs) => theirs,
        Err(error) => return Ok(Err(error)),
    };
    let mut found = theirs.heads.clone();
    found.sort_unstable();
    if heads.is_some_and(|heads| found != heads) {
        return Ok(Err(CompactionError::Heads));
    }
    let mut output = io::stdout().lock();
    write_part(&mut output, Tag::Valid, &theirs.changes.to_le_bytes())?;
    output.flush()?;
    compact_parts(input, Some((offered, theirs)), limits)
}

/// Compacts the stored history together with an uploaded snapshot, if there is one: its bytes, and the
/// outcome of inspecting it, which is the answer if nothing is stored.
fn compact_parts(
    mut input: Parts,
    offered: Option<(Vec<u8>, Compacted)>,
    limits: &CompactionLimits,
) -> io::Result<Result<Box<Compacted>, CompactionError>> {
    let mut snapshots = Vec::new();
    let first = loop {
        match input.next()? {
            (Tag::Snapshot, snapshot) => snapshots.push(snapshot),
            (Tag::Change, change) => break Some(change),
            (Tag::End, _) => break None,
            _ => return Err(invalid("an unexpected part in the worker's input")),
        }
    };
    match offered {
        Some((_, theirs)) if first.is_none() && snapshots.is_empty() => {
            return Ok(Ok(Box::new(theirs)));
        }
        Some((bytes, _)) => snapshots.push(bytes),
        None => {}
    }
    let snapshots: Vec<&[u8]> = snapshots.iter().map(Vec::as_slice).collect();
    let mut ended = if first.is_none() { Some(Ok(())) } else { None };
    let rest = std::iter::from_fn(|| {
        if ended.is_some() {
            return None;
        }
        let outcome = match input.next() {
            Ok((Tag::Change, change)) => return Some(change),
            Ok((Tag::End, _)) => Ok(()),
            Ok(_) => Err(invalid("a snapshot comes after a change")),
            Err(error) => Err(error),
        };
        // The input failed, so the result will be discarded: empty bytes are not a valid change, and stop the
        // compaction.
        let stop = outcome.is_err().then(Vec::new);
        ended = Some(outcome);
        stop
    });
    let compacted = compact_within(&snapshots, first.into_iter().chain(rest), limits);
    // The compaction may fail before the end of the input is read; an error of the input takes precedence.
    ended.unwrap_or(Ok(()))?;
    Ok(compacted.map(Box::new))
}

fn absorb_parts(
    mut input: Parts,
    mut absorbing: Absorbing,
) -> io::Result<Result<Absorbed, CompactionError>> {
    loop {
        let taken = match input.next()? {
            (Tag::Part, bytes) => absorbing.part(&bytes),
            (Tag::Snapshot, bytes) => {
                absorbing.snapshot(bytes);
                Ok(())
            }
            (Tag::Change, bytes) => absorbing.change(bytes),
            (Tag::End, _) => return Ok(absorbing.finish()),
            _ => return Err(invalid("an unexpected part in the worker's input")),
        };
        if let Err(error) = taken {
            return Ok(Err(error));
        }
    }
}

enum Answer {
    Compacted(Box<Compacted>),
    Changes(Vec<Vec<u8>>),
    Absorbed(Absorbed),
}

fn send(answer: Result<Answer, CompactionError>) -> io::Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    match answer {
        Ok(Answer::Compacted(compacted)) => {
            send_compacted(&mut output, &compacted)?;
            write_part(&mut output, Tag::End, &[])?;
        }
        Ok(Answer::Changes(changes)) => {
            send_changes(&mut output, &changes)?;
            write_part(&mut output, Tag::End, &[])?;
        }
        Ok(Answer::Absorbed(absorbed)) => send_absorbed(&mut output, &absorbed)?,
        Err(CompactionError::History {
            source: HistoryError::MissingDependency { missing },
            ..
        }) => {
            write_part(&mut output, Tag::Missing, &missing.0)?;
        }
        Err(CompactionError::TooLarge { actual, limit }) => {
            let numbers = [actual as u64, limit as u64].map(u64::to_le_bytes);
            write_part(&mut output, Tag::TooLarge, numbers.as_flattened())?;
        }
        Err(error) => {
            write_part(&mut output, Tag::Refused, reason(&error.to_string()).as_bytes())?;
        }
    }
    output.flush()
}

fn send_compacted(output: &mut impl Write, compacted: &Compacted) -> io::Result<()> {
    write_part(output, Tag::Snapshot, &compacted.snapshot)?;
    write_part(output, Tag::Index, &compacted.index)
}

fn send_changes(output: &mut impl Write, changes: &[Vec<u8>]) -> io::Result<()> {
    changes.iter().try_for_each(|change| write_part(output, Tag::Change, change))
}

fn send_absorbed(output: &mut impl Write, absorbed: &Absorbed) -> io::Result<()> {
    match &absorbed.news {
        NewContent::Nothing => {}
        NewContent::Changes(changes) => send_changes(output, changes)?,
        NewContent::Snapshot(compacted) => send_compacted(output, compacted)?,
    }
    for left_out in &absorbed.left_out {
        let part = (left_out.part as u64).to_le_bytes();
        let content = [part.as_slice(), reason(&left_out.reason).as_bytes()].concat();
        write_part(output, Tag::LeftOut, &content)?;
    }
    write_part(output, Tag::End, &absorbed.left_out_count.to_le_bytes())
}

/// A prefix of a reason, short enough to send to the parent.
fn reason(whole: &str) -> &str {
    &whole[..whole.floor_char_boundary(REASON_BYTES)]
}

/// The input from the parent. Dropped at its end, because [`end_with_the_parent`] then reads from it.
struct Parts {
    stdin: Option<io::StdinLock<'static>>,
}

impl Parts {
    fn next(&mut self) -> io::Result<(Tag, Vec<u8>)> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::UnexpectedEof)?;
        let part = read_part(stdin, u64::MAX)?;
        if part.0 == Tag::End {
            self.stdin = None;
            end_with_the_parent();
        }
        Ok(part)
    }

    fn only_snapshot(mut self) -> io::Result<Vec<u8>> {
        let (Tag::Snapshot, snapshot) = self.next()? else {
            return Err(invalid("the job lacks its snapshot"));
        };
        match self.next()? {
            (Tag::End, _) => Ok(snapshot),
            _ => Err(invalid("the job has a part too many")),
        }
    }
}

/// Exits when standard input closes. After the job the parent sends nothing and keeps the pipe open, so a
/// closed pipe means that the parent died.
fn end_with_the_parent() {
    let wait = || {
        let _ = io::stdin().lock().read(&mut [0]);
        std::process::exit(i32::from(ABANDONED));
    };
    // Without this thread the limits still end the process.
    let _ = thread::Builder::new().stack_size(WAITING_STACK_BYTES).spawn(wait);
}

/// Lowers this process's limits of memory and processor time, irrevocably.
fn limit(memory_bytes: u64, time: Duration) -> io::Result<()> {
    confine_to(memory_bytes, Some(time))
}

/// Lowers this process's memory limit, irrevocably, and its scheduling priority. For other children of a
/// relay, whose time is not limited.
///
/// # Errors
/// If the system does not set the limits (Linux).
pub fn confine(memory_bytes: u64) -> io::Result<()> {
    confine_to(memory_bytes, None)
}

#[cfg(unix)]
fn confine_to(memory_bytes: u64, time: Option<Duration>) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
    // No core dump: it would contain the contents of documents.
    let limits = [(Resource::As, memory_bytes, 0), (Resource::Core, 0, 0)];
    let seconds = time.map(|time| (Resource::Cpu, time.as_secs().saturating_add(1), 1));
    for (resource, most, more) in limits.into_iter().chain(seconds) {
        let before = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        // A soft limit one second below the hard one: SIGXCPU, which names the cause, precedes SIGKILL.
        let (current, maximum) = (before.min(most), before.min(most.saturating_add(more)));
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        let set = setrlimit(resource, limit);
        // Other systems lack some of these limits; the parent's timeout still applies.
        if let (Err(error), true) = (set, cfg!(target_os = "linux")) {
            let _ = writeln!(io::stderr(), "cannot limit {resource:?}: {error}");
            return Err(invalid("cannot set a resource limit"));
        }
    }
    // About a third of the relay's share of a busy processor on Linux; a failure is harmless.
    let _ = nice(5);
    Ok(())
}

#[cfg(not(unix))]
fn confine_to(_: u64, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}
