//! A relay, some clients, and a network that loses, repeats and cuts messages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_protocol::access::View;
use landfall_protocol::client::SpacePhase;
use landfall_protocol::digest::{Branch, Node};
use landfall_protocol::frame::{Filter, Frame, Frames, Holding};
use landfall_protocol::{ChangeHash, DocumentId, Moment, SessionId, SpaceName};
use landfall_test_rng::Rng;

use crate::client::Client;
use crate::relay::{Disk, Relay};

pub struct World {
    pub relay: Relay,
    pub clients: Vec<Client>,
    pub sessions: Vec<Option<SessionId>>,
    pub space: SpaceName,
    pub rng: Rng,
    pub now: Moment,
    pub documents: Vec<DocumentId>,
    /// Every change that an edit returned, and that was not thrown away on purpose.
    pub returned: BTreeSet<(DocumentId, ChangeHash)>,
    /// Every change ever made, with the first client that made it.
    pub made: BTreeMap<(DocumentId, ChangeHash), usize>,
    /// Deleted documents.
    pub deleted: BTreeSet<DocumentId>,
    pub faults: Faults,
    /// The traffic in both directions.
    pub traffic: Traffic,
    /// The relay predates features: both ends' features are hidden.
    pub older_relay: bool,
    /// Recent reasons for which connections ended by themselves.
    pub ends: BTreeMap<String, usize>,
    /// The documents that each client may learn of; `None` for all.
    pub views: Vec<Option<View>>,
    /// Connections that lost a message. A stream never continues after a loss, so nothing arrives
    /// on them any more, until an end times out.
    swallowed: Vec<bool>,
}

#[derive(Clone, Copy, Default)]
pub struct Traffic {
    pub messages: usize,
    pub bytes: usize,
}

/// Fault rates, in percent per step.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lose: u64,
    pub repeat: u64,
    pub cut: u64,
    pub commit_fails: u64,
    pub store_fails: u64,
    /// How often an idle step compacts history, at either end.
    pub compaction: u64,
    /// How often a step deletes a document instead of editing.
    pub delete: u64,
}

impl World {
    pub fn new(seed: u64, clients: usize, faults: Faults) -> Self {
        println!("seed {seed}");
        let mut rng = Rng::new(seed);
        let space: SpaceName = "default".parse().unwrap();
        let relay = Relay::start(Disk::new(rng.bytes()), &space, rng.bytes());
        let documents = (0..4).map(|_| DocumentId::from_bytes(rng.bytes())).collect();
        let mut made: Vec<_> = (0..clients).map(|_| Client::new(rng.bytes(), &space)).collect();
        made.iter_mut().for_each(|client| client.reads_first = seed % 2 == 1);
        Self {
            relay,
            clients: made,
            sessions: vec![None; clients],
            space,
            now: Moment(Duration::from_secs(1)),
            documents,
            returned: BTreeSet::new(),
            made: BTreeMap::new(),
            deleted: BTreeSet::new(),
            rng,
            faults,
            traffic: Traffic::default(),
            older_relay: false,
            ends: BTreeMap::new(),
            views: vec![None; clients],
            swallowed: vec![false; clients],
        }
    }

    pub fn document(&mut self) -> DocumentId {
        self.documents[self.rng.below(self.documents.len())]
    }

    pub fn edit(&mut self, client: usize) {
        let document = self.document();
        self.edit_document(client, document);
    }

    pub fn edit_document(&mut self, client: usize, document: DocumentId) {
        let value = self.rng.next_u64() >> 1;
        for hash in self.clients[client].edit(self.now, document, value) {
            self.returned.insert((document, hash));
            self.made.entry((document, hash)).or_insert(client);
        }
    }

    pub fn delete(&mut self, client: usize, document: DocumentId) {
        self.deleted.insert(document);
        self.clients[client].delete(self.now, document);
    }

