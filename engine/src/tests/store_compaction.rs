//! Compaction on the engine's side: which changes are compacted, and that none is lost by it.

use std::time::Duration;

use landfall_protocol::admission::HistoryError;
use landfall_protocol::client::OutboxKind;
use landfall_storage::{Durability, WriteError};

use super::store_support::{Author, Bench, id};
use crate::store::{AppendError, CompactionOptions, LocalChange};

#[test]
fn a_store_without_an_upstream_compacts_everything() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(40));
    bench.check();
    let before = bench.count();
    assert_eq!((before.totals.changes, before.pending.changes), (40, 40));
    let compacted = bench.compact();
    assert_eq!((compacted.documents, compacted.changes, compacted.failed), (1, 40, 0));
    assert_eq!(bench.rows(), 0, "the rows are removed");
    let after = bench.count();
    assert_eq!((after.totals.changes, after.pending.changes), (40, 40));
    assert!(after.totals.bytes < before.totals.bytes);
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&author.doc));
    // It continues, and its tail is compacted with its snapshot.
    bench.append_all(id(1), &author.puts(25));
    bench.check();
    assert_eq!(bench.compact().changes, 25);
    assert_eq!(bench.count().totals.changes, 65);
    assert_eq!(Author::shows(&bench.load(id(1))), Author::shows(&author.doc));
}

#[test]
fn only_changes_acked_by_the_current_upstream_are_compacted() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(20));
    bench.meet(1);
    assert_eq!(bench.compact().documents, 0, "nothing is acked there");
    bench.acknowledge(1..=12);
    assert_eq!(bench.compact().changes, 12);
    assert_eq!(bench.count().pending.changes, 8);
    assert_eq!(bench.outbox_kinds(), "cccccccc");
    bench.acknowledge(13..=20);
    assert_eq!(bench.compact().changes, 8);
    assert_eq!((bench.count().pending.changes, bench.outbox_kinds().as_str()), (0, ""));
    // The snapshot is uploaded to another upstream, and then the later changes.
    bench.append_all(id(1), &author.puts(2));
    bench.meet(2);
    bench.check();
    assert_eq!(bench.outbox_kinds(), "scc");
    assert_eq!(bench.count().pending.changes, 22);
    let OutboxKind::Snapshot { hash, total, heads } = bench.outbox()[0].what.clone() else {
        panic!("no snapshot")
    };
    let body = bench.log.snapshot_body(bench.space, &id(1), &hash).unwrap().unwrap();
    assert_eq!(body.len() as u64, total);
    assert_eq!(landfall_compaction::hash_of(&body), hash);
    assert!(bench.log.has_snapshot(bench.space, &id(1), &hash).unwrap());
    assert_eq!(heads.len(), 1);
    assert_eq!(bench.log.snapshot_body(bench.space, &id(1), &[0; 32]).unwrap(), None);
    assert!(!bench.log.has_snapshot(bench.space, &id(1), &[0; 32]).unwrap());
    acknowledge_snapshot(&bench, hash);
    assert_eq!((bench.count().pending.changes, bench.outbox_kinds().as_str()), (2, "cc"));
    // Back at the first one: its acked ranges are unchanged.
    bench.meet(1);
    bench.check();
    assert_eq!((bench.count().pending.changes, bench.outbox_kinds().as_str()), (2, "cc"));
}

fn acknowledge_snapshot(bench: &Bench, hash: [u8; 32]) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = Box::new(move |done| sender.send(done).unwrap());
    bench.log.submit_snapshot_acknowledged(bench.space, id(1), hash, Bench::mark(5), done);
    receiver.recv().unwrap().unwrap();
}

#[test]
fn recent_changes_stay_and_compaction_waits_for_enough_others() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(100));
    let options = CompactionOptions {
        least: 10,
        share: 2,
        recent_entries: 30,
        recent_age: Duration::from_millis(1_000),
        ..CompactionOptions::default()
    };
    let due = |now_ms| bench.log.compaction_candidates(bench.space, &options, now_ms).unwrap();
    assert_eq!(due(900), [], "all of it is young");
    assert_eq!(due(2_000)[0].changes, 70);
    let compact = || crate::compactor::compact(&bench.log, &options).unwrap();
    assert_eq!(compact().changes, 70);
    bench.check();
    assert_eq!(compact().changes, 0);
    bench.append_all(id(1), &author.puts(34));
    assert_eq!(compact().changes, 0, "34 are fewer than half of 70");
    bench.append_all(id(1), &author.puts(1));
    assert_eq!(compact().changes, 35);
    bench.check();
}

