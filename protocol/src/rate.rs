//! A rate limit: a token bucket whose time is an argument. Knows nothing of the limited work.

use std::time::Duration;

use crate::moment::Moment;

/// A token bucket that may be overdrawn once: often the cost of an action is known only afterwards,
/// or exceeds the bucket. A spender is ready while the bucket holds any tokens. Spending may leave
/// a debt, and the spender is ready again when the refill has paid it. Over time it spends no more
/// than the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens added per second.
    rate: u64,
    /// The most tokens that it holds.
    burst: u64,
    /// Billionths of a token; negative in debt.
    level: i128,
    /// The time of `level`.
    at: Moment,
}

/// Billionths of a token, so that a refill of any rate is exact to the nanosecond.
const PARTS: i128 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket. A rate of zero counts as one token per second, so that a debt ends.
    pub fn new(rate: u64, burst: u64, now: Moment) -> Self {
        Self { rate: rate.max(1), burst, level: i128::from(burst) * PARTS, at: now }
    }

    /// Takes tokens, even if the bucket does not hold them.
    pub fn spend(&mut self, now: Moment, tokens: u64) {
        self.refill(now);
        // `u64::MAX` debts of `u64::MAX` tokens never occur, yet must not wrap.
        self.level = self.level.saturating_sub(i128::from(tokens) * PARTS);
    }

    /// The time until it is out of debt; zero if it is not in debt.
    pub fn wait(&self, now: Moment) -> Duration {
        let debt = -self.level_at(now);
        if debt < 0 || (debt == 0 && self.burst == 0) {
            return Duration::ZERO;
        }
        // One part more: it is ready only if it holds a positive amount.
        let nanoseconds = debt / i128::from(self.rate) + 1;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Whether it holds any tokens.
    pub fn is_ready(&self, now: Moment) -> bool {
        self.wait(now).is_zero()
    }

    /// Its tokens, negative in debt: a spender that spent less lately has more.
    pub fn tokens(&self, now: Moment) -> i64 {
        let tokens = self.level_at(now).div_euclid(PARTS);
        i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
    }

    fn refill(&mut self, now: Moment) {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
    }

    fn level_at(&self, now: Moment) -> i128 {
        let nanoseconds = i128::try_from(now.since(self.at).as_nanos()).unwrap_or(i128::MAX);
        let came = nanoseconds.saturating_mul(i128::from(self.rate));
        self.level.saturating_add(came).min(i128::from(self.burst) * PARTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_burst_passes_and_a_debt_is_paid_at_the_rate() {
        let mut bucket = TokenBucket::new(1_000, 500, at(0));
        bucket.spend(at(0), 400);
        assert!(bucket.is_ready(at(0)));
        // More than it holds: the spend succeeds, and the next one waits.
        bucket.spend(at(0), 3_100);
        assert_eq!(bucket.tokens(at(0)), -3_000);
        assert!(!bucket.is_ready(at(3_000)) && bucket.is_ready(at(3_001)));
        let wait = bucket.wait(at(1_000));
        assert!(wait > Duration::from_secs(2) && wait < Duration::from_millis(2_001));
        assert!(bucket.is_ready(at(1_000).after(wait)), "a spender that waited so long is ready");
    }

    #[test]
    fn over_time_no_more_passes_than_the_rate() {
        let mut bucket = TokenBucket::new(100, 50, at(0));
        let mut passed = 0;
        for millisecond in 0..10_000 {
            if bucket.is_ready(at(millisecond)) {
                bucket.spend(at(millisecond), 7);
                passed += 7;
            }
        }
        assert!((1_000..=1_000 + 50 + 7).contains(&passed), "{passed} tokens in ten seconds");
    }

    #[test]
    fn idle_time_refills_up_to_the_burst() {
        let mut bucket = TokenBucket::new(1_000, 500, at(0));
        bucket.spend(at(0), 500);
        assert!(!bucket.is_ready(at(0)));
        assert_eq!(bucket.tokens(at(200)), 200);
        assert_eq!(bucket.tokens(at(1_000_000)), 500);
    }

    #[test]
    fn a_clock_that_goes_back_and_huge_debts_do_no_harm() {
        let mut bucket = TokenBucket::new(0, 10, at(5_000));
        bucket.spend(at(1_000), 4);
        assert_eq!(bucket.tokens(at(1_000)), 6);
        for _ in 0..3 {
            bucket.spend(at(6_000), u64::MAX);
        }
        assert_eq!(bucket.tokens(at(6_000)), i64::MIN);
        assert_eq!(bucket.wait(at(6_000)), Duration::from_nanos(u64::MAX));
        assert!(bucket.is_ready(Moment(Duration::MAX)) || bucket.tokens(Moment(Duration::MAX)) < 0);
    }
}
