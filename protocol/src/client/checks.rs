//! Checks: requested comparisons. Each has a ticket that is answered exactly once, by
//! [`ReplicaEffect::Checked`] or [`ReplicaEffect::NotChecked`], however many connections it takes.
//!
//! A check begins when the space has nothing in progress. If a change interrupts it, it begins
//! again, after growing pauses and a limited number of times; then it reports the space as busy.
//! The comparison itself is in `compare`.

use std::time::Duration;

use super::compare::Compare;
use super::{Replica, ReplicaEffect, SpaceLink, SpacePhase, Unchecked};
use crate::frame::features;
use crate::ids::SpaceName;
use crate::limits;
use crate::moment::Moment;

/// A check of one space that has not begun.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CheckState {
    /// The latest ticket.
    wanted: Option<u64>,
    /// The number of interrupted attempts.
    tries: u32,
    /// The earliest time of the next attempt.
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
    /// Takes the pending check, and merges the running one into it, whose comparison ends.
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
    /// Requests a comparison of the space with the relay as soon as nothing is in progress there.
    /// Its answer carries this ticket. Tickets grow; an answer also answers every smaller one.
    pub fn handle_check(&mut self, now: Moment, space: &SpaceName, ticket: u64) {
        let Some(link) = self.spaces.get_mut(space) else {
            return self.unchecked(space.clone(), ticket, Unchecked::Removed);
        };
        let wanted = link.check.wanted.max(Some(ticket));
        link.check = CheckState { wanted, ..CheckState::default() };
        self.try_check(now, space);
    }

    /// Whether a check of the space is running.
    pub fn is_checking(&self, space: &SpaceName) -> bool {
        let compare = self.spaces.get(space).and_then(|link| link.compare.as_ref());
        compare.is_some_and(|compare| compare.ticket().is_some())
    }

    /// A number that grows with each step of a check, so that a caller notices a stalled one.
    pub fn check_steps(&self) -> u64 {
        self.check_steps
    }

    /// Begins a pending check, if nothing is in progress. Called whenever something ended.
    pub(super) fn try_check(&mut self, now: Moment, space: &SpaceName) {
        if !self.is_ready() {
            return;
        }
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(ticket) = link.check.wanted else { return };
        if link.check.not_before.is_some_and(|at| now < at) {
            return;
        }
        if matches!(link.reported, SpacePhase::Refused { .. }) {
            return self.give_up_check(space);
        }
        if self.features & features::COMPARE == 0 {
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

    /// A change interrupted the check: begins it again later, or gives it up.
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

    /// The relay rejects the space, so no check of it can begin on this connection.
    pub(super) fn give_up_check(&mut self, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(ticket) = std::mem::take(&mut link.check).wanted else { return };
        if let SpacePhase::Refused { code, what } = link.reported.clone() {
            self.unchecked(space.clone(), ticket, Unchecked::Refused { code, what });
        }
    }

    pub(super) fn unchecked(&mut self, space: SpaceName, ticket: u64, why: Unchecked) {
        self.effects.push_back(ReplicaEffect::NotChecked { space, ticket, why });
    }
}
