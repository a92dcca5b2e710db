//! Application code never runs under a lock of the engine: calls in closures of other calls, with other
//! threads on the same documents. A watchdog fails the test where a call would wait for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use landfall::automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
use landfall::{ChangeError, Document, LinkStatus, Options, ReadError, Space, Store, StoreFailure};

/// Far longer than anything here takes: only a deadlock lasts this long.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Runs a closure on its own thread, and fails if it never ends.
fn ends<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(run());
    });
    match receiver.recv_timeout(WATCHDOG) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!(),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: a deadlock"),
    }
}

/// A store with two documents that are changed in place, and one to be deleted.
#[derive(Clone)]
struct World {
    store: Store,
    space: Space,
    a: Document,
    b: Document,
    spare: Document,
}

/// Long enough that a change does not begin with a clone.
fn long_document(space: &Space) -> Document {
    let document = space.create(|tx| Ok(tx.put(ROOT, "k", 0)?)).unwrap().0;
    document
        .change(|tx| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            Ok(tx.splice_text(&text, 0, 0, &"x".repeat(3_000))?)
        })
        .unwrap();
    document
}

fn world() -> World {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let [a, b] = [(); 2].map(|()| long_document(&space));
    let spare = space.create(|_| Ok(())).unwrap().0;
    World { store, space, a, b, spare }
}

fn put(document: &Document, value: i64) -> Result<(), ChangeError> {
    document.change(|tx| Ok(tx.put(ROOT, "k", value)?))
}

fn value(document: &Document) -> i64 {
    document.read(|doc| doc.get(ROOT, "k").unwrap().unwrap().0.as_i64().unwrap()).unwrap()
}

/// Threads that read, change and group both documents until they are dropped.
struct Contenders {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Contenders {
    fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let work: [fn(&World); 2] = [
            |world| {
                let _ = put(&world.b, 7).and_then(|()| put(&world.a, 7));
                let _ = world.b.read(|_| world.a.heads());
            },
            |world| {
                let _ = world.store.group(|group| {
                    group.change(&world.a, |tx| Ok(tx.put(ROOT, "k", 8)?))?;
                    group.change(&world.b, |tx| Ok(tx.put(ROOT, "k", 8)?))
                });
            },
        ];
        let thread = |work: fn(&World)| {
            let (world, stop) = (world.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work(&world);
                }
            })
        };
        Self { threads: work.into_iter().map(thread).collect(), stop }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// The result of an inner call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Fine,
    Reentrant,
}

fn of_change<T>(outcome: Result<T, ChangeError>) -> Came {
    match outcome {
        Ok(_) => Came::Fine,
        Err(ChangeError::Reentrant) => Came::Reentrant,
        Err(other) => panic!("{other}"),
    }
}

fn of_read<T>(outcome: Result<T, ReadError>) -> Came {
    match outcome {
        Ok(_) => Came::Fine,
        Err(ReadError::Reentrant) => Came::Reentrant,
        Err(other) => panic!("{other}"),
    }
}

