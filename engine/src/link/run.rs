//! The link's loop: connects to the wanted relay, runs a session with it, waits, and repeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_protocol::Patience;
use landfall_protocol::client::Replica;
use landfall_protocol::{Moment, SpaceName};
use tokio::sync::mpsc;

use super::arrivals::Arrivals;
use super::commands::{LinkCommands, PendingCommands, RelayTarget};
use super::identity::{self, Identity, NoConnection};
use super::perform::{Completion, Performer};
use super::socket::Socket;
use super::timings::FAR;
use crate::open_store::OpenStore;
use crate::random;
use crate::status::LinkStatus;
use crate::store::SpaceRow;
use crate::threads::StoreThread;
use crate::token::{NoToken, Token};

/// The state of the link's thread.
pub(super) struct Runner {
    pub(super) store: Arc<OpenStore>,
    pub(super) ephemeral_session: String,
    pub(super) commands: Arc<LinkCommands>,
    pub(super) replica: Replica,
    pub(super) performer: Performer,
    pub(super) completions: mpsc::UnboundedReceiver<Completion>,
    target: Option<Arc<RelayTarget>>,
    /// The number of the `connect` call for the target.
    connects: u64,
    online: bool,
    closing: bool,
    /// The application wants a connection attempt at once.
    pub(super) hurry: bool,
    pub(super) next_check: Instant,
    /// Whether an event may answer a flush.
    pub(super) unsettled: bool,
    /// Attempts since the link was last online.
    pub(super) attempt: u32,
    /// Sessions in a row that ended with a fault of one side. Each of them connects successfully, so
    /// only this count makes the waits between them grow.
    faults: u32,
    identity: Identity,
    pub(super) started: Instant,
}

/// How a session ended.
pub(super) enum Ended {
    /// The commands have changed: another relay, offline, or the end.
    OnPurpose,
    /// The application asked for another attempt, and this connection does not answer.
    Retry,
    /// The connection was lost.
    Lost(String),
    /// One side could not go on: a protocol violation, a refusal, a full disk.
    Fault(String),
    /// The relay ended an established session that the client may begin again at once: its token has
    /// expired, or its rights have changed.
    Again(String),
    /// The relay refused the token at the hello.
    Unauthorized(String),
    /// The provider reports that the person is signed out.
    SignedOut(String),
}

/// From this duration on a session counts as good, however it ends.
const GOOD_SESSION: Duration = Duration::from_secs(60);

impl Runner {
    pub(super) fn new(
        store: Arc<OpenStore>,
        commands: Arc<LinkCommands>,
        arrivals: Arrivals,
        session: String,
    ) -> Self {
        let agent = concat!("landfall/", env!("CARGO_PKG_VERSION")).to_owned();
        let replica = Replica::new(store.context.log.replica(), agent, Patience::default());
        let (tell, completions) = mpsc::unbounded_channel();
        let performer = Performer::new(Arc::clone(&store), Arc::clone(&commands), arrivals, tell);
        let started = Instant::now();
        let mut runner = Self {
            store,
            commands,
            ephemeral_session: session,
            replica,
            performer,
            completions,
            target: None,
            connects: 0,
            online: false,
            closing: false,
            hurry: false,
            next_check: started + FAR,
            unsettled: true,
            attempt: 0,
            faults: 0,
            identity: Identity::default(),
            started,
        };
        runner.sync_spaces();
        runner
    }

    pub(super) async fn run(mut self) {
        loop {
            self.take_commands();
            if self.closing {
                break;
            }
            let Some(target) = self.wanted() else {
                self.identity = Identity::default();
                self.store.context.status.set_link(LinkStatus::Offline, None);
                self.rest(None).await;
                continue;
            };
            let connects = self.connects;
            self.hurry = false;
            self.attempt = self.attempt.saturating_add(1);
            self.show_unconnected();
            let Some(connected) = self.connect(&target).await else { continue };
            let began = Instant::now();
            let mut wrong_url = false;
            let ended = match connected {
                Ok((socket, token)) => self.session(socket, token, &target, connects).await,
                Err(NoConnection::Token(NoToken::SignedOut(why))) => Ended::SignedOut(why),
                Err(NoConnection::Token(error)) => Ended::Lost(error.to_string()),
                Err(NoConnection::Socket(error)) => {
                    wrong_url = error.is_no_relay();
                    Ended::Lost(error.to_string())
                }
            };
            self.end_session(&ended, began.elapsed());
            if let Some((why, wait)) = self.next_attempt(ended, &target) {
                tracing::info!(relay = target.address.url, why, "not connected");
                self.store.context.status.set_error(why, wrong_url);
                self.show_unconnected();
                self.rest(Some(wait)).await;
            }
        }
        self.store.context.status.set_link(LinkStatus::Offline, None);
        self.performer.close();
    }

