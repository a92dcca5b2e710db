//! The accounts of the memory budget: who holds how much, and who is served next. Pure: no waiting, no
//! lock, and the time is an argument.
//!
//! It counts on two levels: accounts, which are sessions, and shares, which are all accounts of an address.
//! A cap on either level leaves room for the others.

mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use super::stalls::Stalls;
use super::{Class, ShareKey};
use crate::limits;

const CLASSES: usize = Class::ALL.len();
const LANES: usize = 2;

/// An account, which is a session, and its share: an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) share: ShareKey,
    pub(crate) account: u64,
}

impl Key {
    /// The relay itself. It has no account.
    pub(crate) const RELAY: Self = Self { share: ShareKey::Relay, account: 0 };
}

/// A waiting reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitingReservation {
    /// Ascending in the order of arrival.
    pub(super) ticket: u64,
    pub(super) class: Class,
    pub(super) bytes: usize,
}

/// The holdings and waiting reservations of one account.
#[derive(Debug, Default)]
struct Holding {
    classes: [usize; CLASSES],
    waiting: VecDeque<WaitingReservation>,
    /// It may still request memory.
    is_open: bool,
}

impl Holding {
    fn is_empty(&self) -> bool {
        !self.is_open && self.waiting.is_empty() && self.classes.iter().all(|bytes| *bytes == 0)
    }
}

/// The holdings of a share's accounts.
#[derive(Debug, Default)]
struct Share {
    classes: [usize; CLASSES],
    /// Bytes of the small reservations among them.
    small: [usize; CLASSES],
    accounts: BTreeMap<u64, Holding>,
    /// Number of open accounts.
    open: usize,
    /// Accounts with waiting reservations.
    waiting: BTreeSet<u64>,
}

impl Share {
    /// Bytes of the small reservations in a lane.
    fn in_lane(&self, lane: usize) -> usize {
        let of = Class::ALL.into_iter().filter(|class| lane_of(*class) == lane);
        of.map(|class| self.small[class as usize]).sum()
    }

    /// Bytes of a class without the small reservations, which never delay a large one.
    fn large(&self, class: Class) -> usize {
        self.classes[class as usize].saturating_sub(self.small[class as usize])
    }
}

/// An account that requests memory.
#[derive(Clone, Copy)]
struct Asks<'a> {
    key: Key,
    share: &'a Share,
    holding: &'a Holding,
}

impl Asks<'_> {
    fn held(self, class: Class) -> usize {
        self.holding.classes[class as usize]
    }
}

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    limit: usize,
    classes: [usize; CLASSES],
    /// Bytes of the small reservations among them.
    small: [usize; CLASSES],
    /// Bytes of each lane in use: one lane for incoming messages, one for everything else, so that stalled
    /// messages take nothing from work in progress. No share takes more than half of a lane.
    lanes: [usize; LANES],
    /// Bytes that caches hold.
    caches: usize,
    shares: HashMap<ShareKey, Share>,
    /// Number of shares with an open account.
    open_shares: usize,
    /// Shares with a waiting account.
    queue: BTreeSet<ShareKey>,
    stalls: Stalls,
    tickets: u64,
    accounts: u64,
}

impl Ledger {
    pub(super) fn new(limit: usize) -> Self {
        let (classes, small, lanes) = ([0; CLASSES], [0; CLASSES], [0; LANES]);
        let (shares, queue, stalls) = Default::default();
        let (caches, open_shares, tickets, accounts) = (0, 0, 0, 0);
        Self {
            limit,
            classes,
            small,
            lanes,
            caches,
            shares,
            open_shares,
            queue,
            stalls,
            tickets,
            accounts,
        }
    }

    /// Opens an account.
    pub(super) fn open(&mut self, share: ShareKey) -> Key {
        self.accounts += 1;
        let key = Key { share, account: self.accounts };
        let of = self.shares.entry(share).or_default();
        of.accounts.entry(key.account).or_default().is_open = true;
        of.open += 1;
        self.open_shares += usize::from(of.open == 1);
        key
    }

    /// Closes an account. Its grants stay booked until they are released.
    pub(super) fn close(&mut self, key: Key) {
        let Some(of) = self.shares.get_mut(&key.share) else { return };
        let Some(holding) = of.accounts.get_mut(&key.account) else { return };
        if std::mem::take(&mut holding.is_open) {
            of.open -= 1;
            self.open_shares -= usize::from(of.open == 0);
        }
        self.settle(key);
    }

