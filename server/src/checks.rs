//! When a session's changes are checked, and where: at once if that takes no millisecond, else on the
//! pool of blocking threads, a few at a time, in turns that go to the session that used least lately.
//!
//! Each session has a budget of work per second. One that exceeds it waits, with all that it pushes,
//! until its budget has caught up; no other session does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_protocol::Moment;
use landfall_protocol::admission::Work;
use landfall_protocol::rate::TokenBucket;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::limits;

/// Who waits for a turn, and who is next. Pure.
#[derive(Debug)]
struct Turns {
    free: usize,
    /// By ticket, each with the budget that its session had when it came.
    waiting: BTreeMap<u64, TokenBucket>,
    tickets: u64,
}

impl Turns {
    fn new(free: usize) -> Self {
        Self { free, waiting: BTreeMap::new(), tickets: 0 }
    }

    /// Adds one that waits; gives its ticket.
    fn wait(&mut self, budget: TokenBucket) -> u64 {
        self.tickets += 1;
        self.waiting.insert(self.tickets, budget);
        self.tickets
    }

    /// Whose turn it is, if one is free: the one with most of its budget left, then the one that
    /// came first. A budget fills while its session waits, so each has its turn in the end.
    fn next(&mut self, now: Moment) -> Option<u64> {
        if self.free == 0 {
            return None;
        }
        let rank = |(ticket, budget): &(&u64, &TokenBucket)| {
            (budget.tokens(now), std::cmp::Reverse(**ticket))
        };
        let ticket = *self.waiting.iter().max_by_key(rank)?.0;
        self.waiting.remove(&ticket);
        self.free -= 1;
        Some(ticket)
    }
}

struct State {
    turns: Turns,
    waiters: BTreeMap<u64, oneshot::Sender<Turn>>,
}

struct Shared {
    state: Mutex<State>,
    start: Instant,
}

impl Shared {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// Changes who waits, then gives out the turns that are free.
    fn serve(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let mut told = Vec::new();
        {
            let mut state = self.state.lock();
            change(&mut state);
            while let Some(ticket) = state.turns.next(self.now()) {
                told.push((state.waiters.remove(&ticket), Turn { shared: Arc::clone(self) }));
            }
        }
        for (tell, turn) in told {
            // One that waits no more gives it back: `turn` is dropped with the lock released.
            if let Some(Err(unwanted)) = tell.map(|tell| tell.send(turn)) {
                drop(unwanted);
            }
        }
    }
}

/// A turn, until it is dropped.
struct Turn {
    shared: Arc<Shared>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.serve(|state| state.turns.free += 1);
    }
}

/// A place among those that wait, given up when it is dropped.
struct Place<'a> {
    shared: &'a Arc<Shared>,
    ticket: u64,
    told: oneshot::Receiver<Turn>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.shared.serve(|state| {
            state.turns.waiting.remove(&ticket);
            state.waiters.remove(&ticket);
        });
    }
}

/// The checks of a whole relay. Clones share them.
#[derive(Clone)]
pub(crate) struct Checks {
    shared: Arc<Shared>,
}

impl Checks {
    /// So many at a time on the pool.
    pub(crate) fn new(at_a_time: usize) -> Self {
        let state = State { turns: Turns::new(at_a_time), waiters: BTreeMap::new() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), start: Instant::now() }) }
    }

    /// What one session has checked.
    pub(crate) fn of_session(&self) -> Checker {
        let (rate, burst) = (limits::CHECK_RATE, limits::CHECK_BURST);
        let budget = TokenBucket::new(rate, burst, self.shared.now());
        Checker { shared: Arc::clone(&self.shared), budget: Arc::new(Mutex::new(budget)) }
    }
}

/// The checks of one session. Clones are of the same session.
#[derive(Clone)]
pub(crate) struct Checker {
    shared: Arc<Shared>,
    budget: Arc<Mutex<TokenBucket>>,
}

impl Checker {
    /// Checks something: with `light`, if it gives an answer within what may be done at once; else
    /// with `heavy` on the pool. Waits for the session's budget first. `None` if the check panicked.
    pub(crate) async fn check<I, T>(
        &self,
        mut input: I,
        light: impl FnOnce(&mut I, Work, &mut Work) -> Option<T>,
        heavy: impl FnOnce(&mut I, &mut Work) -> T + Send + 'static,
    ) -> Option<(T, I)>
    where
        I: Send + 'static,
        T: Send + 'static,
    {
        let wait = self.debt();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let mut work = Work::default();
        if let Some(checked) = light(&mut input, limits::INLINE_CHECK, &mut work) {
            self.spend(work);
            return Some((checked, input));
        }
        let turn = self.turn().await?;
        let budget = Spending { checker: self.clone(), work };
        let task = tokio::task::spawn_blocking(move || {
            let mut spending = budget;
            let checked = heavy(&mut input, &mut spending.work);
            // The budget first: whose turn is next depends on it.
            drop(spending);
            drop(turn);
            (checked, input)
        });
        task.await.ok()
    }

    /// How long until the session has paid for what was checked.
    pub(crate) fn debt(&self) -> Duration {
        self.budget.lock().wait(self.shared.now())
    }

    fn spend(&self, work: Work) {
        self.budget.lock().spend(self.shared.now(), work.units());
    }

    async fn turn(&self) -> Option<Turn> {
        let budget = *self.budget.lock();
        let (tell, told) = oneshot::channel();
        let mut ticket = 0;
        self.shared.serve(|state| {
            ticket = state.turns.wait(budget);
            state.waiters.insert(ticket, tell);
        });
        let mut place = Place { shared: &self.shared, ticket, told };
        // The sender is kept until it is used.
        (&mut place.told).await.ok()
    }
}

