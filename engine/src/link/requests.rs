//! Requests: calls of an application that wait for an answer. Each has an id and is answered exactly
//! once: done, refused, timed out, offline or closed. Dropping its future cancels a request.
//!
//! They are stored here and not in the link's thread, so that cancelling costs only the removal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use landfall_protocol::SpaceName;
use landfall_protocol::client::Unchecked;
use parking_lot::Mutex;

use crate::error::{CheckError, FlushError, NotCompared, RefusedSpace};
use crate::notify::ReplySender;
use crate::open_store::OpenStore;
use crate::status::Status;
use crate::store::{SpaceRow, UpstreamRow};

/// How long a check may make no progress before it is given up: as long as a relay may be silent before
/// the connection is dropped.
pub(super) const CHECK_PATIENCE: Duration = landfall_protocol::limits::DROP_AFTER;

/// All requests that are not answered yet.
#[derive(Default)]
pub(super) struct Requests(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    last: u64,
    open: BTreeMap<u64, Request>,
    /// Checks that the link's thread has not seen yet.
    fresh: Vec<(u64, Vec<SpaceName>)>,
    /// Whether a request was added or cancelled.
    changed: bool,
    closed: bool,
}

pub(super) enum Request {
    Flush(FlushRequest),
    Check(CheckRequest),
}

/// Waits until certain changes are on the relay's disk.
pub(super) struct FlushRequest {
    /// Every change up to this local sequence number, for each space.
    pub(super) targets: Vec<(SpaceRow, u64)>,
    pub(super) deadline: Instant,
    pub(super) reply: ReplySender<Result<(), FlushError>>,
}

/// Waits until some spaces are compared with the relay.
pub(super) struct CheckRequest {
    pub(super) remaining: BTreeSet<SpaceName>,
    pub(super) drifted: u64,
    pub(super) not_compared: Vec<(SpaceName, NotCompared)>,
    pub(super) deadline: Instant,
    /// The steps that checks had made when this one was looked at last.
    pub(super) steps: u64,
    pub(super) reply: ReplySender<Result<u64, CheckError>>,
}

/// An answer that is being sent.
enum OutgoingAnswer {
    Flush(ReplySender<Result<(), FlushError>>, Result<(), FlushError>),
    Check(ReplySender<Result<u64, CheckError>>, Result<u64, CheckError>),
}

impl OutgoingAnswer {
    fn give(self) {
        // The application may have cancelled at this moment.
        match self {
            Self::Flush(reply, result) => reply.send(result),
            Self::Check(reply, result) => reply.send(result),
        }
    }
}

/// The link's state with the wanted relay.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// The relay that answered last since the `connect`.
    pub(super) upstream: Option<UpstreamRow>,
    /// Whether any relay has answered.
    pub(super) answered: bool,
    /// Spaces for which that relay has confirmed that its log is the known one.
    pub(super) confirmed: BTreeSet<SpaceRow>,
    /// Spaces that it rejects.
    pub(super) refused: BTreeMap<SpaceRow, RefusedSpace>,
}

