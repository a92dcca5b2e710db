//! Snapshots that clients offer, while their parts arrive: kept across connections, so that a cut
//! does not begin them again, under one budget for the whole relay.

use std::collections::HashMap;
use std::sync::Arc;

use landfall_protocol::session::Offered;
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::Mutex;

use crate::limits;

type Key = (SpaceName, DocumentId, [u8; 32]);

/// One that is not whole yet.
struct Partial {
    bytes: Vec<u8>,
    /// Grows with each use; the smallest goes first.
    used: u64,
}

#[derive(Default)]
struct Kept {
    partials: HashMap<Key, Partial>,
    bytes: usize,
    uses: u64,
}

/// What has arrived.
#[derive(Default)]
pub(crate) struct Offers {
    kept: Mutex<Kept>,
}

/// What a part came to.
pub(crate) enum Took {
    /// This is where the next one begins.
    Upto(u64),
    /// That was the last.
    Whole(Arc<Vec<u8>>),
    /// It does not begin where the last one ended: it was sent before its sender knew.
    Stale,
}

impl Offers {
    /// How much of an offered snapshot is there.
    pub(crate) fn begin(&self, space: &SpaceName, offer: &Offered) -> u64 {
        let kept = self.kept.lock();
        kept.partials.get(&key(space, offer)).map_or(0, |partial| partial.bytes.len() as u64)
    }

    /// Adds a part.
    pub(crate) fn add(&self, space: &SpaceName, offer: &Offered, from: u64, part: &[u8]) -> Took {
        let mut kept = self.kept.lock();
        let key = key(space, offer);
        kept.uses += 1;
        let used = kept.uses;
        let partial = kept.partials.entry(key.clone());
        let partial = partial.or_insert(Partial { bytes: Vec::new(), used });
        if partial.bytes.len() as u64 != from {
            return Took::Stale;
        }
        partial.bytes.extend_from_slice(part);
        partial.used = used;
        let there = partial.bytes.len() as u64;
        kept.bytes += part.len();
        if there >= offer.total {
            let whole = kept.remove(&key);
            return Took::Whole(Arc::new(whole));
        }
        kept.shrink(&key);
        Took::Upto(there)
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }
}

impl Kept {
    fn remove(&mut self, key: &Key) -> Vec<u8> {
        let bytes = self.partials.remove(key).map_or_else(Vec::new, |partial| partial.bytes);
        self.bytes -= bytes.len();
        bytes
    }

    /// Lets go of the least recently used, but not of the one that is just growing.
    fn shrink(&mut self, growing: &Key) {
        while self.bytes > limits::OFFER_BYTES {
            let others = self.partials.iter().filter(|(key, _)| *key != growing);
            let Some(key) =
                others.min_by_key(|(_, partial)| partial.used).map(|(key, _)| key.clone())
            else {
                return;
            };
            self.remove(&key);
        }
    }
}

fn key(space: &SpaceName, offer: &Offered) -> Key {
    (space.clone(), offer.document, offer.hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(document: u8, total: u64) -> Offered {
        let document = DocumentId::from_bytes([document; 16]);
        Offered { id: 1, subscription: 0, document, hash: [7; 32], total, heads: vec![] }
    }

    #[test]
    fn parts_gather_and_the_oldest_give_way() {
        let (offers, space) = (Offers::default(), "default".parse().unwrap());
        let large = limits::OFFER_BYTES as u64;
        let half = vec![1; limits::OFFER_BYTES / 2 + 1];
        assert!(matches!(offers.add(&space, &offer(1, large), 0, &half), Took::Upto(_)));
        assert_eq!(offers.begin(&space, &offer(1, large)), half.len() as u64);
        assert!(matches!(offers.add(&space, &offer(1, large), 3, &[0]), Took::Stale));
        assert!(matches!(offers.add(&space, &offer(2, large), 0, &half), Took::Upto(_)));
        assert_eq!(offers.begin(&space, &offer(1, large)), 0, "it gave way");
        assert!(offers.bytes() <= limits::OFFER_BYTES);
        assert!(matches!(offers.add(&space, &offer(3, 4), 0, &[1, 2]), Took::Upto(2)));
        let Took::Whole(whole) = offers.add(&space, &offer(3, 4), 2, &[3, 4]) else { panic!() };
        assert_eq!(*whole, [1, 2, 3, 4]);
    }
}
