//! Arriving changes, reads and events while a writer is inside its closure.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use automerge::{ActorId, Automerge, ObjType, ROOT, ReadDoc, transaction::Transactable};
use landfall_protocol::ChangeHash;
use landfall_protocol::admission::preflight;

use super::poisoned::append;
use super::{put, store, text_of};
use crate::store::LocalChange;
use crate::{ChangeError, Document, Event, EventKind, Events, Origin, ReadError, Space, Store};

/// Only a deadlock takes this long.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A document that is changed in place, since a clone would cost more.
fn long_document(space: &Space) -> Document {
    let document = space.create(|_| Ok(())).unwrap().0;
    document
        .change(|tx| {
            let text = tx.put_object(ROOT, "long", ObjType::Text)?;
            Ok(tx.splice_text(&text, 0, 0, &"x".repeat(3_000))?)
        })
        .unwrap();
    document
}

/// A replica of another author.
fn theirs(document: &Document) -> Automerge {
    document.read(|doc| doc.fork().with_actor(ActorId::from([9; 16]))).unwrap()
}

/// Puts a value on the other replica; the change arrives.
fn arrive(store: &Store, document: &Document, theirs: &mut Automerge, value: &str) {
    theirs.transact(|tx| tx.put(ROOT, "theirs", value)).unwrap();
    append(store, document, theirs.get_last_local_change().unwrap().raw_bytes());
}

fn notify(store: &Store, document: &Document) {
    store.open_store().context.applier.notify(document.open());
}

/// As `arrive` and `notify`, in the order of the commits, as batches of the link arrive.
fn arrive_told(store: &Store, document: &Document, theirs: &mut Automerge, value: &str) {
    theirs.transact(|tx| tx.put(ROOT, "theirs", value)).unwrap();
    arrive_last(store, document, theirs);
}

/// The other replica's last change arrives, in the order of the commits.
pub(super) fn arrive_last(store: &Store, document: &Document, theirs: &mut Automerge) {
    let change = preflight(theirs.get_last_local_change().unwrap().raw_bytes()).unwrap();
    let space = document.open().row;
    let change = LocalChange { space, document: document.id(), change, at_ms: 0 };
    let (engine, open) = (Arc::clone(store.open_store()), Arc::clone(document.open()));
    let committed = move |_: &_| engine.context.applier.notify(&open);
    let log = &store.open_store().context.log;
    log.append(landfall_storage::Durability::Full, vec![change], committed).unwrap();
}

fn theirs_of(document: &Document) -> Option<String> {
    let read = |doc: &Automerge| doc.get(ROOT, "theirs").unwrap().map(|(v, _)| v.to_string());
    document.read(read).unwrap()
}

pub(super) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A writer that is inside its closure until `end`.
struct Busy {
    leave: mpsc::Sender<Result<(), &'static str>>,
    writer: std::thread::JoinHandle<Result<(), ChangeError>>,
}

impl Busy {
    fn start(document: &Document) -> Self {
        let (entered, inside) = mpsc::channel();
        let (leave, left) = mpsc::channel::<Result<(), &'static str>>();
        let document = document.clone();
        let writer = std::thread::spawn(move || {
            document.change(|tx| {
                tx.put(ROOT, "text", "busy")?;
                entered.send(()).unwrap();
                Ok(left.recv()??)
            })
        });
        inside.recv().unwrap();
        Self { leave, writer }
    }

    fn end(self, how: Result<(), &'static str>) -> Result<(), ChangeError> {
        self.leave.send(how).unwrap();
        self.writer.join().unwrap()
    }
}

/// The events so far: the document, the origin, the number of patches.
fn changes(events: &mut Events) -> Vec<(landfall_protocol::DocumentId, Origin, Option<usize>)> {
    std::iter::from_fn(|| events.try_next())
        .map(Result::unwrap)
        .filter_map(|Event { document, kind, .. }| match kind {
            EventKind::Changed { origin, patches, .. } => {
                Some((document, origin, patches.map(|patches| patches.len())))
            }
            _ => None,
        })
        .collect()
}

fn heads(document: &Document) -> Vec<ChangeHash> {
    document.heads().unwrap()
}

