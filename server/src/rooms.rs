//! Subscribers: for each space, the sessions that have a document open and receive its new entries and
//! ephemeral messages, and the subscriptions that receive ephemeral messages. Ephemeral messages pass
//! through here and are never stored.
//!
//! It must not know what an entry or a message means, and it never waits: everything goes into a session's
//! bounded mailbox ([`Seat`]). A full mailbox drops items and, for entries, records that it did.
//!
//! A session subscribes to a document before it reads the store: it may receive an entry twice, but misses
//! none.

mod seat;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use landfall_protocol::ephemeral::Sources;
use landfall_protocol::frame::{Filter, SubscriptionId};
use landfall_protocol::limits::{EPHEMERAL_BYTES, EPHEMERAL_NAME_BYTES};
use landfall_protocol::space::Commit;
use landfall_protocol::{DocumentId, Moment, SessionId, SpaceName};
use parking_lot::Mutex;

use crate::budgets::Budgets;
use crate::limits;
use crate::metrics::Metrics;
pub(crate) use seat::{News, Seat};

/// An ephemeral message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
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

impl Said {
    fn fits(&self) -> bool {
        self.data.len() <= EPHEMERAL_BYTES
            && self.sender.len() <= EPHEMERAL_NAME_BYTES
            && self.session.len() <= EPHEMERAL_NAME_BYTES
    }
}

/// The subscribers of all spaces.
pub(crate) struct Rooms {
    index: Mutex<Index>,
    metrics: Arc<Metrics>,
    /// The ephemeral budgets of addresses, each shared by all sessions of its address.
    voices: Mutex<Budgets>,
    /// The zero of the budgets' clock.
    start: Instant,
}

/// The index of spaces and sessions. Locked before a room's own lock, and for look-ups only.
#[derive(Default)]
struct Index {
    rooms: HashMap<SpaceName, Arc<Mutex<Room>>>,
    /// The spaces in which a session has subscriptions or open documents.
    places: HashMap<SessionId, BTreeSet<SpaceName>>,
}

/// The subscribers of one space.
#[derive(Default)]
struct Room {
    documents: HashMap<DocumentId, BTreeMap<SessionId, Arc<Seat>>>,
    /// Each session's open documents.
    open: HashMap<SessionId, BTreeSet<DocumentId>>,
    listeners: BTreeMap<(SessionId, SubscriptionId), (Filter, Arc<Seat>)>,
    sources: Sources,
}

