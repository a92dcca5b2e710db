//! Schedules the checks of sessions' changes: inline if a check takes less than a millisecond, else on the
//! pool of blocking threads, a few at a time, in turns.
//!
//! Each session has a budget of work per second. A session that exceeds it waits, with all its pushes, until
//! the budget has caught up; no other session does. All sessions of an address share a larger budget, which a
//! new connection does not renew.

use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::admission::Work;
use landfall_protocol::rate::TokenBucket;
use parking_lot::Mutex;

use crate::budgets::Budgets;
use crate::limits;
use crate::memory::Key;
use crate::turns::Turns;

/// The checks of a whole relay. Clones share them.
#[derive(Clone)]
pub(crate) struct Checks {
    turns: Turns,
}

impl Checks {
    /// `at_a_time` checks run on the pool concurrently.
    pub(crate) fn new(at_a_time: usize) -> Self {
        let budgets = Budgets::new(limits::SHARE_CHECK_RATE, limits::SHARE_CHECK_BURST);
        Self { turns: Turns::within(at_a_time, budgets) }
    }

    /// The checks of one session.
    pub(crate) fn of_session(&self, key: Key) -> Checker {
        let (rate, burst) = (limits::CHECK_RATE, limits::CHECK_BURST);
        let budget = TokenBucket::new(rate, burst, self.turns.now());
        Checker { turns: self.turns.clone(), key, budget: Arc::new(Mutex::new(budget)) }
    }
}

/// The checks of one session. Clones belong to the same session.
#[derive(Clone)]
pub(crate) struct Checker {
    turns: Turns,
    key: Key,
    budget: Arc<Mutex<TokenBucket>>,
}

impl Checker {
    /// Checks an input: with `light`, if that finishes within the inline bound; else with `heavy` on the
    /// pool. Waits for the session's budget first, and on the pool for its address's. `None` if the check
    /// panicked.
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
        let turn = self.turns.take(self.key).await?;
        let budget = Spending { checker: self.clone(), work };
        let task = tokio::task::spawn_blocking(move || {
            let mut spending = budget;
            let checked = heavy(&mut input, &mut spending.work);
            // The charge before the turn: it decides which share is next.
            drop(spending);
            drop(turn);
            (checked, input)
        });
        task.await.ok()
    }

    /// How long until the session has paid for its checks, and its address nearly. The margin for the address
    /// is needed because pushes of its other sessions repeatedly leave it slightly in debt.
    pub(crate) fn debt(&self) -> Duration {
        let of_share = self.turns.debt(self.key.share).saturating_sub(limits::SHARE_CHECK_LENT);
        self.budget.lock().wait(self.turns.now()).max(of_share)
    }

    fn spend(&self, work: Work) {
        self.budget.lock().spend(self.turns.now(), work.units());
        self.turns.spend(self.key.share, work.units());
    }
}

