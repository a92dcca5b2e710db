//! Checks: comparisons on request, each under a ticket that is answered exactly once,
//! by [`ReplicaEffect::Checked`] or [`ReplicaEffect::NotChecked`], however many connections it takes.
//!
//! A check begins when the space has nothing under way. If something comes in between it is begun
//! again, after ever longer pauses and a limited number of times: a space that never rests is
//! reported as busy.

use std::time::Duration;

use super::compare::Compare;
use super::{Replica, ReplicaEffect, SpaceLink, SpacePhase, Unchecked};
use crate::frame::features;
use crate::ids::SpaceName;
use crate::limits;
use crate::moment::Moment;

/// A check of one space that waits for its beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CheckState {
    /// The latest ticket that asks for one.
    wanted: Option<u64>,
    /// How often it was begun and had to be given up.
    tries: u32,
    /// It is not begun again before this moment.
    not_before: Option<Moment>,
}

impl CheckState {
    pub(super) fn ticket(&self) -> Option<u64> {
        self.wanted
    }

    pub(super) fn not_before(&self) -> Option<Moment> {
        self.wanted.and(self.not_before)
    }
}

impl SpaceLink {
    /// What is asked for, with what is under way: the comparison ends with it.
    pub(super) fn take_check(&mut self) -> CheckState {
        let running = self.compare.as_ref().and_then(Compare::ticket);
        if running.is_some() {
            self.compare = None;
        }
        let mut check = std::mem::take(&mut self.check);
        check.wanted = check.wanted.max(running);
        check.not_before = None;
        check
    }
}

impl Replica {
    /// Compare what the two ends hold of a space as soon as nothing is under way there, and answer
    /// with this ticket. Tickets grow; the answer to one answers every smaller one.
    pub fn handle_check(&mut self, now: Moment, space: &SpaceName, ticket: u64) {
        let Some(link) = self.spaces.get_mut(space) else {
            return self.unchecked(space.clone(), ticket, Unchecked::Removed);
        };
        let wanted = link.check.wanted.max(Some(ticket));
        link.check = CheckState { wanted, ..CheckState::default() };
        self.try_check(now, space);
    }

    /// Whether a check of the space is under way.
    pub fn is_checking(&self, space: &SpaceName) -> bool {
        let compare = self.spaces.get(space).and_then(|link| link.compare.as_ref());
        compare.is_some_and(|compare| compare.ticket().is_some())
    }

    /// A number that grows with each step of a check: while it stands still, no check comes on.
    pub fn check_steps(&self) -> u64 {
        self.check_steps
    }

    /// Begins a check that waits, if nothing is under way. To be called whenever something ended.
    pub(super) fn try_check(&mut self, now: Moment, space: &SpaceName) {
        if !self.is_ready() {
            return;
        }
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(ticket) = link.check.wanted else { return };
        if link.check.not_before.is_some_and(|at| now < at) {
            return;
        }
        if matches!(link.told, SpacePhase::Refused { .. }) {
            return self.give_up_check(space);
        }
        if self.features & features::RECONCILE == 0 {
            link.check = CheckState::default();
            return self.unchecked(space.clone(), ticket, Unchecked::Unsupported);
        }
        let settled = link.receiver.settled_at().is_some() && link.outbox.is_settled();
        if !settled || link.compare.is_some() || link.refiltering {
            return;
        }
        link.check = CheckState { wanted: None, ..link.check };
        link.compare = Some(Compare::of_drift(&link.filter, ticket));
        self.compare_on(now, space);
    }

    /// What is under way came in between: the check begins again later, or is given up.
    pub(super) fn interrupt_check(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let (tries, mut check) = (link.check.tries + 1, link.take_check());
        let Some(ticket) = check.wanted else { return };
        if tries >= limits::CHECK_TRIES {
            return self.unchecked(space.clone(), ticket, Unchecked::Busy);
        }
        let pause = limits::CHECK_PAUSE.saturating_mul(1 << tries.min(16));
        check.tries = tries;
        check.not_before = Some(now.after(pause.min(Duration::from_secs(60))));
        link.check = check;
        self.timers.insert(space.clone());
    }

    /// The space is refused: no check of it will ever begin on this connection.
    pub(super) fn give_up_check(&mut self, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(ticket) = std::mem::take(&mut link.check).wanted else { return };
        if let SpacePhase::Refused { code, what } = link.told.clone() {
            self.unchecked(space.clone(), ticket, Unchecked::Refused { code, what });
        }
    }

    pub(super) fn unchecked(&mut self, space: SpaceName, ticket: u64, why: Unchecked) {
        self.effects.push_back(ReplicaEffect::NotChecked { space, ticket, why });
    }
}
