//! The relay's state machine of one automerge-repo session: the handshake, the documents that the
//! peer has open, the messages for it and the requests that wait.
//!
//! Inputs are `handle_*`; after each, the caller drains [`Peer::poll_effect`]. The caller does the
//! work: it checks changes ([`PeerEffect::Check`]), reads the store ([`PeerEffect::Plan`]), passes
//! changes to the space's state machine ([`PeerEffect::Push`]) and reports durable entries
//! ([`Peer::handle_entry`]). The session only announces heads of durable entries. It knows no
//! socket, no store and no clock.

mod connection;
mod damage;
mod deferred;
mod document;
mod effects;
mod incoming;
mod log_view;
mod messages;
mod negotiation;
mod pushes;
mod remote_heads;
mod reply;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::message::{Ephemeral, Message};
use crate::admission::CheckedChange;
use crate::code::Code;
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;
use crate::moment::Moment;
use crate::patience::Patience;
use crate::relay::{Commit, NewEntry, NewKind};
use document::Document;

pub use effects::{EphemeralMessage, Host, MemoryAnswer, PeerEffect, Remote, RepoPush, Ticket};
pub use log_view::{LogState, Planned};
pub use remote_heads::HeadsUpdate;

/// The state machine of one session.
#[derive(Debug)]
pub struct Peer {
    host: Host,
    remote: Option<Remote>,
    /// The number of `join`s.
    joined: u64,
    documents: BTreeMap<DocumentId, Document>,
    /// Unanswered pushes, with a copy of their changes: when a push is rejected in its middle, the
    /// rest is pushed again.
    pushes: BTreeMap<u64, (DocumentId, Vec<CheckedChange>)>,
    last_push: u64,
    /// Requests for documents that the relay does not have, by ascending deadline.
    requests: VecDeque<(Moment, DocumentId)>,
    /// Documents whose new entries wait for [`limits::REPO_PACE`] to pass.
    paced: BTreeSet<(Moment, DocumentId)>,
    /// Documents with new durable entries since the last poll for an effect.
    touched: BTreeSet<DocumentId>,
    /// Documents with a message for the peer that waits for memory.
    ready: BTreeSet<DocumentId>,
    now: Moment,
    /// Storages to whose remote heads the peer has subscribed.
    subscribed: BTreeSet<String>,
    /// Bytes of those subscriptions.
    subscription_bytes: usize,
    /// Bytes of recent durable entries that wait to be forwarded.
    live_bytes: usize,
    /// Bytes of deferred changes: those that wait for their dependencies.
    deferred_bytes: usize,
    /// Bytes of the heads, needs and filters that are kept from the peer's messages.
    kept_bytes: usize,
    /// Bytes of the durable heads of its open documents.
    heads_bytes: usize,
    effects: VecDeque<PeerEffect>,
    patience: Patience,
    began: Moment,
    last_received: Moment,
    /// See [`Peer::handle_delivered`].
    delivered: Moment,
    pinged: bool,
    ended: bool,
}

impl Peer {
    /// Creates a session whose connection was opened at `now`.
    pub fn new(host: Host, patience: Patience, now: Moment) -> Self {
        Self {
            host,
            remote: None,
            joined: 0,
            documents: BTreeMap::new(),
            pushes: BTreeMap::new(),
            last_push: 0,
            requests: VecDeque::new(),
            paced: BTreeSet::new(),
            touched: BTreeSet::new(),
            ready: BTreeSet::new(),
            now,
            subscribed: BTreeSet::new(),
            subscription_bytes: 0,
            live_bytes: 0,
            deferred_bytes: 0,
            kept_bytes: 0,
            heads_bytes: 0,
            effects: VecDeque::new(),
            patience,
            began: now,
            last_received: now,
            delivered: Moment::default(),
            pinged: false,
            ended: false,
        }
    }

    /// The next action for the caller.
    pub fn poll_effect(&mut self) -> Option<PeerEffect> {
        self.poll_effect_within(|_| MemoryAnswer::There)
    }

    /// As [`Peer::poll_effect`]. Before it builds a message of about so many bytes without a store
    /// query, it calls `memory`. That message is the next effect.
    pub fn poll_effect_within(
        &mut self,
        mut memory: impl FnMut(usize) -> MemoryAnswer,
    ) -> Option<PeerEffect> {
        while self.effects.is_empty() {
            // Entries that arrived together are sent in one message.
            if let Some(id) = self.touched.pop_first() {
                self.advance(id);
                continue;
            }
            let id = *self.ready.first()?;
            let of = self.documents.get(&id).and_then(Document::due_bytes);
            let there = of.map(&mut memory);
            if there == Some(MemoryAnswer::Later) {
                return None;
            }
            self.ready.remove(&id);
            match there {
                Some(MemoryAnswer::There) => self.send_due(id),
                Some(_) => self.handle_document_behind(id),
                // Another message has gone out meanwhile, or the document waits for something else.
                None => {}
            }
        }
        self.effects.pop_front()
    }

