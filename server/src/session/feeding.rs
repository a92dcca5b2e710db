//! What a session feeds its peer: for each subscription a feed, taken in turns; from the ring
//! where it reaches back far enough, else from the store, one short page at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use landfall_protocol::Offset;
use landfall_protocol::frame::{Filter, Partial, SubscriptionId};
use landfall_protocol::ring::Chunk;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::hub::Feed;
use crate::store::{LogStore, StoreError};

/// One subscription's source.
struct Source {
    ticket: u64,
    /// `None` until the hub has attached it.
    feed: Option<Arc<Feed>>,
    /// The ring does not reach back to its position: the store must be read.
    behind: bool,
    /// Its place among all subscriptions of the relay.
    _place: OwnedSemaphorePermit,
}

/// What a page is for. The ticket tells it from a later subscription of the same number.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) subscription: SubscriptionId,
    ticket: u64,
    pub(super) feed: Arc<Feed>,
}

/// A chunk that was read from the store, or why not.
pub(super) type Read = (Target, Result<Option<Chunk>, StoreError>);

/// Where a subscription stands, and what it wants.
pub(super) struct Standing {
    pub(super) after: Offset,
    pub(super) filter: Filter,
    pub(super) partial: Option<Partial>,
}

/// All sources of a session.
pub(super) struct Feeding {
    store: Arc<dyn LogStore>,
    /// Bounds, for the whole relay, how many pages are read at a time.
    page_reads: Arc<Semaphore>,
    /// Places for subscriptions, of the whole relay.
    places: Arc<Semaphore>,
    sources: BTreeMap<SubscriptionId, Source>,
    /// Those that may have something to be fed; all others have not.
    due: BTreeSet<SubscriptionId>,
    /// Whose turn was last.
    last: SubscriptionId,
    reading: Option<JoinHandle<Read>>,
    read: Option<(Target, Chunk)>,
    tickets: u64,
}

impl Feeding {
    pub(super) fn new(
        store: Arc<dyn LogStore>,
        page_reads: Arc<Semaphore>,
        places: Arc<Semaphore>,
    ) -> Self {
        Self {
            store,
            page_reads,
            places,
            sources: BTreeMap::new(),
            due: BTreeSet::new(),
            last: 0,
            reading: None,
            read: None,
            tickets: 0,
        }
    }

