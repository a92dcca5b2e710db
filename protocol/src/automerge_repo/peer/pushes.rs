//! The peer's changes on their way into the log: check, sort by dependency, push, answer.

use std::collections::BTreeSet;

use super::{Peer, PeerEffect, RepoPush, Ticket};
use crate::admission::{CheckedChange, FormError};
use crate::code::{Code, NackClass};
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;
use crate::relay::{PushAnswer, Refusal};

impl Peer {
    pub(super) fn note_check(&mut self, id: DocumentId) {
        if let Some(document) = self.documents.get_mut(&id) {
            document.incoming.begin_check();
        }
    }

    /// The dependencies of these changes that may be missing: the caller looks them up in the store
    /// before it calls [`Peer::handle_checked`].
    pub fn unfamiliar(&self, ticket: Ticket, changes: &[CheckedChange]) -> Vec<ChangeHash> {
        let document = self.of(ticket).and_then(|id| self.documents.get(&id));
        let Some(document) = document else { return Vec::new() };
        let mut own: Vec<ChangeHash> = changes.iter().map(|change| change.hash).collect();
        own.sort_unstable();
        let mut unknown: Vec<ChangeHash> = changes
            .iter()
            .flat_map(|change| &change.dependencies)
            .filter(|hash| own.binary_search(hash).is_err() && !document.is_familiar(hash))
            .copied()
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// Rejects a valid change that exceeds the size limits, and with it its descendants. Called
    /// before [`Peer::handle_checked`] for the other changes of the same message.
    pub fn handle_too_large(&mut self, ticket: Ticket, hash: ChangeHash, error: &FormError) {
        let Some(id) = self.of(ticket) else { return };
        self.refuse(id, Code::TOO_LARGE, &[hash], format!("change {hash}: {error}"));
    }

    /// Handles changes that passed the preflight, or the error of one that did not. `known`: the
    /// hashes from [`Peer::unfamiliar`] that the store has, ascending. `more`: further changes of
    /// the same check follow.
    pub fn handle_checked(
        &mut self,
        ticket: Ticket,
        changes: Result<Vec<CheckedChange>, FormError>,
        known: &[ChangeHash],
        more: bool,
    ) {
        let Some(id) = self.of(ticket) else { return };
        let Some(document) = self.documents.get_mut(&id) else { return };
        if !more {
            document.incoming.end_check();
        }
        match changes {
            Ok(changes) => self.sort(id, changes, known),
            Err(error) => self.fail(Code::FORM, format!("a change of {id}: {error}")),
        }
        self.advance(id);
    }

    /// The store could not be read to look the dependencies up.
    pub fn handle_check_failed(&mut self) {
        self.fail(Code::STORAGE_FAILED, "the relay could not read its store".to_owned());
    }

    fn sort(&mut self, id: DocumentId, changes: Vec<CheckedChange>, known: &[ChangeHash]) {
        self.sort_all(id, changes, known, &[]);
    }

    /// `came`: hashes that are now present or rejected, which deferred changes may wait for.
    fn sort_all(
        &mut self,
        id: DocumentId,
        changes: Vec<CheckedChange>,
        known: &[ChangeHash],
        came: &[ChangeHash],
    ) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        if document.incoming.is_forbidden() {
            return;
        }
        let mut deferred = std::mem::take(&mut document.incoming.deferred);
        let before = deferred.bytes();
        let is_there =
            |hash: &ChangeHash| known.binary_search(hash).is_ok() || document.is_familiar(hash);
        let sorted =
            deferred.sort(changes, came, is_there, |hash| document.incoming.is_rejected(hash));
        self.deferred_bytes = self.deferred_bytes.saturating_sub(before) + deferred.bytes();
        let overflows = self.deferred_bytes > limits::REPO_DEFERRED_BYTES
            || deferred.len() > limits::DEFERRED_CHANGES;
        document.incoming.deferred = deferred;
        if overflows {
            let what = format!("too many changes of {id} wait for their dependencies");
            return self.fail(Code::OVERLOADED, what);
        }
        if !sorted.refused.is_empty() {
            let what = "they depend on a change that was refused".to_owned();
            self.refuse(id, Code::MISSING_DEPENDENCY, &sorted.refused, what);
        }
        self.push(id, sorted.ready);
    }

    fn push(&mut self, id: DocumentId, mut changes: Vec<CheckedChange>) {
        while !changes.is_empty() && !self.ended {
            let rest = changes.split_off(changes.len().min(limits::PUSH_CHANGES));
            let push = self.next_push(id, changes.clone());
            let push = RepoPush { id: push, document: id, changes };
            self.effects.push_back(PeerEffect::Push(push));
            changes = rest;
        }
    }

    pub(super) fn next_push(&mut self, id: DocumentId, changes: Vec<CheckedChange>) -> u64 {
        self.last_push += 1;
        if let Some(document) = self.documents.get_mut(&id) {
            document.incoming.begin_push(&changes);
        }
        self.pushes.insert(self.last_push, (id, changes));
        self.last_push
    }

