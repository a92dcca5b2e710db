//! A replica's machine over a model of an engine's store.

use std::collections::{BTreeMap, VecDeque};

use automerge::{Automerge, ROOT, transaction::Transactable};
use landfall_protocol::Patience;
use landfall_protocol::admission::{Roots, Verdict, admit, preflight};
use landfall_protocol::client::{PART_WEIGHT, Replica, ReplicaEffect, SpacePhase, Unchecked};
use landfall_protocol::frame::{Filter, encode};
use landfall_protocol::weight::Weight;
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Moment, ReplicaId, SpaceName, Upstream};

use crate::model;
use crate::store::{Link, ModelStore};

pub struct Client {
    pub replica: Replica,
    pub store: ModelStore,
    pub space: SpaceName,
    pub upstream: Option<Upstream>,
    pub phase: SpacePhase,
    /// Requested store operations that have not been performed.
    pub jobs: VecDeque<ReplicaEffect>,
    /// Messages on the way to the relay.
    pub sent: VecDeque<Vec<u8>>,
    pub ended: Option<String>,
    /// The ticket of the last check, the answered tickets, and the reasons for checks that were not
    /// made.
    pub tickets: u64,
    pub answered: Vec<u64>,
    pub unchecked: Vec<Unchecked>,
    /// Whether reads overtake writes.
    pub reads_first: bool,
    /// The actor of its documents' first change; another one begins an unrelated history.
    pub root: u8,
    /// Loaded documents, each with its position in our log.
    documents: BTreeMap<DocumentId, (Automerge, u64)>,
    id: [u8; 16],
    actor: ActorId,
}

impl Client {
    pub fn new(id: [u8; 16], space: &SpaceName) -> Self {
        Self::open(id, space, ModelStore::default(), ActorId::from(id))
    }

    /// Opens an existing store, with a unique actor.
    pub fn open(id: [u8; 16], space: &SpaceName, store: ModelStore, actor: ActorId) -> Self {
        let mut replica =
            Replica::new(ReplicaId::from_bytes(id), "model".into(), Patience::default());
        replica.handle_space(space.clone());
        Self {
            replica,
            store,
            space: space.clone(),
            upstream: None,
            phase: SpacePhase::Waiting,
            jobs: VecDeque::new(),
            sent: VecDeque::new(),
            ended: None,
            tickets: 0,
            answered: Vec::new(),
            unchecked: Vec::new(),
            reads_first: false,
            root: 7,
            documents: BTreeMap::new(),
            id,
            actor,
        }
    }

    pub fn replica_id(&self) -> ReplicaId {
        ReplicaId::from_bytes(self.id)
    }

    /// The same store in another process; `fresh` names its actor.
    pub fn reopen(&self, store: ModelStore, fresh: [u8; 16]) -> Self {
        let (root, reads_first) = (self.root, self.reads_first);
        Self { root, reads_first, ..Self::open(self.id, &self.space, store, ActorId::from(fresh)) }
    }

    /// A local change, in the store when this returns, like an engine's `change()`. Returns the new
    /// changes, including the document's first one if it had none; nothing if the document is
    /// deleted.
    pub fn edit(&mut self, now: Moment, document: DocumentId, value: u64) -> Vec<ChangeHash> {
        if self.store.tombstones.contains_key(&document) {
            return vec![];
        }
        let mut made = Vec::new();
        if self.store.rows(&document).next().is_none() {
            let root = model::root(self.root);
            made.push(root.hash);
            self.store.insert(document, root);
        }
        let (automerge, seen) = self
            .documents
            .entry(document)
            .or_insert_with(|| (Automerge::new().with_actor(self.actor.clone()), 0));
        let new_rows = self.store.rows(&document).filter(|(local, _)| *local > *seen);
        let changes = new_rows
            .map(|(_, change)| automerge::Change::from_bytes(change.bytes.clone()).unwrap())
            .collect::<Vec<_>>();
        automerge.apply_changes(changes).unwrap();
        let mut transaction = automerge.transaction();
        transaction.put(ROOT, format!("k{}", value % 5), value as i64).unwrap();
        transaction.commit();
        let change = automerge.get_last_local_change().unwrap();
        let checked = preflight(change.raw_bytes()).unwrap();
        assert_eq!(admit(&self.store, &document, &checked, Roots::One), Ok(Ok(Verdict::New)));
        made.push(checked.hash);
        *seen = self.store.insert(document, checked);
        self.replica.handle_local(now, &self.space.clone());
        self.collect();
        made
    }

