//! Reconciliation: compares the documents of the two ends after the relay's log turned out to be
//! another one, after the application changed its filter, and periodically to find drift.
//!
//! The walk descends from the root of the digests, only where they differ. Each document that
//! differs is fetched: the relay states its heads and sends the changes that we lack. Changes that
//! the relay lacks are thereby known, and go out through the outbox. An interrupted comparison
//! loses nothing: the next walk skips the documents that are equal by then.
//!
//! The memory that a relay can make us use is bounded. The walk goes depth first and fetches the
//! documents that it finds before it continues, so no list grows with the relay's documents. A
//! relay has broken the protocol if its digests lead to no document, or if it lists documents and
//! sends nothing of them.
//!
//! This module does not read the store: it requests digests and heads by effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::receive::{check, too_large, weight};
use super::{DocumentBatch, DocumentHeads, Replica, ReplicaEffect};
use crate::digest::{Branch, Digest, DigestEntry, Node, Prefix};
use crate::frame::{
    Difference, DigestQuery, DocumentEntries, Entry, Fetch, Filter, Frame, Holding, Want,
    entry_kind,
};
use crate::ids::{ChangeHash, DocumentId, Local, Offset, SpaceName};
use crate::limits;
use crate::moment::Moment;

/// The reason for a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The relay's log is another one, so none of our changes counts as acked. At the end, changes
    /// up to this local number count as acked in the documents that the walk found equal.
    Lineage(Local),
    /// The filter changed.
    Scope,
    /// A check for drift.
    Drift,
}

/// The input that the comparison waits for.
#[derive(Debug, PartialEq, Eq)]
enum Awaiting {
    Nothing,
    /// The relay's branches for these prefixes.
    Relay(Vec<Prefix>),
    /// Our own branches, to be compared with the relay's.
    Ours(Vec<Branch>),
    /// Our heads of these documents, which are to be fetched.
    Heads(Vec<DocumentId>),
    /// These documents from the relay, in this order.
    Documents(VecDeque<DocumentId>),
    /// The store, which records that the comparison is complete.
    Finish,
}

/// A comparison in progress.
#[derive(Debug)]
pub(super) struct Compare {
    purpose: Purpose,
    awaiting: Awaiting,
    /// The ticket of a check, which its answer carries.
    ticket: Option<u64>,
    /// Prefixes to query, the deepest last. The last are queried first, which bounds the list: it
    /// holds at most the children of one query for each of the 32 steps.
    prefixes: Vec<Prefix>,
    /// Consecutive queries whose answers led to no document.
    fruitless: u32,
    /// Documents to fetch: at most those of one answer, and less than one fetch.
    wanted: BTreeSet<DocumentId>,
    /// Documents, wanted or being fetched, of which we have nothing and the relay has listed
    /// something.
    lacking: BTreeSet<DocumentId>,
    /// Our documents that differ, or that only we have.
    unequal: Vec<DocumentId>,
    /// The documents among them that only we have.
    ours_only: Vec<DocumentId>,
    /// The log's last offset when the relay computed its digests, for drift.
    at: Option<Offset>,
    /// Documents that differed although neither end had anything in progress, and the number of
    /// further ones.
    drifted: Vec<DocumentId>,
    more_drifted: u64,
    /// Our heads of the documents being fetched, as read from the store.
    heads: BTreeMap<DocumentId, Vec<ChangeHash>>,
    /// The offset up to which entries had been received when the heads were read.
    heads_at: Offset,
    /// The relay's heads received so far of the document being fetched.
    told: BTreeSet<[u8; 32]>,
    /// The arriving document has an entry that the relay cannot read, so it differs regardless of
    /// its heads.
    damaged: bool,
}

impl Compare {
    fn new(purpose: Purpose, filter: &Filter) -> Self {
        let (prefixes, wanted) = match filter {
            Filter::Everything => (vec![Prefix::ROOT], BTreeSet::new()),
            Filter::Documents(documents) => (Vec::new(), documents.iter().copied().collect()),
        };
        let unequal = wanted.iter().copied().collect();
        Self {
            purpose,
            awaiting: Awaiting::Nothing,
            ticket: None,
            prefixes,
            fruitless: 0,
            wanted,
            lacking: BTreeSet::new(),
            unequal,
            ours_only: Vec::new(),
            at: None,
            drifted: Vec::new(),
            more_drifted: 0,
            heads: BTreeMap::new(),
            heads_at: Offset(0),
            told: BTreeSet::new(),
            damaged: false,
        }
    }

