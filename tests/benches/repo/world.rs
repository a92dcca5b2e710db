//! All changes that the clients of a row make to one document, so that a client needs no document of
//! its own: a change is made from its dependencies alone, and recognised by its checksum.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::Instant;

use automerge::legacy::{ElementId, Key, ObjectId, Op, OpId, OpType, SortedVec};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ChangeHash, ExpandedChange, ObjType, ROOT};
use landfall_protocol::DocumentId;

/// One change.
pub struct Made {
    pub hash: ChangeHash,
    /// Its chunk, as on the wire.
    pub bytes: Vec<u8>,
    pub author: usize,
    /// Counted from 1.
    pub seq: u32,
    pub dependencies: Vec<usize>,
    max_op: u64,
    /// For each author, the last of its changes on which this one depends, including itself.
    pub clock: Vec<u32>,
    /// When its author was about to send it.
    pub made: Instant,
}

/// A document's changes. Number 0 stands for the whole initial document of all clients; its author is
/// the index after all clients.
pub struct World {
    pub document: String,
    /// The initial document of all clients.
    pub base: AutoCommit,
    changes: Vec<Made>,
    by_author: Vec<Vec<usize>>,
    by_checksum: HashMap<[u8; 4], usize>,
    by_hash: HashMap<ChangeHash, usize>,
    text: OpId,
}

/// A text typed in so many changes, one character each, at growing and sometimes other positions.
pub fn typed(seed: u8, changes: usize) -> AutoCommit {
    let mut doc = AutoCommit::new().with_actor(ActorId::from([seed; 16]));
    let text = doc.put_object(ROOT, "text", ObjType::Text).unwrap();
    doc.commit();
    type_on(&mut doc, &text, changes.saturating_sub(1));
    doc
}

/// Types more text, one change per character.
pub fn type_on(doc: &mut AutoCommit, text: &automerge::ObjId, changes: usize) {
    const LETTERS: &[u8] = b"etaoin shrdlu etaoin cmfwyp vbgk etaoin\n";
    let mut at = automerge::ReadDoc::length(doc, text);
    for n in 0..changes {
        if n % 97 == 96 {
            at = n * 7 % (at + 1);
        }
        let letter = &LETTERS[n * 31 % LETTERS.len()..][..1];
        doc.splice_text(text, at, 0, std::str::from_utf8(letter).unwrap()).unwrap();
        doc.commit();
        at += 1;
    }
}

/// A document's id as in automerge-repo's messages.
fn document_id(bytes: [u8; 16]) -> String {
    DocumentId::from_bytes(bytes).to_string().trim_start_matches("automerge:").to_owned()
}

/// A new document id: a UUID of version 4, as automerge-repo makes them. Its older versions accept no
/// other.
pub fn fresh_id() -> String {
    let mut bytes: [u8; 16] = ActorId::random().to_bytes()[..16].try_into().unwrap();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    document_id(bytes)
}

impl World {
    /// Makes a document of so many changes for so many editing clients.
    pub fn new(length: usize, clients: usize) -> Self {
        let mut base = typed(0xba, length);
        let heads = base.get_heads();
        let all = base.get_changes(&[]);
        let text = OpId(all[0].max_op(), all[0].actor_id().clone());
        let mut clock = vec![0; clients + 1];
        clock[clients] = 1;
        let first = Made {
            hash: heads[0],
            bytes: Vec::new(),
            author: clients,
            seq: 1,
            dependencies: Vec::new(),
            max_op: all.last().unwrap().max_op(),
            clock,
            made: Instant::now(),
        };
        let mut by_author = vec![Vec::new(); clients + 1];
        by_author[clients].push(0);
        Self {
            document: fresh_id(),
            base,
            by_hash: HashMap::from([(first.hash, 0)]),
            changes: vec![first],
            by_author,
            by_checksum: HashMap::new(),
            text,
        }
    }

    /// Types a character after the client's last one, on top of these changes.
    pub fn edit(&mut self, author: usize, on: &[usize]) -> usize {
        let mut clock = vec![0; self.by_author.len()];
        let mut last_op = 0;
        for &number in on {
            last_op = last_op.max(self.changes[number].max_op);
            cover(&mut clock, &self.changes[number].clock);
        }
        let actor = ActorId::from([author as u8; 16]);
        let seq = clock[author] + 1;
        clock[author] = seq;
        let behind = self.by_author[author].last().map_or(ElementId::Head, |&last| {
            ElementId::Id(OpId(self.changes[last].max_op, actor.clone()))
        });
        let operation = Op {
            action: OpType::Put("x".into()),
            obj: ObjectId::Id(self.text.clone()),
            key: Key::Seq(behind),
            pred: SortedVec::new(),
            insert: true,
        };
        let mut deps: Vec<ChangeHash> = on.iter().map(|&n| self.changes[n].hash).collect();
        deps.sort();
        let change = Change::from(ExpandedChange {
            operations: vec![operation],
            actor_id: actor,
            hash: None,
            seq: seq.into(),
            start_op: NonZeroU64::new(last_op + 1).unwrap(),
            time: 0,
            message: None,
            deps,
            extra_bytes: Vec::new(),
            author: None,
        });
        let (hash, bytes) = (change.hash(), change.raw_bytes().to_vec());
        let number = self.changes.len();
        self.by_checksum.insert(bytes[4..8].try_into().unwrap(), number);
        self.by_hash.insert(hash, number);
        self.by_author[author].push(number);
        let (dependencies, max_op, made) = (on.to_vec(), last_op + 1, Instant::now());
        let made = Made { hash, bytes, author, seq, dependencies, max_op, clock, made };
        self.changes.push(made);
        number
    }

    /// A change by its number.
    pub fn change(&self, number: usize) -> &Made {
        &self.changes[number]
    }

    /// An author's change by its sequence number, from 1.
    pub fn by_author(&self, author: usize, seq: u32) -> usize {
        self.by_author[author][seq as usize - 1]
    }

    /// A change by its hash.
    pub fn by_hash(&self, hash: &ChangeHash) -> Option<usize> {
        self.by_hash.get(hash).copied()
    }

    /// A change by the first bytes of its hash, which are the checksum of its chunk.
    pub fn by_checksum(&self, checksum: [u8; 4]) -> Option<usize> {
        self.by_checksum.get(&checksum).copied()
    }

    /// The number of changes made by clients.
    pub fn made(&self) -> u64 {
        self.changes.len() as u64 - 1
    }

    /// The number of clients' changes whose time matches.
    pub fn count(&self, at: impl Fn(&Instant) -> bool) -> usize {
        self.changes[1..].iter().filter(|change| at(&change.made)).count()
    }

    /// The heads: the changes on which no other one depends.
    pub fn heads(&self) -> Vec<ChangeHash> {
        let mut rested_on = vec![false; self.changes.len()];
        for change in &self.changes {
            change.dependencies.iter().for_each(|&number| rested_on[number] = true);
        }
        let heads = self.changes.iter().zip(rested_on).filter(|(_, rested_on)| !rested_on);
        let mut heads: Vec<ChangeHash> = heads.map(|(change, _)| change.hash).collect();
        heads.sort();
        heads
    }
}

/// Raises a clock to include another.
pub fn cover(clock: &mut [u32], other: &[u32]) {
    for (mine, other) in clock.iter_mut().zip(other) {
        *mine = (*mine).max(*other);
    }
}
