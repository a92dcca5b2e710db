//! Wakes the tasks that wait for events, for the status and for answers to requests, on a dedicated
//! thread.
//!
//! A waker is application code: it may block, panic, or call the engine. So no other thread of the
//! engine calls one. The publishing thread first stores the value; [`Notifier::notify`] then only marks
//! the tasks registered so far as due. Marks are coalesced: a task is woken once, however much was
//! published, and registers again when it is polled.
//!
//! A waker that blocks delays only the other tasks of its store. Panics of wakers and of this thread's
//! own code are contained: the due tasks are in the shared state, and are woken afterwards.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use crate::threads::{StoreThread, Threads};

/// The topic that a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Events,
    Status,
    /// The answer to a request, such as a flush.
    Answers,
}

/// The tasks that wait for one topic.
#[derive(Default)]
struct Tasks {
    /// In the order of their registration.
    waiting: BTreeMap<u64, Waker>,
    /// Registrations below this number are due.
    due: u64,
}

impl Tasks {
    fn is_due(&self) -> bool {
        self.waiting.first_key_value().is_some_and(|(number, _)| *number < self.due)
    }
}

#[derive(Default)]
struct State {
    topics: [Tasks; 3],
    /// The number of the next registration.
    next: u64,
    /// Threads that are inside a waker.
    inside: u64,
    closed: bool,
}

impl State {
    fn tasks(&mut self, topic: Topic) -> &mut Tasks {
        match topic {
            Topic::Events => &mut self.topics[0],
            Topic::Status => &mut self.topics[1],
            Topic::Answers => &mut self.topics[2],
        }
    }

    fn pop_due(&mut self) -> Option<Waker> {
        let tasks = self.topics.iter_mut().find(|tasks| tasks.is_due())?;
        tasks.waiting.pop_first().map(|(_, waker)| waker)
    }
}

struct NotifierState {
    state: Mutex<State>,
    wake: Condvar,
    threads: Arc<Threads>,
}

/// The handle of the thread `landfall-notify`.
#[derive(Clone)]
pub(crate) struct Notifier {
    shared: Arc<NotifierState>,
}

impl Notifier {
    pub(crate) fn start(threads: Arc<Threads>) -> std::io::Result<Self> {
        let (state, wake) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(NotifierState { state, wake, threads });
        spawn(&shared)?;
        Ok(Self { shared })
    }

    /// A value of this topic was published: wakes the tasks that wait for it. Never blocks and calls no
    /// waker.
    pub(crate) fn notify(&self, topic: Topic) {
        let mut state = self.shared.state.lock();
        if state.closed {
            // Every task is due already.
            return;
        }
        let next = state.next;
        let tasks = state.tasks(topic);
        tasks.due = next;
        if tasks.is_due() {
            self.shared.wake.notify_one();
        }
    }

    /// Wakes every task, and ends the thread. The caller must have made sure that a task polled from
    /// now on finds its end. Never waits: the thread may be inside a waker, which may block or be the
    /// caller. In that case a second thread wakes the other tasks.
    pub(crate) fn close(&self) {
        let inside = {
            let mut state = self.shared.state.lock();
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            state.topics.iter_mut().for_each(|tasks| tasks.due = u64::MAX);
            self.shared.wake.notify_all();
            state.inside > 0
        };
        if inside && let Err(error) = spawn(&self.shared) {
            tracing::error!(%error, "cannot start a thread; waiting tasks are woken once the running waker returns");
        }
    }

