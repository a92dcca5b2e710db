//! A second process, played by this test binary: it runs one test of its own, told by a variable.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use landfall_storage::{Database, Durability, OpenError, WriteError, rusqlite};

use crate::support::{Place, SCHEMA, ids, insert, patient};

const CHILD_FILE: &str = "LANDFALL_STORAGE_TEST_FILE";

/// Not a test unless a parent started it: opens the file, writes, and lives until it is killed.
#[test]
fn child_that_holds_the_file() {
    let Some(path) = std::env::var_os(CHILD_FILE) else { return };
    let db = Database::open(path, &SCHEMA, patient()).unwrap();
    db.write(Durability::Relaxed, insert(1)).unwrap();
    println!("\nready");
    // Ends with the parent, at the latest.
    let _ = std::io::stdin().read(&mut [0; 1]);
    drop(db);
}

fn start_child(place: &Place) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
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
fn a_second_handle_in_this_process_is_refused_too() {
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
fn the_sqlite_inside_resets_its_wal_safely() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", Database::sqlite_version());
}
