//! The threads of an open store, and what is told when one of them panics.
//!
//! A panic there is a bug of this software. It must never leave a caller waiting, nor a status that
//! says more than is so. Each thread runs what it does inside [`Threads::contain`], which tells the
//! status of a panic before anybody else can hear of it; the thread's own module then either goes on,
//! where each step begins from the store, or ends and answers all who wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crate::document::panic_text;
use crate::status::StatusHub;

/// A thread of an open store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StoreThread {
    /// Writes the store. After a panic nothing is written until it is opened again
    /// ([`Status::store_failed`](crate::Status::store_failed)); reads go on.
    Writer,
    /// Applies what arrives to open documents. It goes on after a panic.
    Apply,
    /// Wakes the tasks that wait for events, status and answers. It goes on after a panic.
    Notify,
    /// Folds long histories. It goes on after a panic.
    Compact,
    /// Opens folded histories that arrive. After a panic the session with the relay ends, and is made
    /// again.
    Arrivals,
    /// Keeps the connection with the relay. After a panic the store is offline, and
    /// [`Status::last_error`](crate::Status::last_error) says why, until
    /// [`Store::connect`](crate::Store::connect) is called again.
    Link,
    /// Follows the process that writes the store, for one that is open for reading only. After a panic
    /// each call that would look fails, until the store is opened again
    /// ([`Status::store_failed`](crate::Status::store_failed)).
    Follow,
}

/// A panic on one of the store's threads: a bug of this software, to be reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadPanic {
    /// Which thread.
    pub thread: StoreThread,
    /// The last panic's message.
    pub what: String,
}

/// Where the threads of one store tell of panics.
#[derive(Default)]
pub(crate) struct Threads {
    status: OnceLock<Weak<StatusHub>>,
    /// Threads that are to panic, one bit each. Only tests order it; always compiled, so that what is
    /// tested is what ships.
    ordered: AtomicU8,
}

impl Threads {
    /// Where it is shown. To be called once, before a thread has anything to do.
    pub(crate) fn tell(&self, status: &Arc<StatusHub>) {
        if self.status.set(Arc::downgrade(status)).is_err() {
            tracing::error!("a store has two statuses; the second one is not told of panics");
        }
    }

    /// Runs what a thread does; gives a panic's message, once the status says it.
    pub(crate) fn contain<T>(
        &self,
        thread: StoreThread,
        step: impl FnOnce() -> T,
    ) -> Result<T, String> {
        // Unwind safety: whoever calls it takes up nothing that the step may have left half done.
        catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
            let what = panic_text(&*panic);
            self.panicked(thread, what.clone());
            what
        })
    }

    /// A thread has panicked.
    pub(crate) fn panicked(&self, thread: StoreThread, what: String) {
        tracing::error!(?thread, what, "a thread of the store panicked");
        if let Some(status) = self.status.get().and_then(Weak::upgrade) {
            status.set_panicked(thread, what);
        }
    }

    /// A place at which a test may have the thread panic.
    pub(crate) fn pass(&self, thread: StoreThread) {
        if self.ordered.load(Ordering::Relaxed) & bit(thread) == 0 {
            return;
        }
        self.ordered.fetch_and(!bit(thread), Ordering::Relaxed);
        // Without the panic hook: it is no bug.
        std::panic::resume_unwind(Box::new("ordered by a test"));
    }

    /// Has a thread panic when it comes to such a place.
    #[cfg(test)]
    pub(crate) fn order_panic(&self, thread: StoreThread) {
        self.ordered.fetch_or(bit(thread), Ordering::Relaxed);
    }
}

fn bit(thread: StoreThread) -> u8 {
    1 << thread as u8
}