    /// Records that a message of the account stalled.
    pub(super) fn stalled(&mut self, key: Key, now: Instant) {
        self.stalls.add(key.share, now);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The largest possible reservation: the budget without the lanes for small ones and without session
    /// state, which is not released while sessions last.
    pub(super) fn largest(&self) -> usize {
        (self.limit - LANES * self.lane()).saturating_sub(self.used(Class::State))
    }

    /// Bytes of all reservations; caches are not included.
    pub(super) fn all(&self) -> usize {
        self.classes.iter().sum()
    }

    pub(super) fn used(&self, class: Class) -> usize {
        self.classes[class as usize]
    }

    pub(super) fn caches(&self) -> usize {
        self.caches
    }

    /// Records that caches changed from `before` to `after`.
    pub(super) fn set_cached(&mut self, before: usize, after: usize) {
        self.caches = (self.caches + after).saturating_sub(before);
    }

    /// Bytes that all caches together may hold: the part that no reservation holds or waits for, up to the
    /// caches' limit.
    pub(super) fn cache_room(&self) -> usize {
        let wanted: usize = self.accounts_waiting().map(|(_, waiting)| waiting.bytes).sum();
        let share = sixteenths(self.limit, limits::CACHE_SIXTEENTHS);
        // The lanes' free bytes are reserved for small reservations, so caches may not have them.
        self.limit.saturating_sub(self.all() + wanted + self.free_lanes()).min(share)
    }

    /// Number of waiting reservations.
    pub(super) fn waiting(&self) -> usize {
        self.waiters().map(|asks| asks.holding.waiting.len()).sum()
    }

    /// Whether any reservation waits.
    pub(super) fn is_wanted(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether an account holds memory other than session state. The latter ends with the session only.
    pub(super) fn holds(&self, key: Key) -> bool {
        self.asks(key).is_some_and(|asks| {
            Class::ALL.iter().any(|class| *class != Class::State && asks.held(*class) > 0)
        })
    }

    /// Whether other shares wait while the account's share holds more than its part of a class, or more
    /// than half of the budget: its slow messages and uploads are then given up after a shorter time.
    pub(super) fn is_pressed(&self, key: Key) -> bool {
        let Some(share) = self.shares.get(&key.share) else { return false };
        let too_much = |class: &Class| share.classes[*class as usize] > self.part(*class);
        let all: usize = share.classes.iter().sum();
        (all > self.limit / 2 || Class::ALL.iter().any(too_much))
            && self.queue.iter().any(|waits| *waits != key.share)
    }

    /// Whether a reservation waits for room in the whole budget, or in the class of uploads, while its
    /// account and share have room.
    pub(super) fn is_short(&self) -> bool {
        self.accounts_waiting().any(|(asks, waiting)| {
            let WaitingReservation { class, bytes, .. } = waiting;
            self.fits_account(asks, class, bytes)
                && self.fits_share(asks, class, bytes)
                && match self.fits_class(asks, class, bytes) {
                    true => !self.has_room(asks, class, bytes, false),
                    false => class == Class::Upload,
                }
        })
    }

    /// A share that waits for memory that its own uploads hold.
    pub(super) fn short_share(&self) -> Option<ShareKey> {
        let mut waiting = self.accounts_waiting();
        let short = waiting.find(|(asks, waiting)| {
            waiting.class == Class::Upload && self.is_outgrown(*asks, waiting.bytes)
        });
        short.map(|(asks, _)| asks.key.share)
    }

    /// Whether an upload does not fit because of the memory of its own account or share.
    pub(super) fn outgrows(&self, key: Key, bytes: usize) -> bool {
        self.asks(key).is_some_and(|asks| self.is_outgrown(asks, bytes))
    }

    fn is_outgrown(&self, asks: Asks<'_>, bytes: usize) -> bool {
        let class = Class::Upload;
        !(self.fits_account(asks, class, bytes) && self.fits_share(asks, class, bytes))
    }

    /// Queues a reservation; returns its ticket.
    pub(super) fn wait(&mut self, key: Key, class: Class, bytes: usize) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        let waiting = WaitingReservation { ticket, class, bytes };
        let of = self.shares.entry(key.share).or_default();
        of.accounts.entry(key.account).or_default().waiting.push_back(waiting);
        of.waiting.insert(key.account);
        self.queue.insert(key.share);
        ticket
    }

    /// Removes a waiting reservation; false if it was granted meanwhile.
    pub(super) fn give_up(&mut self, key: Key, ticket: u64) -> bool {
        let of = self.shares.get_mut(&key.share);
        let Some(holding) = of.and_then(|of| of.accounts.get_mut(&key.account)) else {
            return false;
        };
        let before = holding.waiting.len();
        holding.waiting.retain(|waiting| waiting.ticket != ticket);
        let found = holding.waiting.len() < before;
        self.settle(key);
        found
    }

    /// Books a reservation, even without room.
    pub(super) fn book(&mut self, key: Key, class: Class, bytes: usize, small: bool) {
        self.change(key, class, small, |held| *held += bytes);
    }

    /// Releases a booked reservation.
    pub(super) fn release(&mut self, key: Key, class: Class, bytes: usize, small: bool) {
        self.change(key, class, small, |held| *held = held.saturating_sub(bytes));
        self.settle(key);
    }

    fn change(&mut self, key: Key, class: Class, small: bool, change: impl Fn(&mut usize)) {
        let (lane, part) = (lane_of(class), self.lane() / 2);
        let share = self.shares.entry(key.share).or_default();
        let before = share.in_lane(lane).min(part);
        change(&mut share.classes[class as usize]);
        change(&mut share.accounts.entry(key.account).or_default().classes[class as usize]);
        change(&mut self.classes[class as usize]);
        if small {
            change(&mut share.small[class as usize]);
            change(&mut self.small[class as usize]);
        }
        self.lanes[lane] = self.lanes[lane] + share.in_lane(lane).min(part) - before;
    }

    /// Whether a new reservation is granted at once: it fits, and no waiting one precedes it.
    pub(super) fn is_free(&self, key: Key, class: Class, bytes: usize) -> bool {
        let Some(asks) = self.asks(key) else { return false };
        let is_next = is_small(class, bytes) || !self.is_wanted();
        is_next
            && asks.holding.waiting.is_empty()
            && self.allowed(asks, class, bytes)
            && self.has_room(asks, class, bytes, self.is_wanted())
    }

    /// Whether a session's state may grow by `bytes` bytes: its class and the whole budget have room.
    /// Caches count as room, since they release memory on demand. Waiting reservations do not block it:
    /// they are of other classes.
    pub(super) fn may_remember(&self, key: Key, bytes: usize) -> bool {
        self.asks(key).is_some_and(|asks| {
            self.allowed(asks, Class::State, bytes)
                && self.all() + bytes + self.free_lanes() <= self.limit
        })
    }

    /// Whether state may grow by `bytes` bytes before the accounts that must give way have done so: up to
    /// twice the class's limit, if the whole budget has room.
    pub(super) fn may_outgrow(&self, bytes: usize) -> bool {
        let of_class = sixteenths(self.limit, Class::State.sixteenths());
        self.used(Class::State) + bytes <= 2 * of_class
            && self.all() + bytes + self.free_lanes() <= self.limit
    }

    /// Whether reservations and caches together exceed the budget.
    pub(super) fn is_over(&self) -> bool {
        self.all() + self.caches > self.limit
    }

    fn asks(&self, key: Key) -> Option<Asks<'_>> {
        let share = self.shares.get(&key.share)?;
        Some(Asks { key, share, holding: share.accounts.get(&key.account)? })
    }

