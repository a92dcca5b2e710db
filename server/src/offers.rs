//! Snapshots that clients offer, while their parts arrive: kept across connections, so that a cut
//! does not begin them again. Each holds the memory of all its bytes from its beginning, so one that
//! has begun can always end.

use std::collections::HashMap;
use std::sync::Arc;

use landfall_protocol::session::Offered;
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::Mutex;

use crate::memory::{Account, Grant, Pace};

type Key = (SpaceName, DocumentId, [u8; 32]);

/// One that is not whole yet.
struct Partial {
    bytes: Vec<u8>,
    room: Grant,
    /// Tells it from another of the same snapshot, before or after it.
    ticket: u64,
    /// Sessions that send it.
    sessions: usize,
    pace: Pace,
    /// Grows with each use; of those that no session sends the smallest goes first.
    used: u64,
}

#[derive(Default)]
struct Kept {
    partials: HashMap<Key, Partial>,
    uses: u64,
}

/// What has arrived.
#[derive(Default)]
pub(crate) struct Offers {
    kept: Mutex<Kept>,
}

/// A snapshot that is whole, with the memory that it takes.
pub(crate) struct Whole {
    /// Its bytes.
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Their memory.
    pub(crate) room: Grant,
}

/// What a part came to.
pub(crate) enum Took {
    /// This is where the next one begins.
    Upto(u64),
    /// That was the last.
    Whole(Whole),
    /// It does not begin where the last one ended: it was sent before its sender knew.
    Stale(u64),
    /// It gave way to others, or nothing of it was ever begun.
    Gone,
}

/// One session's hold on one snapshot: a snapshot that a session sends is never dropped.
pub(crate) struct Sending {
    offers: Arc<Offers>,
    key: Key,
    ticket: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(partial) = self.offers.kept.lock().partials.get_mut(&self.key)
            && partial.ticket == self.ticket
        {
            partial.sessions = partial.sessions.saturating_sub(1);
        }
    }
}

impl Offers {
    /// How much is there of an offered snapshot that was begun before; `None` if it was not.
    pub(crate) fn resume(
        self: &Arc<Self>,
        space: &SpaceName,
        offer: &Offered,
    ) -> Option<(u64, Sending)> {
        let mut kept = self.kept.lock();
        let key = key(space, offer);
        let partial = kept.partials.get_mut(&key)?;
        let (there, ticket) = (partial.bytes.len() as u64, partial.ticket);
        // While a session sends it, an offer of the same makes it come no faster.
        if partial.sessions == 0 {
            partial.pace = Pace::from(there);
        }
        partial.sessions += 1;
        Some((there, Sending { offers: Arc::clone(self), key, ticket }))
    }

    /// Begins one, with memory for all its bytes. If it was begun meanwhile, it goes on.
    pub(crate) fn begin(
        self: &Arc<Self>,
        space: &SpaceName,
        offer: &Offered,
        room: Grant,
    ) -> (u64, Sending) {
        if let Some(resumed) = self.resume(space, offer) {
            return resumed;
        }
        let mut kept = self.kept.lock();
        let (key, pace) = (key(space, offer), Pace::from(0));
        kept.uses += 1;
        let (ticket, used) = (kept.uses, kept.uses);
        let partial = Partial { bytes: Vec::new(), room, ticket, sessions: 1, pace, used };
        kept.partials.insert(key.clone(), partial);
        (0, Sending { offers: Arc::clone(self), key, ticket })
    }

    /// Adds a part.
    pub(crate) fn add(&self, space: &SpaceName, offer: &Offered, from: u64, part: &[u8]) -> Took {
        let mut kept = self.kept.lock();
        let key = key(space, offer);
        kept.uses += 1;
        let used = kept.uses;
        let Some(partial) = kept.partials.get_mut(&key) else { return Took::Gone };
        if partial.bytes.len() as u64 != from {
            return Took::Stale(partial.bytes.len() as u64);
        }
        partial.bytes.extend_from_slice(part);
        partial.used = used;
        let there = partial.bytes.len() as u64;
        if there < offer.total {
            return Took::Upto(there);
        }
        match kept.partials.remove(&key) {
            Some(Partial { bytes, room, .. }) => {
                Took::Whole(Whole { bytes: Arc::new(bytes), room })
            }
            None => Took::Gone,
        }
    }

    /// Whether one comes slower than the slowest link is, while others wait for its memory: it is dropped
    /// then, whoever else sends it, and its session tells so. `reads`: it is not us who hold it back.
    pub(crate) fn is_overdue(
        &self,
        account: &Account,
        (space, offer): (&SpaceName, &Offered),
        reads: bool,
    ) -> bool {
        let mut kept = self.kept.lock();
        let key = key(space, offer);
        let Some(partial) = kept.partials.get_mut(&key) else { return false };
        if !partial.pace.is_slow(partial.bytes.len() as u64, reads, account) {
            return false;
        }
        let partial = kept.partials.remove(&key);
        drop(kept);
        // Its memory is given back with no lock held: others may take it at once.
        drop(partial);
        true
    }

    /// Lets go of one that no session sends, the least recently used; false if there is none.
    pub(crate) fn give_way(&self) -> bool {
        let mut kept = self.kept.lock();
        let idle = kept.partials.iter().filter(|(_, partial)| partial.sessions == 0);
        let Some(key) = idle.min_by_key(|(_, partial)| partial.used).map(|(key, _)| key.clone())
        else {
            return false;
        };
        let partial = kept.partials.remove(&key);
        drop(kept);
        // Its memory is given back with no lock held: others may take it at once.
        drop(partial);
        true
    }

