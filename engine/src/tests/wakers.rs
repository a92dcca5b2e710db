//! Wakers are application code: whatever one does affects only itself and other waiting tasks, never
//! the store. A watchdog fails the test where a call would wait for ever.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use automerge::{ActorId, ROOT, transaction::Transactable};
use landfall_protocol::admission::preflight;
use landfall_protocol::client::{Batch, Incoming};
use landfall_protocol::{DocumentId, Offset, Upstream};

use super::store_support::{Author, Bench};
use super::{put, store};
use crate::{Document, EventKind, Space, Store};

/// Far longer than anything here takes: only a deadlock lasts this long.
const WATCHDOG: Duration = Duration::from_secs(60);

/// The action of a waker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Change,
    Block,
    Panic,
    Close,
}

/// The source that the task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// An event of a local change.
    Local,
    /// An event of a document that is open, from the relay.
    RemoteOpen,
    /// An event of a document that is not open.
    RemoteClosed,
    Deletion,
    Status,
    /// The answer to a flush.
    ReplyReceiver,
}

struct Acts(Mutex<Box<dyn FnMut() + Send>>);

impl Wake for Acts {
    fn wake(self: Arc<Self>) {
        (self.0.lock().unwrap())();
    }
}

/// Runs a closure on its own thread, and fails if it never ends.
fn ends<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(run()));
    receiver.recv_timeout(WATCHDOG).unwrap_or_else(|error| panic!("{what}: {error}"))
}

struct World {
    store: Store,
    space: Space,
    document: Document,
    spare: Document,
    /// A document without handles.
    gone: DocumentId,
}

impl World {
    fn new() -> Self {
        let store = store();
        let space = store.space("s").unwrap();
        let [document, spare] = [(); 2].map(|()| space.create(|_| Ok(())).unwrap().0);
        let gone = space.create(|_| Ok(())).unwrap().0.id();
        Self { store, space, document, spare, gone }
    }

    /// Does what the link does with received entries.
    fn receive(&self, entries: Vec<Incoming>) {
        let open = Arc::clone(self.store.open_store());
        let (row, name) = (open.space(self.space.name()).unwrap(), self.space.name().clone());
        let (sender, receiver) = mpsc::channel();
        let met = Box::new(move |met: Result<_, _>| sender.send(met.is_ok()).unwrap());
        open.context.log.submit_attach(Upstream::from_bytes([1; 16]), row, met);
        assert!(receiver.recv().unwrap());
        let (after, cursor) = (Offset(0), Bench::cursor(100));
        let batch = Batch { space: name.clone(), after, cursor, entries, bytes: 0 };
        let (sender, receiver) = mpsc::channel();
        let publisher = self.store.publisher();
        open.context.log.submit_received(row, batch, move |result| {
            publisher.received(&name, row, result.unwrap());
            sender.send(()).unwrap();
        });
        receiver.recv().unwrap();
    }

    fn trigger(&self, source: Source) {
        match source {
            Source::Local | Source::Status => put(&self.document, "trigger").unwrap(),
            Source::Deletion => self.space.delete(self.gone).unwrap(),
            Source::RemoteOpen => {
                let fork = |doc: &automerge::Automerge| doc.fork();
                let doc = self.document.read(fork).unwrap().with_actor(ActorId::from([9; 16]));
                let mut author = Author::new(9, 1);
                (author.doc, author.document) = (doc, self.document.id());
                author.doc.transact(|tx| tx.put(ROOT, "theirs", 1)).unwrap();
                let change = author.doc.get_last_local_change().unwrap();
                let change = preflight(change.raw_bytes()).unwrap();
                self.receive(author.incomings(vec![change]));
            }
            Source::RemoteClosed => {
                let mut author = Author::new(9, 1);
                author.document = DocumentId::from_bytes([77; 16]);
                let changes = author.puts(1);
                self.receive(author.incomings(changes));
            }
            // It times out.
            Source::ReplyReceiver => {}
        }
    }

