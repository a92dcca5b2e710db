//! The messages and the store work of a comparison.

use std::collections::BTreeSet;

use super::{Awaiting, Purpose};
use crate::client::receive::{check, too_large, weight};
use crate::client::{DocumentBatch, DocumentHeads, Replica, ReplicaEffect};
use crate::digest::{Branch, Node, Prefix};
use crate::frame::{
    Difference, DigestQuery, DocumentEntries, Entry, Fetch, Frame, Holding, Want, entry_kind,
};
use crate::ids::{DocumentId, Local, SpaceName};
use crate::limits;
use crate::moment::Moment;

impl Replica {
    /// Takes the next step, unless an input is awaited. Called after every input.
    pub(in super::super) fn compare_on(&mut self, now: Moment, space: &SpaceName) {
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
        self.effects.push_back(ReplicaEffect::FinishComparison {
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

    pub(in super::super) fn handle_difference(&mut self, now: Moment, found: Difference) {
        let Some(space) = self.space_of(found.subscription) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        // An answer may cross the end of its comparison.
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Relay(requested) = &compare.awaiting else {
            return self.broken("it reports a difference without a query".to_owned());
        };
        // Check the answer before storing anything of it: its size and prefixes come from the
        // network.
        let fits = found.branches.len() == requested.len()
            && found
                .branches
                .iter()
                .zip(requested)
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
            compare.compare_branch(theirs, ours);
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
        self.report_phase(space);
    }

    /// The heads that [`ReplicaEffect::LoadHeads`] asked for, with some of their ancestors.
    pub fn handle_heads(&mut self, space: &SpaceName, heads: Vec<DocumentHeads>) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let subscription = link.subscription;
        let Some(compare) = &mut link.compare else { return };
        let Awaiting::Heads(requested) = &compare.awaiting else { return };
        if heads.is_empty() {
            return;
        }
        // Documents without heads from the store yet, or without room in this frame, are fetched
        // later.
        let heads = fitting(heads);
        compare.wanted.extend(requested.iter().skip(heads.len()));
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

    pub(in super::super) fn handle_document(&mut self, now: Moment, mut found: DocumentEntries) {
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
        if !compare.note_arrival(&found) {
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
        self.report_phase(&space);
    }

    /// The store has written the cursor of [`ReplicaEffect::FinishComparison`].
    pub fn handle_compared(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        if link.compare.take().is_none() {
            return;
        }
        let subscription = link.subscription;
        // The log continues behind the compared offset, and the outbox now skips the changes that
        // the relay was found to hold.
        link.receiver.handle_compared();
        link.outbox.begin_again();
        self.send(Frame::Compared(subscription));
        self.progress(now, space);
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
