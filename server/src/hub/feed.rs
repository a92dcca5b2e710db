//! A space as sessions read it: its ring of recent entries, and its log's head.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use landfall_protocol::frame::{EncodedEntry, SubscriptionId};
use landfall_protocol::relay::{Page, Ring};
use landfall_protocol::{Epoch, Offset, SessionId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::rings::Rings;

/// The subscriptions of one session whose logs have grown since its last look. A session with thousands of
/// subscriptions looks at these only.
#[derive(Default)]
pub(crate) struct Grown {
    subscriptions: Mutex<BTreeSet<SubscriptionId>>,
    changed: Notify,
}

impl Grown {
    fn add(&self, subscription: SubscriptionId) {
        self.subscriptions.lock().insert(subscription);
        self.changed.notify_one();
    }

    /// Waits until there is one.
    pub(crate) async fn notified(&self) {
        self.changed.notified().await;
    }

    /// Removes and returns them.
    pub(crate) fn take(&self) -> BTreeSet<SubscriptionId> {
        std::mem::take(&mut *self.subscriptions.lock())
    }
}

/// One space's live end, written by the hub and read by sessions.
pub(crate) struct Feed {
    /// The space.
    pub(crate) space: SpaceName,
    /// The last durable offset, readable without the lock by sessions that are up to date.
    head: AtomicU64,
    live: Mutex<Live>,
    rings: Arc<Rings>,
}

struct Live {
    ring: Ring,
    /// Its position among the rings: the least recently written ring is evicted first.
    turn: u64,
    /// When the head became durable.
    since: Instant,
    /// The sessions to wake: one entry for each subscription.
    readers: HashMap<(SessionId, SubscriptionId), Arc<Grown>>,
}

impl Feed {
    pub(super) fn new(
        space: SpaceName,
        head: Offset,
        ring_bytes: usize,
        rings: Arc<Rings>,
    ) -> Arc<Self> {
        let ring = Ring::new(head, ring_bytes);
        let live = Live { ring, turn: 0, since: Instant::now(), readers: HashMap::new() };
        Arc::new(Self { space, head: AtomicU64::new(head.0), live: Mutex::new(live), rings })
    }

    /// The last durable offset.
    pub(crate) fn head(&self) -> Offset {
        Offset(self.head.load(Ordering::Acquire))
    }

    /// The next page after a position, if it is in the ring.
    pub(crate) fn page(&self, after: Offset) -> Option<Page> {
        self.live.lock().ring.page(after)
    }

    /// How long the log's head has been `head`; `None` if the head has moved.
    pub(crate) fn age_of(&self, head: Offset) -> Option<Duration> {
        let live = self.live.lock();
        (live.ring.head() == head).then(|| live.since.elapsed())
    }

    pub(super) fn publish(self: &Arc<Self>, epoch: Epoch, entries: Vec<Arc<EncodedEntry>>) {
        {
            let mut live = self.live.lock();
            let before = live.ring.bytes();
            live.ring.publish(epoch, entries);
            live.turn = self.rings.written(live.turn, self, before, live.ring.bytes());
            live.since = Instant::now();
            self.head.store(live.ring.head().0, Ordering::Release);
            live.readers.iter().for_each(|((_, subscription), reader)| reader.add(*subscription));
        }
        // No ring may be locked here: this evicts other rings, or this one.
        self.rings.shrink();
    }

    /// Drops the entries up to this offset: they were compacted.
    pub(super) fn forget_through(&self, offset: Offset) {
        self.forget(|_| offset);
    }

    /// Evicts the ring: sessions that have not read it yet read from the store.
    pub(super) fn clear(&self) {
        self.forget(Ring::head);
    }

    fn forget(&self, through: impl FnOnce(&Ring) -> Offset) {
        let mut live = self.live.lock();
        let before = live.ring.bytes();
        let through = through(&live.ring);
        live.ring.forget_through(through);
        self.rings.forgot(live.turn, before, live.ring.bytes());
    }

    pub(super) fn attach(
        &self,
        session: SessionId,
        subscription: SubscriptionId,
        wake: Arc<Grown>,
    ) {
        self.live.lock().readers.insert((session, subscription), wake);
    }

    pub(super) fn detach(&self, session: SessionId, subscription: SubscriptionId) {
        self.live.lock().readers.remove(&(session, subscription));
    }

    pub(super) fn is_read(&self) -> bool {
        !self.live.lock().readers.is_empty()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let live = self.live.get_mut();
        self.rings.forgot(live.turn, live.ring.bytes(), 0);
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::DocumentId;
    use landfall_protocol::frame::Entry;

    use super::*;
    use crate::memory::{Class, Memory, ShareKey};

    fn entry(offset: u64) -> Arc<EncodedEntry> {
        let document = DocumentId::from_bytes([1; 16]);
        let author = vec![0; 64 * 1024];
        Arc::new(EncodedEntry::new(&Entry::of_tombstone(Offset(offset), document, &author, 0)))
    }

    #[test]
    fn the_least_recently_written_ring_is_evicted() {
        let memory = Memory::new(0);
        let limit = memory.cache_room();
        let rings = Rings::new(memory.clone());
        let feed =
            |name: &str| Feed::new(name.parse().unwrap(), Offset(0), limit, Arc::clone(&rings));
        let (first, second, third) = (feed("first"), feed("second"), feed("third"));
        let part = limit as u64 / (64 * 1024) * 2 / 5;
        let epoch = Epoch::from_bytes([1; 16]);
        for (feed, count) in [(&first, part), (&second, part), (&first, 1), (&third, part)] {
            let head = feed.head().0;
            feed.publish(epoch, (head + 1..=head + count).map(entry).collect());
        }
        let has = |feed: &Feed| feed.page(Offset(0)).is_some();
        assert_eq!((has(&first), has(&second), has(&third)), (true, false, true));
        assert!(memory.cached() <= limit && memory.cached() > limit / 2);
        // Sessions' memory evicts all rings.
        let account = memory.account(ShareKey::Session(1));
        let _held = account.take(Class::Answer, memory.limit());
        rings.shrink();
        assert_eq!((has(&first), has(&third), memory.cached()), (false, false, 0));
        first.publish(epoch, vec![entry(first.head().0 + 1)]);
        assert_eq!(memory.cached(), 0, "the ring kept an entry without memory for it");
        drop((first, second, third));
        assert_eq!(memory.cached(), 0);
    }
}