    /// A comparison because the relay's log is another one.
    pub(super) fn of_lineage(filter: &Filter, through: Local) -> Self {
        // The walk learns nothing about documents outside the filter, so they must not count as
        // acked.
        let through = if *filter == Filter::Everything { through } else { Local(0) };
        Self::new(Purpose::Lineage(through), filter)
    }

    /// A comparison because the filter changed: of the documents that were not wanted before.
    pub(super) fn of_scope(before: &Filter, after: &Filter) -> Self {
        let mut compare = Self::new(Purpose::Scope, after);
        if let Filter::Documents(_) = after {
            compare.wanted.retain(|document| !before.wants(document));
        }
        compare
    }

    /// A check for drift, answered with this ticket.
    pub(super) fn of_drift(filter: &Filter, ticket: u64) -> Self {
        Self { ticket: Some(ticket), ..Self::new(Purpose::Drift, filter) }
    }

    pub(super) fn ticket(&self) -> Option<u64> {
        self.ticket
    }

    fn add_drifted(&mut self, document: DocumentId) {
        if self.drifted.contains(&document) {
            return;
        }
        match self.drifted.len() < limits::DRIFTED_DOCUMENTS {
            true => self.drifted.push(document),
            false => self.more_drifted += 1,
        }
    }

    /// The number of documents that are known to differ and have not arrived yet.
    pub(super) fn to_come(&self) -> u64 {
        let on_their_way = match &self.awaiting {
            Awaiting::Documents(documents) => documents.len(),
            _ => 0,
        };
        (self.wanted.len() + on_their_way) as u64
    }

    /// Compares a branch of the relay's with ours.
    fn hold_against(&mut self, theirs: &Branch, ours: &Branch) {
        match (&theirs.node, &ours.node) {
            // Too many documents to list: descend only into the children whose digests differ.
            (Node::Children(theirs_below), node) => {
                let below = children(ours.prefix, node);
                for nibble in 0..16u8 {
                    let at = usize::from(nibble);
                    if theirs_below[at] != below[at] {
                        self.prefixes.push(theirs.prefix.child(nibble));
                    }
                }
            }
            (Node::DigestEntries(theirs), Node::DigestEntries(ours)) => {
                self.hold_digest_entries(theirs, ours)
            }
            // The relay lists documents, but our store returned digests although it was asked for
            // documents: descend one step.
            (Node::DigestEntries(_), Node::Children(_)) => {
                self.prefixes.extend((0..16).map(|nibble| theirs.prefix.child(nibble)));
            }
        }
    }

    fn hold_digest_entries(
        &mut self,
        theirs: &[(DocumentId, DigestEntry)],
        ours: &[(DocumentId, DigestEntry)],
    ) {
        let ours: BTreeMap<DocumentId, DigestEntry> = ours.iter().copied().collect();
        let theirs: BTreeMap<DocumentId, DigestEntry> = theirs.iter().copied().collect();
        // A document that the relay has and we lack or hold differently must be fetched.
        for (document, digest_entry) in &theirs {
            if ours.get(document) != Some(digest_entry) {
                self.wanted.insert(*document);
                match ours.contains_key(document) {
                    true => self.unequal.push(*document),
                    false => self.lacking.extend([*document]),
                }
                self.add_drifted(*document);
            }
        }
        // A document that only we have needs no fetch.
        for document in ours.keys().filter(|document| !theirs.contains_key(document)) {
            self.ours_only.push(*document);
            self.unequal.push(*document);
            self.add_drifted(*document);
        }
    }

    fn next_prefixes(&mut self) -> Vec<Prefix> {
        let most = self.prefixes.len().min(limits::BRANCHES);
        self.prefixes.split_off(self.prefixes.len() - most)
    }

    /// Whether enough documents are known to fetch them before the walk continues.
    fn fetches_first(&self) -> bool {
        self.prefixes.is_empty() || self.wanted.len() >= limits::FETCH_DOCUMENTS
    }

