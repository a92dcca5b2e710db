//! The sequential machine of a space on a relay, its sequencer: it admits changes, assigns offsets,
//! and reports when entries are durable. It knows no store and no session.
//!
//! Call order: [`Space::handle_push`] any number of times; [`Space::poll_commit`] whenever no
//! commit is in progress, and its result goes to the store; then [`Space::handle_committed`] or
//! [`Space::handle_commit_failed`]. No client receives an ack or an entry before that. Admitted
//! entries that are not yet durable are in an overlay over the store's view, so the next commit
//! fills while the previous one is being written.

mod commit;
mod push;
mod refusal;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::access::Rights;
use crate::admission::{
    CheckedChange, History, Layered, Overlay, Roots, Verdict, WithFacts, admit,
};
use crate::code::{Code, NackClass};
use crate::frame::{EncodedEntry, Entry, Mark, entry_flags};
use crate::ids::{DocumentId, Epoch, Offset, SpaceName};
use crate::limits;
use crate::relay::{Author, EpochRecord, Lineage, Snapshot};

pub use commit::{Commit, NewEntry, NewKind, Outcome};
pub use push::{CheckedPush, PendingPush, PushAnswer, PushVerdict, PushedEntry};
pub use refusal::{Refusal, StoreFailure};

/// An answer that waits for a commit.
#[derive(Debug)]
struct PendingAnswer {
    answer: PushAnswer,
    /// The offset that must become durable.
    until: Offset,
}

/// Whether a change begins a second history in its document.
fn is_second_root<H: History>(
    history: &H,
    pending_push: &PendingPush,
    change: &CheckedChange,
) -> Result<bool, H::Error> {
    let CheckedPush { document, roots, .. } = &pending_push.push;
    match change.dependencies.is_empty() && *roots == Roots::Several {
        true => history.has_changes(document),
        false => Ok(false),
    }
}

/// Why an author may not add to a document, if it may not. This is the check that counts: it is
/// made where the offset is given, while the session's earlier one only saves work.
fn refused<H: History>(
    history: &H,
    author: &Author,
    document: &DocumentId,
) -> Result<Option<Refusal>, H::Error> {
    if !author.rights.includes(Rights::WRITE) {
        return Ok(Some(Refusal::of_rights(Rights::WRITE)));
    }
    let exists = author.may_create()
        || history.has_changes(document)?
        || history.deleted_at(document)?.is_some();
    Ok((!exists).then(|| Refusal::of_rights(Rights::CREATE)))
}

/// The machine. The module's page states the call order.
#[derive(Debug)]
pub struct Space {
    name: SpaceName,
    lineage: Lineage,
    /// The epoch of this process, opened by its first append.
    fresh: Epoch,
    fresh_is_open: bool,
    last: Offset,
    overlay: Overlay,
    building: Vec<NewEntry>,
    in_flight: Option<Arc<Commit>>,
    waiting: VecDeque<PendingAnswer>,
}

impl Space {
    /// A space as its store holds it. `fresh` must be unused, except by an earlier machine of this
    /// space in the same process, which may be dropped while idle.
    pub fn new(name: SpaceName, lineage: Lineage, fresh: Epoch) -> Self {
        let last = lineage.head();
        let fresh_is_open = lineage.epoch() == Some(fresh);
        Self {
            name,
            lineage,
            fresh,
            fresh_is_open,
            last,
            overlay: Overlay::default(),
            building: Vec::new(),
            in_flight: None,
            waiting: VecDeque::new(),
        }
    }

