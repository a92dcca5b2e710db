//! A relay, some clients, and connections that keep order and lose nothing until they are cut. It
//! knows no session's state.

use landfall_protocol::automerge_repo::message::Message;
use landfall_protocol::automerge_repo::sync::{Have, SyncMessage};
use landfall_protocol::limits;
use landfall_protocol::{ChangeHash, DocumentId, Moment, SessionId};
use landfall_test_rng::Rng;

use crate::client::{Client, Traffic};
use crate::log::Log;
use crate::relay::{Relay, Session};

/// Far more steps than any test needs: beyond it, two ends answer each other for ever.
const MANY: usize = 200_000;

pub struct World {
    pub relay: Relay,
    pub clients: Vec<Client>,
    pub rng: Rng,
    pub now: Moment,
    pub documents: Vec<DocumentId>,
    /// The number of edits.
    edits: u64,
}

impl World {
    pub fn new(seed: u64, clients: usize, documents: usize) -> Self {
        println!("seed {seed}");
        let mut rng = Rng::new(seed);
        let log = Log::new(limits::REPO_CHANGES_BYTES);
        let relay = Relay::start(log, rng.bytes());
        let documents = (0..documents).map(|_| DocumentId::from_bytes(rng.bytes())).collect();
        let clients = (0..clients).map(|n| Client::new(&format!("client-{n}"), true)).collect();
        Self { relay, clients, rng, now: Moment::default(), documents, edits: 0 }
    }

    /// A world with one document.
    pub fn of_one(seed: u64, clients: usize) -> (Self, DocumentId) {
        let world = Self::new(seed, clients, 1);
        let document = world.documents[0];
        (world, document)
    }

    pub fn open(&mut self, client: usize, document: DocumentId) {
        let actor = self.rng.bytes();
        self.clients[client].open(document, actor);
    }

    /// Makes a change on top of all the client's heads.
    pub fn edit(&mut self, client: usize, document: DocumentId) {
        self.open(client, document);
        self.edits += 1;
        let key = format!("key {}", self.rng.below(10));
        let value = format!("value {}", self.edits);
        self.clients[client].edit(document, &key, &value);
    }

    pub fn edit_often(&mut self, client: usize, document: DocumentId, times: usize) {
        (0..times).for_each(|_| self.edit(client, document));
    }

    pub fn connect(&mut self, client: usize) {
        self.disconnect(client);
        let session = self.relay.accept(self.now);
        self.clients[client].connect(session);
    }

    pub fn disconnect(&mut self, client: usize) {
        if let Some(session) = self.clients[client].session {
            self.relay.sessions.remove(&session);
        }
        self.clients[client].disconnect();
    }

    pub fn session(&mut self, client: usize) -> &mut Session {
        let id = self.session_id(client);
        self.relay.session(id)
    }

    pub fn session_id(&self, client: usize) -> SessionId {
        self.clients[client].session.expect("it is connected")
    }

    /// The relay's process restarts and keeps its log.
    pub fn restart(&mut self) {
        (0..self.clients.len()).for_each(|client| self.disconnect(client));
        let log = std::mem::take(&mut self.relay.log);
        let denies = self.relay.denies;
        self.relay = Relay::start(log, self.rng.bytes());
        self.relay.denies = denies;
    }

    /// The relay's process restarts with an empty log.
    pub fn wipe(&mut self) {
        self.relay.log = Log::new(self.relay.log.page_bytes);
        self.restart();
    }

    pub fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Delivers one message of one client's connection, in either direction; false if there is
    /// none.
    pub fn carry(&mut self, client: usize) -> bool {
        let Some(id) = self.clients[client].session else { return false };
        let up = !self.clients[client].out.is_empty() && self.relay.session(id).ended.is_none();
        let down = !self.relay.session(id).sent.is_empty();
        if up && (!down || self.rng.chance(50)) {
            let message = self.clients[client].out.pop_front().expect("there is one");
            let now = self.now;
            self.relay.with(id, |peer| peer.handle_message(now, &message));
        } else if down {
            let message = self.relay.session(id).sent.pop_front().expect("there is one");
            self.clients[client].receive(&message);
        }
        up || down
    }

