//! The rings of all spaces: a cache that yields to sessions' memory, evicting the least recently written ring
//! first.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Feed;
use crate::memory::Memory;
use crate::partial_uploads::PartialUploads;

/// The rings with entries.
pub(crate) struct Rings {
    memory: Memory,
    turns: Mutex<FeedTurns>,
}

#[derive(Default)]
struct FeedTurns {
    last: u64,
    /// The feeds, by time of their last write.
    feeds: BTreeMap<u64, Weak<Feed>>,
}

impl Rings {
    pub(crate) fn new(memory: Memory) -> Arc<Self> {
        Arc::new(Self { memory, turns: Mutex::default() })
    }

    /// A ring was written and grew from `before` to `after` bytes; returns its new turn.
    pub(super) fn written(&self, turn: u64, feed: &Arc<Feed>, before: usize, after: usize) -> u64 {
        let mut turns = self.turns.lock();
        turns.feeds.remove(&turn);
        turns.last += 1;
        let turn = turns.last;
        if after > 0 {
            turns.feeds.insert(turn, Arc::downgrade(feed));
        }
        drop(turns);
        self.memory.set_cached(before, after);
        turn
    }

    /// A ring dropped some entries.
    pub(super) fn forgot(&self, turn: u64, before: usize, after: usize) {
        if after == 0 {
            self.turns.lock().feeds.remove(&turn);
        }
        self.memory.set_cached(before, after);
    }

    /// Evicts rings until the cache fits its budget. No ring may be locked by the caller.
    pub(crate) fn shrink(&self) {
        while self.memory.cached() > self.memory.cache_room() {
            let Some((_, feed)) = self.turns.lock().feeds.pop_first() else { return };
            // A dropped feed has returned its memory already.
            if let Some(feed) = feed.upgrade() {
                feed.clear();
            }
        }
    }

    /// Evicts rings whenever sessions wait for memory, and then snapshots that no session is uploading any
    /// more; never ends.
    pub(crate) async fn give_way(&self, partial_uploads: &PartialUploads) {
        loop {
            self.memory.pressed().await;
            self.shrink();
            // One at a time: if that is not enough, the release of its memory wakes this loop again.
            if self.memory.is_short() {
                partial_uploads.give_way();
            } else if let Some(share) = self.memory.short_share() {
                partial_uploads.give_way_of(share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use landfall_protocol::DocumentId;
    use landfall_protocol::relay::SnapshotUpload;

    use super::*;
    use crate::memory::{Class, ShareKey};
    use crate::partial_uploads::Owner;

    /// A client uploads two large snapshots and disconnects. They must not delay the message of a connected
    /// client, which would wait forever.
    #[test]
    fn abandoned_uploads_are_evicted_for_any_reservation() {
        let memory = Memory::new(256 << 20);
        let (rings, partial_uploads) =
            (Rings::new(memory.clone()), Arc::new(PartialUploads::default()));
        let total = 64_usize << 20;
        for number in 1..=2 {
            let grant = memory.account(ShareKey::Session(number)).try_reserve(Class::Upload, total);
            let (document, hash) = (DocumentId::from_bytes([number as u8; 16]), [7; 32]);
            let (id, subscription, heads) = (1, 0, [].into());
            let total = total as u64;
            let upload = SnapshotUpload { id, subscription, document, hash, total, heads };
            let (share, space) = (ShareKey::Session(number), "s".parse().unwrap());
            drop(partial_uploads.begin(Owner::of(share), &space, &upload, grant.unwrap()));
        }
        let account = memory.account(ShareKey::Session(3));
        let mut message = pin!(account.reserve(Class::Incoming, 2 * total));
        let mut gives = pin!(rings.give_way(&partial_uploads));
        let mut context = Context::from_waker(Waker::noop());
        assert!(message.as_mut().poll(&mut context).is_pending());
        assert!(gives.as_mut().poll(&mut context).is_pending());
        assert!(message.as_mut().poll(&mut context).is_ready(), "it waits forever");
        assert_eq!(memory.used(Class::Upload), total, "more uploads were evicted than needed");
    }

    /// A large message waits while a session holds two uploads. The session withdraws them by ending their
    /// subscription, and stays: no session sends them any more, and no other event occurs.
    #[test]
    fn withdrawn_uploads_are_evicted_for_waiting_reservations() {
        let memory = Memory::new(256 << 20);
        let (rings, partial_uploads) =
            (Rings::new(memory.clone()), Arc::new(PartialUploads::default()));
        let total = 64_usize << 20;
        // The accounts stay open: the sessions continue.
        let holders = [1, 2].map(|number| memory.account(ShareKey::Session(number)));
        let mut sending = Vec::new();
        for (number, holder) in (1..).zip(&holders) {
            let grant = holder.try_reserve(Class::Upload, total);
            let (document, hash) = (DocumentId::from_bytes([number; 16]), [7; 32]);
            let (id, subscription, heads) = (1, 0, [].into());
            let total = total as u64;
            let upload = SnapshotUpload { id, subscription, document, hash, total, heads };
            let share = ShareKey::Session(number.into());
            sending.push(partial_uploads.begin(
                Owner::of(share),
                &"s".parse().unwrap(),
                &upload,
                grant.unwrap(),
            ));
        }
        let account = memory.account(ShareKey::Session(3));
        let mut message = pin!(account.reserve(Class::Incoming, 2 * total));
        let mut gives = pin!(rings.give_way(&partial_uploads));
        let mut context = Context::from_waker(Waker::noop());
        assert!(message.as_mut().poll(&mut context).is_pending());
        assert!(gives.as_mut().poll(&mut context).is_pending());
        drop(sending);
        assert!(gives.as_mut().poll(&mut context).is_pending());
        assert!(
            message.as_mut().poll(&mut context).is_ready(),
            "it waits until another event occurs"
        );
    }

    /// An upload waits for its own session's other one. Evicting abandoned uploads of others would not help.
    #[test]
    fn an_upload_that_waits_for_its_own_session_evicts_no_others() {
        let memory = Memory::new(256 << 20);
        let (rings, partial_uploads) =
            (Rings::new(memory.clone()), Arc::new(PartialUploads::default()));
        let phone = memory.account(ShareKey::Session(1));
        let grant = phone.try_reserve(Class::Upload, 10 << 20).unwrap();
        let (document, hash, heads) = (DocumentId::from_bytes([1; 16]), [7; 32], [].into());
        let upload =
            SnapshotUpload { id: 1, subscription: 0, document, hash, total: 10 << 20, heads };
        let space = "s".parse().unwrap();
        drop(partial_uploads.begin(Owner::of(phone.share()), &space, &upload, grant));
        let other = memory.account(ShareKey::Session(2));
        let _held = other.try_reserve(Class::Upload, 64 << 20).unwrap();
        let mut waits = pin!(other.reserve(Class::Upload, 32 << 20));
        let mut gives = pin!(rings.give_way(&partial_uploads));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        assert!(gives.as_mut().poll(&mut context).is_pending());
        assert!(
            partial_uploads.resume(Owner::of(phone.share()), &space, &upload).is_some(),
            "the phone's partial upload was evicted"
        );
    }
}
