//! Waiting until everything so far is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::core::Core;
use crate::error::FlushError;
use crate::status::Status;
use crate::store::{Pending, SpaceRow};

/// A flush that the link's thread looks after.
pub(super) struct Waiter {
    /// Every change up to this local sequence number, per space.
    targets: Vec<(SpaceRow, u64)>,
    deadline: Instant,
    reply: oneshot::Sender<Result<(), FlushError>>,
}

/// A flush, begun: what it waits for is fixed.
pub(crate) enum Flush {
    Decided(Result<(), FlushError>),
    Waiting(oneshot::Receiver<Result<(), FlushError>>),
}

impl Flush {
    pub(crate) fn begin(core: &Arc<Core>, timeout: Duration) -> Self {
        let targets: Vec<(SpaceRow, u64)> = core
            .spaces()
            .into_iter()
            .filter_map(|(_, row)| Some((row, core.status.count(row)?.totals.last)))
            .collect();
        let link = core.link.lock();
        let Some(link) = &*link else {
            return Self::Decided(decide(core, &targets).unwrap_or_else(|| Err(offline(core))));
        };
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + timeout.min(Duration::from_secs(365 * 86_400));
        link.flush(Waiter { targets, deadline, reply });
        Self::Waiting(answer)
    }

    pub(crate) async fn done(self) -> Result<(), FlushError> {
        match self {
            Self::Decided(result) => result,
            Self::Waiting(answer) => answer.await.unwrap_or(Err(FlushError::Closed)),
        }
    }
}

/// The flushes that wait.
#[derive(Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiter>,
}

impl Waiters {
    pub(super) fn add(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// When the next one's time runs out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiter| waiter.deadline).min()
    }

    /// Answers those that are done, refused or out of time; with `offline`, all.
    pub(super) fn settle(&mut self, core: &Core, is_offline: bool) {
        let now = Instant::now();
        for waiter in std::mem::take(&mut self.waiting) {
            let decided = decide(core, &waiter.targets).or_else(|| match () {
                () if is_offline => Some(Err(offline(core))),
                () if waiter.deadline <= now => Some(Err(timed_out(core))),
                () => None,
            });
            match decided {
                // Whoever asked may have given up.
                Some(result) => drop(waiter.reply.send(result)),
                None => self.waiting.push(waiter),
            }
        }
    }
}

/// Whether the targets are reached, or can not be.
fn decide(core: &Core, targets: &[(SpaceRow, u64)]) -> Option<Result<(), FlushError>> {
    let mut refused = false;
    for (row, target) in targets {
        let count = core.status.count(*row)?;
        if count.first_unheld.is_some_and(|first| first <= *target) {
            return None;
        }
        refused |= count.first_gap.is_some_and(|first| first <= *target);
    }
    if !refused {
        return Some(Ok(()));
    }
    let status = core.status.watch().now();
    let parked = status.spaces.values().flat_map(|space| space.parked.clone()).collect();
    Some(Err(FlushError::Refused { pending: status.pending(), parked }))
}

fn pending(core: &Core) -> (Pending, Option<String>) {
    let status: Status = core.status.watch().now();
    (status.pending(), status.last_error)
}

fn offline(core: &Core) -> FlushError {
    let (pending, last_error) = pending(core);
    FlushError::Offline { pending, last_error }
}

fn timed_out(core: &Core) -> FlushError {
    let (pending, last_error) = pending(core);
    FlushError::TimedOut { pending, last_error }
}
