//! The relay's machine of one automerge-repo session: the handshake, the documents that the peer
//! has open, what it is sent and what waits for it.
//!
//! Inputs are `handle_*`; after each, [`Peer::poll_effect`] is drained. The caller performs: it
//! checks changes ([`Effect::Check`]), reads the store ([`Effect::Plan`]), hands changes to the
//! space's machine ([`Effect::Push`]) and tells what became durable ([`Peer::handle_entry`]).
//! The heads that a peer is told are always those of durable entries.

mod damage;
mod document;
mod gossip;
mod intake;
mod pen;
mod reply;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::chunks::{Carried, Chunks, carried};
use super::message::{Ephemeral, Message, PeerMetadata, Sync, VERSION};
use super::plan::Question;
use super::sync::{SyncError, SyncMessage};
use crate::admission::CheckedChange;
use crate::code::Code;
use crate::ephemeral::is_replica;
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;
use crate::moment::Moment;
use crate::session::Patience;
use crate::space::{Commit, NewEntry, NewKind};
use document::Document;

pub use document::{Planned, Standing};
pub use gossip::RemoteNews;

/// Who the relay is towards automerge-repo clients of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its peer id.
    pub peer_id: String,
    /// The identity of its storage. Peers keep what they have in common with it under this name.
    pub storage_id: String,
}

/// A peer that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its peer id.
    pub peer_id: String,
    /// The identity of its storage, if that lasts.
    pub storage_id: Option<String>,
}

/// What the caller must do.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send these bytes as one binary message.
    Send(Vec<u8>),
    /// Send a WebSocket ping.
    Ping,
    /// The peer has a name now. Whoever had it in this space before is to be ended, and what this
    /// session followed is to be forgotten.
    Joined(Remote),
    /// Tell of this document's entries from now on, with [`Peer::handle_entry`].
    Follow(DocumentId),
    /// Run the preflight over these chunks, each a change, and answer with
    /// [`Peer::handle_checked`], for all at once or for some after the other: a message may have
    /// very many. Checks are to be done one after the other, in their order.
    Check(Ticket, Chunks),
    /// Hand these changes to the space's machine; its answer comes to [`Peer::handle_answer`].
    Push(RepoPush),
    /// Have these bytes opened where nothing is lost by it, and what is in them admitted; the
    /// answer comes to [`Peer::handle_answer`].
    PushWhole {
        /// The session's number for it.
        id: u64,
        /// The document.
        document: DocumentId,
        /// Chunks of any type, one after the other.
        bytes: Vec<u8>,
    },
    /// Ask the store, and answer with [`Peer::handle_planned`].
    Plan(Ticket, Question),
    /// Pass an ephemeral message on.
    Say(Saying),
    /// The peer wants to hear of these storages; tell what is known of them, with
    /// [`Peer::handle_remote_heads`].
    Subscribe(Vec<String>),
    /// The peer does not want to hear of these any more.
    Unsubscribe(Vec<String>),
    /// The heads of a document in a storage have changed: tell whoever wants to hear of it.
    Gossip(RemoteNews),
    /// The peer has answered [`Peer::handle_lost`].
    Resent {
        /// The document.
        document: DocumentId,
        /// Whether it sent changes. They are pushed like others.
        brought: bool,
    },
    /// Changes of this document were not taken. They are to be told in the log.
    Refused {
        /// The document.
        document: DocumentId,
        /// Why.
        code: Code,
        /// How many.
        changes: usize,
        /// In words.
        what: String,
    },
    /// Something came that means nothing here.
    Ignored(String),
    /// Close the connection, after what was to be sent before.
    End(Code, String),
}

/// Whether there is memory for a message, as [`Peer::poll_effect_within`] asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// There is, and it is reserved.
    There,
    /// There is none: the store is asked for what is to be said, which waits for memory.
    NotNow,
    /// The peer does not take what it is sent: nothing is made for it.
    Later,
}

/// Names what is asked of the caller: the document, and after which `join`. What was asked for a
/// peer before it joined once more is no answer for what it has begun since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The document.
    pub document: DocumentId,
    joined: u64,
}

/// Changes on their way to the space's machine.
#[derive(Debug, Clone)]
pub struct RepoPush {
    /// The session's number for it.
    pub id: u64,
    /// The document.
    pub document: DocumentId,
    /// Dependencies before what rests on them.
    pub changes: Vec<CheckedChange>,
}

