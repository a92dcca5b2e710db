//! Performs the decisions of a session's machine: messages to send, checks and pushes to queue, documents to
//! follow.

use std::sync::Arc;

use landfall_protocol::automerge_repo::peer::{
    EphemeralMessage, HeadsUpdate, MemoryAnswer, PeerEffect, Remote,
};
use landfall_protocol::{Code, DocumentId};
use tracing::{Span, debug, info, warn};

use super::RepoDriver;
use super::sync_answers::{SyncAnswers, SyncReader};
use crate::connection::bindings::InUse;
use crate::fan_out::Broadcast;
use crate::limits;
use crate::memory::Class;

impl RepoDriver {
    /// The machine's next effect. Deliveries become messages only while the peer reads, and only if there is
    /// memory for them.
    pub(super) fn next_effect(&mut self) -> Option<PeerEffect> {
        let (peer_reads, account, grant) =
            (self.peer_reads(), &self.connection.account, &mut self.answer_grant);
        self.machine.poll_effect_within(|bytes| {
            if !peer_reads {
                return MemoryAnswer::Later;
            }
            // Twice: as it is encoded, and in the socket's buffer; with its envelope.
            let needs = 2 * (bytes + limits::SOCKET_BUFFER_BYTES / 2);
            *grant = (bytes > limits::SOCKET_BUFFER_BYTES / 2)
                .then(|| account.try_reserve(Class::Answer, needs))
                .flatten();
            match grant.is_some() || bytes <= limits::SOCKET_BUFFER_BYTES / 2 {
                true => MemoryAnswer::There,
                false => MemoryAnswer::NotNow,
            }
        })
    }

    fn send(&mut self, message: Vec<u8>) {
        let mut grant = self.answer_grant.take();
        if grant.is_none() && message.len() > limits::SOCKET_BUFFER_BYTES {
            grant = self.connection.account.try_reserve(Class::Answer, 2 * message.len());
            if grant.is_none() {
                let what = "the relay has no memory for its answer".to_owned();
                return self.machine.fail(Code::OVERLOADED, what);
            }
        }
        self.outbox.push(message, grant);
    }

    /// Performs an effect of the machine.
    pub(super) fn perform_effect(&mut self, effect: PeerEffect) {
        match effect {
            PeerEffect::Send(message) => self.send(message),
            PeerEffect::Ping => self.outbox.push_ping(),
            PeerEffect::Joined(remote) => self.join(&remote),
            // Nothing is delivered of a document that the client may not read.
            PeerEffect::Follow(document) if !self.access.reads(&document) => {}
            PeerEffect::Follow(document) => {
                self.shared.relay.fan_out.subscribe(&self.space, document, &self.mailbox);
                self.shared.relay.repairs.document_opened(&self.space, &document);
            }
            PeerEffect::Check(ticket, chunks) => self.push_queue.check(ticket, chunks),
            PeerEffect::Push(push) => self.push_queue.push(push),
            PeerEffect::PushWhole { id, document, bytes } => {
                self.push_queue.push_whole(id, document, bytes);
            }
            PeerEffect::Plan(ticket, request) => self.sync_answers.ask(ticket, request),
            PeerEffect::Ephemeral(message) if !self.access.writes(&message.document) => {
                debug!(document = %message.document, "an ephemeral message without the right to write");
            }
            PeerEffect::Ephemeral(message) => self.publish(message),
            PeerEffect::Subscribe(storages) => {
                let (space, sender) = (&self.space, &self.remote_heads_in);
                self.shared.remote_heads.subscribe(space, self.connection.id, storages, sender);
            }
            PeerEffect::Unsubscribe(storages) => {
                self.shared.remote_heads.unsubscribe(&self.space, self.connection.id, storages);
            }
            PeerEffect::RemoteHeads(update) if !self.may_report(&update) => {}
            PeerEffect::RemoteHeads(update) => {
                let from = (self.connection.id, self.connection.account.share());
                self.shared.remote_heads.publish(&self.space, from, update);
            }
            PeerEffect::Resent { document, brought } => self.resent(document, brought),
            PeerEffect::Refused { document, code, changes, what } => {
                self.shared.relay.metrics.rejected(code);
                self.refusals = self.refusals.saturating_add(1);
                match self.refusals <= limits::REPO_REJECTIONS_LOGGED {
                    true => warn!(%document, %code, changes, what, "changes were rejected"),
                    false => debug!(%document, %code, changes, what, "changes were rejected"),
                }
            }
            PeerEffect::Ignored(what) => debug!(what, "ignored"),
            PeerEffect::End(code, what) => self.end(code, &what),
        }
    }

