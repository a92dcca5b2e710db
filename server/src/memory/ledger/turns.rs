//! The order of service: which waiting reservation is granted next, and which account must give way.

use std::time::Instant;

use super::{Asks, CLASSES, Key, Ledger, Share, WaitingReservation, is_small, sixteenths};
use crate::memory::{Class, ShareKey};

/// The sort key of `next`: shares with repeated stalls go last; then the share that holds least goes first,
/// then the account that holds least, then the oldest reservation.
type Rank = (usize, usize, usize, u64);

impl Ledger {
    /// Removes the next waiting reservation that can be granted.
    pub(in crate::memory) fn next(&mut self, now: Instant) -> Option<(Key, WaitingReservation)> {
        // Skip those that wait for their class or share: they must not delay others, since they may wait
        // for a message that takes half an hour.
        let allowed = self
            .accounts_waiting()
            .filter(|(asks, waiting)| self.allowed(*asks, waiting.class, waiting.bytes));
        let first = allowed.min_by_key(|(asks, waiting)| self.rank(*asks, waiting, now));
        let fits = first
            .filter(|(asks, waiting)| self.has_room(*asks, waiting.class, waiting.bytes, false));
        // The first one does not fit yet, and free memory accumulates for it: meanwhile only small ones may
        // pass, within their lane.
        let (asks, waiting) = fits.or_else(|| self.next_small(now))?;
        let key = asks.key;
        self.give_up(key, waiting.ticket);
        Some((key, waiting))
    }

    /// The next small reservation whose lane has room.
    fn next_small(&self, now: Instant) -> Option<(Asks<'_>, WaitingReservation)> {
        let fits = self.accounts_waiting().filter(|(asks, waiting)| {
            is_small(waiting.class, waiting.bytes)
                && self.allowed(*asks, waiting.class, waiting.bytes)
                && self.has_room(*asks, waiting.class, waiting.bytes, true)
        });
        fits.min_by_key(|(asks, waiting)| self.rank(*asks, waiting, now))
    }

    fn rank(&self, asks: Asks<'_>, waiting: &WaitingReservation, now: Instant) -> Rank {
        let setback = self.stalls.setback(asks.key.share, now);
        let of_share = asks.share.classes[waiting.class as usize];
        (setback, of_share, asks.held(waiting.class), waiting.ticket)
    }

    /// The waiting accounts.
    pub(super) fn waiters(&self) -> impl Iterator<Item = Asks<'_>> {
        self.queue.iter().flat_map(|share| self.waiters_of(*share))
    }

    fn waiters_of(&self, key: ShareKey) -> impl Iterator<Item = Asks<'_>> {
        let share = self.shares.get(&key);
        let accounts = share.into_iter().flat_map(|share| &share.waiting);
        accounts.filter_map(move |account| {
            let (share, account) = (share?, *account);
            let holding = share.accounts.get(&account)?;
            Some(Asks { key: Key { share: key, account }, share, holding })
        })
    }

    /// The oldest waiting reservation of each account and class, reduced to the largest that is possible
    /// now.
    pub(super) fn accounts_waiting(&self) -> impl Iterator<Item = (Asks<'_>, WaitingReservation)> {
        let largest = self.largest();
        self.waiters().flat_map(move |asks| {
            let mut seen = [false; CLASSES];
            asks.holding.waiting.iter().filter_map(move |waiting| {
                let first = !std::mem::replace(&mut seen[waiting.class as usize], true);
                let bytes = waiting.bytes.min(largest);
                first.then_some((asks, WaitingReservation { bytes, ..*waiting }))
            })
        })
    }

    /// The account that must give way to a request for `bytes` bytes of a class: the account that holds
    /// most in the share that holds most, if that share exceeds a fair part and the requester would not.
    pub(in crate::memory) fn hog(&self, class: Class, asks: Key, bytes: usize) -> Option<Key> {
        let held = |share: &Share| share.classes[class as usize];
        let others = || self.shares.iter().filter(|(key, _)| **key != asks.share);
        let own = self.shares.get(&asks.share).map_or(0, held);
        let holders = others().filter(|(_, share)| held(share) > 0).count() + 1;
        let fair = sixteenths(self.limit, class.sixteenths()) / holders;
        let most = others().max_by_key(|(_, share)| held(share));
        if let Some((share, of)) = most.filter(|(_, of)| held(of) > fair)
            && own + bytes <= fair
        {
            return largest_of(*share, of, class, None);
        }
        // The same rule among the accounts of the requester's share.
        let of = self.shares.get(&asks.share)?;
        let holders = of.accounts.iter().filter(|(account, holding)| {
            **account != asks.account && holding.classes[class as usize] > 0
        });
        let fair = fair / (holders.count() + 1);
        let most = largest_of(asks.share, of, class, Some(asks.account))?;
        let fits = self.held(asks, class) + bytes <= fair;
        (self.held(most, class) > fair && fits).then_some(most)
    }
}

/// The account of a share that holds most of a class, except `not`.
fn largest_of(share: ShareKey, of: &Share, class: Class, not: Option<u64>) -> Option<Key> {
    let others = of.accounts.iter().filter(|(account, _)| Some(**account) != not);
    let (account, _) = others.max_by_key(|(_, holding)| holding.classes[class as usize])?;
    Some(Key { share, account: *account })
}
