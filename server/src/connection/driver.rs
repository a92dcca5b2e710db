//! The loop that every session runs, of either protocol: it performs the effects of the protocol's machine,
//! waits for the next input, and hands it over, until the session ends.
//!
//! [`Driver`] is what differs between the protocols; [`Connection`] is the state and the inputs that do not.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hyper::upgrade::OnUpgrade;
use landfall_protocol::{Code, Moment, SessionId};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;
use tracing::{debug, warn};

use super::closing::{Ending, Transport};
use super::meter::{MessageSizes, Meter};
use super::relay_state::RelayState;
use super::socket::{self, SocketRead};
use super::writer::{self, Outgoing, Watch, WriteEnd};
use crate::hub::{Event, HubChannel};
use crate::limits;
use crate::memory::Account;

/// A session of one protocol, over a connection.
pub(crate) trait Driver: Sized + Send {
    fn connection(&mut self) -> &mut Connection;

    /// Performs the machine's pending effects.
    fn perform(&mut self);

    /// Waits for the next input and handles it; those of the connection with [`handle`].
    fn step(&mut self) -> impl Future<Output = ()> + Send;

    /// Makes the machine end the session with an error. `hint`: advice for the client.
    fn fail(&mut self, code: Code, what: String, hint: &str);

    fn handle_event(&mut self, event: Event);

    fn handle_read(&mut self, read: SocketRead);

    /// The session's state exceeds its share of the memory budget.
    fn handle_evicted(&mut self);

    /// A deadline has passed.
    fn handle_time(&mut self);

    /// The next message for the writer, which has room for it.
    fn next_message(&mut self) -> Option<Outgoing>;

    /// The relay stops: drops the items that were not handed over to the hub.
    fn drop_waiting(&mut self);

    /// Whether everything is handed over to the hub and answered.
    fn is_settled(&self) -> bool;

    /// Drops the session's state, and returns the messages that are still to be sent. An ending session waits
    /// some seconds for its peer, and many sessions may be ended at once because memory is short.
    fn into_farewell(self) -> (Connection, Vec<Outgoing>);

    /// Ends the session if a message arrives too slowly for the memory that it holds and that others wait
    /// for. `reads`: the relay itself does not hold the peer back.
    fn check_pace(&mut self, reads: bool) {
        if self.connection().meter.gives_up(reads) {
            let what =
                "a large message arrived too slowly, and other clients need its memory".to_owned();
            self.fail(Code::OVERLOADED, what, "connect again later");
        }
    }

    /// The hub, or a check, has panicked.
    fn handle_hub_gone(&mut self) {
        let what = "the relay has an internal error".to_owned();
        self.fail(Code::INTERNAL, what, "connect again later");
    }
}

/// The state of a session that does not depend on its protocol.
pub(crate) struct Connection {
    pub(crate) relay: Arc<RelayState>,
    pub(crate) id: SessionId,
    pub(crate) account: Account,
    pub(crate) meter: Arc<Meter>,
    /// How the hub notifies this session.
    pub(crate) channel: HubChannel,
    events: mpsc::Receiver<Event>,
    start: Instant,
    /// When it was last checked whether messages and uploads that hold memory make progress.
    looked: Instant,
    /// When the slowest permitted link would have delivered everything written so far.
    delivered: Moment,
    /// While the relay is being stopped: the deadline for answers.
    stopping: Option<Instant>,
    ending: Option<Ending>,
    transport: Transport,
    /// The last field: the hub is notified of the end after everything else is dropped.
    _registration: Registration,
}

/// A session's registration in the hub, the repairs and the metrics, removed when the session is dropped for
/// any reason.
struct Registration {
    relay: Arc<RelayState>,
    id: SessionId,
}

impl Registration {
    fn new(relay: &Arc<RelayState>, id: SessionId) -> Self {
        relay.metrics.sessions.inc();
        Self { relay: Arc::clone(relay), id }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.relay.hub.leave(self.id);
        self.relay.repairs.session_ended(self.id);
        self.relay.metrics.sessions.dec();
    }
}