    /// A task that waits.
    fn task(&self, source: Source) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match source {
            Source::Status => {
                let mut watch = self.store.watch();
                watch.until_blocking(|_| true).unwrap();
                Box::pin(async move { drop(watch.changed().await) })
            }
            Source::ReplyReceiver => {
                // No relay is there.
                self.store.connect("ws://127.0.0.1:9").unwrap();
                let store = self.store.clone();
                Box::pin(async move { drop(store.flush(Duration::from_millis(200)).await) })
            }
            _ => {
                let mut events = self.store.events();
                Box::pin(async move { drop(events.next().await) })
            }
        }
    }
}

/// Changes a document as long as possible, or until it is dropped.
struct Contender(Arc<AtomicBool>);

impl Contender {
    fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (document, stopped) = (world.document.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && put(&document, "contended").is_ok() {}
        });
        Self(stop)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn scene(source: Source, act: Act) {
    let name = format!("{source:?}, {act:?}");
    let world = Arc::new(World::new());
    let mut task = world.task(source);
    let (reached, was_reached) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (store, spare) = (world.store.clone(), world.spare.clone());
    let acts = move || {
        let _ = reached.send(std::thread::current().name().map(str::to_owned));
        match act {
            Act::Change => put(&spare, "by the waker").unwrap(),
            Act::Block => drop(released.recv()),
            Act::Panic => panic!("as an application's waker might"),
            Act::Close => store.close().unwrap(),
        }
    };
    let waker = Waker::from(Arc::new(Acts(Mutex::new(Box::new(acts)))));
    assert_eq!(task.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending, "{name}");
    // Another task, which is registered after the first one.
    let (mut events, (sender, receiver)) = (world.store.events(), mpsc::channel());
    std::thread::spawn(move || {
        while let Some(event) = events.next_blocking() {
            let _ = sender.send(event);
        }
    });
    let for_trigger = Arc::clone(&world);
    ends(&name, move || for_trigger.trigger(source));
    let thread = was_reached.recv_timeout(WATCHDOG).expect(&name);
    assert_eq!(thread.as_deref(), Some("landfall-notify"), "{name}");
    let _contender = Contender::start(&world);
    if act != Act::Close {
        let (document, spare) = (world.document.clone(), world.spare.clone());
        ends(&name, move || put(&document, "after").and_then(|()| put(&spare, "after")).unwrap());
        ends(&name, move || {
            let noop = &mut Context::from_waker(Waker::noop());
            assert_eq!(task.as_mut().poll(noop), Poll::Ready(()));
        });
    }
    if matches!(act, Act::Change | Act::Panic) {
        let spare = world.spare.id();
        let is_changed = |event: &crate::Event| {
            event.document == spare && matches!(event.kind, EventKind::Changed { .. })
        };
        while !is_changed(&receiver.recv_timeout(WATCHDOG).expect(&name).unwrap()) {}
    }
    // While a waker still blocks.
    let for_close = Arc::clone(&world);
    ends(&name, move || for_close.store.close().unwrap());
    // The other task ends: its sender is dropped.
    let rest = || receiver.recv_timeout(WATCHDOG);
    while rest().is_ok() {}
    assert_eq!(receiver.recv_timeout(WATCHDOG).err(), Some(mpsc::RecvTimeoutError::Disconnected));
    drop(release);
}

#[test]
fn a_waker_that_blocks_panics_or_closes_affects_no_other_task() {
    let sources = [
        Source::Local,
        Source::RemoteOpen,
        Source::RemoteClosed,
        Source::Deletion,
        Source::Status,
        Source::ReplyReceiver,
    ];
    for source in sources {
        for act in [Act::Change, Act::Block, Act::Panic, Act::Close] {
            scene(source, act);
        }
    }
}

/// A task that is dropped before it is woken is not woken, and leaves nothing behind.
#[test]
fn a_dropped_task_is_not_woken() {
    let world = World::new();
    let (called, was_called) = mpsc::channel();
    let called = Mutex::new(Box::new(move || called.send(()).unwrap()) as Box<dyn FnMut() + Send>);
    let waker = Waker::from(Arc::new(Acts(called)));
    let mut events = world.store.events();
    {
        let mut next = std::pin::pin!(events.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    put(&world.document, "x").unwrap();
    assert!(events.next_blocking().is_some());
    drop(waker);
    // Whatever holds the waker could still call it.
    assert_eq!(was_called.recv_timeout(WATCHDOG), Err(mpsc::RecvTimeoutError::Disconnected));
}
