//! The owner of an open store and of the parts that use it from outside: the link and the follower. Every
//! handle shares it.

use std::sync::{Arc, OnceLock};

use landfall_protocol::SpaceName;

use crate::actors::Actors;
use crate::actors::outside::FoundMarker;
use crate::document::Applier;
use crate::ephemeral::EphemeralSender;
use crate::error::{OpenError, SpaceError, StoreError};
use crate::events::EventHub;
use crate::follow::Follower;
use crate::link::Link;
use crate::notify::Notifier;
use crate::open_store::{OpenStore, StoreParts};
use crate::options::Options;
use crate::random;
use crate::store::{LocalLog, OpenMode, SpaceRow};
use crate::threads::Threads;

/// Closes the store when the last handle is gone.
pub(crate) struct StoreOwner {
    pub(crate) store: Arc<OpenStore>,
    pub(crate) link: Link,
    /// The sender of this opening's ephemeral messages.
    pub(super) ephemeral: EphemeralSender,
    /// Follows the writing process, in a store that is open for reading only.
    follower: OnceLock<Follower>,
}

impl Drop for StoreOwner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the store failed");
        }
    }
}

impl StoreOwner {
    /// Opens the store, and starts its threads.
    pub(super) fn open(place: OpenMode<'_>, options: &Options) -> Result<Self, OpenError> {
        let read_only = matches!(place, OpenMode::ReadOnly(_));
        let storage = landfall_storage::Options {
            page_cache_bytes: options.page_cache_bytes,
            ..landfall_storage::Options::default()
        };
        let fresh = random::replica_id().map_err(|error| OpenError::Storage(Box::new(error)))?;
        // Before the store is opened, because opening may change its file.
        let left = match &place {
            OpenMode::File(path) => FoundMarker::look(path),
            OpenMode::ReadOnly(_) | OpenMode::Memory => None,
        };
        let log =
            LocalLog::open(place, storage, fresh)?.with_document_bytes(options.document_bytes);
        if !read_only {
            // A relay rejects a snapshot over the limit, so its changes become single ones.
            log.expand_oversized(log.document_bytes())
                .map_err(|error| OpenError::Storage(Box::new(error)))?;
        }
        let actors = Actors::begin(&log, read_only, left)
            .map_err(|error| OpenError::Storage(Box::new(error)))?;
        let threads = Arc::new(Threads::default());
        let applier = Applier::start(Arc::clone(&threads)).map_err(OpenError::Thread)?;
        let notifier = Notifier::start(Arc::clone(&threads)).map_err(OpenError::Thread)?;
        let events = EventHub::new(options.events, notifier.clone());
        let ephemeral =
            EphemeralSender::new().map_err(|error| OpenError::Storage(Box::new(error)))?;
        let link = Link::new(ephemeral.session.clone());
        let link_signals = link.signals();
        let parts = StoreParts { events, applier, actors, notifier, threads, link: link_signals };
        let store = OpenStore::new(log, parts, options, read_only)
            .map_err(|error| OpenError::Storage(Box::new(error)))?;
        let owner = Self { store: Arc::new(store), link, ephemeral, follower: OnceLock::new() };
        if read_only {
            let follower = Follower::start(&owner.store, options.follow_every)
                .map_err(|error| OpenError::Storage(Box::new(error)))?;
            // `set` cannot fail: no other thread has this handle yet.
            let _ = owner.follower.set(follower);
        }
        Ok(owner)
    }

    /// Returns when all commits of the writing process so far are seen. Only a store that is open for
    /// reading only has to look.
    pub(super) fn catch_up(&self) -> Result<(), StoreError> {
        match self.follower.get() {
            Some(follower) => follower.catch_up(),
            None => Ok(()),
        }
    }

    /// The row of a space, which is created if it is missing.
    pub(super) fn space(&self, name: &SpaceName) -> Result<SpaceRow, SpaceError> {
        if !self.store.context.access.is_closed() {
            self.catch_up()?;
        }
        self.store.space(name)
    }

    /// Ends the threads, then the store, in the order in which they use each other.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        self.store.begin_close();
        self.link.close();
        if let Some(follower) = self.follower.get() {
            follower.close();
        }
        self.store.close()
    }
}
