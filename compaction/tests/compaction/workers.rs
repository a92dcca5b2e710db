//! Compaction in child processes, which die in every way that a process can.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use automerge::{ROOT, transaction::Transactable};
use landfall_compaction::{
    JobKind, NewContent, Supervisor, WorkerError, changes_since, compact, inspect,
};
use landfall_protocol::{ChangeHash, limits};
use sha2::{Digest, Sha256};

use super::histories::{begun, changes, poison, session, type_into};

const PROGRAM: &str = env!("CARGO_BIN_EXE_landfall-compact-worker");

pub fn supervisor(words: &[&str]) -> Supervisor {
    Supervisor {
        snapshot_bytes: limits::SNAPSHOT_BYTES as u64,
        stop: Default::default(),
        command: [PROGRAM].iter().chain(words).map(Into::into).collect(),
        memory_bytes: 512 << 20,
        time: Duration::from_secs(60),
    }
}

/// Whether a process exists, also as a zombie.
fn is_there(id: u32) -> bool {
    std::path::Path::new(&format!("/proc/{id}")).exists()
}

#[test]
fn a_worker_returns_the_same_result_as_the_library() {
    let document = session();
    let supervisor = supervisor(&[]);
    let all = changes(&document);
    let (old, new) = all.split_at(200);
    let base = compact(&[], old.iter().cloned()).unwrap();
    let compacted = supervisor.compact(&[&base.snapshot], new.iter().cloned()).unwrap();
    assert_eq!(compacted, compact(&[&base.snapshot], new.iter().cloned()).unwrap());
    let snapshot = &compacted.snapshot;
    assert_eq!(supervisor.inspect(snapshot, compacted.hash).unwrap(), compacted);
    assert_eq!(inspect(snapshot, compacted.hash).unwrap(), compacted);
    let mut since = Vec::new();
    supervisor.changes_since(snapshot, &base.heads, |change| since.push(change)).unwrap();
    assert_eq!(since, changes_since(snapshot, &base.heads).unwrap());
    assert_eq!(supervisor.compact(&[], []).unwrap(), compact(&[], []).unwrap());
}

#[test]
fn a_worker_rejects_with_the_same_error_text_as_the_library() {
    let document = session();
    let supervisor = supervisor(&[]);
    let refused = |error: WorkerError| match error {
        WorkerError::Refused { reason } => reason,
        other => panic!("{other:?}"),
    };
    let mut all = changes(&document);
    all.remove(3);
    let error = compact(&[], all.iter().cloned()).unwrap_err();
    assert_eq!(refused(supervisor.compact(&[], all).unwrap_err()), error.to_string());
    let snapshot = document.save();
    let error = inspect(&snapshot, [1; 32]).unwrap_err();
    assert_eq!(refused(supervisor.inspect(&snapshot, [1; 32]).unwrap_err()), error.to_string());
    let mut all = changes(&document);
    all.push(poison(&document));
    refused(supervisor.compact(&[], all).unwrap_err());
    // The worker refuses the job early: the parent notices and stops sending.
    let mut job = supervisor.start(JobKind::Compaction).unwrap();
    let mut sent = 0;
    let error = loop {
        match job.change(&[0; 1000]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1_000_000);
    };
    assert!(refused(error).contains("change 0"));
}

#[test]
fn one_worker_inspects_and_merges_an_uploaded_snapshot() {
    let supervisor = supervisor(&[]);
    let document = session();
    let (offered, all) = (document.save(), changes(&document));
    let theirs = inspect(&offered, landfall_compaction::hash_of(&offered)).unwrap();
    let merge = |heads: Option<Vec<ChangeHash>>| JobKind::Merge { hash: theirs.hash, heads };
    let kind = |heads: &[ChangeHash]| merge(Some(heads.to_vec()));
    // The document is empty, so the result is the uploaded snapshot itself.
    let mut job = supervisor.start(kind(&theirs.heads)).unwrap();
    job.part(&offered).unwrap();
    assert_eq!(job.sound().unwrap(), theirs.changes);
    assert_eq!(job.finish().unwrap(), theirs);
    // The document has part of it, as a snapshot and as changes.
    let half = all.len() / 2;
    let held = compact(&[], all[..half].iter().cloned()).unwrap();
    let mut job = supervisor.start(kind(&theirs.heads)).unwrap();
    job.part(&offered).unwrap();
    assert_eq!(job.sound().unwrap(), theirs.changes);
    job.base(&held.snapshot).unwrap();
    job.change(&all[half]).unwrap();
    assert_eq!(job.finish().unwrap().heads, theirs.heads);
    // The expected heads may be unknown.
    let mut job = supervisor.start(merge(None)).unwrap();
    job.part(&offered).unwrap();
    assert_eq!(job.sound().unwrap(), theirs.changes);
    assert_eq!(job.finish().unwrap(), theirs);
    // An upload with other heads is refused before the parent reads the document.
    let mut job = supervisor.start(kind(&[])).unwrap();
    job.part(&offered).unwrap();
    let error = job.sound().unwrap_err();
    assert!(matches!(&error, WorkerError::Refused { reason } if reason.contains("heads")));
    let mut job = supervisor.start(kind(&theirs.heads)).unwrap();
    job.part(&offered[1..]).unwrap();
    let error = job.sound().unwrap_err();
    assert!(matches!(&error, WorkerError::Refused { reason } if reason.contains("SHA-256")));
}

