//! Remote heads: which storage has which heads of a document. The relay forwards them between
//! peers, so that a client can show what another server has without a connection to it.

use super::{Peer, PeerEffect};
use crate::automerge_repo::message::{Message, RemoteHeads};
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;

/// The heads of a document in a storage.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadsUpdate {
    /// The document.
    pub document: DocumentId,
    /// The storage.
    pub storage_id: String,
    /// The heads, each as base58check.
    pub heads: Vec<String>,
    /// When they were seen, in milliseconds since 1970; `None` for now.
    pub timestamp_ms: Option<f64>,
}

/// Bytes of a subscription to a storage's remote heads: the name is kept here, and twice in the
/// index.
fn bytes_of_subscription(storage: &str) -> usize {
    3 * storage.len() + limits::REPO_WISH_BYTES
}

impl Peer {
    pub(super) fn handle_remote_subscription(&mut self, add: &[&str], remove: &[&str]) {
        let mut old = Vec::new();
        for storage in remove {
            if self.subscribed.remove(*storage) {
                self.subscription_bytes =
                    self.subscription_bytes.saturating_sub(bytes_of_subscription(storage));
                old.push((*storage).to_owned());
            }
        }
        if !old.is_empty() {
            self.effects.push_back(PeerEffect::Unsubscribe(old));
        }
        let mut new = Vec::new();
        for storage in add {
            if self.subscribed.len() < limits::REPO_LIST
                && self.subscribed.insert((*storage).to_owned())
            {
                self.subscription_bytes += bytes_of_subscription(storage);
                new.push((*storage).to_owned());
            }
        }
        if !new.is_empty() {
            self.effects.push_back(PeerEffect::Subscribe(new));
        }
    }

    pub(super) fn handle_heads_message(&mut self, document: &str, heads: Vec<RemoteHeads<'_>>) {
        let Ok(document) = document.parse::<DocumentId>() else { return };
        for RemoteHeads { storage_id, heads, timestamp_ms } in heads {
            self.effects.push_back(PeerEffect::RemoteHeads(HeadsUpdate {
                document,
                storage_id: storage_id.to_owned(),
                heads: heads.into_iter().map(str::to_owned).collect(),
                timestamp_ms: Some(timestamp_ms),
            }));
        }
    }

    /// Reports the peer's heads to the subscribed sessions.
    pub(super) fn report_heads(&mut self, id: DocumentId) {
        let storage = self.remote.as_ref().and_then(|remote| remote.storage_id.as_ref());
        let Some((storage, document)) = storage.zip(self.documents.get_mut(&id)) else { return };
        let Some(heads) = document.negotiation.take_unreported() else { return };
        if heads.len() > limits::REPO_LIST {
            // Readers reject a longer list.
            return;
        }
        let encode = |head: &ChangeHash| bs58::encode(head.0).with_check().into_string();
        let heads = heads.iter().map(encode).collect();
        let storage_id = storage.clone();
        let update = HeadsUpdate { document: id, storage_id, heads, timestamp_ms: None };
        self.effects.push_back(PeerEffect::RemoteHeads(update));
    }

    /// The heads of a document in a storage have changed, or the peer has just subscribed to them.
    pub fn handle_remote_heads(&mut self, update: &HeadsUpdate) {
        let (Some(remote), Some(document)) = (&self.remote, self.documents.get(&update.document))
        else {
            return;
        };
        let its_own = remote.storage_id.as_ref() == Some(&update.storage_id);
        if its_own || !self.subscribed.contains(&update.storage_id) {
            return;
        }
        let message = Message::RemoteHeads {
            sender: &self.host.peer_id,
            target: &remote.peer_id,
            document: document.name(),
            heads: vec![RemoteHeads {
                storage_id: &update.storage_id,
                heads: update.heads.iter().map(String::as_str).collect(),
                timestamp_ms: update.timestamp_ms.unwrap_or_default(),
            }],
        };
        let message = message.encode();
        self.effects.push_back(PeerEffect::Send(message));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Host, Peer};
    use super::*;
    use crate::moment::Moment;
    use crate::patience::Patience;

    #[test]
    fn subscribed_storages_count_against_the_memory_budget() {
        let host = Host { peer_id: "relay".to_owned(), storage_id: "storage".to_owned() };
        let mut peer = Peer::new(host, Patience::default(), Moment::default());
        let before = peer.state_bytes();
        let name = |number: usize| format!("{number:0>500}");
        let names: Vec<String> = (0..limits::REPO_LIST).map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        peer.handle_remote_subscription(&names, &[]);
        let (counted, least) = (peer.state_bytes() - before, 500 * limits::REPO_LIST);
        assert!(counted >= least, "{counted} bytes are counted of {least}");
        peer.handle_remote_subscription(&[], &names);
        assert_eq!(peer.state_bytes(), before);
    }
}
