//! A store that is open for reading only follows the process that writes it: one thread looks for
//! commits on a timer, and whenever a call must see the latest one.
//!
//! A look reads SQLite's `data_version` first, which reads no page. Changes are published by this
//! thread only, with no lock held, so that status and events come in the order of the commits.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::StoreError;
use crate::open_store::OpenStore;
use crate::store::{Follow, Followed, SpaceRow};
use crate::threads::StoreThread;

/// Replaces a time that the clock cannot express.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Default)]
struct State {
    /// The number of looks requested, and the last one that is answered.
    asked: u64,
    answered: u64,
    /// The error of the last look.
    failure: Option<Arc<StoreError>>,
    /// The thread ended with a panic, with this message: no look is answered any more.
    ended: Option<String>,
    closed: bool,
}

#[derive(Default)]
struct FollowState {
    state: Mutex<State>,
    /// A look was requested, or the store is being closed.
    wake: Condvar,
    /// A look was answered.
    answer: Condvar,
}

/// The handle of the thread that follows.
pub(crate) struct Follower {
    shared: Arc<FollowState>,
    thread: Mutex<Option<JoinHandle<()>>>,
    id: std::thread::ThreadId,
}

impl Follower {
    pub(crate) fn start(store: &Arc<OpenStore>, every: Duration) -> Result<Self, StoreError> {
        let mut follow = store.context.log.follow()?;
        // Commits after this look are reported as changes.
        if let Some(followed) = follow.look()? {
            store.followed(&followed);
        }
        let shared = Arc::new(FollowState::default());
        let (for_thread, store) = (Arc::clone(&shared), Arc::downgrade(store));
        let thread = std::thread::Builder::new()
            .name("landfall-follow".to_owned())
            .spawn(move || follow_on(&for_thread, &store, follow, every))
            .map_err(StoreError::of_thread)?;
        let id = thread.thread().id();
        Ok(Self { shared, thread: Mutex::new(Some(thread)), id })
    }

    /// Returns when all commits so far are seen, or the thread has ended.
    pub(crate) fn catch_up(&self) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.asked += 1;
        let requested = state.asked;
        self.shared.wake.notify_one();
        while state.answered < requested && !state.closed && state.ended.is_none() {
            self.shared.answer.wait(&mut state);
        }
        if let Some(what) = &state.ended {
            return Err(StoreError::panicked(what));
        }
        match &state.failure {
            Some(error) => Err(StoreError { class: error.class, source: error.to_string().into() }),
            None => Ok(()),
        }
    }

    pub(crate) fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_all();
        self.shared.answer.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && self.id != std::thread::current().id()
        {
            // The panic hook has reported the thread's panic; closing continues.
            let _ = thread.join();
        }
    }
}

impl FollowState {
    /// Waits until a look is requested or due. Returns the number of the last request, `None` once
    /// closed.
    fn next(&self, every: Duration) -> Option<u64> {
        let deadline = Instant::now() + every.min(FAR);
        let mut state = self.state.lock();
        while !state.closed && state.asked == state.answered {
            if self.wake.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        (!state.closed).then_some(state.asked)
    }

    fn answer(&self, asked: u64, failure: Option<Arc<StoreError>>) {
        let mut state = self.state.lock();
        (state.answered, state.failure) = (asked, failure);
        self.answer.notify_all();
    }
}

/// Follows until the store is closed. A panic may leave a half-published state, so it ends the thread;
/// waiting calls and the status receive the error.
fn follow_on(shared: &FollowState, store: &Weak<OpenStore>, follow: Follow, every: Duration) {
    let Some(threads) = store.upgrade().map(|store| Arc::clone(&store.threads)) else { return };
    let run = || run(shared, store, follow, every);
    if let Err(what) = threads.contain(StoreThread::Follow, run) {
        if let Some(store) = store.upgrade() {
            let error = StoreError::panicked(&what);
            store.context.status.set_store_failed(error.class, error.source.to_string());
        }
        shared.state.lock().ended = Some(what);
        shared.answer.notify_all();
    }
}

fn run(shared: &FollowState, store: &Weak<OpenStore>, mut follow: Follow, every: Duration) {
    while let Some(asked) = shared.next(every) {
        let looked = follow.look().map_err(StoreError::from);
        let Some(store) = store.upgrade() else { return };
        store.threads.pass(StoreThread::Follow);
        match looked {
            Ok(None) => shared.answer(asked, None),
            Ok(Some(followed)) => {
                store.followed(&followed);
                shared.answer(asked, None);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the writer's commits");
                shared.answer(asked, Some(Arc::new(error)));
            }
        }
    }
}

impl OpenStore {
    /// Updates the state in memory to a look, and sends the events.
    fn followed(&self, followed: &Followed) {
        let there: BTreeSet<_> =
            followed.spaces.iter().map(|space| (&space.name, space.row)).collect();
        let known = self.spaces();
        let gone = known.iter().filter(|(name, row)| !there.contains(&(name, *row)));
        let removed: Vec<SpaceRow> = gone.map(|(_, row)| *row).collect();
        self.context.status.follow(followed, &removed);
        removed.iter().for_each(|row| self.space_is_gone(*row));
        for space in &followed.spaces {
            self.know_space(&space.name, space.row);
            for (document, heads) in &space.touched {
                self.document_is_stale(space.row, *document, heads.is_none());
            }
        }
        self.tell_followed(followed);
    }

    fn tell_followed(&self, followed: &Followed) {
        use crate::events::{EventKind, Origin};
        for space in &followed.spaces {
            for (document, heads) in &space.touched {
                let kind = match heads {
                    Some(heads) => {
                        let (origin, heads) = (Origin::Remote, heads.clone());
                        EventKind::Changed { origin, heads, patches: None }
                    }
                    None => EventKind::Deleted { unsent: 0 },
                };
                self.context.events.send(&space.name, *document, kind);
            }
        }
    }
}