    /// A subscription that is about to be attached; gives its ticket. `None` if the relay has no
    /// place for another one.
    pub(super) fn add(&mut self, subscription: SubscriptionId) -> Option<u64> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        self.tickets += 1;
        let ticket = self.tickets;
        let source = Source { ticket, feed: None, behind: false, _place: place };
        self.sources.insert(subscription, source);
        Some(ticket)
    }

    pub(super) fn remove(&mut self, subscription: SubscriptionId) {
        self.sources.remove(&subscription);
        self.due.remove(&subscription);
    }

    /// These logs have grown.
    pub(super) fn handle_grown(&mut self, subscriptions: BTreeSet<SubscriptionId>) {
        self.due.extend(subscriptions);
    }

    /// Whether a ticket is that of the present subscription.
    pub(super) fn is_current(&self, subscription: SubscriptionId, ticket: u64) -> bool {
        self.sources.get(&subscription).is_some_and(|source| source.ticket == ticket)
    }

    /// Whether a target is of a subscription that still stands.
    pub(super) fn is_target(&self, target: &Target) -> bool {
        self.is_current(target.subscription, target.ticket)
    }

    /// Whether nothing was subscribed to, or nothing is any more.
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    pub(super) fn handle_attached(&mut self, subscription: SubscriptionId, feed: Arc<Feed>) {
        if let Some(source) = self.sources.get_mut(&subscription) {
            source.feed = Some(feed);
            self.due.insert(subscription);
        }
    }

    /// The next subscription, in turn, whose log has grown past its position and whose page is in
    /// the ring or may be.
    pub(super) fn next_live(
        &mut self,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
    ) -> Option<Target> {
        self.next(|source| !source.behind, position)
    }

    /// Whether there is one.
    pub(super) fn has_live(&mut self, position: impl Fn(SubscriptionId) -> Option<Offset>) -> bool {
        self.first_due(|source| !source.behind, position).is_some()
    }

    /// The ring does not hold this subscription's next entry.
    pub(super) fn handle_behind(&mut self, subscription: SubscriptionId) {
        if let Some(source) = self.sources.get_mut(&subscription) {
            source.behind = true;
        }
    }

    /// Begins to read the next chunk of a subscription that is behind, if none is being read.
    pub(super) fn read_if_behind(
        &mut self,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
        standing: impl Fn(SubscriptionId) -> Option<Standing>,
    ) {
        if self.reading.is_some() || self.read.is_some() {
            return;
        }
        let Some(target) = self.next(|source| source.behind, &position) else { return };
        let Some(standing) = standing(target.subscription) else { return };
        let (store, reads) = (Arc::clone(&self.store), Arc::clone(&self.page_reads));
        self.reading = Some(tokio::spawn(async move {
            // Closed never; without a turn the read is only less polite.
            let turn = reads.acquire_owned().await;
            let space = target.feed.space.clone();
            let page = tokio::task::spawn_blocking(move || {
                let Standing { after, filter, partial } = standing;
                let chunk = store.next(&space, after, &filter, partial);
                drop(turn);
                chunk
            });
            let page = page.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)));
            (target, page)
        }));
    }

    /// Waits for the page that is being read; for ever if there is none.
    pub(super) async fn read(&mut self) -> Option<Read> {
        let Some(reading) = self.reading.as_mut() else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        read.ok()
    }

    /// A chunk came from the store. After it the ring is tried again.
    pub(super) fn handle_read(&mut self, target: Target, chunk: Chunk) {
        let Some(source) = self.sources.get_mut(&target.subscription) else { return };
        if source.ticket == target.ticket {
            source.behind = false;
            self.read = Some((target, chunk));
        }
    }

    /// Whether a chunk from the store waits to be sent.
    pub(super) fn has_read(&self) -> bool {
        self.read.is_some()
    }

    /// The chunk from the store that waits to be sent, if its subscription still stands.
    pub(super) fn take_read(&mut self) -> Option<(Target, Chunk)> {
        let (target, chunk) = self.read.take()?;
        self.is_current(target.subscription, target.ticket).then_some((target, chunk))
    }

    fn next(
        &mut self,
        which: impl Fn(&Source) -> bool,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
    ) -> Option<Target> {
        let target = self.first_due(which, position)?;
        self.last = target.subscription;
        Some(target)
    }

    /// The first that is due, beginning after the one whose turn was last. Those that turn out to
    /// have nothing are not looked at again until their logs have grown: so each growth costs one
    /// look, however many subscriptions there are.
    fn first_due(
        &mut self,
        which: impl Fn(&Source) -> bool,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
    ) -> Option<Target> {
        // A page that waits to be sent goes first: the ring must not overtake it.
        let held = self.read.as_ref().map(|(target, _)| target.subscription);
        let after = self.due.range((Bound::Excluded(self.last), Bound::Unbounded));
        let turns = after.chain(self.due.range(..=self.last)).copied();
        let (mut found, mut idle) = (None, Vec::new());
        for subscription in turns {
            let source = self.sources.get(&subscription);
            let Some((source, feed)) = source.and_then(|s| Some((s, s.feed.as_ref()?))) else {
                idle.push(subscription);
                continue;
            };
            // Without a position it is paused, and goes on of itself.
            let Some(at) = position(subscription) else { continue };
            if at >= feed.head() {
                idle.push(subscription);
            } else if which(source) && held != Some(subscription) {
                found =
                    Some(Target { subscription, ticket: source.ticket, feed: Arc::clone(feed) });
                break;
            }
        }
        idle.iter().for_each(|subscription| {
            self.due.remove(subscription);
        });
        found
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}
