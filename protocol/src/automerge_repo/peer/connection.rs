//! The connection: the handshake, and the peer's silence.

use super::{Peer, PeerEffect, Remote};
use crate::automerge_repo::message::{Message, PeerMetadata, VERSION};
use crate::code::Code;
use crate::ephemeral::is_replica;
use crate::moment::Moment;

impl Peer {
    pub(super) fn handle_join(
        &mut self,
        sender: &str,
        metadata: PeerMetadata<'_>,
        versions: Option<Vec<&str>>,
    ) {
        if versions.is_some_and(|versions| !versions.contains(&VERSION)) {
            let what = "this relay supports version 1 of the automerge-repo protocol only";
            return self.turn_away(sender, Code::UNSUPPORTED_VERSION, what);
        }
        if sender == self.host.peer_id || is_replica(sender) {
            let what = "the peer id is the relay's own, or that of an engine; use another";
            return self.turn_away(sender, Code::FORBIDDEN, what);
        }
        // A second `join` resets the session. Answers to requests from before are dropped.
        self.joined += 1;
        self.forget();
        let lasting = metadata.storage_id.filter(|_| !metadata.is_ephemeral);
        let remote = Remote { peer_id: sender.to_owned(), storage_id: lasting.map(str::to_owned) };
        self.effects.push_back(PeerEffect::Joined(remote.clone()));
        self.remote = Some(remote);
        let metadata =
            PeerMetadata { storage_id: Some(&self.host.storage_id), is_ephemeral: false };
        let peer = Message::Peer {
            sender: &self.host.peer_id,
            target: sender,
            metadata,
            version: VERSION,
        };
        let peer = peer.encode();
        self.effects.push_back(PeerEffect::Send(peer));
    }

    /// Sends the reason why a client may not join, and ends the session.
    fn turn_away(&mut self, sender: &str, code: Code, what: &str) {
        let error = Message::Error { message: what, sender: &self.host.peer_id, target: sender };
        let error = error.encode();
        self.effects.push_back(PeerEffect::Send(error));
        self.fail(code, what.to_owned());
    }

    /// Some bytes arrived from the peer, of any kind.
    pub fn handle_sign_of_life(&mut self, now: Moment) {
        self.handle_clock(now);
        self.last_received = self.last_received.max(now);
        self.pinged = false;
    }

    /// When to call [`Peer::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Moment {
        let silence = match (&self.remote, self.pinged) {
            (None, _) => self.began.after(self.patience.handshake),
            (_, false) => self.last_received.after(self.patience.ping_after),
            (_, true) => self.last_received.after(self.patience.drop_after),
        };
        let request = self.requests.front().map_or(silence, |(request, _)| *request);
        let paced = self.paced.first().map_or(silence, |(paced, _)| *paced);
        silence.min(request).min(paced)
    }

    /// The slowest supported link would have delivered what was sent by `until`: the peer's silence
    /// counts from there.
    pub fn handle_delivered(&mut self, until: Moment) {
        self.delivered = self.delivered.max(until);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.handle_clock(now);
        while self.paced.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, id)) = self.paced.pop_first() else { break };
            self.touched.insert(id);
        }
        while self.requests.front().is_some_and(|(deadline, _)| *deadline <= now) {
            let Some((_, id)) = self.requests.pop_front() else { break };
            let Some(document) = self.documents.get_mut(&id) else { continue };
            if document.give_up_request() {
                let name = document.name().to_owned();
                self.send_unavailable(&name);
            }
        }
        if self.remote.is_none() {
            if self.began.after(self.patience.handshake) <= now {
                self.fail(Code::SILENT, "the client sent no `join`".to_owned());
            }
            return;
        }
        self.last_received = self.last_received.max(self.delivered.min(now));
        let silent = now.since(self.last_received);
        if silent >= self.patience.drop_after {
            self.fail(Code::SILENT, "the peer was silent for too long".to_owned());
        } else if silent >= self.patience.ping_after && !self.pinged {
            self.pinged = true;
            self.effects.push_back(PeerEffect::Ping);
        }
    }
}
