//! The repair of one document: its damaged parts, the sessions that were asked, and the time of the next
//! step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_protocol::SessionId;

use super::DamagedParts;
use crate::limits;
use crate::memory::ShareKey;
use crate::store::Known;
use crate::turns::round;

/// A document under repair.
pub(super) struct Case {
    /// The time of the next step.
    pub(super) due: Instant,
    /// The time of the last step.
    looked: Option<Instant>,
    /// The damaged parts, once examined.
    damaged: Option<Arc<DamagedParts>>,
    /// How often reads had met damage outside changes at the time of the examination.
    seen: u64,
    /// Its list of changes was too long to keep.
    is_cut: bool,
    /// Data arrived since the examination: it must be repeated.
    is_stale: bool,
    /// Sessions that were asked and have not answered, each with its deadline.
    asked: BTreeMap<SessionId, Instant>,
    /// The address of the session that was asked last.
    last: Option<ShareKey>,
    /// Sessions that did not answer in time: asked again after the others of their address.
    late: BTreeSet<SessionId>,
    /// Sessions that have none of the damaged parts, or whose answer did not repair them.
    exhausted: BTreeSet<SessionId>,
    /// The pause before the next step when there is no session to ask.
    pause: Duration,
    /// Whether no client can repair it, as far as is known.
    is_beyond: bool,
}

