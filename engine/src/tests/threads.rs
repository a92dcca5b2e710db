//! A panic on a thread of the store: waiting callers receive an answer, the status shows it, and the
//! rest continues.

use std::time::{Duration, Instant};

use automerge::{ROOT, transaction::Transactable};

use super::put;
use crate::{
    ChangeError, CheckError, FlushError, LinkStatus, Options, Space, SpaceError, Status, Store,
    StoreFailure, StoreThread,
};

/// Nothing listens there.
const UNREACHABLE: &str = "ws://127.0.0.1:9";

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn panicked(status: &Status) -> Vec<StoreThread> {
    status.panicked.iter().map(|panic| panic.thread).collect()
}

/// Waits until the status has a panic of the thread.
fn await_panic(store: &Store, thread: StoreThread) -> Status {
    let status = store.watch().until_blocking(|status| panicked(status).contains(&thread)).unwrap();
    assert!(status.panicked[0].what.contains("ordered by a test"), "{:?}", status.panicked);
    status
}

fn with_a_space() -> (Store, Space) {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("s").unwrap();
    (store, space)
}

#[test]
fn after_a_panic_of_the_writer_changes_fail_and_the_status_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = Store::open(&path, Options::default()).unwrap();
    let document = store.space("s").unwrap().create(|_| Ok(())).unwrap().0;
    put(&document, "kept").unwrap();
    store.open_store().context.log.database().faults().panic_at_next_commit();
    for what in ["meets it", "comes later"] {
        let failed = put(&document, what).unwrap_err();
        let ChangeError::Store(error) = failed else { panic!("{failed:?}") };
        assert_eq!(error.class, StoreFailure::Panicked, "{what}: {error}");
        // The status shows it before any caller receives it.
        let status = store.status();
        assert_eq!(status.store_failed.as_ref().unwrap().class, StoreFailure::Panicked);
        assert_eq!(panicked(&status), [StoreThread::Writer]);
    }
    let made = store.space("another").err().unwrap();
    assert!(matches!(&made, SpaceError::Store(e) if e.class == StoreFailure::Panicked), "{made:?}");
    assert_eq!(super::text_of(&document), "\"kept\"", "reads still succeed");
    store.close().unwrap_err();
    let again = Store::open(&path, Options::default()).unwrap();
    assert_eq!(again.status().spaces["s"].changes, 2);
    assert_eq!(again.status().store_failed, None);
}

#[test]
fn after_a_panic_of_the_link_waiters_fail_and_connect_restarts_it() {
    let (store, space) = with_a_space();
    space.create(|_| Ok(())).unwrap();
    store.connect(UNREACHABLE).unwrap();
    let threads = &store.open_store().threads;
    let waiting = |store: Store| std::thread::spawn(move || store.flush_blocking(PATIENCE));
    let (flush, check) = (waiting(store.clone()), {
        let store = store.clone();
        std::thread::spawn(move || store.check_blocking())
    });
    while store.link().open_requests() < 2 {
        std::thread::yield_now();
    }
    threads.order_panic(StoreThread::Link);
    store.reconnect_now();
    let says = |error: &Option<String>| error.as_ref().is_some_and(|e| e.contains("panicked"));
    let flushed = flush.join().unwrap().unwrap_err();
    assert!(
        matches!(&flushed, FlushError::Offline { last_error, .. } if says(last_error)),
        "{flushed:?}"
    );
    let checked = check.join().unwrap().unwrap_err();
    assert!(
        matches!(&checked, CheckError::Offline { last_error } if says(last_error)),
        "{checked:?}"
    );
    let status = store.status();
    assert_eq!((status.link, panicked(&status)), (LinkStatus::Offline, vec![StoreThread::Link]));
    assert!(says(&status.last_error), "{status:?}");
    // Later requests are answered at once, too, and do not change the status.
    let later = store.flush_blocking(PATIENCE).unwrap_err();
    assert!(
        matches!(&later, FlushError::Offline { last_error, .. } if says(last_error)),
        "{later:?}"
    );
    assert!(matches!(store.check_blocking(), Err(CheckError::Offline { .. })));
    store.go_online();
    assert_eq!(store.status().link, LinkStatus::Offline);
    // A new thread reads the commands again.
    store.connect(UNREACHABLE).unwrap();
    let timed_out = store.flush_blocking(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(timed_out, FlushError::TimedOut { .. }), "{timed_out:?}");
    assert!(matches!(store.status().link, LinkStatus::Connecting { .. }));
    store.close().unwrap();
}

