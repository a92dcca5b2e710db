//! A model of an engine's store: the state that survives every lost connection.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use landfall_protocol::admission::{
    CheckedChange, DocumentSize, History, HistoryError, KnownChange, Roots, Verdict, admit,
};
use landfall_protocol::client::{
    Batch, DocumentBatch, DocumentHeads, Incoming, OutboxChange, OutboxKind, Resendable,
    ResumePoint,
};
use landfall_protocol::digest::{Branch, DigestEntry, Prefix};
use landfall_protocol::frame::{Filter, Holding, Mark, Partial};
use landfall_protocol::{ActorId, ChangeHash, Cursor, DocumentId, Local, Offset, Upstream};

use crate::{disk, model};

/// The store's record of an upstream.
#[derive(Clone, Default)]
pub struct Link {
    pub cursor: Option<Cursor>,
    pub mark: Option<Mark>,
    /// Acked ranges, as local numbers.
    pub held: BTreeSet<u64>,
    pub rejected: BTreeSet<DocumentId>,
    arriving: Option<Arriving>,
}

/// A partially received snapshot.
#[derive(Clone)]
struct Arriving {
    hash: [u8; 32],
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
pub struct ModelStore {
    /// Every change by its local number.
    log: BTreeMap<u64, (DocumentId, CheckedChange)>,
    documents: BTreeMap<DocumentId, Vec<u64>>,
    last: u64,
    /// The number of a document's first changes that are compacted.
    compacted: BTreeMap<DocumentId, usize>,
    pub tombstones: BTreeMap<DocumentId, u64>,
    pub links: BTreeMap<Upstream, Link>,
    pub filter: Option<Filter>,
    /// Documents that may have a second root.
    pub several: BTreeSet<DocumentId>,
    /// Deferred changes.
    pub deferred: Vec<(DocumentId, CheckedChange, HistoryError)>,
    /// Every change that an upstream ever acknowledged.
    pub acknowledged: BTreeSet<ChangeHash>,
    /// Changes that no upstream held when their document was deleted: their author was notified.
    pub told: BTreeSet<ChangeHash>,
    /// The documents that each check found to differ.
    pub checked: Vec<Vec<DocumentId>>,
    /// The changes of every uploaded snapshot.
    offered: BTreeMap<[u8; 32], Vec<ChangeHash>>,
}

/// Why a write failed.
pub type Failure = &'static str;

impl ModelStore {
    pub fn rows(&self, d: &DocumentId) -> impl Iterator<Item = (u64, &CheckedChange)> {
        let locals = self.documents.get(d).into_iter().flatten();
        locals.map(|local| (*local, &self.log[local].1))
    }

    pub fn changes(&self, d: &DocumentId) -> impl Iterator<Item = &CheckedChange> {
        self.rows(d).map(|(_, change)| change)
    }

    /// Every change in the store, repeated if it is stored repeatedly.
    pub fn holds(&self) -> Vec<(DocumentId, ChangeHash)> {
        self.log.values().map(|(document, change)| (*document, change.hash)).collect()
    }

    pub fn local_of(&self, d: &DocumentId, hash: &ChangeHash) -> Option<u64> {
        self.rows(d).find(|(_, change)| change.hash == *hash).map(|(local, _)| local)
    }

    /// The number of items not acknowledged by an upstream, without the rejected ones.
    pub fn pending(&self, upstream: Upstream) -> usize {
        let link = self.links.get(&upstream).cloned().unwrap_or_default();
        let changes = self.log.iter().map(|(local, (document, _))| (local, document));
        let tombstones = self.tombstones.iter().map(|(document, local)| (local, document));
        let wanted = changes.chain(tombstones).filter(|(_, d)| !link.rejected.contains(d));
        wanted.filter(|(local, _)| !link.held.contains(local)).count()
    }

    pub fn insert(&mut self, document: DocumentId, change: CheckedChange) -> u64 {
        self.last += 1;
        self.log.insert(self.last, (document, change));
        self.documents.entry(document).or_default().push(self.last);
        self.last
    }

