//! The relay's machines over a model of its log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use landfall_protocol::admission::{History, Known};
use landfall_protocol::frame::{EncodedEntry, encode};
use landfall_protocol::lineage::{EpochRecord, Lineage};
use landfall_protocol::rights::Everything;
use landfall_protocol::ring::{Page, Ring};
use landfall_protocol::session::{Patience, Session, SessionEffect, check_push};
use landfall_protocol::space::{Answer, Commit, NewEntry, Space, StoreFailure};
use landfall_protocol::{
    ActorId, ChangeHash, DocumentId, Epoch, Moment, Offset, SessionId, SpaceName, Upstream,
};

/// What is on the relay's disk. A clone is a backup.
#[derive(Clone)]
pub struct Disk {
    pub upstream: Upstream,
    pub log: Vec<NewEntry>,
    pub epochs: Vec<EpochRecord>,
}

impl Disk {
    pub fn new(upstream: [u8; 16]) -> Self {
        Self { upstream: Upstream::from_bytes(upstream), log: Vec::new(), epochs: Vec::new() }
    }

    fn head(&self) -> Offset {
        self.log.last().map_or(Offset(0), |entry| entry.entry.offset)
    }
}

impl History for Disk {
    type Error = std::convert::Infallible;

    fn last_sequence(&self, d: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Self::Error> {
        let of_actor =
            self.log.iter().filter(|new| new.entry.document == *d && new.actor == *actor);
        Ok(of_actor.map(|new| new.seq).max())
    }

    fn at_sequence(
        &self,
        d: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<Known>, Self::Error> {
        let found = self
            .log
            .iter()
            .find(|new| new.entry.document == *d && new.actor == *actor && new.seq == sequence);
        Ok(found.map(|new| Known { hash: new.entry.hash(), position: new.entry.offset }))
    }

    fn max_op(&self, d: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Self::Error> {
        let found =
            self.log.iter().find(|new| new.entry.document == *d && new.entry.hash() == *hash);
        Ok(found.map(|new| new.max_op))
    }
}

/// A relay process: what a restart forgets.
pub struct Relay {
    pub disk: Disk,
    pub space: Space,
    pub ring: Ring,
    pub sessions: BTreeMap<SessionId, Connection>,
    /// The commit that the disk is writing.
    pub writing: Option<Arc<Commit>>,
    name: SpaceName,
    next_session: u64,
}

/// One session and what is on its way to the client.
pub struct Connection {
    pub session: Session,
    pub sent: VecDeque<Vec<u8>>,
}

impl Relay {
    pub fn start(disk: Disk, name: &SpaceName, fresh: [u8; 16]) -> Self {
        let lineage = Lineage::new(disk.epochs.clone(), disk.head());
        let space = Space::new(name.clone(), lineage, Epoch::from_bytes(fresh));
        // A ring so small that sessions are often behind it.
        let ring = Ring::new(disk.head(), 2_000);
        let sessions = BTreeMap::new();
        Self { disk, space, ring, sessions, writing: None, name: name.clone(), next_session: 1 }
    }

    pub fn accept(&mut self, now: Moment) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let patience = Patience::default();
        let session = Session::new(id, self.disk.upstream, "model".into(), patience, now);
        self.sessions.insert(id, Connection { session, sent: VecDeque::new() });
        id
    }

    /// A message from the client; false if the session ended.
    pub fn handle(&mut self, now: Moment, id: SessionId, message: &[u8]) -> bool {
        let Some(connection) = self.sessions.get_mut(&id) else { return false };
        connection.session.handle_message(now, message, &Everything);
        self.drain(now, id)
    }

    fn drain(&mut self, now: Moment, id: SessionId) -> bool {
        loop {
            let Some(connection) = self.sessions.get_mut(&id) else { return false };
            let Some(effect) = connection.session.poll_effect() else { return true };
            match effect {
                SessionEffect::Send(frame) => connection.sent.push_back(encode(&frame)),
                SessionEffect::Attach { subscription, cursor, acknowledged, .. } => {
                    let lineage = self.space.lineage();
                    let resume = lineage.resume(cursor, acknowledged);
                    let (epoch, head) = (lineage.epoch(), lineage.head());
                    connection.session.handle_attached(subscription, epoch, head, resume);
                }
                SessionEffect::Detach(_) => {}
                SessionEffect::Push { space, push } => {
                    assert_eq!(space, self.name);
                    let identity = connection.session.identity().expect("ready").clone();
                    let checked = check_push(id, &identity, push);
                    let (answer, _) = self.space.handle_push(checked, &self.disk, 0);
                    self.answer(now, answer);
                }
                SessionEffect::End(_) => {
                    self.sessions.remove(&id);
                    return false;
                }
            }
        }
    }

    fn answer(&mut self, now: Moment, answers: impl IntoIterator<Item = Answer>) {
        for answer in answers {
            let id = answer.session;
            if let Some(connection) = self.sessions.get_mut(&id) {
                connection.session.handle_answer(now, answer);
                self.drain(now, id);
            }
        }
    }

    /// Hands the next commit to the disk, if there is one.
    pub fn begin_commit(&mut self) -> bool {
        if self.writing.is_none() {
            self.writing = self.space.poll_commit();
        }
        self.writing.is_some()
    }

    /// The disk finishes what it is writing.
    pub fn finish_commit(&mut self, now: Moment, succeeds: bool) {
        let Some(commit) = self.writing.take() else { return };
        if !succeeds {
            let answers = self.space.handle_commit_failed(StoreFailure::Full);
            return self.answer(now, answers);
        }
        self.disk.epochs.extend(commit.opens);
        self.disk.log.extend(commit.entries.iter().cloned());
        let outcome = self.space.handle_committed();
        if let Some((epoch, entries)) = outcome.publish {
            self.ring.publish(epoch, entries);
        }
        self.answer(now, outcome.answers);
    }

    /// Feeds a session one page, from the ring or else from the disk.
    pub fn feed(&mut self, id: SessionId) -> bool {
        let Some(connection) = self.sessions.get_mut(&id) else { return false };
        let Some(after) = connection.session.position(0) else { return false };
        let page = self.ring.page(after).unwrap_or_else(|| page(&self.disk, after));
        match connection.session.handle_page(0, &page) {
            Some(message) => connection.sent.push_back(message),
            None => return false,
        }
        true
    }
}

/// A short page from the disk.
fn page(disk: &Disk, after: Offset) -> Page {
    let entries: Vec<_> = disk
        .log
        .iter()
        .filter(|new| new.entry.offset > after)
        .take(4)
        .map(|new| Arc::new(EncodedEntry::new(&new.entry)))
        .collect();
    let up_to = entries.last().map_or(after, |entry| entry.offset());
    let lineage = Lineage::new(disk.epochs.clone(), disk.head());
    let epoch = lineage.epoch_at(up_to).unwrap_or(Epoch::from_bytes([0; 16]));
    Page { after, up_to, epoch, head: disk.head(), entries }
}