    pub fn delete(&mut self, now: Moment, document: DocumentId) {
        self.store.delete(document);
        self.replica.handle_local(now, &self.space.clone());
        self.collect();
    }

    pub fn set_filter(&mut self, filter: Filter) {
        self.store.filter = Some(filter.clone());
        self.replica.handle_filter(&self.space.clone(), filter);
        self.collect();
    }

    pub fn check(&mut self, now: Moment) -> bool {
        self.tickets += 1;
        self.replica.handle_check(now, &self.space.clone(), self.tickets);
        let began = self.replica.is_checking(&self.space);
        self.collect();
        began
    }

    /// The last ticket, if there is one.
    pub fn asked(&self) -> Option<u64> {
        (self.tickets > 0).then_some(self.tickets)
    }

    /// Merges a document's two histories, as the application asked.
    pub fn merge_histories(&mut self, now: Moment, document: DocumentId) {
        self.store.merge_histories(self.upstream.expect("an upstream is known"), document);
        self.documents.remove(&document);
        self.replica.handle_retried(now, &self.space.clone(), &document);
        self.collect();
    }

    /// Sorts effects into frames sent at once and store operations performed later.
    pub fn collect(&mut self) {
        while let Some(effect) = self.replica.poll_effect() {
            match effect {
                ReplicaEffect::Send(frame) => self.sent.push_back(encode(&frame)),
                ReplicaEffect::Welcomed(upstream) => self.upstream = Some(upstream),
                ReplicaEffect::Phase { phase, .. } => self.phase = phase,
                // These tests send no ephemeral messages.
                ReplicaEffect::SendsEphemeral { .. } | ReplicaEffect::Ephemeral { .. } => {}
                ReplicaEffect::End(reason) => self.ended = Some(reason.to_string()),
                job => {
                    let finishes = matches!(job, ReplicaEffect::FinishComparison { .. });
                    let writes = self.jobs.iter().any(is_arrival);
                    assert!(!finishes || !writes, "the end depends on a commit that may fail");
                    self.jobs.push_back(job);
                }
            }
        }
    }

    /// Performs the next store operation, or fails it. A store reads beside its writer, so reads
    /// overtake queued writes; and operations queued behind a failure are still performed.
    pub fn work(&mut self, now: Moment, fail: bool) -> bool {
        let reads = self.jobs.iter().position(is_read).filter(|_| self.reads_first);
        let Some(job) = self.jobs.remove(reads.unwrap_or(0)) else { return false };
        let done = match fail {
            true => Err("disk full"),
            false => self.perform(now, job),
        };
        if let Err(what) = done {
            self.replica.handle_store_failed(what.into());
        }
        self.collect();
        true
    }

