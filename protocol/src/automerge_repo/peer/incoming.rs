//! The peer's changes of one document on their way into the log: what is being checked, pushed,
//! deferred, and what was rejected.

use std::collections::BTreeSet;

use super::deferred::Deferred;
use crate::admission::CheckedChange;
use crate::ids::ChangeHash;

/// Why a client may not write to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forbidden {
    /// The document does not exist for the client, which may not create it, or may not read it.
    Absent,
    /// The client may only read it.
    ReadOnly,
}

/// The state of the peer's changes of one document.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// The number of running checks.
    checks: u32,
    /// The number of unanswered pushes.
    pushes: u32,
    /// The changes in unanswered pushes.
    pushed: BTreeSet<ChangeHash>,
    /// Changes that arrived before their dependencies.
    pub(super) deferred: Deferred,
    /// Rejected changes and their descendants.
    rejected: BTreeSet<ChangeHash>,
    /// The client may not write to the document: all its changes are rejected.
    forbidden: Option<Forbidden>,
    /// Changes whose missing dependencies are in other unanswered pushes: sorted again once those
    /// are answered.
    unsorted: Vec<CheckedChange>,
    /// Pushes up to this number were admitted before the rest of a partly rejected push was pushed
    /// again.
    cut: u64,
}

impl Incoming {
    /// Whether changes are being checked or pushed.
    pub(super) fn is_busy(&self) -> bool {
        self.checks > 0 || self.pushes > 0
    }

    pub(super) fn begin_check(&mut self) {
        self.checks += 1;
    }

    pub(super) fn end_check(&mut self) {
        self.checks = self.checks.saturating_sub(1);
    }

    /// A push of these changes begins; of none if it is a whole document.
    pub(super) fn begin_push(&mut self, changes: &[CheckedChange]) {
        self.pushes += 1;
        self.pushed.extend(changes.iter().map(|change| change.hash));
    }

    /// The push of these changes was answered.
    pub(super) fn end_push(&mut self, changes: &[CheckedChange]) {
        self.pushes = self.pushes.saturating_sub(1);
        for change in changes {
            self.pushed.remove(&change.hash);
        }
    }

    /// Whether a change is in an unanswered push.
    pub(super) fn is_pushed(&self, hash: &ChangeHash) -> bool {
        self.pushed.contains(hash)
    }

    /// A change became durable; true if it was in an unanswered push.
    pub(super) fn take_durable(&mut self, hash: &ChangeHash) -> bool {
        self.pushed.remove(hash)
    }

    /// Undoes [`Incoming::take_durable`]: its entry is applied again.
    pub(super) fn restore(&mut self, hash: ChangeHash) {
        self.pushed.insert(hash);
    }

    pub(super) fn is_rejected(&self, hash: &ChangeHash) -> bool {
        self.is_forbidden() || self.rejected.contains(hash)
    }

    /// Whether the client may not write to the document.
    pub(super) fn is_forbidden(&self) -> bool {
        self.forbidden.is_some()
    }

    /// Rejects all changes from now on. Rights last as long as the session.
    pub(super) fn forbid(&mut self, exists: bool) {
        self.forbidden = Some(if exists { Forbidden::ReadOnly } else { Forbidden::Absent });
        self.rejected.clear();
        self.unsorted.clear();
    }

    /// The document has an entry of another client: one that may write to it, and only lacked the
    /// right to create it, can do so now.
    pub(super) fn handle_entry(&mut self) {
        self.forbidden.take_if(|forbidden| *forbidden == Forbidden::Absent);
    }

    /// Records rejected changes; returns how many there are now.
    pub(super) fn reject(&mut self, hashes: &[ChangeHash]) -> usize {
        self.rejected.extend(hashes);
        self.rejected.len()
    }

    pub(super) fn rejected(&self) -> usize {
        self.rejected.len()
    }

    pub(super) fn forget_rejected(&mut self) {
        self.rejected.clear();
    }

    /// Pushes up to `last` were admitted without the rest of a partly rejected push, and may be
    /// rejected for lack of it.
    pub(super) fn cut_at(&mut self, last: u64) {
        self.cut = last;
    }

    /// Whether the rejection of a push for missing dependencies is explained: the first of its
    /// remaining changes lacks a rejected change, or one of another unanswered push (a push that
    /// needs no disk write may be answered before an earlier one). Also true if an earlier push was
    /// cut short and its rest may be present by now.
    pub(super) fn explains(&self, push: u64, rest: &[CheckedChange]) -> bool {
        let Some(first) = rest.first() else { return false };
        let explains = |hash: &ChangeHash| {
            self.is_pushed(hash)
                || self.is_rejected(hash)
                || self.unsorted.iter().any(|change| change.hash == *hash)
        };
        push <= self.cut || first.dependencies.iter().any(explains)
    }

    /// Keeps changes until the other pushes that they wait for are answered.
    pub(super) fn sort_later(&mut self, changes: Vec<CheckedChange>) {
        self.unsorted.extend(changes);
    }

    /// Takes the changes that waited for other pushes, once the first can be sorted.
    pub(super) fn take_unsorted(&mut self) -> Option<Vec<CheckedChange>> {
        let first = self.unsorted.first()?;
        let waits = |hash: &ChangeHash| self.is_pushed(hash) && !self.is_rejected(hash);
        match first.dependencies.iter().any(waits) {
            true => None,
            false => Some(std::mem::take(&mut self.unsorted)),
        }
    }
}
