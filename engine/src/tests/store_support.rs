//! A bare store, and authors who write changes for it.

use std::sync::mpsc;

use automerge::{ActorId, Automerge, ROOT, ReadDoc, transaction::Transactable};
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::client::{
    Batch, DocumentBatch, Incoming, OutboxChange, OutboxKind, ResumePoint,
};
use landfall_protocol::frame::{Holding, Mark};
use landfall_protocol::{
    ChangeHash, Cursor, DocumentId, Epoch, Local, Offset, ReplicaId, Scope, SpaceName, Upstream,
};
use landfall_storage::{Committed, Durability, WriteError};

use crate::compactor::{CompactionReport, compact};
use crate::store::{
    CompactionOptions, Finding, LocalChange, LocalLog, OpenMode, ReceiveError, Received,
    SpaceCount, SpaceRow,
};

pub(super) fn id(number: u8) -> DocumentId {
    DocumentId::from_bytes([number; 16])
}

/// A store in memory with one space.
pub(super) struct Bench {
    pub(super) log: LocalLog,
    pub(super) name: SpaceName,
    pub(super) space: SpaceRow,
    at: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::at(OpenMode::Memory)
    }

    pub(super) fn at(place: OpenMode<'_>) -> Self {
        let options = landfall_storage::Options::default();
        Self::with(LocalLog::open(place, options, ReplicaId::from_bytes([7; 16])).unwrap())
    }

    pub(super) fn with(log: LocalLog) -> Self {
        let name: SpaceName = "space".parse().unwrap();
        let space = log.ensure_space(&name).unwrap();
        Self { log, name, space, at: 0 }
    }

    /// The same store, for jobs about an upstream, whichever is connected.
    pub(super) fn about(&self, upstream: u8) -> Self {
        let log = self.log.about(Upstream::from_bytes([upstream; 16]));
        Self { log, name: self.name.clone(), space: self.space, at: self.at }
    }

    pub(super) fn append(&self, document: DocumentId, change: &CheckedChange) -> u64 {
        let (space, change) = (self.space, change.clone());
        let changes = vec![LocalChange { space, document, change, at_ms: 1 }];
        self.log.append(Durability::Relaxed, changes, |_| ()).unwrap().value.places[0].1
    }

    pub(super) fn append_all(&self, document: DocumentId, changes: &[CheckedChange]) {
        changes.iter().for_each(|change| {
            self.append(document, change);
        });
    }

    pub(super) fn meet(&mut self, upstream: u8) -> ResumePoint {
        let (sender, receiver) = mpsc::channel();
        let upstream = Upstream::from_bytes([upstream; 16]);
        self.log.submit_attach(
            upstream,
            self.space,
            Box::new(move |met| sender.send(met).unwrap()),
        );
        let point = receiver.recv().unwrap().unwrap().value.point;
        self.at = point.cursor.map_or(0, |cursor| cursor.offset.0);
        point
    }

    pub(super) fn mark(offset: u64) -> Mark {
        Mark { epoch: Epoch::from_bytes([3; 16]), offset: Offset(offset) }
    }

    pub(super) fn acknowledge(&self, locals: impl IntoIterator<Item = u64>) -> SpaceCount {
        let (sender, receiver) = mpsc::channel();
        let locals = locals.into_iter().map(Local).collect();
        let done = Box::new(move |done| sender.send(done).unwrap());
        self.log.submit_acknowledged(self.space, locals, Self::mark(1), done);
        receiver.recv().unwrap().unwrap().value.0
    }

    pub(super) fn reset(&mut self) -> Local {
        let (sender, receiver) = mpsc::channel();
        self.log.submit_reset(self.space, Box::new(move |done| sender.send(done).unwrap()));
        self.at = 0;
        receiver.recv().unwrap().unwrap().value.1
    }

    pub(super) fn cursor(offset: u64) -> Cursor {
        let (epoch, scope) = (Epoch::from_bytes([3; 16]), Scope::WHOLE_SPACE);
        Cursor { epoch, offset: Offset(offset), scope }
    }

    pub(super) fn try_receive(
        &mut self,
        entries: Vec<Incoming>,
    ) -> Result<Received, WriteError<ReceiveError>> {
        let (after, up_to) = (self.at, self.at + 100);
        let batch = Batch {
            space: self.name.clone(),
            after: Offset(after),
            cursor: Self::cursor(up_to),
            entries,
            bytes: 0,
        };
        let (sender, receiver) = mpsc::channel();
        self.log.submit_received(self.space, batch, move |result| sender.send(result).unwrap());
        let received = receiver.recv().unwrap()?;
        self.at = up_to;
        Ok(received.value)
    }

    pub(super) fn receive(&mut self, entries: Vec<Incoming>) -> Received {
        self.try_receive(entries).unwrap()
    }

    pub(super) fn receive_apart(
        &self,
        document: DocumentId,
        holding: Holding,
        entries: Vec<Incoming>,
    ) -> Received {
        let ready = self.log.prepare(self.space, entries).unwrap();
        let batch = DocumentBatch {
            space: self.name.clone(),
            document,
            holding,
            entries: Vec::new(),
            last: true,
            damaged: false,
            bytes: 0,
        };
        let (sender, receiver) = mpsc::channel();
        let done = move |result: Result<Committed<Received>, _>| sender.send(result).unwrap();
        self.log.submit_document(self.space, batch, ready, done);
        receiver.recv().unwrap().unwrap().value
    }

    pub(super) fn finish_comparison(
        &mut self,
        through: u64,
        except: Vec<DocumentId>,
    ) -> SpaceCount {
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |done| sender.send(done).unwrap());
        let cursor = Some(Self::cursor(1_000));
        self.log.submit_finish_comparison(self.space, cursor, Local(through), except, done);
        self.at = 1_000;
        receiver.recv().unwrap().unwrap().value.0
    }

    pub(super) fn outbox(&self) -> Vec<OutboxChange> {
        let (page, more) = self.log.outbox(self.space, Local(0), 10_000, 1 << 30).unwrap();
        assert!(!more);
        // Pages of one item give the same result.
        let (mut after, mut one_by_one) = (Local(0), Vec::new());
        loop {
            let (mut next, more) = self.log.outbox(self.space, after, 1, 1).unwrap();
            after = next.last().map_or(after, |change| change.local);
            one_by_one.append(&mut next);
            if !more {
                break;
            }
        }
        assert_eq!(page, one_by_one);
        page
    }

    /// A short form of the outbox: `s` a snapshot, `t` a tombstone, `c` a change.
    pub(super) fn outbox_kinds(&self) -> String {
        let kind = |change: &OutboxChange| match &change.what {
            OutboxKind::Change(..) => 'c',
            OutboxKind::Snapshot { .. } => 's',
            OutboxKind::Tombstone => 't',
        };
        self.outbox().iter().map(kind).collect()
    }

    pub(super) fn count(&self) -> SpaceCount {
        let spaces = self.log.spaces().unwrap();
        spaces.into_iter().find(|(_, row, _)| *row == self.space).unwrap().2
    }

    pub(super) fn heads(&self, document: DocumentId) -> Vec<ChangeHash> {
        self.log.heads_of(self.space, &[document]).unwrap().remove(0).heads
    }

    /// The document as loaded from the store.
    pub(super) fn load(&self, document: DocumentId) -> Automerge {
        let Some(row) = self.log.document(self.space, &document).unwrap() else {
            return Automerge::new();
        };
        let (mut doc, mut after) = (Automerge::new(), 0);
        loop {
            let (pieces, more) = self.log.changes_after(row, after, 2_000).unwrap();
            for piece in pieces {
                after = piece.local;
                doc.load_incremental(&piece.body).unwrap();
            }
            if !more {
                return doc;
            }
        }
    }

    /// The store has no fault, and documents load to their heads.
    pub(super) fn check(&self) {
        let findings: Vec<Finding> = self.log.verify().unwrap();
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(texts.is_empty(), "{texts:#?}");
        for document in self.log.documents(self.space).unwrap() {
            let mut heads = self.load(document).get_heads();
            heads.sort_unstable();
            assert_eq!(heads, self.heads(document), "{document}");
        }
    }

    pub(super) fn compact(&self) -> CompactionReport {
        let compacted = compact(&self.log, &CompactionOptions::EVERYTHING).unwrap();
        self.check();
        compacted
    }

    /// How many rows `change` has.
    pub(super) fn rows(&self) -> u64 {
        let read = self
            .log
            .database()
            .read(|conn| conn.query_row("SELECT count(*) FROM change", [], |row| row.get(0)));
        read.unwrap()
    }
}

