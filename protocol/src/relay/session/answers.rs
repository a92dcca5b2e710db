//! Pushes on their way to the space's machine, and its answers.

use super::{Phase, Session, SessionEffect};
use crate::access::Rights;
use crate::code::Code;
use crate::frame::{Ack, Frame, Nack, Push, SubscriptionId};
use crate::ids::{DocumentId, SpaceName};
use crate::limits;
use crate::moment::Moment;
use crate::relay::{Author, PushAnswer, Refusal};

impl Session {
    pub(super) fn handle_push(&mut self, push: Push) {
        let (id, subscription) = (push.id, push.subscription);
        let begun = self.begin_push(id, subscription, &push.document, Rights::WRITE);
        if let Some((space, author)) = begun {
            self.effects.push_back(SessionEffect::Push { space, author, push });
        }
    }

    /// The checks of every kind of push; returns its space, and its author with their rights.
    pub(super) fn begin_push(
        &mut self,
        id: u64,
        subscription: SubscriptionId,
        document: &DocumentId,
        needed: Rights,
    ) -> Option<(SpaceName, Author)> {
        if id <= self.last_push {
            let what = format!("push {id} after push {}", self.last_push);
            self.fail(Code::OUT_OF_ORDER, what, "number pushes in ascending order");
            return None;
        }
        self.last_push = id;
        let Some(entry) = self.subscriptions.get(&subscription) else {
            let what = format!("a push to subscription {subscription}, which does not exist");
            self.fail(Code::UNKNOWN_SUBSCRIPTION, what, "subscribe to the space first");
            return None;
        };
        let (space, ticket) = (entry.space.clone(), entry.ticket);
        // A new push to a document cancels the session's earlier upload for it.
        if let Some(id) = self.uploads.withdraw(subscription, document) {
            self.in_flight.remove(&id);
        }
        let Phase::Ready(identity) = &self.phase else { return None };
        let author = Author::new(identity, &space, document);
        if !author.rights.includes(needed) {
            let refusal = Refusal::of_rights(needed);
            self.send(Frame::Nack(Nack {
                id,
                code: refusal.code,
                class: refusal.class,
                retry_after_ms: refusal.retry_after_ms,
                what: refusal.what,
            }));
            return None;
        }
        self.in_flight.insert(id, (subscription, ticket));
        Some((space, author))
    }

    /// The author of a push to a document, with its present rights; `None` once the session has
    /// ended.
    pub fn author(&self, space: &SpaceName, document: &DocumentId) -> Option<Author> {
        Some(Author::new(self.identity()?, space, document))
    }

    /// A push was answered.
    pub fn handle_answer(&mut self, now: Moment, answer: PushAnswer) {
        let Some((subscription, ticket)) = self.in_flight.remove(&answer.push) else { return };
        let upload = self.uploads.remove(answer.push);
        if !self.wants_message_without(1) {
            // Reading was paused, so the peer could not show that it is alive.
            self.last_received = now;
        }
        // Only if the subscription is the one that it was pushed over, and not a later one with its
        // number.
        let entry = self.subscriptions.get_mut(&subscription);
        if let (Some(added), Some(entry)) = (answer.added, entry.filter(|e| e.ticket == ticket)) {
            if let Some(upload) = upload
                && entry.own_snapshots.len() < limits::PUSHES_IN_FLIGHT
            {
                entry.own_snapshots.insert(upload.hash, upload.total);
            }
            let before = entry.own.intervals();
            if before < limits::OWN_RANGES && self.own_ranges < limits::SESSION_OWN_RANGES {
                entry.own.insert(added.0.0, added.1.0);
                self.own_ranges = self.own_ranges + entry.own.intervals() - before;
            }
        }
        let (id, count) = (answer.push, answer.count);
        if let Some(through) = answer.through {
            self.send(Frame::Ack(Ack { id, count, through }));
        }
        if let Some(refusal) = answer.refusal {
            let (code, class) = (refusal.code, refusal.class);
            let (retry_after_ms, what) = (refusal.retry_after_ms, refusal.what);
            self.send(Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
        }
    }

    fn wants_message_without(&self, answered: usize) -> bool {
        self.in_flight.len() + answered < limits::PUSHES_IN_FLIGHT
    }
}
