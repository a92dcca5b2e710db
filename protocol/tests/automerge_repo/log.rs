//! A model of the relay's log: durable changes, compacted or not, and the store's answers. It sends
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use automerge::Automerge;
use landfall_protocol::admission::{DocumentSize, History, KnownChange};
use landfall_protocol::automerge_repo::peer::{LogState, Planned};
use landfall_protocol::automerge_repo::plan::{Plan, SyncRequest};
use landfall_protocol::automerge_repo::{CompactedHistory, DocumentIndex, IndexRow};
use landfall_protocol::compacted::{CompactedChange, PackedIndex};
use landfall_protocol::frame::Entry;
use landfall_protocol::relay::{Commit, EpochRecord, Lineage, NewKind, Snapshot};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset};
use sha2::{Digest, Sha256};

/// The durable entries.
#[derive(Default)]
pub struct Log {
    epochs: Vec<EpochRecord>,
    head: Offset,
    pub documents: BTreeMap<DocumentId, Stored>,
    /// Approximate bytes of changes in one answer.
    pub page_bytes: usize,
    /// The number of answers.
    pub answers: usize,
    /// How often the packed index of a snapshot was loaded.
    pub index_loads: usize,
}

/// A document.
#[derive(Default)]
pub struct Stored {
    tail: BTreeMap<Offset, Entry>,
    compacted: Option<Compacted>,
    /// Every change, by hash.
    pub changes: BTreeMap<ChangeHash, Row>,
    sequences: BTreeMap<(ActorId, u64), ChangeHash>,
    pub heads: BTreeSet<ChangeHash>,
    last: Offset,
    deleted: Option<Offset>,
}

#[derive(Clone)]
pub struct Row {
    position: Offset,
    actor: ActorId,
    seq: u64,
    max_op: u64,
    dependencies: Vec<ChangeHash>,
}

struct Compacted {
    offset: Offset,
    body: Vec<u8>,
    /// Encoded and decoded, as the real store returns it.
    index: Arc<PackedIndex>,
}

impl Stored {
    fn add(&mut self, hash: ChangeHash, row: Row) {
        for dependency in &row.dependencies {
            assert!(self.changes.contains_key(dependency), "a change before its dependencies");
            self.heads.remove(dependency);
        }
        self.heads.insert(hash);
        self.sequences.insert((row.actor.clone(), row.seq), hash);
        assert!(self.changes.insert(hash, row).is_none(), "{hash} is stored twice");
    }

    /// Everything in the log, as one automerge document.
    pub fn open(&self) -> Automerge {
        let mut automerge = match &self.compacted {
            Some(compacted) => Automerge::load(&compacted.body).unwrap(),
            None => Automerge::new(),
        };
        let tail: Vec<u8> = self.tail.values().flat_map(|entry| entry.body.to_vec()).collect();
        automerge.load_incremental(&tail).unwrap();
        automerge
    }

    fn compact(&mut self, snapshot: &Snapshot, offset: Offset) {
        let index = PackedIndex::parse(snapshot.packed.clone()).unwrap();
        for change in index.changes() {
            let CompactedChange { hash, actor, seq, max_op, dependencies } = change;
            if !self.changes.contains_key(&hash) {
                self.add(hash, Row { position: offset, actor, seq, max_op, dependencies });
            }
        }
        let body = snapshot.body.clone();
        self.compacted = Some(Compacted { offset, body, index: Arc::new(index) });
        self.tail.retain(|at, _| *at > offset);
        self.last = self.last.max(offset);
    }

    pub fn tail_len(&self) -> usize {
        self.tail.len()
    }
}

/// The snapshot that a compaction makes.
pub fn snapshot(automerge: &Automerge) -> Snapshot {
    let body = automerge.save();
    let changes: Vec<CompactedChange> = automerge
        .get_changes(&[])
        .iter()
        .map(|change| CompactedChange {
            hash: change.hash(),
            actor: change.actor_id().clone(),
            seq: change.seq(),
            max_op: change.max_op(),
            dependencies: change.deps().to_vec(),
        })
        .collect();
    let hash = Sha256::digest(&body).into();
    Snapshot::new(body, hash, PackedIndex::pack(&changes).unwrap()).unwrap()
}

impl Log {
    pub fn new(page_bytes: usize) -> Self {
        Self { page_bytes, ..Self::default() }
    }

    pub fn lineage(&self) -> Lineage {
        Lineage::new(self.epochs.clone(), self.head)
    }

    pub fn write(&mut self, commit: &Commit) {
        self.epochs.extend(commit.opens);
        for new in &commit.entries {
            let entry = &new.entry;
            assert!(entry.offset > self.head, "an offset was assigned twice");
            self.head = entry.offset;
            let stored = self.documents.entry(entry.document).or_default();
            match &new.kind {
                NewKind::Change { actor, seq, max_op, .. } => {
                    let dependencies = entry.dependencies.iter().copied().map(ChangeHash).collect();
                    let (actor, seq, max_op) = (actor.clone(), *seq, *max_op);
                    let row = Row { position: entry.offset, actor, seq, max_op, dependencies };
                    stored.add(ChangeHash(entry.id), row);
                    stored.tail.insert(entry.offset, entry.clone());
                    stored.last = entry.offset;
                }
                NewKind::Tombstone => {
                    *stored = Stored { deleted: Some(entry.offset), ..Stored::default() };
                }
                NewKind::Snapshot(snapshot) => stored.compact(snapshot, entry.offset),
            }
        }
    }

