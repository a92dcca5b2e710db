//! When commits are on disk, and when that is announced.

use std::sync::mpsc;
use std::time::Duration;

use landfall_storage::{CommitNumber, Database, Durability, FailureClass, Options, rusqlite};
use rusqlite::Transaction;

use crate::support::{PATIENCE, Place, SCHEMA, insert, outcome, patient, stopped, submit};

fn synchronous(tx: &Transaction<'_>) -> rusqlite::Result<i64> {
    insert(tx.query_row("SELECT count(*) FROM note", [], |row| row.get(0))?)(tx)?;
    tx.pragma_query_value(None, "synchronous", |row| row.get(0))
}

fn wal_bytes(db: &Database) -> u64 {
    let wal = format!("{}-wal", db.path().unwrap().display());
    std::fs::metadata(wal).unwrap().len()
}

#[test]
fn each_durability_runs_under_its_own_setting() {
    let place = Place::new();
    let db = place.open();
    for (durability, expected) in [
        (Durability::Full, 2),
        (Durability::Relaxed, 1),
        (Durability::Relaxed, 1),
        (Durability::Full, 2),
    ] {
        assert_eq!(db.write(durability, synchronous).unwrap().value, expected);
    }
    let counters = db.faults().counters();
    assert_eq!((counters.commits, counters.full_commits), (4, 2));
}

#[test]
fn one_full_job_makes_its_group_full() {
    let place = Place::new();
    let db = place.open();
    let (hold, _first) = stopped(&db);
    let (sender, receiver) = mpsc::channel();
    db.submit(Durability::Relaxed, synchronous, move |result| {
        sender.send(result.unwrap()).unwrap()
    });
    let full = submit(&db, Durability::Full, insert(10));
    drop(hold);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().value, 2);
    let number = outcome(&full).unwrap().number;
    assert!(db.synced() >= number);
}

#[test]
fn relaxed_commits_are_synced_by_the_next_full_one() {
    let place = Place::new();
    let db = place.open();
    let relaxed = db.write(Durability::Relaxed, insert(1)).unwrap().number;
    assert!(db.synced() < relaxed && db.committed() == relaxed);
    let full = db.write(Durability::Full, insert(2)).unwrap().number;
    assert_eq!(db.synced(), full);
    assert!(full > relaxed);
}

#[test]
fn an_empty_full_write_still_reaches_the_disk() {
    let place = Place::new();
    let db = place.open();
    let relaxed = db.write(Durability::Relaxed, insert(1)).unwrap().number;
    let before = wal_bytes(&db);
    let synced = db.sync().unwrap();
    // SQLite fsyncs a commit only if it has frames for the WAL.
    assert!(wal_bytes(&db) > before, "nothing was written, so nothing was fsynced");
    assert!(synced > relaxed && db.synced() == synced);

    let (before, commits) = (wal_bytes(&db), db.faults().counters().commits);
    assert_eq!(db.sync().unwrap(), synced, "nothing to do");
    assert_eq!((wal_bytes(&db), db.faults().counters().commits), (before, commits));
}

#[test]
fn an_idle_writer_syncs_by_itself() {
    let place = Place::new();
    let db = place.open_with(Options { sync_idle: Duration::from_millis(5), ..patient() });
    let (sender, receiver) = mpsc::channel();
    db.on_synced(Box::new(move |number| sender.send(number).unwrap()));
    let relaxed = db.write(Durability::Relaxed, insert(1)).unwrap().number;
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), relaxed);
    assert_eq!(db.synced(), relaxed);
    let counters = db.faults().counters();
    assert_eq!((counters.commits, counters.full_commits, counters.syncs), (1, 0, 1));
}

#[test]
fn a_failed_sync_is_retried() {
    let place = Place::new();
    let db = place.open_with(Options { sync_idle: Duration::from_millis(5), ..patient() });
    let (sender, receiver) = mpsc::channel();
    db.on_synced(Box::new(move |number| sender.send(number).unwrap()));
    let faults = db.faults();
    // Requested on the writer thread, so that the sync fails and not the commit.
    db.submit(Durability::Relaxed, insert(1), move |result| {
        result.unwrap();
        faults.fail_next_commits(1, FailureClass::Io);
    });
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), CommitNumber(1));
    assert_eq!(db.faults().counters().syncs, 1);
    // The sync used up the requested failure, so this write succeeds.
    db.write(Durability::Full, insert(2)).unwrap();
}

#[test]
fn subscribers_run_after_results_and_a_panic_in_one_stops_no_other() {
    let place = Place::new();
    let db = place.open();
    let (sender, receiver) = mpsc::channel();
    db.on_synced(Box::new(|_| panic!("on purpose")));
    let heard = sender.clone();
    db.on_synced(Box::new(move |number| heard.send(("synced", number)).unwrap()));
    db.submit(Durability::Full, insert(1), move |result| {
        sender.send(("done", result.unwrap().number)).unwrap();
    });
    let first = receiver.recv_timeout(PATIENCE).unwrap();
    let second = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!([first, second], [("done", CommitNumber(1)), ("synced", CommitNumber(1))]);
}

#[test]
fn an_in_memory_database_counts_commits_as_synced() {
    let db = Database::open_in_memory(&SCHEMA, patient()).unwrap();
    let number = db.write(Durability::Relaxed, insert(1)).unwrap().number;
    assert_eq!(db.synced(), number);
    assert_eq!(db.sync().unwrap(), number);
}
