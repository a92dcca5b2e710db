//! Feeds a session's subscriptions, in turns: from the ring where it reaches back far enough, else from the
//! store, one short page at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use landfall_protocol::Offset;
use landfall_protocol::access::View;
use landfall_protocol::frame::{Partial, SubscriptionId};
use landfall_protocol::relay::{Chunk, Page};
use tokio::task::JoinHandle;

use super::pages::Pages;
use crate::connection::RelayState;
use crate::hub::Feed;
use crate::limits;
use crate::memory::{Account, Grant};
use crate::quota::{One, Quota};
use crate::store::{LogStore, StoreError};

/// One subscription's source.
struct Source {
    ticket: u64,
    /// `None` until the hub has attached it.
    feed: Option<Arc<Feed>>,
    /// The ring does not reach back to its position: the store must be read.
    behind: bool,
    /// Its unit of the relay's subscription quota.
    _quota: One,
    /// The memory of the subscription and its view.
    grant: Grant,
}

/// The subscription that a page is read for. The ticket distinguishes it from a later subscription with the
/// same number.
#[derive(Clone)]
pub(super) struct PageTarget {
    pub(super) subscription: SubscriptionId,
    ticket: u64,
    pub(super) feed: Arc<Feed>,
}

/// A chunk read from the store, or the error.
pub(super) type Read = (PageTarget, Result<Option<Chunk>, StoreError>, Option<Grant>);

/// A subscription's position and view.
pub(super) struct FeedPosition {
    pub(super) after: Offset,
    pub(super) view: View,
    pub(super) partial: Option<Partial>,
}

/// Why a subscription is rejected.
pub(super) enum NoRoom {
    /// The relay or the address has used up its quota.
    Quota(usize),
    /// There is no memory for it now.
    Memory,
}

/// All sources of a session.
pub(super) struct Feeds {
    pages: Pages,
    account: Account,
    /// The quota of subscriptions, for the whole relay.
    quota: Quota,
    sources: BTreeMap<SubscriptionId, Source>,
    /// Subscriptions that may have entries to send; all others have none.
    due: BTreeSet<SubscriptionId>,
    /// The last subscription served.
    last: SubscriptionId,
    reading: Option<JoinHandle<Read>>,
    read: Option<(PageTarget, Chunk, Option<Grant>)>,
    tickets: u64,
}

impl Feeds {
    pub(super) fn new(shared: &RelayState, account: Account) -> Self {
        Self {
            pages: Pages::new(shared, account.clone()),
            account,
            quota: shared.subscriptions.clone(),
            sources: BTreeMap::new(),
            due: BTreeSet::new(),
            last: 0,
            reading: None,
            read: None,
            tickets: 0,
        }
    }

    /// Adds a subscription that is about to be attached; returns its ticket.
    pub(super) fn add(&mut self, subscription: SubscriptionId, view: &View) -> Result<u64, NoRoom> {
        let quota = self.quota.take(self.account.share()).map_err(|none| NoRoom::Quota(none.0))?;
        let grant = self.account.reserve_state(state_bytes(view)).ok_or(NoRoom::Memory)?;
        self.tickets += 1;
        let ticket = self.tickets;
        let source = Source { ticket, feed: None, behind: false, _quota: quota, grant };
        self.sources.insert(subscription, source);
        Ok(ticket)
    }

    /// Replaces a subscription's view. False if there is no memory for the new one.
    pub(super) fn refilter(&mut self, subscription: SubscriptionId, view: &View) -> bool {
        let Some(source) = self.sources.get_mut(&subscription) else { return true };
        let bytes = state_bytes(view);
        if bytes > source.grant.bytes() {
            // The former view is dropped, but its memory is returned only by the assignment below.
            let Some(grant) = self.account.reserve_state(bytes) else { return false };
            source.grant = grant;
        }
        source.grant.shrink_to(bytes);
        true
    }

    pub(super) fn remove(&mut self, subscription: SubscriptionId) {
        self.sources.remove(&subscription);
        self.due.remove(&subscription);
    }

    /// The logs of these subscriptions have grown.
    pub(super) fn handle_grown(&mut self, subscriptions: BTreeSet<SubscriptionId>) {
        self.due.extend(subscriptions);
    }

    /// Whether a ticket is that of the current subscription.
    pub(super) fn is_current(&self, subscription: SubscriptionId, ticket: u64) -> bool {
        self.sources.get(&subscription).is_some_and(|source| source.ticket == ticket)
    }

    /// Whether a target's subscription still exists.
    pub(super) fn is_target(&self, target: &PageTarget) -> bool {
        self.is_current(target.subscription, target.ticket)
    }

    pub(super) fn handle_attached(&mut self, subscription: SubscriptionId, feed: Arc<Feed>) {
        if let Some(source) = self.sources.get_mut(&subscription) {
            source.feed = Some(feed);
            self.due.insert(subscription);
        }
    }

