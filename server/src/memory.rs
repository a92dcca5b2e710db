//! The relay's memory budget: what sessions may make it keep, in total and each.
//!
//! A reservation has a class (what it is for) and an account (whose it is: a session's); accounts of one
//! address share. It is granted when its class, the account, its share and the whole budget have room. Of
//! the shares that wait, the one that holds least is served first, and of its accounts the one that does:
//! a peer that sends much waits for those that send little, over however many connections. Reservations
//! up to [`limits::SMALL_RESERVATION`] have two lanes that large ones never fill.
//!
//! What is made of a large message is split off the message's grant ([`Grant::split`]), and a page
//! is reserved before it is read. So no session waits for a large reservation while it holds
//! another, and waiting ends. Caches give way: [`Memory::cache_room`] says how much they may keep, and falls
//! while reservations wait.

mod ledger;
mod pace;
mod stalls;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::limits;
use crate::metrics::Metrics;
pub(crate) use ledger::Key;
use ledger::{Ledger, is_small};
pub(crate) use pace::Pace;

/// What memory is reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A message that arrives, with what it is decoded to.
    Intake,
    /// Pushes, from their message to their answer.
    Push,
    /// Snapshots and whole documents that clients bring, until they are merged.
    Upload,
    /// Messages for peers, from the read of the store until they are written.
    Answer,
    /// What a session makes the relay remember for as long as it lasts.
    State,
}

impl Class {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Intake, Self::Push, Self::Upload, Self::Answer, Self::State];

    /// Its name in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Push => "push",
            Self::Upload => "upload",
            Self::Answer => "answer",
            Self::State => "state",
        }
    }

    /// How much of the budget the class may take. Together they are more than the whole: not all
    /// are busy at a time.
    fn sixteenths(self) -> usize {
        limits::MEMORY_SIXTEENTHS[self as usize]
    }
}

/// What accounts share by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ShareKey {
    /// All sessions of an address.
    Address(IpAddr),
    /// The relay itself: what no session asks for.
    Relay,
    /// One session: where addresses do not tell clients apart.
    Session(u64),
}

struct State {
    ledger: Ledger,
    /// Where those who wait are told.
    waiters: HashMap<u64, oneshot::Sender<Grant>>,
    /// Where each account is told that it is to give way: from its beginning to its end.
    evictions: HashMap<Key, Arc<Notify>>,
}

struct Shared {
    state: Mutex<State>,
    /// Told when reservations wait: caches, and what no session holds any more, give way.
    pressed: Notify,
}

/// The budget of one relay. Clones share it.
#[derive(Clone)]
pub(crate) struct Memory {
    shared: Arc<Shared>,
}

impl Memory {
    /// A budget of so many bytes; at least [`limits::LEAST_MEMORY`].
    pub(crate) fn new(bytes: usize) -> Self {
        let ledger = Ledger::new(bytes.max(limits::LEAST_MEMORY));
        let state =
            Mutex::new(State { ledger, waiters: HashMap::new(), evictions: HashMap::new() });
        Self { shared: Arc::new(Shared { state, pressed: Notify::new() }) }
    }

    /// A new account, with a share in common with others of the same key.
    pub(crate) fn account(&self, share: ShareKey) -> Account {
        let evicted = Arc::new(Notify::new());
        let mut state = self.shared.state.lock();
        let key = state.ledger.open(share);
        state.evictions.insert(key, Arc::clone(&evicted));
        Account { open: Arc::new(Open { shared: Arc::clone(&self.shared), key, evicted }) }
    }

    /// Bytes of the whole budget.
    pub(crate) fn limit(&self) -> usize {
        self.shared.state.lock().ledger.limit()
    }

    /// Bytes that a class holds.
    pub(crate) fn used(&self, class: Class) -> usize {
        self.shared.state.lock().ledger.used(class)
    }

    /// Bytes that caches hold.
    pub(crate) fn cached(&self) -> usize {
        self.shared.state.lock().ledger.caches()
    }

    /// Reservations that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.state.lock().ledger.waiting()
    }

    /// Whether reservations wait for what uploads hold that no session sends any more.
    pub(crate) fn is_short(&self) -> bool {
        self.shared.state.lock().ledger.is_short()
    }

    /// A share that waits for what its own uploads hold.
    pub(crate) fn short_share(&self) -> Option<ShareKey> {
        self.shared.state.lock().ledger.short_share()
    }

    /// Bytes that all caches together may hold now.
    pub(crate) fn cache_room(&self) -> usize {
        self.shared.state.lock().ledger.cache_room()
    }

    /// A cache holds `after` where it held `before`.
    pub(crate) fn set_cached(&self, before: usize, after: usize) {
        self.shared.serve(|ledger| ledger.set_cached(before, after));
    }

    /// Waits until reservations wait: told once for each that begins to, and for whatever is given back
    /// while others still wait.
    pub(crate) async fn pressed(&self) {
        self.shared.pressed.notified().await;
    }
}

