//! A failed fsync is final: the operating system may have dropped the pages, and a later fsync
//! succeeds without them.

use std::sync::mpsc;
use std::time::Duration;

use landfall_storage::{Database, Durability, FailureClass, Options, StorageError};

use super::support::{PATIENCE, Place, SCHEMA, ids, insert, insert_bytes, patient};

/// Every write is refused, and `synced` does not grow.
fn check_final(db: &Database, synced: u64) {
    for durability in [Durability::Full, Durability::Relaxed] {
        let refused = db.write(durability, insert(100)).unwrap_err();
        assert_eq!(refused.class(), FailureClass::FsyncFailed, "{refused:?}");
    }
    assert_eq!(db.synced().0, synced);
    assert!(db.fsync_failure().is_some());
}

#[test]
fn after_a_failed_fsync_nothing_is_written_or_reported_durable() {
    let place = Place::new();
    let db = place.open();
    let (sender, receiver) = mpsc::channel();
    db.on_fsync_failed(Box::new(move |error| sender.send(error.class()).unwrap()));
    db.write(Durability::Full, insert(1)).unwrap();
    let relaxed = db.write(Durability::Relaxed, insert(2)).unwrap().number;
    assert!(db.fsync_failure().is_none());
    // The relaxed commit before it is affected too: one fsync covers both.
    db.faults().fail_next_commits(1, FailureClass::FsyncFailed);
    let failed = db.write(Durability::Full, insert(3)).unwrap_err();
    assert_eq!(failed.class(), FailureClass::FsyncFailed);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), FailureClass::FsyncFailed);
    check_final(&db, relaxed.0 - 1);
    let unsynced = db.sync().unwrap_err();
    assert_eq!(unsynced.class(), FailureClass::FsyncFailed);
    assert!(receiver.try_recv().is_err(), "the failure is announced once");
    // Reads continue, and closing reports the failure.
    assert_eq!(ids(&db), [1, 2]);
    let closed = db.close().unwrap_err();
    assert!(matches!(closed, StorageError::FsyncFailed(_)), "{closed:?}");
    // A new opening rewrites the commits that it finds, and they count as durable.
    let again = place.open();
    assert_eq!(ids(&again), [1, 2]);
    assert_eq!(again.write(Durability::Full, insert(4)).unwrap().number, again.synced());
    again.close().unwrap();
}

#[test]
fn a_failed_fsync_of_the_idle_writer_is_final_and_announced() {
    let place = Place::new();
    let db = place.open_with(Options { sync_idle: Duration::from_millis(5), ..patient() });
    let (sender, receiver) = mpsc::channel();
    db.on_fsync_failed(Box::new(move |_| sender.send(()).unwrap()));
    let faults = db.faults();
    db.submit(Durability::Relaxed, insert(1), move |result| {
        result.unwrap();
        faults.fail_next_commits(1, FailureClass::FsyncFailed);
    });
    receiver.recv_timeout(PATIENCE).unwrap();
    check_final(&db, 0);
    assert_eq!(db.faults().counters().syncs, 0);
}

/// SQLite's automatic checkpoint after a commit ignores its errors.
#[test]
fn a_failed_fsync_of_a_checkpoint_is_final_and_announced() {
    let place = Place::new();
    let db = place.open();
    let (sender, receiver) = mpsc::channel();
    db.on_fsync_failed(Box::new(move |_| sender.send(()).unwrap()));
    db.faults().fail_next_checkpoint(FailureClass::FsyncFailed);
    // More pages than a checkpoint needs.
    let number = db.write(Durability::Relaxed, insert_bytes(1, 8 << 20)).unwrap().number;
    receiver.recv_timeout(PATIENCE).unwrap();
    check_final(&db, number.0 - 1);
}

#[test]
fn a_long_wal_is_checkpointed_and_reused() {
    let place = Place::new();
    let db = place.open();
    let length = || std::fs::metadata(place.folder.path().join("notes.db")).unwrap().len();
    for id in 0..8 {
        db.write(Durability::Full, insert_bytes(id, 5 << 20)).unwrap();
    }
    assert!(length() > (7 * 5) << 20, "{} bytes are in the database", length());
    let wal = std::fs::metadata(place.folder.path().join("notes.db-wal")).unwrap().len();
    assert!(wal < (2 * 6) << 20, "the WAL has {wal} bytes");
}

#[test]
fn opening_checkpoints_the_wal_of_a_killed_process() {
    let place = Place::new();
    let db = place.open();
    db.write(Durability::Relaxed, insert(1)).unwrap();
    let copy = Place::new();
    for name in ["notes.db", "notes.db-wal"] {
        std::fs::copy(place.folder.path().join(name), copy.folder.path().join(name)).unwrap();
    }
    let copied = Database::open(copy.file(), &SCHEMA, patient()).unwrap();
    let wal = std::fs::metadata(copy.folder.path().join("notes.db-wal")).unwrap().len();
    assert_eq!((ids(&copied).as_slice(), wal), (&[1][..], 0));
}
