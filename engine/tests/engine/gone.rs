//! The store's file is removed while the store is open: no later change is reported as saved.

use std::fs;
use std::path::Path;

use landfall::automerge::{ROOT, ReadDoc, transaction::Transactable};
use landfall::{ChangeError, Options, Store, StoreFailure};

type Deed = fn(&Path);

const DEEDS: [(&str, Deed); 4] = [
    ("removed", |file| fs::remove_file(file).unwrap()),
    ("renamed away", |file| fs::rename(file, file.with_extension("away")).unwrap()),
    ("replaced by a backup", |file| {
        let other = file.with_extension("backup");
        Store::open(&other, Options::default()).unwrap().close().unwrap();
        fs::rename(&other, file).unwrap();
    }),
    ("gone with its folder", |file| fs::remove_dir_all(file.parent().unwrap()).unwrap()),
];

#[test]
fn no_change_succeeds_once_the_file_is_removed() {
    for (case, deed) in DEEDS {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let file = data.join("notes.db");
        let store = Store::open(&file, Options::default()).unwrap();
        let space = store.space("default").unwrap();
        let note = space.create(|tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap().0;
        // Opened now: a later connection finds another file.
        assert!(space.contains(&note.id()).unwrap());
        let before = note.heads().unwrap();
        assert_eq!((store.status().store_failed, space.status().unwrap().not_on_disk), (None, 0));
        deed(&file);
        for _ in 0..2 {
            let error = note.change(|tx| Ok(tx.put(ROOT, "k", 2)?)).unwrap_err();
            let ChangeError::Store(failure) = &error else { panic!("{case}: {error}") };
            assert_eq!(failure.class, StoreFailure::Gone, "{case}: {error}");
        }
        let failed = store.status().store_failed.unwrap();
        assert_eq!(failed.class, StoreFailure::Gone, "{case}");
        assert!(failed.what.contains("notes.db"), "{case}: {}", failed.what);
        let status = space.status().unwrap();
        assert_eq!(
            status.not_on_disk, status.changes,
            "{case}: the status claims that something is saved"
        );
        // A read that needs a connection of its own finds no file.
        let claims = note
            .status()
            .map_or_else(|error| error.class != StoreFailure::Gone, |status| status.on_disk);
        assert!(!claims, "{case}");
        // The former contents can be read, to be saved elsewhere.
        assert_eq!(note.heads().unwrap(), before, "{case}");
        let value = note.read(|doc| doc.get(ROOT, "k").unwrap().unwrap().0.as_i64()).unwrap();
        assert_eq!(value, Some(1), "{case}");
        assert_eq!(store.close().unwrap_err().class, StoreFailure::Gone, "{case}");
    }
}
