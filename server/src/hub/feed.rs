//! What sessions read of a space: its ring of live entries and where its log ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use landfall_protocol::frame::{EncodedEntry, SubscriptionId};
use landfall_protocol::ring::{Page, Ring};
use landfall_protocol::{Epoch, Offset, SessionId, SpaceName};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use crate::limits;

/// The subscriptions of one session whose logs have grown since it looked. A session with thousands
/// of subscriptions looks at these only.
#[derive(Default)]
pub(crate) struct Grown {
    subscriptions: Mutex<BTreeSet<SubscriptionId>>,
    told: Notify,
}

impl Grown {
    fn add(&self, subscription: SubscriptionId) {
        self.subscriptions.lock().insert(subscription);
        self.told.notify_one();
    }

    /// Waits until there is one.
    pub(crate) async fn notified(&self) {
        self.told.notified().await;
    }

    /// Those that have grown.
    pub(crate) fn take(&self) -> BTreeSet<SubscriptionId> {
        std::mem::take(&mut *self.subscriptions.lock())
    }
}

/// One space's live end, written by the hub and read by sessions.
pub(crate) struct Feed {
    /// The space.
    pub(crate) space: SpaceName,
    /// The last durable offset, so that a session that is up to date need not lock.
    head: AtomicU64,
    live: Mutex<Live>,
    /// Bytes in the rings of all spaces.
    all_rings: Gauge,
}

struct Live {
    ring: Ring,
    /// When the head became durable.
    since: Instant,
    /// Whom to wake. A session stands here once for each of its subscriptions.
    readers: HashMap<(SessionId, SubscriptionId), Arc<Grown>>,
}

impl Feed {
    pub(super) fn new(space: SpaceName, head: Offset, ring_bytes: usize, all_rings: Gauge) -> Self {
        let ring = Ring::new(head, ring_bytes);
        let live = Live { ring, since: Instant::now(), readers: HashMap::new() };
        Self { space, head: AtomicU64::new(head.0), live: Mutex::new(live), all_rings }
    }

    /// The last durable offset.
    pub(crate) fn head(&self) -> Offset {
        Offset(self.head.load(Ordering::Acquire))
    }

    /// The next page after a position, if it is in the ring.
    pub(crate) fn page(&self, after: Offset) -> Option<Page> {
        self.live.lock().ring.page(after)
    }

    /// How long the log has ended where it ends; `None` if it ends elsewhere by now.
    pub(crate) fn age_of(&self, head: Offset) -> Option<Duration> {
        let live = self.live.lock();
        (live.ring.head() == head).then(|| live.since.elapsed())
    }

    pub(super) fn publish(&self, epoch: Epoch, entries: Vec<Arc<EncodedEntry>>) {
        let mut live = self.live.lock();
        let before = live.ring.bytes();
        live.ring.publish(epoch, entries);
        let others = self.all_rings.get() - before as i64;
        if others + live.ring.bytes() as i64 > limits::RINGS_BYTES as i64 {
            // Whoever has not read it yet reads it from the store.
            let head = live.ring.head();
            live.ring.forget_through(head);
        }
        self.all_rings.inc_by(live.ring.bytes() as i64 - before as i64);
        live.since = Instant::now();
        self.head.store(live.ring.head().0, Ordering::Release);
        live.readers.iter().for_each(|((_, subscription), reader)| reader.add(*subscription));
    }

    /// What lies at or before this offset was folded.
    pub(super) fn forget_through(&self, offset: Offset) {
        let mut live = self.live.lock();
        let before = live.ring.bytes();
        live.ring.forget_through(offset);
        self.all_rings.dec_by(before as i64 - live.ring.bytes() as i64);
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
        self.all_rings.dec_by(self.live.get_mut().ring.bytes() as i64);
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::DocumentId;
    use landfall_protocol::frame::Entry;

    use super::*;

    #[test]
    fn all_rings_together_keep_to_their_budget() {
        let all = Gauge::default();
        let entry = |offset| {
            let document = DocumentId::from_bytes([1; 16]);
            let author = vec![0; 64 * 1024];
            Arc::new(EncodedEntry::new(&Entry::of_tombstone(Offset(offset), document, &author, 0)))
        };
        let feed = |name: &str| {
            Feed::new(name.parse().unwrap(), Offset(0), limits::RINGS_BYTES, all.clone())
        };
        let (first, second) = (feed("first"), feed("second"));
        let half = limits::RINGS_BYTES as u64 / (64 * 1024) / 2;
        let epoch = Epoch::from_bytes([1; 16]);
        first.publish(epoch, (1..=half + 8).map(entry).collect());
        assert!(first.page(Offset(0)).is_some());
        second.publish(epoch, (1..=half + 8).map(entry).collect());
        assert!(second.page(Offset(0)).is_none(), "it kept what there is no room for");
        assert!(all.get() <= limits::RINGS_BYTES as i64);
        drop((first, second));
        assert_eq!(all.get(), 0);
    }
}