/// An author who writes a document with its own actor.
pub(super) struct Author {
    pub(super) doc: Automerge,
    pub(super) document: DocumentId,
}

impl Author {
    pub(super) fn new(actor: u8, document: u8) -> Self {
        let doc = Automerge::new().with_actor(ActorId::from([actor; 16]));
        Self { doc, document: id(document) }
    }

    /// Another author, with the same history.
    pub(super) fn fork(&self, actor: u8) -> Self {
        let doc = self.doc.fork().with_actor(ActorId::from([actor; 16]));
        Self { doc, document: self.document }
    }

    pub(super) fn put(&mut self, key: &str, value: &str) -> CheckedChange {
        let mut tx = self.doc.transaction();
        tx.put(ROOT, key, value).unwrap();
        tx.commit();
        preflight(self.doc.get_last_local_change().unwrap().raw_bytes()).unwrap()
    }

    /// Changes that all differ.
    pub(super) fn puts(&mut self, count: usize) -> Vec<CheckedChange> {
        let before = self.doc.get_changes(&[]).len();
        let put = |n| self.put(&format!("key {}", n % 7), &format!("value {n}"));
        (before..before + count).map(put).collect()
    }

    pub(super) fn merge(&mut self, other: &mut Author) {
        self.doc.merge(&mut other.doc).unwrap();
    }

    pub(super) fn heads(&self) -> Vec<ChangeHash> {
        let mut heads = self.doc.get_heads();
        heads.sort_unstable();
        heads
    }

    pub(super) fn incoming(&self, change: CheckedChange) -> Incoming {
        Incoming::Change {
            offset: Offset(1),
            document: self.document,
            change,
            author: vec![9; 16],
            at_ms: 1,
            second_root: false,
        }
    }

    pub(super) fn incomings(&self, changes: Vec<CheckedChange>) -> Vec<Incoming> {
        changes.into_iter().map(|change| self.incoming(change)).collect()
    }

    /// The document as a relay's snapshot.
    pub(super) fn snapshot(&self) -> Incoming {
        let body = self.doc.save();
        Incoming::Snapshot {
            offset: Offset(1),
            document: self.document,
            hash: landfall_compaction::hash_of(&body),
            heads: self.heads(),
            body: Some(body),
        }
    }

    /// The contents of the document.
    pub(super) fn shows(doc: &Automerge) -> Vec<(String, String)> {
        let get = |key: String| {
            let value = doc.get(ROOT, key.as_str()).unwrap().unwrap().0.to_string();
            (key, value)
        };
        doc.keys(ROOT).map(get).collect()
    }
}
