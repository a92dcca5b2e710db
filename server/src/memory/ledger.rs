//! Who holds how much of the budget, and who is served next. Pure: no waiting, no lock.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Class, ShareKey};
use crate::limits;

const CLASSES: usize = Class::ALL.len();

/// A reservation that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Grows with each that came.
    pub(super) ticket: u64,
    pub(super) class: Class,
    pub(super) bytes: usize,
}

/// What one account holds and waits for.
#[derive(Debug, Default)]
struct Holding {
    classes: [usize; CLASSES],
    waiting: VecDeque<Waiting>,
}

impl Holding {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.classes.iter().all(|bytes| *bytes == 0)
    }
}

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    limit: usize,
    classes: [usize; CLASSES],
    /// Bytes of the small reservations among them: of messages that arrive, and of all else. Each has
    /// a lane, so that messages which stall take nothing from what is under way.
    small: [usize; 2],
    /// What caches hold.
    caches: usize,
    accounts: HashMap<ShareKey, Holding>,
    /// The accounts that wait, each with its oldest ticket.
    queue: BTreeMap<ShareKey, u64>,
    tickets: u64,
}

/// What `next` weighs: the account that holds least goes first, then the one that came first.
type Rank = (usize, u64);

impl Ledger {
    pub(super) fn new(limit: usize) -> Self {
        let (accounts, queue) = Default::default();
        Self { limit, classes: [0; CLASSES], small: [0; 2], caches: 0, accounts, queue, tickets: 0 }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The most that one reservation may ask for: all but the lanes for small ones.
    pub(super) fn largest(&self) -> usize {
        self.limit - 2 * sixteenths(self.limit, limits::SMALL_SIXTEENTHS)
    }

    /// Bytes that all hold, but for the caches.
    pub(super) fn all(&self) -> usize {
        self.classes.iter().sum()
    }

    pub(super) fn used(&self, class: Class) -> usize {
        self.classes[class as usize]
    }

    pub(super) fn caches(&self) -> usize {
        self.caches
    }

    /// Caches hold `after` where they held `before`.
    pub(super) fn set_cached(&mut self, before: usize, after: usize) {
        self.caches = (self.caches + after).saturating_sub(before);
    }

    /// Bytes that all caches together may hold: what no reservation has or waits for, up to their
    /// share.
    pub(super) fn cache_room(&self) -> usize {
        let wanted: usize = self.accounts_waiting().map(|(_, waiting)| waiting.bytes).sum();
        let share = sixteenths(self.limit, limits::CACHE_SIXTEENTHS);
        // What is kept for small ones is no room for the others, and so none for caches.
        self.limit.saturating_sub(self.all() + wanted + self.free_lanes()).min(share)
    }

    /// Reservations that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.keys().filter_map(|key| self.accounts.get(key)).map(|h| h.waiting.len()).sum()
    }

    /// Whether any waits.
    pub(super) fn is_wanted(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether an account holds anything that ends with what it is for; what a session makes us remember
    /// ends with the session.
    pub(super) fn holds(&self, key: ShareKey) -> bool {
        Class::ALL.iter().any(|class| *class != Class::State && self.held(key, *class) > 0)
    }

    /// Whether any waits for room in the whole budget, or for what only uploads hold, and not for its own
    /// account or class.
    pub(super) fn is_short(&self) -> bool {
        self.accounts_waiting().any(|(key, waiting)| {
            waiting.class == Class::Upload
                || self.allowed(key, waiting.class, waiting.bytes)
                    && !self.has_room(waiting.class, waiting.bytes, false)
        })
    }

    /// Adds one that waits; gives its ticket.
    pub(super) fn wait(&mut self, key: ShareKey, class: Class, bytes: usize) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        let waiting = Waiting { ticket, class, bytes };
        self.accounts.entry(key).or_default().waiting.push_back(waiting);
        self.queue.entry(key).or_insert(ticket);
        ticket
    }

    /// One that waits does so no more; false if it was served meanwhile.
    pub(super) fn give_up(&mut self, key: ShareKey, ticket: u64) -> bool {
        let Some(holding) = self.accounts.get_mut(&key) else { return false };
        let before = holding.waiting.len();
        holding.waiting.retain(|waiting| waiting.ticket != ticket);
        let found = holding.waiting.len() < before;
        self.settle(key);
        found
    }

    /// Books a reservation, whether there is room or not.
    pub(super) fn book(&mut self, key: ShareKey, class: Class, bytes: usize, small: bool) {
        self.classes[class as usize] += bytes;
        self.small[lane_of(class)] += if small { bytes } else { 0 };
        self.accounts.entry(key).or_default().classes[class as usize] += bytes;
    }

    /// Gives back what was booked.
    pub(super) fn release(&mut self, key: ShareKey, class: Class, bytes: usize, small: bool) {
        let less = |held: &mut usize| *held = held.saturating_sub(bytes);
        less(&mut self.classes[class as usize]);
        if small {
            less(&mut self.small[lane_of(class)]);
        }
        if let Some(holding) = self.accounts.get_mut(&key) {
            less(&mut holding.classes[class as usize]);
        }
        self.settle(key);
    }

    /// Whether a reservation that comes now is served at once: it fits, and none that waits goes before
    /// it.
    pub(super) fn is_free(&self, key: ShareKey, class: Class, bytes: usize) -> bool {
        let waits = self.queue.contains_key(&key) || !(is_small(bytes) || self.queue.is_empty());
        !waits
            && self.allowed(key, class, bytes)
            && self.has_room(class, bytes, !self.queue.is_empty())
    }

