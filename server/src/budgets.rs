//! Rate budgets of addresses. Counted by address, so that a new connection does not renew them. Pure: the
//! time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use landfall_protocol::Moment;
use landfall_protocol::rate::TokenBucket;

use crate::limits;
use crate::memory::ShareKey;

/// The budgets of all shares, of equal size.
#[derive(Debug)]
pub(crate) struct Budgets {
    /// Tokens added each second.
    rate: u64,
    /// Tokens that may be used at once.
    burst: u64,
    /// The shares that used tokens recently. An absent share has its full budget.
    of: HashMap<ShareKey, TokenBucket>,
}

impl Budgets {
    /// `rate` tokens a second, and `burst` at once, for each share.
    pub(crate) fn new(rate: u64, burst: u64) -> Self {
        Self { rate, burst, of: HashMap::new() }
    }

    /// How long until a share has paid for its use; zero if it has.
    pub(crate) fn wait(&self, share: ShareKey, now: Moment) -> Duration {
        self.of.get(&share).map_or(Duration::ZERO, |bucket| bucket.wait(now))
    }

    /// Charges a share for `tokens` tokens, whether or not it had them.
    pub(crate) fn spend(&mut self, share: ShareKey, now: Moment, tokens: u64) {
        if self.of.len() >= limits::SHARES_REMEMBERED && !self.of.contains_key(&share) {
            self.forget(now);
        }
        let new = || TokenBucket::new(self.rate, self.burst, now);
        self.of.entry(share).or_insert_with(new).spend(now, tokens);
    }

    /// Forgets the shares whose budget is full again; if there are none, the one with the smallest debt: no
    /// share's debt is forgotten in favour of one that used less.
    fn forget(&mut self, now: Moment) {
        let burst = i64::try_from(self.burst).unwrap_or(i64::MAX);
        self.of.retain(|_, bucket| bucket.tokens(now) < burst);
        if self.of.len() >= limits::SHARES_REMEMBERED {
            let fullest = self.of.iter().max_by_key(|(_, bucket)| bucket.tokens(now));
            if let Some(share) = fullest.map(|(share, _)| *share) {
                self.of.remove(&share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn a_share_is_charged_for_its_own_use_only() {
        let mut budgets = Budgets::new(10, 100);
        let [one, other] = [1, 2].map(ShareKey::Session);
        budgets.spend(one, at(0), 90);
        assert!(budgets.wait(one, at(0)).is_zero());
        budgets.spend(one, at(0), 100);
        assert!(budgets.wait(one, at(0)) > Duration::from_secs(8));
        assert!(budgets.wait(other, at(0)).is_zero());
        assert!(budgets.wait(one, at(10)).is_zero());
    }

    #[test]
    fn the_table_of_shares_is_bounded_and_keeps_debts() {
        let mut budgets = Budgets::new(1, 100);
        let debtor = ShareKey::Session(0);
        budgets.spend(debtor, at(0), 10_000);
        for number in 1..=2 * limits::SHARES_REMEMBERED as u64 {
            budgets.spend(ShareKey::Session(number), at(0), 50);
        }
        assert_eq!(budgets.of.len(), limits::SHARES_REMEMBERED);
        assert!(!budgets.wait(debtor, at(0)).is_zero(), "the debt was forgotten");
        // By then the others have paid.
        budgets.spend(ShareKey::Session(u64::MAX), at(100), 1);
        assert_eq!(budgets.of.len(), 2);
    }
}