#[test]
fn a_slow_closure_delays_received_changes_of_its_own_document_only() {
    let store = store();
    let space = store.space("default").unwrap();
    let [a, b] = [(); 2].map(|()| long_document(&space));
    let (mut for_a, mut for_b) = (theirs(&a), theirs(&b));
    let busy = Busy::start(&b);
    arrive(&store, &b, &mut for_b, "1");
    notify(&store, &b);
    for n in 0..3 {
        arrive(&store, &a, &mut for_a, &n.to_string());
        notify(&store, &a);
        until("a lags behind", || theirs_of(&a) == Some(format!("\"{n}\"")));
    }
    busy.end(Ok(())).unwrap();
    until("b lags behind", || theirs_of(&b).as_deref() == Some("\"1\""));
    assert_eq!(text_of(&b), "\"busy\"");
    let count = b.read(|doc| doc.get_changes(&[]).len()).unwrap();
    assert_eq!(count as u64, b.status().unwrap().changes);
}

/// Arriving changes are applied beside a writer that never pauses.
#[test]
fn received_changes_are_applied_beside_a_continuous_writer() {
    let store = store();
    let document = long_document(&store.space("default").unwrap());
    let mut theirs = theirs(&document);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                put(&document, &n.to_string()).unwrap();
                n += 1;
            }
        });
        for n in 0..20 {
            arrive_told(&store, &document, &mut theirs, &n.to_string());
            until("it is never applied", || theirs_of(&document) == Some(format!("\"{n}\"")));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A reader beside a closure loads the committed state, with changes that the state in memory lacks.
/// Later reads have all of them too, however the closure ends.
#[test]
fn changes_that_a_reader_has_seen_stay_visible() {
    for how in [Ok(()), Err("no")] {
        let store = store();
        let document = long_document(&store.space("default").unwrap());
        let mut theirs = theirs(&document);
        let mut events = store.events();
        let busy = Busy::start(&document);
        arrive(&store, &document, &mut theirs, "1");
        assert_eq!(theirs_of(&document).as_deref(), Some("\"1\""), "the stored state");
        assert_eq!(text_of(&document), "", "without the uncommitted edit");
        busy.end(how).unwrap_or_default();
        assert_eq!(theirs_of(&document).as_deref(), Some("\"1\""), "{how:?}");
        assert_eq!(text_of(&document), if how.is_ok() { "\"busy\"" } else { "" });
        // The applier runs later, and sends the event all the same.
        notify(&store, &document);
        let mut reported = Vec::new();
        until("no event is sent", || {
            reported.extend(changes(&mut events));
            reported.iter().any(|(_, origin, _)| *origin == Origin::Remote)
        });
        put(&document, "after").unwrap();
        let count = document.read(|doc| doc.get_changes(&[]).len()).unwrap();
        assert_eq!(count as u64, document.status().unwrap().changes);
        document.open().outdate();
        assert_eq!(document.read(|doc| doc.get_changes(&[]).len()).unwrap(), count);
    }
}

/// A reader loads the document, with a change that has just arrived, before the applier looks at it.
#[test]
fn a_remote_change_that_a_reader_loaded_sends_its_event() {
    let store = store();
    let document = long_document(&store.space("default").unwrap());
    let mut theirs = theirs(&document);
    document.open().outdate();
    let mut events = store.events();
    arrive(&store, &document, &mut theirs, "1");
    assert_eq!(theirs_of(&document).as_deref(), Some("\"1\""));
    notify(&store, &document);
    let event = events.next_blocking().unwrap().unwrap();
    let EventKind::Changed { origin, heads: reported, .. } = event.kind else {
        panic!("{event:?}")
    };
    assert_eq!((origin, reported), (Origin::Remote, heads(&document)));
}

/// Patches lead from event to event, even if a load brought in a change without an event.
#[test]
fn patches_include_changes_that_a_load_applied() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let mut theirs = theirs(&document);
    let mut events = store.events();
    put(&document, "1").unwrap();
    arrive(&store, &document, &mut theirs, "1");
    document.open().outdate();
    assert_eq!(theirs_of(&document).as_deref(), Some("\"1\""));
    put(&document, "2").unwrap();
    let id = document.id();
    let local = (id, Origin::Local, Some(1));
    let reported = changes(&mut events);
    assert_eq!(
        reported,
        [local, (id, Origin::Local, Some(2))],
        "the remote change, and the second local one"
    );
    notify(&store, &document);
    let mut reported = Vec::new();
    until("no event is sent", || {
        reported.extend(changes(&mut events));
        !reported.is_empty()
    });
    assert_eq!(reported, [(id, Origin::Remote, Some(0))]);
}