/// The inputs that a session can take now.
pub(crate) struct Ready {
    /// Whether it takes events of the hub.
    pub(crate) events: bool,
    /// Whether it takes a message of the peer.
    pub(crate) reads: bool,
    /// Whether it has a message for the writer.
    pub(crate) sends: bool,
    /// Whether it holds memory whose progress must be checked, besides that of the arriving message.
    pub(crate) holds: bool,
    /// When the machine must be called.
    pub(crate) timeout: Moment,
}

/// An input of the connection.
pub(crate) enum Input {
    Event(Event),
    /// The session did not read its answers from the hub.
    Overflow,
    Evicted,
    /// A message got its memory, which adds a deadline.
    Holding,
    Writable,
    Written(WriteEnd),
    Read(SocketRead),
    Time,
    Stopping,
}

impl Connection {
    /// Opens a session's WebSocket once its HTTP connection is upgraded; `None` if that broke before. The hub
    /// may have sent up to `events` events that the session has not read.
    pub(crate) async fn open(
        relay: Arc<RelayState>,
        (id, peer): (SessionId, SocketAddr),
        upgrade: OnUpgrade,
        sizes: MessageSizes,
        events: usize,
    ) -> Option<Self> {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                debug!(%error, "the connection broke before its upgrade");
                return None;
            }
        };
        let account = relay.account(id, peer);
        let meter = Meter::new(account.clone(), sizes);
        let metrics = Arc::clone(&relay.metrics);
        let (socket, written) = socket::open(upgraded, metrics, Arc::clone(&meter), sizes).await;
        let (sink, stream) = socket.split();
        let (stall, metrics) = (relay.stall, Arc::clone(&relay.metrics));
        let watch = Watch { written, stall, metrics, account: account.clone() };
        let (writer, writing) = writer::start(sink, watch);
        let (events_in, events) = mpsc::channel(events);
        let (overflow, grown) = (Arc::new(Notify::new()), Arc::default());
        Some(Self {
            id,
            account,
            meter,
            channel: HubChannel { events: events_in, overflow, grown },
            events,
            start: Instant::now(),
            looked: Instant::now(),
            delivered: Moment::default(),
            stopping: None,
            ending: None,
            transport: Transport { stream, writer, writing },
            _registration: Registration::new(&relay, id),
            relay,
        })
    }

    pub(crate) fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// When the slowest permitted link would have delivered everything written so far.
    pub(crate) fn delivered(&self) -> Moment {
        self.delivered
    }

    /// Whether the relay is being stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// The next event of the hub that has arrived already.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Waits for the first input. No input has priority, so that a peer that is fed continuously is still
    /// read, and vice versa.
    pub(crate) async fn input(&mut self, ready: Ready) -> Input {
        let deadline = self.deadline(&ready);
        let mut stopping = self.relay.stopping.clone();
        let stopped = self.stopping.is_some();
        let Transport { stream, writer, writing } = &mut self.transport;
        tokio::select! {
            // `None` never arrives: the connection holds a sender itself.
            Some(event) = self.events.recv(), if ready.events => Input::Event(event),
            () = self.channel.overflow.notified() => Input::Overflow,
            () = self.account.evicted() => Input::Evicted,
            () = self.meter.holding() => Input::Holding,
            () = has_room(writer), if ready.sends => Input::Writable,
            end = writing => Input::Written(end.map_or(WriteEnd::Gone, |(end, _)| end)),
            read = stream.next(), if ready.reads => Input::Read(read.into()),
            () = sleep_until(deadline.into()) => Input::Time,
            // An error means that the server is gone, which is a stop as well.
            () = async { drop(stopping.wait_for(|stop| *stop).await) }, if !stopped => Input::Stopping,
        }
    }

    fn deadline(&self, ready: &Ready) -> Instant {
        // A machine that waits for nothing returns a time that no clock reaches.
        let timeout = self.start.checked_add(ready.timeout.0);
        let mut timeout =
            timeout.unwrap_or_else(|| Instant::now() + self.relay.patience.drop_after);
        // From the last check on: other inputs must not postpone the next one.
        if self.meter.is_holding() || ready.holds {
            timeout = timeout.min(self.looked + limits::PRESSED_LOOK);
        }
        self.stopping.map_or(timeout, |grace| grace.min(timeout))
    }

    /// Hands a message to the writer, which has room for it.
    fn send(&mut self, message: Outgoing) {
        let now = self.now();
        let takes = Duration::from_secs_f64(message.bytes() as f64 / limits::SLOWEST_LINK);
        let delivered = self.delivered.max(now).after(takes);
        self.delivered = delivered.min(now.after(limits::LONGEST_DELIVERY));
        // There is room for one message, and this is the only sender; the end of the writer is handled where
        // its task is awaited.
        let _ = self.transport.writer.try_send(message);
    }

    /// Ends the session with a close frame, unless it has ended already.
    pub(crate) fn end(&mut self, code: Code, reason: String) {
        self.ending.get_or_insert_with(|| Ending::of(code, reason));
    }

    /// Ends the session with this close frame, even if another end was decided.
    pub(crate) fn close_with(&mut self, code: Code, close: u16, reason: String) {
        self.ending = Some(Ending::Closing { code, close, reason });
    }

    /// The connection is gone.
    pub(crate) fn lose(&mut self, code: Code, why: &str) {
        debug!(why, "the connection is gone");
        self.ending = Some(Ending::Lost(code));
    }

    fn handle_written(&mut self, end: &WriteEnd) {
        match end {
            WriteEnd::Stalled => {
                warn!(stall = ?self.relay.stall, "the peer does not read; dropping it");
                self.lose(Code::NOT_READING, "the peer read no byte");
            }
            WriteEnd::Gone | WriteEnd::Finished => self.lose(Code::GOODBYE, "a write failed"),
        }
    }
}

