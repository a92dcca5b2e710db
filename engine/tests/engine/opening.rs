//! Opening, closing, and files that are no stores of this version.

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{
    ChangeError, ConnectError, FlushError, OpenDocumentError, OpenError, Options, SpaceError,
    Store, StoreFailure,
};
use std::time::Duration;

#[test]
fn saved_changes_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.landfall");
    let store = Store::open(&path, Options::default()).unwrap();
    let id = {
        let space = store.space("default").unwrap();
        let note = space.create(|tx| Ok(tx.put(ROOT, "k", "v")?)).unwrap().0;
        note.change(|tx| Ok(tx.put(ROOT, "k", "w")?)).unwrap();
        note.id()
    };
    let replica = store.replica();
    store.close().unwrap();
    drop(store);
    let store = Store::open(&path, Options::default()).unwrap();
    assert_eq!(store.replica(), replica);
    let space = store.space("default").unwrap();
    assert_eq!(space.documents().unwrap(), [id]);
    assert_eq!(space.open(id).unwrap().status().unwrap().changes, 2);
    assert_eq!(store.status().pending().changes, 2, "no relay was connected before");
    let missing = landfall::DocumentId::from_bytes([1; 16]);
    assert!(matches!(space.open(missing), Err(OpenDocumentError::Unknown { .. })));
}

#[test]
fn a_store_is_open_once_and_readable_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = Store::open(&path, Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let note = space.create(|tx| Ok(tx.put(ROOT, "k", "v")?)).unwrap().0;
    let Err(OpenError::StoreInUse { holder, .. }) = Store::open(&path, Options::default()) else {
        panic!("it opened twice")
    };
    assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    let reader = Store::open_read_only(&path, Options::default()).unwrap();
    let beside = reader.space("default").unwrap();
    let read = beside.open(note.id()).unwrap();
    assert_eq!(read.heads().unwrap(), note.heads().unwrap());
    let refused = read.change(|tx| Ok(tx.put(ROOT, "k", "w")?));
    let Err(ChangeError::Store(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.class, StoreFailure::ReadOnly);
    assert!(matches!(reader.space("new"), Err(SpaceError::Unknown(_))));
    assert!(matches!(reader.connect("ws://127.0.0.1:1"), Err(ConnectError::ReadOnly)));
}

#[test]
fn a_file_that_is_not_a_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letter.txt");
    std::fs::write(&path, "Dear reader, this is not a database. ".repeat(100)).unwrap();
    let refused = Store::open(&path, Options::default()).err();
    assert!(matches!(refused, Some(OpenError::NotAStore { .. })), "{refused:?}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("Dear reader"));
    let nowhere = Store::open(folder.path().join("no/such/folder"), Options::default()).err();
    assert!(matches!(nowhere, Some(OpenError::Storage(_))), "{nowhere:?}");
}

#[test]
fn a_closed_store_fails_as_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("s"), Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let note = space.create(|tx| Ok(tx.put(ROOT, "k", "v")?)).unwrap().0;
    let mut events = store.events();
    store.close().unwrap();
    store.close().unwrap();
    let refused = note.change(|tx| Ok(tx.put(ROOT, "k", "w")?));
    let Err(ChangeError::Store(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.class, StoreFailure::Closed);
    assert!(events.next_blocking().is_none(), "the stream ends");
    assert!(matches!(store.connect("ws://127.0.0.1:9"), Err(ConnectError::Closed)));
}

#[test]
fn invalid_names_and_urls_are_refused() {
    let store = Store::in_memory(Options::default()).unwrap();
    assert!(matches!(store.space("../x"), Err(SpaceError::BadName(_))));
    assert!(matches!(store.connect("http://x"), Err(ConnectError::BadUrl { .. })));
}

#[test]
fn flush_offline_reports_the_pending_changes() {
    let store = Store::in_memory(Options::default()).unwrap();
    store.flush_blocking(Duration::from_secs(60)).unwrap();
    store.space("default").unwrap().create(|_| Ok(())).unwrap();
    let error = store.flush_blocking(Duration::from_secs(60)).unwrap_err();
    let FlushError::Offline { pending, .. } = &error else { panic!("{error}") };
    assert_eq!(pending.changes, 1);
    // A relay that is not there: the call times out with the reason.
    store.connect("ws://127.0.0.1:9").unwrap();
    let error = store.flush_blocking(Duration::from_millis(300)).unwrap_err();
    assert!(matches!(&error, FlushError::TimedOut { .. }), "{error}");
    store.go_offline();
    let error = store.flush_blocking(Duration::from_secs(60)).unwrap_err();
    assert!(matches!(&error, FlushError::Offline { last_error: Some(_), .. }), "{error}");
}
