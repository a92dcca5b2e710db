//! Replacing a file: the new one is complete, and no file of the old one is left that SQLite would use.

use landfall_storage::{Database, Durability, OpenError, Replacement};

use crate::support::{Place, SCHEMA, ids, insert, patient};

/// Makes a file with these rows that no process has open.
fn file_of(place: &Place, name: &str, rows: &[i64]) -> std::path::PathBuf {
    let path = place.folder.path().canonicalize().unwrap().join(name);
    let db = Database::open(&path, &SCHEMA, patient()).unwrap();
    rows.iter().for_each(|id| {
        db.write(Durability::Full, insert(*id)).unwrap();
    });
    db.close().unwrap();
    path
}

#[test]
fn a_replaced_file_is_kept_with_the_content_of_its_wal() {
    let place = Place::new();
    let (old, new) = (file_of(&place, "notes.db", &[1]), file_of(&place, "new.db", &[7]));
    // As a killed process leaves it: the last row is in the WAL only.
    let wal = place.folder.path().join("notes.db-wal");
    let db = place.open();
    db.write(Durability::Full, insert(2)).unwrap();
    let (file, in_wal) = (std::fs::read(&old).unwrap(), std::fs::read(&wal).unwrap());
    db.close().unwrap();
    std::fs::write(&old, file).unwrap();
    std::fs::write(&wal, in_wal).unwrap();

    let keep = place.folder.path().join("kept.db");
    let replacement = Replacement::begin(&old, true).unwrap();
    assert!(replacement.is_there());
    replacement.put(&new, Some(&keep)).unwrap();
    drop(replacement);
    assert_eq!(ids(&place.open()), [7]);
    assert_eq!(ids(&Database::open(&keep, &SCHEMA, patient()).unwrap()), [1, 2]);
    assert!(!new.exists());
}

#[test]
fn a_damaged_file_is_replaced_and_kept_unchanged() {
    let place = Place::new();
    let (old, new) = (place.file(), file_of(&place, "new.db", &[7]));
    std::fs::write(&old, b"rubbish").unwrap();
    std::fs::write(place.folder.path().join("notes.db-wal"), b"more rubbish").unwrap();
    let keep = place.folder.path().join("kept.db");
    Replacement::begin(&old, true).unwrap().put(&new, Some(&keep)).unwrap();
    assert_eq!(ids(&place.open()), [7]);
    assert_eq!(std::fs::read(&keep).unwrap(), b"rubbish");
    let kept_wal = std::fs::read(place.folder.path().join("kept.db-wal")).unwrap();
    assert_eq!(kept_wal, b"more rubbish");
}

#[test]
fn a_file_in_use_is_not_replaced_and_an_old_copy_is_not_overwritten() {
    let place = Place::new();
    let new = file_of(&place, "new.db", &[7]);
    let db = place.open();
    db.write(Durability::Full, insert(1)).unwrap();
    let refused = Replacement::begin(place.file(), true).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    db.close().unwrap();
    let keep = place.folder.path().join("kept.db");
    std::fs::write(&keep, b"an older one").unwrap();
    let replacement = Replacement::begin(place.file(), true).unwrap();
    replacement.put(&new, Some(&keep)).unwrap_err();
    drop(replacement);
    assert_eq!(ids(&place.open()), [1]);
    assert_eq!(std::fs::read(&keep).unwrap(), b"an older one");
}
