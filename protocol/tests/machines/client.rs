//! A replica's machine over a model of an engine's store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use automerge::{Automerge, ROOT, transaction::Transactable};
use landfall_protocol::admission::{CheckedChange, History, Known, Verdict, admit, preflight};
use landfall_protocol::frame::{Mark, encode};
use landfall_protocol::replica::{
    Batch, Incoming, OutboxChange, Replica, ReplicaEffect, ResumePoint, SpacePhase,
};
use landfall_protocol::session::Patience;
use landfall_protocol::{
    ActorId, ChangeHash, Cursor, DocumentId, Local, Moment, Offset, ReplicaId, SpaceName, Upstream,
};

/// Cursor, mark, and the locals that an upstream holds.
pub type Link = (Option<Cursor>, Option<Mark>, BTreeSet<u64>);

/// What an engine keeps: never lost, whatever happens to connections.
#[derive(Default)]
pub struct ModelStore {
    pub log: Vec<(DocumentId, CheckedChange)>,
    pub links: BTreeMap<Upstream, Link>,
    pub parked: BTreeSet<DocumentId>,
    pub aside: usize,
}

impl ModelStore {
    fn local_of(&self, document: &DocumentId, hash: &ChangeHash) -> Option<u64> {
        let found = self.log.iter().position(|(d, c)| d == document && c.hash == *hash);
        found.map(|index| index as u64 + 1)
    }
}

impl History for ModelStore {
    type Error = std::convert::Infallible;