    pub fn connect(&mut self, client: usize) {
        self.disconnect(client);
        self.sessions[client] = Some(self.relay.accept(self.now));
        self.clients[client].replica.handle_connected(self.now, None);
        self.clients[client].collect();
    }

    pub fn disconnect(&mut self, client: usize) {
        if let Some(session) = self.sessions[client].take() {
            self.relay.sessions.remove(&session);
        }
        self.clients[client].disconnect();
        self.swallowed[client] = false;
    }

    /// The relay dies, and starts again from a disk; returns its previous disk.
    pub fn restart_relay(&mut self, disk: Disk) -> Disk {
        (0..self.clients.len()).for_each(|client| self.disconnect(client));
        let mut relay = Relay::start(disk, &self.space, self.rng.bytes());
        relay.principals = std::mem::take(&mut self.relay.principals);
        std::mem::replace(&mut self.relay, relay).disk
    }

    /// A client's process ends, and another begins with this store.
    pub fn reopen(&mut self, client: usize, store: crate::store::ModelStore) {
        self.disconnect(client);
        self.clients[client] = self.clients[client].reopen(store, self.rng.bytes());
    }

    /// Adds a client with a copy of another's store.
    pub fn clone_client(&mut self, of: usize) {
        let copy = self.clients[of].reopen(self.clients[of].store.clone(), self.rng.bytes());
        self.add_client(copy);
    }

    pub fn add_client(&mut self, client: Client) {
        self.clients.push(client);
        self.sessions.push(None);
        self.views.push(None);
        self.swallowed.push(false);
    }

    /// One random event.
    pub fn step(&mut self) {
        self.now = self.now.after(Duration::from_millis(self.rng.next_u64() % 200));
        let client = self.rng.below(self.clients.len());
        match self.rng.below(14) {
            0 if self.rng.chance(self.faults.delete) => {
                let document = self.document();
                self.delete(client, document);
            }
            0 => self.edit(client),
            1 | 2 => self.deliver_to_relay(client),
            3 | 4 => self.deliver_to_client(client),
            5 | 6 => {
                let fail = self.rng.chance(self.faults.store_fails);
                self.clients[client].work(self.now, fail);
            }
            7 => {
                self.relay.merge(self.now);
                self.relay.begin_commit();
            }
            8 => {
                let succeeds = !self.rng.chance(self.faults.commit_fails);
                self.relay.finish_commit(self.now, succeeds);
            }
            9 | 10 => {
                if let Some(session) = self.sessions[client] {
                    self.relay.feed(session);
                    self.relay.fetch(self.now, session);
                }
            }
            11 if self.rng.chance(self.faults.cut) => self.disconnect(client),
            12 if self.rng.chance(self.faults.compaction) => self.compact(client),
            _ if self.sessions[client].is_none() => self.connect(client),
            _ => {}
        }
        self.tidy(client);
    }

    /// Compacts some history at either end, or drops what compaction has left.
    fn compact(&mut self, client: usize) {
        let (document, count) = (self.document(), self.rng.below(12));
        match self.rng.below(6) {
            0 | 1 => self.relay.compact(&document, count),
            2 => self.relay.disk.prune(&document),
            3 => self.relay.drop_uploads(),
            _ => self.clients[client].store.compact(document, count * 2),
        }
    }

    /// Reconnects ended sessions, and advances time.
    fn tidy(&mut self, client: usize) {
        let gone = self.sessions[client]
            .is_some_and(|session| !self.relay.sessions.contains_key(&session));
        if self.clients[client].ended.is_some() || gone {
            let why = self.clients[client].ended.clone().unwrap_or_default();
            *self.ends.entry(why).or_default() += 1;
            self.disconnect(client);
        }
        if self.sessions[client].is_some() {
            self.clients[client].replica.handle_timeout(self.now);
            self.clients[client].collect();
        }
    }

