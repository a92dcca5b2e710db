//! The relay's memory budget: the bytes that sessions may make it hold, in total and each.
//!
//! A reservation has a class (its purpose) and an account (a session's); the accounts of one address form a
//! share. It is granted when its class, its account, its share and the whole budget have room. Of the
//! waiting shares, the one that holds least is served first, and within it the account that holds least: a
//! peer that sends much waits for those that send little, over however many connections. Reservations up to
//! [`limits::SMALL_RESERVATION`] have two lanes that large ones never fill.
//!
//! The memory of everything made of a large message is split off the message's grant ([`Grant::split`]),
//! and a page is reserved before it is read. So no session waits for a large reservation while it holds
//! another, and there is no deadlock. Caches yield to reservations: [`Memory::cache_room`] limits them, and
//! falls while reservations wait.

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

/// The purpose of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    /// An incoming message, with its decoded form.
    Incoming,
    /// Pushes, from their message to their answer.
    Push,
    /// Snapshots and whole documents from clients, until they are merged.
    Upload,
    /// Messages for peers, from the read of the store until they are written.
    Answer,
    /// State that a session makes the relay hold until the session ends.
    State,
}

impl Class {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Incoming, Self::Push, Self::Upload, Self::Answer, Self::State];

    /// Its name in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Incoming => "intake",
            Self::Push => "push",
            Self::Upload => "upload",
            Self::Answer => "answer",
            Self::State => "state",
        }
    }

    /// The class's limit. The limits' sum exceeds the budget: not all classes are busy at a time.
    fn sixteenths(self) -> usize {
        limits::MEMORY_SIXTEENTHS[self as usize]
    }
}

/// The key by which accounts form a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ShareKey {
    /// All sessions of an address.
    Address(IpAddr),
    /// The relay itself: work that no session requests.
    Relay,
    /// One session: where addresses do not distinguish clients.
    Session(u64),
}

struct State {
    ledger: Ledger,
    /// The channels of waiting reservations, by ticket.
    waiters: HashMap<u64, oneshot::Sender<Grant>>,
    /// The eviction notice of each open account.
    evictions: HashMap<Key, Arc<Notify>>,
}

struct BudgetState {
    state: Mutex<State>,
    /// Notified while reservations wait: caches and idle uploads then release memory.
    pressed: Notify,
}

/// The budget of one relay. Clones share it.
#[derive(Clone)]
pub(crate) struct Memory {
    shared: Arc<BudgetState>,
}

impl Memory {
    /// A budget of `bytes` bytes; at least [`limits::LEAST_MEMORY`].
    pub(crate) fn new(bytes: usize) -> Self {
        let ledger = Ledger::new(bytes.max(limits::LEAST_MEMORY));
        let state =
            Mutex::new(State { ledger, waiters: HashMap::new(), evictions: HashMap::new() });
        Self { shared: Arc::new(BudgetState { state, pressed: Notify::new() }) }
    }

    /// Opens an account in the share of this key.
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

    /// Number of waiting reservations.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.state.lock().ledger.waiting()
    }

    /// Whether reservations wait for memory that idle uploads hold.
    pub(crate) fn is_short(&self) -> bool {
        self.shared.state.lock().ledger.is_short()
    }

    /// A share that waits for memory that its own uploads hold.
    pub(crate) fn short_share(&self) -> Option<ShareKey> {
        self.shared.state.lock().ledger.short_share()
    }

    /// Bytes that all caches together may hold now.
    pub(crate) fn cache_room(&self) -> usize {
        self.shared.state.lock().ledger.cache_room()
    }

    /// Records that a cache's size changed from `before` to `after`.
    pub(crate) fn set_cached(&self, before: usize, after: usize) {
        self.shared.serve(|ledger| ledger.set_cached(before, after));
    }

    /// Waits for a notice that reservations wait: one when each begins to wait, and one for each release
    /// after which others still wait.
    pub(crate) async fn pressed(&self) {
        self.shared.pressed.notified().await;
    }
}

