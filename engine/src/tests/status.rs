//! Status and events follow the commits: no later call can make them wrong.

use std::sync::mpsc;

use automerge::{ROOT, transaction::Transactable};
use landfall_protocol::Code;

use super::{put, store};
use crate::status::Status;
use crate::store::{CompactionOptions, LocalLog, Refused, SpaceRow};
use crate::{EventKind, Store, Upstream};

/// The status, read from the store again.
pub(super) fn stored(store: &Store) -> Status {
    let open = store.open_store();
    let notifier = crate::notify::Notifier::start(std::sync::Arc::default()).unwrap();
    let hub = crate::status::StatusHub::new(None, false, notifier);
    for (name, row, count) in open.context.log.spaces().unwrap() {
        let rejected = open.context.log.rejected(row).unwrap();
        hub.add_space(crate::status::SpaceFacts { name, row, count, rejected });
    }
    hub.watch().now()
}

/// The status, without the values that a store does not keep.
pub(super) fn told(store: &Store) -> Status {
    let mut status = store.status();
    status.loaded = crate::LoadedDocuments::default();
    (status.last_error, status.upstream, status.store_trouble) = (None, None, None);
    for space in status.spaces.values_mut() {
        (space.checks, space.drifted) = (0, 0);
        (space.received, space.deleted) = (0, 0);
    }
    status
}

fn wait<T: Send + 'static>(submit: impl FnOnce(crate::store::Done<T>)) -> T {
    let (sender, receiver) = mpsc::channel();
    submit(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap().value
}

fn meet(log: &LocalLog, upstream: u8, row: SpaceRow) {
    wait(|done| log.submit_attach(Upstream::from_bytes([upstream; 16]), row, done));
}

/// The writer thread reports a commit before its caller continues, so that the last commit in the store
/// is the last one in the status. The calls run while commits are delayed, so they all wait at the same
/// moment and are woken in any order.
#[test]
fn the_status_is_exact_once_all_writers_stop() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("s"), crate::Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let open = store.open_store();
    let row = open.space(space.name()).unwrap();
    meet(&open.context.log, 1, row);
    for round in 0..10 {
        let documents = [(); 6].map(|()| space.create(|_| Ok(())).unwrap().0);
        let hold = open.context.log.database().faults().hold_commits();
        std::thread::scope(|scope| {
            for (n, document) in documents.iter().enumerate() {
                let (space, open) = (&space, &open);
                scope.spawn(move || match n % 3 {
                    0 => space.delete(document.id()).unwrap(),
                    1 => put(document, "x").unwrap(),
                    _ => {
                        let what = "no".to_owned();
                        let id = document.id();
                        wait(|done| {
                            open.context.log.submit_reject(
                                row,
                                id,
                                Refused { code: Code::FORBIDDEN, what, deletion: false },
                                done,
                            )
                        });
                        if round % 2 == 0 {
                            space.retry(id).unwrap();
                        }
                    }
                });
            }
            drop(hold);
        });
        assert_eq!(told(&store), stored(&store), "round {round}");
    }
}

#[test]
fn a_deletion_sends_one_event_after_those_of_earlier_changes() {
    let store = store();
    let space = store.space("default").unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    let mut events = store.events();
    put(&document, "x").unwrap();
    space.delete(document.id()).unwrap();
    space.delete(document.id()).unwrap();
    let kinds: Vec<_> = std::iter::from_fn(|| events.try_next()).map(|e| e.unwrap().kind).collect();
    assert!(matches!(kinds[0], EventKind::Changed { .. }), "{kinds:?}");
    let deletions = |kind: &&EventKind| matches!(kind, EventKind::Deleted { .. });
    assert_eq!(kinds.iter().filter(deletions).count(), 1, "{kinds:?}");
    // It is on no relay.
    let status = document.status().unwrap();
    assert_eq!((status.changes, status.pending.changes), (1, 1));
    assert_eq!(store.status().pending().changes, 1);
}

/// A relay is connected between the submission of a write and its commit: later reports refer to that
/// relay, too.
#[test]
fn the_counts_describe_the_most_recent_relay() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("s"), crate::Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    let open = store.open_store();
    let row = open.space(space.name()).unwrap();
    meet(&open.context.log, 1, row);
    let locals = vec![landfall_protocol::Local(1)];
    let mark = super::store_support::Bench::mark(1);
    wait(|done| open.context.log.submit_acknowledged(row, locals, mark, done));
    assert_eq!(store.status().pending().changes, 0);
    let hold = open.context.log.database().faults().hold_commits();
    let (sender, receiver) = mpsc::channel();
    open.context.log.submit_attach(Upstream::from_bytes([2; 16]), row, Box::new(|_| ()));
    // Submitted while the first relay is still the one in use.
    let retried = Box::new(move |result: Result<_, _>| sender.send(result.map(drop)).unwrap());
    open.context.log.submit_retry(row, document.id(), retried);
    drop(hold);
    receiver.recv().unwrap().unwrap();
    assert_eq!(store.status().pending().changes, 1, "the second relay has nothing");
}

#[test]
fn the_status_shows_compacted_and_deleted_rejected_changes() {
    let store = store();
    let space = store.space("default").unwrap();
    let document = space.create(|_| Ok(())).unwrap().0;
    for n in 0..20 {
        document.change(|tx| Ok(tx.put(ROOT, "k", n)?)).unwrap();
    }
    let open = store.open_store();
    let row = open.space(space.name()).unwrap();
    let before = store.status().spaces["default"].bytes;
    crate::compactor::compact(&open.context.log, &CompactionOptions::EVERYTHING).unwrap();
    assert!(store.status().spaces["default"].bytes < before);
    meet(&open.context.log, 1, row);
    let (id, what) = (document.id(), "no".to_owned());
    wait(|done| {
        open.context.log.submit_reject(
            row,
            id,
            Refused { code: Code::FORBIDDEN, what, deletion: false },
            done,
        )
    });
    assert_eq!(document.status().unwrap().rejected.unwrap().code, Code::FORBIDDEN);
    assert_eq!(store.status().spaces["default"].rejected.len(), 1);
    space.delete(id).unwrap();
    assert_eq!(store.status().spaces["default"].rejected, []);
    assert_eq!(told(&store), stored(&store));
}

/// An idle store makes no write, so it wakes no disk: a search for dead rows only reads.
#[test]
fn a_search_for_compactions_writes_nothing() {
    let store = store();
    store.space("default").unwrap().create(|_| Ok(())).unwrap();
    let open = store.open_store();
    let before = open.context.log.database().faults().counters();
    crate::compactor::compact(&open.context.log, &CompactionOptions::EVERYTHING).unwrap();
    // The one change is compacted and its row removed; afterwards there is nothing to do.
    let compacted = open.context.log.database().faults().counters();
    assert!(compacted.commits > before.commits);
    for _ in 0..3 {
        crate::compactor::compact(&open.context.log, &CompactionOptions::EVERYTHING).unwrap();
    }
    assert_eq!(open.context.log.database().faults().counters(), compacted);
}
