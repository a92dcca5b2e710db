//! Who follows what: for each space, the sessions that have a document open and want to hear of its
//! new entries, and those that want to hear what is said about it. Ephemeral messages pass through
//! here; they are never stored.
//!
//! It must not know what an entry or a message means, nor wait for anybody: what it has to tell
//! goes into a bounded [`Seat`], and what finds no room there is dropped, which the seat says.
//!
//! A session enters a document first and reads the store then: what becomes durable in between
//! comes twice, and nothing is missed.

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
    /// What it is about.
    pub(crate) document: DocumentId,
    /// Who says it: a peer's name.
    pub(crate) sender: String,
    /// One run of the sender.
    pub(crate) session: String,
    /// Grows with each message of the session.
    pub(crate) count: u64,
    /// As it came; never looked into.
    pub(crate) data: Vec<u8>,
}

impl Said {
    fn fits(&self) -> bool {
        self.data.len() <= EPHEMERAL_BYTES
            && self.sender.len() <= EPHEMERAL_NAME_BYTES
            && self.session.len() <= EPHEMERAL_NAME_BYTES
    }
}

/// Everybody who follows something, of all spaces.
pub(crate) struct Rooms {
    index: Mutex<Index>,
    metrics: Arc<Metrics>,
    /// What the sessions of an address may say together.
    voices: Mutex<Budgets>,
    /// When the voices' time began.
    start: Instant,
}

/// Where to look. Taken before a room's own lock, and for a look-up only.
#[derive(Default)]
struct Index {
    rooms: HashMap<SpaceName, Arc<Mutex<Room>>>,
    /// The spaces in which a session follows something.
    places: HashMap<SessionId, BTreeSet<SpaceName>>,
}

/// One space that somebody follows.
#[derive(Default)]
struct Room {
    documents: HashMap<DocumentId, BTreeMap<SessionId, Arc<Seat>>>,
    /// What each session has open.
    open: HashMap<SessionId, BTreeSet<DocumentId>>,
    listeners: BTreeMap<(SessionId, SubscriptionId), (Filter, Arc<Seat>)>,
    sources: Sources,
}

impl Rooms {
    /// Nobody follows anything.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let (rate, burst) = (limits::SHARE_EPHEMERAL_RATE, limits::SHARE_EPHEMERAL_BURST);
        let voices = Mutex::new(Budgets::new(rate, burst));
        Self { index: Mutex::default(), metrics, voices, start: Instant::now() }
    }

    /// A session has a document open: it hears of its entries and of what is said about it.
    pub(crate) fn enter(&self, space: &SpaceName, document: DocumentId, seat: &Arc<Seat>) {
        self.change(space, seat.session(), |room| {
            let seats = room.documents.entry(document).or_default();
            seats.insert(seat.session(), Arc::clone(seat));
            room.open.entry(seat.session()).or_default().insert(document);
        });
    }

    /// A session hears what is said about the documents that a subscription's filter takes.
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

    /// A subscription has ended.
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

    /// A session is gone.
    pub(crate) fn forget(&self, session: SessionId) {
        let places = self.index.lock().places.get(&session).cloned().unwrap_or_default();
        for space in places {
            self.change(&space, session, |room| room.forget(session));
        }
    }

    /// A commit is durable: whoever has one of its documents open hears of its entries, in the
    /// order of their offsets.
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

    /// An ephemeral message goes to everybody else who follows its document. False if it went to
    /// nobody because its session's count had not grown, because it is too large, or because its
    /// sender has said more than it may.
    pub(crate) fn say(&self, speaker: &Seat, space: &SpaceName, said: Said) -> bool {
        self.say_at(speaker, Instant::now(), space, said)
    }

    fn say_at(&self, speaker: &Seat, now: Instant, space: &SpaceName, said: Said) -> bool {
        if !said.fits() {
            self.metrics.ephemeral("dropped", 1);
            return false;
        }
        // Before anything is looked up: what is dropped costs no more than having been read.
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

    /// Whether what a session said before is paid for, and what all of its address said.
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

    /// The sessions that follow a document, each once: those that do so by a subscription, and then
    /// those that have it open.
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

    /// Whether anybody follows anything in a space.
    pub(crate) fn is_followed(&self, space: &SpaceName) -> bool {
        self.index.lock().rooms.contains_key(space)
    }

    fn room(&self, space: &SpaceName) -> Option<Arc<Mutex<Room>>> {
        self.index.lock().rooms.get(space).cloned()
    }

    /// Changes who follows what in a space, and keeps neither an empty room nor an empty place.
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
    /// Whether something is said for the first time, as far as that is remembered: of so many senders as
    /// the memory of those who follow pays for.
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