    /// These changes are now durable: releases the changes that wait for them.
    pub(super) fn release(&mut self, id: DocumentId, hashes: &[ChangeHash]) {
        let waits = |document: &super::Document| document.incoming.deferred.waits_for(hashes);
        if self.documents.get(&id).is_some_and(waits) {
            self.sort_all(id, Vec::new(), &[], hashes);
        }
    }

    /// Handles the answer to a push. [`Peer::handle_entry`] was called for its entries before.
    pub fn handle_answer(&mut self, answer: &PushAnswer) {
        let Some((id, changes)) = self.pushes.remove(&answer.push) else { return };
        let Some(document) = self.documents.get_mut(&id) else { return };
        document.incoming.end_push(&changes);
        let taken = changes.len().min(answer.count as usize);
        let newest = &changes[taken.saturating_sub(limits::REPO_RECENT / 2)..taken];
        newest.iter().for_each(|change| document.note(change.hash));
        let durable: Vec<ChangeHash> = changes[..taken].iter().map(|change| change.hash).collect();
        self.release(id, &durable);
        if let Some(refusal) = &answer.refusal {
            self.handle_refusal(id, (answer.push, refusal), changes, taken);
        }
        self.sort_again(id);
        self.advance(id);
    }

    /// Sorts the changes again that lacked a dependency of another push, once that push is
    /// answered.
    fn sort_again(&mut self, id: DocumentId) {
        let document = self.documents.get_mut(&id);
        if let Some(again) = document.and_then(|document| document.incoming.take_unsorted()) {
            self.sort_pushed(id, again);
        }
    }

    fn handle_refusal(
        &mut self,
        id: DocumentId,
        (push, refusal): (u64, &Refusal),
        mut changes: Vec<CheckedChange>,
        taken: usize,
    ) {
        let rest = changes.split_off(taken.min(changes.len()));
        let is_missing = refusal.code == Code::MISSING_DEPENDENCY;
        // Changes before it in another push were rejected with it, so the sequence number has a gap
        // as well.
        let is_behind = is_missing || refusal.code == Code::SEQUENCE_GAP;
        if is_behind
            && let Some(document) = self.documents.get_mut(&id)
            && document.incoming.explains(push, &rest)
        {
            return document.incoming.sort_later(rest);
        }
        if is_missing || refusal.class == NackClass::RETRY_AFTER {
            // The peer sends the rejected changes again after it reconnects: it was sent no heads
            // with them.
            return self.fail(refusal.code, refusal.what.clone());
        }
        if refusal.code == Code::DELETED
            && let Some(document) = self.documents.get_mut(&id)
        {
            document.delete();
            let name = document.name().to_owned();
            self.send_unavailable(&name);
        }
        if refusal.code == Code::FORBIDDEN {
            return self.forbid(id, rest.len(), refusal.what.clone());
        }
        if refusal.code == Code::SNAPSHOT {
            // Opening it cost a process, and the peer would send it again and again.
            return self.fail(refusal.code, refusal.what.clone());
        }
        // Pushes up to here were admitted without the rest, and may be rejected for lack of it.
        if let Some(document) = self.documents.get_mut(&id) {
            document.incoming.cut_at(self.last_push);
        }
        // Only the first change is known to be bad. The others are pushed again, without its
        // descendants.
        let first: Vec<ChangeHash> = rest.first().map(|change| change.hash).into_iter().collect();
        self.refuse(id, refusal.code, &first, refusal.what.clone());
        if refusal.code != Code::DELETED {
            self.sort_pushed(id, rest.into_iter().skip(1).collect());
        }
    }

    /// The client may not write to the document: drops its changes, now and later, without counting
    /// them. It sends them again with its next session.
    fn forbid(&mut self, id: DocumentId, count: usize, what: String) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        document.incoming.forbid(document.log.present().is_some());
        let dropped = std::mem::take(&mut document.incoming.deferred);
        self.deferred_bytes = self.deferred_bytes.saturating_sub(dropped.bytes());
        let (code, changes) = (Code::FORBIDDEN, count.max(1));
        self.effects.push_back(PeerEffect::Refused { document: id, code, changes, what });
    }

    /// Sorts changes that were pushed before. Their dependencies outside this list were present,
    /// unless they have been rejected since.
    fn sort_pushed(&mut self, id: DocumentId, changes: Vec<CheckedChange>) {
        let own: BTreeSet<ChangeHash> = changes.iter().map(|change| change.hash).collect();
        let there: BTreeSet<ChangeHash> =
            changes.iter().flat_map(|change| &change.dependencies).copied().collect();
        let there: Vec<ChangeHash> = there.difference(&own).copied().collect();
        self.sort(id, changes, &there);
    }

    fn refuse(&mut self, id: DocumentId, code: Code, hashes: &[ChangeHash], what: String) {
        self.effects.push_back(PeerEffect::Refused {
            document: id,
            code,
            changes: hashes.len().max(1),
            what: what.clone(),
        });
        let Some(document) = self.documents.get_mut(&id) else { return };
        if document.incoming.reject(hashes) > limits::REPO_REFUSED {
            return self.fail(code, what);
        }
        self.release(id, hashes);
    }
}