type Inner = (&'static str, fn(&World) -> Came);

/// Calls that change a document, or end the store.
const CHANGING: [Inner; 9] = [
    ("change of the same", |w| of_change(put(&w.a, 1))),
    ("change of another", |w| of_change(put(&w.b, 1))),
    ("change_at", |w| of_change(w.b.change_at(&[], |_| Ok(())))),
    ("reconcile", |w| {
        of_change(w.spare.reconcile(&std::collections::HashMap::from([("k".to_owned(), 1)])))
    }),
    ("create", |w| of_change(w.space.create(|_| Ok(())))),
    ("create_named", |w| of_change(w.space.create_named("inner", |_| Ok(())))),
    ("group", |w| of_change(w.store.group(|group| group.change(&w.b, |_| Ok(()))))),
    ("empty group", |w| of_change(w.store.group(|_| Ok(())))),
    ("close", |w| match w.store.close() {
        Ok(()) => Came::Fine,
        Err(error) if error.class == StoreFailure::Reentrant => Came::Reentrant,
        Err(error) => panic!("{error}"),
    }),
];

/// Calls that never wait for a writer.
const OTHERS: [Inner; 13] = [
    ("read of another", |w| of_read(w.b.read(|doc| doc.length(ROOT)))),
    ("read in read", |w| of_read(w.b.read(|_| w.b.heads()).and_then(|inner| inner))),
    ("heads of another", |w| of_read(w.b.heads())),
    ("status of the same", |w| w.a.status().map(|_| Came::Fine).unwrap()),
    ("status", |w| {
        assert_eq!(w.store.status().spaces.len(), 1);
        Came::Fine
    }),
    ("until", |w| {
        let found = w.store.watch().until_blocking(|status| {
            w.store.status();
            status.link == LinkStatus::Offline
        });
        assert!(found.is_some());
        Came::Fine
    }),
    ("open", |w| w.space.open(w.b.id()).map(|_| Came::Fine).unwrap()),
    ("documents", |w| w.space.documents().map(|_| Came::Fine).unwrap()),
    ("delete", |w| w.space.delete(w.spare.id()).map(|()| Came::Fine).unwrap()),
    ("retry", |w| w.space.retry(w.b.id()).map(|()| Came::Fine).unwrap()),
    ("flush and check", |w| {
        w.store.flush_blocking(Duration::ZERO).unwrap_err();
        w.store.check_blocking().unwrap_err();
        Came::Fine
    }),
    ("connect and go offline", |w| {
        w.store.connect("ws://127.0.0.1:1").unwrap();
        w.store.go_offline();
        Came::Fine
    }),
    ("events and a handle dropped", |w| {
        w.store.events().try_next();
        drop(w.clone());
        Came::Fine
    }),
];

/// A call that runs a closure: whether it changes documents, and the call.
type Outer = (&'static str, bool, fn(&World, &dyn Fn(&World) -> Came) -> Came);

const OUTERS: [Outer; 10] = [
    ("read", false, |w, inner| w.a.read(|_| inner(w)).unwrap()),
    ("until", false, |w, inner| {
        let mut came = None;
        w.store.watch().until_blocking(|_| {
            came = Some(inner(w));
            true
        });
        came.unwrap()
    }),
    ("read in a read", false, |w, inner| w.b.read(|_| w.a.read(|_| inner(w)).unwrap()).unwrap()),
    ("change", true, |w, inner| {
        w.a.change(|tx| {
            tx.put(ROOT, "k", 2)?;
            Ok(inner(w))
        })
        .unwrap()
    }),
    ("change in a read", true, |w, inner| {
        w.a.read(|_| w.a.change(|_| Ok(inner(w))).unwrap()).unwrap()
    }),
    ("change_at", true, |w, inner| {
        let heads = w.a.heads().unwrap();
        w.a.change_at(&heads, |_| Ok(inner(w))).unwrap()
    }),
    ("create", true, |w, inner| {
        let mut came = None;
        w.space
            .create(|_| {
                came = Some(inner(w));
                Ok(())
            })
            .unwrap();
        came.unwrap()
    }),
    ("create_named", true, |w, inner| {
        let came = std::cell::Cell::new(None);
        let template = |_: &mut landfall::automerge::transaction::Transaction<'_>| {
            came.set(Some(inner(w)));
            Ok(())
        };
        w.space.create_named("outer", template).unwrap();
        came.get().unwrap()
    }),
    ("group", true, |w, inner| w.store.group(|_| Ok(inner(w))).unwrap()),
    ("change of a group", true, |w, inner| {
        w.store
            .group(|group| {
                group.change(&w.a, |tx| Ok(tx.put(ROOT, "k", 3)?))?;
                group.change(&w.a, |_| Ok(inner(w)))
            })
            .unwrap()
    }),
];

/// Every call in the closure of every other, while two threads use the same documents.
#[test]
fn nested_calls_in_closures_succeed_or_fail_without_deadlock() {
    for (outer_name, changes, outer) in OUTERS {
        let inner = CHANGING.iter().map(|inner| (inner, true));
        for ((inner_name, inner), is_change) in inner.chain(OTHERS.iter().map(|i| (i, false))) {
            let world = world();
            let contenders = Contenders::start(&world);
            let what = format!("{inner_name} in {outer_name}");
            let came = ends(&what, {
                let world = world.clone();
                move || outer(&world, &|world| inner(world))
            });
            let expected = if changes && is_change { Came::Reentrant } else { Came::Fine };
            assert_eq!(came, expected, "{what}");
            contenders.end();
            // A call leaves no lock behind, whether it was refused or done.
            ends(&format!("after {what}"), move || {
                if !(is_change && *inner_name == "close" && !changes) {
                    put(&world.a, 5).unwrap();
                    put(&world.b, 5).unwrap();
                    world.store.group(|group| group.change(&world.a, |_| Ok(()))).unwrap();
                }
                world.store.close().unwrap();
            });
        }
    }
}

/// Two threads, each in a closure of one document, read the other: they see the committed state.
#[test]
fn changes_that_read_each_others_documents_do_not_deadlock() {
    let world = world();
    let both = Arc::new(Barrier::new(2));
    let step = |one: &Document, other: &Document| {
        let (one, other, both) = (one.clone(), other.clone(), Arc::clone(&both));
        std::thread::spawn(move || {
            one.change(|tx| {
                tx.put(ROOT, "k", 2)?;
                both.wait();
                let seen = value(&other);
                both.wait();
                Ok(seen)
            })
            .unwrap()
        })
    };
    let threads = [step(&world.a, &world.b), step(&world.b, &world.a)];
    let seen = ends("both read", move || threads.map(|thread| thread.join().unwrap()));
    assert_eq!(seen, [0, 0]);
    assert_eq!((value(&world.a), value(&world.b)), (2, 2));
}

/// Runs `meanwhile` while another thread is inside a closure that has put 9 into the document.
fn during_a_change<T: Send + 'static>(
    document: &Document,
    meanwhile: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let writer = std::thread::spawn({
        let document = document.clone();
        move || {
            document
                .change(|tx| {
                    tx.put(ROOT, "k", 9)?;
                    entered.send(()).unwrap();
                    left.recv()?;
                    Ok(())
                })
                .unwrap();
        }
    });
    inside.recv().unwrap();
    let came = ends("beside a closure", meanwhile);
    leave.send(()).unwrap();
    writer.join().unwrap();
    came
}