    /// Compacts the first `count` changes of a document's tail.
    pub fn compact(&mut self, id: &DocumentId, count: usize) {
        let Some(stored) = self.documents.get_mut(id) else { return };
        let Some((&through, _)) = stored.tail.iter().take(count).next_back() else { return };
        let young = stored.tail.split_off(&Offset(through.0 + 1));
        let compacted = snapshot(&stored.open());
        stored.tail.extend(young);
        stored.compact(&compacted, through);
    }

    pub fn heads(&self, id: &DocumentId) -> Vec<ChangeHash> {
        self.documents.get(id).map_or(Vec::new(), |stored| stored.heads.iter().copied().collect())
    }

    pub fn contains(&self, id: &DocumentId, hash: &ChangeHash) -> bool {
        self.documents.get(id).is_some_and(|stored| stored.changes.contains_key(hash))
    }

    pub fn index(&self, id: &DocumentId, with_compacted: bool) -> Option<DocumentIndex> {
        let stored = self.documents.get(id)?;
        if stored.deleted.is_some() {
            return None;
        }
        let row = |(offset, entry): (&Offset, &Entry)| IndexRow {
            offset: *offset,
            hash: ChangeHash(entry.id),
            dependencies: entry.dependencies.iter().copied().map(ChangeHash).collect(),
        };
        let compacted = stored.compacted.as_ref().map(|compacted| CompactedHistory {
            hash: Sha256::digest(&compacted.body).into(),
            bytes: compacted.body.len() as u64,
            offset: compacted.offset,
            heads: compacted.index.heads(),
            index: with_compacted.then(|| Arc::clone(&compacted.index)),
        });
        let tail = stored.tail.iter().map(row).collect();
        Some(DocumentIndex { heads: self.heads(id), last: stored.last, compacted, tail })
    }

    /// Answers as the relay does from its store.
    pub fn answer(&mut self, id: &DocumentId, question: &SyncRequest) -> Planned {
        self.answers += 1;
        let Some(stored) = self.documents.get(id) else {
            return Planned::LogState(LogState::Absent);
        };
        if stored.deleted.is_some() {
            return Planned::LogState(LogState::Deleted);
        }
        let (heads, last) = (self.heads(id), stored.last);
        if question.need.is_empty() && heads == question.heads {
            return Planned::LogState(LogState::Present { heads, last });
        }
        let mut index = self.index(id, false).unwrap();
        if Plan::of(&index, question).is_err() {
            index = self.index(id, true).unwrap();
            self.index_loads += 1;
        }
        let plan = Plan::of(&index, question).expect("all of it is there");
        let mut chunks = Vec::new();
        if plan.snapshot {
            chunks.push(self.documents[id].compacted.as_ref().unwrap().body.clone());
        }
        let (mut sent, mut weight) = (0, 0);
        while sent < plan.offsets.len() && weight < self.page_bytes {
            let body = &self.documents[id].tail[&plan.offsets[sent]].body;
            (sent, weight) = (sent + 1, weight + body.len());
            chunks.push(body.to_vec());
        }
        Planned::Answer {
            heads,
            last,
            unknown: plan.unknown.clone(),
            lost: plan.lost,
            chunks,
            closing: plan.close(&index, sent),
        }
    }
}

impl History for Log {
    type Error = Infallible;

    fn last_sequence(&self, d: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Infallible> {
        let Some(stored) = self.documents.get(d) else { return Ok(None) };
        let of = stored.sequences.range((actor.clone(), 0)..=(actor.clone(), u64::MAX));
        Ok(of.last().map(|((_, seq), _)| *seq))
    }

    fn at_sequence(
        &self,
        d: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, Infallible> {
        let Some(stored) = self.documents.get(d) else { return Ok(None) };
        let found = stored.sequences.get(&(actor.clone(), sequence));
        Ok(found.map(|hash| KnownChange { hash: *hash, position: stored.changes[hash].position }))
    }

    fn max_op(&self, d: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        let stored = self.documents.get(d);
        Ok(stored.and_then(|stored| stored.changes.get(hash)).map(|row| row.max_op))
    }

    fn deleted_at(&self, d: &DocumentId) -> Result<Option<Offset>, Infallible> {
        Ok(self.documents.get(d).and_then(|stored| stored.deleted))
    }

    fn has_changes(&self, d: &DocumentId) -> Result<bool, Infallible> {
        Ok(self.documents.get(d).is_some_and(|stored| !stored.changes.is_empty()))
    }

    fn size(&self, d: &DocumentId) -> Result<DocumentSize, Infallible> {
        let changes = self.documents.get(d).map_or(0, |stored| stored.changes.len()) as u64;
        Ok(DocumentSize { changes, ..DocumentSize::default() })
    }

    fn is_head(&self, _: &DocumentId, _: &ChangeHash) -> Result<bool, Infallible> {
        Ok(true)
    }
}
