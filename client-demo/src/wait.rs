//! Waiting for the engine with a limit: the only place with an executor.

use std::future::Future;
use std::io;
use std::time::Duration;

use landfall::{FlushError, Pending, Status, Store, SyncStatus};
use tokio::runtime::{Builder, Runtime};

use crate::failure::{Exit, Failure};

/// Runs the engine's futures on this thread.
pub(crate) struct Waiter(Runtime);

impl Waiter {
    pub(crate) fn new() -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(Self).map_err(|error| {
            let remedy = "check the resource limits of the process";
            Failure::new(Exit::Other, "cannot wait for events", error, remedy)
        })
    }

    /// The outcome, without a time limit.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.block_on(work)
    }

    /// The outcome, or `None` if it takes longer than the limit.
    pub(crate) fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.0.block_on(async { tokio::time::timeout(limit, work).await.ok() })
    }

    /// The outcome, or `None` after a time without progress between one and two times the limit. Work is
    /// awaited as long as it makes progress. `moved` returns another value whenever there was progress.
    pub(crate) fn while_moving<T, M: PartialEq>(
        &self,
        limit: Duration,
        moved: impl Fn() -> M,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        self.0.block_on(async {
            let mut work = std::pin::pin!(work);
            let mut before = moved();
            loop {
                if let Ok(outcome) = tokio::time::timeout(limit, &mut work).await {
                    return Some(outcome);
                }
                let now = moved();
                if now == before {
                    return None;
                }
                before = now;
            }
        })
    }

    /// The outcome, or `None` once the process is asked to end.
    pub(crate) fn until_signal<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Failure> {
        let outcome = self.0.block_on(async {
            let signal = signal()?;
            Ok(tokio::select! {
                outcome = work => Some(outcome),
                () = signal => None,
            })
        });
        outcome.map_err(|error: io::Error| {
            let remedy = "check the resource limits of the process";
            Failure::new(Exit::Other, "cannot listen for signals", error, remedy)
        })
    }
}

#[cfg(unix)]
impl Waiter {
    /// The outcome of the started work, or `None` once the process is asked to end. Signals from the keyboard
    /// (Ctrl-C, Ctrl-\\) are for the editor alone: they do not end this process.
    pub(crate) fn beside_an_editor<T, F: Future<Output = T>>(
        &self,
        start: impl FnOnce() -> io::Result<F>,
    ) -> io::Result<Option<T>> {
        use tokio::signal::unix::{SignalKind, signal};
        self.0.block_on(async {
            // Held, not polled: a registered handler keeps these signals from ending the process.
            let _keyboard = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hangup = signal(SignalKind::hangup())?;
            let work = start()?;
            Ok(tokio::select! {
                outcome = work => Some(outcome),
                _ = terminate.recv() => None,
                _ = hangup.recv() => None,
            })
        })
    }
}

#[cfg(not(unix))]
impl Waiter {
    /// The outcome of the started work.
    pub(crate) fn beside_an_editor<T, F: Future<Output = T>>(
        &self,
        start: impl FnOnce() -> io::Result<F>,
    ) -> io::Result<Option<T>> {
        self.0.block_on(async { Ok(Some(start()?.await)) })
    }
}

/// The progress of a store's sync. Connection attempts are no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pending: Pending,
    spaces: Vec<(u64, SyncStatus)>,
}

impl Moved {
    pub(crate) fn of(store: &Store) -> Self {
        let status = store.status();
        // Connecting and disconnecting are no progress.
        let sync = |sync: &SyncStatus| match sync {
            SyncStatus::CatchingUp { .. } | SyncStatus::Comparing { .. } => sync.clone(),
            _ => SyncStatus::Offline,
        };
        let spaces = status.spaces.values().map(|space| (space.changes, sync(&space.sync)));
        Self { pending: status.pending(), spaces: spaces.collect() }
    }
}

/// Waits until all changes so far are on the relay's disk, as long as there is progress.
pub(crate) async fn flush(store: &Store, limit: Duration) -> Result<(), FlushError> {
    let mut before = Moved::of(store);
    loop {
        let flushed = store.flush(limit).await;
        if !matches!(flushed, Err(FlushError::TimedOut { .. })) {
            return flushed;
        }
        let now = Moved::of(store);
        if now == before {
            return flushed;
        }
        before = now;
    }
}

/// Ready at the first signal that asks the process to end.
#[cfg(unix)]
fn signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // If the signal cannot be handled, the work ends by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Whether everything that the relay had is here, or the relay has refused it.
pub(crate) fn is_settled(status: &Status) -> bool {
    status
        .spaces
        .values()
        .all(|space| matches!(space.sync, SyncStatus::Live | SyncStatus::Refused { .. }))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Notify;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn a_wait_lasts_while_there_is_progress_and_then_times_out() {
        let waiter = Waiter::new().unwrap();
        // Done only after the limit has passed many times.
        let (looks, done) = (Cell::new(0), Notify::new());
        let moved = || {
            looks.set(looks.get() + 1);
            if looks.get() == 20 {
                done.notify_one();
            }
            looks.get()
        };
        assert_eq!(waiter.while_moving(SHORT, moved, done.notified()), Some(()));
        assert_eq!(looks.get(), 20);
        let outcome = waiter.while_moving(SHORT, || 1, std::future::pending::<()>());
        assert_eq!(outcome, None);
    }
}
