//! Files that disappear under an open database: no later commit is reported, and files that take over
//! their names are not touched.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use landfall_storage::{
    Database, Durability, FailureClass, Gone, Options, StorageError, WriteError,
};

use crate::support::{PATIENCE, Place, SCHEMA, ids, insert, insert_bytes, patient};

fn beside(file: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// An operation on the files of an open database, in their folder.
type Deed = fn(&Path);

fn remove(file: &Path, suffix: &str) {
    fs::remove_file(beside(file, suffix)).unwrap();
}

/// A complete database of the same schema that no process has open.
fn another(file: &Path) -> std::path::PathBuf {
    let path = beside(file, ".other");
    let db = Database::open(&path, &SCHEMA, patient()).unwrap();
    db.write(Durability::Full, insert(77)).unwrap();
    db.close().unwrap();
    path
}

const CASES: [(&str, Gone, Deed); 9] = [
    ("folder removed", Gone::Removed, |file| fs::remove_dir_all(file.parent().unwrap()).unwrap()),
    ("folder renamed", Gone::Removed, |file| {
        let folder = file.parent().unwrap();
        fs::rename(folder, folder.with_extension("away")).unwrap();
    }),
    ("file removed", Gone::Removed, |file| remove(file, "")),
    ("file renamed", Gone::Removed, |file| fs::rename(file, beside(file, ".away")).unwrap()),
    ("another renamed over it", Gone::Replaced, |file| fs::rename(another(file), file).unwrap()),
    ("another copied over it", Gone::Overwritten, |file| {
        fs::copy(another(file), file).map(drop).unwrap();
    }),
    ("WAL removed", Gone::Removed, |file| remove(file, "-wal")),
    ("index of the WAL removed", Gone::Removed, |file| remove(file, "-shm")),
    ("lock file removed", Gone::Removed, |file| remove(file, ".lock")),
];

/// A folder that a test can remove, and a database in it with one row.
fn opened(place: &Place, options: Options) -> (std::path::PathBuf, Database) {
    let folder = place.folder.path().canonicalize().unwrap().join("data");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("notes.db");
    let db = Database::open(&file, &SCHEMA, options).unwrap();
    db.write(Durability::Full, insert(1)).unwrap();
    (file, db)
}

#[test]
fn nothing_commits_to_files_that_are_gone() {
    for (case, how, deed) in CASES {
        let place = Place::new();
        let (file, db) = opened(&place, patient());
        deed(&file);
        for durability in [Durability::Relaxed, Durability::Full] {
            let error = db.write(durability, insert(2)).unwrap_err();
            assert_eq!(error.class(), FailureClass::Gone, "{case}: {error:?}");
            let WriteError::Commit(error) = error else { panic!("{case}: {error:?}") };
            let StorageError::Gone(gone) = &*error else { panic!("{case}: {error:?}") };
            assert_eq!(gone.how, how, "{case}");
        }
        assert_eq!(db.gone().map(|gone| gone.how), Some(how), "{case}");
        assert_eq!(db.close().unwrap_err().class(), FailureClass::Gone, "{case}");
    }
}

/// The commit itself succeeds, in a file that has no name any more.
#[test]
fn a_commit_during_which_the_file_is_removed_fails() {
    let place = Place::new();
    let (file, db) = opened(&place, patient());
    assert_eq!(ids(&db), [1]);
    let (sender, receiver) = mpsc::channel();
    let job = move |tx: &rusqlite::Transaction<'_>| {
        insert(2)(tx)?;
        remove(&file, "");
        Ok::<_, rusqlite::Error>(())
    };
    db.submit(Durability::Full, job, move |result| sender.send(result).unwrap());
    let result = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(result.unwrap_err().class(), FailureClass::Gone);
    // Reads continue: they are the only way to save the data elsewhere.
    assert!(!ids(&db).is_empty());
}