impl Requests {
    /// How many are not answered yet.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.0.lock().open.len()
    }

    /// A number that no request and no other caller has.
    pub(super) fn number(&self) -> u64 {
        let mut registry = self.0.lock();
        registry.last += 1;
        registry.last
    }

    pub(super) fn add(&self, request: Request) -> Option<u64> {
        let mut registry = self.0.lock();
        if registry.closed {
            return None;
        }
        registry.last += 1;
        let id = registry.last;
        if let Request::Check(check) = &request {
            registry.fresh.push((id, check.remaining.iter().cloned().collect()));
        }
        registry.open.insert(id, request);
        registry.changed = true;
        Some(id)
    }

    pub(super) fn cancel(&self, id: u64) {
        let mut registry = self.0.lock();
        let request = registry.open.remove(&id);
        registry.fresh.retain(|(fresh, _)| *fresh != id);
        drop(registry);
        drop(request);
    }

    /// The checks since the last call.
    pub(super) fn take_fresh(&self) -> Vec<(u64, Vec<SpaceName>)> {
        std::mem::take(&mut self.0.lock().fresh)
    }

    /// Whether a request was added since the last call.
    pub(super) fn take_changed(&self) -> bool {
        std::mem::take(&mut self.0.lock().changed)
    }

    /// The earliest deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let registry = self.0.lock();
        let deadline = |request: &Request| match request {
            Request::Flush(flush) => flush.deadline,
            Request::Check(check) => check.deadline,
        };
        registry.open.values().map(deadline).min()
    }

    /// Answers the flushes that are done, refused or timed out; with `is_offline`, all flushes and
    /// checks.
    pub(super) fn settle(&self, store: &OpenStore, reached: &Reached, is_offline: bool) {
        let now = Instant::now();
        self.answer(|request| match request {
            Request::Flush(flush) => {
                let decided = decide(store, Some(reached), &flush.targets);
                decided.or_else(|| match () {
                    () if is_offline => Some(Err(offline(store, reached.answered))),
                    () if flush.deadline <= now => Some(Err(timed_out(store, reached.answered))),
                    () => None,
                })
            }
            Request::Check(_) => None,
        });
        if is_offline {
            let last_error = store.context.status.watch().now().last_error;
            self.answer_checks(|_| {
                Some(Err(CheckError::Offline { last_error: last_error.clone() }))
            });
        }
    }

    /// The link's thread has ended, and another one may be started: answers all requests accordingly.
    pub(super) fn end(&self, store: &OpenStore) {
        self.0.lock().fresh.clear();
        self.settle(store, &Reached::default(), true);
    }

    /// Gives up checks without progress for too long; `steps` is how many steps all checks have made.
    pub(super) fn expire_checks(&self, store: &OpenStore, steps: u64) {
        let now = Instant::now();
        self.answer_checks(|check| {
            if check.deadline > now {
                return None;
            }
            if check.steps != steps {
                (check.steps, check.deadline) = (steps, now + CHECK_PATIENCE);
                return None;
            }
            let last_error = store.context.status.watch().now().last_error;
            for space in std::mem::take(&mut check.remaining) {
                let why = NotCompared::NoAnswer { last_error: last_error.clone() };
                check.not_compared.push((space, why));
            }
            Some(check.result())
        });
    }

    /// A space was compared, or could not be, under this ticket: answers every check that was requested
    /// before the comparison began.
    pub(super) fn checked(&self, space: &SpaceName, ticket: u64, outcome: &Result<u64, Unchecked>) {
        let mut registry = self.0.lock();
        for (_, request) in registry.open.range_mut(..=ticket) {
            let Request::Check(check) = request else { continue };
            if check.remaining.remove(space) {
                check.deadline = Instant::now() + CHECK_PATIENCE;
                match outcome {
                    Ok(drifted) => check.drifted += drifted,
                    Err(why) => check.not_compared.push((space.clone(), why.clone().into())),
                }
            }
        }
        drop(registry);
        self.answer_checks(|check| check.remaining.is_empty().then(|| check.result()));
    }

    /// A space was removed: no check waits for it any more.
    pub(super) fn space_removed(&self, space: &SpaceName) {
        self.checked(space, u64::MAX, &Err(Unchecked::Removed));
    }

    /// The link has ended: answers all present and later requests accordingly.
    pub(super) fn close(&self) {
        let mut registry = self.0.lock();
        registry.closed = true;
        registry.fresh.clear();
        let open = std::mem::take(&mut registry.open);
        drop(registry);
        // Dropping the senders ends the waits with `Closed`.
        drop(open);
    }

    fn answer_checks(
        &self,
        mut decide: impl FnMut(&mut CheckRequest) -> Option<Result<u64, CheckError>>,
    ) {
        let mut registry = self.0.lock();
        let done: Vec<(u64, Result<u64, CheckError>)> = registry
            .open
            .iter_mut()
            .filter_map(|(id, request)| match request {
                Request::Check(check) => Some((*id, decide(check)?)),
                Request::Flush(_) => None,
            })
            .collect();
        let mut answers = Vec::with_capacity(done.len());
        for (id, result) in done {
            if let Some(Request::Check(check)) = registry.open.remove(&id) {
                answers.push(OutgoingAnswer::Check(check.reply, result));
            }
        }
        drop(registry);
        answers.into_iter().for_each(OutgoingAnswer::give);
    }

    fn answer(&self, mut decide: impl FnMut(&Request) -> Option<Result<(), FlushError>>) {
        let mut registry = self.0.lock();
        let done: Vec<(u64, Result<(), FlushError>)> = registry
            .open
            .iter()
            .filter_map(|(id, request)| Some((*id, decide(request)?)))
            .collect();
        let mut answers = Vec::with_capacity(done.len());
        for (id, result) in done {
            if let Some(Request::Flush(flush)) = registry.open.remove(&id) {
                answers.push(OutgoingAnswer::Flush(flush.reply, result));
            }
        }
        drop(registry);
        answers.into_iter().for_each(OutgoingAnswer::give);
    }
}

