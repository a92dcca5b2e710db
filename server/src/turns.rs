//! Schedules sessions that wait for the same resource. Addresses take turns, however much each has queued and
//! over however many connections; within an address its sessions take turns likewise.
//!
//! It must not know what a turn is for.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_protocol::Moment;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::budgets::Budgets;
use crate::limits;
use crate::memory::{Key, ShareKey};

/// One round over the entries of a map, starting after `last`.
pub(crate) fn round<K: Ord + Copy, V>(
    map: &BTreeMap<K, V>,
    last: Option<K>,
) -> impl Iterator<Item = (&K, &V)> {
    let after = last.map_or(Bound::Unbounded, Bound::Excluded);
    let rest = last.into_iter().flat_map(|last| map.range(..=last));
    map.range((after, Bound::Unbounded)).chain(rest)
}

/// A queue, in the order in which it is served. Pure.
#[derive(Debug)]
pub(crate) struct Round<T> {
    shares: BTreeMap<ShareKey, OfShare<T>>,
    /// The share that was served last.
    last: Option<ShareKey>,
}

/// The queue of one share; never empty.
#[derive(Debug)]
struct OfShare<T> {
    accounts: BTreeMap<u64, VecDeque<T>>,
    last: Option<u64>,
}

impl<T> Default for Round<T> {
    fn default() -> Self {
        Self { shares: BTreeMap::new(), last: None }
    }
}

impl<T> Round<T> {
    /// Adds an item after the others of its session.
    pub(crate) fn add(&mut self, key: Key, item: T) {
        let new = || OfShare { accounts: BTreeMap::new(), last: None };
        let of = self.shares.entry(key.share).or_insert_with(new);
        of.accounts.entry(key.account).or_default().push_back(item);
    }

    /// Removes the next item: of the shares for which `may` is true, the next one with a session whose first
    /// item `fits`.
    pub(crate) fn take(
        &mut self,
        may: impl Fn(ShareKey) -> bool,
        fits: impl Fn(&T) -> bool,
    ) -> Option<(Key, T)> {
        let shares = round(&self.shares, self.last).filter(|(share, _)| may(**share));
        let key = shares.filter_map(|(share, of)| {
            let is_next = |(_, items): &(_, &VecDeque<T>)| items.front().is_some_and(&fits);
            let (account, _) = round(&of.accounts, of.last).find(is_next)?;
            Some(Key { share: *share, account: *account })
        });
        let key = { key }.next()?;
        self.last = Some(key.share);
        let of = self.shares.get_mut(&key.share)?;
        of.last = Some(key.account);
        let item = of.accounts.get_mut(&key.account)?.pop_front()?;
        self.settle(key);
        Some((key, item))
    }

    /// Records that a share had its turn elsewhere: the others come first.
    pub(crate) fn note_turn(&mut self, share: ShareKey) {
        self.last = Some(share);
    }

    /// Removes the items of a session that `keep` rejects.
    pub(crate) fn retain(&mut self, key: Key, keep: impl FnMut(&T) -> bool) {
        let of = self.shares.get_mut(&key.share);
        if let Some(items) = of.and_then(|of| of.accounts.get_mut(&key.account)) {
            items.retain(keep);
            self.settle(key);
        }
    }

    /// Removes empty queues.
    fn settle(&mut self, key: Key) {
        let Some(of) = self.shares.get_mut(&key.share) else { return };
        if of.accounts.get(&key.account).is_some_and(VecDeque::is_empty) {
            of.accounts.remove(&key.account);
        }
        if of.accounts.is_empty() {
            self.shares.remove(&key.share);
        }
    }

    /// The first item of each session.
    pub(crate) fn first(&self) -> impl Iterator<Item = (ShareKey, &T)> {
        self.shares.iter().flat_map(|(share, of)| {
            of.accounts.values().filter_map(|items| Some((*share, items.front()?)))
        })
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) {
        self.shares.clear();
    }
}

/// A fair semaphore: `at_a_time` turns are held concurrently. Clones share them.
#[derive(Clone)]
pub(crate) struct Turns {
    shared: Arc<TurnsState>,
}

struct TurnsState {
    state: Mutex<State>,
    start: Instant,
}