    /// Waits until `look` returns a value. `look` runs after the registration, so that a value
    /// published meanwhile is either seen by it or wakes the task.
    pub(crate) async fn wait<T>(&self, topic: Topic, mut look: impl FnMut() -> Option<T>) -> T {
        if let Some(found) = look() {
            return found;
        }
        let mut registration = Registration { notifier: self, topic, number: None };
        std::future::poll_fn(|context| {
            registration.renew(context);
            look().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// A task's registration. Dropping it cancels the wake-up.
struct Registration<'a> {
    notifier: &'a Notifier,
    topic: Topic,
    number: Option<u64>,
}

impl Registration<'_> {
    fn renew(&mut self, context: &Context<'_>) {
        // Cloning and dropping a waker call application code too: not under the lock.
        let waker = context.waker().clone();
        let replaced = {
            let mut state = self.notifier.shared.state.lock();
            let number = state.next;
            state.next += 1;
            let before = self.number.replace(number);
            let waiting = &mut state.tasks(self.topic).waiting;
            let replaced = before.and_then(|before| waiting.remove(&before));
            waiting.insert(number, waker);
            replaced
        };
        drop(replaced);
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let removed = self.notifier.shared.state.lock().tasks(self.topic).waiting.remove(&number);
        drop(removed);
    }
}

/// A one-shot channel for an answer to one task, except that the sending thread does not wake the task
/// itself.
pub(crate) fn answer<T>(notifier: &Notifier) -> (ReplySender<T>, ReplyReceiver<T>) {
    let slot = Arc::new(Mutex::new(Slot::Open));
    let reply = ReplySender { slot: Arc::clone(&slot), notifier: notifier.clone() };
    (reply, ReplyReceiver { slot, notifier: notifier.clone() })
}

enum Slot<T> {
    Open,
    Given(T),
    /// No value will be sent.
    Ended,
}

/// Sends the answer; dropping it ends the wait without one.
pub(crate) struct ReplySender<T> {
    slot: Arc<Mutex<Slot<T>>>,
    notifier: Notifier,
}

impl<T> ReplySender<T> {
    pub(crate) fn send(self, value: T) {
        *self.slot.lock() = Slot::Given(value);
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        {
            let mut slot = self.slot.lock();
            if matches!(*slot, Slot::Open) {
                *slot = Slot::Ended;
            }
        }
        self.notifier.notify(Topic::Answers);
    }
}

/// Waits for the answer.
pub(crate) struct ReplyReceiver<T> {
    slot: Arc<Mutex<Slot<T>>>,
    notifier: Notifier,
}

impl<T> ReplyReceiver<T> {
    /// The answer; `None` if the sender was dropped.
    pub(crate) async fn done(&self) -> Option<T> {
        let look = || {
            let mut slot = self.slot.lock();
            match std::mem::replace(&mut *slot, Slot::Ended) {
                Slot::Open => {
                    *slot = Slot::Open;
                    None
                }
                Slot::Given(value) => Some(Some(value)),
                Slot::Ended => Some(None),
            }
        };
        self.notifier.wait(Topic::Answers, look).await
    }
}

fn spawn(shared: &Arc<NotifierState>) -> std::io::Result<()> {
    let shared = Arc::clone(shared);
    // Detached: it holds nothing of the store, and ends by itself at `close`.
    std::thread::Builder::new().name("landfall-notify".to_owned()).spawn(move || {
        while shared.threads.contain(StoreThread::Notify, || run(&shared)).is_err() {}
    })?;
    Ok(())
}

/// Runs application code, whose panic must not end the thread.
fn contained(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        tracing::error!("a waker of the application panicked; the other tasks are woken");
        // Dropping it calls application code again.
        std::mem::forget(panic);
    }
}

/// Wakes the tasks that are due, one at a time, so that another thread can go on if one blocks.
fn run(shared: &NotifierState) {
    let mut state = shared.state.lock();
    loop {
        // Before a task is taken out, so that a panic loses none.
        shared.threads.pass(StoreThread::Notify);
        if let Some(waker) = state.pop_due() {
            state.inside += 1;
            drop(state);
            contained(|| waker.wake_by_ref());
            contained(|| drop(waker));
            state = shared.state.lock();
            state.inside -= 1;
        } else if state.closed {
            return;
        } else {
            shared.wake.wait(&mut state);
        }
    }
}