    /// Shows that there is no connection. A client that is signed out remains so until it has a session.
    fn show_unconnected(&self) {
        let link = match self.identity.is_signed_out() {
            true => LinkStatus::SignedOut,
            false => LinkStatus::Connecting { attempt: self.attempt },
        };
        // Otherwise this is not about the relay that is wanted now.
        if self.commands.connects() == self.connects {
            self.store.context.status.set_link(link, None);
        }
    }

    /// Decides about the next attempt: the reason for a wait, and the wait; `None` to try at once.
    fn next_attempt(&mut self, ended: Ended, target: &RelayTarget) -> Option<(String, Duration)> {
        let (why, is_refused) = match ended {
            Ended::OnPurpose | Ended::Retry => return None,
            // Only the first of several short sessions: a relay that always does this is not asked a
            // thousand times a second.
            Ended::Again(why) if self.faults <= 1 => {
                tracing::info!(relay = target.address.url, why, "connecting again");
                return None;
            }
            Ended::Unauthorized(why) if self.identity.handle_refusal(target.token.is_some()) => {
                tracing::info!(relay = target.address.url, why, "asking for another token");
                return None;
            }
            Ended::Unauthorized(why) => (why, true),
            Ended::SignedOut(why) => {
                self.identity.handle_signed_out();
                (why, true)
            }
            Ended::Lost(why) | Ended::Fault(why) | Ended::Again(why) => (why, false),
        };
        let jitter = random::fraction();
        let wait = match is_refused {
            true => target.timings.signed_out(jitter),
            false => target.timings.backoff(self.attempt.max(self.faults), jitter),
        };
        Some((why, wait))
    }

    /// The handshake is complete: the relay has accepted this client.
    pub(super) fn handle_welcomed(&mut self) {
        self.attempt = 0;
        self.identity = Identity::default();
    }

    /// The relay to connect to, if the link is to be online.
    fn wanted(&self) -> Option<Arc<RelayTarget>> {
        self.target.clone().filter(|_| self.online && !self.closing)
    }

    /// Whether a connection of this `connect` is not wanted any more.
    pub(super) fn is_over(&self, connects: u64) -> bool {
        self.closing || !self.online || self.connects != connects
    }

    fn end_session(&mut self, ended: &Ended, lasted: Duration) {
        self.faults = match ended {
            Ended::Fault(_) | Ended::Again(_) if lasted < GOOD_SESSION => {
                self.faults.saturating_add(1)
            }
            Ended::Lost(_) | Ended::Unauthorized(_) | Ended::SignedOut(_)
                if lasted < GOOD_SESSION =>
            {
                self.faults
            }
            _ => 0,
        };
        self.replica.handle_disconnected();
        self.perform_offline();
        self.performer.end();
        self.unsettled = true;
    }

    /// Connects, unless the commands change meanwhile.
    async fn connect(
        &mut self,
        target: &RelayTarget,
    ) -> Option<Result<(Socket, Option<Token>), NoConnection>> {
        let connects = self.connects;
        let connecting = identity::open(target);
        tokio::pin!(connecting);
        let commands = Arc::clone(&self.commands);
        loop {
            tokio::select! {
                connected = &mut connecting => return Some(connected),
                () = commands.wake.notified() => {
                    self.take_commands();
                    if self.is_over(connects) || self.hurry {
                        return None;
                    }
                }
                () = sleep_until(commands.requests.deadline()) => self.unsettled = true,
                Some(completion) = self.completions.recv() => self.complete(completion),
            }
            self.settle(false);
        }
    }

