//! Reads of the store for one peer, each within memory reserved beforehand.

use std::sync::Arc;

use landfall_protocol::{DocumentId, SpaceName};

use crate::connection::RelayState;
use crate::limits;
use crate::memory::{Account, Class, Grant, Key};
use crate::store::{Known, LogStore, StoreError};
use crate::turns::Turns;

/// A session's access to the store.
#[derive(Clone)]
pub(super) struct Pages {
    store: Arc<dyn LogStore>,
    /// Bounds concurrent page reads, for the whole relay.
    page_reads: Turns,
    account: Account,
}

impl Pages {
    pub(super) fn new(shared: &RelayState, account: Account) -> Self {
        let (store, page_reads) = (Arc::clone(&shared.store), shared.page_reads.clone());
        Self { store, page_reads, account }
    }

    #[cfg(test)]
    pub(super) fn of(store: Arc<dyn LogStore>, page_reads: Turns, account: Account) -> Self {
        Self { store, page_reads, account }
    }

    /// Reads, off the session's own task, after reserving memory for a piece of usual size. A larger result
    /// is dropped, and read again after reserving its size. `bytes` returns the bytes of a result that will
    /// be sent.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&dyn LogStore) -> Result<T, StoreError> + Send + Sync + 'static,
        bytes: fn(&T) -> usize,
    ) -> Result<(T, Grant), StoreError> {
        self.read_after(None, read, bytes).await
    }

    /// The same for reads that take turns among themselves, besides those of all reads. It waits for a turn
    /// only while holding memory: a read that waits for memory must not block a turn.
    pub(super) async fn read_after<T: Send + 'static>(
        &self,
        before: Option<&Turns>,
        read: impl Fn(&dyn LogStore) -> Result<T, StoreError> + Send + Sync + 'static,
        bytes: fn(&T) -> usize,
    ) -> Result<(T, Grant), StoreError> {
        let read = Arc::new(read);
        let mut grant = self.account.reserve(Class::Answer, limits::ANSWER_BYTES).await;
        loop {
            let key = self.account.key();
            let first = match before {
                Some(turns) => turns.take(key).await,
                None => None,
            };
            let turn = (first, self.page_reads.take(key).await);
            let (store, read) = (Arc::clone(&self.store), Arc::clone(&read));
            let read = tokio::task::spawn_blocking(move || {
                let read = read(&*store);
                drop(turn);
                read
            });
            let found = read.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)))?;
            // The result itself, and its copy in the socket's buffer.
            let needs = 2 * bytes(&found);
            if needs <= grant.bytes() || grant.bytes() > limits::ANSWER_BYTES {
                grant.shrink_to(needs);
                return Ok((found, grant));
            }
            drop((found, grant));
            grant = self.account.reserve(Class::Answer, needs.max(limits::ANSWER_BYTES + 1)).await;
        }
    }

    /// The key that reads are attributed to.
    pub(super) fn key(&self) -> Key {
        self.account.key()
    }

    /// The known damage of a document. Reads nothing from disk.
    pub(super) fn known_damage(&self, space: &SpaceName, document: &DocumentId) -> Option<Known> {
        self.store.known_damage(space, document)
    }

    /// Waits for memory for data that already exists.
    pub(super) async fn reserve(&self, bytes: usize) -> Grant {
        self.account.reserve(Class::Answer, 2 * bytes).await
    }

    /// Memory for data that already exists, if available.
    pub(super) fn try_reserve(&self, bytes: usize) -> Option<Grant> {
        self.account.try_reserve(Class::Answer, 2 * bytes)
    }
}
