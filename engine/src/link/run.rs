//! The link's life: connect, run the session, wait, again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use landfall_protocol::replica::{EndReason, Replica};
use landfall_protocol::session::Patience;
use landfall_protocol::{Code, Moment, SpaceName};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use super::address::Address;
use super::flush::Waiters;
use super::perform::{Completion, Out, Performer};
use super::socket::{Socket, connect};
use super::voice::Spoken;
use super::{Command, Outbound};
use crate::core::Core;
use crate::options::LinkOptions;
use crate::random;
use crate::status::LinkStatus;

/// How long the goodbye to a relay may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// Bytes of small frames that are joined into one message.
const JOINED_BYTES: usize = 16 * 1024;

/// Bytes that wait for the socket, beyond which ephemeral messages wait outside: all else that is
/// sent is bounded by what the relay answers, and they are not answered.
const SPEAK_BELOW_BYTES: usize = 64 * 1024;

/// The state of the link's thread.
pub(super) struct Runner {
    pub(super) core: Arc<Core>,
    options: LinkOptions,
    address: Address,
    outbound: Arc<Outbound>,
    inbox: mpsc::UnboundedReceiver<Command>,
    replica: Replica,
    performer: Performer,
    completions: mpsc::UnboundedReceiver<Completion>,
    waiters: Waiters,
    /// Spaces that are to be compared with the relay as soon as nothing is under way.
    checks: BTreeSet<SpaceName>,
    next_check: Instant,
    online: bool,
    closing: bool,
    /// A wait for the next try is cut short.
    hurry: bool,
    /// Tries since the link was last online.
    attempt: u32,
    /// Sessions in a row that ended by a fault of one side: each connects well, so only this
    /// makes the waits between them grow.
    faults: u32,
    started: Instant,
}

/// How a session ended.
enum Ended {
    OnPurpose,
    /// The connection is gone.
    Lost(String),
    /// One side could not go on: broken rules, a refusal, a full disk.
    Fault(String),
}

/// A session that lasted this long counts as good, however it ends.
const GOOD_SESSION: Duration = Duration::from_secs(60);

impl Runner {
    pub(super) fn new(
        core: Arc<Core>,
        options: LinkOptions,
        address: Address,
        outbound: Arc<Outbound>,
        inbox: mpsc::UnboundedReceiver<Command>,
    ) -> std::io::Result<Self> {
        let agent = concat!("landfall/", env!("CARGO_PKG_VERSION")).to_owned();
        let patience = Patience {
            ping_after: options.ping_after,
            drop_after: options.drop_after,
            handshake: options.handshake,
        };
        let mut replica = Replica::new(core.log.replica(), agent, patience);
        let (tell, completions) = mpsc::unbounded_channel();
        let mut performer = Performer::new(Arc::clone(&core), Arc::clone(&outbound), tell)?;
        for (name, row) in core.spaces() {
            performer.add_space(name.clone(), row);
            replica.handle_space(name);
        }
        let next_check = Instant::now() + options.check_every.min(FAR);
        Ok(Self {
            core,
            options,
            address,
            outbound,
            inbox,
            replica,
            performer,
            completions,
            waiters: Waiters::default(),
            checks: BTreeSet::new(),
            next_check,
            online: true,
            closing: false,
            hurry: false,
            attempt: 0,
            faults: 0,
            started: Instant::now(),
        })
    }

    pub(super) async fn run(mut self) {
        while !self.closing {
            if !self.online {
                self.core.status.set_link(LinkStatus::Offline, None);
                self.idle(None).await;
                continue;
            }
            self.attempt = self.attempt.saturating_add(1);
            self.core.status.set_link(LinkStatus::Connecting { attempt: self.attempt }, None);
            let Some(connected) = self.connect().await else { continue };
            let began = Instant::now();
            let ended = match connected {
                Ok(socket) => self.session(socket).await,
                Err(error) => Ended::Lost(error.to_string()),
            };
            self.faults = match &ended {
                Ended::Fault(_) if began.elapsed() < GOOD_SESSION => self.faults.saturating_add(1),
                Ended::Lost(_) if began.elapsed() < GOOD_SESSION => self.faults,
                Ended::Fault(_) | Ended::Lost(_) | Ended::OnPurpose => 0,
            };
            self.replica.handle_disconnected();
            self.perform_offline();
            if let Ended::Lost(why) | Ended::Fault(why) = ended {
                tracing::info!(relay = self.address.url, why, "not connected");
                self.core.status.set_error(why);
                self.core.status.set_link(LinkStatus::Connecting { attempt: self.attempt }, None);
                self.idle(Some(self.backoff())).await;
            }
        }
        self.core.status.set_link(LinkStatus::Offline, None);
        self.waiters.settle(&self.core, true);
    }

