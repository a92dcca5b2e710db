//! Remote heads: the heads that documents have in peers' storages, the sessions subscribed to each storage,
//! and the latest heads of each. Kept in memory only: every client sends its heads again when it connects.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use landfall_protocol::automerge_repo::peer::HeadsUpdate;
use landfall_protocol::{DocumentId, Moment, SessionId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::budgets::Budgets;
use crate::clock::now_ms;
use crate::limits;
use crate::memory::ShareKey;

/// Remote heads as a session receives them.
pub(super) type HeadsDelivery = Arc<HeadsUpdate>;

/// The sending end of a session's queue. When the queue is full, new items are dropped: the next ones of
/// the storage replace them.
#[derive(Debug, Clone)]
pub(super) struct HeadsSender {
    sender: mpsc::Sender<HeadsDelivery>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
}

/// The receiving end, which the session has.
pub(super) struct HeadsReceiver {
    receiver: mpsc::Receiver<HeadsDelivery>,
    waiting: Arc<AtomicUsize>,
}

/// Both ends.
pub(super) fn listener() -> (HeadsSender, HeadsReceiver) {
    let (sender, receiver) = mpsc::channel(limits::REPO_REMOTE_HEADS_WAITING);
    let waiting = Arc::<AtomicUsize>::default();
    (HeadsSender { sender, waiting: Arc::clone(&waiting) }, HeadsReceiver { receiver, waiting })
}

impl HeadsSender {
    fn publish(&self, update: &HeadsDelivery) {
        let bytes = weight(update);
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let has_room = before + bytes <= limits::REPO_REMOTE_HEADS_WAITING_BYTES;
        if !has_room || self.sender.try_send(Arc::clone(update)).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl HeadsReceiver {
    /// The next item.
    pub(super) async fn recv(&mut self) -> Option<HeadsDelivery> {
        let update = self.receiver.recv().await?;
        self.waiting.fetch_sub(weight(&update), Ordering::Relaxed);
        Some(update)
    }
}

/// The subscribers, and the known remote heads.
pub(super) struct RemoteHeadsTable {
    state: Mutex<State>,
    /// The budgets of addresses, each shared by all sessions of its address: bytes, charged once for each
    /// recipient.
    budgets: Mutex<Budgets>,
    /// The zero of the budgets' clock.
    start: Instant,
}

impl Default for RemoteHeadsTable {
    fn default() -> Self {
        let (rate, burst) = (limits::SHARE_EPHEMERAL_RATE, limits::SHARE_EPHEMERAL_BURST);
        let budgets = Mutex::new(Budgets::new(rate, burst));
        Self { state: Mutex::default(), budgets, start: Instant::now() }
    }
}

type Storage = (SpaceName, String);

#[derive(Default)]
struct State {
    listeners: HashMap<Storage, HashMap<SessionId, HeadsSender>>,
    subscriptions: HashMap<SessionId, BTreeSet<String>>,
    known: HashMap<Storage, HashMap<DocumentId, HeadsDelivery>>,
    /// The known heads, oldest first.
    order: VecDeque<(Storage, DocumentId)>,
    /// Their bytes.
    bytes: usize,
}

impl RemoteHeadsTable {
    /// Subscribes a session to storages: it receives the known heads, and every change.
    pub(super) fn subscribe(
        &self,
        space: &SpaceName,
        id: SessionId,
        storages: Vec<String>,
        listener: &HeadsSender,
    ) {
        let mut state = self.state.lock();
        for storage in storages {
            let key = (space.clone(), storage.clone());
            for known in state.known.get(&key).into_iter().flat_map(HashMap::values) {
                listener.publish(known);
            }
            state.listeners.entry(key).or_default().insert(id, listener.clone());
            state.subscriptions.entry(id).or_default().insert(storage);
        }
    }

    /// Ends a session's subscriptions to storages.
    pub(super) fn unsubscribe(&self, space: &SpaceName, id: SessionId, storages: Vec<String>) {
        let mut state = self.state.lock();
        for storage in storages {
            if let Some(subscriptions) = state.subscriptions.get_mut(&id) {
                subscriptions.remove(&storage);
                if subscriptions.is_empty() {
                    state.subscriptions.remove(&id);
                }
            }
            state.forget(&(space.clone(), storage), id);
        }
    }

    /// Publishes a session's report of a document's heads in a storage. Drops it if it is too large or if
    /// its address exceeds its budget.
    pub(super) fn publish(
        &self,
        space: &SpaceName,
        (from, share): (SessionId, ShareKey),
        mut update: HeadsUpdate,
    ) {
        let weight = weight(&update);
        let moment = Moment(self.start.elapsed());
        // Checked before any look-up, so that a dropped report costs no more than its read.
        if weight > limits::REPO_REMOTE_HEADS_EACH_BYTES
            || !self.budgets.lock().wait(share, moment).is_zero()
        {
            return;
        }
        let now = now_ms() as f64;
        // Clamp to our clock: a timestamp in the future would suppress all reports until then.
        let timestamp = update.timestamp_ms.unwrap_or(now).min(now);
        update.timestamp_ms = Some(timestamp);
        let (key, document) = ((space.clone(), update.storage_id.clone()), update.document);
        let mut state = self.state.lock();
        let known = state.known.get(&key).and_then(|known| known.get(&document));
        let known = known.and_then(|known| known.timestamp_ms);
        // A known timestamp in the future was accepted before our clock was set back: it does not count as
        // newer.
        if known.is_some_and(|known| known >= timestamp && known <= now) {
            drop(state);
            return self.budgets.lock().spend(share, moment, weight as u64);
        }
        let update = Arc::new(update);
        let mut count = 1;
        for (id, listener) in state.listeners.get(&key).into_iter().flatten() {
            if *id != from {
                listener.publish(&update);
                count += 1;
            }
        }
        state.keep(key, update, weight);
        drop(state);
        self.budgets.lock().spend(share, moment, (count * weight) as u64);
    }

    /// Ends all subscriptions of a session.
    pub(super) fn leave(&self, space: &SpaceName, id: SessionId) {
        let mut state = self.state.lock();
        for storage in state.subscriptions.remove(&id).unwrap_or_default() {
            state.forget(&(space.clone(), storage), id);
        }
    }
}

impl State {
    /// Removes a session from a storage's subscribers.
    fn forget(&mut self, key: &Storage, id: SessionId) {
        if let Some(listeners) = self.listeners.get_mut(key) {
            listeners.remove(&id);
            if listeners.is_empty() {
                self.listeners.remove(key);
            }
        }
    }

    /// Stores heads for later subscribers, and evicts the oldest ones to make room.
    fn keep(&mut self, key: Storage, update: HeadsDelivery, bytes: usize) {
        self.bytes += bytes;
        let document = update.document;
        let known = self.known.entry(key.clone()).or_default();
        match known.insert(document, update) {
            Some(before) => self.bytes -= weight(&before),
            None => self.order.push_back((key, document)),
        }
        while self.order.len() > limits::REPO_REMOTE_HEADS
            || self.bytes > limits::REPO_REMOTE_HEADS_BYTES
        {
            let Some((key, document)) = self.order.pop_front() else { return };
            let Some(known) = self.known.get_mut(&key) else { continue };
            self.bytes -= known.remove(&document).map_or(0, |update| weight(&update));
            if known.is_empty() {
                self.known.remove(&key);
            }
        }
    }
}

/// Approximate bytes of remote heads in memory.
fn weight(update: &HeadsUpdate) -> usize {
    let heads = update.heads.iter().map(|head| head.len() + size_of::<String>());
    size_of::<HeadsUpdate>() + update.storage_id.len() + heads.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(timestamp_ms: f64) -> HeadsUpdate {
        let document = DocumentId::from_bytes([1; 16]);
        let heads = vec![timestamp_ms.to_string()];
        HeadsUpdate { document, storage_id: "s".into(), heads, timestamp_ms: Some(timestamp_ms) }
    }

    fn next(hears: &mut HeadsReceiver) -> Result<HeadsDelivery, ()> {
        futures_util::FutureExt::now_or_never(hears.recv()).flatten().ok_or(())
    }

    /// A session of an address of its own.
    fn from(id: u64) -> (SessionId, ShareKey) {
        (SessionId(id), ShareKey::Session(id))
    }

    #[test]
    fn newer_heads_reach_their_subscribers() {
        let (remote_heads, space) =
            (RemoteHeadsTable::default(), "space".parse::<SpaceName>().unwrap());
        let (sender, mut receiver) = listener();
        let id = SessionId;
        remote_heads.publish(&space, from(1), update(1.0));
        remote_heads.subscribe(&space, id(2), vec!["s".into()], &sender);
        assert_eq!(next(&mut receiver).unwrap().heads, ["1"]);
        remote_heads.publish(&space, from(1), update(3.0));
        remote_heads.publish(&space, from(1), update(2.0));
        remote_heads.publish(&space, from(2), update(4.0));
        remote_heads.publish(&"other".parse().unwrap(), from(1), update(5.0));
        assert_eq!(next(&mut receiver).unwrap().heads, ["3"]);
        assert!(next(&mut receiver).is_err());
        remote_heads.leave(&space, id(2));
        remote_heads.publish(&space, from(1), update(6.0));
        assert!(next(&mut receiver).is_err());
        assert!(remote_heads.state.lock().listeners.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let (remote_heads, space) =
            (RemoteHeadsTable::default(), "space".parse::<SpaceName>().unwrap());
        let publish = |number: u128, heads: usize| {
            let document = DocumentId::from_bytes(number.to_le_bytes());
            let heads = vec!["x".repeat(60); heads];
            // Spread over several addresses, so that none exceeds its budget.
            let from = from((number % 8) as u64);
            remote_heads.publish(&space, from, HeadsUpdate { document, heads, ..update(1.0) });
        };
        (0..=limits::REPO_REMOTE_HEADS as u128).for_each(|number| publish(number, 1));
        assert_eq!(remote_heads.state.lock().order.len(), limits::REPO_REMOTE_HEADS);
        // The byte limits too: many heads in each, and one document with too many.
        (0..=limits::REPO_REMOTE_HEADS as u128).for_each(|number| publish(number + 100_000, 40));
        publish(7, 1_024);
        let state = remote_heads.state.lock();
        let all = || state.known.values().flat_map(HashMap::values);
        assert_eq!(state.bytes, all().map(|update| weight(update)).sum::<usize>());
        assert_eq!(state.order.len(), all().count());
        assert!(
            state.bytes <= limits::REPO_REMOTE_HEADS_BYTES && all().all(|n| n.heads.len() == 40)
        );
    }

    #[test]
    fn a_report_from_the_future_does_not_suppress_later_ones() {
        let (remote_heads, space) =
            (RemoteHeadsTable::default(), "space".parse::<SpaceName>().unwrap());
        let (sender, mut receiver) = listener();
        remote_heads.subscribe(&space, SessionId(2), vec!["s".into()], &sender);
        remote_heads.publish(&space, from(1), update(1e300));
        let message = next(&mut receiver).unwrap().timestamp_ms.unwrap();
        assert!(message <= now_ms() as f64);
    }

    /// The relay's clock was ahead when a report arrived, and is then set right.
    #[test]
    fn reports_pass_after_the_clock_is_set_back() {
        let (remote_heads, space) =
            (RemoteHeadsTable::default(), "space".parse::<SpaceName>().unwrap());
        let (sender, mut receiver) = listener();
        remote_heads.subscribe(&space, SessionId(2), vec!["s".into()], &sender);
        let ahead = now_ms() as f64 + 1e12;
        // As `publish` stored it at that moment.
        let before = Arc::new(update(ahead));
        let bytes = weight(&before);
        remote_heads.state.lock().keep((space.clone(), "s".into()), before, bytes);
        remote_heads.publish(&space, from(1), HeadsUpdate { timestamp_ms: None, ..update(1.0) });
        assert!(next(&mut receiver).is_ok(), "reports are suppressed for thirty years");
    }

    /// A client subscribes to a storage and unsubscribes from it, again and again, each time to another
    /// one.
    #[test]
    fn storages_without_subscribers_are_forgotten() {
        use landfall_protocol::Moment;
        use landfall_protocol::Patience;
        use landfall_protocol::automerge_repo::message::{Message, PeerMetadata};
        use landfall_protocol::automerge_repo::peer::{Host, Peer, PeerEffect};

        let (remote_heads, space) =
            (RemoteHeadsTable::default(), "space".parse::<SpaceName>().unwrap());
        let (sender, _receiver) = listener();
        let (relay, now) = ("relay".to_owned(), Moment::default());
        let host = Host { peer_id: relay.clone(), storage_id: "storage".to_owned() };
        let mut peer = Peer::new(host, Patience::default(), now);
        let metadata = PeerMetadata { storage_id: None, is_ephemeral: true };
        let join = Message::Join { sender: "me", metadata, versions: None };
        peer.handle_message(now, &join.encode());
        for round in 0..100 {
            let name = |number: u32| format!("{round}-{number}");
            let names: Vec<String> = (0..100).map(name).collect();
            let names = || names.iter().map(String::as_str).collect();
            for (add, remove) in [(names(), vec![]), (vec![], names())] {
                let request =
                    Message::RemoteSubscription { sender: "me", target: &relay, add, remove };
                peer.handle_message(now, &request.encode());
            }
            while let Some(effect) = peer.poll_effect() {
                match effect {
                    PeerEffect::Subscribe(storages) => {
                        remote_heads.subscribe(&space, SessionId(1), storages, &sender);
                    }
                    PeerEffect::Unsubscribe(storages) => {
                        remote_heads.unsubscribe(&space, SessionId(1), storages);
                    }
                    _ => {}
                }
            }
        }
        let state = remote_heads.state.lock();
        let (listeners, subscriptions) = (state.listeners.len(), state.subscriptions.len());
        assert_eq!(
            (listeners, subscriptions),
            (0, 0),
            "subscriptions remain after the client removed all"
        );
    }

    /// Many clients subscribe to a storage. A client of that storage reports heads as fast as it can.
    #[test]
    fn reports_of_one_session_are_paced_for_their_subscribers() {
        let (remote_heads, space) =
            (RemoteHeadsTable::default(), "space".parse::<SpaceName>().unwrap());
        let mut heard: Vec<_> = (2..102)
            .map(|id| {
                let (sender, receiver) = listener();
                remote_heads.subscribe(&space, SessionId(id), vec!["s".into()], &sender);
                receiver
            })
            .collect();
        let mut bytes = 0;
        // All at one instant, as one message may bring them.
        for number in 0..10_000_u128 {
            let document = DocumentId::from_bytes(number.to_le_bytes());
            let report = HeadsUpdate { document, heads: vec!["x".repeat(60); 40], ..update(1.0) };
            remote_heads.publish(&space, from(1), report);
            for receiver in &mut heard {
                while let Ok(update) = next(receiver) {
                    bytes += weight(&update);
                }
            }
        }
        let most = 2 * limits::SHARE_EPHEMERAL_BURST as usize;
        assert!(bytes <= most, "{} MiB of heads for {} listeners", bytes >> 20, heard.len());
    }

    /// A client subscribes to a storage and does not read.
    #[test]
    fn queued_reports_of_a_session_are_bounded_in_bytes() {
        let (remote_heads, space) =
            (RemoteHeadsTable::default(), "space".parse::<SpaceName>().unwrap());
        let (sender, mut receiver) = listener();
        remote_heads.subscribe(&space, SessionId(2), vec!["s".into()], &sender);
        for number in 0..300_u128 {
            let document = DocumentId::from_bytes(number.to_le_bytes());
            let report = HeadsUpdate { document, heads: vec!["x".repeat(60); 40], ..update(1.0) };
            remote_heads.publish(&space, from(1), report);
        }
        let mut bytes = 0;
        while let Ok(update) = next(&mut receiver) {
            bytes += weight(&update);
        }
        let most = limits::REPO_REMOTE_HEADS_WAITING_BYTES;
        assert!(bytes > most / 2 && bytes <= most, "{bytes} bytes wait for one session");
        assert_eq!(receiver.waiting.load(Ordering::Relaxed), 0);
    }
}