    fn perform(&mut self, now: Moment, job: ReplicaEffect) -> Result<(), &'static str> {
        let upstream = self.upstream.expect("an upstream is known");
        let (replica, store) = (&mut self.replica, &mut self.store);
        match job {
            ReplicaEffect::LoadResume { upstream, space } => {
                let point = store.resume(upstream);
                replica.handle_resume(&space, point);
            }
            ReplicaEffect::Store(batch) => {
                let (space, bytes) = (batch.space.clone(), batch.bytes);
                store.receive(upstream, batch)?;
                replica.handle_stored(now, &space, bytes);
            }
            ReplicaEffect::StoreDocument(batch) => {
                let (space, bytes) = (batch.space.clone(), batch.bytes);
                store.receive_document(upstream, batch)?;
                replica.handle_stored(now, &space, bytes);
            }
            ReplicaEffect::StorePart { space, hash, from, bytes, .. } => {
                store.store_part(upstream, hash, from, &bytes)?;
                replica.handle_stored(now, &space, bytes.len() + PART_WEIGHT);
            }
            ReplicaEffect::Reset { space } => {
                let through = store.reset(upstream);
                replica.handle_reset(now, &space, through);
            }
            ReplicaEffect::LoadBranches { space, prefixes } => {
                let ours = store.branches(&prefixes);
                replica.handle_branches(now, &space, &ours);
            }
            ReplicaEffect::LoadHeads { space, documents } => {
                replica.handle_heads(&space, store.heads(&documents));
            }
            ReplicaEffect::FinishComparison { space, cursor, through, except } => {
                store.finish_comparison(upstream, cursor, through, &except);
                replica.handle_compared(now, &space);
            }
            ReplicaEffect::Checked { ticket, drifted, .. } => {
                self.answered.push(ticket);
                store.checked.push(drifted);
            }
            ReplicaEffect::NotChecked { ticket, why, .. } => {
                self.answered.push(ticket);
                self.unchecked.push(why);
            }
            other => self.perform_push(now, upstream, other),
        }
        Ok(())
    }

    fn perform_push(&mut self, now: Moment, upstream: Upstream, job: ReplicaEffect) {
        let (replica, store) = (&mut self.replica, &mut self.store);
        match job {
            ReplicaEffect::LoadOutbox { space, after, changes, .. } => {
                let (page, more) = store.outbox(upstream, after, changes);
                replica.handle_outbox(now, &space, page, more);
            }
            ReplicaEffect::LoadSnapshotPart { space, document, hash, from } => {
                let bytes = store.snapshot_part(&document, hash, from);
                replica.handle_snapshot_part(now, &space, document, from, bytes);
            }
            ReplicaEffect::Acknowledged { locals, mark, .. } => {
                store.acknowledge(upstream, &locals, mark);
            }
            ReplicaEffect::SnapshotAcknowledged { document, hash, mark, .. } => {
                store.acknowledge_snapshot(upstream, &document, hash, mark);
            }
            ReplicaEffect::Refused { .. } => {}
            ReplicaEffect::Reject { document, deletion, .. } => {
                // The deletion may be present already.
                if deletion || !store.tombstones.contains_key(&document) {
                    store.link(upstream).rejected.insert(document);
                }
            }
            ReplicaEffect::Requeue { space, document } => {
                store.requeue(upstream, &document);
                replica.handle_requeued(now, &space);
            }
            ReplicaEffect::Delayed { .. }
            | ReplicaEffect::Repaired { .. }
            | ReplicaEffect::DropMade { .. } => {}
            ReplicaEffect::LoadResend { space, document, changes } => {
                let found = store.resendable(&document, &changes);
                let compacted = Weight::default();
                replica.handle_resendable(now, &space, document, found, compacted);
            }
            other => panic!("no store work: {other:?}"),
        }
    }

    pub fn link(&mut self) -> &mut Link {
        self.store.link(self.upstream.expect("an upstream is known"))
    }

    pub fn disconnect(&mut self) {
        self.replica.handle_disconnected();
        self.jobs.clear();
        self.sent.clear();
        self.collect();
        self.ended = None;
        self.upstream = None;
    }
}

fn is_arrival(job: &ReplicaEffect) -> bool {
    matches!(
        job,
        ReplicaEffect::Store(_) | ReplicaEffect::StorePart { .. } | ReplicaEffect::StoreDocument(_)
    )
}

fn is_read(job: &ReplicaEffect) -> bool {
    matches!(
        job,
        ReplicaEffect::LoadOutbox { .. }
            | ReplicaEffect::LoadBranches { .. }
            | ReplicaEffect::LoadHeads { .. }
            | ReplicaEffect::LoadSnapshotPart { .. }
    )
}
