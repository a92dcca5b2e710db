//! Limits the time of one child process: kills it after the limit, and always waits for its end.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Interval for checking the stop flag; it only delays a stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A child process with a time limit.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<WatchState>,
    until: Option<Instant>,
    /// Set when all children are to end.
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct WatchState {
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
    /// Whether it was killed because it exceeded its time limit.
    pub(super) late: bool,
    /// Whether it was killed because of the stop flag.
    pub(super) stopped: bool,
}

impl Watch {
    /// Takes over a child. Its time starts now, but nothing ends it before [`Watch::watching`].
    pub(super) fn start(child: Child, time: Duration, stop: Arc<AtomicBool>) -> Self {
        let state = State { child, has_ended: false, late: false, stopped: false };
        let shared = WatchState { state: Mutex::new(state), ended: Condvar::new() };
        // A time limit that the clock cannot represent means no limit.
        let until = Instant::now().checked_add(time);
        Self { shared: Arc::new(shared), until, stop, thread: None }
    }

    /// Starts the thread that kills the child after the limit. If the thread cannot start, kills the
    /// child.
    pub(super) fn watching(mut self) -> io::Result<Self> {
        let (shared, until) = (Arc::clone(&self.shared), self.until);
        let stop = Arc::clone(&self.stop);
        let thread = thread::Builder::new().name("compact-watch".to_owned());
        self.thread = Some(thread.spawn(move || shared.watch(until, &stop))?);
        Ok(self)
    }

    /// The child's process id.
    pub(super) fn id(&self) -> u32 {
        self.shared.lock().child.id()
    }

    /// Kills the child if it still runs, and waits for it. Repeated calls return the same result.
    pub(super) fn end(&self) -> Ended {
        let mut state = self.shared.lock();
        state.has_ended = true;
        self.shared.ended.notify_all();
        // Fails if the child has ended already, which does not matter.
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

impl WatchState {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics under this lock, and the state would be valid even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, until: Option<Instant>, stop: &AtomicBool) {
        let mut state = self.lock();
        while !state.has_ended {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let late = left.is_some_and(|left| left.is_zero());
            if late || stop.load(Ordering::Relaxed) {
                // The child may just have ended by itself; then it is neither killed nor late.
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
