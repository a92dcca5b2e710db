//! Repair of the relay's store: the relay requests changes that it has and cannot read. The store
//! returns those that it has, and the outbox's pushes carry them. The relay already acknowledged
//! these changes, so the answers change neither the acked ranges nor the rejected documents.
//!
//! Requests are answered one at a time, under a rate limit over all of them: a relay cannot make an
//! engine read, compact or send without end. A request that cannot be answered yet waits. A request
//! that never will be gets an empty answer: a relay without an answer waits long before it asks
//! another client.

use std::collections::{BTreeSet, VecDeque};

use super::outbox::{Group, OutboxChange, OutboxKind, group};
use super::{Phase, Replica, ReplicaEffect};
use crate::admission::Roots;
use crate::frame::{Frame, Repaired, Resend, Resent};
use crate::ids::{ChangeHash, DocumentId, Local, SpaceName};
use crate::limits;
use crate::moment::Moment;
use crate::rate::TokenBucket;
use crate::weight::Weight;

/// The store's answer to a repair request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resendable {
    /// The changes, dependencies first; empty if the store has none of them.
    Changes(Vec<Vec<u8>>),
    /// A snapshot of the whole document as the store has it. Its pieces are read by
    /// [`ReplicaEffect::LoadSnapshotPart`].
    Snapshot {
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its length in bytes.
        total: u64,
        /// Its heads, sorted.
        heads: Vec<ChangeHash>,
    },
}

/// The repair request being answered.
#[derive(Debug)]
struct ResendRequest {
    space: SpaceName,
    resend: Resend,
    /// Whether the store is reading.
    reading: bool,
    ready: VecDeque<Group>,
    /// The number of unanswered pushes.
    in_flight: usize,
    /// The number of changes that the relay acknowledged.
    count: u32,
    /// The snapshot made for it.
    made: Option<[u8; 32]>,
}

/// The requests of the present relay, and its repaired documents.
#[derive(Debug)]
pub(super) struct Resends {
    current: Option<ResendRequest>,
    /// Waiting requests, at most one for each document: at most [`limits::RESEND_WAITING`], and one
    /// that was interrupted.
    waiting: VecDeque<(SpaceName, Resend)>,
    /// The budget of bytes to read and send. It outlives connections.
    budget: TokenBucket,
    /// Repaired documents that the store has not been notified of: at most
    /// [`limits::REPAIRED_WAITING`].
    repaired: BTreeSet<(SpaceName, DocumentId)>,
    /// The budget of these notifications. It is separate, because a client that answered a request
    /// has used up the other one and must still be notified of the repair.
    repaired_budget: TokenBucket,
    /// When a budget suffices for the next waiting item.
    wakes_at: Option<Moment>,
}

impl Default for Resends {
    fn default() -> Self {
        let full = |rate, burst| TokenBucket::new(rate, burst, Moment::default());
        Self {
            current: None,
            waiting: VecDeque::new(),
            budget: full(limits::RESEND_RATE, limits::RESEND_BURST),
            repaired: BTreeSet::new(),
            repaired_budget: full(limits::REPAIRED_RATE, limits::REPAIRED_WAITING as u64),
            wakes_at: None,
        }
    }
}

impl Resends {
    /// The connection is gone, and its requests with it.
    pub(super) fn end(&mut self) {
        let (budget, repaired_budget) = (self.budget, self.repaired_budget);
        *self = Self { budget, repaired_budget, ..Self::default() };
    }

    pub(super) fn wakes_at(&self) -> Option<Moment> {
        self.wakes_at
    }

    fn wake(&mut self, at: Moment) {
        self.wakes_at = Some(self.wakes_at.map_or(at, |before| before.min(at)));
    }
}

impl Replica {
    pub(super) fn handle_resend(&mut self, now: Moment, resend: Resend) {
        // The request may cross the end of its subscription.
        let Some(space) = self.space_of(resend.subscription) else { return };
        let waiting = &mut self.resends.waiting;
        waiting.retain(|(of, other)| *of != space || other.document != resend.document);
        if waiting.len() >= limits::RESEND_WAITING {
            return self.answer_with_nothing(&space, resend.document);
        }
        waiting.push_back((space, resend));
        self.take_request(now);
    }