    pub(super) fn held(&self, key: Key, class: Class) -> usize {
        self.asks(key).map_or(0, |asks| asks.held(class))
    }

    /// Bytes of a class that an account may hold; also a share, while other shares exist.
    fn part(&self, class: Class) -> usize {
        sixteenths(self.limit, class.sixteenths()) / 2
    }

    /// Whether class, account and share may hold `bytes` more.
    fn allowed(&self, asks: Asks<'_>, class: Class, bytes: usize) -> bool {
        self.fits_class(asks, class, bytes)
            && self.fits_account(asks, class, bytes)
            && self.fits_share(asks, class, bytes)
    }

    /// A class that holds nothing large always grants one reservation: the largest message must be
    /// possible.
    fn fits_class(&self, asks: Asks<'_>, class: Class, bytes: usize) -> bool {
        let (used, small) = (self.used(class), self.small[class as usize]);
        let is_first = used == 0 || used == small && !is_small(class, bytes);
        is_first
            || used + bytes <= sixteenths(self.limit, class.sixteenths())
            || self.passes(asks, class, bytes)
    }

    /// An account that holds nothing always gets its first reservation.
    fn fits_account(&self, asks: Asks<'_>, class: Class, bytes: usize) -> bool {
        let held = asks.held(class);
        held == 0 || held + bytes <= self.part(class)
    }