#[test]
fn admission_takes_compacted_changes_into_account() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    let changes = author.puts(30);
    let mut early = Author::new(2, 1);
    for change in &changes[..10] {
        early.doc.load_incremental(&change.bytes).unwrap();
    }
    bench.append_all(id(1), &changes);
    assert_eq!(bench.compact().changes, 30);
    let append = |change: &landfall_protocol::admission::CheckedChange| {
        let (space, change) = (bench.space, change.clone());
        let changes = vec![LocalChange { space, document: id(1), change, at_ms: 1 }];
        bench.log.append(Durability::Full, changes, |_| ())
    };
    // Repeated, at the end and inside.
    append(&changes[29]).unwrap();
    append(&changes[4]).unwrap();
    assert_eq!(bench.count().totals.changes, 30);
    // Depends on a compacted change that is no head.
    append(&early.put("late", "branch")).unwrap();
    bench.check();
    assert_eq!(bench.heads(id(1)).len(), 2);
    // A second change with the same actor and number, inside and at the end.
    for from in [3, 29] {
        let mut cloned = Author::new(1, 1);
        for change in &changes[..from] {
            cloned.doc.load_incremental(&change.bytes).unwrap();
        }
        let refused = append(&cloned.put("other", "history"));
        assert!(
            matches!(
                refused,
                Err(WriteError::Job(AppendError::History(
                    HistoryError::ConflictingSequence { .. }
                )))
            ),
            "{refused:?}"
        );
    }
    // An unrelated history.
    let refused = append(&Author::new(5, 1).put("root", "another"));
    assert!(matches!(refused, Err(WriteError::Job(AppendError::History(HistoryError::Unrelated)))));
    assert_eq!(bench.compact().changes, 1);
    assert_eq!(bench.heads(id(1)).len(), 2);
}

#[test]
fn a_compaction_that_failed_waits_until_the_tail_has_doubled() {
    let bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(20));
    let due = || {
        bench.log.compaction_candidates(bench.space, &CompactionOptions::EVERYTHING, 10).unwrap()
    };
    bench.log.compaction_failed(&due()[0], "a test".to_owned()).unwrap();
    bench.append_all(id(1), &author.puts(19));
    assert_eq!(due(), []);
    bench.append_all(id(1), &author.puts(1));
    assert_eq!(due()[0].changes, 40);
}

#[test]
fn a_compaction_is_abandoned_if_the_document_changed() {
    let mut bench = Bench::new();
    let mut author = Author::new(1, 1);
    bench.append_all(id(1), &author.puts(20));
    let task =
        bench.log.compaction_candidates(bench.space, &CompactionOptions::EVERYTHING, 10).unwrap();
    let input = bench.log.compaction_read(&task[0]).unwrap().unwrap();
    let compacted = landfall_compaction::compact(&[], input.changes).unwrap();
    // An upstream is connected, which holds nothing of it.
    bench.meet(1);
    let opened = crate::store::Opened::of(compacted).unwrap();
    assert!(!bench.log.compaction_commit(&task[0], opened.clone()).unwrap());
    bench.acknowledge(1..=20);
    assert!(bench.log.compaction_commit(&task[0], opened.clone()).unwrap());
    assert!(!bench.log.compaction_commit(&task[0], opened).unwrap(), "not twice");
    // All checks pass while the dead rows are still there.
    assert_eq!(bench.rows(), 20);
    bench.check();
    assert_eq!((bench.outbox_kinds().as_str(), bench.count().pending.changes), ("", 0));
    let mut slices = 0;
    while bench.log.sweep(7).unwrap() {
        slices += 1;
        bench.check();
    }
    assert_eq!((slices, bench.rows()), (2, 0));
}