impl CheckRequest {
    fn result(&mut self) -> Result<u64, CheckError> {
        match self.not_compared.is_empty() {
            true => Ok(self.drifted),
            false => {
                let spaces = std::mem::take(&mut self.not_compared);
                Err(CheckError::NotCompared { drifted: self.drifted, spaces })
            }
        }
    }
}

/// Whether the targets are reached, or cannot be. With `reached`, at the wanted relay; without, at the
/// one that was connected last.
pub(super) fn decide(
    store: &OpenStore,
    reached: Option<&Reached>,
    targets: &[(SpaceRow, u64)],
) -> Option<Result<(), FlushError>> {
    if reached.is_some_and(|reached| !reached.answered) {
        return None;
    }
    let (mut waits, mut rejects, mut refused) = (false, false, Vec::new());
    for (row, target) in targets {
        // Nothing of a removed space is pending.
        let Some(count) = store.context.status.count(*row) else { continue };
        // A snapshot received since has given new numbers to unacked changes.
        let target = count.totals.moved.max(*target);
        if let Some(reached) = reached {
            // Counts of another relay do not apply.
            if count.upstream != reached.upstream {
                waits = true;
                continue;
            }
            if let Some(refusal) = reached.refused.get(row)
                && count.first_unacked.is_some_and(|first| first <= target)
            {
                refused.push(refusal.clone());
                continue;
            }
            if !reached.confirmed.contains(row) && !reached.refused.contains_key(row) {
                waits = true;
                continue;
            }
        }
        waits |= count.first_unacked.is_some_and(|first| first <= target);
        rejects |= count.first_gap.is_some_and(|first| first <= target);
    }
    if !refused.is_empty() {
        let pending = store.context.status.watch().now().pending();
        return Some(Err(FlushError::SpaceRefused { pending, spaces: refused }));
    }
    if waits {
        return None;
    }
    if !rejects {
        return Some(Ok(()));
    }
    let status = store.context.status.watch().now();
    let rejected = status.spaces.values().flat_map(|space| space.rejected.clone()).collect();
    Some(Err(FlushError::Refused { pending: status.pending(), rejected }))
}

pub(super) fn offline(store: &OpenStore, reached: bool) -> FlushError {
    let status: Status = store.context.status.watch().now();
    FlushError::Offline { pending: status.pending(), last_error: status.last_error, reached }
}

fn timed_out(store: &OpenStore, reached: bool) -> FlushError {
    let status: Status = store.context.status.watch().now();
    FlushError::TimedOut { pending: status.pending(), last_error: status.last_error, reached }
}