#[test]
fn a_worker_over_its_memory_limit_dies_alone() {
    // A change of a few bytes with this many operations.
    let (mut document, text) = begun(1);
    {
        use automerge::transaction::Transactable;
        let mut tx = document.transaction();
        tx.splice_text(&text, 0, 0, &"a".repeat(300_000)).unwrap();
        tx.commit();
    }
    let small = Supervisor { memory_bytes: 80 << 20, ..supervisor(&[]) };
    let error = small.compact(&[], changes(&document)).unwrap_err();
    let WorkerError::Died { how, said } = &error else { panic!("{error:?}") };
    assert!(how.contains("SIGABRT") && said.contains("memory allocation"), "{error}");
    // The memory limit killed it; the next worker succeeds.
    assert!(supervisor(&[]).compact(&[], changes(&document)).is_ok());
    let (small_one, _) = begun(1);
    assert!(small.compact(&[], changes(&small_one)).is_ok());
}

#[test]
fn workers_end_when_the_supervisor_stops() {
    let supervisor = supervisor(&["hang"]);
    let stop = std::sync::Arc::clone(&supervisor.stop);
    let mut job = supervisor.start(JobKind::Compaction).unwrap();
    let id = job.id();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = loop {
        if let Err(error) = job.change(&[0; 1 << 16]) {
            break error;
        }
    };
    assert!(matches!(error, WorkerError::Stopped), "{error:?}");
    drop(job);
    assert!(!is_there(id));
    assert!(matches!(supervisor.start(JobKind::Compaction), Err(WorkerError::Stopped)));
}

#[test]
fn a_worker_over_its_time_limit_is_killed() {
    let impatient = Supervisor { time: Duration::from_millis(300), ..supervisor(&["hang"]) };
    let begun = Instant::now();
    let error = impatient.compact(&[], changes(&session())).unwrap_err();
    assert!(matches!(error, WorkerError::TimedOut { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // The worker exceeds its time while its parent still sends and the pipe is full.
    let mut job = impatient.start(JobKind::Compaction).unwrap();
    let error = loop {
        if let Err(error) = job.change(&[0; 1 << 16]) {
            break error;
        }
    };
    assert!(matches!(error, WorkerError::TimedOut { .. }), "{error:?}");
    let id = job.id();
    drop(job);
    assert!(!is_there(id));
}

#[test]
fn a_dead_worker_is_reported_with_its_exit_status() {
    let died = |word: &str| {
        let error = supervisor(&[word]).compact(&[], changes(&session())).unwrap_err();
        match error {
            WorkerError::Died { how, said } => (how, said),
            other => panic!("{other:?}"),
        }
    };
    assert!(died("abort").0.contains("SIGABRT"));
    assert!(died("leave").0.contains('7'));
    let error = supervisor(&["babble"]).compact(&[], []).unwrap_err();
    assert!(matches!(error, WorkerError::Answer { .. }), "{error:?}");
    let nobody = Supervisor { command: vec!["/nobody/here".into()], ..supervisor(&[]) };
    let error = nobody.compact(&[], []).unwrap_err();
    assert!(matches!(error, WorkerError::Spawn { .. }), "{error:?}");
    let nothing = Supervisor { command: vec![], ..supervisor(&[]) };
    assert!(matches!(nothing.compact(&[], []).unwrap_err(), WorkerError::Spawn { .. }));
}

#[test]
fn a_dropped_job_leaves_no_process() {
    let mut job = supervisor(&[]).start(JobKind::Compaction).unwrap();
    job.change(&changes(&session())[0]).unwrap();
    let id = job.id();
    assert!(is_there(id) || !cfg!(target_os = "linux"));
    drop(job);
    assert!(!is_there(id));
    let job = supervisor(&["hang"]).start(JobKind::Compaction).unwrap();
    let id = job.id();
    drop(job);
    assert!(!is_there(id));
}

/// The start of a job, as a supervisor sends it: version, release, memory, time, bytes of a snapshot,
/// kind of job, number of hashes.
fn header(seconds: u64) -> Vec<u8> {
    greeting_of(env!("CARGO_PKG_VERSION"), seconds)
}

fn greeting_of(release: &str, seconds: u64) -> Vec<u8> {
    let mut bytes = b"LFfold\0\x06".to_vec();
    bytes.push(release.len() as u8);
    bytes.extend(release.as_bytes());
    bytes.extend((512u64 << 20).to_le_bytes());
    bytes.extend((seconds * 1000).to_le_bytes());
    bytes.extend((limits::SNAPSHOT_BYTES as u64).to_le_bytes());
    bytes.push(0);
    bytes.extend(0u64.to_le_bytes());
    bytes
}

fn part(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u64).to_le_bytes(), body].concat()
}

fn by_hand() -> std::process::Child {
    let mut command = Command::new(PROGRAM);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_worker_ends_with_its_parent() {
    // The parent dies while it sends.
    let mut child = by_hand();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&[header(60), part(2, &changes(&session())[0])].concat()).unwrap();
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    // The parent dies during the worker's work, which takes more than a moment.
    let (mut document, text) = begun(1);
    type_into(&mut document, &text, 10_000);
    let mut child = by_hand();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&[header(60), part(1, &document.save()), part(5, &[])].concat()).unwrap();
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut answer = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
    assert_eq!(answer, []);
}

