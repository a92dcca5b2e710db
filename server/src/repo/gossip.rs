//! The heads that documents have in peers' storages: who wants to hear of which storage, and what
//! was heard last. Kept in memory only; every client tells its heads again when it connects.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use landfall_protocol::repo::peer::RemoteNews;
use landfall_protocol::{DocumentId, SessionId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::limits;

/// What a session is told.
pub(super) type News = RemoteNews;

/// Everybody who wants to hear, and what there is to hear.
#[derive(Default)]
pub(super) struct Gossip {
    state: Mutex<State>,
}

type Key = (SpaceName, DocumentId, String);

#[derive(Default)]
struct State {
    /// By space and storage.
    listeners: HashMap<(SpaceName, String), HashMap<SessionId, mpsc::Sender<News>>>,
    wishes: HashMap<SessionId, BTreeSet<String>>,
    known: HashMap<Key, News>,
    /// The known ones, by age.
    order: VecDeque<Key>,
}

impl Gossip {
    /// A session wants to hear of storages: it is told what is known, and of every change.
    pub(super) fn subscribe(
        &self,
        space: &SpaceName,
        id: SessionId,
        storages: Vec<String>,
        news: &mpsc::Sender<News>,
    ) {
        let mut state = self.state.lock();
        for storage in storages {
            let about = |key: &&Key| key.0 == *space && key.2 == storage;
            for key in state.known.keys().filter(about) {
                if let Some(known) = state.known.get(key) {
                    let _ = news.try_send(known.clone());
                }
            }
            let listeners = state.listeners.entry((space.clone(), storage.clone()));
            listeners.or_default().insert(id, news.clone());
            state.wishes.entry(id).or_default().insert(storage);
        }
    }

    /// A document's heads in a storage have changed, as a session says.
    pub(super) fn tell(&self, space: &SpaceName, from: SessionId, mut news: News) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = news.timestamp_ms.unwrap_or(now.as_millis() as f64);
        news.timestamp_ms = Some(timestamp);
        let mut state = self.state.lock();
        let key = (space.clone(), news.document, news.storage_id.clone());
        match state.known.get(&key) {
            Some(known) if known.timestamp_ms.is_some_and(|known| known >= timestamp) => return,
            Some(_) => {}
            None => {
                state.order.push_back(key.clone());
                if state.order.len() > limits::REPO_GOSSIP
                    && let Some(oldest) = state.order.pop_front()
                {
                    state.known.remove(&oldest);
                }
            }
        }
        let (_, document, storage) = &key;
        debug_assert_eq!(news.document, *document);
        if let Some(listeners) = state.listeners.get(&(space.clone(), storage.clone())) {
            for (_, listener) in listeners.iter().filter(|(id, _)| **id != from) {
                // What finds no room is lost; the next news of the storage says the same.
                let _ = listener.try_send(news.clone());
            }
        }
        state.known.insert(key, news);
    }

    /// A session wants to hear nothing any more.
    pub(super) fn leave(&self, space: &SpaceName, id: SessionId) {
        let mut state = self.state.lock();
        for storage in state.wishes.remove(&id).unwrap_or_default() {
            let key = (space.clone(), storage);
            if let Some(listeners) = state.listeners.get_mut(&key) {
                listeners.remove(&id);
                if listeners.is_empty() {
                    state.listeners.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(timestamp_ms: f64) -> News {
        let document = DocumentId::from_bytes([1; 16]);
        let heads = vec![timestamp_ms.to_string()];
        News { document, storage_id: "s".into(), heads, timestamp_ms: Some(timestamp_ms) }
    }

    #[test]
    fn what_is_newer_is_told_to_whoever_asked_for_it() {
        let (gossip, space) = (Gossip::default(), "space".parse::<SpaceName>().unwrap());
        let (sender, mut receiver) = mpsc::channel(8);
        let id = SessionId;
        gossip.tell(&space, id(1), news(1.0));
        gossip.subscribe(&space, id(2), vec!["s".into()], &sender);
        assert_eq!(receiver.try_recv().unwrap().heads, ["1"]);
        gossip.tell(&space, id(1), news(3.0));
        gossip.tell(&space, id(1), news(2.0));
        gossip.tell(&space, id(2), news(4.0));
        gossip.tell(&"other".parse().unwrap(), id(1), news(5.0));
        assert_eq!(receiver.try_recv().unwrap().heads, ["3"]);
        assert!(receiver.try_recv().is_err());
        gossip.leave(&space, id(2));
        gossip.tell(&space, id(1), news(6.0));
        assert!(receiver.try_recv().is_err());
        assert!(gossip.state.lock().listeners.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (gossip, space) = (Gossip::default(), "space".parse::<SpaceName>().unwrap());
        for number in 0..=limits::REPO_GOSSIP as u128 {
            let document = DocumentId::from_bytes(number.to_le_bytes());
            gossip.tell(&space, SessionId(1), News { document, ..news(1.0) });
        }
        let state = gossip.state.lock();
        assert_eq!(
            (state.known.len(), state.order.len()),
            (limits::REPO_GOSSIP, limits::REPO_GOSSIP)
        );
    }
}