    /// Without a connection: waits until the time is over, or the commands change.
    async fn rest(&mut self, wait: Option<Duration>) {
        let (connects, was_online) = (self.connects, self.online);
        let until = wait.map(|wait| Instant::now() + wait);
        let commands = Arc::clone(&self.commands);
        loop {
            if self.closing || self.connects != connects || self.online != was_online {
                return;
            }
            if self.hurry && self.online {
                return;
            }
            self.settle(!self.online || self.identity.is_signed_out());
            tokio::select! {
                () = commands.wake.notified() => self.take_commands(),
                () = sleep_until(until) => return,
                () = sleep_until(commands.requests.deadline()) => self.unsettled = true,
                Some(completion) = self.completions.recv() => self.complete(completion),
            }
        }
    }

    /// Applies the commands.
    pub(super) fn take_commands(&mut self) {
        self.store.threads.pass(StoreThread::Link);
        let pending = self.commands.take();
        if pending.connects != self.connects {
            self.connects = pending.connects;
            self.target = pending.target.clone();
            (self.attempt, self.faults, self.unsettled) = (0, 0, true);
            self.identity = Identity::default();
            self.performer.forget_relay(self.connects);
            if let Some(target) = &self.target {
                self.replica.set_patience(target.timings.patience);
                self.next_check = Instant::now() + target.timings.check_every;
            }
        }
        if pending.online != self.online {
            self.online = pending.online;
            (self.attempt, self.unsettled) = (0, true);
        }
        self.closing = pending.closing;
        if pending.hurry {
            (self.hurry, self.attempt) = (true, 0);
            self.identity.handle_hurry();
        }
        if pending.spaces_changed {
            self.sync_spaces();
        }
        self.take_new_commands(pending);
        for (ticket, spaces) in self.commands.requests.take_fresh() {
            let now = self.now();
            for space in spaces {
                match self.performer.row(&space) {
                    Some(_) => self.replica.handle_check(now, &space, ticket),
                    None => self.commands.requests.space_removed(&space),
                }
            }
        }
        self.unsettled |= self.commands.requests.take_changed();
    }

    /// Applies the new commands for single spaces.
    fn take_new_commands(&mut self, pending: PendingCommands) {
        let now = self.now();
        for space in self.performer.names(&pending.local) {
            self.replica.handle_local(now, &space);
        }
        for space in self.performer.names(&pending.filters) {
            if let Some(filter) = self.performer.filter(&space) {
                self.replica.handle_filter(&space, filter);
            }
        }
        for (row, document) in pending.retried {
            if let Some(space) = self.performer.name(row) {
                self.replica.handle_retried(now, &space, &document);
            }
        }
        let checks = self.performer.names(&pending.checks);
        if !checks.is_empty() {
            let ticket = self.commands.requests.number();
            checks.iter().for_each(|space| self.replica.handle_check(now, space, ticket));
        }
    }

    /// Updates the set of spaces to the store's.
    fn sync_spaces(&mut self) {
        let now = self.now();
        let spaces: BTreeMap<SpaceName, SpaceRow> = self.store.spaces().into_iter().collect();
        for (name, row) in self.performer.spaces() {
            if spaces.get(&name) != Some(&row) {
                self.performer.remove_space(&name, row);
                self.replica.handle_space_removed(now, &name);
                // The machine reports it too, but its effects are dropped with a connection that ends.
                self.commands.requests.space_removed(&name);
            }
        }
        for (name, row) in spaces {
            if self.performer.add_space(name.clone(), row) {
                self.replica.handle_space(name);
            }
        }
        self.unsettled = true;
    }

    pub(super) fn complete(&mut self, completion: Completion) {
        let now = self.now();
        self.performer.complete(&mut self.replica, now, completion);
        self.unsettled = true;
    }

    /// Answers requests that can be answered.
    pub(super) fn settle(&mut self, is_offline: bool) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        self.commands.requests.settle(&self.store, self.performer.reached(), is_offline);
        self.commands.requests.expire_checks(&self.store, self.replica.check_steps());
    }

    pub(super) fn now(&self) -> Moment {
        Moment(self.started.elapsed())
    }

    /// Performs the effects that remain after the connection has ended.
    fn perform_offline(&mut self) {
        while let Some(effect) = self.replica.poll_effect() {
            let now = self.now();
            self.performer.perform(&mut self.replica, now, effect, None);
        }
    }
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
