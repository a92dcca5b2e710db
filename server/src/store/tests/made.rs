//! Synthetic changes and snapshots for the store, which does not parse them: hashes, sequence numbers and
//! dependencies form a valid history.

use std::sync::{Arc, mpsc};

use landfall_protocol::compacted::{CompactedChange, LastOfActor, PackedIndex};
use landfall_protocol::frame::{Entry, entry_kind};
use landfall_protocol::relay::{Commit, EpochRecord, NewEntry, NewKind, Snapshot};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Epoch, Offset, SpaceName};
use landfall_test_rng::Rng;

use crate::store::{LogStore, StoreError};

/// A change of a synthetic history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) offset: u64,
    pub(super) change: CompactedChange,
    pub(super) body: Vec<u8>,
}

impl Made {
    pub(super) fn entry(&self, document: DocumentId) -> NewEntry {
        let CompactedChange { hash, actor, seq, max_op, dependencies } = self.change.clone();
        let entry = Entry {
            offset: Offset(self.offset),
            document,
            kind: entry_kind::CHANGE,
            flags: 0,
            id: hash.0,
            dependencies: dependencies.iter().map(|hash| hash.0).collect(),
            author: vec![7; 16].into(),
            at_ms: self.offset * 1_000,
            body: self.body.clone().into(),
        };
        NewEntry { entry, kind: NewKind::Change { actor, seq, max_op, operations: 1 } }
    }
}

/// A hash of arbitrary bytes.
pub(super) fn hash(of: &[u8]) -> [u8; 32] {
    landfall_compaction::hash_of(of)
}

/// The heads of a history.
pub(super) fn heads(changes: &[CompactedChange]) -> Vec<ChangeHash> {
    let followed: std::collections::HashSet<_> =
        changes.iter().flat_map(|change| &change.dependencies).collect();
    let mut heads: Vec<_> =
        changes.iter().map(|change| change.hash).filter(|hash| !followed.contains(hash)).collect();
    heads.sort_unstable();
    heads
}

/// A snapshot of these changes with a body of `bytes` bytes.
pub(super) fn snapshot(changes: &[CompactedChange], bytes: usize) -> Snapshot {
    let packed = PackedIndex::pack(changes).unwrap();
    let index = PackedIndex::parse(packed.clone()).unwrap();
    let seed = hash(&packed);
    let body: Vec<u8> = (0..bytes).map(|at| seed[at % 32] ^ (at / 32) as u8).collect();
    let heads = heads(changes);
    let heads = heads.iter().map(|head| (*head, index.find(head).unwrap().max_op)).collect();
    let last = |last: landfall_protocol::compacted::LastOfActor| LastOfActor {
        actor: last.actor,
        seq: last.seq,
        hash: last.hash,
        max_op: last.max_op,
    };
    let actors = index.actors().map(last).collect();
    let (hash, changes) = (hash(&body), changes.len() as u64);
    Snapshot { hash, heads, actors, changes, operations: changes, body, packed }
}

/// A growing document with a few authors.
#[derive(Debug, Clone, Default)]
pub(super) struct Grown {
    pub(super) changes: Vec<CompactedChange>,
    bodies: Vec<Vec<u8>>,
}

/// A chunk with a valid change hash; its content is not a change.
pub(super) fn chunk(of: &[u8]) -> (ChangeHash, Vec<u8>) {
    let (mut hashed, mut length) = (vec![1], of.len());
    while length >= 128 {
        hashed.push(length as u8 | 128);
        length >>= 7;
    }
    hashed.push(length as u8);
    hashed.extend_from_slice(of);
    let hash = hash(&hashed);
    let magic = [0x85, 0x6f, 0x4a, 0x83];
    (ChangeHash(hash), [&magic[..], &hash[..4], &hashed].concat())
}

impl Grown {
    /// Adds a change by one of `authors` authors, on all heads or on one change.
    pub(super) fn grow(&mut self, document: &DocumentId, rng: &mut Rng, authors: usize) {
        let actor = ActorId::from([rng.below(authors) as u8 + 1; 16]);
        let seq = 1 + self.changes.iter().filter(|change| change.actor == actor).count() as u64;
        let mut dependencies = heads(&self.changes);
        if dependencies.len() < 4 && rng.one_in(4) && !dependencies.is_empty() {
            // A concurrent change: on an older change, but after the author's own last one.
            let own = self.changes.iter().rev().find(|change| change.actor == actor);
            dependencies = vec![own.map_or(self.changes[0].hash, |own| own.hash)];
        }
        let past = self.changes.iter().filter(|change| dependencies.contains(&change.hash));
        let max_op = past.map(|change| change.max_op).max().unwrap_or(0) + 1;
        let name = [document.as_bytes().as_slice(), actor.to_bytes(), &seq.to_le_bytes()].concat();
        let (hash, body) = chunk(&name);
        self.bodies.push(body);
        self.changes.push(CompactedChange { hash, actor, seq, max_op, dependencies });
    }

    /// A change of the document as an entry.
    pub(super) fn made(&self, at: usize, offset: u64) -> Made {
        let change = self.changes[at].clone();
        let body = self.bodies[at].clone();
        Made { offset, change, body }
    }
}

/// Appends and waits.
pub(super) fn commit(
    store: &dyn LogStore,
    space: &SpaceName,
    opens: Option<EpochRecord>,
    entries: Vec<NewEntry>,
) -> Result<(), StoreError> {
    let (done, committed) = mpsc::channel();
    let commit = Commit { space: space.clone(), opens, entries };
    store.append(Arc::new(commit), Box::new(move |result| done.send(result).unwrap()));
    committed.recv().unwrap()
}

/// The entry of a tombstone.
pub(super) fn tombstone(offset: u64, document: DocumentId) -> NewEntry {
    let entry = Entry::of_tombstone(Offset(offset), document, &[7; 16], offset * 1_000);
    NewEntry { entry, kind: NewKind::Tombstone }
}

/// The entry of a pushed snapshot.
pub(super) fn pushed(offset: u64, document: DocumentId, snapshot: Snapshot) -> NewEntry {
    let (heads, hash) = (snapshot.head_hashes(), snapshot.hash);
    let entry = Entry::of_snapshot(Offset(offset), document, hash, &heads, offset * 1_000, None);
    NewEntry { entry, kind: NewKind::Snapshot(Arc::new(snapshot)) }
}

/// An epoch's record.
pub(super) fn opens(number: u8, first: u64) -> EpochRecord {
    let epoch = |number| Epoch::from_bytes([number; 16]);
    let predecessor = (number > 1).then(|| epoch(number - 1));
    EpochRecord { epoch: epoch(number), first: Offset(first), predecessor }
}