    /// Performs one random step; false if none is possible.
    pub fn step(&mut self) -> bool {
        let first = self.rng.below(self.clients.len() + 1);
        for turn in 0..=self.clients.len() {
            let who = (first + turn) % (self.clients.len() + 1);
            let did = match who < self.clients.len() {
                true => self.carry(who),
                false => self.relay.step(&mut self.rng),
            };
            if did {
                return true;
            }
        }
        false
    }

    /// Runs until no step is left. That this terminates is a check of its own.
    pub fn settle(&mut self) {
        for _ in 0..MANY {
            if !self.step() && !self.pass_a_moment() {
                return;
            }
        }
        panic!("messages go to and fro without end");
    }

    /// Lets the time pass until paced entries are forwarded; false if none wait.
    pub fn pass_a_moment(&mut self) -> bool {
        let live = self.relay.sessions.values().filter(|session| session.ended.is_none());
        let due = live.map(|session| session.peer.poll_timeout()).min();
        let wait = due.map(|due| due.since(self.now));
        let passes = wait.filter(|wait| *wait <= limits::REPO_UNANSWERED);
        passes.map(|wait| self.pass(wait)).is_some()
    }

    pub fn pass(&mut self, wait: std::time::Duration) {
        self.now = self.now.after(wait);
        let ids: Vec<SessionId> = self.relay.sessions.keys().copied().collect();
        for id in ids {
            let now = self.now;
            self.relay.with(id, |peer| {
                peer.handle_delivered(now);
                peer.handle_timeout(now);
            });
        }
    }

    /// The traffic since the last call.
    pub fn traffic(&mut self, client: usize) -> Traffic {
        std::mem::take(&mut self.clients[client].traffic)
    }

    pub fn heads(&self, client: usize, document: DocumentId) -> Vec<ChangeHash> {
        self.clients[client].copy(&document).heads()
    }

    /// Checks that every connected client has exactly the relay's log.
    #[track_caller]
    pub fn assert_equal(&self) {
        for client in self.clients.iter().filter(|client| client.session.is_some()) {
            for (document, copy) in &client.copies {
                let log = self.relay.log.heads(document);
                assert_eq!(copy.heads(), log, "{} is not where the log is", client.name);
            }
        }
    }

    #[track_caller]
    pub fn assert_all_live(&self) {
        for session in self.relay.sessions.values() {
            assert_eq!(session.ended, None);
        }
    }
}

/// For tests that play one end themselves.
impl World {
    /// Delivers one message of a client to the relay.
    pub fn carry_up(&mut self, client: usize) {
        let id = self.session_id(client);
        let message = self.clients[client].out.pop_front().expect("there is one");
        let now = self.now;
        self.relay.with(id, |peer| peer.handle_message(now, &message));
    }

    /// Runs until the relay has nothing to do; delivers no message.
    pub fn settle_relay(&mut self) {
        self.relay_steps(MANY);
    }

    pub fn relay_steps(&mut self, count: usize) {
        for _ in 0..count {
            if !self.relay.step(&mut self.rng) {
                return;
            }
        }
    }

    /// Runs until no step is left, but delivers nothing on one client's connection.
    pub fn settle_but(&mut self, stuck: usize) {
        for _ in 0..MANY {
            let others: Vec<usize> = (0..self.clients.len()).filter(|n| *n != stuck).collect();
            let carried = others.into_iter().any(|client| self.carry(client));
            if !carried && !self.relay.step(&mut self.rng) && !self.pass_a_moment() {
                return;
            }
        }
        panic!("messages go to and fro without end");
    }

    /// The last message for a client, which must be a sync message. The others are dropped.
    pub fn last_sync(&mut self, client: usize) -> Told {
        let message = self.session(client).sent.drain(..).next_back().expect("something was sent");
        let Message::Sync(sync) = Message::decode(&message).unwrap() else { panic!("no sync") };
        let SyncMessage { heads, need, have, chunks, flags } =
            SyncMessage::decode(sync.data).unwrap();
        Told { heads, need, have, chunks: chunks.len(), takes_whole: flags.is_some() }
    }
}

/// A sync message that was sent.
#[derive(Debug, PartialEq)]
pub struct Told {
    pub heads: Vec<ChangeHash>,
    pub need: Vec<ChangeHash>,
    pub have: Vec<Have>,
    pub chunks: usize,
    pub takes_whole: bool,
}