#[test]
fn an_idle_database_notices_gone_files_and_reports_them_once() {
    let place = Place::new();
    let look_at_files = Duration::from_millis(10);
    let (file, db) = opened(&place, Options { look_at_files, ..patient() });
    let (sender, receiver) = mpsc::channel();
    let again = sender.clone();
    db.on_gone(Box::new(move |gone| sender.send(gone.how).unwrap()));
    remove(&file, "");
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(Gone::Removed));
    // A later callback is called at once; the first is not called again.
    db.on_gone(Box::new(move |gone| again.send(gone.how).unwrap()));
    assert_eq!(receiver.try_recv(), Ok(Gone::Removed));
    assert!(db.write(Durability::Full, insert(2)).is_err());
    drop(db);
    assert!(receiver.recv_timeout(PATIENCE).is_err(), "reported twice");
}

/// Closing a database empties and removes its WAL by name.
#[test]
fn new_files_with_the_old_names_are_left_alone() {
    let place = Place::new();
    let (file, db) = opened(&place, patient());
    let folder = file.parent().unwrap();
    fs::rename(folder, folder.with_extension("away")).unwrap();
    fs::create_dir(folder).unwrap();
    let new = Database::open(&file, &SCHEMA, patient()).unwrap();
    new.write(Durability::Full, insert(5)).unwrap();
    assert_eq!(db.write(Durability::Full, insert(2)).unwrap_err().class(), FailureClass::Gone);
    assert!(db.close().is_err());
    drop(db);
    new.write(Durability::Full, insert(6)).unwrap();
    assert_eq!(ids(&new), [5, 6]);
    new.close().unwrap();
    assert_eq!(ids(&Database::open(&file, &SCHEMA, patient()).unwrap()), [5, 6]);
}

/// A new connection must not open another file than the earlier ones.
#[test]
fn a_reader_is_not_opened_on_another_file() {
    let place = Place::new();
    let (file, db) = opened(&place, patient());
    let reading = Database::open_read_only(&file, &SCHEMA, patient()).unwrap();
    fs::rename(another(&file), &file).unwrap();
    for db in [&db, &reading] {
        let read = db.read(|conn| conn.query_row("SELECT 1", [], |_| Ok(())));
        assert_eq!(read.unwrap_err().class(), FailureClass::Gone);
        assert_eq!(db.open_reader().err().map(|error| error.class()), Some(FailureClass::Gone));
    }
}

#[test]
fn a_file_system_mounted_over_the_folder_hides_the_files() {
    let place = Place::new();
    let (file, db) = opened(&place, patient());
    let folder = file.parent().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(folder).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        return println!("SKIPPED (needs root): nothing can be mounted");
    }
    let written = db.write(Durability::Full, insert(2));
    Command::new("umount").arg("-l").arg(folder).output().unwrap();
    assert_eq!(written.unwrap_err().class(), FailureClass::Gone);
    // The path refers to the original file again, but the failure stays.
    assert_eq!(db.write(Durability::Full, insert(3)).unwrap_err().class(), FailureClass::Gone);
}

/// Checkpoints, copies, links and changed modes are not failures.
#[test]
fn links_copies_and_changed_modes_do_not_count_as_gone() {
    let place = Place::new();
    let (file, db) = opened(&place, patient());
    fs::hard_link(&file, beside(&file, ".link")).unwrap();
    fs::copy(&file, beside(&file, ".copy")).unwrap();
    db.backup_to(beside(&file, ".backup")).unwrap();
    db.look_at_files().unwrap();
    for round in 0..20 {
        // Large enough that pages move into the database now and then.
        db.write(Durability::Relaxed, insert_bytes(round + 10, 600_000)).unwrap();
        db.read(|conn| conn.query_row("SELECT count(*) FROM note", [], |_| Ok(()))).unwrap();
    }
    let mode = Command::new("chmod").arg("640").arg(&file).status();
    assert!(mode.is_ok_and(|changed| changed.success()));
    db.write(Durability::Full, insert(2)).unwrap();
    db.look_at_files().unwrap();
    db.close().unwrap();
}
