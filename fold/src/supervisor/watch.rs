//! The clock of one child process, and its end: killed when its time is over, always waited for.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often it is looked whether all children are to end. A stop waits for it, and nothing else.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A child process whose time is limited.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    until: Option<Instant>,
    /// Raised when no child is to go on.
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    child: Child,
    has_ended: bool,
    late: bool,
    stopped: bool,
}

/// How a child process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit status.
    pub(super) status: io::Result<ExitStatus>,
    /// Whether it was killed because its time was over.
    pub(super) late: bool,
    /// Whether it was killed because all children were to end.
    pub(super) stopped: bool,
}

impl Watch {
    /// Takes a child over. Its time runs from now, but nothing ends it before
    /// [`Watch::watching`].
    pub(super) fn start(child: Child, time: Duration, stop: Arc<AtomicBool>) -> Self {
        let state = State { child, has_ended: false, late: false, stopped: false };
        let shared = Shared { state: Mutex::new(state), ended: Condvar::new() };
        // A time beyond what the clock can say is none.
        let until = Instant::now().checked_add(time);
        Self { shared: Arc::new(shared), until, stop, thread: None }
    }

    /// Starts the thread that ends the child in time. If it cannot start, the child is ended.
    pub(super) fn watching(mut self) -> io::Result<Self> {
        let (shared, until) = (Arc::clone(&self.shared), self.until);
        let stop = Arc::clone(&self.stop);
        let thread = thread::Builder::new().name("fold-watch".to_owned());
        self.thread = Some(thread.spawn(move || shared.watch(until, &stop))?);
        Ok(self)
    }

    /// The child's process id.
    pub(super) fn id(&self) -> u32 {
        self.shared.lock().child.id()
    }

    /// Kills the child, if it has not ended, and waits for it. Again and again with the same
    /// outcome.
    pub(super) fn end(&self) -> Ended {
        let mut state = self.shared.lock();
        state.has_ended = true;
        self.shared.ended.notify_all();
        // One that has ended is not there to be killed: that says nothing.
        let _ = state.child.kill();
        Ended { status: state.child.wait(), late: state.late, stopped: state.stopped }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock, and a state that did would be as good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, until: Option<Instant>, stop: &AtomicBool) {
        let mut state = self.lock();
        while !state.has_ended {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let late = left.is_some_and(|left| left.is_zero());
            if late || stop.load(Ordering::Relaxed) {
                // It may just have ended by itself; then it is not killed, and not late.
                let runs = matches!(state.child.try_wait(), Ok(None));
                (state.late, state.stopped) = (late && runs, !late && runs);
                let _ = state.child.kill();
                return;
            }
            let left = left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
            let waited = self.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