#[test]
fn a_panic_while_computing_patches_has_no_effect() {
    let store = store();
    let space = store.space("default").unwrap();
    let [a, b] = [(); 2].map(|()| long_document(&space));
    let mut events = store.events();
    for document in [&a, &b] {
        let mut theirs = theirs(document);
        let panics = &document.open().panic_in_patches;
        panics.store(true, std::sync::atomic::Ordering::Relaxed);
        arrive(&store, document, &mut theirs, "1");
        notify(&store, document);
        let event = events.next_blocking().unwrap().unwrap();
        assert!(matches!(event.kind, EventKind::Changed { patches: None, .. }), "{event:?}");
        assert_eq!(theirs_of(document).as_deref(), Some("\"1\""));
        // In a local change the closure is not at fault.
        panics.store(true, std::sync::atomic::Ordering::Relaxed);
        put(document, "mine").unwrap();
        let event = events.next_blocking().unwrap().unwrap();
        assert!(matches!(event.kind, EventKind::Changed { patches: None, .. }), "{event:?}");
    }
    arrive(&store, &a, &mut theirs(&a), "2");
    notify(&store, &a);
    until("the applier has ended", || theirs_of(&a).as_deref() == Some("\"2\""));
}

/// A deletion beside a closure: no later read shows the document, and no event follows.
#[test]
fn no_event_and_no_state_follows_a_deletion() {
    for how in [Ok(()), Err("no")] {
        let store = store();
        let space = store.space("default").unwrap();
        let document = long_document(&space);
        let mut theirs = theirs(&document);
        let mut events = store.events();
        let busy = Busy::start(&document);
        arrive(&store, &document, &mut theirs, "1");
        notify(&store, &document);
        space.delete(document.id()).unwrap();
        assert!(matches!(document.read(|_| ()), Err(ReadError::Deleted)));
        let failed = busy.end(how).unwrap_err();
        match how {
            Ok(()) => assert!(matches!(failed, ChangeError::Deleted), "{failed}"),
            Err(_) => assert!(matches!(failed, ChangeError::Closure(_)), "{failed}"),
        }
        assert!(matches!(document.heads(), Err(ReadError::Deleted)));
        notify(&store, &document);
        // Another document's arrival, behind it in the applier's queue.
        let other = long_document(&space);
        notify(&store, &other);
        let mut kinds = Vec::new();
        while let Some(event) = events.next_blocking() {
            let event = event.unwrap();
            if event.document == other.id()
                && matches!(event.kind, EventKind::Changed { origin: Origin::Remote, .. })
            {
                break;
            }
            if event.document == document.id() {
                kinds.push(event.kind);
            }
        }
        assert!(matches!(kinds[..], [EventKind::Deleted { .. }]), "{kinds:?}");
        assert!(matches!(document.read(|_| ()), Err(ReadError::Deleted)));
    }
}

/// Deletions, readers, writers and arriving changes, all on the same documents.
#[test]
fn a_deletion_is_final_under_concurrent_edits_and_arrivals() {
    let store = store();
    let space = store.space("default").unwrap();
    for _ in 0..30 {
        let document = long_document(&space);
        let mut theirs = theirs(&document);
        let (seen, reported) = std::thread::scope(|scope| {
            let mut events = store.events();
            scope.spawn(|| while put(&document, "mine").is_ok() {});
            let reader = scope.spawn(|| {
                while document.read(|_| ()).is_ok() {}
                (0..200).filter(|_| document.read(|_| ()).is_ok()).count()
            });
            arrive_told(&store, &document, &mut theirs, "1");
            space.delete(document.id()).unwrap();
            let seen = reader.join().unwrap();
            let mut reported = Vec::new();
            while let Some(event) = events.try_next() {
                reported.push(event.unwrap().kind);
            }
            (seen, reported)
        });
        assert_eq!(seen, 0, "shown again");
        assert!(matches!(reported.last(), Some(EventKind::Deleted { .. })), "{reported:?}");
    }
}

/// The published state equals the store's in every order of events: a change that follows another
/// commit of the same document must not mark everything before it as applied.
#[test]
fn the_visible_state_equals_the_stored_state() {
    let store = store();
    let document = Arc::new(long_document(&store.space("default").unwrap()));
    let mut theirs = theirs(&document);
    let open = store.open_store();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..200).for_each(|n| put(&document, &n.to_string()).unwrap()));
        for n in 0..50 {
            arrive_told(&store, &document, &mut theirs, &n.to_string());
        }
    });
    let row = open.context.log.document(document.open().row, &document.id()).unwrap().unwrap();
    until("it lags behind", || heads(&document) == open.context.log.heads(row).unwrap());
}