    /// Deletes a document, by the application or a tombstone; returns the tombstone's number.
    pub fn delete(&mut self, d: DocumentId) -> u64 {
        if let Some(local) = self.tombstones.get(&d) {
            return *local;
        }
        for local in self.documents.remove(&d).unwrap_or_default() {
            let (_, change) = self.log.remove(&local).expect("a row");
            if !self.acknowledged.contains(&change.hash) {
                self.told.insert(change.hash);
            }
        }
        self.compacted.remove(&d);
        self.deferred.retain(|(document, ..)| *document != d);
        self.last += 1;
        self.tombstones.insert(d, self.last);
        for link in self.links.values_mut() {
            link.rejected.remove(&d);
        }
        self.last
    }

    /// Compacts the first `count` changes of a document, if that is more than before.
    pub fn compact(&mut self, d: DocumentId, count: usize) {
        if count <= self.rows(&d).count() && count > 0 {
            let compacted = self.compacted.entry(d).or_default();
            *compacted = count.max(*compacted);
        }
    }

    /// Loses a change without dependants.
    pub fn lose(&mut self, d: &DocumentId) -> Option<ChangeHash> {
        let head = *model::heads(self.changes(d)).first()?;
        let local = self.local_of(d, &head)?;
        self.log.remove(&local);
        for link in self.links.values_mut() {
            link.held.remove(&local);
        }
        let locals = self.documents.get_mut(d).expect("it has a head");
        locals.retain(|of| *of != local);
        let left = locals.len();
        if let Some(compacted) = self.compacted.get_mut(d) {
            *compacted = left.min(*compacted);
        }
        Some(head)
    }

    pub fn link(&mut self, upstream: Upstream) -> &mut Link {
        self.links.entry(upstream).or_default()
    }

    fn hold(&mut self, upstream: Upstream, local: u64) {
        if let Some((_, change)) = self.log.get(&local) {
            self.acknowledged.insert(change.hash);
        }
        self.link(upstream).held.insert(local);
    }

    pub fn resume(&mut self, upstream: Upstream) -> ResumePoint {
        let holds = !self.log.is_empty() || !self.tombstones.is_empty();
        let filter = self.filter.clone().unwrap_or(Filter::Everything);
        let link = self.link(upstream);
        let partial = link.arriving.as_ref().map(|arriving| {
            let bytes = arriving.bytes.len() as u64;
            Partial { hash: arriving.hash, bytes }
        });
        ResumePoint { cursor: link.cursor, acknowledged: link.mark, holds, filter, partial }
    }

    pub fn reset(&mut self, upstream: Upstream) -> Local {
        *self.link(upstream) = Link::default();
        Local(self.last)
    }

    fn snapshot(&self, d: &DocumentId) -> Option<(Vec<u64>, Vec<u8>)> {
        let count = *self.compacted.get(d)?;
        let compacted: Vec<_> = self.rows(d).take(count).collect();
        let body = model::encode(compacted.iter().map(|(_, change)| *change));
        Some((compacted.iter().map(|(local, _)| *local).collect(), body))
    }

    pub fn outbox(
        &mut self,
        upstream: Upstream,
        after: Local,
        most: usize,
    ) -> (Vec<OutboxChange>, bool) {
        let Link { held, rejected, .. } = self.link(upstream).clone();
        let mut found = Vec::new();
        for (d, local) in &self.tombstones {
            let what = OutboxKind::Tombstone;
            found.push(OutboxChange { local: Local(*local), document: *d, what });
        }
        found.retain(|change| !held.contains(&change.local.0));
        for document in self.documents.keys().copied().collect::<Vec<_>>() {
            if let Some((locals, body)) = self.snapshot(&document)
                && locals.iter().any(|local| !held.contains(local))
            {
                let (hash, total) = (model::sha256(&body), body.len() as u64);
                let changes = model::decode(&body);
                let heads = model::heads(&changes);
                self.offered.insert(hash, changes.iter().map(|change| change.hash).collect());
                let local = Local(*locals.last().expect("something is compacted"));
                let what = OutboxKind::Snapshot { hash, total, heads };
                found.push(OutboxChange { local, document, what });
            }
            let compacted = self.compacted.get(&document).copied().unwrap_or(0);
            let several = self.several.contains(&document);
            for (local, change) in self.rows(&document).skip(compacted) {
                let second = several && change.dependencies.is_empty();
                let roots = if second { Roots::Several } else { Roots::One };
                let what = OutboxKind::Change(change.bytes.clone(), roots);
                found.push(OutboxChange { local: Local(local), document, what });
            }
        }
        found.retain(|change| {
            let is_held =
                matches!(change.what, OutboxKind::Change(..)) && held.contains(&change.local.0);
            change.local > after && !is_held && !rejected.contains(&change.document)
        });
        found.sort_by_key(|change| change.local);
        let more = found.len() > most.min(3);
        found.truncate(most.min(3));
        (found, more)
    }

