//! Requests: calls of an application that wait for an answer. Each has an id and is answered exactly
//! once: done, refused, timed out, offline or closed. Dropping its future cancels a request.
//!
//! They are stored here and not in the link's thread, so that cancelling costs only the removal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_protocol::SpaceName;
use landfall_protocol::replica::Unchecked;
use parking_lot::Mutex;

use super::commands::LinkCommands;
use super::timings::FAR;
use crate::error::{CheckError, FlushError, NotCompared, RefusedSpace};
use crate::notify::{self, ReplySender};
use crate::open_store::OpenStore;
use crate::status::Status;
use crate::store::{SpaceRow, UpstreamRow};

/// How long a check may make no progress before it is given up: as long as a relay may be silent before
/// the connection is dropped.
const CHECK_PATIENCE: Duration = landfall_protocol::limits::DROP_AFTER;

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

enum Request {
    Flush(FlushRequest),
    Check(CheckRequest),
}

/// Waits until certain changes are on the relay's disk.
struct FlushRequest {
    /// Every change up to this local sequence number, for each space.
    targets: Vec<(SpaceRow, u64)>,
    deadline: Instant,
    reply: ReplySender<Result<(), FlushError>>,
}

/// Waits until some spaces are compared with the relay.
struct CheckRequest {
    remaining: BTreeSet<SpaceName>,
    drifted: u64,
    not_compared: Vec<(SpaceName, NotCompared)>,
    deadline: Instant,
    /// The steps that checks had made when this one was looked at last.
    steps: u64,
    reply: ReplySender<Result<u64, CheckError>>,
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

    fn add(&self, request: Request) -> Option<u64> {
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

    fn cancel(&self, id: u64) {
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

/// A request that an application waits for; dropping it cancels it.
pub(crate) struct Registered<T> {
    commands: Arc<LinkCommands>,
    id: u64,
    answer: notify::ReplyReceiver<T>,
}

/// Whether there is a thread to answer a request.
enum Begun<T> {
    Waiting(Registered<T>),
    /// The link's thread ended with a panic.
    Ended,
    Closed,
}

impl<T> Registered<T> {
    fn begin(
        commands: &Arc<LinkCommands>,
        request: Request,
        answer: notify::ReplyReceiver<T>,
    ) -> Begun<T> {
        let Some(id) = commands.requests.add(request) else { return Begun::Closed };
        let registered = Self { commands: Arc::clone(commands), id, answer };
        // Checked after the registration: a thread that ends later answers this request too.
        if commands.has_ended() {
            return Begun::Ended;
        }
        commands.wake.notify_one();
        Begun::Waiting(registered)
    }
}

impl<T> Drop for Registered<T> {
    fn drop(&mut self) {
        self.commands.requests.cancel(self.id);
    }
}

/// A flush in progress: its targets are fixed.
pub(crate) enum Flush {
    Decided(Result<(), FlushError>),
    Waiting(Registered<Result<(), FlushError>>),
}

impl Flush {
    pub(super) fn begin(
        store: &Arc<OpenStore>,
        commands: &Arc<LinkCommands>,
        timeout: Duration,
    ) -> Self {
        if store.context.access.is_closed() {
            return Self::Decided(Err(FlushError::Closed));
        }
        let targets: Vec<(SpaceRow, u64)> = store
            .spaces()
            .into_iter()
            .filter_map(|(_, row)| Some((row, store.context.status.count(row)?.totals.last)))
            .collect();
        if !commands.has_target() {
            let decided = decide(store, None, &targets);
            return Self::Decided(decided.unwrap_or_else(|| Err(offline(store, false))));
        }
        let (reply, answer) = notify::answer(&store.notifier);
        let deadline = Instant::now() + timeout.min(FAR);
        let request = Request::Flush(FlushRequest { targets, deadline, reply });
        match Registered::begin(commands, request, answer) {
            Begun::Waiting(registered) => Self::Waiting(registered),
            Begun::Ended => Self::Decided(Err(offline(store, false))),
            Begun::Closed => Self::Decided(Err(FlushError::Closed)),
        }
    }

    pub(crate) async fn done(self) -> Result<(), FlushError> {
        match self {
            Self::Decided(result) => result,
            Self::Waiting(waiting) => {
                waiting.answer.done().await.unwrap_or(Err(FlushError::Closed))
            }
        }
    }
}

/// A check in progress.
pub(crate) enum Check {
    Decided(Result<u64, CheckError>),
    Waiting(Registered<Result<u64, CheckError>>),
}

impl Check {
    pub(super) fn begin(store: &Arc<OpenStore>, commands: &Arc<LinkCommands>) -> Self {
        if store.context.access.is_closed() {
            return Self::Decided(Err(CheckError::Closed));
        }
        if !commands.is_online() {
            let last_error = store.context.status.watch().now().last_error;
            return Self::Decided(Err(CheckError::Offline { last_error }));
        }
        let remaining: BTreeSet<SpaceName> =
            store.spaces().into_iter().map(|(name, _)| name).collect();
        if remaining.is_empty() {
            return Self::Decided(Ok(0));
        }
        let (reply, answer) = notify::answer(&store.notifier);
        let deadline = Instant::now() + CHECK_PATIENCE;
        let (drifted, not_compared, steps) = (0, Vec::new(), 0);
        let check = CheckRequest { remaining, drifted, not_compared, deadline, steps, reply };
        match Registered::begin(commands, Request::Check(check), answer) {
            Begun::Waiting(registered) => Self::Waiting(registered),
            Begun::Ended => {
                let last_error = store.context.status.watch().now().last_error;
                Self::Decided(Err(CheckError::Offline { last_error }))
            }
            Begun::Closed => Self::Decided(Err(CheckError::Closed)),
        }
    }

    pub(crate) async fn done(self) -> Result<u64, CheckError> {
        match self {
            Self::Decided(result) => result,
            Self::Waiting(waiting) => {
                waiting.answer.done().await.unwrap_or(Err(CheckError::Closed))
            }
        }
    }
}

/// Whether the targets are reached, or cannot be. With `reached`, at the wanted relay; without, at the
/// one that was connected last.
fn decide(
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

fn offline(store: &OpenStore, reached: bool) -> FlushError {
    let status: Status = store.context.status.watch().now();
    FlushError::Offline { pending: status.pending(), last_error: status.last_error, reached }
}

fn timed_out(store: &OpenStore, reached: bool) -> FlushError {
    let status: Status = store.context.status.watch().now();
    FlushError::TimedOut { pending: status.pending(), last_error: status.last_error, reached }
}
