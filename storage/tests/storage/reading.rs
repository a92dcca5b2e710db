//! Reads: snapshots, a bounded pool, and no way to write.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use landfall_storage::{
    BackupError, Database, Durability, FailureClass, Options, ReadError, rusqlite,
};
use rusqlite::Connection;

use crate::support::{PATIENCE, Place, SCHEMA, ids, insert, patient};

fn count(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT count(*) FROM note", [], |row| row.get(0))
}

#[test]
fn one_read_is_one_snapshot() {
    let place = Place::new();
    let db = place.open();
    let (first, second) = db
        .read(|conn| {
            let first = count(conn)?;
            db.write(Durability::Full, insert(1)).unwrap();
            Ok::<_, rusqlite::Error>((first, count(conn)?))
        })
        .unwrap();
    assert_eq!((first, second), (0, 0));
    assert_eq!(ids(&db), [1]);
}

#[test]
fn reads_cannot_write_and_a_panic_in_one_costs_no_connection() {
    let place = Place::new();
    let memory = Database::open_in_memory(&SCHEMA, patient()).unwrap();
    for db in [place.open_with(Options { readers: 1, ..patient() }), memory] {
        let error = db.read(|conn| conn.execute("DELETE FROM note", [])).unwrap_err();
        assert_eq!(error.class(), FailureClass::ReadOnly, "{error:?}");
        let reader = db.open_reader().unwrap();
        let error = reader.with(|conn| conn.execute("DELETE FROM note", [])).unwrap_err();
        assert_eq!(error.class(), FailureClass::ReadOnly, "{error:?}");

        let panicking = thread::spawn({
            let db = db.clone();
            move || db.read(|_| -> rusqlite::Result<()> { panic!("on purpose") })
        });
        assert!(panicking.join().is_err());
        db.write(Durability::Full, insert(1)).unwrap();
        assert_eq!(ids(&db), [1]);
        assert_eq!(reader.with(count).unwrap(), 1);
    }
}

#[test]
fn a_reader_beyond_the_pool_waits() {
    let place = Place::new();
    let db = place.open_with(Options { readers: 1, ..patient() });
    let (sender, receiver) = mpsc::channel();
    let second = db
        .read(|_| {
            let db = db.clone();
            let second = thread::spawn(move || {
                let read = db.read(count).unwrap();
                sender.send(read).unwrap();
            });
            // That an event does not happen can only be observed for a limited time.
            assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
            Ok::<_, rusqlite::Error>(second)
        })
        .unwrap();
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), 0);
    second.join().unwrap();
}

#[test]
fn in_memory_reads_see_what_was_committed() {
    let db = Database::open_in_memory(&SCHEMA, patient()).unwrap();
    assert!(db.path().is_none());
    db.write(Durability::Full, insert(1)).unwrap();
    assert_eq!(ids(&db), [1]);
    let inner = db.clone();
    let inside_a_job =
        db.write(Durability::Full, move |_| Ok::<_, rusqlite::Error>(inner.read(count).is_err()));
    assert!(inside_a_job.unwrap().value, "a read within a job would wait for itself");
    assert!(db.size_bytes().unwrap() > 0);
}

#[test]
fn a_failed_read_keeps_its_own_error() {
    let place = Place::new();
    let db = place.open();
    let error = db.read(|conn| conn.execute("SELECT * FROM nowhere", [])).unwrap_err();
    assert!(matches!(error, ReadError::Query(_)), "{error:?}");
}

#[test]
fn a_copy_has_one_consistent_state_and_overwrites_nothing() {
    let place = Place::new();
    let memory = Database::open_in_memory(&SCHEMA, patient()).unwrap();
    for (name, db) in [("of-file.db", place.open()), ("of-memory.db", memory)] {
        let target = place.folder.path().join(name);
        db.write(Durability::Full, insert(1)).unwrap();
        db.backup_to(&target).unwrap();
        db.write(Durability::Full, insert(2)).unwrap();
        assert!(matches!(db.backup_to(&target), Err(BackupError::Exists { .. })));
        let copy = Database::open(&target, &SCHEMA, patient()).unwrap();
        assert_eq!(ids(&copy), [1]);
        assert!(db.size_bytes().unwrap() > 0);
    }
}
