//! Tasks that run for as long as the relay serves: a panic in one run must not silently end the service for
//! all others.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::limits;

/// Runs a task in the background, and restarts it after a panic. The panicked run's local state is dropped;
/// its shared state must be valid between any two steps.
pub(crate) fn keep<F>(
    name: &'static str,
    mut begin: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
            // The panic hook has logged where.
            tracing::error!(name, "a task panicked and restarts; please report the log lines");
            sleep(limits::TASK_PAUSE).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panicked_restarts() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let task = keep("test", move || {
            let run = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(run >= 2, "a panic on purpose") }
        });
        task.await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }
}
