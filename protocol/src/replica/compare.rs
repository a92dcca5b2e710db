//! Comparing what the two ends hold: after the relay's log turned out to be another one, after
//! the application asked for other documents, and now and then to find drift.
//!
//! The walk goes down from the root of the digests, only where they differ. Then each document
//! that differs is fetched: the relay says what it has and sends what we lack; what it lacks is
//! thereby known, and goes out through the outbox. Cut anywhere, the next walk no longer meets
//! the documents that are equal by then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::receive::check;
use super::{DocumentBatch, DocumentHeads, Replica, ReplicaEffect};
use crate::digest::{Branch, Digest, Leaf, Node, Prefix};
use crate::frame::{
    Difference, DigestQuery, DocumentEntries, Entry, Fetch, Filter, Frame, Holding, Want, features,
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
    /// Our heads of documents that are to be fetched.
    Heads,
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
    /// Prefixes that are to be asked for.
    prefixes: VecDeque<Prefix>,
    /// Documents that are to be fetched.
    wanted: BTreeSet<DocumentId>,
    /// Documents that were found to differ, or that only we have.
    unequal: Vec<DocumentId>,
    /// Those of them that only we have.
    ours_only: Vec<DocumentId>,
    /// The log's last offset when the relay summed, for drift.
    at: Option<Offset>,
    /// Documents that differed although nothing was under way.
    drifted: Vec<DocumentId>,
    /// Our heads of those that are being fetched, when they were read.
    heads: BTreeMap<DocumentId, Vec<ChangeHash>>,
    /// How far entries had been received then.
    heads_at: Offset,
}

impl Compare {
    fn new(purpose: Purpose, filter: &Filter) -> Self {
        let (prefixes, wanted) = match filter {
            Filter::Everything => (VecDeque::from([Prefix::ROOT]), BTreeSet::new()),
            Filter::Documents(documents) => (VecDeque::new(), documents.iter().copied().collect()),
        };
        let unequal = wanted.iter().copied().collect();
        Self {
            purpose,
            awaiting: Awaiting::Nothing,
            prefixes,
            wanted,
            unequal,
            ours_only: Vec::new(),
            at: None,
            drifted: Vec::new(),
            heads: BTreeMap::new(),
            heads_at: Offset(0),
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

    fn of_drift(filter: &Filter) -> Self {
        Self::new(Purpose::Drift, filter)
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
                        self.prefixes.push_back(theirs.prefix.child(nibble));
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
                self.unequal.push(*document);
                self.drifted.push(*document);
            }
        }
        for document in ours.keys().filter(|document| !theirs.contains_key(document)) {
            self.ours_only.push(*document);
            self.unequal.push(*document);
            self.drifted.push(*document);
        }
    }