impl Memory {
    /// Brings the metrics up to date.
    pub(crate) fn show(&self, metrics: &Metrics) {
        let set = |class, bytes: usize| {
            metrics.memory.get_or_create(&[("class", class)]).set(bytes as i64);
        };
        Class::ALL.iter().for_each(|class| set(class.name(), self.used(*class)));
        set("caches", self.cached());
        metrics.in_flight_bytes.set(self.used(Class::Push) as i64);
        metrics.ring_bytes.set(self.cached() as i64);
        metrics.memory_limit.set(self.limit() as i64);
        metrics.memory_waiting.set(self.waiting() as i64);
    }
}

impl Shared {
    /// Changes the ledger, then serves the reservations that can be served.
    fn serve(self: &Arc<Self>, change: impl FnOnce(&mut Ledger)) {
        let mut served = Vec::new();
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            change(&mut state.ledger);
            if !state.ledger.is_wanted() {
                return;
            }
            while let Some((key, waiting)) = state.ledger.next(Instant::now()) {
                let grant = self.book(&mut state.ledger, key, waiting.class, waiting.bytes);
                served.push((state.waiters.remove(&waiting.ticket), grant));
            }
            if state.ledger.is_wanted() {
                self.pressed.notify_one();
            }
        }
        for (tell, grant) in served {
            // One that waits no more gives it back: `grant` is dropped with the lock released.
            if let Some(Err(unwanted)) = tell.map(|tell| tell.send(grant)) {
                drop(unwanted);
            }
        }
    }

    fn book(self: &Arc<Self>, ledger: &mut Ledger, key: Key, class: Class, bytes: usize) -> Grant {
        let small = is_small(class, bytes);
        ledger.book(key, class, bytes, small);
        Grant { shared: Arc::clone(self), key, class, bytes, small, with: None }
    }
}

/// Whose memory is reserved. Clones are the same account.
#[derive(Clone)]
pub(crate) struct Account {
    open: Arc<Open>,
}

/// An account that is open, closed once: with the last of its clones.
struct Open {
    shared: Arc<Shared>,
    key: Key,
    evicted: Arc<Notify>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let key = self.key;
        self.shared.state.lock().evictions.remove(&key);
        // Who shares with nobody any more may have more.
        self.shared.serve(|ledger| ledger.close(key));
    }
}

impl Account {
    /// Waits for its turn and for room. Dropped, it waits no more. What is more than the whole budget
    /// has waits for the whole budget.
    pub(crate) async fn reserve(&self, class: Class, bytes: usize) -> Grant {
        let mut waits = {
            let mut state = self.open.shared.state.lock();
            let state = &mut *state;
            let bytes = bytes.min(state.ledger.largest());
            if state.ledger.is_free(self.open.key, class, bytes) {
                return self.open.shared.book(&mut state.ledger, self.open.key, class, bytes);
            }
            let ticket = state.ledger.wait(self.open.key, class, bytes);
            let (tell, told) = oneshot::channel();
            state.waiters.insert(ticket, tell);
            self.open.shared.pressed.notify_one();
            Waits { account: self, ticket, told }
        };
        // Those before it may wait for something else: then it is its turn at once, and nothing that is
        // given back would tell it so.
        self.open.shared.serve(|_| {});
        match (&mut waits.told).await {
            Ok(grant) => grant,
            // It never comes: the sender is kept until it is used.
            Err(_) => self.take(class, bytes),
        }
    }

    /// A reservation if there is room at once.
    pub(crate) fn try_reserve(&self, class: Class, bytes: usize) -> Option<Grant> {
        let mut state = self.open.shared.state.lock();
        let free = state.ledger.is_free(self.open.key, class, bytes);
        free.then(|| self.open.shared.book(&mut state.ledger, self.open.key, class, bytes))
    }