    pub fn snapshot_part(&self, d: &DocumentId, hash: [u8; 32], from: u64) -> Option<Vec<u8>> {
        let (_, body) = self.snapshot(d)?;
        let from = from as usize;
        let end = body.len().min(from + model::PART_BYTES);
        (model::sha256(&body) == hash).then(|| body[from..end].to_vec())
    }

    /// The answer to a repair request: these changes, or everything.
    pub fn resendable(&self, d: &DocumentId, changes: &[ChangeHash]) -> Resendable {
        let named = |change: &&CheckedChange| changes.contains(&change.hash);
        let found = self.changes(d).filter(named);
        match self.snapshot(d).filter(|_| changes.is_empty()) {
            Some((_, body)) => {
                let (hash, total) = (model::sha256(&body), body.len() as u64);
                let heads = model::heads(&model::decode(&body));
                Resendable::Snapshot { hash, total, heads }
            }
            None => Resendable::Changes(found.map(|change| change.bytes.clone()).collect()),
        }
    }

    pub fn acknowledge(&mut self, upstream: Upstream, locals: &[Local], mark: Mark) {
        for local in locals {
            let is_there = self.log.contains_key(&local.0)
                || self.tombstones.values().any(|tombstone| *tombstone == local.0);
            if is_there {
                self.hold(upstream, local.0);
            }
        }
        let link = self.link(upstream);
        if link.mark.is_none_or(|old| old.offset < mark.offset) {
            link.mark = Some(mark);
        }
    }

    pub fn acknowledge_snapshot(
        &mut self,
        upstream: Upstream,
        d: &DocumentId,
        hash: [u8; 32],
        mark: Mark,
    ) {
        let hashes = self.offered[&hash].clone();
        let locals = hashes.iter().filter_map(|hash| self.local_of(d, hash)).map(Local);
        let locals: Vec<Local> = locals.collect();
        self.acknowledge(upstream, &locals, mark);
    }

    pub fn requeue(&mut self, upstream: Upstream, d: &DocumentId) {
        let of: Vec<u64> = self.numbers(d);
        self.link(upstream).held.retain(|held| !of.contains(held));
    }

    /// The local numbers of a document's changes and of its tombstone.
    fn numbers(&self, d: &DocumentId) -> Vec<u64> {
        let tombstone = self.tombstones.get(d).copied();
        self.rows(d).map(|(local, _)| local).chain(tombstone).collect()
    }

    pub fn branches(&self, prefixes: &[(Prefix, bool)]) -> Vec<Branch> {
        let present = self.documents.keys().map(|d| {
            let heads = model::heads(self.changes(d));
            (*d, DigestEntry::of_heads(d, &heads))
        });
        let deleted = self.tombstones.keys().map(|d| (*d, DigestEntry::of_tombstone(d)));
        let digest_entries: BTreeMap<DocumentId, DigestEntry> = present.chain(deleted).collect();
        let of = |(prefix, whole): &(Prefix, bool)| {
            let most = if *whole { usize::MAX } else { 0 };
            let digest_entries = digest_entries.iter().map(|(d, digest_entry)| (*d, *digest_entry));
            Branch { prefix: *prefix, node: disk::node(*prefix, digest_entries, most) }
        };
        prefixes.iter().map(of).collect()
    }

