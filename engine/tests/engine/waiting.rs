//! Waiting for documents, and listening to one of them or to a space.

use std::time::Duration;

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{DocumentId, Event, EventKind, Options, Space, Store, SyncStatus, WaitError};

/// How long a test waits for an immediate event. Not a figure: a machine may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

fn space() -> (Store, Space) {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("default").unwrap();
    (store, space)
}

/// A document that is the same in every store.
fn create(space: &Space) -> DocumentId {
    space.create_named("known", |tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap().id()
}

#[test]
fn a_wait_returns_when_the_document_arrives_or_at_once() {
    let (_other, other) = space();
    let id = create(&other);
    assert_eq!(other.wait_for(id, Duration::ZERO).unwrap().id(), id);
    let (_store, space) = space();
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| space.wait_for(id, PATIENCE).map(|found| found.get::<i64>("k")));
        // Other documents do not end the wait.
        space.create(|_| Ok(())).unwrap();
        create(&space);
        assert_eq!(waiting.join().unwrap().unwrap().unwrap(), 1);
    });
}

#[test]
fn a_wait_that_times_out_reports_the_reason() {
    let (_other, other) = space();
    let id = create(&other);
    let (store, space) = space();
    let outcome = space.wait_for(id, Duration::from_millis(20)).map(drop);
    let Err(error @ WaitError::TimedOut { .. }) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("offline; call `connect`"), "{error}");
    let WaitError::TimedOut { document, sync, .. } = error else { unreachable!() };
    assert_eq!((document, sync), (id, Some(SyncStatus::Offline)));
    assert_eq!(create(&space), id);
    space.delete(id).unwrap();
    let outcome = space.wait_for(id, PATIENCE).map(drop);
    assert!(matches!(outcome, Err(WaitError::Deleted { document }) if document == id));
    let never = DocumentId::from_bytes([7; 16]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| space.wait_for(never, PATIENCE).map(drop));
        store.close().unwrap();
        let outcome = waiting.join().unwrap();
        assert!(matches!(outcome, Err(WaitError::Store(_))), "{outcome:?}");
    });
}

#[test]
fn listeners_of_a_space_and_a_document_get_their_events_with_patches() {
    let (store, space) = space();
    let elsewhere = store.space("elsewhere").unwrap();
    let (one, other) = (space.create(|_| Ok(())).unwrap().0, space.create(|_| Ok(())).unwrap().0);
    let (mut of_one, mut of_space) = (one.events(), space.events());
    other.change(|tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap();
    elsewhere.create(|_| Ok(())).unwrap();
    one.change(|tx| Ok(tx.put(ROOT, "k", 2)?)).unwrap();
    let of = |event: Event| match event.kind {
        EventKind::Changed { patches, .. } => (event.document, patches.map(|all| all.len())),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(of_one.next_blocking().unwrap().unwrap()), (one.id(), Some(1)));
    assert_eq!(of(of_space.next_blocking().unwrap().unwrap()), (other.id(), Some(1)));
    assert_eq!(of(of_space.next_blocking().unwrap().unwrap()), (one.id(), Some(1)));
    assert!(of_one.try_next().is_none() && of_space.try_next().is_none());
    store.close().unwrap();
    assert!(of_one.next_blocking().is_none(), "it ends with the store");
}
