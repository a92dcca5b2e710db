//! The sequential machine of a space on a relay: what is admitted, in which order, and who is
//! told when it is durable.
//!
//! Call order: [`Space::handle_push`] any number of times; [`Space::poll_commit`] whenever no
//! commit is under way, and what it gives goes to the store; then [`Space::handle_committed`] or
//! [`Space::handle_commit_failed`]. Nobody is acknowledged or sent anything before that.
//! Everything admitted but not yet durable lives in an overlay over the store's view, so the next
//! commit fills while the one before is being written.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::admission::{
    CheckedChange, Facts, Foreknown, FormError, History, HistoryError, Layered, Named, Overlay,
    Roots, Verdict, admit,
};
use crate::code::{Code, NackClass};
use crate::frame::{EncodedEntry, Entry, Mark, entry_flags, fit};
use crate::ids::{ActorId, DocumentId, Epoch, Offset, SessionId, SpaceName};
use crate::limits;
use crate::lineage::{EpochRecord, Lineage};
use crate::snapshot::Snapshot;

/// A push whose changes passed the preflight.
#[derive(Debug, Clone)]
pub struct CheckedPush {
    /// Who pushed.
    pub session: SessionId,
    /// The session's number for it.
    pub id: u64,
    /// The document.
    pub document: DocumentId,
    /// The identity that the entries will name.
    pub author: Vec<u8>,
    /// Those that passed, in the order in which they were pushed.
    pub changes: Vec<CheckedChange>,
    /// Why those after them were not checked or did not pass, if there are any.
    pub rest: Option<Refusal>,
    /// Whether a change among them may begin a second history.
    pub roots: Roots,
}

/// An entry to be stored, with what the store indexes of it.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The entry as it will travel; a snapshot's without its body.
    pub entry: Entry,
    /// What it does to its document.
    pub kind: NewKind,
}

/// What an entry does to its document.
#[derive(Debug, Clone)]
pub enum NewKind {
    /// Adds a change.
    Change {
        /// The change's actor.
        actor: ActorId,
        /// The change's sequence number.
        seq: u64,
        /// The change's last operation counter.
        max_op: u64,
        /// What it adds to its document's operations
        /// ([`DocumentSize::operations`](crate::admission::DocumentSize)).
        operations: u64,
    },
    /// Deletes it: its changes and snapshots go, for good.
    Tombstone,
    /// Stands for all that the document has, and for what a client offered folded.
    Snapshot(Arc<Snapshot>),
}

impl NewEntry {
    /// Bytes that it puts into the store, about.
    pub fn weight(&self) -> usize {
        match &self.kind {
            NewKind::Change { .. } | NewKind::Tombstone => self.entry.body.len(),
            NewKind::Snapshot(snapshot) => snapshot.body.len() + snapshot.packed.len(),
        }
    }
}

/// An entry that a session pushed and that is no change.
#[derive(Debug, Clone)]
pub struct PushedEntry {
    /// Who pushed.
    pub session: SessionId,
    /// The session's number for it.
    pub id: u64,
    /// The document.
    pub document: DocumentId,
    /// The identity that the entry will name.
    pub author: Vec<u8>,
}

impl PushedEntry {
    fn answer(&self) -> Answer {
        let (session, push) = (self.session, self.id);
        Answer { session, push, count: 0, through: None, added: None, refusal: None }
    }

    /// The answer that refuses it.
    pub fn refused(&self, refusal: Refusal) -> Answer {
        Answer { refusal: Some(refusal), ..self.answer() }
    }
}

/// What one commit of a space writes: all of it or nothing.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The space.
    pub space: SpaceName,
    /// The epoch that this commit opens, if it does.
    pub opens: Option<EpochRecord>,
    /// The entries, by growing offset; never empty.
    pub entries: Vec<NewEntry>,
}

/// Why a push, or its rest, was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code on the wire.
    pub code: Code,
    /// What the pusher should do.
    pub class: NackClass,
    /// With *retry after*: the wait in milliseconds.
    pub retry_after_ms: u32,
    /// In words.
    pub what: String,
}

impl Refusal {
    /// A refusal that no wait will change.
    pub fn new(code: Code, class: NackClass, what: String) -> Self {
        Self { code, class, retry_after_ms: 0, what: fit(what) }
    }

    fn of_history(change: &CheckedChange, error: &HistoryError) -> Self {
        let (code, class) = error.nack();
        Self::new(code, class, format!("change {}: {error}", change.hash))
    }

    /// A change that did not pass the preflight.
    pub(crate) fn of_form(index: usize, error: &FormError) -> Self {
        let what = format!("change {index} of the push: {error}");
        Self::new(Code::FORM, NackClass::REFUSED, what)
    }

