//! Tests with a second process: this test binary, which an environment variable makes run one test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use landfall_storage::{Database, Durability, OpenError, WriteError, rusqlite};

use crate::support::{Place, SCHEMA, ids, insert, insert_bytes, patient};

const CHILD_FILE: &str = "LANDFALL_STORAGE_TEST_FILE";

/// If set, the child writes one row after the other.
const CHILD_WRITES: &str = "LANDFALL_STORAGE_TEST_WRITES";

/// Only acts if a parent started it: opens the file, writes, and lives until it is killed.
#[test]
fn child_that_holds_the_file() {
    let Some(path) = std::env::var_os(CHILD_FILE) else { return };
    let db = Database::open(path, &SCHEMA, patient()).unwrap();
    db.write(Durability::Relaxed, insert(1)).unwrap();
    println!("\nready");
    if std::env::var_os(CHILD_WRITES).is_some() {
        (2..)
            .try_for_each(|id| db.write(Durability::Full, insert_bytes(id, 5_000)).map(drop))
            .unwrap();
    }
    // Ends with the parent at the latest.
    let _ = std::io::stdin().read(&mut [0; 1]);
    drop(db);
}

fn start_child(place: &Place) -> Child {
    start_child_of(place, Command::new(std::env::current_exe().unwrap()))
}

fn start_child_of(place: &Place, mut command: Command) -> Child {
    let mut child = command
        .args(["--exact", "two_processes::child_that_holds_the_file", "--nocapture"])
        .env(CHILD_FILE, place.file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "the child opened the file");
    child
}

#[test]
fn the_other_process_is_named_and_its_lock_dies_with_it() {
    let place = Place::new();
    let mut child = start_child(&place);
    match Database::open(place.file(), &SCHEMA, patient()).unwrap_err() {
        OpenError::InUse { path, holder } => {
            assert_eq!(path, place.file());
            assert_eq!(holder.pid, Some(child.id()));
            assert!(holder.process.is_some());
        }
        other => panic!("{other:?}"),
    }

    let visitor = Database::open_read_only(place.file(), &SCHEMA, patient()).unwrap();
    assert_eq!(ids(&visitor), [1], "a read-only handle sees what the other process committed");
    let refused = visitor.write(Durability::Full, insert(2)).unwrap_err();
    assert!(matches!(refused, WriteError::ReadOnly), "{refused:?}");
    visitor.close().unwrap();

    child.kill().unwrap();
    child.wait().unwrap();
    let db = place.open();
    assert_eq!(ids(&db), [1], "a relaxed commit survives the death of its process");
}

#[test]
fn a_second_handle_in_this_process_is_rejected() {
    let place = Place::new();
    let _db = place.open();
    let dotted = place.folder.path().join(".").join("notes.db");
    match Database::open(dotted, &SCHEMA, patient()).unwrap_err() {
        OpenError::InUse { holder, .. } => assert_eq!(holder.pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_the_file_is_the_same_file() {
    let place = Place::new();
    let _db = place.open();
    let link = place.folder.path().join("link.db");
    std::os::unix::fs::symlink(place.file(), &link).unwrap();
    let refused = Database::open(link, &SCHEMA, patient()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
}

#[test]
fn the_bundled_sqlite_resets_its_wal_safely() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", Database::sqlite_version());
}

#[test]
fn a_copy_is_made_while_another_process_writes() {
    let place = Place::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CHILD_WRITES, "1");
    let mut child = start_child_of(&place, command);
    let visitor = Database::open_read_only(place.file(), &SCHEMA, patient()).unwrap();
    let mut last = 0;
    for number in 0..6 {
        let target = place.folder.path().join(format!("copy-{number}.db"));
        match number % 2 {
            0 => visitor.backup_to(&target).unwrap(),
            _ => {
                let version = Database::copy_file(place.file(), &target, &SCHEMA, &patient());
                assert_eq!(version.unwrap(), 1);
            }
        }
        let copy = Database::open(&target, &SCHEMA, patient()).unwrap();
        let found = ids(&copy);
        assert!(found.iter().copied().eq(1..=found.len() as i64), "one snapshot: {found:?}");
        assert!(found.len() >= last, "a later copy has no less");
        last = found.len();
    }
    assert!(child.try_wait().unwrap().is_none(), "the process wrote all the time");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ids(&place.open()).len() >= last);
}

#[test]
fn the_remains_of_a_killed_copy_are_neither_used_nor_in_the_way() {
    let place = Place::new();
    let db = place.open();
    db.write(Durability::Full, insert(1)).unwrap();
    let target = place.folder.path().join("copy.db");
    let partial = place.folder.path().join("copy.db.partial");
    std::fs::write(&partial, b"half a copy").unwrap();
    db.backup_to(&target).unwrap();
    assert!(!partial.exists());
    // A copy that is killed between its last two steps has two names. Then the good one is moved away.
    std::fs::hard_link(&target, &partial).unwrap();
    let moved = place.folder.path().join("moved.db");
    std::fs::rename(&target, &moved).unwrap();
    db.write(Durability::Full, insert(2)).unwrap();
    db.backup_to(&target).unwrap();
    for (file, expected) in [(moved, vec![1]), (target, vec![1, 2])] {
        assert_eq!(ids(&Database::open(file, &SCHEMA, patient()).unwrap()), expected);
    }
}