    /// The wait before the next try: doubled each time, with jitter.
    fn backoff(&self) -> Duration {
        let doublings = self.attempt.max(self.faults).saturating_sub(1).min(20);
        let most = self.options.reconnect_first.saturating_mul(1 << doublings);
        let most = most.min(self.options.reconnect_most);
        most.mul_f64(0.5 + random::fraction() / 2.0)
    }

    /// Connects, unless told otherwise meanwhile.
    async fn connect(&mut self) -> Option<Result<Socket, super::socket::SocketError>> {
        let address = self.address.clone();
        let connecting = connect(&address, self.options.handshake);
        tokio::pin!(connecting);
        loop {
            let deadline = sleep_until(self.waiters.deadline());
            tokio::select! {
                connected = &mut connecting => return Some(connected),
                command = self.inbox.recv() => {
                    self.take(command);
                    if self.closing || !self.online {
                        return None;
                    }
                }
                () = deadline => self.waiters.settle(&self.core, false),
            }
        }
    }

    /// Without a connection: until the wait is over, or something is to be done.
    async fn idle(&mut self, wait: Option<Duration>) {
        self.hurry = false;
        let until = wait.map(|wait| Instant::now() + wait);
        loop {
            self.waiters.settle(&self.core, !self.online);
            let was_online = self.online;
            tokio::select! {
                command = self.inbox.recv() => {
                    self.take(command);
                    if self.closing || self.online != was_online || (self.hurry && self.online) {
                        return;
                    }
                }
                () = sleep_until(until) => return,
                () = sleep_until(self.waiters.deadline()) => {}
                completion = self.completions.recv() => drop(completion),
            }
        }
    }

