//! What the relay has and cannot read, it asks for again: the store gives what it has of that, and it
//! is pushed like all else. The relay holds it by its own word, so that neither what is held nor what
//! is parked changes by the answers.
//!
//! One question at a time, and a rate over all of them: a relay cannot make an engine read, fold or
//! send without end. A question that cannot be answered yet waits, and one that will not be is answered
//! with nothing: a relay that hears no word waits for long before it asks anybody else.

use std::collections::{BTreeSet, VecDeque};

use super::outbox::{Group, OutboxChange, OutboxKind, group};
use super::{Phase, Replica, ReplicaEffect};
use crate::admission::Roots;
use crate::frame::{Frame, Mended, Resend, Resent};
use crate::ids::{ChangeHash, DocumentId, Local, SpaceName};
use crate::limits;
use crate::moment::Moment;
use crate::rate::TokenBucket;
use crate::weight::Weight;

/// What an engine has of what its relay asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resendable {
    /// Changes, dependencies first; none if it has none of them.
    Changes(Vec<Vec<u8>>),
    /// A snapshot that stands for everything that it has of the document. Its pieces are asked for
    /// by [`ReplicaEffect::LoadSnapshotPart`].
    Snapshot {
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// How many bytes.
        total: u64,
        /// Its heads, sorted.
        heads: Vec<ChangeHash>,
    },
}

/// A question of the relay's that is being answered.
#[derive(Debug)]
struct Question {
    space: SpaceName,
    asked: Resend,
    /// The store is asked.
    reading: bool,
    ready: VecDeque<Group>,
    /// Pushes that are not answered.
    in_flight: usize,
    /// Changes that the relay acknowledged.
    count: u32,
    /// The snapshot that was made for it.
    made: Option<[u8; 32]>,
}

/// The questions of the present relay, and what it can read again.
#[derive(Debug)]
pub(super) struct Resends {
    now: Option<Question>,
    /// Questions whose turn comes, at most one of each document. No more than
    /// [`limits::RESEND_WAITING`], and one that was interrupted.
    waiting: VecDeque<(SpaceName, Resend)>,
    /// Bytes that may be read and sent. It outlives connections.
    budget: TokenBucket,
    /// Documents that can be read again, of which the store is not told yet: no more than
    /// [`limits::MENDED_WAITING`].
    mended: BTreeSet<(SpaceName, DocumentId)>,
    /// Documents of which the store may be told. Apart from the other budget: who answered the
    /// question has spent that one, and is to hear what came of it.
    mended_budget: TokenBucket,
    /// When a budget has enough for what waits for it.
    wakes_at: Option<Moment>,
}

impl Default for Resends {
    fn default() -> Self {
        let full = |rate, burst| TokenBucket::new(rate, burst, Moment::default());
        Self {
            now: None,
            waiting: VecDeque::new(),
            budget: full(limits::RESEND_RATE, limits::RESEND_BURST),
            mended: BTreeSet::new(),
            mended_budget: full(limits::MENDED_RATE, limits::MENDED_WAITING as u64),
            wakes_at: None,
        }
    }
}

impl Resends {
    /// The connection is gone, and its questions with it.
    pub(super) fn end(&mut self) {
        let (budget, mended_budget) = (self.budget, self.mended_budget);
        *self = Self { budget, mended_budget, ..Self::default() };
    }

    pub(super) fn wakes_at(&self) -> Option<Moment> {
        self.wakes_at
    }

    fn wake(&mut self, at: Moment) {
        self.wakes_at = Some(self.wakes_at.map_or(at, |before| before.min(at)));
    }
}

impl Replica {
    pub(super) fn handle_resend(&mut self, now: Moment, asked: Resend) {
        // It may cross the end of its subscription.
        let Some(space) = self.space_of(asked.subscription) else { return };
        let waiting = &mut self.resends.waiting;
        waiting.retain(|(of, other)| *of != space || other.document != asked.document);
        if waiting.len() >= limits::RESEND_WAITING {
            return self.answer_with_nothing(&space, asked.document);
        }
        waiting.push_back((space, asked));
        self.take_question(now);
    }

