//! Closing: queued writes finish, later writes are refused, and the file is released.

use std::sync::mpsc;
use std::time::Instant;

use landfall_storage::{Database, Durability, FailureClass, OpenError, WriteError};

use crate::support::{PATIENCE, Place, SCHEMA, ids, insert, outcome, patient, stopped, submit};

#[test]
fn closing_finishes_queued_jobs_and_rejects_later_ones() {
    let place = Place::new();
    let db = place.open();
    let reader = db.open_reader().unwrap();
    let (hold, _first) = stopped(&db);
    let queued: Vec<_> = (0..10).map(|id| submit(&db, Durability::Relaxed, insert(id))).collect();
    drop(hold);
    db.close().unwrap();
    for told in &queued {
        told.try_recv().expect("reported before close returned").unwrap();
    }
    assert_eq!(db.synced(), db.committed());

    db.close().unwrap();
    let error = db.write(Durability::Full, insert(99)).unwrap_err();
    assert!(matches!(error, WriteError::Closed), "{error:?}");
    assert!(outcome(&submit(&db, Durability::Full, insert(99))).is_err());
    assert_eq!(db.sync().unwrap_err().class(), FailureClass::Closed);
    assert_eq!(db.read(|_| Ok::<_, std::io::Error>(())).unwrap_err().class(), FailureClass::Closed);
    let closed = reader.with(|_| Ok::<_, std::io::Error>(())).unwrap_err();
    assert_eq!(closed.class(), FailureClass::Closed);
    assert_eq!(db.pragmas().unwrap_err().class(), FailureClass::Closed);
    drop(reader);

    // The old handle still exists, but the file is free.
    assert_eq!(ids(&place.open()).len(), 10);
}

#[test]
fn a_clean_close_leaves_no_wal_and_keeps_the_lock_file() {
    let place = Place::new();
    let db = place.open();
    db.write(Durability::Relaxed, insert(1)).unwrap();
    assert_eq!(ids(&db), [1]);
    drop(db);
    let mut left: Vec<_> = std::fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["notes.db", "notes.db.lock"]);
}

#[test]
fn the_last_clone_closes() {
    let place = Place::new();
    let db = place.open();
    let clone = db.clone();
    drop(db);
    clone.write(Durability::Full, insert(1)).unwrap();
    assert!(matches!(
        Database::open(place.file(), &SCHEMA, patient()),
        Err(OpenError::InUse { .. })
    ));
    drop(clone);
    assert_eq!(ids(&place.open()), [1]);
}

#[test]
fn a_callback_may_close() {
    let place = Place::new();
    let db = place.open();
    let (sender, receiver) = mpsc::channel();
    let inner = db.clone();
    let (hold, _first) = stopped(&db);
    db.submit(Durability::Full, insert(1), move |_| sender.send(inner.close().is_ok()).unwrap());
    drop(hold);
    assert!(receiver.recv_timeout(PATIENCE).unwrap());
    db.close().unwrap();
    assert_eq!(ids(&place.open()), [1]);
}

#[test]
fn a_callback_may_drop_the_last_handle() {
    let place = Place::new();
    let db = place.open();
    let (hold, _first) = stopped(&db);
    let (sender, receiver) = mpsc::channel();
    let (give, given) = mpsc::channel::<Database>();
    db.submit(Durability::Full, insert(1), move |_| {
        drop(given.recv_timeout(PATIENCE).unwrap());
        sender.send(()).unwrap();
    });
    give.send(db).unwrap();
    drop(hold);
    receiver.recv_timeout(PATIENCE).unwrap();
    // The thread ends by itself after the callback; only the lock shows when.
    let deadline = Instant::now() + PATIENCE;
    let again = loop {
        match Database::open(place.file(), &SCHEMA, patient()) {
            Ok(db) => break db,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    };
    assert_eq!(ids(&again), [1]);
}

#[test]
fn a_failed_final_fsync_is_reported_and_the_file_released() {
    let place = Place::new();
    let db = place.open();
    db.write(Durability::Relaxed, insert(1)).unwrap();
    db.faults().fail_next_commits(1, FailureClass::Io);
    assert_eq!(db.close().unwrap_err().class(), FailureClass::Io);
    assert!(db.synced() < db.committed());
    assert_eq!(ids(&place.open()), [1]);
}