impl Rooms {
    /// Without subscribers.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let (rate, burst) = (limits::SHARE_EPHEMERAL_RATE, limits::SHARE_EPHEMERAL_BURST);
        let voices = Mutex::new(Budgets::new(rate, burst));
        Self { index: Mutex::default(), metrics, voices, start: Instant::now() }
    }

    /// Subscribes a session to a document's entries and ephemeral messages: it has the document open.
    pub(crate) fn enter(&self, space: &SpaceName, document: DocumentId, seat: &Arc<Seat>) {
        self.change(space, seat.session(), |room| {
            let seats = room.documents.entry(document).or_default();
            seats.insert(seat.session(), Arc::clone(seat));
            room.open.entry(seat.session()).or_default().insert(document);
        });
    }

    /// Subscribes a session to the ephemeral messages about the documents that a subscription's filter
    /// selects.
    pub(crate) fn listen(
        &self,
        space: &SpaceName,
        subscription: SubscriptionId,
        filter: Filter,
        seat: &Arc<Seat>,
    ) {
        self.change(space, seat.session(), |room| {
            room.listeners.insert((seat.session(), subscription), (filter, Arc::clone(seat)));
        });
    }

    /// Ends a subscription.
    pub(crate) fn unlisten(
        &self,
        space: &SpaceName,
        subscription: SubscriptionId,
        session: SessionId,
    ) {
        self.change(space, session, |room| {
            room.listeners.remove(&(session, subscription));
        });
    }

    /// Removes a session that has ended.
    pub(crate) fn forget(&self, session: SessionId) {
        let places = self.index.lock().places.get(&session).cloned().unwrap_or_default();
        for space in places {
            self.change(&space, session, |room| room.forget(session));
        }
    }

    /// Publishes a durable commit: its entries go, in offset order, to the sessions that have their
    /// documents open.
    pub(crate) fn publish(&self, commit: &Arc<Commit>) {
        let Some(room) = self.room(&commit.space) else { return };
        let mut told = Vec::new();
        {
            let room = room.lock();
            if room.documents.is_empty() {
                return;
            }
            for (at, new) in commit.entries.iter().enumerate() {
                if let Some(seats) = room.documents.get(&new.entry.document) {
                    told.extend(seats.values().map(|seat| (Arc::clone(seat), at)));
                }
            }
        }
        if told.is_empty() {
            return;
        }
        let bytes = commit.entries.iter().map(landfall_protocol::space::NewEntry::weight).sum();
        for (seat, at) in told {
            seat.put_entry(commit, at, bytes);
        }
    }

    /// Publishes an ephemeral message to all other subscribers of its document. Returns false if it was
    /// dropped: its count did not grow, it is too large, or the sender's session or address exceeds its
    /// rate.
    pub(crate) fn say(&self, speaker: &Seat, space: &SpaceName, said: Said) -> bool {
        self.say_at(speaker, Instant::now(), space, said)
    }

    fn say_at(&self, speaker: &Seat, now: Instant, space: &SpaceName, said: Said) -> bool {
        if !said.fits() {
            self.metrics.ephemeral("dropped", 1);
            return false;
        }
        // Checked before any look-up, so that a dropped message costs no more than its read.
        if !self.may_say(speaker, now) {
            self.metrics.ephemeral("limited", 1);
            return false;
        }
        let weight = said.weight();
        let Some(room) = self.room(space) else {
            self.spend(speaker, now, weight);
            return true;
        };
        let (from, mut told) = (speaker.session(), Vec::new());
        let listeners = {
            let mut room = room.lock();
            if !room.is_new(&said) {
                drop(room);
                self.spend(speaker, now, weight);
                self.metrics.ephemeral("repeated", 1);
                return false;
            }
            if let Some(seats) = room.documents.get(&said.document) {
                let others = seats.iter().filter(|(session, _)| **session != from);
                told.extend(others.map(|(_, seat)| (Arc::clone(seat), None)));
            }
            for ((session, subscription), (filter, seat)) in &room.listeners {
                if *session != from && filter.wants(&said.document) {
                    told.push((Arc::clone(seat), Some(*subscription)));
                }
            }
            room.listeners.len()
        };
        let (said, forwarded) = (Arc::new(said), told.len());
        let cost = weight * (1 + forwarded) + limits::LISTENER_COST_BYTES * listeners;
        self.spend(speaker, now, cost);
        let tell = |(seat, through): (Arc<Seat>, _)| seat.put_said(Arc::clone(&said), through);
        let dropped = told.into_iter().map(tell).sum::<usize>();
        self.metrics.ephemeral("forwarded", forwarded);
        self.metrics.ephemeral("dropped", dropped);
        true
    }

    /// Whether the session and its address have paid for their earlier messages.
    fn may_say(&self, speaker: &Seat, now: Instant) -> bool {
        let wait = || self.voices.lock().wait(speaker.share(), self.moment(now));
        speaker.may_say(now) && wait().is_zero()
    }

    fn spend(&self, speaker: &Seat, now: Instant, bytes: usize) {
        speaker.spend(now, bytes);
        self.voices.lock().spend(speaker.share(), self.moment(now), bytes as u64);
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment(now.saturating_duration_since(self.start))
    }

    /// The sessions that follow a document: first those with a subscription, each once, then those that
    /// have it open.
    pub(crate) fn followers(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Vec<(Option<SubscriptionId>, Arc<Seat>)> {
        let Some(room) = self.room(space) else { return Vec::new() };
        let room = room.lock();
        let follows = room.listeners.iter().filter(|(_, (filter, _))| filter.wants(document));
        let mut found: Vec<_> = follows
            .map(|((_, subscription), (_, seat))| (Some(*subscription), Arc::clone(seat)))
            .collect();
        found.dedup_by_key(|(_, seat)| seat.session());
        let open = room.documents.get(document).into_iter().flat_map(BTreeMap::values);
        found.extend(open.map(|seat| (None, Arc::clone(seat))));
        found
    }

    /// Whether a space has subscribers.
    pub(crate) fn is_followed(&self, space: &SpaceName) -> bool {
        self.index.lock().rooms.contains_key(space)
    }

    fn room(&self, space: &SpaceName) -> Option<Arc<Mutex<Room>>> {
        self.index.lock().rooms.get(space).cloned()
    }

    /// Changes a space's subscribers; removes an empty room and an empty index entry.
    fn change(&self, space: &SpaceName, session: SessionId, change: impl FnOnce(&mut Room)) {
        let mut index = self.index.lock();
        let room = Arc::clone(index.rooms.entry(space.clone()).or_default());
        let mut room = room.lock();
        change(&mut room);
        if room.has(session) {
            index.places.entry(session).or_default().insert(space.clone());
        } else if let Some(places) = index.places.get_mut(&session) {
            places.remove(space);
            if places.is_empty() {
                index.places.remove(&session);
            }
        }
        if room.is_empty() {
            index.rooms.remove(space);
        }
    }
}

impl Room {
    /// Whether a message is new, as far as counts are remembered: the number of remembered senders grows
    /// with the number of subscribers, whose memory pays for them.
    fn is_new(&mut self, said: &Said) -> bool {
        let followers = self.listeners.len() + self.open.len();
        let most = limits::EPHEMERAL_SOURCES_EACH * (1 + followers);
        let most = most.min(limits::EPHEMERAL_SOURCES);
        self.sources.grows(&said.sender, &said.session, said.count, most)
    }

    fn close(&mut self, document: &DocumentId, session: SessionId) {
        if let Some(seats) = self.documents.get_mut(document) {
            seats.remove(&session);
            if seats.is_empty() {
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
