//! A relay, some clients, and a network that loses, repeats and cuts.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_protocol::replica::SpacePhase;
use landfall_protocol::{ChangeHash, DocumentId, Moment, SessionId, SpaceName};

use crate::client::Client;
use crate::relay::{Disk, Relay};
use crate::rng::Rng;

pub struct World {
    pub relay: Relay,
    pub clients: Vec<Client>,
    pub sessions: Vec<Option<SessionId>>,
    pub space: SpaceName,
    pub rng: Rng,
    pub now: Moment,
    pub documents: Vec<DocumentId>,
    /// Every change that an edit returned.
    pub returned: BTreeSet<(DocumentId, ChangeHash)>,
    pub faults: Faults,
    /// Connections that lost a message: a stream never loses one and then goes on, so nothing
    /// arrives on them any more, until somebody notices the silence.
    swallowed: Vec<bool>,
}

/// How bad it is, in percent per step.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lose: u64,
    pub repeat: u64,
    pub cut: u64,
    pub commit_fails: u64,
    pub store_fails: u64,
}

impl World {
    pub fn new(seed: u64, clients: usize, faults: Faults) -> Self {
        println!("seed {seed}");
        let mut rng = Rng::new(seed);
        let space: SpaceName = "default".parse().unwrap();
        let relay = Relay::start(Disk::new(rng.bytes()), &space, rng.bytes());
        let documents = (0..3).map(|_| DocumentId::from_bytes(rng.bytes())).collect();
        Self {
            relay,
            clients: (0..clients).map(|_| Client::new(rng.bytes(), &space)).collect(),
            sessions: vec![None; clients],
            space,
            now: Moment(Duration::from_secs(1)),
            documents,
            returned: BTreeSet::new(),
            rng,
            faults,
            swallowed: vec![false; clients],
        }
    }

    pub fn edit(&mut self, client: usize) {
        let document = self.documents[self.rng.below(self.documents.len())];
        let value = self.rng.next() >> 1;
        let hash = self.clients[client].edit(self.now, document, value);
        self.returned.insert((document, hash));
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

    /// The relay dies, and starts again from a disk.
    pub fn restart_relay(&mut self, disk: Disk) {
        (0..self.clients.len()).for_each(|client| self.disconnect(client));
        self.relay = Relay::start(disk, &self.space, self.rng.bytes());
    }

    /// One random event.
    pub fn step(&mut self) {
        self.now = self.now.after(Duration::from_millis(self.rng.next() % 200));
        let client = self.rng.below(self.clients.len());
        match self.rng.below(12) {
            0 => self.edit(client),
            1 | 2 => self.deliver_to_relay(client),
            3 | 4 => self.deliver_to_client(client),
            5 | 6 => {
                let fail = self.rng.chance(self.faults.store_fails);
                self.clients[client].work(self.now, fail);
            }
            7 => {
                self.relay.begin_commit();
            }
            8 => {
                let succeeds = !self.rng.chance(self.faults.commit_fails);
                self.relay.finish_commit(self.now, succeeds);
            }
            9 => {
                if let Some(session) = self.sessions[client] {
                    self.relay.feed(session);
                }
            }
            10 if self.rng.chance(self.faults.cut) => self.disconnect(client),
            _ if self.sessions[client].is_none() => self.connect(client),
            _ => {}
        }
        self.tidy(client);
    }

    /// Reconnects whoever ended, and lets time work.
    fn tidy(&mut self, client: usize) {
        let gone = self.sessions[client]
            .is_some_and(|session| !self.relay.sessions.contains_key(&session));
        if self.clients[client].ended.is_some() || gone {
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
        if self.is_lost(client) {
            return;
        }
        self.relay.handle(self.now, session, &message);
        if self.rng.chance(self.faults.repeat) {
            self.relay.handle(self.now, session, &message);
        }
    }

    fn is_lost(&mut self, client: usize) -> bool {
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
        if self.is_lost(client) {
            return;
        }
        let replica = &mut self.clients[client].replica;
        replica.handle_message(self.now, &message);
        if self.rng.chance(self.faults.repeat) {
            replica.handle_message(self.now, &message);
        }
        self.clients[client].collect();
    }

    /// No more faults: everything that can happen happens, until nothing is left. Bounded.
    pub fn settle(&mut self) {
        self.faults = Faults::default();
        for _ in 0..20_000 {
            if !self.settle_once() {
                return;
            }
        }
        panic!("the machines do not come to rest");
    }

    fn settle_once(&mut self) -> bool {
        let mut busy = false;
        for client in 0..self.clients.len() {
            if self.sessions[client].is_none() {
                self.connect(client);
                busy = true;
            }
            busy |= !self.clients[client].sent.is_empty();
            self.deliver_to_relay(client);
            let session = self.sessions[client];
            let waiting = session.and_then(|session| self.relay.sessions.get(&session));
            busy |= waiting.is_some_and(|connection| !connection.sent.is_empty());
            self.deliver_to_client(client);
            busy |= self.clients[client].work(self.now, false);
            busy |= session.is_some_and(|session| self.relay.feed(session));
            self.tidy(client);
            busy |= self.sessions[client].is_none();
        }
        busy |= self.relay.begin_commit();
        self.relay.finish_commit(self.now, true);
        // A pause that a nack asked for passes; one that is only a silence does not.
        if !busy {
            let pauses = self.clients.iter().any(|client| {
                client.replica.poll_timeout() < self.now.after(Duration::from_secs(10))
            });
            let silent = self.swallowed.contains(&true);
            if pauses || silent {
                self.now = self.now.after(Duration::from_secs(if silent { 16 } else { 3 }));
                (0..self.clients.len()).for_each(|client| self.tidy(client));
                busy = true;
            }
        }
        busy
    }

    /// The promises.
    pub fn check(&mut self) {
        let log = &self.relay.disk.log;
        let relay: Vec<_> = log.iter().map(|new| (new.entry.document, new.entry.hash())).collect();
        let distinct: BTreeSet<_> = relay.iter().copied().collect();
        assert_eq!(relay.len(), distinct.len(), "a change doubled in the relay's log");
        let missing = self.returned.difference(&distinct).count();
        assert_eq!(missing, 0, "the relay does not hold what was returned");
        assert_eq!(distinct.len(), self.returned.len(), "the relay holds what nobody made");
        for (index, client) in self.clients.iter_mut().enumerate() {
            assert_eq!(client.store.log.len(), client.holds().len(), "doubled at client {index}");
            let missing = self.returned.difference(&client.holds()).count();
            assert_eq!(missing, 0, "client {index} misses changes");
            assert_eq!(client.store.log.len(), self.returned.len(), "client {index}");
            assert_eq!(client.store.aside, 0);
            assert_eq!(client.phase, SpacePhase::Live, "client {index}");
            assert_eq!(client.link().2.len(), self.returned.len(), "client {index} has an outbox");
        }
    }
}
