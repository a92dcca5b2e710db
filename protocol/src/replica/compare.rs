//! Comparing what the two ends hold: after the relay's log turned out to be another one, after
//! the application asked for other documents, and now and then to find drift.
//!
//! The walk goes down from the root of the digests, only where they differ. Each document that
//! differs is fetched: the relay says what it has and sends what we lack; what it lacks is
//! thereby known, and goes out through the outbox. Cut anywhere, the next walk no longer meets
//! the documents that are equal by then.
//!
//! What a relay says is bounded in what it makes us keep. The walk goes depth first and fetches what
//! it finds before it goes on, so that no list grows with the relay's documents. A relay whose
//! digests lead nowhere, or that tells of documents and sends nothing of them, has broken the
//! protocol.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::receive::{check, too_large, weight};
use super::{DocumentBatch, DocumentHeads, Replica, ReplicaEffect};
use crate::digest::{Branch, Digest, Leaf, Node, Prefix};
use crate::frame::{
    Difference, DigestQuery, DocumentEntries, Entry, Fetch, Filter, Frame, Holding, Want,
    entry_kind,
};
use crate::ids::{ChangeHash, DocumentId, Local, Offset, SpaceName};
use crate::limits;
use crate::moment::Moment;

/// Why the two compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The relay's log is another one: of what we hold, nothing counts as held by it. Up to this
    /// local change, it is what the walk finds equal.
    Lineage(Local),
    /// Other documents are wanted.
    Scope,
    /// To see whether all is well.
    Drift,
}

