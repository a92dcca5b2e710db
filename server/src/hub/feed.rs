//! What sessions read of a space: its ring of live entries and where its log ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use landfall_protocol::frame::{EncodedEntry, SubscriptionId};
use landfall_protocol::ring::{Page, Ring};
use landfall_protocol::{Epoch, Offset, SessionId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// One space's live end, written by the hub and read by sessions.
pub(crate) struct Feed {
    /// The space.
    pub(crate) space: SpaceName,
    /// The last durable offset, so that a session that is up to date need not lock.
    head: AtomicU64,
    live: Mutex<Live>,
}

struct Live {
    ring: Ring,
    /// When the head became durable.
    since: Instant,
    /// Whom to wake. A session stands here once for each of its subscriptions.
    readers: HashMap<(SessionId, SubscriptionId), Arc<Notify>>,
}

impl Feed {
    pub(super) fn new(space: SpaceName, head: Offset, ring_bytes: usize) -> Self {
        let ring = Ring::new(head, ring_bytes);
        let live = Live { ring, since: Instant::now(), readers: HashMap::new() };
        Self { space, head: AtomicU64::new(head.0), live: Mutex::new(live) }
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
        live.ring.publish(epoch, entries);
        live.since = Instant::now();
        self.head.store(live.ring.head().0, Ordering::Release);
        live.readers.values().for_each(|reader| reader.notify_one());
    }

    /// What lies at or before this offset was folded.
    pub(super) fn forget_through(&self, offset: Offset) {
        self.live.lock().ring.forget_through(offset);
    }

    pub(super) fn attach(
        &self,
        session: SessionId,
        subscription: SubscriptionId,
        wake: Arc<Notify>,
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