    /// Sets the current time, for inputs that carry no time themselves.
    pub fn handle_clock(&mut self, now: Moment) {
        self.now = self.now.max(now);
    }

    /// The peer, once it has joined.
    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// The number of documents that the peer has open.
    pub fn documents(&self) -> usize {
        self.documents.len()
    }

    /// The number of unanswered pushes.
    pub fn unanswered(&self) -> usize {
        self.pushes.len()
    }

    /// Ends the session.
    pub fn fail(&mut self, code: Code, what: String) {
        if !self.ended {
            self.ended = true;
            self.effects.push_back(PeerEffect::End(code, what));
        }
    }

    fn forget(&mut self) {
        self.documents.clear();
        self.pushes.clear();
        self.requests.clear();
        self.paced.clear();
        self.touched.clear();
        self.ready.clear();
        self.subscribed.clear();
        (self.deferred_bytes, self.kept_bytes, self.heads_bytes) = (0, 0, 0);
        (self.subscription_bytes, self.live_bytes) = (0, 0);
    }

    /// The ticket for a request about a document.
    pub fn ticket(&self, document: DocumentId) -> Ticket {
        Ticket { document, joined: self.joined }
    }

    /// The ticket's document, unless the peer has sent another `join` since.
    fn of(&self, ticket: Ticket) -> Option<DocumentId> {
        (ticket.joined == self.joined).then_some(ticket.document)
    }

    /// Sends the peer an ephemeral message of another sender, if it has the document open.
    pub fn send_ephemeral(&mut self, said: &EphemeralMessage) {
        let (Some(remote), Some(document)) = (&self.remote, self.documents.get(&said.document))
        else {
            return;
        };
        let message = Message::Ephemeral(Ephemeral {
            document: document.name(),
            sender: &said.sender,
            target: &remote.peer_id,
            session: &said.session,
            count: said.count,
            data: &said.data,
        });
        let message = message.encode();
        self.effects.push_back(PeerEffect::Send(message));
    }

    fn send_unavailable(&mut self, document: &str) {
        let Some(remote) = &self.remote else { return };
        let (sender, target) = (self.host.peer_id.as_str(), remote.peer_id.as_str());
        let message = Message::Unavailable { document, sender, target }.encode();
        self.effects.push_back(PeerEffect::Send(message));
    }

    fn ignore(&mut self, what: String) {
        self.effects.push_back(PeerEffect::Ignored(crate::frame::fit(what)));
    }

    /// Entries were committed without a report: all cached document states are out of date.
    pub fn handle_behind(&mut self) {
        let open: Vec<DocumentId> = self.documents.keys().copied().collect();
        open.into_iter().for_each(|id| self.handle_document_behind(id));
    }

    /// Approximate bytes of this session's state: open documents with their heads, heads and
    /// filters that the peer sent, deferred and unanswered changes, entries to forward, and remote
    /// heads subscriptions.
    pub fn state_bytes(&self) -> usize {
        let documents = limits::OPEN_DOCUMENT_BYTES * self.documents.len();
        let counted = self.kept_bytes + self.heads_bytes + self.deferred_bytes;
        counted + self.subscription_bytes + self.live_bytes + documents
    }

    /// As [`Peer::handle_behind`], for one document: an entry of it became durable that must be
    /// read from the store.
    pub fn handle_document_behind(&mut self, id: DocumentId) {
        if let Some(document) = self.documents.get_mut(&id) {
            document.forget_log();
            self.advance(id);
        }
    }

    /// The entry at index `at` of a commit became durable.
    pub fn handle_entry(&mut self, commit: &Arc<Commit>, at: usize) {
        let Some(new) = commit.entries.get(at) else { return };
        let NewEntry { entry, kind } = new;
        let id = entry.document;
        let Some(document) = self.documents.get_mut(&id) else { return };
        document.incoming.handle_entry();
        match kind {
            NewKind::Change { .. } => {
                document.add_entry(new);
                self.count_live(id);
                if self.live_bytes > limits::REPO_LIVE_BYTES {
                    // Drop the entries, and read them from the store once there is memory.
                    self.documents.get_mut(&id).into_iter().for_each(Document::forget_log);
                    self.count_live(id);
                }
                self.release(id, &[ChangeHash(entry.id)]);
            }
            NewKind::Tombstone => {
                document.delete();
                let name = document.name().to_owned();
                self.send_unavailable(&name);
            }
            NewKind::Snapshot(_) => document.forget_log(),
        }
        self.touched.insert(id);
    }

    /// Whether recent entries wait for their pace anyway: no need to poll for more before
    /// [`Peer::handle_timeout`].
    pub fn is_pacing(&self, now: Moment) -> bool {
        let soon = now.after(limits::REPO_PACE);
        self.paced.first().is_some_and(|(due, _)| *due > now && *due <= soon)
    }
}