    /// The durable log's lineage.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Whether every admitted entry is durable: then the machine may be dropped.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.building.is_empty() && self.waiting.is_empty()
    }

    /// Admits the longest valid prefix of a push. Answers at once if the answer does not depend on
    /// the disk.
    pub fn handle_push<H: History>(
        &mut self,
        mut pending_push: PendingPush,
        durable: &H,
        at_ms: u64,
    ) -> PushVerdict<H::Error> {
        let (facts, document) =
            (std::mem::take(&mut pending_push.facts), pending_push.push.document);
        let durable = &WithFacts { document, facts: &facts, history: durable };
        let layered = Layered { overlay: &self.overlay, stored: durable };
        match refused(&layered, &pending_push.push.author, &document) {
            Ok(None) => {}
            Ok(Some(refusal)) => {
                pending_push.answer.refusal = Some(refusal);
                pending_push.push.changes.clear();
            }
            Err(error) => return pending_push.stopped(facts, error),
        }
        while let Some(change) = pending_push.push.changes.get(pending_push.done) {
            let layered = Layered { overlay: &self.overlay, stored: durable };
            let position =
                match admit(&layered, &pending_push.push.document, change, pending_push.push.roots)
                {
                    Ok(Ok(Verdict::New)) => match is_second_root(&layered, &pending_push, change) {
                        Ok(is_second) => self.append_next(&mut pending_push, is_second, at_ms),
                        Err(error) => return pending_push.stopped(facts, error),
                    },
                    Ok(Ok(Verdict::Duplicate(known))) => known.position,
                    Ok(Err(error)) => {
                        pending_push.answer.refusal = Some(Refusal::of_history(change, &error));
                        break;
                    }
                    Err(error) => return pending_push.stopped(facts, error),
                };
            pending_push.done += 1;
            pending_push.answer.count += 1;
            pending_push.until = pending_push.until.max(position);
        }
        pending_push.answer.refusal =
            pending_push.answer.refusal.take().or(pending_push.push.rest.take());
        let (answer, until) = pending_push.answered();
        self.answer_when_durable(answer, until)
    }

    /// The view cannot be read, now or ever: earlier verdicts remain valid, and the rest may be
    /// pushed again.
    pub fn handle_unreadable<E>(
        &mut self,
        pending_push: PendingPush,
        failure: StoreFailure,
    ) -> PushVerdict<E> {
        let mut pending_push = pending_push;
        pending_push.answer.refusal = Some(failure.refusal());
        let (answer, until) = pending_push.answered();
        self.answer_when_durable(answer, until)
    }

    /// Deletes a document. Deleting it again is not an error.
    pub fn handle_deletion<H: History>(
        &mut self,
        push: &PushedEntry,
        durable: &H,
        at_ms: u64,
    ) -> Result<PushVerdict<H::Error>, H::Error> {
        let layered = Layered { overlay: &self.overlay, stored: durable };
        if !push.author.rights.includes(Rights::DELETE) {
            return Ok(PushVerdict::Answered(push.refused(Refusal::of_rights(Rights::DELETE))));
        }
        let mut answer = push.answer();
        let position = match layered.deleted_at(&push.document)? {
            Some(position) => position,
            None => {
                let (document, author) = (push.document, push.author.name.as_slice());
                let position = self.next_offset(&mut answer);
                self.overlay.delete(document, position);
                let entry = Entry::of_tombstone(position, document, author, at_ms);
                self.building.push(NewEntry { entry, kind: NewKind::Tombstone });
                position
            }
        };
        answer.count = 1;
        Ok(self.answer_when_durable(answer, position))
    }

    /// Admits a snapshot of everything in the document, including the uploaded one. The caller has
    /// merged the two, and holds back everything else for this document until the commit.
    pub fn handle_snapshot<E>(
        &mut self,
        push: &PushedEntry,
        snapshot: Arc<Snapshot>,
        at_ms: u64,
    ) -> PushVerdict<E> {
        let mut answer = push.answer();
        let position = self.next_offset(&mut answer);
        let heads = snapshot.head_hashes();
        let (document, hash) = (push.document, snapshot.hash);
        let entry = Entry::of_snapshot(position, document, hash, &heads, at_ms, None);
        self.building.push(NewEntry { entry, kind: NewKind::Snapshot(snapshot) });
        answer.count = 1;
        self.answer_when_durable(answer, position)
    }

    fn next_offset(&mut self, answer: &mut PushAnswer) -> Offset {
        self.last = Offset(self.last.0 + 1);
        let first = answer.added.map_or(self.last, |(first, _)| first);
        answer.added = Some((first, self.last));
        self.last
    }

    /// The relay already has everything in the uploaded snapshot.
    pub fn handle_duplicate_snapshot<E>(&mut self, push: &PushedEntry) -> PushVerdict<E> {
        let answer = PushAnswer { count: 1, ..push.answer() };
        // Not `last`: after a failed commit it is an offset that is never written.
        let in_flight = self.in_flight.iter().flat_map(|commit| &commit.entries);
        let last = self.building.last().or(in_flight.last());
        let until = last.map_or(self.lineage.head(), |new| new.entry.offset);
        self.answer_when_durable(answer, until)
    }

    fn answer_when_durable<E>(&mut self, mut answer: PushAnswer, until: Offset) -> PushVerdict<E> {
        if until > self.lineage.head() {
            self.waiting.push_back(PendingAnswer { answer, until });
            return PushVerdict::Waits;
        }
        answer.through = self.mark(answer.count, until);
        PushVerdict::Answered(answer)
    }

    fn mark(&self, count: u32, offset: Offset) -> Option<Mark> {
        let epoch = self.lineage.epoch_at(offset)?;
        (count > 0).then_some(Mark { epoch, offset })
    }

    fn append_next(
        &mut self,
        pending_push: &mut PendingPush,
        is_second: bool,
        at_ms: u64,
    ) -> Offset {
        let offset = self.next_offset(&mut pending_push.answer);
        let CheckedPush { document, author, changes, .. } = &mut pending_push.push;
        // The bytes are needed only once, and may be large: move them.
        let bytes = std::mem::take(&mut changes[pending_push.done].bytes);
        let change = CheckedChange { bytes, ..changes[pending_push.done].clone() };
        self.overlay.add(*document, &change, offset);
        let (actor, seq, max_op) = (change.actor.clone(), change.seq, change.max_op);
        let operations = change.stored_operations;
        let mut entry = Entry::of_change(offset, *document, change, &author.name, at_ms);
        if is_second {
            entry.flags |= entry_flags::SECOND_ROOT;
        }
        let kind = NewKind::Change { actor, seq, max_op, operations };
        self.building.push(NewEntry { entry, kind });
        offset
    }

    /// Why an upload is not admitted, if it is not: its author has no right, or the document is
    /// deleted, or will be once the admitted entries are durable. Call it before the merge.
    ///
    /// # Errors
    /// If the view cannot be read.
    pub fn upload_refusal<H: History>(
        &self,
        durable: &H,
        push: &PushedEntry,
    ) -> Result<Option<Refusal>, H::Error> {
        let layered = Layered { overlay: &self.overlay, stored: durable };
        if let Some(refusal) = refused(&layered, &push.author, &push.document)? {
            return Ok(Some(refusal));
        }
        Ok(self.is_deleted(durable, &push.document)?.then(|| {
            let what = "the document is deleted, and a deletion is final".to_owned();
            Refusal::new(Code::DELETED, NackClass::REFUSED, what)
        }))
    }

    /// Whether a document is deleted, or will be once the admitted entries are durable.
    ///
    /// # Errors
    /// If the view cannot be read.
    pub fn is_deleted<H: History>(
        &self,
        durable: &H,
        document: &DocumentId,
    ) -> Result<bool, H::Error> {
        let layered = Layered { overlay: &self.overlay, stored: durable };
        Ok(layered.deleted_at(document)?.is_some())
    }

    /// Whether a document has admitted entries that are not durable.
    pub fn has_uncommitted(&self, document: &DocumentId) -> bool {
        let in_flight = self.in_flight.iter().flat_map(|commit| &commit.entries);
        self.building.iter().chain(in_flight).any(|new| new.entry.document == *document)
    }

    /// The next commit, if there is one and none is in progress.
    pub fn poll_commit(&mut self) -> Option<Arc<Commit>> {
        if self.in_flight.is_some() || self.building.is_empty() {
            return None;
        }
        let mut taken = 0;
        let mut bytes = 0;
        for entry in &self.building {
            bytes += entry.weight();
            if bytes > limits::COMMIT_BYTES && taken > 0 {
                break;
            }
            taken += 1;
        }
        let rest = self.building.split_off(taken);
        let entries = std::mem::replace(&mut self.building, rest);
        let opens = (!self.fresh_is_open).then(|| EpochRecord {
            epoch: self.fresh,
            first: entries[0].entry.offset,
            predecessor: self.lineage.epoch(),
        });
        let commit = Arc::new(Commit { space: self.name.clone(), opens, entries });
        self.in_flight = Some(Arc::clone(&commit));
        Some(commit)
    }

    /// The commit in progress is durable.
    pub fn handle_committed(&mut self) -> Outcome {
        let Some(commit) = self.in_flight.take() else { return Outcome::default() };
        let Some(last) = commit.entries.last() else { return Outcome::default() };
        let head = last.entry.offset;
        self.fresh_is_open = true;
        self.lineage.extend(commit.opens, head);
        for new in &commit.entries {
            let (document, hash) = (new.entry.document, new.entry.hash());
            match &new.kind {
                NewKind::Change { actor, seq, .. } => {
                    self.overlay.settle(document, actor, *seq, hash);
                }
                NewKind::Tombstone => self.overlay.settle_deletion(&document),
                NewKind::Snapshot(_) => {}
            }
        }
        let encoded = commit.entries.iter().map(|new| Arc::new(EncodedEntry::new(&new.entry)));
        let publish = Some((self.fresh, encoded.collect()));
        let mut answers = Vec::new();
        let mut still = VecDeque::with_capacity(self.waiting.len());
        for mut waiting in self.waiting.drain(..) {
            if waiting.until > head {
                still.push_back(waiting);
                continue;
            }
            let epoch = self.lineage.epoch_at(waiting.until).unwrap_or(self.fresh);
            waiting.answer.through = Some(Mark { epoch, offset: waiting.until });
            answers.push(waiting.answer);
        }
        self.waiting = still;
        Outcome { publish, answers, commit: Some(commit) }
    }

    /// The commit in progress failed: none of it is in the log. Entries admitted later may depend
    /// on it, so they are dropped too. Answers all of them with *retry after*. This machine does
    /// not use their offsets again.
    pub fn handle_commit_failed(&mut self, failure: StoreFailure) -> Vec<PushAnswer> {
        self.in_flight = None;
        self.building.clear();
        self.overlay = Overlay::default();
        let give_back = |waiting: PendingAnswer| PushAnswer {
            count: 0,
            through: None,
            added: None,
            refusal: Some(failure.refusal()),
            ..waiting.answer
        };
        self.waiting.drain(..).map(give_back).collect()
    }
}