    /// Advances to the next document, unless more of the current one follows.
    fn next_document(&mut self, more: bool) {
        let Awaiting::Documents(expected) = &mut self.awaiting else { return };
        if !more {
            expected.pop_front();
        }
        if expected.is_empty() {
            self.awaiting = Awaiting::Nothing;
        }
    }

    /// Returns false if the relay has listed this document, completes it with this frame, and has
    /// sent nothing of it.
    fn comes(&mut self, found: &DocumentEntries) -> bool {
        if !found.entries.is_empty() || found.holding == Holding::Deleted {
            self.lacking.remove(&found.document);
        }
        found.more || !self.lacking.contains(&found.document)
    }

    /// Collects the heads of a document's frames; the last frame then holds all of them. Returns
    /// false if there are too many.
    fn gather_heads(&mut self, found: &mut DocumentEntries) -> bool {
        if let Holding::Present(heads) = &mut found.holding {
            self.told.extend(heads.drain(..));
            if !found.more {
                heads.extend(std::mem::take(&mut self.told));
            }
        }
        if !found.more {
            self.told.clear();
        }
        self.told.len() <= limits::HEADS_TOLD
    }

    fn next_wanted(&mut self) -> Vec<DocumentId> {
        let mut batch = Vec::new();
        while batch.len() < limits::FETCH_DOCUMENTS
            && let Some(document) = self.wanted.pop_first()
        {
            batch.push(document);
        }
        batch
    }
}

/// The leading documents that fit into one `Fetch`, at least one.
fn fitting(mut heads: Vec<DocumentHeads>) -> Vec<DocumentHeads> {
    let mut hashes = 0;
    let fits = |of: &&DocumentHeads| {
        hashes += of.heads.len() + of.older.len();
        hashes <= limits::FETCH_HASHES
    };
    let count = heads.iter().take_while(fits).count();
    heads.truncate(count.max(1));
    heads
}

/// Whether a branch is well-formed, and names only documents below its prefix.
fn is_within(branch: &Branch) -> bool {
    let (first, last) = branch.prefix.range();
    let is_below = |document: &DocumentId| (first..=last).contains(document.as_bytes());
    let below = match &branch.node {
        Node::Children(_) => branch.prefix.depth < Prefix::DEEPEST,
        Node::DigestEntries(digest_entries) => {
            digest_entries.iter().all(|(document, _)| is_below(document))
        }
    };
    below && branch.node.is_valid()
}

/// The digests of the sixteen children.
fn children(prefix: Prefix, node: &Node) -> Vec<Digest> {
    match node {
        Node::Children(children) => children.clone(),
        Node::DigestEntries(digest_entries) => {
            let mut children = vec![Digest::default(); 16];
            for (document, digest_entry) in digest_entries {
                children[usize::from(prefix.child_of(document))].add(*digest_entry);
            }
            children
        }
    }
}

impl Replica {
    /// Takes the next step, unless an input is awaited. Called after every input.
    pub(super) fn compare_on(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let subscription = link.subscription;
        let Some(compare) = &mut link.compare else { return };
        if compare.awaiting != Awaiting::Nothing {
            return;
        }
        // Fetch before descending further, so that the list of documents stays bounded.
        if compare.fetches_first() {
            let documents = compare.next_wanted();
            if !documents.is_empty() {
                compare.awaiting = Awaiting::Heads(documents.clone());
                let space = space.clone();
                return self.effects.push_back(ReplicaEffect::LoadHeads { space, documents });
            }
        }
        if compare.purpose == Purpose::Drift && link.receiver.is_storing() {
            // Our digests must include the fetched documents before they are compared again.
            return;
        }
        // Then continue the walk with the deepest prefixes.
        let prefixes = compare.next_prefixes();
        if !prefixes.is_empty() {
            compare.awaiting = Awaiting::Relay(prefixes.clone());
            return self.send(Frame::Digest(DigestQuery { subscription, prefixes }));
        }
        // Finishing claims that every fetched document is stored, so wait for the store.
        if link.receiver.is_storing() {
            return;
        }
        compare.awaiting = Awaiting::Finish;
        match compare.purpose {
            Purpose::Drift => self.finish_drift(now, space),
            purpose => self.finish_compare(space, purpose),
        }
    }

