//! The peer's messages.

use super::document::Document;
use super::{EphemeralMessage, Peer, PeerEffect};
use crate::automerge_repo::chunks::{Carried, carried};
use crate::automerge_repo::message::{Ephemeral, Message, Sync};
use crate::automerge_repo::sync::{SyncError, SyncMessage};
use crate::code::Code;
use crate::ids::DocumentId;
use crate::limits;
use crate::moment::Moment;

impl Peer {
    /// Handles a binary message.
    pub fn handle_message(&mut self, now: Moment, bytes: &[u8]) {
        if self.ended {
            return;
        }
        self.handle_sign_of_life(now);
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.fail(error.code(), error.to_string()),
        };
        if let Message::Join { sender, metadata, versions } = message {
            return self.handle_join(sender, metadata, versions);
        }
        if self.remote.is_none() {
            let what = "a message before `join`".to_owned();
            return self.fail(Code::OUT_OF_ORDER, what);
        }
        match message {
            Message::Request(sync) => self.handle_sync(sync, true, now),
            Message::Sync(sync) => self.handle_sync(sync, false, now),
            Message::Ephemeral(ephemeral) => self.handle_ephemeral(&ephemeral),
            Message::RemoteSubscription { add, remove, .. } => {
                self.handle_remote_subscription(&add, &remove)
            }
            Message::RemoteHeads { document, heads, .. } => {
                self.handle_heads_message(document, heads)
            }
            Message::Leave { .. } => self.fail(Code::GOODBYE, String::new()),
            // The client does not have a document. The relay asks it for none.
            Message::Unavailable { .. } => {}
            Message::Error { message, .. } => {
                self.ignore(format!("the client reports an error: {message}"))
            }
            Message::Unknown { kind } => self.ignore(format!("a message of type `{kind}`")),
            Message::Join { .. } | Message::Peer { .. } => {
                self.ignore("a message that only a server sends".to_owned());
            }
        }
    }

    /// Handles a text message: the protocol has none.
    pub fn handle_text(&mut self) {
        let what = "a text message; the protocol's messages are binary".to_owned();
        self.fail(Code::MALFORMED, what);
    }

    fn handle_sync(&mut self, sync: Sync<'_>, is_request: bool, now: Moment) {
        if sync.target != self.host.peer_id || !self.is_peer(sync.sender) {
            let (sender, target) = (sync.sender, sync.target);
            return self.ignore(format!("a message from `{sender}` to `{target}`"));
        }
        let Ok(id) = sync.document.parse::<DocumentId>() else {
            // An id of another length or format: such a document cannot be in the store.
            self.ignore(format!("a document id that has not 16 bytes: `{}`", sync.document));
            return self.send_unavailable(sync.document);
        };
        let message = match SyncMessage::decode(sync.data) {
            Ok(message) => message,
            Err(error @ SyncError::TooMany { .. }) => {
                // The document has grown beyond what sync supports. The session's other documents
                // go on.
                self.ignore(format!("a message about document {id}: {error}"));
                return self.send_unavailable(sync.document);
            }
            Err(error) => return self.fail(error.code(), error.to_string()),
        };
        let carried = match carried(&message) {
            Ok(carried) => carried,
            Err(error) => return self.fail(Code::FORM, error.to_string()),
        };
        if !self.open(id, sync.document) {
            return;
        }
        let has_changes = match &carried {
            Carried::Changes(chunks) => !chunks.is_empty(),
            Carried::Whole(_) => true,
        };
        self.note_resent(id, has_changes);
        self.carry(id, carried);
        let Some(document) = self.documents.get_mut(&id) else { return };
        if document.apply_message(message, is_request) {
            self.requests.push_back((now.after(limits::REPO_REQUEST_WAIT), id));
        }
        self.advance(id);
    }

    fn is_peer(&self, sender: &str) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.peer_id == sender)
    }

    /// Adds a document to the open ones; false if there are too many.
    pub(super) fn open(&mut self, id: DocumentId, name: &str) -> bool {
        if self.documents.contains_key(&id) {
            return true;
        }
        if self.documents.len() >= limits::REPO_DOCUMENTS {
            let what = format!("more than {} open documents", limits::REPO_DOCUMENTS);
            self.fail(Code::OVERLOADED, what);
            return false;
        }
        self.documents.insert(id, Document::new(name));
        self.effects.push_back(PeerEffect::Follow(id));
        true
    }

    fn carry(&mut self, id: DocumentId, carried: Carried) {
        if self.documents.get(&id).is_some_and(|document| document.incoming.is_forbidden()) {
            return;
        }
        match carried {
            Carried::Changes(chunks) if chunks.is_empty() => {}
            Carried::Changes(chunks) => {
                self.note_check(id);
                self.effects.push_back(PeerEffect::Check(self.ticket(id), chunks));
            }
            Carried::Whole(bytes) => {
                let push = self.next_push(id, Vec::new());
                self.effects.push_back(PeerEffect::PushWhole { id: push, document: id, bytes });
            }
        }
    }

    fn handle_ephemeral(&mut self, ephemeral: &Ephemeral<'_>) {
        if !self.is_peer(ephemeral.sender) {
            // The peer forwards messages of others. The relay forwards those itself.
            return self.ignore(format!("an ephemeral message of `{}`", ephemeral.sender));
        }
        let Ok(document) = ephemeral.document.parse() else {
            return self.ignore("an ephemeral message with an invalid document id".into());
        };
        self.effects.push_back(PeerEffect::Ephemeral(EphemeralMessage {
            document,
            sender: ephemeral.sender.to_owned(),
            session: ephemeral.session.to_owned(),
            count: ephemeral.count,
            data: ephemeral.data.to_vec(),
        }));
    }
}