    /// A share may use the whole class while it is the only one; in any case it gets one reservation.
    fn fits_share(&self, asks: Asks<'_>, class: Class, bytes: usize) -> bool {
        let (share, held) = (asks.share, asks.share.classes[class as usize]);
        let is_first = held == 0 || share.large(class) == 0 && !is_small(class, bytes);
        let is_alone = self.open_shares == usize::from(share.open > 0);
        is_alone || is_first || held + bytes <= self.part(class) || self.passes(asks, class, bytes)
    }

    /// Whether a small reservation fits its lane, regardless of the limits of its class and share.
    fn passes(&self, asks: Asks<'_>, class: Class, bytes: usize) -> bool {
        is_small(class, bytes) && self.is_in_lane(asks, class, bytes)
    }

    fn is_in_lane(&self, asks: Asks<'_>, class: Class, bytes: usize) -> bool {
        let (lane, kept) = (lane_of(class), self.lane());
        asks.share.in_lane(lane) + bytes <= kept / 2 && self.lanes[lane] + bytes <= kept
    }

    /// Whether the whole budget has room. `lane`: other reservations wait, so a small one may use its lane
    /// only, and leaves the rest to the large ones.
    fn has_room(&self, asks: Asks<'_>, class: Class, bytes: usize, lane: bool) -> bool {
        let all = self.all() + self.caches + bytes;
        if is_small(class, bytes) && self.is_in_lane(asks, class, bytes) {
            return all <= self.limit;
        }
        all + self.free_lanes() <= self.limit && !(lane && is_small(class, bytes))
    }

    /// Bytes of each lane for small reservations.
    fn lane(&self) -> usize {
        sixteenths(self.limit, limits::SMALL_SIXTEENTHS)
    }

    /// Unused bytes of the lanes.
    fn free_lanes(&self) -> usize {
        self.lanes.iter().map(|used| self.lane().saturating_sub(*used)).sum()
    }

    /// Whether no reservation is held or waits, and no account is left.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        let is_empty = self.shares.is_empty() && self.queue.is_empty() && self.open_shares == 0;
        is_empty && self.all() == 0 && self.small == [0; CLASSES] && self.lanes == [0; LANES]
    }

    /// A share's bytes of a class, and those of them that are not small.
    #[cfg(test)]
    pub(super) fn of_share(&self, share: ShareKey, class: Class) -> (usize, usize) {
        let share = self.shares.get(&share);
        share.map_or((0, 0), |share| (share.classes[class as usize], share.large(class)))
    }

    /// Removes an account that holds nothing, and updates the queue.
    fn settle(&mut self, key: Key) {
        let Some(share) = self.shares.get_mut(&key.share) else { return };
        let Some(holding) = share.accounts.get(&key.account) else { return };
        if holding.waiting.is_empty() {
            share.waiting.remove(&key.account);
        }
        if holding.is_empty() {
            share.accounts.remove(&key.account);
        }
        if share.waiting.is_empty() {
            self.queue.remove(&key.share);
        }
        if share.accounts.is_empty() {
            self.shares.remove(&key.share);
        }
    }
}

/// Whether a reservation may use a lane for small ones. Session state may not: it is long-lived, and is
/// limited by eviction instead.
pub(super) fn is_small(class: Class, bytes: usize) -> bool {
    bytes <= limits::SMALL_RESERVATION && class != Class::State
}

fn sixteenths(limit: usize, count: usize) -> usize {
    limit / 16 * count
}

/// The lane that a class uses.
fn lane_of(class: Class) -> usize {
    usize::from(class != Class::Incoming)
}
