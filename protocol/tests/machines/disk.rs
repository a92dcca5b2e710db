//! A relay's disk: a log with snapshots. A clone is a backup.

use std::collections::BTreeMap;
use std::convert::Infallible;

use landfall_protocol::access::View;
use landfall_protocol::admission::{CheckedChange, DocumentSize, History, KnownChange, preflight};
use landfall_protocol::digest::{Branch, Digest, DigestEntry, Node, Prefix};
use landfall_protocol::frame::{EncodedEntry, Entry, Holding, Partial};
use landfall_protocol::relay::{Chunk, Commit, EpochRecord, Lineage, NewKind, Page, SnapshotPart};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Epoch, Offset, Upstream, limits};

use crate::model;

#[derive(Clone)]
pub struct Disk {
    pub upstream: Upstream,
    pub epochs: Vec<EpochRecord>,
    pub head: Offset,
    pub documents: BTreeMap<DocumentId, Document>,
}

#[derive(Clone, Default)]
pub struct Document {
    /// Rows at or below the snapshot's offset are dead.
    rows: BTreeMap<Offset, (Entry, CheckedChange)>,
    snapshot: Option<Compacted>,
    /// Replaced snapshots that are still kept.
    replaced: Vec<Compacted>,
    tombstone: Option<Entry>,
}

#[derive(Clone)]
pub struct Compacted {
    offset: Offset,
    hash: [u8; 32],
    body: Vec<u8>,
    changes: Vec<CheckedChange>,
}

impl Compacted {
    fn new(offset: Offset, body: Vec<u8>) -> Self {
        Self { offset, hash: model::sha256(&body), changes: model::decode(&body), body }
    }

    fn entry(&self, document: DocumentId, in_parts: bool) -> Entry {
        let body = (!in_parts).then(|| self.body.clone());
        let heads = model::heads(&self.changes);
        Entry::of_snapshot(self.offset, document, self.hash, &heads, 0, body)
    }

    fn in_parts(&self) -> bool {
        self.body.len() > model::INLINE_BYTES
    }

    /// The next part for a session that has `partial`.
    fn part(&self, document: DocumentId, partial: Option<Partial>) -> Option<SnapshotPart> {
        let partial = partial.filter(|partial| partial.hash == self.hash);
        let from = partial.map_or(0, |partial| partial.bytes as usize);
        if from >= self.body.len() {
            return None;
        }
        let end = self.body.len().min(from + model::PART_BYTES);
        let (hash, total, bytes) = (self.hash, self.body.len() as u64, &self.body[from..end]);
        Some(SnapshotPart { document, hash, total, from: from as u64, bytes: bytes.to_vec() })
    }
}

impl Document {
    fn tail(&self) -> impl Iterator<Item = (&Offset, &(Entry, CheckedChange))> {
        let compacted = self.snapshot.as_ref().map_or(Offset(0), |snapshot| snapshot.offset);
        self.rows.range(Offset(compacted.0 + 1)..)
    }

    /// Every change, each after its dependencies, with its offset.
    pub fn changes(&self) -> impl Iterator<Item = (Offset, &CheckedChange)> {
        let compacted = self
            .snapshot
            .iter()
            .flat_map(|snapshot| snapshot.changes.iter().map(|change| (snapshot.offset, change)));
        compacted.chain(self.tail().map(|(offset, (_, change))| (*offset, change)))
    }

    pub fn is_deleted(&self) -> bool {
        self.tombstone.is_some()
    }

    /// The entries of its tail, and its tombstone.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.tail().map(|(_, (entry, _))| entry).chain(&self.tombstone)
    }

    fn digest_entry(&self, id: &DocumentId) -> DigestEntry {
        match self.is_deleted() {
            true => DigestEntry::of_tombstone(id),
            false => {
                DigestEntry::of_heads(id, &model::heads(self.changes().map(|(_, change)| change)))
            }
        }
    }
}

/// A piece of a document, for a client that has part of it.
pub enum Piece {
    Part(SnapshotPart),
    Entry(Entry),
}

impl Disk {
    pub fn new(upstream: [u8; 16]) -> Self {
        let upstream = Upstream::from_bytes(upstream);
        Self { upstream, epochs: Vec::new(), head: Offset(0), documents: BTreeMap::new() }
    }

    pub fn write(&mut self, commit: &Commit) {
        self.epochs.extend(commit.opens);
        for new in &commit.entries {
            let entry = &new.entry;
            let document = self.documents.entry(entry.document).or_default();
            assert!(entry.offset > self.head, "an offset was assigned twice");
            self.head = entry.offset;
            match &new.kind {
                NewKind::Change { .. } => {
                    let change = preflight(&entry.body).unwrap();
                    document.rows.insert(entry.offset, (entry.clone(), change));
                }
                NewKind::Tombstone => {
                    let tombstone = Some(entry.clone());
                    *document = Document { tombstone, ..Document::default() };
                }
                NewKind::Snapshot(snapshot) => {
                    document.replaced.extend(document.snapshot.take());
                    document.snapshot = Some(Compacted::new(entry.offset, snapshot.body.clone()));
                }
            }
        }
    }

