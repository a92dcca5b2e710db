//! Fan-out: for each space, the sessions that have a document open and receive its new entries and
//! ephemeral messages, and the subscriptions that receive ephemeral messages. Ephemeral messages pass
//! through here and are never stored.
//!
//! It must not know what an entry or a message means, and it never waits: everything goes into a session's
//! bounded mailbox ([`Mailbox`]). A full mailbox drops items and, for entries, records that it did.
//!
//! A session subscribes to a document before it reads the store: it may receive an entry twice, but misses
//! none.

mod mailbox;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use landfall_protocol::access::View;
use landfall_protocol::ephemeral::Sources;
use landfall_protocol::frame::SubscriptionId;
use landfall_protocol::limits::{EPHEMERAL_BYTES, EPHEMERAL_NAME_BYTES};
use landfall_protocol::relay::Commit;
use landfall_protocol::{DocumentId, Moment, SessionId, SpaceName};
use parking_lot::Mutex;

use crate::budgets::Budgets;
use crate::limits;
use crate::metrics::Metrics;
pub(crate) use mailbox::{Delivery, Mailbox, ResendRequest};

/// An ephemeral message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broadcast {
    /// Its document.
    pub(crate) document: DocumentId,
    /// The sender's peer id.
    pub(crate) sender: String,
    /// One run of the sender.
    pub(crate) session: String,
    /// Grows with each message of the session.
    pub(crate) count: u64,
    /// The payload, opaque to the relay.
    pub(crate) data: Vec<u8>,
}

impl Broadcast {
    fn fits(&self) -> bool {
        self.data.len() <= EPHEMERAL_BYTES
            && self.sender.len() <= EPHEMERAL_NAME_BYTES
            && self.session.len() <= EPHEMERAL_NAME_BYTES
    }
}

/// The subscribers of all spaces.
pub(crate) struct FanOut {
    index: Mutex<Index>,
    metrics: Arc<Metrics>,
    /// The ephemeral budgets of addresses, each shared by all sessions of its address.
    ephemeral_limits: Mutex<Budgets>,
    /// The zero of the budgets' clock.
    start: Instant,
}

/// The index of spaces and sessions. Locked before a space's own lock, and for look-ups only.
#[derive(Default)]
struct Index {
    spaces: HashMap<SpaceName, Arc<Mutex<SpaceSubscribers>>>,
    /// The spaces in which a session has subscriptions or open documents.
    spaces_of: HashMap<SessionId, BTreeSet<SpaceName>>,
}

/// The subscribers of one space.
#[derive(Default)]
struct SpaceSubscribers {
    documents: HashMap<DocumentId, BTreeMap<SessionId, Arc<Mailbox>>>,
    /// Each session's open documents.
    open: HashMap<SessionId, BTreeSet<DocumentId>>,
    listeners: BTreeMap<(SessionId, SubscriptionId), (View, Arc<Mailbox>)>,
    sources: Sources,
}