struct State {
    free: usize,
    waiting: Round<Waiter>,
    tickets: u64,
    /// The budgets of shares; a share in debt gets no turn until it has paid.
    budgets: Option<Budgets>,
    /// No more turns are given.
    is_closed: bool,
}

fn has_paid(budgets: Option<&Budgets>, share: ShareKey, now: Moment) -> bool {
    budgets.is_none_or(|budgets| budgets.wait(share, now).is_zero())
}

struct Waiter {
    ticket: u64,
    sender: oneshot::Sender<Turn>,
}

/// A turn, held until it is dropped.
pub(crate) struct Turn {
    shared: Arc<TurnsState>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.serve(|state| state.free += 1);
    }
}

impl TurnsState {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// Changes the queue, then gives out the free turns.
    fn serve(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let mut granted = Vec::new();
        {
            let mut state = self.state.lock();
            change(&mut state);
            while state.free > 0 {
                let State { waiting, budgets, .. } = &mut *state;
                let now = self.now();
                let may = |share| has_paid(budgets.as_ref(), share, now);
                let Some((_, waiter)) = waiting.take(may, |_| true) else { break };
                state.free -= 1;
                granted.push((waiter.sender, Turn { shared: Arc::clone(self) }));
            }
        }
        for (sender, turn) in granted {
            // A cancelled waiter returns the turn: it is dropped here, after the lock was released.
            drop(sender.send(turn));
        }
    }
}

/// A place in the queue, given up on drop.
struct QueuePlace<'a> {
    shared: &'a Arc<TurnsState>,
    key: Key,
    ticket: u64,
    receiver: oneshot::Receiver<Turn>,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        let (key, ticket) = (self.key, self.ticket);
        self.shared.state.lock().waiting.retain(key, |waiter| waiter.ticket != ticket);
    }
}

impl Turns {
    /// `at_a_time` turns.
    pub(crate) fn new(at_a_time: usize) -> Self {
        Self::of(at_a_time, None)
    }

    /// `at_a_time` turns, for shares that are not in debt.
    pub(crate) fn within(at_a_time: usize, budgets: Budgets) -> Self {
        Self::of(at_a_time, Some(budgets))
    }

    fn of(free: usize, budgets: Option<Budgets>) -> Self {
        let waiting = Round::default();
        let state = State { free, waiting, tickets: 0, budgets, is_closed: false };
        Self { shared: Arc::new(TurnsState { state: Mutex::new(state), start: Instant::now() }) }
    }

    /// Waits for a turn. Every waiter gets one eventually, unless [`close`](Self::close) was called: then
    /// `None`.
    pub(crate) async fn take(&self, key: Key) -> Option<Turn> {
        if let Some(turn) = self.take_free(key.share) {
            return Some(turn);
        }
        let (sender, receiver) = oneshot::channel();
        let mut ticket = 0;
        self.shared.serve(|state| {
            state.tickets += 1;
            ticket = state.tickets;
            // Dropped if closed, which the receiver observes.
            if !state.is_closed {
                state.waiting.add(key, Waiter { ticket, sender });
            }
        });
        let is_metered = self.shared.state.lock().budgets.is_some();
        let mut place = QueuePlace { shared: &self.shared, key, ticket, receiver };
        loop {
            // Spending by other sessions of the share may delay the turn beyond the last release of another
            // turn. Then no release serves this waiter, so it looks again after the debt is paid.
            let look = self.debt(key.share).max(limits::DEBT_LOOK);
            tokio::select! {
                // The sender is kept until it is used.
                turn = &mut place.receiver => return turn.ok(),
                () = async { tokio::time::sleep(look).await }, if is_metered => {
                    self.shared.serve(|_| ());
                }
            }
        }
    }

    /// A turn, if one is free and no session waits; the common case.
    fn take_free(&self, share: ShareKey) -> Option<Turn> {
        let mut state = self.shared.state.lock();
        let is_free = state.free > 0 && !state.is_closed && state.waiting.is_empty();
        if !is_free || !has_paid(state.budgets.as_ref(), share, self.shared.now()) {
            return None;
        }
        state.free -= 1;
        state.tickets += 1;
        state.waiting.note_turn(share);
        Some(Turn { shared: Arc::clone(&self.shared) })
    }