    /// Takes up the first of the questions that can be answered, if none is being answered.
    fn take_question(&mut self, now: Moment) {
        while self.resends.now.is_none()
            && let Some((index, is_welcome)) = self.next_question()
        {
            let wait = self.resends.budget.wait(now);
            if is_welcome && !wait.is_zero() {
                return self.resends.wake(now.after(wait));
            }
            let Some((space, mut asked)) = self.resends.waiting.remove(index) else { return };
            let document = asked.document;
            if !is_welcome {
                self.answer_with_nothing(&space, document);
                continue;
            }
            if let Some(link) = self.spaces.get(&space) {
                // It may have waited for another subscription of the space.
                asked.subscription = link.subscription;
            }
            let changes = asked.changes.iter().copied().map(ChangeHash).collect();
            self.resends.now = Some(Question {
                space: space.clone(),
                asked,
                reading: true,
                ready: VecDeque::new(),
                in_flight: 0,
                count: 0,
                made: None,
            });
            self.effects.push_back(ReplicaEffect::LoadResend { space, document, changes });
        }
    }

    /// Which question is next, and whether it is one that is answered. Those of a space that is being
    /// compared, or that the relay has not subscribed yet, wait for the end of that.
    fn next_question(&self) -> Option<(usize, bool)> {
        let questions = self.resends.waiting.iter().enumerate();
        let mut due = questions.filter_map(|(index, (space, asked))| {
            let link = self.spaces.get(space)?;
            let is_welcome = link.receiver.is_open() && link.filter.wants(&asked.document);
            let is_due = link.receiver.is_open() || link.receiver.is_stopped();
            is_due.then_some((index, is_welcome))
        });
        due.next()
    }

    fn answer_with_nothing(&mut self, space: &SpaceName, document: DocumentId) {
        if let Some(link) = self.spaces.get(space) {
            let (subscription, count) = (link.subscription, 0);
            self.send(Frame::Resent(Resent { subscription, document, count }));
        }
    }

    /// Nothing more of a space is pushed for now: what is being answered is answered from the start,
    /// once it goes on.
    pub(super) fn interrupt_question(&mut self, space: &SpaceName) {
        if let Some(question) = self.resends.now.take_if(|question| question.space == *space) {
            self.drop_made(question.made);
            self.resends.waiting.push_front((question.space, question.asked));
        }
    }

    /// Nothing more of a space is pushed on this subscription.
    pub(super) fn refuse_questions(&mut self, space: &SpaceName) {
        let waiting = std::mem::take(&mut self.resends.waiting);
        let (refused, others) = waiting.into_iter().partition(|(of, _)| of == space);
        self.resends.waiting = others;
        let refused: VecDeque<(SpaceName, Resend)> = refused;
        if self.is_ready() {
            refused.iter().for_each(|(_, asked)| self.answer_with_nothing(space, asked.document));
        }
    }

    /// A snapshot that was made for a question is not sent any more.
    fn drop_made(&mut self, made: Option<[u8; 32]>) {
        if let Some(hash) = made {
            self.effects.push_back(ReplicaEffect::DropMade { hash });
        }
    }

    /// What [`ReplicaEffect::LoadResend`] asked for. `folded` is what a snapshot was made of, or
    /// should have been: nothing, if none was to be made.
    pub fn handle_resendable(
        &mut self,
        now: Moment,
        space: &SpaceName,
        document: DocumentId,
        found: Resendable,
        folded: Weight,
    ) {
        // What was done is done, whether or not it is still wanted.
        self.resends.budget.spend(now, cost(&found, folded));
        let made = match &found {
            Resendable::Changes(_) => None,
            Resendable::Snapshot { hash, .. } => Some(*hash),
        };
        let Phase::Ready { limits: most, .. } = self.phase else { return self.drop_made(made) };
        let is_wanted = |question: &&mut Question| {
            question.reading && question.space == *space && question.asked.document == document
        };
        let Some(question) = self.resends.now.as_mut().filter(is_wanted) else {
            return self.drop_made(made);
        };
        (question.reading, question.made) = (false, made);
        let found = match found {
            Resendable::Changes(changes) => {
                let change = |bytes| OutboxKind::Change(bytes, Roots::One);
                changes.into_iter().map(change).collect()
            }
            Resendable::Snapshot { hash, total, heads } => {
                vec![OutboxKind::Snapshot { hash, total, heads }]
            }
        };
        // Their places in our log do not matter: what is held of them was known before.
        let local = Local(0);
        let found = found.into_iter().map(|what| OutboxChange { local, document, what });
        question.ready.extend(group(found, most.changes));
        self.push_resend(now);
    }