    fn deliver_to_relay(&mut self, client: usize) {
        let Some(session) = self.sessions[client] else { return };
        let readable = self.relay.sessions.get(&session).is_some_and(|c| c.session.wants_message());
        if !readable {
            return;
        }
        let Some(message) = self.clients[client].sent.pop_front() else { return };
        if self.is_lost(client, &message) {
            return;
        }
        self.relay.handle(self.now, session, &message);
        if self.rng.chance(self.faults.repeat) {
            self.relay.handle(self.now, session, &message);
        }
    }

    fn is_lost(&mut self, client: usize, message: &[u8]) -> bool {
        self.traffic.messages += 1;
        self.traffic.bytes += message.len();
        if self.older_relay {
            assert!(message[0] <= 16, "an older relay knows no frame of kind {}", message[0]);
            if message[0] == 16 {
                return true;
            }
        }
        self.swallowed[client] |= self.rng.chance(self.faults.lose);
        self.swallowed[client]
    }

    fn deliver_to_client(&mut self, client: usize) {
        let Some(session) = self.sessions[client] else { return };
        if !self.clients[client].replica.wants_message() {
            return;
        }
        let Some(connection) = self.relay.sessions.get_mut(&session) else { return };
        let Some(message) = connection.sent.pop_front() else { return };
        if self.is_lost(client, &message) {
            return;
        }
        self.wiretap(client, &message);
        let replica = &mut self.clients[client].replica;
        replica.handle_message(self.now, &message);
        if self.rng.chance(self.faults.repeat) {
            replica.handle_message(self.now, &message);
        }
        self.clients[client].collect();
    }

    /// No frame tells a client anything about a document that its principal may not read.
    fn wiretap(&self, client: usize, message: &[u8]) {
        let Some(view) = &self.views[client] else { return };
        for frame in Frames::from(message, 0).expect("a message") {
            let named: Vec<DocumentId> = match frame.expect("a frame") {
                Frame::Entries(page) => page.entries.iter().map(|entry| entry.document).collect(),
                Frame::Part(part) => vec![part.document],
                Frame::Document(found) if found.holding != Holding::Absent => vec![found.document],
                Frame::Document(found) => {
                    found.entries.iter().map(|entry| entry.document).collect()
                }
                Frame::Difference(found) => found.branches.iter().flat_map(named_by).collect(),
                _ => Vec::new(),
            };
            assert!(named.iter().all(|document| view.contains(document)), "client {client}");
        }
    }

    /// Runs without faults until nothing is left to do. Bounded.
    pub fn settle(&mut self) {
        self.faults = Faults::default();
        self.ends.clear();
        for _ in 0..20_000 {
            if !self.settle_once() {
                return;
            }
        }
        let upstream = self.relay.disk.upstream;
        let of = |client: &Client| (client.store.pending(upstream), client.phase.clone());
        let clients: Vec<_> = self.clients.iter().map(of).collect();
        panic!("the machines do not come to rest: {clients:?}, ended by {:?}", self.ends);
    }

    /// A message each way, some work at both ends; false if there was nothing to do.
    pub fn exchange(&mut self, client: usize) -> bool {
        let mut busy = !self.clients[client].sent.is_empty();
        self.deliver_to_relay(client);
        let session = self.sessions[client];
        let waiting = session.and_then(|session| self.relay.sessions.get(&session));
        busy |= waiting.is_some_and(|connection| !connection.sent.is_empty());
        self.deliver_to_client(client);
        busy |= self.clients[client].work(self.now, false);
        if let Some(session) = session {
            busy |= self.relay.feed(session) | self.relay.fetch(self.now, session);
        }
        self.tidy(client);
        busy |= self.relay.merge(self.now);
        busy |= self.relay.begin_commit();
        self.relay.finish_commit(self.now, true);
        busy | self.sessions[client].is_none()
    }

