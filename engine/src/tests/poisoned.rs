//! Bytes that pass admission and that automerge cannot apply are contained.

use std::time::Duration;

use landfall_protocol::admission::preflight;
use landfall_test_rng::Rng;

use super::{put, text_of};
use crate::store::LocalChange;
use crate::{ChangeError, EventKind, Store};

/// A change on an object that does not exist, built by hand: `preflight` cannot detect that.
pub(super) fn poison(document: &crate::Document) -> Vec<u8> {
    use automerge::{ActorId, Automerge, ObjType, ROOT, transaction::Transactable};
    // A text created in one change and edited in the next; only the second is sent, with a header that
    // was changed to have no dependencies.
    let mut other = Automerge::new().with_actor(ActorId::from([9u8; 16]));
    let mut tx = other.transaction();
    let text = tx.put_object(ROOT, "text", ObjType::Text).unwrap();
    tx.commit();
    let mut expanded = {
        let mut tx = other.transaction();
        tx.splice_text(&text, 0, 0, "x").unwrap();
        tx.commit();
        other.get_last_local_change().unwrap().decode()
    };
    expanded.deps = document.heads().unwrap();
    expanded.seq = 1;
    expanded.actor_id = ActorId::from([9u8; 16]);
    expanded.start_op = 1_000.try_into().unwrap();
    expanded.hash = None;
    automerge::Change::from(expanded).raw_bytes().to_vec()
}

pub(super) fn append(store: &Store, document: &crate::Document, bytes: &[u8]) {
    let open = store.open_store();
    let change = preflight(bytes).expect("it passes the preflight");
    let local =
        LocalChange { space: document.open().row, document: document.id(), change, at_ms: 0 };
    open.context.log.append(landfall_storage::Durability::Full, vec![local], |_| ()).unwrap();
}

#[test]
fn a_poisoned_document_keeps_its_last_good_state_and_affects_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = Store::open(&path, crate::Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let (document, other) =
        (space.create(|_| Ok(())).unwrap().0, space.create(|_| Ok(())).unwrap().0);
    put(&document, "good").unwrap();
    let mut events = store.events();
    append(&store, &document, &poison(&document));
    store.open_store().context.applier.notify(document.open());
    let event = events.next_blocking().unwrap().unwrap();
    assert!(matches!(event.kind, EventKind::Quarantined { .. }), "{event:?}");
    assert_eq!(text_of(&document), "\"good\"");
    assert!(matches!(put(&document, "more"), Err(ChangeError::Quarantined { .. })));
    assert!(document.status().unwrap().quarantined.is_some());
    let listed = |store: &Store| -> Vec<_> {
        let unreadable = &store.status().spaces["default"].unreadable;
        unreadable.iter().map(|unreadable| unreadable.document).collect()
    };
    assert_eq!(listed(&store), [document.id()]);
    put(&other, "fine").unwrap();
    let id = document.id();
    drop((document, other, space, events));
    store.close().unwrap();
    drop(store);
    let store = Store::open(&path, crate::Options::default()).unwrap();
    assert_eq!(listed(&store), [id], "it is known from the beginning");
    let space = store.space("default").unwrap();
    let document = space.open(id).unwrap();
    let status = document.status().unwrap();
    assert!(!status.loaded && status.quarantined.is_some(), "it is known without loading it");
    assert_eq!(text_of(&document), "\"good\"", "and so after opening it again");
    assert_eq!(document.status().unwrap().changes, 3, "its bytes are kept");
    assert_eq!(listed(&store), [id]);
    store.flush_blocking(Duration::ZERO).unwrap_err();
    space.delete(id).unwrap();
    assert_eq!(listed(&store), []);
}

/// Damaged bytes in the store affect only their document.
#[test]
fn a_damaged_document_is_in_the_status_until_it_is_readable() {
    let store = super::store();
    let space = store.space("default").unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    put(&document, "fine").unwrap();
    let log = &store.open_store().context.log;
    let sql = |sql: &'static str| {
        log.database()
            .write(landfall_storage::Durability::Full, move |tx| tx.execute_batch(sql))
            .unwrap();
    };
    sql("UPDATE change SET body = CAST(body || x'00' AS BLOB)");
    assert!(document.open().try_unload());
    let _ = document.read(|_| ());
    let unreadable = store.status().spaces["default"].unreadable.clone();
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0].document, document.id());
    sql("UPDATE change SET body = substr(body, 1, length(body) - 1)");
    assert!(document.open().try_unload());
    assert_eq!(text_of(&document), "\"fine\"");
    assert_eq!(store.status().spaces["default"].unreadable, []);
}