    /// The next subscription, in turn, whose log has grown past its position and whose page is in the ring or
    /// may be.
    pub(super) fn next_live(
        &mut self,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
    ) -> Option<PageTarget> {
        self.next(|source| !source.behind, position)
    }

    /// Whether there is one.
    pub(super) fn has_live(&mut self, position: impl Fn(SubscriptionId) -> Option<Offset>) -> bool {
        self.first_due(|source| !source.behind, position).is_some()
    }

    /// The ring does not have this subscription's next entry.
    pub(super) fn handle_behind(&mut self, subscription: SubscriptionId) {
        if let Some(source) = self.sources.get_mut(&subscription) {
            source.behind = true;
        }
    }

    /// Starts reading the next chunk of a subscription that is behind, unless a read is in progress.
    pub(super) fn read_if_behind(
        &mut self,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
        feed_position: impl Fn(SubscriptionId) -> Option<FeedPosition>,
    ) {
        if self.reading.is_some() || self.read.is_some() {
            return;
        }
        let Some(target) = self.next(|source| source.behind, &position) else { return };
        let Some(feed_position) = feed_position(target.subscription) else { return };
        let pages = self.pages.clone();
        self.reading = Some(tokio::spawn(async move {
            let space = target.feed.space.clone();
            let FeedPosition { after, view, partial } = feed_position;
            let read = move |store: &dyn LogStore| store.next(&space, after, &view, partial);
            match pages.read(read, chunk_bytes).await {
                Ok((page, grant)) => (target, Ok(page), Some(grant)),
                Err(error) => (target, Err(error), None),
            }
        }));
    }

    /// Waits for the read in progress; pends forever if there is none.
    pub(super) async fn read(&mut self) -> Option<Read> {
        let Some(reading) = self.reading.as_mut() else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        read.ok()
    }

    /// A chunk arrived from the store. The ring is tried again after it.
    pub(super) fn handle_read(&mut self, target: PageTarget, chunk: Chunk, grant: Option<Grant>) {
        let Some(source) = self.sources.get_mut(&target.subscription) else { return };
        if source.ticket == target.ticket {
            source.behind = false;
            self.read = Some((target, chunk, grant));
        }
    }

    /// Memory for a page of the ring until it is written, if available.
    pub(super) fn try_reserve(&self, page: &Page) -> Option<Grant> {
        self.pages.try_reserve(page.entries.iter().map(|entry| entry.len()).sum())
    }

    /// Whether a chunk from the store is ready to send.
    pub(super) fn has_read(&self) -> bool {
        self.read.is_some()
    }

    /// The chunk from the store that is ready to send, if its subscription still exists.
    pub(super) fn take_read(&mut self) -> Option<(PageTarget, Chunk, Option<Grant>)> {
        let (target, chunk, grant) = self.read.take()?;
        self.is_current(target.subscription, target.ticket).then_some((target, chunk, grant))
    }

    fn next(
        &mut self,
        which: impl Fn(&Source) -> bool,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
    ) -> Option<PageTarget> {
        let target = self.first_due(which, position)?;
        self.last = target.subscription;
        Some(target)
    }

    /// The first due subscription after the last one served. Those without entries to send are skipped until
    /// their logs have grown, so each growth costs one look, however many subscriptions there are.
    fn first_due(
        &mut self,
        which: impl Fn(&Source) -> bool,
        position: impl Fn(SubscriptionId) -> Option<Offset>,
    ) -> Option<PageTarget> {
        // A chunk that waits to be sent goes first: the ring must not overtake it.
        let held = self.read.as_ref().map(|(target, ..)| target.subscription);
        let after = self.due.range((Bound::Excluded(self.last), Bound::Unbounded));
        let turns = after.chain(self.due.range(..=self.last)).copied();
        let (mut found, mut idle) = (None, Vec::new());
        for subscription in turns {
            let source = self.sources.get(&subscription);
            let Some((source, feed)) = source.and_then(|s| Some((s, s.feed.as_ref()?))) else {
                idle.push(subscription);
                continue;
            };
            // Without a position it is paused: it stays due until it resumes.
            let Some(at) = position(subscription) else { continue };
            if at >= feed.head() {
                idle.push(subscription);
            } else if which(source) && held != Some(subscription) {
                found = Some(PageTarget {
                    subscription,
                    ticket: source.ticket,
                    feed: Arc::clone(feed),
                });
                break;
            }
        }
        idle.iter().for_each(|subscription| {
            self.due.remove(subscription);
        });
        found
    }
}

impl Drop for Feeds {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

fn chunk_bytes(chunk: &Option<Chunk>) -> usize {
    match chunk {
        None => 0,
        Some(Chunk::Part(part)) => part.bytes.len(),
        Some(Chunk::Entries(page)) => page.entries.iter().map(|entry| entry.len()).sum(),
    }
}

/// Bytes that a subscription holds while it exists.
fn state_bytes(view: &View) -> usize {
    let documents = view.documents().map_or(0, |documents| documents.len());
    limits::SUBSCRIPTION_BYTES + limits::FILTER_DOCUMENT_BYTES * documents
}