#[test]
fn a_reader_beside_a_closure_sees_the_committed_state_at_once() {
    let world = world();
    let short = world.space.create(|tx| Ok(tx.put(ROOT, "k", 0)?)).unwrap().0;
    for document in [&world.a, &short] {
        let seen = during_a_change(document, {
            let document = document.clone();
            move || {
                let seen = document.read(|doc| doc.clone()).unwrap();
                assert_eq!(seen.get_heads(), document.heads().unwrap());
                (value(&document), document.status().unwrap().loaded)
            }
        });
        assert_eq!((seen, value(document)), ((0, true), 9));
    }
}

#[test]
fn a_running_group_delays_no_change_of_another_document() {
    let world = world();
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let group = std::thread::spawn({
        let world = world.clone();
        move || {
            world.store.group(|group| {
                group.change(&world.a, |tx| Ok(tx.put(ROOT, "k", 1)?))?;
                entered.send(()).unwrap();
                left.recv().map_err(|error| ChangeError::Closure(error.into()))?;
                group.change(&world.b, |tx| Ok(tx.put(ROOT, "k", 1)?))
            })
        }
    });
    inside.recv().unwrap();
    ends("beside a group", {
        let world = world.clone();
        move || {
            put(&world.b, 4).unwrap();
            world.space.create(|_| Ok(())).unwrap();
            assert_eq!((value(&world.a), value(&world.b)), (0, 4));
        }
    });
    leave.send(()).unwrap();
    group.join().unwrap().unwrap();
    assert_eq!((value(&world.a), value(&world.b)), (1, 1));
}

#[test]
fn a_readers_snapshot_is_unaffected_by_later_changes() {
    let world = world();
    world
        .a
        .read(|doc| {
            put(&world.a, 1).unwrap();
            put(&world.a, 2).unwrap();
            assert_eq!(doc.get(ROOT, "k").unwrap().unwrap().0.as_i64(), Some(0));
            assert_eq!(value(&world.a), 2);
        })
        .unwrap();
}

#[test]
fn close_does_not_wait_for_a_closure_whose_change_then_fails() {
    let world = world();
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let writer = std::thread::spawn({
        let a = world.a.clone();
        move || {
            a.change(|tx| {
                entered.send(()).unwrap();
                left.recv()?;
                Ok(tx.put(ROOT, "k", 1)?)
            })
        }
    });
    inside.recv().unwrap();
    let store = world.store.clone();
    ends("close beside a closure", move || store.close().unwrap());
    leave.send(()).unwrap();
    let failed = writer.join().unwrap();
    assert!(
        matches!(&failed, Err(ChangeError::Store(error)) if error.class == StoreFailure::Closed),
        "{failed:?}"
    );
}

/// The last handle of another store is dropped in a closure: that store is closed there.
#[test]
fn the_last_handle_of_a_store_may_be_dropped_in_a_closure() {
    let world = world();
    let other = Store::in_memory(Options::default()).unwrap();
    let document = other.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    drop(other);
    ends("dropped in a closure", move || {
        world
            .a
            .change(|tx| {
                document.read(|_| ())?;
                drop(document);
                Ok(tx.put(ROOT, "k", 1)?)
            })
            .unwrap();
        assert_eq!(value(&world.a), 1);
    });
}

