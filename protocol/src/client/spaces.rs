//! The set of spaces: which are subscribed on the present connection, and how one is added and
//! removed.

use super::checks::CheckState;
use super::compare::Compare;
use super::outbox::Outbox;
use super::receive::Receiver;
use super::{Phase, Replica, ReplicaEffect, ResumePoint, SpaceLink, SpacePhase, Unchecked};
use crate::code::Code;
use crate::frame::{Filter, Frame, Refilter, Subscribe, SubscribeFrom, SubscriptionId, features};
use crate::ids::SpaceName;
use crate::moment::Moment;

impl SpaceLink {
    pub(super) fn new(subscription: SubscriptionId) -> Self {
        Self {
            subscription,
            receiver: Receiver::default(),
            outbox: Outbox::default(),
            reported: SpacePhase::Waiting,
            filter: Filter::Everything,
            compare: None,
            check: CheckState::default(),
            awaits_page: false,
            refiltering: false,
            resumes: 0,
            sends_ephemeral: false,
        }
    }

    /// The space's next deadline, if it has one.
    pub(super) fn wakes_at(&self) -> Option<Moment> {
        [self.outbox.paused_until(), self.check.not_before()].into_iter().flatten().min()
    }
}

impl Replica {
    /// The application uses this space. It is subscribed on this connection and on every later one,
    /// until [`Replica::handle_space_removed`].
    pub fn handle_space(&mut self, space: SpaceName) {
        if self.spaces.contains_key(&space) {
            return;
        }
        let subscription = self.next_subscription;
        self.next_subscription += 1;
        self.spaces.insert(space.clone(), SpaceLink::new(subscription));
        self.subscriptions.insert(subscription, space.clone());
        self.load_resume(space);
    }

    /// The application has removed this space: the subscription ends, and later frames for it are
    /// ignored.
    pub fn handle_space_removed(&mut self, now: Moment, space: &SpaceName) {
        self.announce_ephemeral(space, false);
        self.stop_pushing(space);
        self.refuse_resends(space);
        let Some(mut link) = self.spaces.remove(space) else { return };
        self.subscriptions.remove(&link.subscription);
        self.timers.remove(space);
        if let Some(ticket) = link.take_check().ticket() {
            self.unchecked(space.clone(), ticket, Unchecked::Removed);
        }
        if self.is_ready() {
            self.send(Frame::Unsubscribe(link.subscription));
        }
        self.pump_queue(now);
    }

    pub(super) fn load_resume(&mut self, space: SpaceName) {
        let Phase::Ready { upstream, .. } = self.phase else { return };
        if let Some(link) = self.spaces.get_mut(&space) {
            link.resumes += 1;
            self.effects.push_back(ReplicaEffect::LoadResume { upstream, space });
        }
    }

    /// The store's resume point of a space.
    pub fn handle_resume(&mut self, space: &SpaceName, point: ResumePoint) {
        let Phase::Ready { .. } = self.phase else { return };
        let Some(link) = self.spaces.get_mut(space) else { return };
        link.resumes = link.resumes.saturating_sub(1);
        if link.resumes > 0 {
            // Another request was made meanwhile, and the store will answer again.
            return;
        }
        let (subscription, space) = (link.subscription, space.clone());
        let ResumePoint { cursor, acknowledged, holds, filter, partial } = point;
        link.filter = filter.clone();
        let knows = features::SNAPSHOTS | features::COMPARE;
        if self.features & knows == knows {
            link.receiver.begin(cursor, partial);
            let subscribe =
                SubscribeFrom { subscription, space, filter, cursor, acknowledged, holds, partial };
            return self.send(Frame::SubscribeFrom(subscribe));
        }
        if filter != Filter::Everything {
            let code = Code::UNSUPPORTED_VERSION;
            let what = "this relay does not support filters; upgrade it".to_owned();
            return self.refuse_space(&space, SpacePhase::Refused { code, what });
        }
        link.receiver.begin(cursor, None);
        self.send(Frame::Subscribe(Subscribe {
            subscription,
            space,
            filter,
            cursor,
            acknowledged,
        }));
    }

    /// The application changed a space's filter. The store has recorded it.
    pub fn handle_filter(&mut self, space: &SpaceName, filter: Filter) {
        let can = features::FILTERS | features::COMPARE;
        let can = self.is_ready() && self.features & can == can;
        let Some(link) = self.spaces.get_mut(space).filter(|_| can) else {
            return self.subscribe_again(space);
        };
        if link.receiver.is_open() && link.compare.is_none() && !link.refiltering {
            let subscription = link.subscription;
            let before = std::mem::replace(&mut link.filter, filter.clone());
            link.compare = Some(Compare::of_scope(&before, &filter));
            link.refiltering = true;
            self.send(Frame::Refilter(Refilter { subscription, filter }));
            return self.announce_ephemeral(space, true);
        }
        // A subscription or comparison is in progress.
        self.subscribe_again(space);
    }

    /// Subscribes a space again, under a new subscription number.
    fn subscribe_again(&mut self, space: &SpaceName) {
        if !matches!(self.phase, Phase::Ready { .. }) {
            return;
        }
        self.announce_ephemeral(space, false);
        self.stop_pushing(space);
        let Some(link) = self.spaces.get_mut(space) else { return };
        let (old, new) = (link.subscription, self.next_subscription);
        let (resumes, check) = (link.resumes, link.take_check());
        let reported = std::mem::replace(&mut link.reported, SpacePhase::Waiting);
        *link = SpaceLink { resumes, check, ..SpaceLink::new(new) };
        self.next_subscription += 1;
        self.subscriptions.remove(&old);
        self.subscriptions.insert(new, space.clone());
        if reported != SpacePhase::Waiting {
            let (space, phase) = (space.clone(), SpacePhase::Waiting);
            self.effects.push_back(ReplicaEffect::Phase { space, phase });
        }
        self.send(Frame::Unsubscribe(old));
        self.load_resume(space.clone());
    }

    pub(super) fn refuse_space(&mut self, space: &SpaceName, phase: SpacePhase) {
        self.announce_ephemeral(space, false);
        self.stop_pushing(space);
        self.refuse_resends(space);
        let Some(link) = self.spaces.get_mut(space) else { return };
        link.receiver.stop();
        link.check = link.take_check();
        link.reported = phase.clone();
        self.effects.push_back(ReplicaEffect::Phase { space: space.clone(), phase });
        self.give_up_check(space);
    }
}
