//! Comparison: compares the documents of the two ends after the relay's log turned out to be
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

mod exchange;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::digest::{Branch, Digest, DigestEntry, Node, Prefix};
use crate::frame::{DocumentEntries, Filter, Holding};
use crate::ids::{ChangeHash, DocumentId, Local, Offset};
use crate::limits;

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
    arriving_heads: BTreeSet<[u8; 32]>,
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
            arriving_heads: BTreeSet::new(),
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
    pub(super) fn remaining(&self) -> u64 {
        let on_their_way = match &self.awaiting {
            Awaiting::Documents(documents) => documents.len(),
            _ => 0,
        };
        (self.wanted.len() + on_their_way) as u64
    }

    /// Compares a branch of the relay's with ours.
    fn compare_branch(&mut self, theirs: &Branch, ours: &Branch) {
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
                self.compare_entries(theirs, ours)
            }
            // The relay lists documents, but our store returned digests although it was asked for
            // documents: descend one step.
            (Node::DigestEntries(_), Node::Children(_)) => {
                self.prefixes.extend((0..16).map(|nibble| theirs.prefix.child(nibble)));
            }
        }
    }

    fn compare_entries(
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
    fn note_arrival(&mut self, found: &DocumentEntries) -> bool {
        if !found.entries.is_empty() || found.holding == Holding::Deleted {
            self.lacking.remove(&found.document);
        }
        found.more || !self.lacking.contains(&found.document)
    }

    /// Collects the heads of a document's frames; the last frame then holds all of them. Returns
    /// false if there are too many.
    fn gather_heads(&mut self, found: &mut DocumentEntries) -> bool {
        if let Holding::Present(heads) = &mut found.holding {
            self.arriving_heads.extend(heads.drain(..));
            if !found.more {
                heads.extend(std::mem::take(&mut self.arriving_heads));
            }
        }
        if !found.more {
            self.arriving_heads.clear();
        }
        self.arriving_heads.len() <= limits::HEADS_TOLD
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
