//! What the relay has and cannot read, it asks for again: the store gives what it has of that, and it
//! is pushed like all else. The relay holds it by its own word, so that neither what is held nor what
//! is parked changes by the answers.
//!
//! One question at a time, and a rate over all of them: a relay cannot make an engine read or send
//! without end. What is asked beyond that is not answered, and the relay asks again.

use std::collections::VecDeque;

use super::outbox::{Group, OutboxChange, OutboxKind, group};
use super::{Phase, Replica, ReplicaEffect};
use crate::admission::Roots;
use crate::frame::{Frame, Mended, Resend, Resent, SubscriptionId};
use crate::ids::{ChangeHash, DocumentId, Local, SpaceName};
use crate::limits;
use crate::moment::Moment;
use crate::rate::TokenBucket;

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
    subscription: SubscriptionId,
    document: DocumentId,
    /// The store is asked.
    reading: bool,
    ready: VecDeque<Group>,
    /// Pushes that are not answered.
    in_flight: usize,
    /// Changes that the relay acknowledged.
    count: u32,
}

/// The questions of the present relay.
#[derive(Debug)]
pub(super) struct Resends {
    now: Option<Question>,
    /// Bytes that may be read and sent. It outlives connections.
    budget: TokenBucket,
}

impl Default for Resends {
    fn default() -> Self {
        let (rate, burst) = (limits::RESEND_RATE, limits::RESEND_BURST);
        Self { now: None, budget: TokenBucket::new(rate, burst, Moment::default()) }
    }
}

impl Resends {
    /// The connection is gone, and its questions with it.
    pub(super) fn end(&mut self) {
        self.now = None;
    }

    /// Nothing more of a space is pushed.
    pub(super) fn end_of(&mut self, space: &SpaceName) {
        self.now.take_if(|question| question.space == *space);
    }
}

impl Replica {
    pub(super) fn handle_resend(&mut self, now: Moment, asked: Resend) {
        let Resend { subscription, document, changes } = asked;
        // It may cross the end of its subscription, or another filter.
        let Some(space) = self.space_of(subscription) else { return };
        let Some(link) = self.spaces.get(&space) else { return };
        let is_welcome = link.receiver.is_open() && link.filter.wants(&document);
        if !is_welcome || self.resends.now.is_some() || !self.resends.budget.is_ready(now) {
            return;
        }
        self.resends.now = Some(Question {
            space: space.clone(),
            subscription,
            document,
            reading: true,
            ready: VecDeque::new(),
            in_flight: 0,
            count: 0,
        });
        let changes = changes.into_iter().map(ChangeHash).collect();
        self.effects.push_back(ReplicaEffect::LoadResend { space, document, changes });
    }

    /// What [`ReplicaEffect::LoadResend`] asked for.
    pub fn handle_resendable(
        &mut self,
        now: Moment,
        space: &SpaceName,
        document: DocumentId,
        found: Resendable,
    ) {
        let Phase::Ready { limits: most, .. } = self.phase else { return };
        let Some(question) = &mut self.resends.now else { return };
        if !question.reading || question.space != *space || question.document != document {
            return;
        }
        question.reading = false;
        let (weight, found) = match found {
            Resendable::Changes(changes) => {
                let bytes = changes.iter().map(Vec::len).sum::<usize>() as u64;
                let change = |bytes| OutboxKind::Change(bytes, Roots::One);
                (bytes, changes.into_iter().map(change).collect())
            }
            Resendable::Snapshot { hash, total, heads } => {
                (total, vec![OutboxKind::Snapshot { hash, total, heads }])
            }
        };
        // Their places in our log do not matter: what is held of them was known before.
        let local = Local(0);
        let found = found.into_iter().map(|what| OutboxChange { local, document, what });
        question.ready.extend(group(found, most.changes));
        self.resends.budget.spend(now, weight.max(limits::RESEND_LEAST_BYTES));
        self.push_resend();
    }

    /// Sends what there is room for; says so once all of it is answered.
    pub(super) fn push_resend(&mut self) {
        let Phase::Ready { limits: most, .. } = self.phase else { return };
        while let Some(question) = &mut self.resends.now
            && self.pushes.len() + 1 < most.in_flight
            && self.window < limits::WINDOWS_BYTES
            && let Some(link) = self.spaces.get_mut(&question.space)
            && !link.outbox.is_offering(&question.document)
            && let Some(group) = question.ready.pop_front()
        {
            question.in_flight += 1;
            let space = question.space.clone();
            self.push_group(&space, group, true);
        }
        let is_answered =
            |of: &mut Question| !of.reading && of.in_flight == 0 && of.ready.is_empty();
        if let Some(question) = self.resends.now.take_if(is_answered) {
            let Question { subscription, document, count, .. } = question;
            self.send(Frame::Resent(Resent { subscription, document, count }));
        }
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

    /// A document can be read again that could not be: whoever was told of damage compares. It takes
    /// a read, so that it counts as one.
    pub(super) fn handle_mended(&mut self, now: Moment, mended: Mended) {
        let budget = &mut self.resends.budget;
        if !budget.is_ready(now) {
            return;
        }
        budget.spend(now, limits::RESEND_LEAST_BYTES);
        if let Some(space) = self.space_of(mended.subscription) {
            let document = mended.document;
            self.effects.push_back(ReplicaEffect::Mended { space, document });
        }
    }
}
