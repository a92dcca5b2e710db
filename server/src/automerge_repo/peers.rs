//! Which session has which peer id, in each space. A client that reconnects under its peer id, before its
//! old connection is found dead, takes the id over.

use std::collections::HashMap;
use std::sync::Arc;

use landfall_protocol::{SessionId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The peer ids in use.
#[derive(Default)]
pub(super) struct Peers {
    state: Mutex<PeerNames>,
}

#[derive(Default)]
struct PeerNames {
    names: HashMap<(SpaceName, String), (SessionId, Arc<Notify>)>,
    by_session: HashMap<SessionId, String>,
}

impl Peers {
    /// Assigns the peer id to this session, and notifies the session that had it.
    pub(super) fn join(&self, space: &SpaceName, name: &str, id: SessionId, replaced: Arc<Notify>) {
        let mut state = self.state.lock();
        state.free(space, id);
        let key = (space.clone(), name.to_owned());
        if let Some((_, before)) = state.names.insert(key, (id, replaced)) {
            before.notify_one();
        }
        state.by_session.insert(id, name.to_owned());
    }

    /// Removes a session that has ended.
    pub(super) fn leave(&self, space: &SpaceName, id: SessionId) {
        self.state.lock().free(space, id);
    }
}

impl PeerNames {
    fn free(&mut self, space: &SpaceName, id: SessionId) {
        let Some(name) = self.by_session.remove(&id) else { return };
        let key = (space.clone(), name);
        if self.names.get(&key).is_some_and(|(holder, _)| *holder == id) {
            self.names.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_id_belongs_to_the_latest_connection() {
        let (peers, space) = (Peers::default(), "s".parse::<SpaceName>().unwrap());
        let replaced = [Arc::<Notify>::default(), Arc::default(), Arc::default()];
        let join = |id: usize, name: &str| {
            peers.join(&space, name, SessionId(id as u64), Arc::clone(&replaced[id]));
        };
        join(0, "alice");
        join(1, "alice");
        replaced[0].notified().await;
        peers.leave(&space, SessionId(0));
        join(2, "alice");
        replaced[1].notified().await;
        // A session with another peer id is not notified.
        join(2, "bob");
        peers.leave(&space, SessionId(2));
        assert!(peers.state.lock().names.is_empty());
    }
}