#[test]
fn a_workers_processor_time_is_limited() {
    let mut child = by_hand();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&header(0)).unwrap();
    // Endless input: the same changes again and again.
    let again = part(2, &changes(&session())[1]).repeat(100);
    while input.write_all(&again).is_ok() {}
    let status = child.wait().unwrap();
    #[cfg(unix)]
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(24), "{status}");
}

/// The worker's file was replaced while its parent runs: the worker refuses and reports what to do.
#[test]
fn a_worker_of_another_release_rejects_the_job() {
    for begin in [greeting_of("0.0.9", 60), b"LFfold\0\x05".to_vec()] {
        let mut child = by_hand();
        child.stdin.take().unwrap().write_all(&begin).unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("restart the program"), "{said}");
        assert_eq!(child.wait().unwrap().code(), Some(4));
    }
}

#[test]
fn starting_the_worker_by_hand_prints_a_hint() {
    let mut child = by_hand();
    child.stdin.take().unwrap().write_all(b"hello, what are you?").unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("for the program itself"), "{said}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn concurrent_workers_return_their_own_results() {
    let threads: Vec<_> = (1..=4u8)
        .map(|actor| {
            std::thread::spawn(move || {
                let (mut document, text) = begun(actor);
                type_into(&mut document, &text, 100 * usize::from(actor));
                let compacted = supervisor(&[]).compact(&[], changes(&document)).unwrap();
                assert_eq!(compacted.heads, document.get_heads());
                assert_eq!(compacted.hash, <[u8; 32]>::from(Sha256::digest(&compacted.snapshot)));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_worker_rejects_a_snapshot_over_the_size_limit() {
    let document = session();
    let all = changes(&document);
    let actual = compact(&[], all.iter().cloned()).unwrap().snapshot.len();
    let supervisor = Supervisor { snapshot_bytes: actual as u64 - 1, ..supervisor(&[]) };
    match supervisor.compact(&[], all.iter().cloned()).unwrap_err() {
        WorkerError::TooLarge { actual: stated, limit } => {
            assert_eq!((stated, limit), (actual, actual - 1));
        }
        other => panic!("{other:?}"),
    }
    // The new changes of a whole document are then returned one by one, whatever their number.
    let mut long = begun(1).0;
    for n in 0..limits::PUSH_CHANGES + 10 {
        let put = |tx: &mut automerge::transaction::Transaction<'_>| tx.put(ROOT, "n", n as i64);
        long.transact(put).unwrap();
    }
    let small = Supervisor { snapshot_bytes: 1_000, ..supervisor };
    let absorbed = small.absorb(&[&long.save()], &[], [], false).unwrap();
    let NewContent::Changes(new) = absorbed.news else { panic!("{:?}", absorbed.news) };
    assert_eq!(new.len(), long.get_changes(&[]).len());
}
