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
    CheckedChange, FormError, History, HistoryError, Layered, Overlay, Verdict, admit,
};
use crate::code::{Code, NackClass};
use crate::frame::{EncodedEntry, Entry, Mark, fit};
use crate::ids::{ActorId, DocumentId, Epoch, Offset, SessionId, SpaceName};
use crate::limits;
use crate::lineage::{EpochRecord, Lineage};

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
}

/// An entry to be stored, with what the store indexes of it.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The entry as it will travel.
    pub entry: Entry,
    /// The change's actor.
    pub actor: ActorId,
    /// The change's sequence number.
    pub seq: u64,
    /// The change's last operation counter.
    pub max_op: u64,
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

/// What a commit made known.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Entries that are durable now, encoded once, in order; with their epoch.
    pub publish: Option<(Epoch, Vec<Arc<EncodedEntry>>)>,
    /// Answers to pushes.
    pub answers: Vec<Answer>,
}

/// How a store failed, as far as a pusher needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailure {
    /// No room left on the disk.
    Full,
    /// Anything else.
    Failed,
}

impl StoreFailure {
    /// Milliseconds after which a push may be tried again.
    const RETRY_AFTER_MS: u32 = 2_000;

    /// What a pusher is told.
    pub fn refusal(self) -> Refusal {
        let (code, what) = match self {
            Self::Full => (Code::STORAGE_FULL, "the relay's disk is full"),
            Self::Failed => (Code::STORAGE_FAILED, "the relay could not write to its store"),
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
    /// for the disk. If the view cannot be read, the push is answered with *retry after* and the
    /// view's error is given to the caller for the log.
    pub fn handle_push<H: History>(
        &mut self,
        push: CheckedPush,
        durable: &H,
        at_ms: u64,
    ) -> (Option<Answer>, Option<H::Error>) {
        let (session, id) = (push.session, push.id);
        let mut answer =
            Answer { session, push: id, count: 0, through: None, added: None, refusal: None };
        let mut until = Offset(0);
        let mut view_error = None;
        for change in push.changes {
            let layered = Layered { overlay: &self.overlay, stored: durable };
            let position = match admit(&layered, &push.document, &change) {
                Ok(Ok(Verdict::New)) => {
                    let position = self.append(&push.author, push.document, change, at_ms);
                    let first = answer.added.map_or(position, |(first, _)| first);
                    answer.added = Some((first, position));
                    position
                }
                Ok(Ok(Verdict::Duplicate(known))) => known.position,
                Ok(Err(error)) => {
                    answer.refusal = Some(Refusal::of_history(&change, &error));
                    break;
                }
                Err(error) => {
                    answer.refusal = Some(StoreFailure::Failed.refusal());
                    view_error = Some(error);
                    break;
                }
            };
            answer.count += 1;
            until = until.max(position);
        }
        answer.refusal = answer.refusal.or(push.rest);
        (self.answer_when_durable(answer, until), view_error)
    }

    fn answer_when_durable(&mut self, mut answer: Answer, until: Offset) -> Option<Answer> {
        if until > self.lineage.head() {
            self.waiting.push_back(Waiting { answer, until });
            return None;
        }
        answer.through = self.mark(answer.count, until);
        Some(answer)
    }

    fn mark(&self, count: u32, offset: Offset) -> Option<Mark> {
        let epoch = self.lineage.epoch_at(offset)?;
        (count > 0).then_some(Mark { epoch, offset })
    }

    fn append(
        &mut self,
        author: &[u8],
        document: DocumentId,
        change: CheckedChange,
        at_ms: u64,
    ) -> Offset {
        self.last = Offset(self.last.0 + 1);
        self.overlay.add(document, &change, self.last);
        let (actor, seq, max_op) = (change.actor.clone(), change.seq, change.max_op);
        let entry = Entry::of_change(self.last, document, change, author, at_ms);
        self.building.push(NewEntry { entry, actor, seq, max_op });
        self.last
    }

    /// What is to be written next, if anything is and no commit is under way.
    pub fn poll_commit(&mut self) -> Option<Arc<Commit>> {
        if self.in_flight.is_some() || self.building.is_empty() {
            return None;
        }
        let mut taken = 0;
        let mut bytes = 0;
        for entry in &self.building {
            bytes += entry.entry.body.len();
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
            self.overlay.settle(document, &new.actor, new.seq, hash);
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
        Outcome { publish, answers }
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