impl Case {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now,
            looked: None,
            damaged: None,
            seen: 0,
            is_cut: false,
            is_stale: false,
            asked: BTreeMap::new(),
            last: None,
            late: BTreeSet::new(),
            exhausted: BTreeSet::new(),
            pause: limits::REPAIR_PAUSE,
            is_beyond: false,
        }
    }

    /// The damaged parts, as far as they are known.
    pub(super) fn damaged(&self) -> Option<Arc<DamagedParts>> {
        self.damaged.clone()
    }

    /// Whether reads since the examination met only damaged changes.
    pub(super) fn has_seen(&self, known: Known) -> bool {
        self.seen == known.beyond_changes
    }

    /// Begins a step; returns whether the damaged parts are known.
    pub(super) fn begin(&mut self, known: Known) -> bool {
        self.is_stale |= !self.has_seen(known);
        let now = Instant::now();
        self.looked = Some(now);
        self.due = now + self.pause;
        self.is_beyond = false;
        !std::mem::take(&mut self.is_stale) && self.damaged.is_some() && !self.is_cut
    }

    /// Stores the result of an examination.
    pub(super) fn examined(&mut self, damaged: DamagedParts, known: Known, now: Instant) {
        self.seen = known.beyond_changes;
        let before = self.damaged.replace(Arc::new(damaged));
        let is_known = before.is_some() && !std::mem::take(&mut self.is_cut);
        if is_known && before != self.damaged {
            // Other changes than before: sessions that had none of those may have these.
            self.exhausted.clear();
        }
        self.due = now + self.pause;
    }

    /// Data arrived: the next step examines what is left.
    pub(super) fn data_arrived(&mut self, now: Instant) {
        self.is_stale = true;
        self.hurry(now);
    }

    /// A session finished its answer; false if it was not asked.
    pub(super) fn answered(&mut self, session: SessionId, count: u32, now: Instant) -> bool {
        if self.asked.remove(&session).is_none() && !self.late.remove(&session) {
            return false;
        }
        // Its data is examined; if that is not enough, the session has no more.
        self.exhausted.insert(session);
        self.is_stale |= count > 0;
        self.hurry(now);
        true
    }

    /// A session that has the data may be there now.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.is_beyond {
            return;
        }
        // Sessions that come and go must not cause endless examinations.
        let soonest = self.looked.map_or(now, |looked| now.max(looked + limits::REPAIR_LEAST));
        self.due = self.due.min(soonest);
        self.pause = limits::REPAIR_PAUSE;
    }

    pub(super) fn session_ended(&mut self, session: SessionId, now: Instant) {
        self.exhausted.remove(&session);
        self.late.remove(&session);
        if self.asked.remove(&session).is_some() {
            self.hurry(now);
        }
    }

    /// No client can repair it, as far as is known.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.is_beyond = true;
        (self.damaged, self.due) = (None, now + limits::REPAIR_LONGEST);
    }

    /// Sessions that were asked and may still answer.
    pub(super) fn asked(&self) -> impl Iterator<Item = SessionId> + use<'_> {
        self.asked.keys().copied()
    }

    /// Chooses the followers to ask, and what for. Addresses take turns, so that many sessions of one do not
    /// keep the request from others. Sessions that are `busy` with another request are asked later: a client
    /// answers one at a time.
    pub(super) fn choose(
        &mut self,
        sessions: impl Iterator<Item = (ShareKey, SessionId)>,
        busy: &BTreeSet<SessionId>,
        now: Instant,
    ) -> Option<(BTreeSet<SessionId>, Arc<DamagedParts>)> {
        let damaged = self.damaged.clone()?;
        let late = self.asked.extract_if(.., |_, until| *until <= now);
        self.late.extend(late.map(|(session, _)| session));
        let mut shares: BTreeMap<ShareKey, Vec<SessionId>> = BTreeMap::new();
        for (share, session) in sessions {
            if !self.exhausted.contains(&session) && !self.asked.contains_key(&session) {
                shares.entry(share).or_default().push(session);
            }
        }
        let may: usize = shares.values().map(Vec::len).sum();
        let chosen = self.next_of(shares, busy);
        if chosen.is_empty() && may == 0 && self.asked.is_empty() {
            // A long list with no session to ask is not kept in memory; a later examination rebuilds it.
            if damaged.changes.len() > limits::REPAIR_KEPT {
                self.damaged = Some(Arc::new(DamagedParts {
                    changes: Vec::new(),
                    snapshot: damaged.snapshot,
                }));
                self.is_cut = true;
            }
            self.due = now + self.pause;
            self.pause = (2 * self.pause).min(limits::REPAIR_LONGEST);
            return None;
        }
        let until = now + limits::REPAIR_ANSWER;
        self.asked.extend(chosen.iter().map(|session| (*session, until)));
        self.due = match may > chosen.len() && self.asked.len() < limits::REPAIR_SESSIONS {
            true => now + limits::REPAIR_LEAST,
            false => self.asked.values().min().copied().unwrap_or(until),
        };
        (!chosen.is_empty()).then_some((chosen, damaged))
    }

    /// As many as may be asked now: one of each address in turn, before a second one of any.
    fn next_of(
        &mut self,
        mut shares: BTreeMap<ShareKey, Vec<SessionId>>,
        busy: &BTreeSet<SessionId>,
    ) -> BTreeSet<SessionId> {
        for sessions in shares.values_mut() {
            if sessions.iter().all(|session| self.late.contains(session)) {
                // Each was asked once: they get another turn.
                self.late.retain(|session| !sessions.contains(session));
            }
            sessions.sort_by_key(|session| self.late.contains(session));
        }
        let turns = round(&shares, self.last).flat_map(|(share, sessions)| {
            let free = sessions.iter().filter(|session| !busy.contains(session));
            free.enumerate().map(|(turn, session)| (turn, *share, *session))
        });
        let mut turns: Vec<_> = turns.collect();
        turns.sort_by_key(|(turn, ..)| *turn);
        turns.truncate(limits::REPAIR_SESSIONS.saturating_sub(self.asked.len()));
        self.last = turns.last().map(|(_, share, _)| *share).or(self.last);
        turns.into_iter().map(|(.., session)| session).collect()
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::ChangeHash;

    use super::*;

    const KNOWN: Known = Known { takes_no_writes: false, times: 1, beyond_changes: 1 };
    const NOBODY: BTreeSet<SessionId> = BTreeSet::new();
    const NONE: [u64; 0] = [];

    fn damaged(changes: usize) -> DamagedParts {
        let changes = (0..changes).map(|number| ChangeHash([number as u8; 32])).collect();
        DamagedParts { changes, snapshot: None }
    }

    /// Each with an address of its own.
    fn sessions(numbers: &[u64]) -> impl Iterator<Item = (ShareKey, SessionId)> + use<'_> {
        numbers.iter().map(|number| (ShareKey::Session(*number), SessionId(*number)))
    }

    fn chosen(
        case: &mut Case,
        numbers: &[u64],
        busy: &BTreeSet<SessionId>,
        now: Instant,
    ) -> Vec<u64> {
        let chosen = case.choose(sessions(numbers), busy, now);
        chosen.map_or(Vec::new(), |(chosen, _)| chosen.into_iter().map(|id| id.0).collect())
    }

    #[test]
    fn a_few_sessions_are_asked_at_a_time_and_none_twice() {
        let now = Instant::now();
        let mut case = Case::new(now);
        assert_eq!(
            chosen(&mut case, &[1, 2], &NOBODY, now),
            NONE,
            "the document is not examined yet"
        );
        case.examined(damaged(3), KNOWN, now);
        assert_eq!(chosen(&mut case, &[1, 2, 3, 4], &NOBODY, now), [1, 2]);
        assert_eq!(chosen(&mut case, &[1, 2, 3, 4], &NOBODY, now), NONE);
        case.answered(SessionId(1), 0, now);
        // The answer of session 1 frees its slot for session 3.
        assert_eq!(chosen(&mut case, &[1, 2, 3, 4], &NOBODY, now), [3]);
        case.session_ended(SessionId(3), now);
        assert_eq!(chosen(&mut case, &[1, 2, 4], &NOBODY, now), [4]);
        // A session that does not answer in time is asked again, after a pause.
        let later = now + limits::REPAIR_ANSWER;
        case.answered(SessionId(4), 0, later);
        assert_eq!(chosen(&mut case, &[1, 2, 4], &NOBODY, later), [2]);
        // A session whose data was not enough has no more of it.
        case.answered(SessionId(2), 5, later);
        assert!(!case.begin(KNOWN), "the document is examined again");
        assert_eq!(chosen(&mut case, &[1, 2, 4], &NOBODY, later), NONE);
        // But it may have other damaged parts.
        case.examined(damaged(2), KNOWN, later);
        assert_eq!(chosen(&mut case, &[1, 2], &NOBODY, later), [1, 2]);
    }

    #[test]
    fn a_session_busy_with_another_request_is_asked_soon() {
        let now = Instant::now();
        let mut case = Case::new(now);
        case.examined(damaged(1), KNOWN, now);
        let busy = BTreeSet::from([SessionId(1)]);
        assert_eq!(chosen(&mut case, &[1], &busy, now), NONE);
        assert_eq!(case.due, now + limits::REPAIR_LEAST);
        assert_eq!(chosen(&mut case, &[1], &NOBODY, now), [1]);
    }

    #[test]
    fn pauses_grow_without_subscribers_and_end_when_one_connects() {
        let now = Instant::now();
        let mut case = Case::new(now);
        case.examined(damaged(limits::REPAIR_KEPT + 1), KNOWN, now);
        assert!(case.begin(KNOWN), "the document is examined");
        let mut pauses = Vec::new();
        for _ in 0..12 {
            case.examined(damaged(limits::REPAIR_KEPT + 1), KNOWN, now);
            assert_eq!(chosen(&mut case, &[], &NOBODY, now), NONE);
            pauses.push(case.due - now);
            let kept = case.damaged().unwrap();
            assert_eq!(kept.changes.len(), 0, "a long list is not kept");
            assert!(!case.begin(KNOWN), "the document is examined again");
        }
        assert!(pauses.is_sorted() && pauses[0] == limits::REPAIR_PAUSE, "{pauses:?}");
        assert_eq!(pauses.last(), Some(&limits::REPAIR_LONGEST));
        case.hurry(now);
        assert!(case.due <= now + 2 * limits::REPAIR_LEAST);
        // A document that no client can repair is not read again for every new session.
        case.postpone(now);
        case.hurry(now);
        assert_eq!(case.due, now + limits::REPAIR_LONGEST);
    }

    /// Two sessions follow the document and never answer. The third one has it.
    #[test]
    fn silent_sessions_do_not_keep_requests_from_others() {
        let mut now = Instant::now();
        let mut case = Case::new(now);
        case.examined(damaged(3), KNOWN, now);
        let mut requested = BTreeSet::new();
        for _ in 0..100 {
            requested.extend(chosen(&mut case, &[1, 2, 3], &NOBODY, now));
            now += limits::REPAIR_ANSWER;
        }
        assert!(
            requested.contains(&3),
            "in {:?} only {requested:?} were asked",
            100 * limits::REPAIR_ANSWER
        );
    }

    /// A client sends a window of the requested changes, as an engine does, and states how many.
    #[test]
    fn a_session_that_sent_a_part_is_asked_for_the_rest() {
        let now = Instant::now();
        let mut case = Case::new(now);
        case.examined(damaged(3), KNOWN, now);
        assert_eq!(chosen(&mut case, &[1], &NOBODY, now), [1]);
        // The hub's call after a repair, then the `Resent`.
        case.data_arrived(now);
        case.answered(SessionId(1), 1, now);
        assert!(!case.begin(KNOWN), "the document is examined again");
        let rest = DamagedParts { changes: damaged(3).changes[1..].to_vec(), snapshot: None };
        case.examined(rest, KNOWN, now);
        assert_eq!(
            chosen(&mut case, &[1], &NOBODY, now),
            [1],
            "the session is not asked for the rest"
        );
    }

    /// One address has a thousand connections that follow the document and never answer. The author, who
    /// connected last, has it, and so has the author's other device, which is slow.
    #[test]
    fn silent_sessions_of_an_address_do_not_block_other_addresses() {
        let mut now = Instant::now();
        let mut case = Case::new(now);
        case.examined(damaged(3), KNOWN, now);
        let (silent, author) = (ShareKey::Session(1), ShareKey::Session(2));
        let share = |number| if number <= 1_000 { silent } else { author };
        let mut order = Vec::new();
        for _ in 0..3 {
            let all = (1..=1_002).map(|number| (share(number), SessionId(number)));
            let (chosen, _) = case.choose(all, &NOBODY, now).unwrap();
            order.extend(chosen.into_iter().map(|session| session.0));
            now += limits::REPAIR_ANSWER;
        }
        assert_eq!(order, [1, 1_001, 2, 1_002, 3, 1_001]);
    }

    /// All of one address: each gets a turn.
    #[test]
    fn sessions_of_an_address_take_turns() {
        let mut now = Instant::now();
        let mut case = Case::new(now);
        case.examined(damaged(3), KNOWN, now);
        let mut order = Vec::new();
        for _ in 0..4 {
            let all = (1..=5).map(|number| (ShareKey::Session(0), SessionId(number)));
            let (chosen, _) = case.choose(all, &NOBODY, now).unwrap();
            order.extend(chosen.into_iter().map(|session| session.0));
            now += limits::REPAIR_ANSWER;
        }
        assert_eq!(order, [1, 2, 3, 4, 1, 5, 1, 2]);
    }
}
