//! Subscriptions: their requests, limits and ends.

use std::collections::BTreeMap;

use super::{Phase, Session, SessionEffect, Subscription};
use crate::code::Code;
use crate::frame::{
    Filter, Frame, Mark, Partial, Subscribe, SubscribeFrom, SubscriptionId, Unsubscribed, fit,
};
use crate::ids::{Cursor, SpaceName};
use crate::intervals::IntervalSet;
use crate::limits;

/// A subscription request, of either frame.
pub(super) struct Request {
    subscription: SubscriptionId,
    space: SpaceName,
    filter: Filter,
    cursor: Option<Cursor>,
    acknowledged: Option<Mark>,
    holds: bool,
    partial: Option<Partial>,
    knows_snapshots: bool,
}

impl From<Subscribe> for Request {
    fn from(frame: Subscribe) -> Self {
        let Subscribe { subscription, space, filter, cursor, acknowledged } = frame;
        let (holds, partial, knows_snapshots) = (false, None, false);
        Self { subscription, space, filter, cursor, acknowledged, holds, partial, knows_snapshots }
    }
}

impl From<SubscribeFrom> for Request {
    fn from(frame: SubscribeFrom) -> Self {
        let SubscribeFrom { subscription, space, filter, cursor, acknowledged, holds, partial } =
            frame;
        let knows_snapshots = true;
        Self { subscription, space, filter, cursor, acknowledged, holds, partial, knows_snapshots }
    }
}

/// The number of documents that a filter names.
pub(super) fn named(filter: &Filter) -> usize {
    match filter {
        Filter::Everything => 0,
        Filter::Documents(documents) => documents.len(),
    }
}

impl Session {
    pub(super) fn handle_subscribe(&mut self, request: Request) {
        let Request { subscription, space, filter, cursor, acknowledged, .. } = request;
        if self.subscriptions.contains_key(&subscription) {
            let what = format!("subscription {subscription} is in use");
            return self.fail(Code::OUT_OF_ORDER, what, "give each subscription a new number");
        }
        if self.subscriptions.len() >= limits::SUBSCRIPTIONS {
            let what = format!("{} subscriptions are open", limits::SUBSCRIPTIONS);
            return self.refuse_too_many(subscription, what);
        }
        if self.filter_documents + named(&filter) > limits::SESSION_FILTER_DOCUMENTS {
            let limit = limits::SESSION_FILTER_DOCUMENTS;
            let what = format!("the filters of this session name {limit} documents");
            return self.refuse_too_many(subscription, what);
        }
        let Phase::Ready(identity) = &self.phase else { return };
        let principal = &identity.principal;
        if !principal.knows_space(&space) {
            // Decided without the store, so that the answer is the same for a missing space.
            let what = format!("no access to space {space}");
            let hint = "ask an administrator of the relay for a right in it".to_owned();
            return self.refuse_subscription(subscription, Code::FORBIDDEN, what, hint);
        }
        let view = principal.view(&space, &filter);
        let scope = principal.scope(&space, &filter);
        let holds = request.holds;
        self.tickets += 1;
        let entry = Subscription {
            space: space.clone(),
            ticket: self.tickets,
            view: view.clone(),
            filter,
            position: None,
            comparing: false,
            fetching: false,
            partial: request.partial,
            knows_snapshots: request.knows_snapshots,
            own: IntervalSet::new(),
            own_snapshots: BTreeMap::new(),
        };
        self.filter_documents += named(&entry.filter);
        self.subscriptions.insert(subscription, entry);
        self.effects.push_back(SessionEffect::Attach {
            subscription,
            space,
            cursor,
            acknowledged,
            view,
            scope,
            holds,
        });
    }

    pub(super) fn refuse_too_many(&mut self, subscription: SubscriptionId, what: String) {
        let hint = "remove spaces that are not needed, or use a second connection".to_owned();
        self.refuse_subscription(subscription, Code::TOO_MANY_SUBSCRIPTIONS, what, hint);
    }

    /// The relay has no room for another subscription of any session: rejects it.
    pub fn handle_subscription_refused(&mut self, subscription: SubscriptionId, limit: usize) {
        if self.remove_subscription(subscription) {
            let what = format!("all {limit} subscriptions of the relay are in use");
            self.refuse_too_many(subscription, what);
            self.effects.push_back(SessionEffect::Detach(subscription));
        }
    }

    /// Returns whether the subscription existed.
    pub(super) fn remove_subscription(&mut self, subscription: SubscriptionId) -> bool {
        let Some(entry) = self.subscriptions.remove(&subscription) else { return false };
        self.filter_documents -= named(&entry.filter);
        self.own_ranges -= entry.own.intervals();
        true
    }

    pub(super) fn refuse_subscription(
        &mut self,
        subscription: SubscriptionId,
        code: Code,
        what: String,
        hint: String,
    ) {
        let (what, hint) = (fit(what), fit(hint));
        self.send(Frame::Unsubscribed(Unsubscribed { subscription, code, what, hint }));
    }
}