impl Memory {
    /// Updates the metrics.
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

impl BudgetState {
    /// Changes the ledger, then grants the waiting reservations that fit.
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
        for (sender, grant) in served {
            // A cancelled waiter returns the grant: it is dropped here, after the lock was released.
            if let Some(Err(unwanted)) = sender.map(|sender| sender.send(grant)) {
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

/// An account. Clones are the same account.
#[derive(Clone)]
pub(crate) struct Account {
    open: Arc<Open>,
}

/// An open account; it closes when its last clone is dropped.
struct Open {
    shared: Arc<BudgetState>,
    key: Key,
    evicted: Arc<Notify>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let key = self.key;
        self.shared.state.lock().evictions.remove(&key);
        // A share whose last competitor is gone may hold more, so closing may serve reservations.
        self.shared.serve(|ledger| ledger.close(key));
    }
}

impl Account {
    /// Waits for its turn and for room. Dropping the future withdraws the reservation. A request above the
    /// largest possible reservation is reduced to that.
    pub(crate) async fn reserve(&self, class: Class, bytes: usize) -> Grant {
        let mut waits = {
            let mut state = self.open.shared.state.lock();
            let state = &mut *state;
            let bytes = bytes.min(state.ledger.largest());
            if state.ledger.is_free(self.open.key, class, bytes) {
                return self.open.shared.book(&mut state.ledger, self.open.key, class, bytes);
            }
            let ticket = state.ledger.wait(self.open.key, class, bytes);
            let (sender, receiver) = oneshot::channel();
            state.waiters.insert(ticket, sender);
            self.open.shared.pressed.notify_one();
            Waits { account: self, ticket, receiver }
        };
        // All reservations before this one may wait for something else: then it can be granted now, and no
        // release would trigger that.
        self.open.shared.serve(|_| {});
        match (&mut waits.receiver).await {
            Ok(grant) => grant,
            // Never happens: the sender is kept until it is used.
            Err(_) => self.take(class, bytes),
        }
    }

    /// A reservation, if there is room at once.
    pub(crate) fn try_reserve(&self, class: Class, bytes: usize) -> Option<Grant> {
        let mut state = self.open.shared.state.lock();
        let free = state.ledger.is_free(self.open.key, class, bytes);
        free.then(|| self.open.shared.book(&mut state.ledger, self.open.key, class, bytes))
    }

    /// Memory for a session's state, at once or not at all. A small amount is always granted: the number of
    /// connections is limited. If there is no room because another account has more than its fair share,
    /// that account is notified to give way.
    pub(crate) fn reserve_state(&self, bytes: usize) -> Option<Grant> {
        let mut state = self.open.shared.state.lock();
        let little = state.ledger.held(self.open.key, Class::State) + bytes <= limits::LITTLE_STATE;
        // State reservations never queue, so there is no order to respect.
        if !little && !state.ledger.may_remember(self.open.key, bytes) {
            let hog = state.ledger.hog(Class::State, self.open.key, bytes)?;
            // That account may have ended: then its memory is about to be released.
            state.evictions.get(&hog)?.notify_one();
            // Until it has given way, further requests share the overdraft that `may_outgrow` allows.
            if !state.ledger.may_outgrow(bytes) {
                return None;
            }
        }
        let grant = self.open.shared.book(&mut state.ledger, self.open.key, Class::State, bytes);
        if state.ledger.is_over() {
            // The grant may use memory that caches hold: they must release it.
            self.open.shared.pressed.notify_one();
        }
        Some(grant)
    }

    /// Whether an upload of `bytes` bytes does not fit because of the memory of its own session or address:
    /// releases by others do not help.
    pub(crate) fn outgrows(&self, bytes: usize) -> bool {
        self.open.shared.state.lock().ledger.outgrows(self.open.key, bytes)
    }

    /// Its key.
    pub(crate) fn key(&self) -> Key {
        self.open.key
    }

    /// Waits until this account must give way.
    pub(crate) async fn evicted(&self) {
        self.open.evicted.notified().await;
    }

    /// Its share.
    pub(crate) fn share(&self) -> ShareKey {
        self.open.key.share
    }

    /// Whether any reservation waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.open.shared.state.lock().ledger.is_wanted()
    }

    /// Whether reservations wait while this account holds memory that it will release.
    pub(crate) fn withholds(&self) -> bool {
        let state = self.open.shared.state.lock();
        state.ledger.is_wanted() && state.ledger.holds(self.open.key)
    }

    /// Whether this account's share holds more than its part while other shares wait: its slow messages and
    /// uploads are then given up after a shorter time.
    pub(crate) fn is_pressed(&self) -> bool {
        self.open.shared.state.lock().ledger.is_pressed(self.open.key)
    }

    /// Records that a message or an upload of the account stalled and gave up its memory: after repeated
    /// stalls the share waits behind others.
    pub(crate) fn stalled(&self) {
        self.open.shared.state.lock().ledger.stalled(self.open.key, Instant::now());
    }

    /// Books memory that is already in use, even without room: other reservations then wait longer.
    pub(crate) fn take(&self, class: Class, bytes: usize) -> Grant {
        self.open.shared.book(
            &mut self.open.shared.state.lock().ledger,
            self.open.key,
            class,
            bytes,
        )
    }
}

/// A place in the queue, given up on drop.
struct Waits<'a> {
    account: &'a Account,
    ticket: u64,
    receiver: oneshot::Receiver<Grant>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let (shared, key, ticket) = (&self.account.open.shared, self.account.open.key, self.ticket);
        shared.state.lock().waiters.remove(&ticket);
        shared.serve(|ledger| {
            // If it was granted meanwhile, the grant releases its memory on drop.
            let _ = ledger.give_up(key, ticket);
        });
    }
}

/// Reserved memory, held until it is dropped.
pub(crate) struct Grant {
    shared: Arc<BudgetState>,
    key: Key,
    class: Class,
    bytes: usize,
    small: bool,
    /// Another grant, released together with this one.
    with: Option<Box<Grant>>,
}

impl Grant {
    /// Keeps another grant, of any class, as long as this one.
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

    /// Its account.
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Declares that this memory may be evicted from now on: notifies the evictor if reservations wait.
    pub(crate) fn upload_back(&self) {
        if self.shared.state.lock().ledger.is_wanted() {
            self.shared.pressed.notify_one();
        }
    }

    /// Releases all but `bytes` bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            let (key, class, small) = (self.key, self.class, self.small);
            self.bytes -= less;
            self.shared.serve(|ledger| ledger.release(key, class, less, small));
        }
    }

    /// Moves `bytes` of its bytes, or all if it has fewer, to a new grant of this class.
    pub(crate) fn split(&mut self, class: Class, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let (key, from, small) = (self.key, self.class, self.small);
        // Serve again: the class that the bytes leave has room for others.
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
