//! A store, and beside it a model that keeps everything in plain lists and answers by scanning them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use landfall_protocol::access::View;
use landfall_protocol::digest::{Branch, Digest, DigestEntry, Node, Prefix};
use landfall_protocol::frame::{EntriesBuilder, entry_flags};
use landfall_protocol::frame::{Frame, Partial, decode, entry_kind};
use landfall_protocol::relay::{Chunk, Page, Snapshot};
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use landfall_test_rng::Rng;

use super::made::{Grown, Made, commit, hash, heads, opens, pushed, snapshot, tombstone};
use crate::store::{CompactionInput, CompactionWindow, Log, Snapshots, SqliteStore};

/// A document of the model.
#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    pub(super) grown: Grown,
    /// Live changes after the snapshot.
    pub(super) tail: Vec<Made>,
    pub(super) snapshot: Option<(u64, Snapshot)>,
    pub(super) tombstone: Option<u64>,
}

/// A row of a log: offset, kind, id, body.
pub(super) type StoredDocument = (u64, u16, [u8; 32], Vec<u8>);

pub(super) struct World {
    folder: tempfile::TempDir,
    pub(super) store: SqliteStore,
    pub(super) space: SpaceName,
    pub(super) documents: BTreeMap<DocumentId, Model>,
    pub(super) head: u64,
    epochs: u8,
    must_open: bool,
    pub(super) rng: Rng,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        let space = "notes".parse().unwrap();
        let (documents, rng) = (BTreeMap::new(), Rng::new(seed));
        Self { folder, store, space, documents, head: 0, epochs: 0, must_open: true, rng }
    }

    fn document(&mut self) -> DocumentId {
        let number = self.rng.below(24) as u8;
        DocumentId::from_bytes(hash(&[number % 24])[..16].try_into().unwrap())
    }

    /// As after a kill between two transactions.
    pub(super) fn reopen(&mut self) {
        self.store.close().unwrap();
        self.store = SqliteStore::open(self.folder.path()).unwrap();
        self.must_open = true;
    }

    fn next_offset(&mut self) -> u64 {
        self.head += 1 + self.rng.below(3) as u64 / 2;
        self.head
    }

    /// Commits some changes, and perhaps a deletion or a pushed snapshot.
    pub(super) fn append(&mut self) {
        let mut entries = Vec::new();
        for _ in 0..=self.rng.below(12) {
            let id = self.document();
            if self.documents.get(&id).is_some_and(|model| model.tombstone.is_some()) {
                continue;
            }
            let offset = self.next_offset();
            let model = self.documents.entry(id).or_default();
            if self.rng.one_in(60) {
                entries.push(tombstone(offset, id));
                model.tombstone = Some(offset);
                (model.tail, model.snapshot) = (Vec::new(), None);
            } else if self.rng.one_in(60) {
                for _ in 0..5 {
                    model.grown.grow(&id, &mut self.rng, 3);
                }
                let bytes = if self.rng.one_in(2) { 200 } else { 700_000 };
                let made = snapshot(&model.grown.changes, bytes);
                entries.push(pushed(offset, id, made.clone()));
                (model.tail, model.snapshot) = (Vec::new(), Some((offset, made)));
            } else {
                model.grown.grow(&id, &mut self.rng, 3);
                let made = model.grown.made(model.grown.changes.len() - 1, offset);
                entries.push(made.entry(id));
                model.tail.push(made);
            }
        }
        let Some(first) = entries.first() else { return };
        let opening = self.must_open.then(|| opens(self.epochs + 1, first.entry.offset.0));
        self.epochs += u8::from(self.must_open);
        self.must_open = false;
        commit(&self.store, &self.space, opening, entries).unwrap();
    }

    /// Compacts some document through some offset.
    pub(super) fn compact(&mut self) {
        let id = self.document();
        let recent = self.rng.below(self.head as usize + 1) as u64 / 2;
        let window = CompactionWindow { recent_entries: recent, ..CompactionWindow::NONE };
        let task = self.store.compaction_task(&self.space, &id, 0, window).unwrap();
        let model = self.documents.get(&id).cloned().unwrap_or_default();
        let compactable = |made: &&Made| made.offset <= self.head - recent;
        let compacted = model.tail.iter().filter(compactable).count();
        assert_eq!(
            task.as_ref().map_or(0, |task| task.changes as usize),
            compacted,
            "the changes outside the window"
        );
        let Some(task) = task else { return };
        assert_eq!(task.through.0, model.tail[compacted - 1].offset);
        let mut expected: Vec<CompactionInput> = Vec::new();
        expected.extend(
            model.snapshot.as_ref().map(|(_, made)| CompactionInput::Base(made.body.clone())),
        );
        let changes =
            model.tail[..compacted].iter().map(|made| CompactionInput::Change(made.body.clone()));
        expected.extend(changes);
        let mut read = Vec::new();
        let mut take = |input| {
            read.push(input);
            ControlFlow::Continue(())
        };
        assert!(self.store.compaction_read(&task, &mut take).unwrap());
        assert_eq!(read, expected);
        let kept = model.grown.changes.len() - (model.tail.len() - compacted);
        let bytes = [100, 90_000, 200_000, 600_000][self.rng.below(4)];
        let made = snapshot(&model.grown.changes[..kept], bytes);
        let now = self.head * 1_000;
        assert!(self.store.compaction_commit(&task, made.clone(), now).unwrap());
        assert!(
            !self.store.compaction_commit(&task, made.clone(), now).unwrap(),
            "the second commit is rejected"
        );
        let model = self.documents.get_mut(&id).unwrap();
        model.tail.drain(..compacted);
        model.snapshot = Some((task.through.0, made));
    }

    pub(super) fn prune(&mut self) {
        let rows = 1 + self.rng.below(40);
        // Some of the replaced snapshots are past their retention.
        let now = self.head * 1_000 + limits::SNAPSHOT_GRACE.as_millis() as u64 / 2;
        self.store.prune(now, rows).unwrap();
    }

    /// The rows of the log after a position.
    pub(super) fn standing(&self, after: u64, view: &View) -> Vec<StoredDocument> {
        let mut live = Vec::new();
        for (id, model) in self.documents.iter().filter(|(id, _)| view.contains(id)) {
            let id = landfall_protocol::digest::tombstone_id(id);
            live.extend(model.tombstone.map(|at| (at, entry_kind::TOMBSTONE, id, vec![])));
            let snapshot = model.snapshot.as_ref();
            live.extend(
                snapshot
                    .map(|(at, made)| (*at, entry_kind::SNAPSHOT, made.hash, made.body.clone())),
            );
            let change = |made: &Made| {
                (made.offset, entry_kind::CHANGE, made.change.hash.0, made.body.clone())
            };
            live.extend(model.tail.iter().map(change));
        }
        live.retain(|(offset, ..)| *offset > after);
        live.sort();
        live
    }

    /// Reads the log from a position to its end, as a session does; `meanwhile` may change it.
    pub(super) fn read(&mut self, after: u64, view: &View) -> Vec<StoredDocument> {
        let (mut after, mut read) = (Offset(after), Vec::new());
        let mut arriving: Option<([u8; 32], Vec<u8>)> = None;
        loop {
            let partial = arriving.as_ref();
            let partial =
                partial.map(|(hash, got)| Partial { hash: *hash, bytes: got.len() as u64 });
            match self.store.next(&self.space, after, view, partial).unwrap() {
                None => break,
                Some(Chunk::Part(part)) => {
                    if part.from == 0 {
                        arriving = Some((part.hash, Vec::new()));
                    }
                    let (hash, got) = arriving.as_mut().unwrap();
                    assert_eq!((*hash, got.len() as u64), (part.hash, part.from));
                    got.extend(part.bytes);
                }
                Some(Chunk::Entries(page)) => {
                    assert!(page.after == after && page.up_to > after && page.up_to.0 <= self.head);
                    read.extend(entries(&page, &mut arriving));
                    after = page.up_to;
                }
            }
        }
        assert_eq!(after.0, self.head);
        read
    }

    /// The branch of a prefix, computed from all documents.
    pub(super) fn branch(&self, prefix: Prefix) -> Branch {
        let (first, last) = prefix.range();
        let mut digest_entries = Vec::new();
        for (id, model) in &self.documents {
            let digest_entry = match model.tombstone {
                Some(_) => DigestEntry::of_tombstone(id),
                None => DigestEntry::of_heads(id, &heads(&model.grown.changes)),
            };
            if (first..=last).contains(id.as_bytes()) {
                digest_entries.push((*id, digest_entry));
            }
        }
        if digest_entries.len() <= limits::BRANCH_ENTRIES {
            return Branch { prefix, node: Node::DigestEntries(digest_entries) };
        }
        let mut children = vec![Digest::default(); 16];
        for (id, digest_entry) in digest_entries {
            children[usize::from(prefix.child_of(&id))].add(digest_entry);
        }
        Branch { prefix, node: Node::Children(children) }
    }

    /// The entries that a peer with these heads lacks: whether the snapshot, and which offsets.
    pub(super) fn lacking(&self, model: &Model, have: &[[u8; 32]]) -> (bool, Vec<Offset>) {
        let mut had: BTreeSet<[u8; 32]> = have.iter().copied().collect();
        for change in model.grown.changes.iter().rev() {
            if had.contains(&change.hash.0) {
                had.extend(change.dependencies.iter().map(|hash| hash.0));
            }
        }
        let tail = model.tail.iter().filter(|made| !had.contains(&made.change.hash.0));
        let compacted = model.grown.changes.len() - model.tail.len();
        let mut below = model.grown.changes[..compacted].iter();
        let lacks = below.any(|change| !had.contains(&change.hash.0));
        (lacks, tail.map(|made| Offset(made.offset)).collect())
    }
}

/// The entries of a page, decoded like a replica does.
fn entries(page: &Page, arriving: &mut Option<([u8; 32], Vec<u8>)>) -> Vec<StoredDocument> {
    let mut frame = EntriesBuilder::new(0, page.after, page.up_to, page.epoch, page.head);
    page.entries.iter().for_each(|entry| frame.add(entry, false));
    let Ok(Frame::Entries(frame)) = decode(&frame.finish()) else { panic!("not a page") };
    let mut live = Vec::new();
    for entry in frame.entries {
        assert!(entry.offset > page.after && entry.offset <= page.up_to);
        let mut body = entry.body.into_vec();
        if entry.flags & entry_flags::PARTS != 0 {
            let (arrived, got) = arriving.take().expect("parts before");
            assert_eq!((arrived, hash(&got)), (entry.id, entry.id));
            body = got;
        }
        live.push((entry.offset.0, entry.kind, entry.id, body));
    }
    live
}