    /// Bytes that are there.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.lock().partials.values().map(|partial| partial.bytes.len()).sum()
    }
}

fn key(space: &SpaceName, offer: &Offered) -> Key {
    (space.clone(), offer.document, offer.hash)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::memory::{Class, Memory, ShareKey};

    fn offer(document: u8, total: u64) -> Offered {
        let document = DocumentId::from_bytes([document; 16]);
        Offered { id: 1, subscription: 0, document, hash: [7; 32], total, heads: [].into() }
    }

    fn room(memory: &Memory, bytes: u64) -> Grant {
        let account = memory.account(ShareKey::Session(1));
        account.try_reserve(Class::Upload, bytes as usize).unwrap()
    }

    #[test]
    fn a_hold_on_one_that_is_gone_says_nothing_of_one_that_began_again() {
        let (offers, space) = (Arc::new(Offers::default()), "default".parse().unwrap());
        let memory = Memory::new(0);
        let offer = offer(1, 4);
        let (_, stale) = offers.begin(&space, &offer, room(&memory, 4));
        // It is brought whole by another session, and offered anew.
        assert!(matches!(offers.add(&space, &offer, 0, &[1, 2, 3, 4]), Took::Whole(_)));
        let (from, sending) = offers.begin(&space, &offer, room(&memory, 4));
        drop(stale);
        assert_eq!(from, 0);
        assert!(!offers.give_way(), "a session sends it");
        drop(sending);
        assert!(offers.give_way());
    }

    #[test]
    fn parts_gather_and_one_that_nobody_sends_gives_way() {
        let (offers, space) = (Arc::new(Offers::default()), "default".parse().unwrap());
        let memory = Memory::new(0);
        let mut number = 0;
        let mut begin = |offer: &Offered| {
            number += 1;
            offers.begin(&space, offer, room(&memory, offer.total))
        };
        let (first, second) = (offer(1, 4), offer(2, 4));
        assert!(offers.resume(&space, &first).is_none());
        assert!(
            matches!(offers.add(&space, &first, 0, &[1]), Took::Gone),
            "nothing is begun by a part"
        );
        let (from, sending) = begin(&first);
        let (_, other) = begin(&second);
        assert_eq!((from, memory.used(Class::Upload)), (0, 8));
        assert!(matches!(offers.add(&space, &first, 0, &[1, 2]), Took::Upto(2)));
        assert!(matches!(offers.add(&space, &first, 3, &[0]), Took::Stale(2)));
        assert!(!offers.give_way(), "sessions send both");
        drop(other);
        // The connection is cut; the same snapshot is offered again.
        drop(sending);
        let (from, _sending) = offers.resume(&space, &first).unwrap();
        assert_eq!(from, 2);
        assert!(offers.give_way() && !offers.give_way());
        assert!(offers.resume(&space, &second).is_none(), "it gave way");
        let Took::Whole(whole) = offers.add(&space, &first, 2, &[3, 4]) else {
            panic!("not whole")
        };
        assert_eq!((&whole.bytes[..], memory.used(Class::Upload)), (&[1, 2, 3, 4][..], 4));
        drop(whole);
        assert_eq!((memory.used(Class::Upload), offers.bytes()), (0, 0));
    }

    #[test]
    fn one_that_stalls_is_dropped_however_often_it_is_offered_again() {
        let (offers, space) = (Arc::new(Offers::default()), "default".parse().unwrap());
        let memory = Memory::new(256 << 20);
        let stalls = memory.account(ShareKey::Session(1));
        let offer = offer(1, 64 << 20);
        let room = stalls.try_reserve(Class::Upload, 64 << 20).unwrap();
        let (_, _sending) = offers.begin(&space, &offer, room);
        let other = memory.account(ShareKey::Session(2));
        let mut waits = std::pin::pin!(other.reserve(Class::Upload, 100 << 20));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        let since = Instant::now().checked_sub(Duration::from_secs(3_600)).unwrap();
        let key = key(&space, &offer);
        offers.kept.lock().partials.get_mut(&key).unwrap().pace = Pace::since(since, 0);
        let _second = offers.resume(&space, &offer).unwrap();
        assert!(
            offers.is_overdue(&stalls, (&space, &offer), true),
            "nothing of it came for an hour"
        );
        assert!(waits.as_mut().poll(&mut context).is_ready(), "its memory is given up");
        assert!(offers.resume(&space, &offer).is_none());
    }

    /// Two sessions offer the same hash with other lengths: one names a byte, which is all the memory that
    /// is reserved; the other one sends 60 MiB into that.
    #[test]
    fn critic_what_is_kept_of_a_snapshot_has_its_memory_whoever_began_it() {
        let (offers, space) = (Arc::new(Offers::default()), "default".parse().unwrap());
        let memory = Memory::new(0);
        let (short, long) = (offer(1, 1), offer(1, 64 << 20));
        let (_, _first) = offers.begin(&space, &short, room(&memory, 1));
        let (mut from, _second) = match offers.resume(&space, &long) {
            Some(resumed) => resumed,
            None => offers.begin(&space, &long, room(&memory, long.total)),
        };
        let part = vec![7; 256 << 10];
        while from < 60 << 20 {
            match offers.add(&space, &long, from, &part) {
                Took::Upto(there) => from = there,
                _ => break,
            }
        }
        let (kept, reserved) = (offers.bytes(), memory.used(Class::Upload));
        assert!(kept <= reserved, "{kept} bytes are kept with memory for {reserved}");
    }
}