    fn settle_once(&mut self) -> bool {
        let mut busy = false;
        for client in 0..self.clients.len() {
            if self.sessions[client].is_none() {
                self.connect(client);
                busy = true;
            }
            busy |= self.exchange(client);
        }
        // Waits out the pause of a nack.
        if !busy {
            let upstream = self.relay.disk.upstream;
            let waits = |client: &Client| {
                client.store.pending(upstream) > 0
                    || client.answered.last() < client.asked().as_ref()
            };
            let pauses = self.clients.iter().any(waits);
            let silent = self.swallowed.contains(&true);
            if pauses || silent {
                self.now = self.now.after(Duration::from_secs(if silent { 16 } else { 3 }));
                (0..self.clients.len()).for_each(|client| self.tidy(client));
                busy = true;
            }
        }
        busy
    }

    /// Checks the promises.
    pub fn check(&mut self) {
        assert!(self.relay.is_idle(), "the relay waits for something");
        let held = self.relay.disk.holds();
        let relay: BTreeSet<_> = held.iter().copied().collect();
        assert_eq!(held.len(), relay.len(), "a change doubled in the relay's log");
        let is_lost = |made: &&(DocumentId, ChangeHash)| {
            !self.deleted.contains(&made.0) && !relay.contains(*made)
        };
        let missing = self.returned.iter().filter(is_lost).count();
        assert_eq!(missing, 0, "the relay lacks a saved change");
        assert!(relay.iter().all(|held| self.made.contains_key(held)), "no client made it");
        assert!(!relay.iter().any(|(document, _)| self.deleted.contains(document)), "risen");
        for index in 0..self.clients.len() {
            self.check_client(index, &relay);
        }
        self.check_told();
    }

    fn check_client(&self, index: usize, relay: &BTreeSet<(DocumentId, ChangeHash)>) {
        let client = &self.clients[index];
        let ours = client.store.holds();
        let distinct: BTreeSet<_> = ours.iter().copied().collect();
        assert_eq!(ours.len(), distinct.len(), "doubled at client {index}");
        let filter = client.store.filter.clone().unwrap_or(Filter::Everything);
        let wanted = |held: &&(DocumentId, ChangeHash)| filter.wants(&held.0);
        let missing = relay.iter().filter(wanted).filter(|held| !distinct.contains(*held));
        assert_eq!(missing.count(), 0, "client {index} misses changes");
        let more = distinct.difference(relay).filter(wanted);
        assert_eq!(more.count(), 0, "client {index} has changes that the relay lacks");
        let deferred: Vec<_> = client.store.deferred.iter().map(|(.., error)| error).collect();
        assert!(deferred.is_empty(), "client {index}: {deferred:?}");
        assert_eq!(client.phase, SpacePhase::Live, "client {index}");
        let upstream = self.relay.disk.upstream;
        assert_eq!(client.store.pending(upstream), 0, "client {index} has an outbox");
        // A client learns of the deletion of a document outside its filter by a rejected push.
        let unknown = |d: &&DocumentId| !self.deleted.contains(d) || filter.wants(d);
        let refused = client.store.links[&upstream].rejected.iter().filter(unknown).count();
        assert_eq!(refused, 0, "client {index} was refused");
        for document in self.deleted.iter().filter(|document| filter.wants(document)) {
            assert!(client.store.tombstones.contains_key(document), "client {index}");
        }
    }

    /// The author of a change of a deleted document saw it acknowledged, or was notified.
    fn check_told(&self) {
        for ((document, hash), author) in &self.made {
            let store = &self.clients[*author].store;
            let is_told = store.told.contains(hash)
                || store.acknowledged.contains(hash)
                || store.links.values().any(|link| link.rejected.contains(document));
            let is_deleted = self.deleted.contains(document);
            let is_counted = self.returned.contains(&(*document, *hash));
            assert!(!is_deleted || !is_counted || is_told, "the author of {hash} was not notified");
        }
    }
}

/// The documents that a branch lists.
fn named_by(branch: &Branch) -> Vec<DocumentId> {
    match &branch.node {
        Node::DigestEntries(entries) => entries.iter().map(|(document, _)| *document).collect(),
        Node::Children(_) => Vec::new(),
    }
}
