//! The relay's state machine of one automerge-repo session: the handshake, the documents that the
//! peer has open, the messages for it and the requests that wait.
//!
//! Inputs are `handle_*`; after each, the caller drains [`Peer::poll_effect`]. The caller does the
//! work: it checks changes ([`PeerEffect::Check`]), reads the store ([`PeerEffect::Plan`]), passes changes
//! to the space's state machine ([`PeerEffect::Push`]) and reports durable entries
//! ([`Peer::handle_entry`]). The session only announces heads of durable entries. It knows no
//! socket, no store and no clock.

mod damage;
mod deferred;
mod document;
mod incoming;
mod log_view;
mod negotiation;
mod pushes;
mod remote_heads;
mod reply;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::chunks::{Carried, Chunks, carried};
use super::message::{Ephemeral, Message, PeerMetadata, Sync, VERSION};
use super::plan::SyncRequest;
use super::sync::{SyncError, SyncMessage};
use crate::admission::CheckedChange;
use crate::code::Code;
use crate::ephemeral::is_replica;
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;
use crate::moment::Moment;
use crate::patience::Patience;
use crate::relay::{Commit, NewEntry, NewKind};
use document::Document;

pub use log_view::{LogState, Planned};
pub use remote_heads::HeadsUpdate;

/// The identity of the relay towards the automerge-repo clients of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its peer id.
    pub peer_id: String,
    /// The identity of its storage. Peers store their sync state with this relay under this name.
    pub storage_id: String,
}

/// A peer that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its peer id.
    pub peer_id: String,
    /// The identity of its storage, if the storage is persistent.
    pub storage_id: Option<String>,
}

/// An action for the caller.
#[derive(Debug, Clone)]
pub enum PeerEffect {
    /// Send these bytes as one binary message.
    Send(Vec<u8>),
    /// Send a WebSocket ping.
    Ping,
    /// The peer has sent `join`. The caller ends any other session with this peer id in the space,
    /// and drops what this session followed before.
    Joined(Remote),
    /// Report this document's entries from now on, with [`Peer::handle_entry`].
    Follow(DocumentId),
    /// Run the preflight over these chunks, each a change, one after the other and in their order.
    /// Answer with [`Peer::handle_checked`], once for all or in several parts: a message can hold
    /// very many.
    Check(Ticket, Chunks),
    /// Pass these changes to the space's state machine, and its answer to [`Peer::handle_answer`].
    Push(RepoPush),
    /// Open these bytes in an isolated process and admit the changes in them; pass the answer to
    /// [`Peer::handle_answer`].
    PushWhole {
        /// The session's number for it.
        id: u64,
        /// The document.
        document: DocumentId,
        /// Concatenated chunks of any type.
        bytes: Vec<u8>,
    },
    /// Query the store, and answer with [`Peer::handle_planned`].
    Plan(Ticket, SyncRequest),
    /// Forward an ephemeral message.
    Ephemeral(EphemeralMessage),
    /// The peer subscribes to the remote heads of these storages. Report the known ones with
    /// [`Peer::handle_remote_heads`].
    Subscribe(Vec<String>),
    /// The peer unsubscribes from these storages.
    Unsubscribe(Vec<String>),
    /// The heads of a document in a storage have changed: report this to the subscribed sessions.
    RemoteHeads(HeadsUpdate),
    /// The peer has answered the request of [`Peer::handle_lost`].
    Resent {
        /// The document.
        document: DocumentId,
        /// Whether it sent changes. They are pushed as usual.
        brought: bool,
    },
    /// Changes of this document were rejected. The caller logs it.
    Refused {
        /// The document.
        document: DocumentId,
        /// The reason.
        code: Code,
        /// The number of changes.
        changes: usize,
        /// The reason in words.
        what: String,
    },
    /// The peer sent something that the session ignores.
    Ignored(String),
    /// Close the connection, after everything queued before has been sent.
    End(Code, String),
}

/// The answer of the caller's memory budget to [`Peer::poll_effect_within`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryAnswer {
    /// There is memory, and it is reserved.
    There,
    /// There is none. The session queries the store instead; that query waits for memory.
    NotNow,
    /// The peer does not read what it is sent: build no message for it.
    Later,
}

/// Identifies a request to the caller by its document and the number of the `join` before it.
/// Answers to requests from before a later `join` are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The document.
    pub document: DocumentId,
    joined: u64,
}

/// Changes for the space's state machine.
#[derive(Debug, Clone)]
pub struct RepoPush {
    /// The session's number for it.
    pub id: u64,
    /// The document.
    pub document: DocumentId,
    /// Ordered: dependencies first.
    pub changes: Vec<CheckedChange>,
}

/// An ephemeral message, from the peer or for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralMessage {
    /// The document that it is about.
    pub document: DocumentId,
    /// The sender's peer id.
    pub sender: String,
    /// The sender's session.
    pub session: String,
    /// Grows with each message of the session.
    pub count: u64,
    /// The CBOR of the application's value. Never decoded.
    pub data: Vec<u8>,
}

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
    heard: Moment,
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
            heard: now,
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
                Some(_) => self.handle_behind_with(id),
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

    /// Some bytes arrived from the peer, of any kind.
    pub fn handle_alive(&mut self, now: Moment) {
        self.handle_clock(now);
        self.heard = self.heard.max(now);
        self.pinged = false;
    }

    /// Handles a binary message.
    pub fn handle_message(&mut self, now: Moment, bytes: &[u8]) {
        if self.ended {
            return;
        }
        self.handle_alive(now);
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

    fn handle_join(
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
        let brought = match &carried {
            Carried::Changes(chunks) => !chunks.is_empty(),
            Carried::Whole(_) => true,
        };
        self.note_resent(id, brought);
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
    fn open(&mut self, id: DocumentId, name: &str) -> bool {
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
        open.into_iter().for_each(|id| self.handle_behind_with(id));
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
    pub fn handle_behind_with(&mut self, id: DocumentId) {
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

    /// When to call [`Peer::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Moment {
        let silence = match (&self.remote, self.pinged) {
            (None, _) => self.began.after(self.patience.handshake),
            (_, false) => self.heard.after(self.patience.ping_after),
            (_, true) => self.heard.after(self.patience.drop_after),
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
        self.heard = self.heard.max(self.delivered.min(now));
        let silent = now.since(self.heard);
        if silent >= self.patience.drop_after {
            self.fail(Code::SILENT, "the peer was silent for too long".to_owned());
        } else if silent >= self.patience.ping_after && !self.pinged {
            self.pinged = true;
            self.effects.push_back(PeerEffect::Ping);
        }
    }
}
