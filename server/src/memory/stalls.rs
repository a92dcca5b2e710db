//! Shares whose messages stalled recently. Pure: the time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::ShareKey;
use crate::limits;

/// The stalls of the last [`limits::STALL_REMEMBERED`], by share.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    of: HashMap<ShareKey, VecDeque<Instant>>,
}

impl Stalls {
    /// Records that a message of a share stalled and gave up its memory.
    pub(super) fn add(&mut self, share: ShareKey, now: Instant) {
        if self.of.len() >= limits::STALLS_REMEMBERED {
            self.forget_old(now);
        }
        // If the table is full, a new share's stall is not recorded.
        if self.of.len() < limits::STALLS_REMEMBERED || self.of.contains_key(&share) {
            let times = self.of.entry(share).or_default();
            if times.len() >= limits::STALLS_COUNTED {
                times.pop_front();
            }
            times.push_back(now);
        }
    }

    /// How many ranks a share waits behind others: its recent stalls, less those that are forgiven because
    /// any link may break.
    pub(super) fn setback(&self, share: ShareKey, now: Instant) -> usize {
        let times = self.of.get(&share);
        let count = times.map_or(0, |times| times.iter().filter(|at| is_recent(**at, now)).count());
        count.saturating_sub(limits::STALLS_FORGIVEN)
    }

    fn forget_old(&mut self, now: Instant) {
        self.of.retain(|_, times| times.back().is_some_and(|last| is_recent(*last, now)));
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < limits::STALL_REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_delay_a_share_until_they_expire() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        let (one, other) = (ShareKey::Session(1), ShareKey::Session(2));
        for _ in 0..limits::STALLS_FORGIVEN {
            stalls.add(one, start);
        }
        assert_eq!(stalls.setback(one, start), 0, "a few stalls are forgiven");
        let later = start + limits::STALL_REMEMBERED / 2;
        stalls.add(one, later);
        assert_eq!((stalls.setback(one, later), stalls.setback(other, later)), (1, 0));
        assert_eq!(stalls.setback(one, start + limits::STALL_REMEMBERED), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        for number in 0..2 * limits::STALLS_REMEMBERED as u64 {
            stalls.add(ShareKey::Session(number), start);
        }
        for _ in 0..10 * limits::STALLS_COUNTED {
            stalls.add(ShareKey::Session(0), start);
        }
        assert_eq!(stalls.of.len(), limits::STALLS_REMEMBERED);
        assert_eq!(stalls.of[&ShareKey::Session(0)].len(), limits::STALLS_COUNTED);
        let later = start + limits::STALL_REMEMBERED;
        stalls.add(ShareKey::Session(u64::MAX), later);
        assert_eq!(stalls.of.len(), 1, "expired stalls are removed");
    }
}
