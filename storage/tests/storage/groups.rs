//! Many jobs share one transaction, and no job affects another.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use landfall_storage::{Database, Durability, FailureClass, Options, WriteError};

use crate::support::{PATIENCE, Place, SCHEMA, ids, insert, outcome, patient, stopped, submit};

#[test]
fn writes_of_many_threads_share_commits() {
    let place = Place::new();
    let db = place.open();
    let (threads, writes) = (8, 50);
    let start = Arc::new(Barrier::new(threads));
    thread::scope(|scope| {
        for thread in 0..threads {
            let (db, start) = (db.clone(), Arc::clone(&start));
            scope.spawn(move || {
                start.wait();
                for write in 0..writes {
                    db.write(Durability::Full, insert((thread * writes + write) as i64)).unwrap();
                }
            });
        }
    });
    let counters = db.faults().counters();
    assert_eq!(ids(&db).len(), threads * writes);
    assert_eq!(counters.jobs, (threads * writes) as u64);
    assert!(counters.commits < counters.jobs, "{counters:?}");
}

#[test]
fn jobs_queued_behind_a_commit_form_one_group_in_order() {
    let place = Place::new();
    let db = place.open();
    let (hold, _first) = stopped(&db);
    let (sender, receiver) = mpsc::channel();
    for id in 0..100 {
        let sender = sender.clone();
        db.submit(Durability::Full, insert(id), move |result| {
            sender.send((id, result.unwrap().number.0)).unwrap();
        });
    }
    drop((hold, sender));
    let committed: Vec<(i64, u64)> = receiver.iter().collect();
    assert_eq!(
        committed.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        (0..100).collect::<Vec<_>>()
    );
    // One group, unless the machine was so slow that the group's time limit passed.
    assert!(db.faults().counters().commits <= 20, "{:?}", db.faults().counters());
    assert!(committed.is_sorted_by_key(|(_, number)| *number));
    assert_eq!(committed.last().unwrap().1, db.committed().0);
}