    /// Honest, but others need the memory that it would keep until its session has paid for its
    /// checks: it is welcome after that.
    pub fn of_debt(wait: std::time::Duration) -> Self {
        let what = "this session's pushes are more work than it may cause, and others need their \
                    memory; push again later";
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        let refusal = Self::new(Code::OVERLOADED, NackClass::RETRY_AFTER, what.to_owned());
        Self { retry_after_ms, ..refusal }
    }

    /// Honest, but more work than one push may ask for: the rest is welcome at once.
    pub(crate) fn of_weight() -> Self {
        let what = "the push is more work than one may be; push the rest again".to_owned();
        Self::new(Code::OVERLOADED, NackClass::RETRY_AFTER, what)
    }
}

/// The answer to a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who pushed.
    pub session: SessionId,
    /// The session's number for the push.
    pub push: u64,
    /// How many of its changes are durable.
    pub count: u32,
    /// Where the last of them is; `None` if `count` is 0.
    pub through: Option<Mark>,
    /// The offsets of those that this push added: first and last.
    pub added: Option<(Offset, Offset)>,
    /// Why the rest was not taken.
    pub refusal: Option<Refusal>,
}

/// A push on its way through admission.
#[derive(Debug)]
pub struct Judging {
    push: CheckedPush,
    /// How many of its changes have been judged.
    done: usize,
    answer: Answer,
    until: Offset,
    /// Its changes are those of one snapshot: it is answered as the one entry that was pushed.
    is_snapshot: bool,
    /// What was looked up before.
    facts: Facts,
}

impl Judging {
    /// A push that nobody has looked at.
    pub fn new(push: CheckedPush) -> Self {
        let (session, id) = (push.session, push.id);
        let (count, through, added, refusal) = (0, None, None, None);
        let answer = Answer { session, push: id, count, through, added, refusal };
        let (until, facts) = (Offset(0), Facts::default());
        Self { push, done: 0, answer, until, is_snapshot: false, facts }
    }

    /// The changes of a snapshot that a client offered, which are taken one by one. All of them
    /// count as the one entry that it pushed; if one is refused, so is that.
    pub fn of_snapshot(push: CheckedPush) -> Self {
        Self { is_snapshot: true, ..Self::new(push) }
    }

    /// Goes on once the view can be read.
    fn stopped<E>(mut self, facts: Facts, error: E) -> Judged<E> {
        self.facts = facts;
        Judged::Stopped(Box::new(self), error)
    }

    /// The answer, once nothing more of it is judged.
    fn answered(self) -> (Answer, Offset) {
        let Self { mut answer, until, is_snapshot, .. } = self;
        if is_snapshot {
            answer.count = u32::from(answer.refusal.is_none());
        }
        (answer, until)
    }

    /// What its changes name that they do not bring: looked up before, it costs
    /// [`Space::handle_push`] no look-ups.
    pub fn named(&self) -> Named {
        Named::by(&self.push.changes)
    }

    /// Keeps what was found of it.
    pub fn know(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// Its document.
    pub fn document(&self) -> DocumentId {
        self.push.document
    }

    /// Its changes; those that were admitted are without their bytes.
    pub fn changes(&self) -> &[CheckedChange] {
        &self.push.changes
    }

    /// Who pushed, and the session's number for it.
    pub fn key(&self) -> (SessionId, u64) {
        (self.push.session, self.push.id)
    }
}

/// What became of a push.
#[derive(Debug)]
pub enum Judged<E> {
    /// This is the answer, at once.
    Answered(Answer),
    /// The answer comes with a commit.
    Waits,
    /// The view could not be read. What was judged before stands; go on with
    /// [`Space::handle_push`] when it can be, or give up with [`Space::handle_unreadable`].
    Stopped(Box<Judging>, E),
}

/// What a commit made known.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Entries that are durable now, encoded once, in order; with their epoch. A snapshot has no
    /// body here: it is read from the store.
    pub publish: Option<(Epoch, Vec<Arc<EncodedEntry>>)>,
    /// Answers to pushes.
    pub answers: Vec<Answer>,
    /// What was written, for whoever wants it as it was admitted.
    pub commit: Option<Arc<Commit>>,
}

/// How a store failed, as far as a pusher needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailure {
    /// No room left on the disk.
    Full,
    /// Anything else.
    Failed,
    /// What the store has of the document is damaged.
    Damaged,
    /// The store's files were removed or replaced.
    Gone,
    /// Nothing is wrong: too much waits for something that takes a moment.
    Busy,
    /// What the store has of the document is damaged, and it is not known whether what was pushed is.
    Examining,
}