/// A `connect` beside a panic is taken up, or its refusal is in the status, whichever comes first.
#[test]
fn a_connect_during_a_panic_of_the_link_succeeds_or_shows_the_panic() {
    let (store, space) = with_a_space();
    space.create(|_| Ok(())).unwrap();
    for _ in 0..50 {
        store.connect(UNREACHABLE).unwrap();
        store.open_store().threads.order_panic(StoreThread::Link);
        std::thread::scope(|scope| {
            scope.spawn(|| store.reconnect_now());
            scope.spawn(|| store.connect(UNREACHABLE).unwrap());
        });
        // Wherever it ended: waiting callers are answered before their time runs out.
        let flushed = store.flush_blocking(Duration::from_millis(20)).unwrap_err();
        match flushed {
            FlushError::Offline { last_error, .. } => {
                assert!(last_error.unwrap().contains("panicked"));
            }
            FlushError::TimedOut { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    store.close().unwrap();
}

#[test]
fn after_a_panic_of_the_follower_reads_fail_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let writer = Store::open(&path, Options::default()).unwrap();
    let document = writer.space("s").unwrap().create(|_| Ok(())).unwrap().0;
    let options = Options { follow_every: Duration::MAX, ..Options::default() };
    let reader = Store::open_read_only(&path, options).unwrap();
    reader.space("s").unwrap();
    reader.open_store().threads.order_panic(StoreThread::Follow);
    put(&document, "not seen").unwrap();
    for _ in 0..2 {
        // The first call meets the panic, the second one comes later.
        let looked = reader.space("s").err().unwrap();
        let SpaceError::Store(error) = looked else { panic!("{looked:?}") };
        assert_eq!(error.class, StoreFailure::Panicked, "{error}");
        let status = reader.status();
        assert_eq!(status.store_failed.unwrap().class, StoreFailure::Panicked);
        assert_eq!(panicked(&await_panic(&reader, StoreThread::Follow)), [StoreThread::Follow]);
    }
    reader.close().unwrap();
}

#[test]
fn the_applier_continues_after_a_panic() {
    let (store, space) = with_a_space();
    let document = space.create(|_| Ok(())).unwrap().0;
    let mut other = document.read(|doc| doc.fork()).unwrap();
    store.open_store().threads.order_panic(StoreThread::Apply);
    for n in 0..3 {
        let mut tx = other.transaction();
        tx.put(ROOT, "n", n).unwrap();
        tx.commit();
        let change = other.get_last_local_change().unwrap();
        super::poisoned::append(&store, &document, change.raw_bytes());
        store.open_store().context.applier.notify(document.open());
    }
    await_panic(&store, StoreThread::Apply);
    let deadline = Instant::now() + PATIENCE;
    while document.heads().unwrap() != other.get_heads() {
        assert!(Instant::now() < deadline, "nothing is applied any more");
        std::thread::yield_now();
    }
}

#[test]
fn the_notifier_continues_after_a_panic() {
    let (store, space) = with_a_space();
    let document = space.create(|_| Ok(())).unwrap().0;
    let mut events = store.events();
    store.open_store().threads.order_panic(StoreThread::Notify);
    for n in 0..3 {
        let heard = std::thread::spawn(move || {
            let heard = events.next_blocking();
            (events, heard)
        });
        put(&document, &n.to_string()).unwrap();
        let (again, event) = heard.join().unwrap();
        event.unwrap().unwrap();
        events = again;
    }
    // No task may have needed a wake-up yet: then this one waits for the panic.
    let watching = store.clone();
    let watch = std::thread::spawn(move || await_panic(&watching, StoreThread::Notify));
    while !watch.is_finished() {
        put(&document, "wakes it").unwrap();
        put(&document, "again").unwrap();
    }
    watch.join().unwrap();
}

#[test]
fn the_compactor_continues_after_a_panic() {
    let options = Options { keep_recent: 0, keep_recent_age: Duration::ZERO, ..Options::default() };
    let store = Store::in_memory(options).unwrap();
    let document = store.space("s").unwrap().create(|_| Ok(())).unwrap().0;
    store.open_store().threads.order_panic(StoreThread::Compact);
    put(&document, "wakes it").unwrap();
    await_panic(&store, StoreThread::Compact);
    for n in 0..300 {
        put(&document, &n.to_string()).unwrap();
    }
    let open = store.open_store();
    let deadline = Instant::now() + PATIENCE;
    while open.context.log.compacted_changes(document.open().row, &document.id()).unwrap() == 0 {
        assert!(Instant::now() < deadline, "nothing is compacted any more");
        std::thread::yield_now();
    }
    store.close().unwrap();
}