/// Waits until the writer accepts a message.
async fn has_room(writer: &mpsc::Sender<Outgoing>) {
    // The end of the writer is handled where its task is awaited.
    if writer.reserve().await.is_err() {
        std::future::pending().await
    }
}

/// Runs a session to its end; returns the code of the end.
pub(crate) async fn drive(mut driver: impl Driver) -> Code {
    let ending = loop {
        driver.perform();
        if let Some(ending) = driver.connection().ending.take() {
            break ending;
        }
        driver.step().await;
        if driver.connection().is_stopping() && driver.is_settled() {
            stop(&mut driver);
        }
    };
    let (connection, queued) = driver.into_farewell();
    let code = ending.code();
    match ending {
        Ending::Closing { close, reason, .. } => {
            connection.transport.close(queued, close, reason, connection.relay.linger).await;
        }
        Ending::Lost(_) => connection.transport.writing.abort(),
    }
    connection.relay.metrics.session_ended(code);
    code
}

/// Handles an input of the connection.
pub(crate) fn handle(driver: &mut impl Driver, input: Input) {
    match input {
        Input::Holding => {}
        Input::Event(event) => driver.handle_event(event),
        Input::Overflow => {
            let what = "the session did not read its answers".to_owned();
            driver.fail(Code::OVERLOADED, what, "connect again");
        }
        Input::Evicted => driver.handle_evicted(),
        Input::Writable => {
            if let Some(message) = driver.next_message() {
                driver.connection().send(message);
            }
        }
        Input::Written(end) => driver.connection().handle_written(&end),
        Input::Read(read) => driver.handle_read(read),
        Input::Time => {
            let connection = driver.connection();
            connection.looked = Instant::now();
            match connection.stopping {
                Some(grace) if grace <= connection.looked => stop(driver),
                _ => driver.handle_time(),
            }
        }
        Input::Stopping => {
            driver.connection().stopping = Some(Instant::now() + limits::ANSWER_GRACE);
            driver.drop_waiting();
        }
    }
}

/// Ends the session because the relay stops.
fn stop(driver: &mut impl Driver) {
    // Answers that arrived during the last hand-over.
    while let Some(event) = driver.connection().next_event() {
        driver.handle_event(event);
    }
    match driver.connection().relay.store.condition().end() {
        Some((code, what)) => {
            driver.fail(code, what, "connect again when the relay's operator has fixed it");
        }
        None => {
            let what = "the relay is being stopped".to_owned();
            driver.fail(Code::SHUTTING_DOWN, what, "connect again in a moment");
        }
    }
}