    fn finish_compare(&mut self, space: &SpaceName, purpose: Purpose) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(compare) = &mut link.compare else { return };
        let through = match purpose {
            Purpose::Lineage(through) => through,
            Purpose::Scope | Purpose::Drift => Local(0),
        };
        self.effects.push_back(ReplicaEffect::FinishReconcile {
            space: space.clone(),
            cursor: link.receiver.compared_cursor(),
            through,
            except: std::mem::take(&mut compare.unequal),
        });
    }

    /// Finishes a check: documents that differ have been fetched, and those that only we have are
    /// pushed again.
    fn finish_drift(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(compare) = link.compare.take() else { return };
        let differs = !compare.unequal.is_empty();
        for document in compare.ours_only {
            link.outbox.begin_requeue();
            let space = space.clone();
            self.effects.push_back(ReplicaEffect::Requeue { space, document });
        }
        if differs {
            link.outbox.begin_again();
        }
        let (space_name, drifted, more) = (space.clone(), compare.drifted, compare.more_drifted);
        if let Some(ticket) = compare.ticket {
            let checked = ReplicaEffect::Checked { space: space_name, ticket, drifted, more };
            self.effects.push_back(checked);
        }
        self.pump(now, space);
        self.try_check(now, space);
    }

    pub(super) fn handle_difference(&mut self, now: Moment, found: Difference) {
        let Some(space) = self.space_of(found.subscription) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        // An answer may cross the end of its comparison.
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Relay(asked) = &compare.awaiting else {
            return self.broken("it reports a difference without a query".to_owned());
        };
        // Check the answer before storing anything of it: its size and prefixes come from the
        // network.
        let fits = found.branches.len() == asked.len()
            && found
                .branches
                .iter()
                .zip(asked)
                .all(|(branch, prefix)| branch.prefix == *prefix && is_within(branch));
        if !fits {
            return self.broken("it reports other differences than were queried".to_owned());
        }
        if compare.purpose == Purpose::Drift {
            // A difference is meaningful only while neither end has anything in progress.
            let still = link.receiver.settled_at() == Some(found.head)
                && link.outbox.is_settled()
                && compare.at.is_none_or(|at| at == found.head);
            compare.at = Some(found.head);
            self.check_steps += 1;
            if !still {
                return self.interrupt_check(now, &space);
            }
        }
        let wants_digest_entries = |branch: &Branch| matches!(branch.node, Node::DigestEntries(_));
        let prefixes = found
            .branches
            .iter()
            .map(|branch| (branch.prefix, wants_digest_entries(branch)))
            .collect();
        compare.awaiting = Awaiting::Ours(found.branches);
        self.effects.push_back(ReplicaEffect::LoadBranches { space, prefixes });
    }

    /// Our branches below the prefixes that [`ReplicaEffect::LoadBranches`] asked for.
    pub fn handle_branches(&mut self, now: Moment, space: &SpaceName, ours: &[Branch]) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Ours(theirs) = std::mem::replace(&mut compare.awaiting, Awaiting::Nothing)
        else {
            return;
        };
        if compare.purpose == Purpose::Drift && !link.outbox.is_settled() {
            // A change was made meanwhile and may be the difference.
            return self.interrupt_check(now, space);
        }
        let found = (compare.wanted.len(), compare.ours_only.len());
        for (theirs, ours) in theirs.iter().zip(ours) {
            compare.hold_against(theirs, ours);
        }
        // A relay could invent digests forever. An honest one leads to a document within a bounded
        // number of steps.
        let is_fruitless = found == (compare.wanted.len(), compare.ours_only.len());
        compare.fruitless = if is_fruitless { compare.fruitless + 1 } else { 0 };
        if compare.fruitless > limits::FRUITLESS_QUESTIONS {
            let what = format!("its digests of {space} differ from ours where no document differs");
            return self.broken(what);
        }
        self.compare_on(now, space);
        self.tell_phase(space);
    }

    /// The heads that [`ReplicaEffect::LoadHeads`] asked for, with some of their ancestors.
    pub fn handle_heads(&mut self, space: &SpaceName, heads: Vec<DocumentHeads>) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let subscription = link.subscription;
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Heads(asked) = &compare.awaiting else { return };
        if heads.is_empty() {
            return;
        }
        // Documents without heads from the store yet, or without room in this frame, are fetched
        // later.
        let heads = fitting(heads);
        compare.wanted.extend(asked.iter().skip(heads.len()));
        compare.awaiting = Awaiting::Documents(heads.iter().map(|of| of.document).collect());
        for of in heads.iter().filter(|of| !of.heads.is_empty()) {
            // The document arrived in the meantime.
            compare.lacking.remove(&of.document);
        }
        // While the store is writing, the heads that it read may be outdated.
        let is_still = !link.receiver.is_storing() && compare.at.is_none();
        if compare.purpose == Purpose::Drift && is_still {
            let read = heads.iter().map(|of| (of.document, of.heads.clone()));
            compare.heads.extend(read);
            compare.heads_at = link.receiver.at();
        }
        // The relay sends only changes that are not ancestors of these hashes.
        let want = |of: DocumentHeads| {
            let have = of.heads.into_iter().chain(of.older).take(limits::FETCH_HASHES);
            Want { document: of.document, have: have.map(|hash| hash.0).collect() }
        };
        let wants = heads.into_iter().map(want).collect();
        self.send(Frame::Fetch(Fetch { subscription, wants }));
    }

    pub(super) fn handle_document(&mut self, now: Moment, mut found: DocumentEntries) {
        let Some(space) = self.space_of(found.subscription) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Documents(expected) = &compare.awaiting else {
            return self.broken("it sends a document that was not requested".to_owned());
        };
        if expected.front() != Some(&found.document)
            || found.entries.iter().any(|entry| entry.document != found.document)
        {
            return self.broken("it sends another document than was requested".to_owned());
        }
        self.check_steps += u64::from(compare.ticket.is_some());
        if !compare.gather_heads(&mut found) {
            let document = found.document;
            return self.broken(format!("it reports too many heads of document {document}"));
        }
        if !compare.comes(&found) {
            let document = found.document;
            return self.broken(format!("it reports document {document} and sends nothing of it"));
        }
        let heads_at = compare.heads_at;
        let is_news = |entry: &Entry| entry.offset > heads_at;
        if found.entries.iter().any(is_news) || !link.outbox.is_settled() {
            // A new entry, or a change on its way to the relay, may explain the difference.
            compare.heads.remove(&found.document);
        }
        let mut differs = false;
        if !found.more
            && let Some(ours) = compare.heads.remove(&found.document)
        {
            // With a filter on single documents there is no walk, so a difference shows only here.
            let ours = ours.iter().map(|head| head.0).collect::<BTreeSet<_>>();
            let theirs = match &found.holding {
                Holding::Present(heads) => heads.iter().copied().collect(),
                Holding::Absent | Holding::Deleted => BTreeSet::new(),
            };
            differs = ours != theirs;
        }
        compare.next_document(found.more);
        compare.damaged |= found.entries.iter().any(|entry| entry.kind == entry_kind::DAMAGED);
        let damaged = match found.more {
            true => compare.damaged,
            false => std::mem::take(&mut compare.damaged),
        };
        if differs || (damaged && !found.more) {
            compare.add_drifted(found.document);
        }
        let mut bytes = 64;
        let mut entries = Vec::with_capacity(found.entries.len());
        for entry in found.entries {
            if let Err(what) = link.receiver.take_parts_of(&entry) {
                return self.broken(format!("a document of {space}: {what}"));
            }
            bytes += weight(&entry);
            entries.push(match link.receiver.take_oversized(&entry) {
                Some(total) => too_large(entry, total),
                None => check(entry),
            });
        }
        link.receiver.add_storing(bytes);
        self.storing_bytes += bytes;
        let DocumentEntries { document, holding, more, .. } = found;
        let (space_name, last) = (space.clone(), !more);
        let batch =
            DocumentBatch { space: space_name, document, holding, entries, last, damaged, bytes };
        self.effects.push_back(ReplicaEffect::StoreDocument(batch));
        self.compare_on(now, &space);
        self.tell_phase(&space);
    }

    /// The store has written the cursor of [`ReplicaEffect::FinishReconcile`].
    pub fn handle_reconciled(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        if link.compare.take().is_none() {
            return;
        }
        let subscription = link.subscription;
        // The log continues behind the compared offset, and the outbox now skips the changes that
        // the relay was found to hold.
        link.receiver.handle_compared();
        link.outbox.begin_again();
        self.send(Frame::Reconciled(subscription));
        self.progress(now, space);
    }
}
