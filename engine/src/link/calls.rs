//! An application's calls that wait for an answer: a flush and a check. Each begins a request, and cancels
//! it when it is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_protocol::SpaceName;

use super::commands::LinkCommands;
use super::requests::{CHECK_PATIENCE, CheckRequest, FlushRequest, Request, decide, offline};
use super::timings::FAR;
use crate::error::{CheckError, FlushError};
use crate::notify;
use crate::open_store::OpenStore;
use crate::store::SpaceRow;

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