    /// Whether the client may report heads: of a document that it may read, and of a storage that no other
    /// principal uses.
    fn may_report(&self, update: &HeadsUpdate) -> bool {
        let storage = (self.space.clone(), update.storage_id.clone());
        let subject = self.access.principal().subject.as_ref();
        self.access.reads(&update.document) && self.shared.storage_ids.may_use(&storage, subject)
    }

    /// Binds the client's names to its principal: another one can neither take its connection over nor
    /// speak for its storage.
    fn bind(&mut self, remote: &Remote) -> Result<(), InUse> {
        let Some(subject) = &self.access.principal().subject else { return Ok(()) };
        let key = |id: &str| (self.space.clone(), id.to_owned());
        let peer = self.shared.peer_ids.bind(key(&remote.peer_id), Some(subject))?;
        let storage = remote.storage_id.as_deref();
        let storage = storage.map(|id| self.shared.storage_ids.bind(key(id), Some(subject)));
        self.bindings = Some((peer, storage.transpose()?));
        Ok(())
    }

    fn join(&mut self, remote: &Remote) {
        if self.bind(remote).is_err() {
            let what = "another principal uses this peer id or storage id now".to_owned();
            return self.machine.fail(Code::FORBIDDEN, what);
        }
        if self.has_joined_hub {
            debug!(peer_id = remote.peer_id, "the client joined again");
            // Answers for the client's previous join do not apply to the new one.
            let (space, account) = (self.space.clone(), self.connection.account.clone());
            self.sync_answers = SyncAnswers::new(SyncReader::new(
                &self.shared,
                self.access.clone(),
                space,
                account,
            ));
        } else {
            // Recorded once only: a second value would appear beside the first in every log line.
            Span::current().record("peer_id", remote.peer_id.as_str());
            info!("automerge-repo client joined");
        }
        self.shared.relay.fan_out.remove(self.connection.id);
        self.shared.remote_heads.leave(&self.space, self.connection.id);
        let storage = remote.storage_id.as_deref();
        self.push_queue.name_author(storage, &remote.peer_id);
        let replaced = Arc::clone(&self.replaced);
        self.shared.peers.join(&self.space, &remote.peer_id, self.connection.id, replaced);
        if !self.has_joined_hub {
            self.has_joined_hub = true;
            self.push_queue.join(self.connection.channel.clone());
        }
    }

    /// The client has answered a repair request.
    pub(super) fn resent(&self, document: DocumentId, brought: bool) {
        self.shared.relay.repairs.answered(
            self.connection.id,
            &self.space,
            &document,
            u32::from(brought),
        );
    }

    fn publish(&self, message: EphemeralMessage) {
        let EphemeralMessage { document, sender, session, count, data } = message;
        let message = Broadcast { document, sender, session, count, data };
        if !self.shared.relay.fan_out.publish_ephemeral(&self.mailbox, &self.space, message) {
            debug!(%document, "an ephemeral message was repeated or too large");
        }
    }

    fn end(&mut self, code: Code, what: &str) {
        match code {
            Code::GOODBYE | Code::SHUTTING_DOWN => debug!(what, "the session ends"),
            // Strangers cause these at will: counted in the metrics.
            Code::UNAUTHORIZED | Code::FORBIDDEN => debug!(%code, what, "the session is refused"),
            code => warn!(%code, what, "the relay ends the session"),
        }
        self.connection.end(code, format!("{code}: {what}"));
    }
}
