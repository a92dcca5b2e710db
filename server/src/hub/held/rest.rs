//! Pushes to one document that wait, of all sessions, and how many of them there may be.

use std::collections::BTreeMap;

use crate::hub::Pushed;
use crate::limits;
use crate::memory::{Key, ShareKey};
use crate::turns::Round;

/// Pushes that wait: addresses have their turns, so that what one has queued delays another by what is done
/// of it, and no more.
#[derive(Default)]
pub(super) struct Rest {
    round: Round<(Pushed, usize)>,
    all: Sum,
    /// What each share has of it; none is zero.
    shares: BTreeMap<ShareKey, Sum>,
}

/// Pushes, and what they take up of the bytes that all sessions may have in flight.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    pushes: usize,
    bytes: usize,
}

impl Sum {
    fn with(self, bytes: usize) -> Self {
        Self { pushes: self.pushes + 1, bytes: self.bytes + bytes }
    }

    fn without(self, bytes: usize) -> Self {
        Self { pushes: self.pushes - 1, bytes: self.bytes - bytes }
    }

    /// Whether it is no more than so many shares may have.
    fn fits(self, shares: usize) -> bool {
        self.pushes <= shares * limits::HELD_PUSHES && self.bytes <= shares * limits::HELD_BYTES
    }
}

impl Rest {
    /// Adds a push of so many bytes; false if they are too many, or too much, of its share or in all.
    pub(super) fn add(&mut self, key: Key, push: Pushed, bytes: usize) -> bool {
        let of_share = self.shares.get(&key.share).copied().unwrap_or_default();
        let (all, of_share) = (self.all.with(bytes), of_share.with(bytes));
        if !all.fits(2) || !of_share.fits(1) {
            return false;
        }
        self.all = all;
        self.shares.insert(key.share, of_share);
        self.round.add(key, (push, bytes));
        true
    }

    /// A session has its turn elsewhere: others have theirs first.
    pub(super) fn note_turn(&mut self, key: Key) {
        self.round.note_turn(key.share);
    }

    /// Takes out what is next.
    pub(super) fn take(&mut self) -> Option<Pushed> {
        let (Key { share, .. }, (push, bytes)) = self.round.take(|_| true, |_| true)?;
        self.all = self.all.without(bytes);
        let of_share = self.shares.remove(&share).unwrap_or_default().without(bytes);
        if of_share.pushes > 0 {
            self.shares.insert(share, of_share);
        }
        Some(push)
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::space::PushedEntry;
    use landfall_protocol::{DocumentId, SessionId};

    use super::*;

    fn deletion(session: u64, id: u64) -> Pushed {
        let (session, document) = (SessionId(session), DocumentId::from_bytes([1; 16]));
        Pushed::Deletion(PushedEntry { session, id, document, author: Vec::new() })
    }

    /// An address with many sessions; one of another, which came last.
    #[test]
    fn what_one_address_has_queued_delays_another_by_one_and_leaves_it_places() {
        let key = |share, account| Key { share: ShareKey::Session(share), account };
        let mut rest = Rest::default();
        rest.note_turn(key(1, 0));
        let many = (0..1_000).filter(|n| rest.add(key(1, n % 40), deletion(n % 40, *n), 0)).count();
        assert_eq!(many, limits::HELD_PUSHES);
        assert!(
            rest.add(key(2, 100), deletion(100, 1), 0)
                && rest.add(key(2, 100), deletion(100, 2), 7)
        );
        assert!(!rest.add(key(2, 100), deletion(100, 3), limits::HELD_BYTES));
        let order: Vec<_> = std::iter::from_fn(|| rest.take()).map(|push| push.key()).collect();
        let of_other = order.iter().position(|(session, _)| *session == SessionId(100));
        assert_eq!((of_other, order[2]), (Some(0), (SessionId(100), 2)));
        assert!(rest.shares.is_empty() && rest.all == Sum::default());
    }
}