/// What the comparison waits for.
#[derive(Debug, PartialEq, Eq)]
enum Awaiting {
    Nothing,
    /// The relay's branches for these prefixes.
    Relay(Vec<Prefix>),
    /// Our own, to be held against the relay's.
    Ours(Vec<Branch>),
    /// Our heads of these documents, which are to be fetched.
    Heads(Vec<DocumentId>),
    /// These documents, in this order.
    Documents(VecDeque<DocumentId>),
    /// The store, to write that it is done.
    Finish,
}

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Compare {
    purpose: Purpose,
    awaiting: Awaiting,
    /// The ticket under which a check is answered.
    ticket: Option<u64>,
    /// Prefixes that are to be asked for, the deepest last. Those are asked first: then no more wait
    /// than the children of one question for each of the 32 steps.
    prefixes: Vec<Prefix>,
    /// Questions in a row whose answers led to no document.
    fruitless: u32,
    /// Documents that are to be fetched: what one answer tells, and less than one fetch.
    wanted: BTreeSet<DocumentId>,
    /// Those of them, and of the ones that are being fetched, of which we have nothing and the relay
    /// says that it has something.
    lacking: BTreeSet<DocumentId>,
    /// Documents of ours that were found to differ, or that only we have.
    unequal: Vec<DocumentId>,
    /// Those of them that only we have.
    ours_only: Vec<DocumentId>,
    /// The log's last offset when the relay summed, for drift.
    at: Option<Offset>,
    /// Documents that differed although nothing was under way, and how many more there were.
    drifted: Vec<DocumentId>,
    more_drifted: u64,
    /// Our heads of those that are being fetched, when they were read.
    heads: BTreeMap<DocumentId, Vec<ChangeHash>>,
    /// How far entries had been received then.
    heads_at: Offset,
    /// What the relay has told so far of the heads of the document that is being fetched.
    told: BTreeSet<[u8; 32]>,
    /// The document that is arriving has something that the relay cannot read: so it differs, whatever
    /// its heads are.
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

    /// After the relay's log turned out to be another one.
    pub(super) fn of_lineage(filter: &Filter, through: Local) -> Self {
        // Of documents outside the filter nothing is found out.
        let through = if *filter == Filter::Everything { through } else { Local(0) };
        Self::new(Purpose::Lineage(through), filter)
    }

    /// When other documents are wanted: those that were not wanted before.
    pub(super) fn of_scope(before: &Filter, after: &Filter) -> Self {
        let mut compare = Self::new(Purpose::Scope, after);
        if let Filter::Documents(_) = after {
            compare.wanted.retain(|document| !before.wants(document));
        }
        compare
    }

    /// To see whether all is well; answered under a ticket.
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

    /// Documents that are known to differ and have not arrived yet.
    pub(super) fn to_come(&self) -> u64 {
        let on_their_way = match &self.awaiting {
            Awaiting::Documents(documents) => documents.len(),
            _ => 0,
        };
        (self.wanted.len() + on_their_way) as u64
    }

    /// Holds a branch of the relay's against ours.
    fn hold_against(&mut self, theirs: &Branch, ours: &Branch) {
        match (&theirs.node, &ours.node) {
            (Node::Children(theirs_below), node) => {
                let below = children(ours.prefix, node);
                for nibble in 0..16u8 {
                    let at = usize::from(nibble);
                    if theirs_below[at] != below[at] {
                        self.prefixes.push(theirs.prefix.child(nibble));
                    }
                }
            }
            (Node::Leaves(theirs), Node::Leaves(ours)) => self.hold_leaves(theirs, ours),
            // We were asked for the documents themselves; a store that sums all the same is asked
            // again, one step down.
            (Node::Leaves(_), Node::Children(_)) => {
                self.prefixes.extend((0..16).map(|nibble| theirs.prefix.child(nibble)));
            }
        }
    }

    fn hold_leaves(&mut self, theirs: &[(DocumentId, Leaf)], ours: &[(DocumentId, Leaf)]) {
        let ours: BTreeMap<DocumentId, Leaf> = ours.iter().copied().collect();
        let theirs: BTreeMap<DocumentId, Leaf> = theirs.iter().copied().collect();
        for (document, leaf) in &theirs {
            if ours.get(document) != Some(leaf) {
                self.wanted.insert(*document);
                match ours.contains_key(document) {
                    true => self.unequal.push(*document),
                    false => self.lacking.extend([*document]),
                }
                self.add_drifted(*document);
            }
        }
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

    /// Whether enough was found to be fetched before the walk goes on.
    fn fetches_first(&self) -> bool {
        self.prefixes.is_empty() || self.wanted.len() >= limits::FETCH_DOCUMENTS
    }

    /// The relay goes on with the same document if there is more of it, else with the next.
    fn next_document(&mut self, more: bool) {
        let Awaiting::Documents(expected) = &mut self.awaiting else { return };
        if !more {
            expected.pop_front();
        }
        if expected.is_empty() {
            self.awaiting = Awaiting::Nothing;
        }
    }

    /// False if this ends what the relay sends of a document that it told of, and nothing came.
    fn comes(&mut self, found: &DocumentEntries) -> bool {
        if !found.entries.is_empty() || found.holding == Holding::Deleted {
            self.lacking.remove(&found.document);
        }
        found.more || !self.lacking.contains(&found.document)
    }

    /// Adds the heads of this frame to those that were told before; with the last frame of a document,
    /// puts all of them into it. False if there are too many.
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

/// As many documents from the front as one `Fetch` has room for, at least one.
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

/// Whether a branch is of its form, and names only documents below its prefix.
fn is_within(branch: &Branch) -> bool {
    let (first, last) = branch.prefix.range();
    let is_below = |document: &DocumentId| (first..=last).contains(document.as_bytes());
    let below = match &branch.node {
        Node::Children(_) => branch.prefix.depth < Prefix::DEEPEST,
        Node::Leaves(leaves) => leaves.iter().all(|(document, _)| is_below(document)),
    };
    below && branch.node.is_valid()
}

/// The digests of the sixteen children.
fn children(prefix: Prefix, node: &Node) -> Vec<Digest> {
    match node {
        Node::Children(children) => children.clone(),
        Node::Leaves(leaves) => {
            let mut children = vec![Digest::default(); 16];
            for (document, leaf) in leaves {
                children[usize::from(prefix.child_of(document))].add(*leaf);
            }
            children
        }
    }
}

impl Replica {
    /// Takes the next step, if nothing is awaited. To be called whenever something was.
    pub(super) fn compare_on(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let subscription = link.subscription;
        let Some(compare) = &mut link.compare else { return };
        if compare.awaiting != Awaiting::Nothing {
            return;
        }
        if compare.fetches_first() {
            let documents = compare.next_wanted();
            if !documents.is_empty() {
                compare.awaiting = Awaiting::Heads(documents.clone());
                let space = space.clone();
                return self.effects.push_back(ReplicaEffect::LoadHeads { space, documents });
            }
        }
        if compare.purpose == Purpose::Drift && link.receiver.is_storing() {
            // What was fetched is to be in our own digests.
            return;
        }
        let prefixes = compare.next_prefixes();
        if !prefixes.is_empty() {
            compare.awaiting = Awaiting::Relay(prefixes.clone());
            return self.send(Frame::Digest(DigestQuery { subscription, prefixes }));
        }
        // The end rests on all that came: if some of it cannot be stored, there is no end.
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

    /// What differs has been fetched; what only we have goes out again.
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
        // An answer may cross the end of its question.
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Relay(asked) = &compare.awaiting else {
            return self.broken("it tells a difference that nobody asked for".to_owned());
        };
        let fits = found.branches.len() == asked.len()
            && found
                .branches
                .iter()
                .zip(asked)
                .all(|(branch, prefix)| branch.prefix == *prefix && is_within(branch));
        if !fits {
            return self.broken("it tells other differences than were asked for".to_owned());
        }
        if compare.purpose == Purpose::Drift {
            // Only of a log that stands still on both sides does a difference mean anything.
            let still = link.receiver.settled_at() == Some(found.head)
                && link.outbox.is_settled()
                && compare.at.is_none_or(|at| at == found.head);
            compare.at = Some(found.head);
            self.check_steps += 1;
            if !still {
                return self.interrupt_check(now, &space);
            }
        }
        let wants_leaves = |branch: &Branch| matches!(branch.node, Node::Leaves(_));
        let prefixes =
            found.branches.iter().map(|branch| (branch.prefix, wants_leaves(branch))).collect();
        compare.awaiting = Awaiting::Ours(found.branches);
        self.effects.push_back(ReplicaEffect::LoadBranches { space, prefixes });
    }

    /// What our store has below the prefixes that [`ReplicaEffect::LoadBranches`] asked for.
    pub fn handle_branches(&mut self, now: Moment, space: &SpaceName, ours: &[Branch]) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Ours(theirs) = std::mem::replace(&mut compare.awaiting, Awaiting::Nothing)
        else {
            return;
        };
        if compare.purpose == Purpose::Drift && !link.outbox.is_settled() {
            // A change was made meanwhile: what differs may be that.
            return self.interrupt_check(now, space);
        }
        let found = (compare.wanted.len(), compare.ours_only.len());
        for (theirs, ours) in theirs.iter().zip(ours) {
            compare.hold_against(theirs, ours);
        }
        let is_fruitless = found == (compare.wanted.len(), compare.ours_only.len());
        compare.fruitless = if is_fruitless { compare.fruitless + 1 } else { 0 };
        if compare.fruitless > limits::FRUITLESS_QUESTIONS {
            let what = format!("its digests of {space} differ from ours where no document does");
            return self.broken(what);
        }
        self.compare_on(now, space);
        self.tell_phase(space);
    }

    /// The heads that [`ReplicaEffect::LoadHeads`] asked for, with some of what they rest on.
    pub fn handle_heads(&mut self, space: &SpaceName, heads: Vec<DocumentHeads>) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let subscription = link.subscription;
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Heads(asked) = &compare.awaiting else { return };
        if heads.is_empty() {
            return;
        }
        // Those of which the store gave no heads yet, or for which this frame has no room, come later.
        let heads = fitting(heads);
        compare.wanted.extend(asked.iter().skip(heads.len()));
        compare.awaiting = Awaiting::Documents(heads.iter().map(|of| of.document).collect());
        for of in heads.iter().filter(|of| !of.heads.is_empty()) {
            // It came in between.
            compare.lacking.remove(&of.document);
        }
        // While something is being written, what was read may be of before.
        let is_still = !link.receiver.is_storing() && compare.at.is_none();
        if compare.purpose == Purpose::Drift && is_still {
            let read = heads.iter().map(|of| (of.document, of.heads.clone()));
            compare.heads.extend(read);
            compare.heads_at = link.receiver.at();
        }
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
            return self.broken("it sends a document that nobody asked for".to_owned());
        };
        if expected.front() != Some(&found.document)
            || found.entries.iter().any(|entry| entry.document != found.document)
        {
            return self.broken("it sends another document than was asked for".to_owned());
        }
        self.check_steps += u64::from(compare.ticket.is_some());
        if !compare.gather_heads(&mut found) {
            let document = found.document;
            return self.broken(format!("it tells of ever more heads of document {document}"));
        }
        if !compare.comes(&found) {
            let document = found.document;
            return self.broken(format!("it tells of document {document} and sends nothing of it"));
        }
        let heads_at = compare.heads_at;
        let is_news = |entry: &Entry| entry.offset > heads_at;
        if found.entries.iter().any(is_news) || !link.outbox.is_settled() {
            // Whatever differs may be what is on its way.
            compare.heads.remove(&found.document);
        }
        let mut differs = false;
        if !found.more
            && let Some(ours) = compare.heads.remove(&found.document)
        {
            // Without a walk, this is where a difference shows.
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

    /// The store has written the cursor that [`ReplicaEffect::FinishReconcile`] gave it.
    pub fn handle_reconciled(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        if link.compare.take().is_none() {
            return;
        }
        let subscription = link.subscription;
        link.receiver.handle_compared();
        link.outbox.begin_again();
        self.send(Frame::Reconciled(subscription));
        self.progress(now, space);
    }
}