/// Charges the work that was done, also of a check that panics or that no session awaits any more.
struct Spending {
    checker: Checker,
    work: Work,
}

impl Drop for Spending {
    fn drop(&mut self) {
        self.checker.spend(self.work);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    /// A budget of which so much was spent at the start.
    fn spent(tokens: u64) -> TokenBucket {
        let mut budget = TokenBucket::new(1_000, 4_000, at(0));
        budget.spend(at(0), tokens);
        budget
    }

    #[test]
    fn the_session_that_used_least_lately_is_next() {
        let mut turns = Turns::new(2);
        let [much, little, none] = [9_000, 100, 0].map(|tokens| turns.wait(spent(tokens)));
        let first = turns.wait(spent(100));
        assert_eq!(turns.next(at(0)), Some(none));
        assert_eq!(turns.next(at(0)), Some(little));
        assert_eq!(turns.next(at(0)), None, "no turn is free");
        turns.free += 2;
        assert_eq!(turns.next(at(0)), Some(first));
        assert_eq!(turns.next(at(0)), Some(much));
    }

    #[test]
    fn one_that_used_much_is_not_passed_over_for_ever() {
        let mut turns = Turns::new(1);
        let much = turns.wait(spent(9_000));
        turns.wait(spent(0));
        turns.wait(spent(0));
        // Its budget is full again, like those of the others, and it came before them.
        assert_eq!(turns.next(at(9_000)), Some(much));
    }

    /// What waits until it is let go, or does nothing.
    type Held = Option<std::sync::mpsc::Receiver<()>>;

    async fn heavy(checker: Checker, held: Held, units: u64) -> Option<()> {
        let light = |_: &mut Held, _: Work, _: &mut Work| None;
        let heavy = move |held: &mut Held, work: &mut Work| {
            if let Some(held) = held.take() {
                let _ = held.recv();
            }
            work.operations = units;
        };
        checker.check(held, light, heavy).await.map(|((), _)| ())
    }

    #[tokio::test]
    async fn what_a_session_queues_delays_others_by_what_runs_and_no_more() {
        let checks = Checks::new(1);
        let (go, held) = std::sync::mpsc::channel();
        let (flooder, other) = (checks.of_session(), checks.of_session());
        flooder.spend(Work { operations: 1_000, bytes: 0 });
        let order = Arc::new(Mutex::new(Vec::new()));
        let start = |name: &'static str, checker: &Checker, held: Held| {
            let (order, checker) = (Arc::clone(&order), checker.clone());
            tokio::spawn(async move {
                let light = |_: &mut Held, _: Work, _: &mut Work| None;
                // Noted while it has the turn: tasks may hear of their ends in another order.
                let note = move |held: &mut Held, _: &mut Work| {
                    if let Some(held) = held.take() {
                        let _ = held.recv();
                    }
                    order.lock().push(name);
                };
                checker.check(held, light, note).await.unwrap();
            })
        };
        let mut all = vec![start("runs", &flooder, Some(held))];
        let waiting = |checks: &Checks| checks.shared.state.lock().turns.waiting.len();
        while checks.shared.state.lock().turns.free > 0 {
            tokio::task::yield_now().await;
        }
        all.extend((0..3).map(|_| start("flooder", &flooder, None)));
        while waiting(&checks) < 3 {
            tokio::task::yield_now().await;
        }
        all.push(start("other", &other, None));
        while waiting(&checks) < 4 {
            tokio::task::yield_now().await;
        }
        // One that is given up takes no turn with it.
        all.remove(1).abort();
        go.send(()).unwrap();
        for task in all {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["runs", "other", "flooder", "flooder"]);
        assert_eq!(checks.shared.state.lock().turns.free, 1);
    }

    #[tokio::test]
    async fn a_session_beyond_its_budget_waits_and_others_do_not() {
        let checks = Checks::new(1);
        let (greedy, other) = (checks.of_session(), checks.of_session());
        heavy(greedy.clone(), None, limits::CHECK_BURST + 3_600 * limits::CHECK_RATE)
            .await
            .unwrap();
        let light = |_: &mut (), _: Work, _: &mut Work| Some(());
        let mut waits = Box::pin(greedy.check((), light, |_: &mut (), _: &mut Work| ()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut cx).is_pending(), "light work waits as well");
        heavy(other, None, 1).await.unwrap();
        assert!(waits.as_mut().poll(&mut cx).is_pending());
    }

    #[tokio::test]
    async fn a_check_that_panics_gives_its_turn_back() {
        let checks = Checks::new(1);
        let checker = checks.of_session();
        let light = |_: &mut (), _: Work, _: &mut Work| None;
        let bug = |_: &mut (), _: &mut Work| panic!("a bug");
        assert!(checker.check((), light, bug).await.is_none());
        assert!(heavy(checker, None, 1).await.is_some());
    }

    /// A thousand sessions of one address are new, so each has all of its budget. A person who typed a little
    /// pastes a page.
    #[test]
    fn critic_new_sessions_do_not_go_before_one_that_used_next_to_nothing() {
        let mut turns = Turns::new(1);
        for _ in 0..1_000 {
            turns.wait(spent(0));
        }
        let person = turns.wait(spent(1));
        let mut before = 0;
        while turns.next(at(0)) != Some(person) {
            (before, turns.free) = (before + 1, 1);
        }
        assert!(before < 100, "{before} checks of half a second each go before");
    }
}