impl FanOut {
    /// Without subscribers.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let (rate, burst) = (limits::SHARE_EPHEMERAL_RATE, limits::SHARE_EPHEMERAL_BURST);
        let ephemeral_limits = Mutex::new(Budgets::new(rate, burst));
        Self { index: Mutex::default(), metrics, ephemeral_limits, start: Instant::now() }
    }

    /// Subscribes a session to a document's entries and ephemeral messages: it has the document open.
    pub(crate) fn subscribe(
        &self,
        space: &SpaceName,
        document: DocumentId,
        mailbox: &Arc<Mailbox>,
    ) {
        self.change(space, mailbox.session(), |subscribers| {
            let mailboxes = subscribers.documents.entry(document).or_default();
            mailboxes.insert(mailbox.session(), Arc::clone(mailbox));
            subscribers.open.entry(mailbox.session()).or_default().insert(document);
        });
    }

    /// Subscribes a session to the ephemeral messages about the documents that a subscription's view
    /// selects.
    pub(crate) fn subscribe_ephemeral(
        &self,
        space: &SpaceName,
        subscription: SubscriptionId,
        view: View,
        mailbox: &Arc<Mailbox>,
    ) {
        self.change(space, mailbox.session(), |subscribers| {
            subscribers
                .listeners
                .insert((mailbox.session(), subscription), (view, Arc::clone(mailbox)));
        });
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe_ephemeral(
        &self,
        space: &SpaceName,
        subscription: SubscriptionId,
        session: SessionId,
    ) {
        self.change(space, session, |subscribers| {
            subscribers.listeners.remove(&(session, subscription));
        });
    }

    /// Removes a session that has ended.
    pub(crate) fn remove(&self, session: SessionId) {
        let spaces = self.index.lock().spaces_of.get(&session).cloned().unwrap_or_default();
        for space in spaces {
            self.change(&space, session, |subscribers| subscribers.forget(session));
        }
    }

    /// Publishes a durable commit: its entries go, in offset order, to the sessions that have their
    /// documents open.
    pub(crate) fn publish(&self, commit: &Arc<Commit>) {
        let Some(subscribers) = self.space_subscribers(&commit.space) else { return };
        let mut recipients = Vec::new();
        {
            let subscribers = subscribers.lock();
            if subscribers.documents.is_empty() {
                return;
            }
            for (at, new) in commit.entries.iter().enumerate() {
                if let Some(mailboxes) = subscribers.documents.get(&new.entry.document) {
                    recipients.extend(mailboxes.values().map(|mailbox| (Arc::clone(mailbox), at)));
                }
            }
        }
        if recipients.is_empty() {
            return;
        }
        let bytes = commit.entries.iter().map(landfall_protocol::relay::NewEntry::weight).sum();
        for (mailbox, at) in recipients {
            mailbox.put_entry(commit, at, bytes);
        }
    }

    /// Publishes an ephemeral message to all other subscribers of its document. Returns false if it was
    /// dropped: its count did not grow, it is too large, or the sender's session or address exceeds its
    /// rate.
    pub(crate) fn publish_ephemeral(
        &self,
        sender: &Mailbox,
        space: &SpaceName,
        message: Broadcast,
    ) -> bool {
        self.publish_ephemeral_at(sender, Instant::now(), space, message)
    }

    fn publish_ephemeral_at(
        &self,
        sender: &Mailbox,
        now: Instant,
        space: &SpaceName,
        message: Broadcast,
    ) -> bool {
        if !message.fits() {
            self.metrics.ephemeral("dropped", 1);
            return false;
        }
        // Checked before any look-up, so that a dropped message costs no more than its read.
        if !self.may_publish(sender, now) {
            self.metrics.ephemeral("limited", 1);
            return false;
        }
        let weight = message.weight();
        let Some(subscribers) = self.space_subscribers(space) else {
            self.spend(sender, now, weight);
            return true;
        };
        let (from, mut recipients) = (sender.session(), Vec::new());
        let listeners = {
            let mut subscribers = subscribers.lock();
            if !subscribers.is_new(&message) {
                drop(subscribers);
                self.spend(sender, now, weight);
                self.metrics.ephemeral("repeated", 1);
                return false;
            }
            if let Some(mailboxes) = subscribers.documents.get(&message.document) {
                let others = mailboxes.iter().filter(|(session, _)| **session != from);
                recipients.extend(others.map(|(_, mailbox)| (Arc::clone(mailbox), None)));
            }
            for ((session, subscription), (view, mailbox)) in &subscribers.listeners {
                if *session != from && view.contains(&message.document) {
                    recipients.push((Arc::clone(mailbox), Some(*subscription)));
                }
            }
            subscribers.listeners.len()
        };
        let (message, forwarded) = (Arc::new(message), recipients.len());
        let cost = weight * (1 + forwarded) + limits::LISTENER_COST_BYTES * listeners;
        self.spend(sender, now, cost);
        let deliver = |(mailbox, through): (Arc<Mailbox>, _)| {
            mailbox.put_ephemeral(Arc::clone(&message), through)
        };
        let dropped = recipients.into_iter().map(deliver).sum::<usize>();
        self.metrics.ephemeral("forwarded", forwarded);
        self.metrics.ephemeral("dropped", dropped);
        true
    }

    /// Whether the session and its address have paid for their earlier messages.
    fn may_publish(&self, sender: &Mailbox, now: Instant) -> bool {
        let wait = || self.ephemeral_limits.lock().wait(sender.share(), self.moment(now));
        sender.may_publish(now) && wait().is_zero()
    }

    fn spend(&self, sender: &Mailbox, now: Instant, bytes: usize) {
        sender.spend(now, bytes);
        self.ephemeral_limits.lock().spend(sender.share(), self.moment(now), bytes as u64);
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment(now.saturating_duration_since(self.start))
    }

    /// The sessions that follow a document: first those with a subscription, each once, then those that
    /// have it open.
    pub(crate) fn subscribers(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Vec<(Option<SubscriptionId>, Arc<Mailbox>)> {
        let Some(subscribers) = self.space_subscribers(space) else { return Vec::new() };
        let subscribers = subscribers.lock();
        let follows = subscribers.listeners.iter().filter(|(_, (view, _))| view.contains(document));
        let mut found: Vec<_> = follows
            .map(|((_, subscription), (_, mailbox))| (Some(*subscription), Arc::clone(mailbox)))
            .collect();
        found.dedup_by_key(|(_, mailbox)| mailbox.session());
        let open = subscribers.documents.get(document).into_iter().flat_map(BTreeMap::values);
        found.extend(open.map(|mailbox| (None, Arc::clone(mailbox))));
        found
    }

    /// Whether a space has subscribers.
    pub(crate) fn has_subscribers(&self, space: &SpaceName) -> bool {
        self.index.lock().spaces.contains_key(space)
    }

    fn space_subscribers(&self, space: &SpaceName) -> Option<Arc<Mutex<SpaceSubscribers>>> {
        self.index.lock().spaces.get(space).cloned()
    }

    /// Changes a space's subscribers; removes an empty space and an empty index entry.
    fn change(
        &self,
        space: &SpaceName,
        session: SessionId,
        change: impl FnOnce(&mut SpaceSubscribers),
    ) {
        let mut index = self.index.lock();
        let subscribers = Arc::clone(index.spaces.entry(space.clone()).or_default());
        let mut subscribers = subscribers.lock();
        change(&mut subscribers);
        if subscribers.has(session) {
            index.spaces_of.entry(session).or_default().insert(space.clone());
        } else if let Some(spaces_of) = index.spaces_of.get_mut(&session) {
            spaces_of.remove(space);
            if spaces_of.is_empty() {
                index.spaces_of.remove(&session);
            }
        }
        if subscribers.is_empty() {
            index.spaces.remove(space);
        }
    }
}

impl SpaceSubscribers {
    /// Whether a message is new, as far as counts are remembered: the number of remembered senders grows
    /// with the number of subscribers, whose memory pays for them.
    fn is_new(&mut self, message: &Broadcast) -> bool {
        let subscribers = self.listeners.len() + self.open.len();
        let most = limits::EPHEMERAL_SOURCES_EACH * (1 + subscribers);
        let most = most.min(limits::EPHEMERAL_SOURCES);
        self.sources.grows(&message.sender, &message.session, message.count, most)
    }

    fn close(&mut self, document: &DocumentId, session: SessionId) {
        if let Some(mailboxes) = self.documents.get_mut(document) {
            mailboxes.remove(&session);
            if mailboxes.is_empty() {
                self.documents.remove(document);
            }
        }
        if let Some(open) = self.open.get_mut(&session) {
            open.remove(document);
            if open.is_empty() {
                self.open.remove(&session);
            }
        }
    }

    fn forget(&mut self, session: SessionId) {
        for document in self.open.get(&session).cloned().unwrap_or_default() {
            self.close(&document, session);
        }
        self.listeners.retain(|(listener, _), _| *listener != session);
    }

    fn has(&self, session: SessionId) -> bool {
        let first = (session, SubscriptionId::MIN);
        let listens = self.listeners.range(first..=(session, SubscriptionId::MAX)).next();
        self.open.contains_key(&session) || listens.is_some()
    }

    fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.listeners.is_empty()
    }
}

#[cfg(test)]
mod tests;
