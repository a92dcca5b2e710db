//! The threads of an open store, and the report of a panic in one of them.
//!
//! A panic there is a bug of this software. It must never leave a caller waiting, nor a status that
//! claims too much. Each thread runs its work inside [`Threads::contain`], which updates the status
//! before any other reaction to the panic. The thread's own module then either continues, where each
//! step begins from the store, or ends and answers all waiting callers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// A thread of an open store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StoreThread {
    /// Writes the store. After a panic nothing is written until it is opened again
    /// ([`Status::store_failed`](crate::Status::store_failed)); reads go on.
    Writer,
    /// Applies received changes to open documents. It continues after a panic.
    Apply,
    /// Wakes the tasks that wait for events, status and answers. It continues after a panic.
    Notify,
    /// Compacts long histories. It continues after a panic.
    Compact,
    /// Opens received snapshots. After a panic the session with the relay ends, and the link connects
    /// again.
    Arrivals,
    /// Keeps the connection to the relay. After a panic the store is offline, with the reason in
    /// [`Status::last_error`](crate::Status::last_error), until
    /// [`Store::connect`](crate::Store::connect) is called again.
    Link,
    /// Follows the process that writes the store, for one that is open for reading only. After a panic
    /// each call that has to look for commits fails, until the store is opened again
    /// ([`Status::store_failed`](crate::Status::store_failed)).
    Follow,
}

/// A panic on one of the store's threads: a bug of this software, which should be reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadPanic {
    /// The thread.
    pub thread: StoreThread,
    /// The last panic's message.
    pub what: String,
}

/// Called with the thread that panicked and the message, on that thread.
pub(crate) type PanicObserver = Box<dyn Fn(StoreThread, String) + Send + Sync>;

/// Receives the panics of one store's threads.
#[derive(Default)]
pub(crate) struct Threads {
    /// Called with each panic; shows it in the status.
    observer: OnceLock<PanicObserver>,
    /// Threads that shall panic, one bit each. Only tests set it; it is always compiled, so that the
    /// tested code is the released code.
    ordered: AtomicU8,
}

impl Threads {
    /// Sets the observer of panics. To be called once, before a thread has work to do.
    pub(crate) fn observe(&self, observer: PanicObserver) {
        if self.observer.set(observer).is_err() {
            tracing::error!("a store has two observers of panics; the second one is not called");
        }
    }

    /// Runs a thread's work; returns a panic's message, once the status shows it.
    pub(crate) fn contain<T>(
        &self,
        thread: StoreThread,
        step: impl FnOnce() -> T,
    ) -> Result<T, String> {
        // Unwind safety: the callers use nothing that the step may have left half done.
        catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
            let what = panic_text(&*panic);
            self.panicked(thread, what.clone());
            what
        })
    }

    /// A thread has panicked.
    pub(crate) fn panicked(&self, thread: StoreThread, what: String) {
        tracing::error!(?thread, what, "a thread of the store panicked");
        if let Some(observer) = self.observer.get() {
            observer(thread, what);
        }
    }

    /// A point at which a test may make the thread panic.
    pub(crate) fn pass(&self, thread: StoreThread) {
        if self.ordered.load(Ordering::Relaxed) & bit(thread) == 0 {
            return;
        }
        self.ordered.fetch_and(!bit(thread), Ordering::Relaxed);
        // Without the panic hook: this panic is no bug.
        std::panic::resume_unwind(Box::new("ordered by a test"));
    }

    /// Makes a thread panic when it reaches such a point.
    #[cfg(test)]
    pub(crate) fn order_panic(&self, thread: StoreThread) {
        self.ordered.fetch_or(bit(thread), Ordering::Relaxed);
    }
}

fn bit(thread: StoreThread) -> u8 {
    1 << thread as u8
}

/// A panic's message.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a message".to_owned())
}
