//! The compaction thread: it starts by itself, skips documents that cannot be compacted, and ends.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use automerge::{ActorId, Automerge, ObjType, ROOT, transaction::Transactable};
use landfall_compaction::CompactionLimits;
use landfall_protocol::ReplicaId;
use landfall_protocol::admission::{CheckedChange, preflight};
use parking_lot::Mutex;

use super::store_support::{Author, Bench, id};
use crate::compactor::{CompactionReport, Compactor};
use crate::store::{CompactionInput, CompactionOptions, LocalLog, OpenMode, Opened};

fn until(compactor: &Compactor, wanted: impl Fn(&CompactionReport) -> bool) -> CompactionReport {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = compactor.compacted();
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "{now:?}");
        std::thread::yield_now();
    }
}

/// A change on an object that the document does not have, which admission cannot detect.
fn poison(document: &Author) -> CheckedChange {
    let mut other = Automerge::new().with_actor(ActorId::from([99u8; 16]));
    let mut tx = other.transaction();
    let text = tx.put_object(ROOT, "text", ObjType::Text).unwrap();
    tx.commit();
    let mut tx = other.transaction();
    tx.splice_text(&text, 0, 0, "x").unwrap();
    tx.commit();
    let mut expanded = other.get_last_local_change().unwrap().decode();
    expanded.deps = document.heads();
    expanded.seq = 1;
    expanded.start_op = 1_000.try_into().unwrap();
    expanded.hash = None;
    preflight(automerge::Change::from(expanded).raw_bytes()).unwrap()
}

#[test]
fn documents_are_compacted_in_the_background_and_failures_do_no_harm() {
    let bench = Bench::new();
    let mut authors: Vec<Author> = (1..=3).map(|n| Author::new(n, n)).collect();
    for author in &mut authors {
        let changes = author.puts(20);
        bench.append_all(author.document, &changes);
    }
    bench.append(id(2), &poison(&authors[1]));
    let compactor =
        Compactor::start(bench.log.clone(), CompactionOptions::EVERYTHING, Arc::default()).unwrap();
    let first = until(&compactor, |now| now.documents == 2 && now.failed == 1);
    assert_eq!(first.changes, 40);
    // Later changes are compacted later.
    let more = authors[0].puts(5);
    bench.append_all(id(1), &more);
    compactor.notify();
    until(&compactor, |now| now.documents == 3);
    compactor.close();
    compactor.close();
    bench.append_all(id(1), &authors[0].puts(5));
    compactor.notify();
    let last = compactor.compacted();
    assert_eq!((last.documents, last.failed), (3, 1), "it is not tried again and again");
    let inspection = bench.log.inspect().unwrap();
    let documents = &inspection.spaces[0].documents;
    assert!(documents[1].compaction_failed.is_some());
    let tails: Vec<u64> = documents.iter().map(|document| document.tail_changes).collect();
    assert_eq!(tails, [5, 21, 0]);
    let findings = bench.log.verify().unwrap();
    assert_eq!(findings, [], "its bytes are unchanged");
}

#[test]
fn close_does_not_wait_for_due_compactions() {
    let bench = Bench::new();
    for n in 1..=60u8 {
        bench.append_all(id(n), &Author::new(n, n).puts(2));
    }
    let compactor =
        Compactor::start(bench.log.clone(), CompactionOptions::EVERYTHING, Arc::default()).unwrap();
    until(&compactor, |now| now.documents > 0);
    compactor.close();
    assert!(compactor.compacted().documents < 60);
    bench.check();
}

/// A compaction that is delayed until the test releases it.
#[test]
fn close_does_not_wait_for_a_running_compaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let bench = Bench::at(OpenMode::File(&path));
    bench.append_all(id(1), &Author::new(1, 1).puts(20));
    let (began, begun) = mpsc::channel();
    let (go_on, gone_on) = mpsc::channel::<()>();
    let (ended, end) = mpsc::channel();
    let acked = Mutex::new((gone_on, ended));
    let compaction = move |input: CompactionInput, _: &CompactionLimits| {
        began.send(input.changes.len()).unwrap();
        let acked = acked.lock();
        acked.0.recv().unwrap();
        let compacted = landfall_compaction::compact(&[], input.changes)?;
        acked.1.send(()).unwrap();
        Ok(Opened::of(compacted)?)
    };
    let log = bench.log.clone();
    let (options, threads) = (CompactionOptions::EVERYTHING, Arc::default());
    let compactor = Compactor::start_with(log, options, threads, Arc::new(compaction)).unwrap();
    assert_eq!(begun.recv().unwrap(), 20);
    compactor.close();
    bench.log.database().close().unwrap();
    // The file and its lock are free while the compaction is still in progress.
    let options = landfall_storage::Options::default();
    let log =
        LocalLog::open(OpenMode::File(&path), options, ReplicaId::from_bytes([8; 16])).unwrap();
    let again = Bench::with(log);
    again.append_all(id(2), &Author::new(2, 2).puts(3));
    go_on.send(()).unwrap();
    end.recv().unwrap();
    again.check();
    assert_eq!((again.rows(), again.count().totals.changes), (23, 23), "its result is dropped");
    assert_eq!(again.compact().changes, 23);
}