    fn last_sequence(&self, d: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Self::Error> {
        let of_actor = self.log.iter().filter(|(doc, c)| doc == d && c.actor == *actor);
        Ok(of_actor.map(|(_, change)| change.seq).max())
    }

    fn at_sequence(
        &self,
        d: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<Known>, Self::Error> {
        let found =
            self.log.iter().position(|(doc, c)| doc == d && c.actor == *actor && c.seq == sequence);
        Ok(found.map(|index| Known {
            hash: self.log[index].1.hash,
            position: Offset(index as u64 + 1),
        }))
    }

    fn max_op(&self, d: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Self::Error> {
        Ok(self.local_of(d, hash).map(|local| self.log[local as usize - 1].1.max_op))
    }
}

pub struct Client {
    pub replica: Replica,
    pub store: ModelStore,
    pub space: SpaceName,
    pub upstream: Option<Upstream>,
    pub phase: SpacePhase,
    /// Store work that was asked for and not done yet.
    pub jobs: VecDeque<ReplicaEffect>,
    /// Messages on the way to the relay.
    pub sent: VecDeque<Vec<u8>>,
    pub ended: Option<String>,
    /// What was live when: the status must not claim more than is so.
    documents: BTreeMap<DocumentId, (Automerge, usize)>,
    actor: ActorId,
}

impl Client {
    pub fn new(id: [u8; 16], space: &SpaceName) -> Self {
        let mut replica =
            Replica::new(ReplicaId::from_bytes(id), "model".into(), Patience::default());
        replica.handle_space(space.clone());
        Self {
            replica,
            store: ModelStore::default(),
            space: space.clone(),
            upstream: None,
            phase: SpacePhase::Waiting,
            jobs: VecDeque::new(),
            sent: VecDeque::new(),
            ended: None,
            documents: BTreeMap::new(),
            actor: ActorId::from(id),
        }
    }

    /// A local change: in the store when this returns, as an engine's `change()`.
    pub fn edit(&mut self, now: Moment, document: DocumentId, value: u64) -> ChangeHash {
        let (automerge, seen) = self
            .documents
            .entry(document)
            .or_insert_with(|| (Automerge::new().with_actor(self.actor.clone()), 0));
        let news = self.store.log[*seen..].iter().filter(|(d, _)| *d == document);
        let changes = news
            .map(|(_, change)| automerge::Change::from_bytes(change.bytes.clone()).unwrap())
            .collect::<Vec<_>>();
        automerge.apply_changes(changes).unwrap();
        let mut transaction = automerge.transaction();
        transaction.put(ROOT, format!("k{}", value % 5), value as i64).unwrap();
        transaction.commit();
        let change = automerge.get_last_local_change().unwrap();
        let checked = preflight(change.raw_bytes()).unwrap();
        assert_eq!(admit(&self.store, &document, &checked).unwrap(), Ok(Verdict::New));
        self.store.log.push((document, checked));
        *seen = self.store.log.len();
        self.replica.handle_local(now, &self.space.clone());
        self.collect();
        change.hash()
    }

    /// Sorts effects into what is sent at once and what a store does later.
    pub fn collect(&mut self) {
        while let Some(effect) = self.replica.poll_effect() {
            match effect {
                ReplicaEffect::Send(frame) => self.sent.push_back(encode(&frame)),
                ReplicaEffect::Welcomed(upstream) => self.upstream = Some(upstream),
                ReplicaEffect::Phase { phase, .. } => self.phase = phase,
                ReplicaEffect::End(reason) => self.ended = Some(reason.to_string()),
                job => self.jobs.push_back(job),
            }
        }
    }

    /// Does the next piece of store work, or fails at it.
    pub fn work(&mut self, now: Moment, fail: bool) -> bool {
        let Some(job) = self.jobs.pop_front() else { return false };
        match job {
            _ if fail => self.replica.handle_store_failed("disk full".into()),
            ReplicaEffect::LoadResume { upstream, space } => {
                let (cursor, acknowledged, _) = self.store.links.entry(upstream).or_default();
                let point = ResumePoint { cursor: *cursor, acknowledged: *acknowledged };
                self.replica.handle_resume(&space, point);
            }
            ReplicaEffect::Store(batch) => self.receive(now, batch),
            ReplicaEffect::Reset { space } => {
                *self.link() = Default::default();
                self.store.parked.clear();
                self.replica.handle_reset(now, &space);
            }
            ReplicaEffect::LoadOutbox { space, after, changes, bytes } => {
                let (page, more) = self.outbox(after, changes, bytes);
                self.replica.handle_outbox(now, &space, page, more);
            }
            ReplicaEffect::Acknowledged { locals, mark, .. } => {
                let link = self.link();
                link.2.extend(locals.iter().map(|local| local.0));
                if link.1.is_none_or(|old| old.offset < mark.offset) {
                    link.1 = Some(mark);
                }
            }
            ReplicaEffect::Park { document, .. } => {
                self.store.parked.insert(document);
            }
            ReplicaEffect::Requeue { space, document } => {
                let locals = self.store.log.iter().enumerate();
                let locals: Vec<u64> = locals
                    .filter(|(_, (d, _))| *d == document)
                    .map(|(index, _)| index as u64 + 1)
                    .collect();
                self.link().2.retain(|held| !locals.contains(held));
                self.replica.handle_requeued(now, &space);
            }
            other => panic!("no store work: {other:?}"),
        }
        self.collect();
        true
    }

    pub fn link(&mut self) -> &mut Link {
        let upstream = self.upstream.expect("an upstream was met");
        self.store.links.entry(upstream).or_default()
    }

    fn outbox(&mut self, after: Local, most: usize, bytes: usize) -> (Vec<OutboxChange>, bool) {
        let held = self.link().2.clone();
        let (mut page, mut weight) = (Vec::new(), 0);
        for (index, (document, change)) in self.store.log.iter().enumerate() {
            let local = index as u64 + 1;
            if local <= after.0 || held.contains(&local) || self.store.parked.contains(document) {
                continue;
            }
            if page.len() >= most.min(3) || (weight + change.bytes.len() > bytes && weight > 0) {
                return (page, true);
            }
            weight += change.bytes.len();
            let (local, bytes) = (Local(local), change.bytes.clone());
            page.push(OutboxChange { local, document: *document, bytes });
        }
        (page, false)
    }

    fn receive(&mut self, now: Moment, batch: Batch) {
        let at = self.link().0.map_or(Offset(0), |cursor| cursor.offset);
        if at != batch.after {
            return self.replica.handle_store_failed("not the next batch".into());
        }
        for incoming in batch.entries {
            match incoming {
                Incoming::Change { document, change, .. } => {
                    match admit(&self.store, &document, &change).unwrap() {
                        Ok(Verdict::New) => {
                            self.store.log.push((document, change));
                            let local = self.store.log.len() as u64;
                            self.link().2.insert(local);
                        }
                        Ok(Verdict::Duplicate(known)) => {
                            self.link().2.insert(known.position.0);
                        }
                        Err(_) => self.store.aside += 1,
                    }
                }
                Incoming::Echo { document, hash } => {
                    let local = self.store.local_of(&document, &hash).expect("echo of our own");
                    self.link().2.insert(local);
                }
                Incoming::Aside { .. } => self.store.aside += 1,
            }
        }
        self.link().0 = Some(batch.cursor);
        self.replica.handle_stored(now, &batch.space, batch.bytes);
    }

    pub fn disconnect(&mut self) {
        self.replica.handle_disconnected();
        self.jobs.clear();
        self.sent.clear();
        self.collect();
        self.ended = None;
        self.upstream = None;
    }

    /// Every change held, by document and hash.
    pub fn holds(&self) -> BTreeSet<(DocumentId, ChangeHash)> {
        self.store.log.iter().map(|(document, change)| (*document, change.hash)).collect()
    }
}