    pub fn heads(&self, documents: &[DocumentId]) -> Vec<DocumentHeads> {
        let of = |d: &DocumentId| {
            let changes: Vec<_> = self.changes(d).collect();
            let heads = model::heads(changes.iter().copied());
            DocumentHeads { document: *d, heads, older: model::older(&changes) }
        };
        documents.iter().map(of).collect()
    }

    pub fn store_part(
        &mut self,
        upstream: Upstream,
        hash: [u8; 32],
        from: u64,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let arriving = &mut self.link(upstream).arriving;
        if from == 0 {
            *arriving = Some(Arriving { hash, bytes: Vec::new() });
        }
        let goes_on =
            arriving.as_mut().filter(|one| one.hash == hash && one.bytes.len() as u64 == from);
        goes_on.ok_or("not the next part")?.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub fn receive(&mut self, upstream: Upstream, batch: Batch) -> Result<(), Failure> {
        let at = self.link(upstream).cursor.map_or(Offset(0), |cursor| cursor.offset);
        if at != batch.after {
            return Err("not the next batch");
        }
        let before = self.clone();
        for incoming in batch.entries {
            if let Err(failure) = self.take(upstream, incoming) {
                *self = before;
                return Err(failure);
            }
        }
        self.link(upstream).cursor = Some(batch.cursor);
        Ok(())
    }

    pub fn receive_document(
        &mut self,
        upstream: Upstream,
        batch: DocumentBatch,
    ) -> Result<(), Failure> {
        let d = batch.document;
        for incoming in batch.entries {
            self.take(upstream, incoming)?;
        }
        if !batch.last {
            return Ok(());
        }
        self.requeue(upstream, &d);
        match batch.holding {
            Holding::Absent => {}
            Holding::Deleted => {
                let local = self.delete(d);
                self.hold(upstream, local);
            }
            Holding::Present(heads) => {
                let heads: Vec<ChangeHash> = heads.into_iter().map(ChangeHash).collect();
                self.hold_ancestors(upstream, &d, &heads);
            }
        }
        Ok(())
    }

    fn hold_ancestors(&mut self, upstream: Upstream, d: &DocumentId, heads: &[ChangeHash]) {
        let found = model::ancestors(self.changes(d), heads);
        let locals = self.rows(d).filter(|(_, change)| found.contains(&change.hash));
        let locals: Vec<u64> = locals.map(|(local, _)| local).collect();
        locals.into_iter().for_each(|local| self.hold(upstream, local));
    }

    pub fn finish_comparison(
        &mut self,
        upstream: Upstream,
        cursor: Option<Cursor>,
        through: Local,
        except: &[DocumentId],
    ) {
        let changes = self.log.iter().map(|(local, (d, _))| (*local, *d));
        let tombstones = self.tombstones.iter().map(|(d, local)| (*local, *d));
        let held: Vec<u64> = changes
            .chain(tombstones)
            .filter(|(local, d)| *local <= through.0 && !except.contains(d))
            .map(|(local, _)| local)
            .collect();
        held.into_iter().for_each(|local| self.hold(upstream, local));
        let link = self.link(upstream);
        (link.cursor, link.arriving) = (cursor, None);
    }

    fn take(&mut self, upstream: Upstream, incoming: Incoming) -> Result<(), Failure> {
        match incoming {
            Incoming::Change { document, change, second_root, .. } => {
                self.take_change(upstream, document, change, second_root);
            }
            Incoming::Snapshot { document, hash, heads, body, .. } => {
                let body = match body {
                    Some(body) => body,
                    None => {
                        let arrived = self.link(upstream).arriving.take();
                        let arrived = arrived.filter(|arrived| arrived.hash == hash);
                        arrived.ok_or("a snapshot without its parts")?.bytes
                    }
                };
                self.take_snapshot(upstream, document, hash, &heads, &body)?;
            }
            Incoming::SnapshotEcho { document, heads, .. } => {
                let held = heads.iter().all(|head| self.local_of(&document, head).is_some());
                if !held && !self.tombstones.contains_key(&document) {
                    return Err("the echo of a snapshot that we do not have");
                }
                self.hold_ancestors(upstream, &document, &heads);
            }
            Incoming::Tombstone { document, .. } => {
                let local = self.delete(document);
                self.hold(upstream, local);
            }
            Incoming::Echo { document, hash } => match self.local_of(&document, &hash) {
                Some(local) => self.hold(upstream, local),
                None if self.tombstones.contains_key(&document) => {}
                None => return Err("the echo of a change that we do not have"),
            },
            Incoming::Deferred { entry, reason } => panic!("{:?}: {reason}", entry.hash()),
        }
        Ok(())
    }

    fn take_snapshot(
        &mut self,
        upstream: Upstream,
        d: DocumentId,
        hash: [u8; 32],
        heads: &[ChangeHash],
        body: &[u8],
    ) -> Result<(), Failure> {
        if model::sha256(body) != hash {
            return Err("a snapshot of other bytes");
        }
        let changes = model::decode(body);
        assert_eq!(model::heads(&changes), heads, "a snapshot has its stated heads");
        let has_none = self.rows(&d).next().is_none();
        let mut rooted = !has_none;
        let related = changes.iter().any(|change| self.local_of(&d, &change.hash).is_some());
        for change in changes {
            let root = change.dependencies.is_empty();
            // The relay's roots belong together; they join ours only if one is common, or if the
            // merge was requested.
            let second = root && rooted && (related || has_none);
            rooted |= root;
            self.take_change(upstream, d, change, second);
        }
        if has_none {
            let count = self.rows(&d).count();
            self.compact(d, count);
        }
        Ok(())
    }

    fn take_change(
        &mut self,
        upstream: Upstream,
        d: DocumentId,
        change: CheckedChange,
        second_root: bool,
    ) {
        if self.tombstones.contains_key(&d) {
            return;
        }
        let several = second_root || self.several.contains(&d);
        let roots = if several { Roots::Several } else { Roots::One };
        let Ok(verdict) = admit(self, &d, &change, roots);
        match verdict {
            Ok(Verdict::New) => {
                if second_root {
                    self.several.insert(d);
                }
                let local = self.insert(d, change);
                self.hold(upstream, local);
            }
            Ok(Verdict::Duplicate(known)) => self.hold(upstream, known.position.0),
            Err(error) => self.deferred.push((d, change, error)),
        }
    }

    /// Merges a document's two histories, as the application asked.
    pub fn merge_histories(&mut self, upstream: Upstream, d: DocumentId) {
        self.several.insert(d);
        let deferred = std::mem::take(&mut self.deferred);
        for (document, change, _) in deferred {
            self.take_change(upstream, document, change, false);
        }
        self.link(upstream).rejected.remove(&d);
    }
}

impl History for ModelStore {
    type Error = Infallible;

    fn last_sequence(&self, d: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Infallible> {
        Ok(self.changes(d).filter(|c| c.actor == *actor).map(|change| change.seq).max())
    }

    fn at_sequence(
        &self,
        d: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, Infallible> {
        let found = self.rows(d).find(|(_, c)| c.actor == *actor && c.seq == sequence);
        Ok(found.map(|(local, change)| KnownChange { hash: change.hash, position: Offset(local) }))
    }

    fn max_op(&self, d: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        Ok(self.changes(d).find(|change| change.hash == *hash).map(|change| change.max_op))
    }

    fn deleted_at(&self, d: &DocumentId) -> Result<Option<Offset>, Infallible> {
        Ok(self.tombstones.get(d).map(|local| Offset(*local)))
    }

    fn has_changes(&self, d: &DocumentId) -> Result<bool, Infallible> {
        Ok(self.rows(d).next().is_some())
    }

    fn size(&self, d: &DocumentId) -> Result<DocumentSize, Infallible> {
        let changes = self.changes(d).count() as u64;
        Ok(DocumentSize { changes, ..DocumentSize::default() })
    }

    fn is_head(&self, _: &DocumentId, _: &ChangeHash) -> Result<bool, Infallible> {
        Ok(true)
    }
}