    /// Begins the first request that can be answered, if none is in progress.
    fn take_request(&mut self, now: Moment) {
        while self.resends.current.is_none()
            && let Some((index, is_welcome)) = self.next_request()
        {
            let wait = self.resends.budget.wait(now);
            if is_welcome && !wait.is_zero() {
                return self.resends.wake(now.after(wait));
            }
            let Some((space, mut resend)) = self.resends.waiting.remove(index) else { return };
            let document = resend.document;
            if !is_welcome {
                self.answer_with_nothing(&space, document);
                continue;
            }
            if let Some(link) = self.spaces.get(&space) {
                // The request may have waited for another subscription of the space.
                resend.subscription = link.subscription;
            }
            let changes = resend.changes.iter().copied().map(ChangeHash).collect();
            self.resends.current = Some(ResendRequest {
                space: space.clone(),
                resend,
                reading: true,
                ready: VecDeque::new(),
                in_flight: 0,
                count: 0,
                made: None,
            });
            self.effects.push_back(ReplicaEffect::LoadResend { space, document, changes });
        }
    }

    /// The next request, and whether it gets a full answer. Requests of a space that is being
    /// compared, or whose subscription the relay has not answered, wait.
    fn next_request(&self) -> Option<(usize, bool)> {
        let requests = self.resends.waiting.iter().enumerate();
        let mut due = requests.filter_map(|(index, (space, resend))| {
            let link = self.spaces.get(space)?;
            let is_welcome = link.receiver.is_open() && link.filter.wants(&resend.document);
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

    /// Pushing of a space has stopped for now: the request in progress starts over later.
    pub(super) fn interrupt_resend(&mut self, space: &SpaceName) {
        if let Some(request) = self.resends.current.take_if(|request| request.space == *space) {
            self.drop_made(request.made);
            self.resends.waiting.push_front((request.space, request.resend));
        }
    }

    /// Pushing of a space has stopped on this subscription: answers its requests with nothing.
    pub(super) fn refuse_resends(&mut self, space: &SpaceName) {
        let waiting = std::mem::take(&mut self.resends.waiting);
        let (refused, others) = waiting.into_iter().partition(|(of, _)| of == space);
        self.resends.waiting = others;
        let refused: VecDeque<(SpaceName, Resend)> = refused;
        if self.is_ready() {
            refused.iter().for_each(|(_, resend)| self.answer_with_nothing(space, resend.document));
        }
    }

    /// A snapshot made for a request is no longer being sent.
    fn drop_made(&mut self, made: Option<[u8; 32]>) {
        if let Some(hash) = made {
            self.effects.push_back(ReplicaEffect::DropMade { hash });
        }
    }

    /// The answer to [`ReplicaEffect::LoadResend`]. `compacted` is the weight of the history that was
    /// compacted into a snapshot, or should have been; zero if none was to be made.
    pub fn handle_resendable(
        &mut self,
        now: Moment,
        space: &SpaceName,
        document: DocumentId,
        found: Resendable,
        compacted: Weight,
    ) {
        // The store did the work, so it counts even if the request is gone.
        self.resends.budget.spend(now, cost(&found, compacted));
        let made = match &found {
            Resendable::Changes(_) => None,
            Resendable::Snapshot { hash, .. } => Some(*hash),
        };
        let Phase::Ready { limits: most, .. } = self.phase else { return self.drop_made(made) };
        let is_wanted = |request: &&mut ResendRequest| {
            request.reading && request.space == *space && request.resend.document == document
        };
        let Some(request) = self.resends.current.as_mut().filter(is_wanted) else {
            return self.drop_made(made);
        };
        (request.reading, request.made) = (false, made);
        let found = match found {
            Resendable::Changes(changes) => {
                let change = |bytes| OutboxKind::Change(bytes, Roots::One);
                changes.into_iter().map(change).collect()
            }
            Resendable::Snapshot { hash, total, heads } => {
                vec![OutboxKind::Snapshot { hash, total, heads }]
            }
        };
        // Local numbers do not matter here: acks of these pushes do not change the acked ranges.
        let local = Local(0);
        let found = found.into_iter().map(|what| OutboxChange { local, document, what });
        request.ready.extend(group(found, most.changes));
        self.push_resend(now);
    }

    /// Sends as much as there is room for; sends the answer once every push is answered, and begins
    /// the next request.
    pub(super) fn push_resend(&mut self, now: Moment) {
        let Phase::Ready { limits: most, .. } = self.phase else { return };
        while let Some(request) = &mut self.resends.current
            && self.pushes.len() + 1 < most.in_flight
            && self.window < limits::WINDOWS_BYTES
            && let Some(link) = self.spaces.get_mut(&request.space)
            && !link.outbox.is_uploading(&request.resend.document)
            && let Some(group) = request.ready.pop_front()
        {
            request.in_flight += 1;
            let space = request.space.clone();
            self.push_group(&space, group, true);
        }
        let is_answered =
            |of: &mut ResendRequest| !of.reading && of.in_flight == 0 && of.ready.is_empty();
        if let Some(request) = self.resends.current.take_if(is_answered) {
            let ResendRequest { resend, count, made, .. } = request;
            let Resend { subscription, document, .. } = resend;
            self.drop_made(made);
            self.send(Frame::Resent(Resent { subscription, document, count }));
        }
        self.take_request(now);
    }

    /// A push for a repair request is answered or given up.
    pub(super) fn handle_resent_push(&mut self, now: Moment, space: &SpaceName, count: usize) {
        if let Some(request) = &mut self.resends.current {
            request.in_flight = request.in_flight.saturating_sub(1);
            request.count += count as u32;
        }
        self.pump(now, space);
        self.try_check(now, space);
    }

    /// The relay can read a damaged document again: a client that received the damage compares.
    pub(super) fn handle_repaired(&mut self, now: Moment, repaired: Repaired) {
        if let Some(space) = self.space_of(repaired.subscription)
            && self.resends.repaired.len() < limits::REPAIRED_WAITING
        {
            self.resends.repaired.insert((space, repaired.document));
            self.send_repaired(now);
        }
    }

    /// Notifies the store of repaired documents, within the rate limit: each one costs a read.
    fn send_repaired(&mut self, now: Moment) {
        while !self.resends.repaired.is_empty() {
            let wait = self.resends.repaired_budget.wait(now);
            if !wait.is_zero() {
                return self.resends.wake(now.after(wait));
            }
            if let Some((space, document)) = self.resends.repaired.pop_first()
                && self.spaces.contains_key(&space)
            {
                self.resends.repaired_budget.spend(now, 1);
                self.effects.push_back(ReplicaEffect::Repaired { space, document });
            }
        }
    }

    /// Time passed: a budget may suffice now.
    pub(super) fn handle_resend_timeout(&mut self, now: Moment) {
        if self.resends.wakes_at.take_if(|at| *at <= now).is_some() && self.is_ready() {
            self.take_request(now);
            self.send_repaired(now);
        }
    }
}

/// The cost of an answer in [`limits::RESEND_RATE`]: the bytes sent or read, and for a compaction
/// also its changes and operations, because a few bytes can hold many of them.
fn cost(found: &Resendable, compacted: Weight) -> u64 {
    let sent = match found {
        Resendable::Changes(changes) => changes.iter().map(Vec::len).sum::<usize>() as u64,
        Resendable::Snapshot { total, .. } => *total,
    };
    let changes = compacted.changes.saturating_mul(limits::RESEND_CHANGE_BYTES);
    let operations = compacted.operations.saturating_mul(limits::RESEND_OPERATION_BYTES);
    let read = compacted.bytes.saturating_add(changes).saturating_add(operations);
    sent.max(read).max(limits::RESEND_LEAST_BYTES)
}