    /// The offset of a snapshot of the first `count` changes of a document's tail.
    pub fn compactable(&self, id: &DocumentId, count: usize) -> Option<Offset> {
        let (through, _) = self.documents.get(id)?.tail().take(count).last()?;
        Some(*through)
    }

    /// Compacts all changes of a document up to an offset.
    pub fn compact(&mut self, id: &DocumentId, through: Offset) {
        let Some(document) = self.documents.get_mut(id) else { return };
        let all = document.changes().take_while(|(offset, _)| *offset <= through);
        let body = model::encode(all.map(|(_, change)| change));
        document.replaced.extend(document.snapshot.take());
        document.snapshot = Some(Compacted::new(through, body));
    }

    /// Drops dead rows and replaced snapshots.
    pub fn prune(&mut self, id: &DocumentId) {
        let Some(document) = self.documents.get_mut(id) else { return };
        document.replaced.clear();
        document.rows = document.tail().map(|(offset, row)| (*offset, row.clone())).collect();
    }

    /// Loses the last change of a document, if no change depends on it and it is not in the
    /// snapshot.
    pub fn lose(&mut self, id: &DocumentId) -> bool {
        let Some(document) = self.documents.get_mut(id) else { return false };
        let last = document.tail().last().map(|(offset, _)| *offset);
        last.is_some_and(|offset| document.rows.remove(&offset).is_some())
    }

    /// The live log in order: entries, and snapshots without their bodies.
    fn live(&self, after: Offset) -> BTreeMap<Offset, (Entry, Option<&Compacted>)> {
        let mut found = BTreeMap::new();
        for (id, document) in &self.documents {
            if let Some(tombstone) = &document.tombstone {
                found.insert(tombstone.offset, (tombstone.clone(), None));
            }
            if let Some(snapshot) = &document.snapshot {
                found.insert(snapshot.offset, (snapshot.entry(*id, true), Some(snapshot)));
            }
            let tail = document.tail();
            found.extend(tail.map(|(offset, (entry, _))| (*offset, (entry.clone(), None))));
        }
        found.split_off(&Offset(after.0 + 1))
    }

    /// The next piece of the log.
    pub fn next(&self, after: Offset, view: &View, partial: Option<Partial>) -> Option<Chunk> {
        let live = self.live(after);
        if let Some(chunk) = self.next_replaced(&live, after, partial) {
            return Some(chunk);
        }
        let (mut entries, mut up_to) = (Vec::new(), after);
        let mut is_last = true;
        for (offset, (entry, snapshot)) in live {
            if entries.len() >= model::PAGE {
                is_last = false;
                break;
            }
            let snapshot = snapshot.filter(|_| view.contains(&entry.document));
            let entry = match snapshot {
                Some(snapshot) if snapshot.in_parts() => {
                    let part = snapshot.part(entry.document, partial);
                    match part {
                        Some(part) if entries.is_empty() => return Some(Chunk::Part(part)),
                        Some(_) => {
                            is_last = false;
                            break;
                        }
                        None => entry,
                    }
                }
                Some(snapshot) => snapshot.entry(entry.document, false),
                None => entry,
            };
            entries.push(EncodedEntry::new(&entry).into());
            up_to = offset;
        }
        if is_last {
            // Changes lost at the end leave no gap.
            up_to = self.head;
        }
        (up_to > after).then(|| Chunk::Entries(self.page(after, up_to, entries)))
    }

    fn page(
        &self,
        after: Offset,
        up_to: Offset,
        entries: Vec<std::sync::Arc<EncodedEntry>>,
    ) -> Page {
        let epoch = self.lineage().epoch_at(up_to).unwrap_or(Epoch::from_bytes([0; 16]));
        Page { after, up_to, epoch, head: self.head, entries }
    }

    /// A snapshot that was replaced during its transfer is sent on while it is kept.
    fn next_replaced(
        &self,
        live: &BTreeMap<Offset, (Entry, Option<&Compacted>)>,
        after: Offset,
        partial: Option<Partial>,
    ) -> Option<Chunk> {
        let hash = partial?.hash;
        let (id, old) = self.documents.iter().find_map(|(id, document)| {
            Some((id, document.replaced.iter().find(|old| old.hash == hash)?))
        })?;
        let is_next = old.offset > after && live.range(..old.offset).next().is_none();
        if !is_next || self.documents[id].is_deleted() {
            return None;
        }
        Some(match old.part(*id, partial) {
            Some(part) => Chunk::Part(part),
            None => {
                let entry = EncodedEntry::new(&old.entry(*id, true));
                Chunk::Entries(self.page(after, old.offset, vec![entry.into()]))
            }
        })
    }

    pub fn lineage(&self) -> Lineage {
        Lineage::new(self.epochs.clone(), self.head)
    }