impl StoreFailure {
    /// Milliseconds after which a push may be tried again.
    const RETRY_AFTER_MS: u32 = 2_000;

    /// What a pusher is told.
    pub fn refusal(self) -> Refusal {
        let (code, what) = match self {
            Self::Full => (Code::STORAGE_FULL, "the relay's disk is full"),
            Self::Failed => (Code::STORAGE_FAILED, "the relay could not use its store"),
            Self::Gone => {
                (Code::STORAGE_FAILED, "the files of the relay's store were removed or replaced")
            }
            // Tried again it would fail again, and hold up all other documents.
            Self::Damaged => {
                let what = "what the relay has of this document is damaged; its operator must \
                            repair or restore the store, then retry";
                return Refusal::new(Code::DAMAGED, NackClass::REFUSED, what.to_owned());
            }
            Self::Busy => (Code::OVERLOADED, "too many pushes wait for this document's history"),
            Self::Examining => {
                let what = "what the relay has of this document is damaged: it does not answer for \
                            what was pushed until it knows how much";
                (Code::OVERLOADED, what)
            }
        };
        let (class, retry_after_ms) = (NackClass::RETRY_AFTER, Self::RETRY_AFTER_MS);
        Refusal { code, class, retry_after_ms, what: what.to_owned() }
    }
}

/// An answer that waits for a commit.
#[derive(Debug)]
struct Waiting {
    answer: Answer,
    /// The offset whose durability it waits for.
    until: Offset,
}

/// Whether a change begins a history in a document that has one.
fn is_second_root<H: History>(
    history: &H,
    judging: &Judging,
    change: &CheckedChange,
) -> Result<bool, H::Error> {
    let CheckedPush { document, roots, .. } = &judging.push;
    match change.dependencies.is_empty() && *roots == Roots::Several {
        true => history.has_changes(document),
        false => Ok(false),
    }
}

/// The machine. See the module's page for the order of calls.
#[derive(Debug)]
pub struct Space {
    name: SpaceName,
    lineage: Lineage,
    /// The epoch that the first append of this process opens.
    fresh: Epoch,
    fresh_is_open: bool,
    last: Offset,
    overlay: Overlay,
    building: Vec<NewEntry>,
    in_flight: Option<Arc<Commit>>,
    waiting: VecDeque<Waiting>,
}

impl Space {
    /// A space as its store holds it. `fresh` must never have been used before, except by an
    /// earlier machine of this space in this same process, which may be dropped while idle.
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