/// SQLite itself cannot read the document's bytes in the file.
#[test]
fn a_document_that_sqlite_cannot_read_is_reported_and_affects_no_other() {
    use automerge::{ROOT, transaction::Transactable};

    use crate::{ReadError, StoreFailure};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = Store::open(&path, crate::Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let other = space.create(|_| Ok(())).unwrap().0.id();
    let mut rng = Rng::new(1);
    let bytes: Vec<u8> = (0..100_000).map(|_| rng.next_u64() as u8).collect();
    let long = space.create(|tx| Ok(tx.put(ROOT, "long", bytes.clone())?)).unwrap().0.id();
    drop(space);
    store.close().unwrap();
    let whole = std::fs::read(&path).unwrap();
    // A page in the middle of the value. Its first four bytes point to the next one.
    let middle = &bytes[50_000..50_032];
    let at = whole.windows(middle.len()).position(|window| window == middle).unwrap();
    let page = at / 4_096;
    let mut damaged = whole.clone();
    damaged[page * 4_096..][..4].fill(0xff);
    std::fs::write(&path, damaged).unwrap();
    let store = Store::open(&path, crate::Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let failed = space.open(long).unwrap().read(|_| ()).unwrap_err();
    let ReadError::Store(error) = failed else { panic!("{failed:?}") };
    assert_eq!(error.class, StoreFailure::Corrupt, "{error}");
    let unreadable = store.status().spaces["default"].unreadable.clone();
    let [listed] = &unreadable[..] else { panic!("{unreadable:?}") };
    assert!(listed.document == long && listed.reason.contains("damaged"), "{listed:?}");
    space.open(other).unwrap().read(|_| ()).unwrap();
    assert_eq!(store.status().spaces["default"].unreadable.len(), 1);
    drop(space);
    store.close().unwrap();
    std::fs::write(&path, whole).unwrap();
    let store = Store::open(&path, crate::Options::default()).unwrap();
    store.space("default").unwrap().open(long).unwrap().read(|_| ()).unwrap();
    assert_eq!(store.status().spaces["default"].unreadable, []);
}

/// The list of unreadable documents is bounded, and a flag shows that there are more.
#[test]
fn the_status_lists_unreadable_documents_up_to_a_limit() {
    let store = super::store();
    let space = store.space("default").unwrap();
    let row = store.open_store().space(space.name()).unwrap();
    let status = &store.open_store().context.status;
    let id = |n: usize| crate::DocumentId::from_bytes((n as u128).to_be_bytes());
    let listed = || {
        let space = store.status().spaces["default"].clone();
        (space.unreadable.len(), space.unreadable_more)
    };
    let why = || Some("no".to_owned());
    (0..crate::UNREADABLE_LISTED).for_each(|n| status.set_unreadable(row, id(n), why()));
    status.set_unreadable(row, id(0), why());
    assert_eq!(listed(), (crate::UNREADABLE_LISTED, false));
    status.set_unreadable(row, id(crate::UNREADABLE_LISTED), why());
    assert_eq!(listed(), (crate::UNREADABLE_LISTED, true));
    status.set_unreadable(row, id(7), None);
    status.set_unreadable(row, id(8), Some("again".to_owned()));
    assert_eq!(listed(), (crate::UNREADABLE_LISTED - 1, true), "the omitted document is unknown");
}

/// An earlier version of this software could not read it, this one can.
#[test]
fn a_document_that_an_older_version_could_not_read_is_retried() {
    let store = super::store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    put(&document, "fine").unwrap();
    let (open, row, id) = (store.open_store(), document.open().row, document.id());
    assert!(document.open().try_unload());
    open.context.log.submit_quarantine(row, id, Some("an old automerge".to_owned()));
    let note = || open.context.log.quarantine(row, &id).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while note().is_none() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    let status = document.status().unwrap();
    assert_eq!(status.quarantined.as_deref(), Some("an old automerge"));
    assert!(note().unwrap().version.starts_with(env!("CARGO_PKG_VERSION")));
    assert_eq!(text_of(&document), "\"fine\"");
    put(&document, "finer").unwrap();
    assert_eq!((note(), document.status().unwrap().quarantined), (None, None));
}