    /// Takes the next one that can be served out of those that wait.
    pub(super) fn next(&mut self) -> Option<(ShareKey, Waiting)> {
        let allowed = self
            .accounts_waiting()
            .filter(|(key, waiting)| self.allowed(*key, waiting.class, waiting.bytes));
        let first = allowed.min_by_key(|(key, waiting)| self.rank(*key, waiting));
        let found = match first? {
            (key, waiting) if self.has_room(waiting.class, waiting.bytes, false) => (key, waiting),
            // The room for it gathers; only small ones may pass, within their lane.
            _ => self.next_small()?,
        };
        self.give_up(found.0, found.1.ticket);
        Some(found)
    }

    /// The next small one for which its lane has room.
    fn next_small(&self) -> Option<(ShareKey, Waiting)> {
        let fits = self.accounts_waiting().filter(|(key, waiting)| {
            is_small(waiting.bytes)
                && self.allowed(*key, waiting.class, waiting.bytes)
                && self.has_room(waiting.class, waiting.bytes, true)
        });
        fits.min_by_key(|(key, waiting)| self.rank(*key, waiting))
    }

    fn rank(&self, key: ShareKey, waiting: &Waiting) -> Rank {
        (self.held(key, waiting.class), waiting.ticket)
    }

    /// The oldest of each account that waits, for each class.
    fn accounts_waiting(&self) -> impl Iterator<Item = (ShareKey, Waiting)> + '_ {
        self.queue.keys().flat_map(|key| {
            let waiting = self.accounts.get(key).map(|holding| &holding.waiting);
            let mut seen = [false; CLASSES];
            waiting.into_iter().flatten().filter_map(move |waiting| {
                let first = !std::mem::replace(&mut seen[waiting.class as usize], true);
                first.then_some((*key, *waiting))
            })
        })
    }

    pub(super) fn held(&self, key: ShareKey, class: Class) -> usize {
        self.accounts.get(&key).map_or(0, |holding| holding.classes[class as usize])
    }

    /// Whether the class and the account may hold so much. What an account without anything asks for
    /// is always allowed it, and so is what a class without anything is asked for: the largest
    /// message must be possible.
    fn allowed(&self, key: ShareKey, class: Class, bytes: usize) -> bool {
        let whole = sixteenths(self.limit, class.sixteenths());
        let (used, held) = (self.used(class), self.held(key, class));
        // What a session makes us remember stays: it has no lane, but the largest gives way.
        let passes = is_small(bytes) && class != Class::State;
        let fits_class = used == 0 || used + bytes <= whole || passes;
        fits_class && (held == 0 || held + bytes <= whole / 2)
    }

    /// The account that should give way to one that asks for so much of a class: the one that holds
    /// most, if that is more than a fair share, and what is asked for is not.
    pub(super) fn hog(&self, class: Class, asks: ShareKey, bytes: usize) -> Option<ShareKey> {
        let held = |holding: &Holding| holding.classes[class as usize];
        let others = || self.accounts.iter().filter(|(key, _)| **key != asks);
        let holders = others().filter(|(_, holding)| held(holding) > 0).count() + 1;
        let fair = sixteenths(self.limit, class.sixteenths()) / holders;
        let (key, most) = others().max_by_key(|(_, holding)| held(holding))?;
        (held(most) > fair && self.held(asks, class) + bytes <= fair).then_some(*key)
    }

    /// Whether the whole budget has so much. `lane`: one that needs more than is there waits, so
    /// that small ones have only what is kept for them.
    fn has_room(&self, class: Class, bytes: usize, lane: bool) -> bool {
        let kept = sixteenths(self.limit, limits::SMALL_SIXTEENTHS);
        let all = self.all() + self.caches + bytes;
        if !is_small(bytes) {
            return all + self.free_lanes() <= self.limit;
        }
        let in_lane = self.small[lane_of(class)] + bytes <= kept;
        all <= self.limit && (in_lane || !lane)
    }

    /// Bytes of the lanes for small reservations that are not used.
    fn free_lanes(&self) -> usize {
        let kept = sixteenths(self.limit, limits::SMALL_SIXTEENTHS);
        self.small.iter().map(|small| kept.saturating_sub(*small)).sum()
    }

    /// Whether nothing is held or waited for.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.accounts.is_empty() && self.queue.is_empty() && self.all() == 0 && self.small == [0; 2]
    }

    /// Forgets an account that holds nothing, and keeps the queue true.
    fn settle(&mut self, key: ShareKey) {
        let Some(holding) = self.accounts.get(&key) else { return };
        match holding.waiting.front() {
            Some(oldest) => drop(self.queue.insert(key, oldest.ticket)),
            None => drop(self.queue.remove(&key)),
        }
        if holding.is_empty() {
            self.accounts.remove(&key);
        }
    }
}

/// Whether a reservation has the lane for small ones.
pub(super) fn is_small(bytes: usize) -> bool {
    bytes <= limits::SMALL_RESERVATION
}

fn sixteenths(limit: usize, count: usize) -> usize {
    limit / 16 * count
}

/// Which of the lanes for small reservations a class uses.
fn lane_of(class: Class) -> usize {
    usize::from(class != Class::Intake)
}
