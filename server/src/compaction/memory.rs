//! Memory for the relay's own compactions, reserved before a document is read. The reservation queues with
//! those of clients, and blocks no thread.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::memory::{Account, Class, Grant, Memory, ShareKey};

/// The compactions' part of the memory budget.
pub(super) struct CompactionMemory {
    memory: Memory,
    /// The pending request of the last look. One thread looks at a time.
    asked: Mutex<Option<PendingGrant>>,
}

struct PendingGrant {
    bytes: usize,
    pending: Pin<Box<dyn Future<Output = Granted> + Send>>,
}

/// Granted memory, with its account.
pub(super) struct Granted {
    _grant: Grant,
    _account: Account,
}

impl CompactionMemory {
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, asked: Mutex::default() }
    }

    /// `bytes` bytes, if the request has been granted by now; else `None`: the request stays queued, and the
    /// next look asks again.
    pub(super) fn take(&self, bytes: usize) -> Option<Granted> {
        let mut request = self.asked.lock();
        // The candidate may be another document than at the last look.
        let before = request.take().filter(|before| before.bytes == bytes);
        let mut this = before.unwrap_or_else(|| self.ask(bytes));
        match this.pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(granted) => Some(granted),
            Poll::Pending => {
                *request = Some(this);
                None
            }
        }
    }

    fn ask(&self, bytes: usize) -> PendingGrant {
        let account = self.memory.account(ShareKey::Relay);
        let pending = async move {
            let grant = account.reserve(Class::Upload, bytes).await;
            Granted { _grant: grant, _account: account }
        };
        PendingGrant { bytes, pending: Box::pin(pending) }
    }

    /// Withdraws the pending request: no document is due.
    pub(super) fn leave(&self) {
        *self.asked.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    const BYTES: usize = 1 << 20;

    #[test]
    fn a_compaction_waits_in_turn_for_its_memory() {
        let memory = Memory::new(0);
        let compactions = CompactionMemory::new(memory.clone());
        let peer = memory.account(ShareKey::Session(1));
        let all = limits::LEAST_MEMORY / 16 * limits::MEMORY_SIXTEENTHS[Class::Upload as usize];
        let held = peer.try_reserve(Class::Upload, all).unwrap();
        assert!(compactions.take(BYTES).is_none());
        assert_eq!((memory.waiting(), memory.used(Class::Upload)), (1, all));
        assert!(compactions.take(BYTES).is_none());
        assert_eq!(memory.waiting(), 1, "it waits twice for one document");
        drop(held);
        let granted = compactions.take(BYTES).expect("there is room");
        assert_eq!(memory.used(Class::Upload), BYTES);
        drop(granted);
        assert_eq!(memory.used(Class::Upload), 0);
    }

    #[test]
    fn a_cancelled_compaction_holds_no_memory() {
        let memory = Memory::new(0);
        let compactions = CompactionMemory::new(memory.clone());
        let peer = memory.account(ShareKey::Session(1));
        let all = limits::LEAST_MEMORY / 16 * limits::MEMORY_SIXTEENTHS[Class::Upload as usize];
        let held = peer.try_reserve(Class::Upload, all).unwrap();
        assert!(compactions.take(BYTES).is_none());
        // Another document.
        assert!(compactions.take(2 * BYTES).is_none());
        assert_eq!(memory.waiting(), 1);
        drop(held);
        assert_eq!(memory.used(Class::Upload), 2 * BYTES);
        compactions.leave();
        assert_eq!((memory.waiting(), memory.used(Class::Upload)), (0, 0));
    }
}