    /// Sends what there is room for; says so once all of it is answered, and goes on with the next
    /// question.
    pub(super) fn push_resend(&mut self, now: Moment) {
        let Phase::Ready { limits: most, .. } = self.phase else { return };
        while let Some(question) = &mut self.resends.now
            && self.pushes.len() + 1 < most.in_flight
            && self.window < limits::WINDOWS_BYTES
            && let Some(link) = self.spaces.get_mut(&question.space)
            && !link.outbox.is_offering(&question.asked.document)
            && let Some(group) = question.ready.pop_front()
        {
            question.in_flight += 1;
            let space = question.space.clone();
            self.push_group(&space, group, true);
        }
        let is_answered =
            |of: &mut Question| !of.reading && of.in_flight == 0 && of.ready.is_empty();
        if let Some(question) = self.resends.now.take_if(is_answered) {
            let Question { asked, count, made, .. } = question;
            let Resend { subscription, document, .. } = asked;
            self.drop_made(made);
            self.send(Frame::Resent(Resent { subscription, document, count }));
        }
        self.take_question(now);
    }

    /// A push that answers the relay's question is answered, or given up.
    pub(super) fn handle_resent_push(&mut self, now: Moment, space: &SpaceName, count: usize) {
        if let Some(question) = &mut self.resends.now {
            question.in_flight = question.in_flight.saturating_sub(1);
            question.count += count as u32;
        }
        self.pump(now, space);
        self.try_check(now, space);
    }

    /// A document can be read again that could not be: whoever was told of damage compares.
    pub(super) fn handle_mended(&mut self, now: Moment, mended: Mended) {
        if let Some(space) = self.space_of(mended.subscription)
            && self.resends.mended.len() < limits::MENDED_WAITING
        {
            self.resends.mended.insert((space, mended.document));
            self.tell_mended(now);
        }
    }

    /// Tells the store what can be read again, as often as it may be asked: it takes a read.
    fn tell_mended(&mut self, now: Moment) {
        while !self.resends.mended.is_empty() {
            let wait = self.resends.mended_budget.wait(now);
            if !wait.is_zero() {
                return self.resends.wake(now.after(wait));
            }
            if let Some((space, document)) = self.resends.mended.pop_first()
                && self.spaces.contains_key(&space)
            {
                self.resends.mended_budget.spend(now, 1);
                self.effects.push_back(ReplicaEffect::Mended { space, document });
            }
        }
    }

    /// Time passed: a budget may have enough now.
    pub(super) fn handle_resend_timeout(&mut self, now: Moment) {
        if self.resends.wakes_at.take_if(|at| *at <= now).is_some() && self.is_ready() {
            self.take_question(now);
            self.tell_mended(now);
        }
    }
}

/// What an answer counts of [`limits::RESEND_RATE`]: what is sent and what was read for it, and what
/// its fold costs by changes and operations, of which many fit few bytes.
fn cost(found: &Resendable, folded: Weight) -> u64 {
    let sent = match found {
        Resendable::Changes(changes) => changes.iter().map(Vec::len).sum::<usize>() as u64,
        Resendable::Snapshot { total, .. } => *total,
    };
    let changes = folded.changes.saturating_mul(limits::RESEND_CHANGE_BYTES);
    let operations = folded.operations.saturating_mul(limits::RESEND_OPERATION_BYTES);
    let read = folded.bytes.saturating_add(changes).saturating_add(operations);
    sent.max(read).max(limits::RESEND_LEAST_BYTES)
}