    /// Gives no more turns; all waiters get `None`.
    pub(crate) fn close(&self) {
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        // Dropped without the lock: it wakes tasks.
        drop(waiting);
    }

    /// The clock of its budgets.
    pub(crate) fn now(&self) -> Moment {
        self.shared.now()
    }

    /// How long until a share has paid for its use.
    pub(crate) fn debt(&self, share: ShareKey) -> Duration {
        let state = self.shared.state.lock();
        let debt = |budgets: &Budgets| budgets.wait(share, self.now());
        state.budgets.as_ref().map_or(Duration::ZERO, debt)
    }

    /// Charges a share.
    pub(crate) fn spend(&self, share: ShareKey, tokens: u64) {
        if let Some(budgets) = &mut self.shared.state.lock().budgets {
            budgets.spend(share, self.shared.now(), tokens);
        }
    }
}

#[cfg(test)]
impl Turns {
    /// Number of free turns.
    pub(crate) fn free(&self) -> usize {
        self.shared.state.lock().free
    }

    /// Number of turns that were not free at once and had to queue, since the start.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.state.lock().tickets
    }

    /// Number of waiting sessions.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.state.lock().waiting.first().count()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn key(share: u64, account: u64) -> Key {
        Key { share: ShareKey::Session(share), account }
    }

    fn order(round: &mut Round<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| round.take(|_| true, |_| true)).map(|(_, item)| item).collect()
    }

    #[test]
    fn turns_go_round_by_share_then_by_session() {
        let mut round = Round::default();
        for account in 0..3 {
            round.add(key(1, account), "many");
            round.add(key(1, account), "many again");
        }
        round.add(key(2, 7), "b");
        round.add(key(2, 7), "b again");
        round.add(key(3, 8), "c");
        let expected = ["many", "b", "c", "many", "b again", "many"];
        let again = ["many again"; 3];
        assert_eq!(order(&mut round), [&expected[..], &again].concat());
        assert!(round.shares.is_empty());
    }

    #[test]
    fn a_request_that_does_not_fit_blocks_only_its_session() {
        let mut round = Round::default();
        for (account, item) in [(1, "large"), (1, "small"), (2, "small of another")] {
            round.add(key(1, account), item);
        }
        round.add(key(2, 1), "not now");
        let fits = |item: &&str| item.starts_with("small");
        let may = |share| share == ShareKey::Session(1);
        assert_eq!(round.take(may, fits).unwrap().1, "small of another");
        assert!(round.take(may, fits).is_none());
        assert_eq!(round.first().map(|(_, item)| *item).collect::<Vec<_>>(), ["large", "not now"]);
    }

    fn poll(turn: &mut Pin<Box<impl Future<Output = Option<Turn>>>>) -> Option<Turn> {
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => turn,
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_share_with_many_requests_has_one_place_in_the_round() {
        let turns = Turns::new(1);
        let wait = |share, account| Box::pin(turns.take(key(share, account)));
        let first = poll(&mut wait(1, 0)).unwrap();
        // Over several sessions.
        let mut many: Vec<_> = (0..100).map(|account| wait(1, account)).collect();
        assert!(many.iter_mut().all(|one| poll(one).is_none()));
        let mut other = wait(2, 0);
        assert!(poll(&mut other).is_none());
        drop(first);
        let turn = poll(&mut other).expect("it waits behind one request, not a hundred");
        // Some are cancelled while they wait.
        many.drain(..98);
        assert_eq!(turns.waiting(), 2);
        drop(turn);
        // One gets the turn and is dropped before it learns that.
        drop(many.remove(0));
        drop(poll(&mut many[0]).expect("the next waiter gets the turn"));
        drop(many);
        assert_eq!((turns.free(), turns.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn a_share_in_debt_is_skipped() {
        let turns = Turns::within(1, Budgets::new(1, 10));
        turns.spend(ShareKey::Session(1), 3_600);
        let (mut first, mut second) =
            (Box::pin(turns.take(key(1, 1))), Box::pin(turns.take(key(1, 2))));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        assert!(turns.debt(ShareKey::Session(1)) > Duration::from_secs(3_000));
        let turn = turns.take(key(2, 1)).await;
        assert!(turn.is_some());
        drop(turn);
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        assert_eq!(turns.free(), 1);
    }
}
