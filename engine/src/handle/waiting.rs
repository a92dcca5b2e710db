//! Waiting for a document that has not arrived yet, and listening to one space or document.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use landfall_protocol::DocumentId;

use super::{Document, Space};
use crate::error::{OpenDocumentError, StoreError, WaitError};
use crate::events::{Events, Scope};

/// Longer waits are cut to this, so that no clock overflows.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Space {
    /// Listens to the events of the space's documents from now on.
    pub fn events(&self) -> Events {
        self.open_store().context.events.listen(Scope::Space(self.name().clone()))
    }

    /// Opens a document, and waits until it arrives from a relay or is created here. Needs no
    /// particular executor. Dropping the future cancels the wait at no further cost. For a timeout
    /// without an executor see [`Space::wait_for`].
    ///
    /// # Errors
    /// [`WaitError::Deleted`] if it is or becomes deleted; [`WaitError::Store`] if the store cannot be
    /// read or is closed.
    pub async fn find(&self, document: DocumentId) -> Result<Document, WaitError> {
        // Listens before it looks the document up, so that an arrival in between is not missed.
        let mut events =
            self.open_store().context.events.listen(Scope::Document(self.name().clone(), document));
        loop {
            match self.open(document) {
                Ok(open) => return Ok(open),
                Err(OpenDocumentError::Unknown { .. }) => {}
                Err(OpenDocumentError::Store(error)) => return Err(error.into()),
            }
            let deleted = self.open_store().context.log.deleted(self.row()?, &document);
            if deleted.map_err(StoreError::from)? {
                return Err(WaitError::Deleted { document });
            }
            if events.next().await.is_none() {
                return Err(StoreError::closed().into());
            }
        }
    }

    /// As [`Space::find`], on this thread, for at most `timeout`.
    ///
    /// # Errors
    /// As [`Space::find`], and [`WaitError::TimedOut`], which states whether the space was in sync.
    pub fn wait_for(&self, document: DocumentId, timeout: Duration) -> Result<Document, WaitError> {
        let found = within(timeout, self.find(document));
        found.unwrap_or_else(|| {
            let (space, sync) = (self.name().clone(), self.status().map(|status| status.sync));
            Err(WaitError::TimedOut { document, space, sync })
        })
    }
}

impl Document {
    /// Listens to the document's events from now on.
    pub fn events(&self) -> Events {
        let open = self.open();
        open.context.events.listen(Scope::Document(open.space.clone(), open.id))
    }
}

/// Runs a future on this thread; `None` if it is not done in time.
fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    struct RetryRejected(Thread);

    impl Wake for RetryRejected {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let deadline = Instant::now() + timeout.min(FAR);
    let waker = Waker::from(Arc::new(RetryRejected(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}