/// An ephemeral message that a peer sends, or is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// What it is about.
    pub document: DocumentId,
    /// Who says it.
    pub sender: String,
    /// The sender's session.
    pub session: String,
    /// Grows with each message of the session.
    pub count: u64,
    /// The CBOR of the application's value; never looked into.
    pub data: Vec<u8>,
}

/// The machine.
#[derive(Debug)]
pub struct Peer {
    host: Host,
    remote: Option<Remote>,
    /// How often it has joined.
    joined: u64,
    documents: BTreeMap<DocumentId, Document>,
    /// Pushes that are not answered, with a copy of their changes: of a push that is refused in
    /// its middle, the rest is pushed again.
    pushes: BTreeMap<u64, (DocumentId, Vec<CheckedChange>)>,
    last_push: u64,
    /// Requests that wait for somebody to bring the document, by growing deadline.
    requests: VecDeque<(Moment, DocumentId)>,
    /// Documents whose news wait for their time.
    paced: BTreeSet<(Moment, DocumentId)>,
    /// Documents of which something became durable since the last effect was asked for.
    touched: BTreeSet<DocumentId>,
    /// Documents of which the peer may be told now what there is, once there is memory to say it.
    ready: BTreeSet<DocumentId>,
    now: Moment,
    /// Storages of whose heads the peer wants to hear.
    subscribed: BTreeSet<String>,
    /// Bytes that their names take up.
    wished: usize,
    /// Bytes of what became durable lately and waits to be passed on.
    live: usize,
    /// Bytes of changes that wait for their dependencies.
    penned: usize,
    /// Bytes of heads, needs and filters that are kept of what the peer said.
    kept: usize,
    /// Bytes of the heads of its open documents, as they stand here.
    standing: usize,
    effects: VecDeque<Effect>,
    patience: Patience,
    began: Moment,
    heard: Moment,
    pinged: bool,
    ended: bool,
}