    /// The relay's state of a document, and the pieces for a client that has these changes.
    pub fn plan(&self, id: &DocumentId, have: &[ChangeHash]) -> (Holding, Vec<Piece>) {
        let Some(document) = self.documents.get(id) else { return (Holding::Absent, vec![]) };
        if let Some(tombstone) = &document.tombstone {
            return (Holding::Deleted, vec![Piece::Entry(tombstone.clone())]);
        }
        let changes = || document.changes().map(|(_, change)| change);
        let had = model::ancestors(changes(), have);
        let mut pieces = Vec::new();
        if let Some(snapshot) = &document.snapshot
            && snapshot.changes.iter().any(|change| !had.contains(&change.hash))
        {
            let mut partial = None;
            while snapshot.in_parts()
                && let Some(part) = snapshot.part(*id, partial)
            {
                let bytes = part.from + part.bytes.len() as u64;
                partial = Some(Partial { hash: part.hash, bytes });
                pieces.push(Piece::Part(part));
            }
            pieces.push(Piece::Entry(snapshot.entry(*id, snapshot.in_parts())));
        }
        let missing = document.tail().filter(|(_, (_, change))| !had.contains(&change.hash));
        pieces.extend(missing.map(|(_, (entry, _))| Piece::Entry(entry.clone())));
        let heads = model::heads(changes()).into_iter().map(|head| head.0).collect();
        (Holding::Present(heads), pieces)
    }

    /// The branch of a prefix, as if the space had only the documents of the view.
    pub fn branch_of(&self, prefix: Prefix, view: &View) -> Branch {
        let seen = self.documents.iter().filter(|(id, _)| view.contains(id));
        let digest_entries = seen.map(|(id, document)| (*id, document.digest_entry(id)));
        Branch { prefix, node: node(prefix, digest_entries, limits::BRANCH_ENTRIES) }
    }

    /// Every change of the relay, repeated if it is stored repeatedly.
    pub fn holds(&self) -> Vec<(DocumentId, ChangeHash)> {
        let of = |(id, document): (&DocumentId, &Document)| {
            document.changes().map(|(_, change)| (*id, change.hash)).collect::<Vec<_>>()
        };
        self.documents.iter().flat_map(of).collect()
    }

    pub fn snapshot_bytes(&self, id: &DocumentId) -> usize {
        self.documents[id].snapshot.as_ref().map_or(0, |snapshot| snapshot.body.len())
    }

    pub fn snapshots(&self) -> usize {
        self.documents.values().filter(|document| document.snapshot.is_some()).count()
    }
}

/// The node of a prefix: the documents themselves, if there are at most `most`.
pub fn node(
    prefix: Prefix,
    digest_entries: impl Iterator<Item = (DocumentId, DigestEntry)>,
    most: usize,
) -> Node {
    let (first, last) = prefix.range();
    let below = |id: &DocumentId| first <= *id.as_bytes() && *id.as_bytes() <= last;
    let below: Vec<(DocumentId, DigestEntry)> =
        digest_entries.filter(|(id, _)| below(id)).collect();
    if below.len() <= most {
        return Node::DigestEntries(below);
    }
    let mut children = vec![Digest::default(); 16];
    for (id, digest_entry) in below {
        children[usize::from(prefix.child_of(&id))].add(digest_entry);
    }
    Node::Children(children)
}

impl History for Disk {
    type Error = Infallible;

    fn last_sequence(&self, d: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Infallible> {
        let changes = self.documents.get(d).into_iter().flat_map(Document::changes);
        Ok(changes.filter(|(_, c)| c.actor == *actor).map(|(_, c)| c.seq).max())
    }

    fn at_sequence(
        &self,
        d: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, Infallible> {
        let mut changes = self.documents.get(d).into_iter().flat_map(Document::changes);
        let found = changes.find(|(_, c)| c.actor == *actor && c.seq == sequence);
        Ok(found.map(|(position, change)| KnownChange { hash: change.hash, position }))
    }

    fn max_op(&self, d: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        let mut changes = self.documents.get(d).into_iter().flat_map(Document::changes);
        Ok(changes.find(|(_, change)| change.hash == *hash).map(|(_, change)| change.max_op))
    }

    fn deleted_at(&self, d: &DocumentId) -> Result<Option<Offset>, Infallible> {
        let tombstone = self.documents.get(d).and_then(|document| document.tombstone.as_ref());
        Ok(tombstone.map(|entry| entry.offset))
    }

    fn has_changes(&self, d: &DocumentId) -> Result<bool, Infallible> {
        Ok(self.documents.get(d).is_some_and(|document| document.changes().next().is_some()))
    }

    fn size(&self, d: &DocumentId) -> Result<DocumentSize, Infallible> {
        let changes = self.documents.get(d).into_iter().flat_map(Document::changes).count() as u64;
        Ok(DocumentSize { changes, ..DocumentSize::default() })
    }

    fn is_head(&self, _: &DocumentId, _: &ChangeHash) -> Result<bool, Infallible> {
        Ok(true)
    }
}
