//! Waiting with a limit for what the engine tells: the one place with an executor.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::failure::{Exit, Failure};

/// Runs the engine's futures on this thread.
pub(crate) struct Waiter(Runtime);

impl Waiter {
    pub(crate) fn new() -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(Self).map_err(|error| {
            let remedy = "look at the limits of the process";
            Failure::new(Exit::Other, "cannot wait for events", error, remedy)
        })
    }

    /// The outcome, or `None` if it takes longer than the limit.
    pub(crate) fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.0.block_on(async { tokio::time::timeout(limit, work).await.ok() })
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
            let remedy = "look at the limits of the process";
            Failure::new(Exit::Other, "cannot listen to signals", error, remedy)
        })
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
        // Where it cannot be listened to, the work ends by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