    /// Memory for what a session makes the relay remember, at once or not at all. A little is always
    /// there: connections are counted. If there is none since another account has more than its
    /// share, that one is told to give way.
    pub(crate) fn remember(&self, bytes: usize) -> Option<Grant> {
        let mut state = self.open.shared.state.lock();
        let little = state.ledger.held(self.open.key, Class::State) + bytes <= limits::LITTLE_STATE;
        // Nobody waits for it, so nobody goes before it.
        if !little && !state.ledger.may_remember(self.open.key, bytes) {
            let hog = state.ledger.hog(Class::State, self.open.key, bytes)?;
            // It may have ended: then what it holds is about to be given back.
            state.evictions.get(&hog)?.notify_one();
            // Until then others ask: there is room for so much more, and no more.
            if !state.ledger.may_outgrow(bytes) {
                return None;
            }
        }
        let grant = self.open.shared.book(&mut state.ledger, self.open.key, Class::State, bytes);
        if state.ledger.is_over() {
            // Caches have what was booked just now: they give way.
            self.open.shared.pressed.notify_one();
        }
        Some(grant)
    }

    /// Whether an upload of so many bytes has no room for what its own session or address holds: what
    /// others give back is no help.
    pub(crate) fn outgrows(&self, bytes: usize) -> bool {
        self.open.shared.state.lock().ledger.outgrows(self.open.key, bytes)
    }

    /// Whose it is.
    pub(crate) fn key(&self) -> Key {
        self.open.key
    }

    /// Waits until this account is to give way.
    pub(crate) async fn evicted(&self) {
        self.open.evicted.notified().await;
    }

    /// The share that it belongs to.
    pub(crate) fn share(&self) -> ShareKey {
        self.open.key.share
    }

    /// Whether anybody waits for memory.
    pub(crate) fn is_wanted(&self) -> bool {
        self.open.shared.state.lock().ledger.is_wanted()
    }

    /// Whether others wait for memory while this account holds some that it will give back.
    pub(crate) fn withholds(&self) -> bool {
        let state = self.open.shared.state.lock();
        state.ledger.is_wanted() && state.ledger.holds(self.open.key)
    }

    /// Whether this account's share has more than its part while other shares wait: what hardly gets on
    /// is to be given up the sooner.
    pub(crate) fn is_pressed(&self) -> bool {
        self.open.shared.state.lock().ledger.is_pressed(self.open.key)
    }

    /// A message or an upload of the account stalled, and its memory is given up: the share waits behind
    /// others if that happens again and again.
    pub(crate) fn stalled(&self) {
        self.open.shared.state.lock().ledger.stalled(self.open.key, Instant::now());
    }

    /// Books what is there already, whether there was room or not: others wait the longer for it.
    pub(crate) fn take(&self, class: Class, bytes: usize) -> Grant {
        self.open.shared.book(
            &mut self.open.shared.state.lock().ledger,
            self.open.key,
            class,
            bytes,
        )
    }
}

/// A place in the queue, given up when it is dropped.
struct Waits<'a> {
    account: &'a Account,
    ticket: u64,
    told: oneshot::Receiver<Grant>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let (shared, key, ticket) = (&self.account.open.shared, self.account.open.key, self.ticket);
        shared.state.lock().waiters.remove(&ticket);
        shared.serve(|ledger| {
            // Served meanwhile, it gives its memory back by itself.
            let _ = ledger.give_up(key, ticket);
        });
    }
}

/// Memory that is reserved, until it is dropped.
pub(crate) struct Grant {
    shared: Arc<Shared>,
    key: Key,
    class: Class,
    bytes: usize,
    small: bool,
    /// What is given back with it.
    with: Option<Box<Grant>>,
}

impl Grant {
    /// Keeps another one, of whichever class, for as long as this.
    pub(crate) fn and(mut self, other: Self) -> Self {
        let mut last = &mut self.with;
        while let Some(with) = last {
            last = &mut with.with;
        }
        *last = Some(Box::new(other));
        self
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose it is.
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// It may be taken back from now on: who waits already is told so.
    pub(crate) fn offer_back(&self) {
        if self.shared.state.lock().ledger.is_wanted() {
            self.shared.pressed.notify_one();
        }
    }

    /// Keeps no more than so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            let (key, class, small) = (self.key, self.class, self.small);
            self.bytes -= less;
            self.shared.serve(|ledger| ledger.release(key, class, less, small));
        }
    }

    /// Moves so many of its bytes, or what it has, to a reservation of their own and of this class.
    pub(crate) fn split(&mut self, class: Class, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let (key, from, small) = (self.key, self.class, self.small);
        // The class that it leaves has room for others.
        self.shared.serve(|ledger| {
            ledger.book(key, class, bytes, small);
            ledger.release(key, from, bytes, small);
        });
        Self { shared: Arc::clone(&self.shared), key, class, bytes, small, with: None }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let (key, class, bytes, small) = (self.key, self.class, self.bytes, self.small);
        self.shared.serve(|ledger| ledger.release(key, class, bytes, small));
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grant({} bytes of {})", self.bytes, self.class.name())
    }
}