impl Peer {
    /// A session whose connection was opened now.
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
            wished: 0,
            live: 0,
            penned: 0,
            kept: 0,
            standing: 0,
            effects: VecDeque::new(),
            patience,
            began: now,
            heard: now,
            pinged: false,
            ended: false,
        }
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.poll_effect_within(|_| Memory::There)
    }

    /// As [`Peer::poll_effect`]. `memory` is asked before a message is made of so many bytes, about, that
    /// was not asked of the store; it is the next to be sent.
    pub fn poll_effect_within(
        &mut self,
        mut memory: impl FnMut(usize) -> Memory,
    ) -> Option<Effect> {
        while self.effects.is_empty() {
            // Entries that came together are sent together.
            if let Some(id) = self.touched.pop_first() {
                self.advance(id);
                continue;
            }
            let id = *self.ready.first()?;
            let of = self.documents.get(&id).and_then(Document::due_bytes);
            let there = of.map(&mut memory);
            if there == Some(Memory::Later) {
                return None;
            }
            self.ready.remove(&id);
            match there {
                Some(Memory::There) => self.tell(id),
                Some(_) => self.handle_behind_with(id),
                // It was told otherwise meanwhile, or has something else to wait for.
                None => {}
            }
        }
        self.effects.pop_front()
    }

    /// It is this moment now. Inputs that do not say so themselves are judged by it.
    pub fn handle_clock(&mut self, now: Moment) {
        self.now = self.now.max(now);
    }

    /// The peer, once it has joined.
    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// How many documents the peer has open.
    pub fn documents(&self) -> usize {
        self.documents.len()
    }

    /// Pushes and checks that are not answered yet.
    pub fn unanswered(&self) -> usize {
        self.pushes.len()
    }

    /// Something came from the peer, whatever it is.
    pub fn handle_alive(&mut self, now: Moment) {
        self.handle_clock(now);
        self.heard = self.heard.max(now);
        self.pinged = false;
    }

    /// A binary message came.
    pub fn handle_message(&mut self, bytes: &[u8], now: Moment) {
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
            let what = "a message came before `join`".to_owned();
            return self.fail(Code::OUT_OF_ORDER, what);
        }
        match message {
            Message::Request(sync) => self.handle_sync(sync, true, now),
            Message::Sync(sync) => self.handle_sync(sync, false, now),
            Message::Ephemeral(ephemeral) => self.handle_ephemeral(&ephemeral),
            Message::RemoteSubscription { add, remove, .. } => self.handle_wish(&add, &remove),
            Message::RemoteHeads { document, heads, .. } => self.handle_told(document, heads),
            Message::Leave { .. } => self.fail(Code::GOODBYE, String::new()),
            // What a client says so is that it does not have a document: it is not asked for any.
            Message::Unavailable { .. } => {}
            Message::Error { message, .. } => self.ignore(format!("the client says: {message}")),
            Message::Unknown { kind } => self.ignore(format!("a message of type `{kind}`")),
            Message::Join { .. } | Message::Peer { .. } => {
                self.ignore("a message that only a server sends".to_owned());
            }
        }
    }

    /// A text message came: the protocol has none.
    pub fn handle_text(&mut self) {
        let what = "a text message: the protocol's messages are binary".to_owned();
        self.fail(Code::MALFORMED, what);
    }

    /// Ends the session.
    pub fn fail(&mut self, code: Code, what: String) {
        if !self.ended {
            self.ended = true;
            self.effects.push_back(Effect::End(code, what));
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
        (self.penned, self.kept, self.standing) = (0, 0, 0);
        (self.wished, self.live) = (0, 0);
    }

    /// What is asked about a document now carries this.
    pub fn ticket(&self, document: DocumentId) -> Ticket {
        Ticket { document, joined: self.joined }
    }

    /// The document, unless the peer has joined anew since.
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
            let what = "this relay speaks version 1 of the automerge-repo protocol only";
            return self.turn_away(sender, Code::UNSUPPORTED_VERSION, what);
        }
        if sender == self.host.peer_id || is_replica(sender) {
            let what = "the peer id is the relay's own, or that of an engine: take another";
            return self.turn_away(sender, Code::FORBIDDEN, what);
        }
        // A second `join` begins anew: what the peer knew of this session is gone, and what is
        // still being asked for it is not taken in any more.
        self.joined += 1;
        self.forget();
        let lasting = metadata.storage_id.filter(|_| !metadata.is_ephemeral);
        let remote = Remote { peer_id: sender.to_owned(), storage_id: lasting.map(str::to_owned) };
        self.effects.push_back(Effect::Joined(remote.clone()));
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
        self.effects.push_back(Effect::Send(peer));
    }

    /// Says in words why a client may not join, and ends.
    fn turn_away(&mut self, sender: &str, code: Code, what: &str) {
        let error = Message::Error { message: what, sender: &self.host.peer_id, target: sender };
        let error = error.encode();
        self.effects.push_back(Effect::Send(error));
        self.fail(code, what.to_owned());
    }

    fn handle_sync(&mut self, sync: Sync<'_>, asks: bool, now: Moment) {
        if sync.target != self.host.peer_id || !self.is_peer(sync.sender) {
            let (sender, target) = (sync.sender, sync.target);
            return self.ignore(format!("a message from `{sender}` to `{target}`"));
        }
        let Ok(id) = sync.document.parse::<DocumentId>() else {
            // Of another length, or of no form at all: it cannot be here.
            self.ignore(format!("a document whose id has no 16 bytes: `{}`", sync.document));
            return self.send_unavailable(sync.document);
        };
        let message = match SyncMessage::decode(sync.data) {
            Ok(message) => message,
            Err(error @ SyncError::TooMany { .. }) => {
                // A document that has grown beyond what is synced: its session has others.
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
        if document.hear(message, asks) {
            self.requests.push_back((now.after(limits::REPO_REQUEST_WAIT), id));
        }
        self.advance(id);
    }

    fn is_peer(&self, sender: &str) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.peer_id == sender)
    }

    /// Has a document among those that are open; false if there are too many.
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
        self.effects.push_back(Effect::Follow(id));
        true
    }

    fn carry(&mut self, id: DocumentId, carried: Carried) {
        match carried {
            Carried::Changes(chunks) if chunks.is_empty() => {}
            Carried::Changes(chunks) => {
                self.note_check(id);
                self.effects.push_back(Effect::Check(self.ticket(id), chunks));
            }
            Carried::Whole(bytes) => {
                let push = self.next_push(id, Vec::new());
                self.effects.push_back(Effect::PushWhole { id: push, document: id, bytes });
            }
        }
    }

    fn handle_ephemeral(&mut self, ephemeral: &Ephemeral<'_>) {
        if !self.is_peer(ephemeral.sender) {
            // Whoever passes on what others say: the relay has told everybody itself.
            return self.ignore(format!("an ephemeral message of `{}`", ephemeral.sender));
        }
        let Ok(document) = ephemeral.document.parse() else {
            return self.ignore("an ephemeral message of a document that cannot be here".into());
        };
        self.effects.push_back(Effect::Say(Saying {
            document,
            sender: ephemeral.sender.to_owned(),
            session: ephemeral.session.to_owned(),
            count: ephemeral.count,
            data: ephemeral.data.to_vec(),
        }));
    }

    /// Somebody else said something about a document that the peer has open.
    pub fn handle_said(&mut self, said: &Saying) {
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
        self.effects.push_back(Effect::Send(message));
    }

    fn send_unavailable(&mut self, document: &str) {
        let Some(remote) = &self.remote else { return };
        let (sender, target) = (self.host.peer_id.as_str(), remote.peer_id.as_str());
        let message = Message::Unavailable { document, sender, target }.encode();
        self.effects.push_back(Effect::Send(message));
    }

    fn ignore(&mut self, what: String) {
        self.effects.push_back(Effect::Ignored(crate::frame::fit(what)));
    }

    /// Entries were made and not told of: whatever is known of the store is out of date.
    pub fn handle_behind(&mut self) {
        let open: Vec<DocumentId> = self.documents.keys().copied().collect();
        open.into_iter().for_each(|id| self.handle_behind_with(id));
    }

    /// Bytes, about, of what it remembers of its peer and for it: documents that are open, with where
    /// they stand, heads and filters that were told, changes that wait for others or for an answer, entries
    /// that wait to be passed on, and storages that it wants to hear of.
    pub fn state_bytes(&self) -> usize {
        let documents = limits::OPEN_DOCUMENT_BYTES * self.documents.len();
        self.kept + self.standing + self.penned + self.wished + self.live + documents
    }

    /// As [`Peer::handle_behind`], for one document: an entry of it became durable that is to be
    /// read from the store.
    pub fn handle_behind_with(&mut self, id: DocumentId) {
        if let Some(document) = self.documents.get_mut(&id) {
            document.forget_standing();
            self.advance(id);
        }
    }

    /// An entry of a document became durable: the one at `at` of a commit.
    pub fn handle_entry(&mut self, commit: &Arc<Commit>, at: usize) {
        let Some(new) = commit.entries.get(at) else { return };
        let NewEntry { entry, kind } = new;
        let id = entry.document;
        let Some(document) = self.documents.get_mut(&id) else { return };
        match kind {
            NewKind::Change { .. } => {
                document.add_entry(new);
                self.count_live(id);
                if self.live > limits::REPO_LIVE_BYTES {
                    // It is read from the store, once there is memory for it.
                    self.documents.get_mut(&id).into_iter().for_each(Document::forget_standing);
                    self.count_live(id);
                }
                self.release(id, &[ChangeHash(entry.id)]);
            }
            NewKind::Tombstone => {
                document.delete();
                let name = document.name().to_owned();
                self.send_unavailable(&name);
            }
            NewKind::Snapshot(_) => document.forget_standing(),
        }
        self.touched.insert(id);
    }

    /// Whether what became durable lately waits for a moment anyway: more of it need not be told
    /// before [`Peer::handle_time`].
    pub fn is_pacing(&self, now: Moment) -> bool {
        let soon = now.after(limits::REPO_PACE);
        self.paced.first().is_some_and(|(due, _)| *due > now && *due <= soon)
    }

    /// When [`Peer::handle_time`] is to be called next.
    pub fn deadline(&self) -> Moment {
        let silence = match (&self.remote, self.pinged) {
            (None, _) => self.began.after(self.patience.handshake),
            (_, false) => self.heard.after(self.patience.ping_after),
            (_, true) => self.heard.after(self.patience.drop_after),
        };
        let request = self.requests.front().map_or(silence, |(request, _)| *request);
        let paced = self.paced.first().map_or(silence, |(paced, _)| *paced);
        silence.min(request).min(paced)
    }

    /// Time has passed. `delivered` is when the slowest link that is allowed for would have
    /// delivered what was sent: the peer's silence counts from there.
    pub fn handle_time(&mut self, now: Moment, delivered: Moment) {
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
                self.fail(Code::SILENT, "no `join` came".to_owned());
            }
            return;
        }
        self.heard = self.heard.max(delivered.min(now));
        let silent = now.since(self.heard);
        if silent >= self.patience.drop_after {
            self.fail(Code::SILENT, "the peer was silent for too long".to_owned());
        } else if silent >= self.patience.ping_after && !self.pinged {
            self.pinged = true;
            self.effects.push_back(Effect::Ping);
        }
    }
}