/// Charges the work done, even if a check panics or its session no longer awaits it.
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
    use crate::memory::ShareKey;

    /// A session of an address.
    fn session(address: u64, number: u64) -> Key {
        Key { share: ShareKey::Session(address), account: number }
    }

    /// Blocks a check until it is released; `None` does nothing.
    type CheckHold = Option<std::sync::mpsc::Receiver<()>>;

    async fn heavy(checker: Checker, held: CheckHold, units: u64) -> Option<()> {
        let light = |_: &mut CheckHold, _: Work, _: &mut Work| None;
        let heavy = move |held: &mut CheckHold, work: &mut Work| {
            if let Some(held) = held.take() {
                let _ = held.recv();
            }
            work.operations = units;
        };
        checker.check(held, light, heavy).await.map(|((), _)| ())
    }

    #[tokio::test]
    async fn an_address_delays_others_only_by_its_running_check() {
        let checks = Checks::new(1);
        let (go, held) = std::sync::mpsc::channel();
        let (flooder, other) = (checks.of_session(session(1, 1)), checks.of_session(session(2, 2)));
        let order = Arc::new(Mutex::new(Vec::new()));
        let start = |name: &'static str, checker: &Checker, held: CheckHold| {
            let (order, checker) = (Arc::clone(&order), checker.clone());
            tokio::spawn(async move {
                let light = |_: &mut CheckHold, _: Work, _: &mut Work| None;
                // Recorded during the turn: tasks may observe their ends in another order.
                let note = move |held: &mut CheckHold, _: &mut Work| {
                    if let Some(held) = held.take() {
                        let _ = held.recv();
                    }
                    order.lock().push(name);
                };
                checker.check(held, light, note).await.unwrap();
            })
        };
        let mut all = vec![start("runs", &flooder, Some(held))];
        while checks.turns.free() > 0 {
            tokio::task::yield_now().await;
        }
        // Over several sessions.
        let flooders = [2, 3, 4].map(|number| checks.of_session(session(1, number)));
        all.extend(flooders.iter().map(|flooder| start("flooder", flooder, None)));
        while checks.turns.waiting() < 3 {
            tokio::task::yield_now().await;
        }
        all.push(start("other", &other, None));
        while checks.turns.waiting() < 4 {
            tokio::task::yield_now().await;
        }
        // A cancelled check does not lose its turn.
        all.remove(1).abort();
        go.send(()).unwrap();
        for task in all {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["runs", "other", "flooder", "flooder"]);
        assert_eq!(checks.turns.free(), 1);
    }

    #[tokio::test]
    async fn only_a_session_over_its_budget_waits() {
        let checks = Checks::new(1);
        let (greedy, other) = (checks.of_session(session(1, 1)), checks.of_session(session(2, 2)));
        heavy(greedy.clone(), None, limits::CHECK_BURST + 3_600 * limits::CHECK_RATE)
            .await
            .unwrap();
        let light = |_: &mut (), _: Work, _: &mut Work| Some(());
        let mut waits = Box::pin(greedy.check((), light, |_: &mut (), _: &mut Work| ()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut cx).is_pending(), "light work did not wait");
        heavy(other, None, 1).await.unwrap();
        assert!(waits.as_mut().poll(&mut cx).is_pending());
    }

    #[tokio::test]
    async fn a_check_that_panics_releases_its_turn() {
        let checks = Checks::new(1);
        let checker = checks.of_session(session(1, 1));
        let light = |_: &mut (), _: Work, _: &mut Work| None;
        let bug = |_: &mut (), _: &mut Work| panic!("a bug");
        assert!(checker.check((), light, bug).await.is_none());
        assert!(heavy(checker, None, 1).await.is_some());
    }

    #[tokio::test]
    async fn reconnecting_does_not_renew_the_budget_of_an_address() {
        let checks = Checks::new(1);
        let hour = limits::SHARE_CHECK_BURST + 3_600 * limits::SHARE_CHECK_RATE;
        heavy(checks.of_session(session(1, 1)), None, hour).await.unwrap();
        let again = checks.of_session(session(1, 2));
        let mut cx = Context::from_waker(Waker::noop());
        let mut waits = Box::pin(heavy(again.clone(), None, 1));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        assert!(again.debt() > Duration::from_secs(3_000), "such a debt delays small work too");
        let other = checks.of_session(session(2, 3));
        assert!(other.debt().is_zero());
        heavy(other, None, 1).await.unwrap();
    }

    /// Another session in the same office pastes a book.
    #[tokio::test]
    async fn a_small_check_does_not_wait_for_the_debt_of_its_address() {
        let checks = Checks::new(1);
        let (pastes, types) = (checks.of_session(session(1, 1)), checks.of_session(session(1, 2)));
        let most = limits::SHARE_CHECK_BURST + limits::CHECKS as u64 * limits::CHECK_BURST / 2;
        heavy(pastes, None, most).await.unwrap();
        let light = |_: &mut (), _: Work, _: &mut Work| Some(());
        let mut checked = Box::pin(types.check((), light, |_: &mut (), _: &mut Work| ()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(checked.as_mut().poll(&mut cx).is_ready());
    }
}