#[test]
fn a_job_that_fails_or_panics_rolls_back_alone() {
    let place = Place::new();
    let db = place.open();
    let (hold, _first) = stopped(&db);
    let good = submit(&db, Durability::Full, insert(1));
    let failing = submit(&db, Durability::Full, |tx| {
        insert(2)(tx)?;
        insert(1)(tx)
    });
    let panicking = submit(&db, Durability::Full, |tx| {
        insert(3)(tx)?;
        panic!("on purpose");
    });
    let also_good = submit(&db, Durability::Full, insert(4));
    drop(hold);
    outcome(&good).unwrap();
    outcome(&also_good).unwrap();
    let failed = outcome(&failing).unwrap_err();
    assert!(matches!(failed, WriteError::Job(_)), "{failed:?}");
    assert_eq!(failed.class(), FailureClass::Other);
    match outcome(&panicking).unwrap_err() {
        WriteError::Panicked(message) => assert_eq!(message, "on purpose"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ids(&db), [1, 4]);
}

#[test]
fn a_group_of_failed_jobs_takes_no_commit_number() {
    let db = Database::open_in_memory(&SCHEMA, patient()).unwrap();
    let before = db.committed();
    db.write(Durability::Full, |tx| tx.execute("INSERT INTO nowhere VALUES (1)", [])).unwrap_err();
    assert_eq!(db.committed(), before);
    assert_eq!(db.write(Durability::Full, insert(1)).unwrap().number.0, before.0 + 1);
}

#[test]
fn a_failed_commit_fails_every_job_and_leaves_nothing() {
    let place = Place::new();
    let db = place.open();
    let (hold, first) = stopped(&db);
    let waiting: Vec<_> = (0..5).map(|id| submit(&db, Durability::Full, insert(id))).collect();
    // More failures than the one expected commit, in case the time limit splits the group.
    db.faults().fail_next_commits(6, FailureClass::Io);
    drop(hold);
    let committed_before = db.committed();
    for told in std::iter::once(&first).chain(&waiting) {
        let error = outcome(told).unwrap_err();
        assert!(matches!(error, WriteError::Commit(_)), "{error:?}");
        assert_eq!(error.class(), FailureClass::Io);
    }
    assert_eq!(db.committed(), committed_before);
    assert!(ids(&db).is_empty());

    db.faults().fail_next_commits(0, FailureClass::Other);
    db.write(Durability::Full, insert(9)).unwrap();
    assert_eq!(ids(&db), [9]);
}

#[test]
fn injected_commit_failures_happen_as_often_as_requested() {
    let db = Database::open_in_memory(&SCHEMA, patient()).unwrap();
    db.faults().fail_next_commits(2, FailureClass::DiskFull);
    for _ in 0..2 {
        let error = db.write(Durability::Full, insert(1)).unwrap_err();
        assert_eq!(error.class(), FailureClass::DiskFull);
    }
    db.write(Durability::Full, insert(1)).unwrap();
}

#[test]
fn a_held_commit_is_invisible_and_unreported() {
    let place = Place::new();
    let db = place.open();
    let hold = db.faults().hold_commits();
    let receiver = submit(&db, Durability::Full, insert(1));
    assert!(hold.wait_reached(PATIENCE));
    assert_eq!(db.faults().counters().jobs, 1, "the job has run");
    assert!(ids(&db).is_empty());
    assert!(receiver.try_recv().is_err());
    assert_eq!(db.committed().0, 0);
    drop(hold);
    assert_eq!(outcome(&receiver).unwrap().number, db.committed());
    assert_eq!(ids(&db), [1]);
}

#[test]
fn a_full_queue_blocks_its_submitters() {
    let place = Place::new();
    let db = place.open_with(Options { queue: 1, ..patient() });
    let (hold, _first) = stopped(&db);
    let _queued = submit(&db, Durability::Full, insert(1));
    let (sender, receiver) = mpsc::channel();
    let other = db.clone();
    let blocked = thread::spawn(move || {
        let outcome = submit(&other, Durability::Full, insert(2));
        sender.send(()).unwrap();
        outcome.recv_timeout(PATIENCE).unwrap()
    });
    // That an event does not happen can only be observed for a limited time.
    assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
    drop(hold);
    blocked.join().unwrap().unwrap();
    assert_eq!(ids(&db), [1, 2]);
}

#[test]
fn a_callback_may_submit_read_and_panic_but_not_block() {
    let place = Place::new();
    let db = place.open_with(Options { queue: 1, ..patient() });
    let (sender, receiver) = mpsc::channel();
    let inner = db.clone();
    db.submit(Durability::Full, insert(1), move |result| {
        result.unwrap();
        assert_eq!(ids(&inner), [1]);
        let blocking = inner.write(Durability::Full, insert(2)).unwrap_err();
        assert!(matches!(blocking, WriteError::WouldDeadlock), "{blocking:?}");
        // Beyond the queue's limit: the writer thread must not wait for itself.
        for id in 3..6 {
            let sender = sender.clone();
            inner.submit(Durability::Full, insert(id), move |result| sender.send(result).unwrap());
        }
        panic!("on purpose");
    });
    for _ in 3..6 {
        receiver.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    assert_eq!(ids(&db), [1, 3, 4, 5]);
}

#[test]
fn a_job_that_ends_the_transaction_is_never_reported_as_committed() {
    let place = Place::new();
    let db = place.open();
    let error = db
        .write(Durability::Full, |tx| {
            insert(1)(tx)?;
            tx.execute_batch("ROLLBACK")
        })
        .unwrap_err();
    assert!(matches!(error, WriteError::Commit(_)), "{error:?}");
    assert!(ids(&db).is_empty());
    db.write(Durability::Full, insert(2)).unwrap();
    assert_eq!(ids(&db), [2]);
}
