//! Opening a store that is in use, is not a store, or is of a later version.

use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use landfall::automerge::{ROOT, ReadDoc, transaction::Transactable};
use landfall::{ChangeError, ConnectError, Document, OpenError, Options, Store, StoreFailure};
use landfall_tests::process::{Relay, binary};
use landfall_tests::replica::open;

/// Offset of the application's version number in SQLite's file header.
const USER_VERSION_AT: u64 = 60;

/// Another process that has a store open; killed when dropped.
struct Holder(Child);

impl Holder {
    fn start(store: &Path) -> Self {
        let mut child = Command::new(binary("typist"))
            .arg(store)
            // No relay has to answer: editing works without one.
            .args(["ws://127.0.0.1:9", "default"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().starts_with("change") {}
        // Reads on, so that the pipe does not fill and block the child; ends with the child.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_process_writes_a_store_while_others_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let holder = Holder::start(&path);
    let error = Store::open(&path, Options::default()).err().expect("the store is in use");
    let OpenError::StoreInUse { path: named, holder: who } = &error else { panic!("{error}") };
    assert_eq!(named, &path);
    assert!(who.contains(&holder.0.id().to_string()), "{error}");
    let beside = Store::open_read_only(&path, Options::default()).unwrap();
    let space = beside.space("default").unwrap();
    let documents = space.documents().unwrap();
    let documents: Vec<_> = documents.into_iter().map(|id| space.open(id).unwrap()).collect();
    // So far it may have written to one of its documents only.
    let keys = |document: &Document| document.read(|doc| doc.length(ROOT)).unwrap();
    assert!(documents.iter().any(|document| keys(document) > 0));
    let document = &documents[0];
    let refused = document.change(|tx| Ok(tx.put(ROOT, "who", "a reader")?)).unwrap_err();
    let ChangeError::Store(failure) = &refused else { panic!("{refused}") };
    assert_eq!(failure.class, StoreFailure::ReadOnly, "{refused}");
    assert!(matches!(beside.connect("ws://127.0.0.1:9"), Err(ConnectError::ReadOnly)));
    drop(holder);
    open(&path).close().unwrap();
}

#[test]
fn a_file_that_is_not_a_store_is_reported_and_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("letter.txt");
    fs::write(&text, "Dear reader, this is no database at all.\n".repeat(50)).unwrap();
    let relays = folder.path().join("relay");
    Relay::start(&relays, 0).kill();
    let before = fs::read(&text).unwrap();
    for path in [&text, &relays.join("relay.db")] {
        let error = Store::open(path, Options::default()).err().expect("the file is not a store");
        assert!(matches!(&error, OpenError::NotAStore { path: named, .. } if named == path));
        assert!(error.to_string().contains("choose another path"), "{error}");
    }
    assert!(fs::read(&text).unwrap() == before, "the file was changed");
    Relay::start(&relays, 0);
}

#[test]
fn a_newer_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    open(&path).close().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(USER_VERSION_AT)).unwrap();
    file.write_all(&9_999_u32.to_be_bytes()).unwrap();
    drop(file);
    let error = Store::open(&path, Options::default()).err().expect("the store is newer");
    assert!(matches!(error, OpenError::TooNew { found: 9_999, .. }), "{error}");
}