    fn next_prefixes(&mut self) -> Vec<Prefix> {
        let most = self.prefixes.len().min(limits::BRANCHES);
        self.prefixes.drain(..most).collect()
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
    /// Compares what the two ends hold, if nothing is under way: for a schedule, and on demand.
    /// True if it begins now.
    pub fn handle_check(&mut self, now: Moment, space: &SpaceName) -> bool {
        let can = self.is_ready() && self.features & features::RECONCILE != 0;
        let Some(link) = self.spaces.get_mut(space).filter(|_| can) else { return false };
        let settled = link.receiver.settled_at().is_some() && link.outbox.is_settled();
        if !settled || link.compare.is_some() || link.refiltering {
            return false;
        }
        link.compare = Some(Compare::of_drift(&link.filter));
        self.compare_on(now, space);
        true
    }

    /// Takes the next step, if nothing is awaited. To be called whenever something was.
    pub(super) fn compare_on(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let subscription = link.subscription;
        let Some(compare) = &mut link.compare else { return };
        if compare.awaiting != Awaiting::Nothing {
            return;
        }
        let prefixes = compare.next_prefixes();
        if !prefixes.is_empty() {
            compare.awaiting = Awaiting::Relay(prefixes.clone());
            return self.send(Frame::Digest(DigestQuery { subscription, prefixes }));
        }
        let documents = compare.next_wanted();
        if !documents.is_empty() {
            compare.awaiting = Awaiting::Heads;
            let space = space.clone();
            return self.effects.push_back(ReplicaEffect::LoadHeads { space, documents });
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
        let (space_name, drifted) = (space.clone(), compare.drifted);
        self.effects.push_back(ReplicaEffect::Checked { space: space_name, drifted });
        self.pump(now, space);
    }

    pub(super) fn handle_difference(&mut self, found: Difference) {
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
                .all(|(branch, prefix)| branch.prefix == *prefix && branch.node.is_valid());
        if !fits {
            return self.broken("it tells other differences than were asked for".to_owned());
        }
        if compare.purpose == Purpose::Drift {
            // Only of a log that stands still on both sides does a difference mean anything.
            let still = link.receiver.settled_at() == Some(found.head)
                && link.outbox.is_settled()
                && compare.at.is_none_or(|at| at == found.head);
            compare.at = Some(found.head);
            if !still {
                link.compare = None;
                return;
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
            link.compare = None;
            return;
        }
        for (theirs, ours) in theirs.iter().zip(ours) {
            compare.hold_against(theirs, ours);
        }
        self.compare_on(now, space);
        self.tell_phase(space);
    }

    /// The heads that [`ReplicaEffect::LoadHeads`] asked for, with some of what they rest on.
    pub fn handle_heads(&mut self, space: &SpaceName, heads: Vec<DocumentHeads>) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let subscription = link.subscription;
        let Some(compare) = &mut link.compare else { return };
        if compare.awaiting != Awaiting::Heads || heads.is_empty() {
            return;
        }
        compare.awaiting = Awaiting::Documents(heads.iter().map(|of| of.document).collect());
        // While something is being written, what was read may be of before.
        let is_still = !link.receiver.is_storing() && compare.at.is_none();
        if compare.purpose == Purpose::Drift && is_still {
            let read = heads.iter().map(|of| (of.document, of.heads.clone()));
            compare.heads.extend(read);
            compare.heads_at = link.receiver.at();
        }
        let want = |of: DocumentHeads| {
            let have = of.heads.into_iter().chain(of.older).take(limits::CHANGE_DEPENDENCIES);
            Want { document: of.document, have: have.map(|hash| hash.0).collect() }
        };
        let wants = heads.into_iter().map(want).collect();
        self.send(Frame::Fetch(Fetch { subscription, wants }));
    }

    pub(super) fn handle_document(&mut self, now: Moment, found: DocumentEntries) {
        let Some(space) = self.space_of(found.subscription) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Documents(expected) = &mut compare.awaiting else {
            return self.broken("it sends a document that nobody asked for".to_owned());
        };
        if expected.front() != Some(&found.document)
            || found.entries.iter().any(|entry| entry.document != found.document)
        {
            return self.broken("it sends another document than was asked for".to_owned());
        }
        let heads_at = compare.heads_at;
        let is_news = |entry: &Entry| entry.offset > heads_at;
        if found.entries.iter().any(is_news) || !link.outbox.is_settled() {
            // Whatever differs may be what is on its way.
            compare.heads.remove(&found.document);
        }
        if !found.more
            && let Some(ours) = compare.heads.remove(&found.document)
        {
            // Without a walk, this is where a difference shows.
            let ours = ours.iter().map(|head| head.0).collect::<BTreeSet<_>>();
            let theirs = match &found.holding {
                Holding::Present(heads) => heads.iter().copied().collect(),
                Holding::Absent | Holding::Deleted => BTreeSet::new(),
            };
            if ours != theirs {
                compare.drifted.push(found.document);
            }
        }
        if !found.more {
            expected.pop_front();
        }
        if expected.is_empty() {
            compare.awaiting = Awaiting::Nothing;
        }
        let mut bytes = 64;
        let mut entries = Vec::with_capacity(found.entries.len());
        for entry in found.entries {
            if let Err(what) = link.receiver.take_parts_of(&entry) {
                return self.broken(format!("a document of {space}: {what}"));
            }
            bytes += entry.body.len() + 256;
            entries.push(check(entry));
        }
        link.receiver.add_storing(bytes);
        self.storing_bytes += bytes;
        let DocumentEntries { document, holding, more, .. } = found;
        let batch =
            DocumentBatch { space: space.clone(), document, holding, entries, last: !more, bytes };
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