    fn take(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Space(name, row)) => {
                self.performer.add_space(name.clone(), row);
                self.replica.handle_space(name);
            }
            Some(Command::Online(online)) => {
                self.online = online;
                self.attempt = 0;
            }
            Some(Command::Reconnect) => {
                self.hurry = true;
                self.attempt = 0;
            }
            Some(Command::Flush(waiter)) => self.waiters.add(waiter),
            Some(Command::Filter(space)) => {
                if let Some(filter) = self.performer.filter(&space) {
                    self.replica.handle_filter(&space, filter);
                }
            }
            Some(Command::Check(space)) => {
                self.checks.insert(space);
            }
            Some(Command::Unparked(space, document)) => {
                let now = self.now();
                self.replica.handle_unparked(now, &space, &document);
            }
            Some(Command::Close) | None => self.closing = true,
        }
    }

    fn now(&self) -> Moment {
        Moment(self.started.elapsed())
    }

    async fn session(&mut self, socket: Socket) -> Ended {
        let (mut sink, mut stream) = socket.split();
        // Unbounded, because the machine bounds it: pushes by their window, all else by being
        // answers; ephemeral messages by `speak`.
        let (out, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        let unsent = Arc::new(AtomicUsize::new(0));
        let out = Out::new(out, Arc::clone(&unsent));
        let outbound = Arc::clone(&self.outbound);
        let writer = tokio::spawn(async move {
            let mut next = None;
            while let Some(mut message) = match next.take() {
                Some(message) => Some(message),
                None => queue.recv().await,
            } {
                // What is there together travels together: small frames in one message.
                while let Ok(more) = queue.try_recv() {
                    if message.len() + more.len() > JOINED_BYTES {
                        next = Some(more);
                        break;
                    }
                    message.extend_from_slice(&more);
                }
                let bytes = message.len();
                sink.send(Message::Binary(Bytes::from(message))).await?;
                unsent.fetch_sub(bytes, Ordering::AcqRel);
                if !outbound.voice.is_empty() {
                    outbound.wake.notify_one();
                }
            }
            sink.close().await
        });
        self.performer.begin();
        self.replica.handle_connected(self.now(), self.options.token.clone());
        let mut ended = self.perform(&out);
        while ended.is_none() {
            let timeout = self.started + self.replica.poll_timeout().0.min(FAR);
            tokio::select! {
                message = stream.next(), if self.replica.wants_message() => {
                    ended = self.receive(message);
                }
                Some(completion) = self.completions.recv() => {
                    let now = self.now();
                    self.performer.complete(&mut self.replica, now, completion);
                }
                command = self.inbox.recv() => self.take(command),
                () = self.outbound.wake.notified() => {
                    self.push();
                    self.speak(&out);
                }
                () = sleep_until(Some(timeout)) => self.replica.handle_timeout(self.now()),
                () = sleep_until(self.waiters.deadline()) => {}
                () = sleep_until(Some(self.next_check)) => {}
            }
            self.begin_checks();
            ended = ended.or_else(|| self.perform(&out));
            self.waiters.settle(&self.core, false);
            if self.closing || !self.online {
                self.replica.handle_close("going offline");
                ended = ended.or_else(|| self.perform(&out)).or(Some(Ended::OnPurpose));
            }
        }
        drop(out);
        // A relay that does not read must not hold us.
        let _ = tokio::time::timeout(GOODBYE, writer).await;
        ended.unwrap_or(Ended::OnPurpose)
    }

    /// Has spaces compared with the relay that are due, as soon as nothing is under way there.
    fn begin_checks(&mut self) {
        let now = Instant::now();
        if self.next_check <= now {
            self.next_check = now + self.options.check_every.min(FAR);
            self.checks.extend(self.performer.spaces());
        }
        for done in self.performer.take_checked() {
            self.checks.remove(&done);
        }
        let now = self.now();
        for space in self.checks.clone() {
            self.replica.handle_check(now, &space);
        }
    }

    fn push(&mut self) {
        let rows = std::mem::take(&mut *self.outbound.spaces.lock());
        let now = self.now();
        for space in self.performer.names(rows) {
            self.replica.handle_local(now, &space);
        }
    }

    /// Sends the ephemeral messages that the socket has room for.
    fn speak(&mut self, out: &Out) {
        let mut room = SPEAK_BELOW_BYTES.saturating_sub(out.unsent());
        while room > 0
            && let Some(spoken) = self.outbound.voice.take()
        {
            room = room.saturating_sub(spoken.weight());
            let Spoken { space, document, count, data } = spoken;
            let session = self.core.ephemeral.session.clone();
            self.replica.handle_broadcast(&space, document, session, count, data);
        }
    }

    fn receive(&mut self, message: Option<Result<Message, WsError>>) -> Option<Ended> {
        let now = self.now();
        match message {
            Some(Ok(Message::Binary(bytes))) => self.replica.handle_message(now, &bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.replica.handle_alive(now),
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map_or_else(String::new, |frame| format!(": {frame}"));
                return Some(Ended::Lost(format!("the relay closed the connection{why}")));
            }
            Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                return Some(Ended::Lost("the relay sent a text message".to_owned()));
            }
            Some(Err(error)) => return Some(Ended::Lost(format!("the connection broke: {error}"))),
            None => return Some(Ended::Lost("the relay closed the connection".to_owned())),
        }
        None
    }

    /// Does what the machine asks; says if the session is over.
    fn perform(&mut self, out: &Out) -> Option<Ended> {
        while let Some(effect) = self.replica.poll_effect() {
            let now = self.now();
            let end = self.performer.perform(&mut self.replica, now, effect, Some(out));
            if let Some(reason) = end {
                return Some(ended_by(&reason));
            }
        }
        if self.replica.is_ready() {
            self.attempt = 0;
        }
        None
    }

    /// Does what remains to be told once the connection is gone.
    fn perform_offline(&mut self) {
        while let Some(effect) = self.replica.poll_effect() {
            let now = self.now();
            self.performer.perform(&mut self.replica, now, effect, None);
        }
    }
}

fn ended_by(reason: &EndReason) -> Ended {
    match reason {
        EndReason::Silent(_) | EndReason::Ended { code: Code::SHUTTING_DOWN, .. } => {
            Ended::Lost(reason.to_string())
        }
        _ => Ended::Fault(reason.to_string()),
    }
}

/// A timer that far ahead is none.
const FAR: Duration = Duration::from_secs(365 * 86_400);

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