#[test]
fn a_group_with_a_failed_change_commits_nothing() {
    let world = world();
    let other = self::world();
    world.space.delete(world.spare.id()).unwrap();
    let before = world.b.heads().unwrap();
    for refused in [&world.spare, &other.a] {
        let outcome = world.store.group(|group| {
            group.change(&world.b, |tx| Ok(tx.put(ROOT, "k", 1)?))?;
            let error = group.change(refused, |tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap_err();
            assert!(
                matches!(error, ChangeError::Deleted | ChangeError::OtherStore { .. }),
                "{error}"
            );
            Ok(())
        });
        assert!(matches!(outcome, Err(ChangeError::Closure(_))), "{outcome:?}");
        assert_eq!(world.b.heads().unwrap(), before);
    }
    // A closure's own error, and unknown heads, cost only that change.
    world
        .store
        .group(|group| {
            group.change(&world.b, |tx| Ok(tx.put(ROOT, "k", 6)?))?;
            group.change::<()>(&world.b, |_| Err("no".into())).unwrap_err();
            group.change_at(&world.b, &other.a.heads().unwrap(), |_| Ok(())).unwrap_err();
            Ok(())
        })
        .unwrap();
    assert_eq!(value(&world.b), 6);
}

/// The predicate changes a document, reads the status, and takes long: nothing waits for it.
#[test]
fn the_predicate_of_until_runs_without_a_lock() {
    let world = world();
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let watcher = std::thread::spawn({
        let world = world.clone();
        move || {
            let mut calls = 0;
            let found = world.store.watch().until_blocking(|status| {
                calls += 1;
                if calls == 1 {
                    entered.send(()).unwrap();
                    left.recv().unwrap();
                    put(&world.a, 3).unwrap();
                    assert!(world.store.status().spaces["default"].changes > 0);
                    return false;
                }
                status.spaces["default"].changes >= 7
            });
            (calls, found.is_some())
        }
    });
    inside.recv().unwrap();
    ends("beside a predicate", {
        let world = world.clone();
        move || put(&world.b, 1).unwrap()
    });
    leave.send(()).unwrap();
    let (calls, found) = ends("until", move || watcher.join().unwrap());
    assert!(calls >= 2 && found);
}

#[test]
fn every_call_on_a_closed_store_fails_as_closed() {
    let world = world();
    let mut watch = world.store.watch();
    world.store.close().unwrap();
    let World { store, space, a, .. } = &world;
    let closed = |error: &landfall::StoreError| error.class == StoreFailure::Closed;
    assert!(matches!(a.read(|_| ()), Err(ReadError::Store(error)) if closed(&error)));
    assert!(matches!(a.heads(), Err(ReadError::Store(error)) if closed(&error)));
    assert!(matches!(put(a, 1), Err(ChangeError::Store(error)) if closed(&error)));
    assert!(matches!(space.create(|_| Ok(())), Err(ChangeError::Store(error)) if closed(&error)));
    assert!(matches!(a.read(|_| ()), Err(ReadError::Store(error)) if closed(&error)));
    assert!(closed(&space.documents().unwrap_err()));
    assert!(closed(&space.delete(a.id()).unwrap_err()));
    assert!(matches!(space.open(a.id()), Err(landfall::OpenDocumentError::Store(e)) if closed(&e)));
    for name in ["default", "another"] {
        let space = store.space(name);
        assert!(matches!(space, Err(landfall::SpaceError::Store(error)) if closed(&error)));
    }
    store.group(|group| group.change(a, |_| Ok(()))).unwrap_err();
    assert!(watch.until_blocking(|_| false).is_none());
    store.close().unwrap();
}

#[test]
fn a_deleted_document_is_distinct_from_an_empty_one() {
    let world = world();
    let World { store, space, a, .. } = &world;
    space.delete(a.id()).unwrap();
    assert!(matches!(a.read(|_| ()), Err(ReadError::Deleted)));
    assert!(matches!(a.heads(), Err(ReadError::Deleted)));
    assert!(matches!(put(a, 1), Err(ChangeError::Deleted)));
    assert!(matches!(a.change_at(&[], |_| Ok(())), Err(ChangeError::Deleted)));
    assert!(matches!(a.read(|_| ()), Err(ReadError::Deleted)), "a failed change does not alter it");
    assert_eq!(store.status().loaded.documents, 2);
    // A named document, too, which was deleted before this handle was created.
    let named = space.create_named("n", |tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap();
    space.delete(named.id()).unwrap();
    drop(named);
    let again = space.create_named("n", |tx| Ok(tx.put(ROOT, "k", 1)?));
    assert!(matches!(again, Err(ChangeError::Deleted)));
}