    /// True while nothing is admitted that is not durable: the machine may be dropped.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.building.is_empty() && self.waiting.is_empty()
    }

    /// Admits the longest valid prefix of a push. The answer comes at once if it need not wait
    /// for the disk.
    pub fn handle_push<H: History>(
        &mut self,
        mut judging: Judging,
        durable: &H,
        at_ms: u64,
    ) -> Judged<H::Error> {
        let (facts, document) = (std::mem::take(&mut judging.facts), judging.push.document);
        let durable = &Foreknown { document, facts: &facts, history: durable };
        while let Some(change) = judging.push.changes.get(judging.done) {
            let layered = Layered { overlay: &self.overlay, stored: durable };
            let position = match admit(&layered, &judging.push.document, change, judging.push.roots)
            {
                Ok(Ok(Verdict::New)) => match is_second_root(&layered, &judging, change) {
                    Ok(is_second) => self.append_next(&mut judging, is_second, at_ms),
                    Err(error) => return judging.stopped(facts, error),
                },
                Ok(Ok(Verdict::Duplicate(known))) => known.position,
                Ok(Err(error)) => {
                    judging.answer.refusal = Some(Refusal::of_history(change, &error));
                    break;
                }
                Err(error) => return judging.stopped(facts, error),
            };
            judging.done += 1;
            judging.answer.count += 1;
            judging.until = judging.until.max(position);
        }
        judging.answer.refusal = judging.answer.refusal.take().or(judging.push.rest.take());
        let (answer, until) = judging.answered();
        self.answer_when_durable(answer, until)
    }

    /// The view cannot be read, now or at all: what was judged stands, the rest may be pushed
    /// again.
    pub fn handle_unreadable<E>(&mut self, judging: Judging, failure: StoreFailure) -> Judged<E> {
        let mut judging = judging;
        judging.answer.refusal = Some(failure.refusal());
        let (answer, until) = judging.answered();
        self.answer_when_durable(answer, until)
    }

    /// Deletes a document. To delete it once more is no error.
    pub fn handle_deletion<H: History>(
        &mut self,
        push: &PushedEntry,
        durable: &H,
        at_ms: u64,
    ) -> Result<Judged<H::Error>, H::Error> {
        let layered = Layered { overlay: &self.overlay, stored: durable };
        let mut answer = push.answer();
        let position = match layered.deleted_at(&push.document)? {
            Some(position) => position,
            None => {
                let (document, author) = (push.document, push.author.as_slice());
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

    /// Takes a snapshot that stands for all that the document has and for what a client offered.
    /// The caller has merged the two, and holds back everything else for this document until the
    /// commit.
    pub fn handle_snapshot<E>(
        &mut self,
        push: &PushedEntry,
        snapshot: Arc<Snapshot>,
        at_ms: u64,
    ) -> Judged<E> {
        let mut answer = push.answer();
        let position = self.next_offset(&mut answer);
        let heads = snapshot.head_hashes();
        let (document, hash) = (push.document, snapshot.hash);
        let entry = Entry::of_snapshot(position, document, hash, &heads, at_ms, None);
        self.building.push(NewEntry { entry, kind: NewKind::Snapshot(snapshot) });
        answer.count = 1;
        self.answer_when_durable(answer, position)
    }

    fn next_offset(&mut self, answer: &mut Answer) -> Offset {
        self.last = Offset(self.last.0 + 1);
        let first = answer.added.map_or(self.last, |(first, _)| first);
        answer.added = Some((first, self.last));
        self.last
    }

    /// Everything that the relay holds of a document was all that a client offered.
    pub fn handle_held<E>(&mut self, push: &PushedEntry) -> Judged<E> {
        let answer = Answer { count: 1, ..push.answer() };
        // Not `last`, which after a failed commit is an offset that nothing will have.
        let in_flight = self.in_flight.iter().flat_map(|commit| &commit.entries);
        let last = self.building.last().or(in_flight.last());
        let until = last.map_or(self.lineage.head(), |new| new.entry.offset);
        self.answer_when_durable(answer, until)
    }

    fn answer_when_durable<E>(&mut self, mut answer: Answer, until: Offset) -> Judged<E> {
        if until > self.lineage.head() {
            self.waiting.push_back(Waiting { answer, until });
            return Judged::Waits;
        }
        answer.through = self.mark(answer.count, until);
        Judged::Answered(answer)
    }

    fn mark(&self, count: u32, offset: Offset) -> Option<Mark> {
        let epoch = self.lineage.epoch_at(offset)?;
        (count > 0).then_some(Mark { epoch, offset })
    }

    fn append_next(&mut self, judging: &mut Judging, is_second: bool, at_ms: u64) -> Offset {
        let offset = self.next_offset(&mut judging.answer);
        let CheckedPush { document, author, changes, .. } = &mut judging.push;
        // Its bytes are needed once, and may be many.
        let bytes = std::mem::take(&mut changes[judging.done].bytes);
        let change = CheckedChange { bytes, ..changes[judging.done].clone() };
        self.overlay.add(*document, &change, offset);
        let (actor, seq, max_op) = (change.actor.clone(), change.seq, change.max_op);
        let operations = change.stored_operations;
        let mut entry = Entry::of_change(offset, *document, change, author, at_ms);
        if is_second {
            entry.flags |= entry_flags::SECOND_ROOT;
        }
        let kind = NewKind::Change { actor, seq, max_op, operations };
        self.building.push(NewEntry { entry, kind });
        offset
    }

    /// Whether a document is deleted, or will be when what is admitted is durable.
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

    /// Whether a document has entries that are admitted and not durable.
    pub fn has_uncommitted(&self, document: &DocumentId) -> bool {
        let in_flight = self.in_flight.iter().flat_map(|commit| &commit.entries);
        self.building.iter().chain(in_flight).any(|new| new.entry.document == *document)
    }

    /// What is to be written next, if anything is and no commit is under way.
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

    /// The commit under way is durable.
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

    /// The commit under way failed: nothing of it is in the log, nor can anything that was
    /// admitted after it be, since it may rest on it. All of it is given back with *retry after*.
    /// Its offsets are not used again while this machine lives.
    pub fn handle_commit_failed(&mut self, failure: StoreFailure) -> Vec<Answer> {
        self.in_flight = None;
        self.building.clear();
        self.overlay = Overlay::default();
        let give_back = |waiting: Waiting| Answer {
            count: 0,
            through: None,
            added: None,
            refusal: Some(failure.refusal()),
            ..waiting.answer
        };
        self.waiting.drain(..).map(give_back).collect()
    }
}
