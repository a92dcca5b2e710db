//! A session: one task per WebSocket that performs the decisions of `landfall_protocol::session`. It reads,
//! feeds and waits; a second task writes.
//!
//! It must not know the contents of a change, nor the store's tables: pushes go to the hub, pages come from
//! the ring or the store.

mod ephemeral_feed;
mod feeds;
mod inbound;
mod pages;
mod performing;
mod push_queue;
mod queries;
mod sending;
mod uploads;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use hyper::upgrade::OnUpgrade;
use landfall_protocol::frame::SubscriptionId;
use landfall_protocol::rights::Everything;
use landfall_protocol::session::Session;
use landfall_protocol::{Code, Moment, SessionId};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::connection::RelayState;
use crate::connection::meter::Meter;
use crate::connection::socket::{SocketRead, Stream};
use crate::connection::writer::{Outgoing, Watch, WriteEnd, Writing};
use crate::connection::{room, socket, writer};
use crate::fan_out::Delivery;
use crate::hub::{Event, HubChannel};
use crate::limits;
use crate::memory::{Account, Grant};
use crate::repairs::Request;
use ephemeral_feed::EphemeralFeed;
use feeds::{FeedPosition, Feeds, Read};
use inbound::Inbound;
use push_queue::{Handed, Item, PushQueue};
use queries::{AnswerPart, Queries};
use uploads::{UploadMemory, Uploads};

/// The relay's agent string in handshakes.
const AGENT: &str = concat!("landfall-relay/", env!("CARGO_PKG_VERSION"));

/// Runs a session from the accepted HTTP upgrade until its connection is closed.
pub(crate) async fn run(
    shared: Arc<RelayState>,
    id: SessionId,
    peer: SocketAddr,
    upgrade: OnUpgrade,
) {
    let span = info_span!("session", session = id.0, %peer, space = tracing::field::Empty);
    async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return debug!(%error, "the connection broke before its upgrade"),
        };
        let account = shared.account(id, peer);
        let meter = Meter::new(account.clone(), socket::NATIVE);
        let metrics = Arc::clone(&shared.metrics);
        let (socket, written) = socket::open(upgraded, metrics, Arc::clone(&meter)).await;
        let (sink, stream) = socket.split();
        let (stall, metrics) = (shared.stall, Arc::clone(&shared.metrics));
        let watch = Watch { written, stall, metrics, account: account.clone() };
        let (feed, writing) = writer::start(sink, watch);
        info!("session opened");
        let mut driver = Driver::new(Arc::clone(&shared), id, (account, meter), feed);
        let ending = driver.drive(stream, writing).await;
        shared.metrics.session_ended(ending);
        info!(code = %ending, "session closed");
    }
    .instrument(span)
    .await;
}

/// A session's registration in the hub and in the metrics, removed when the session is dropped for any
/// reason.
struct SessionRegistration {
    shared: Arc<RelayState>,
    id: SessionId,
}

impl Drop for SessionRegistration {
    fn drop(&mut self) {
        self.shared.hub.leave(self.id);
        self.shared.repairs.gone(self.id);
        self.shared.metrics.sessions.dec();
    }
}

/// How a session ended.
enum Ending {
    /// The state machine ended it: send the remaining frames, then close with this code.
    Closing(Code, u16),
    /// The connection is gone: there is no peer to notify.
    Lost(Code),
}

/// The task's own state.
struct Driver {
    shared: Arc<RelayState>,
    id: SessionId,
    machine: Session,
    rights: Everything,
    start: Instant,
    account: Account,
    meter: Arc<Meter>,
    /// The time of the last check that messages and uploads holding memory make progress.
    looked: Instant,
    /// The message whose frames are being handled.
    inbound: Option<Inbound>,
    /// Encoded frames other than entries, in order, each with its memory if it is an answer.
    outbox: VecDeque<(Vec<u8>, Option<Grant>)>,
    outbox_bytes: usize,
    push_queue: PushQueue,
    uploads: Uploads,
    feeds: Feeds,
    queries: Queries,
    ephemeral_feed: EphemeralFeed,
    channel: HubChannel,
    events: mpsc::Receiver<Event>,
    /// When the slowest permitted link would have delivered everything written so far.
    delivered: Moment,
    /// `None` once nothing more is to be written.
    writer: Option<mpsc::Sender<Outgoing>>,
    ending: Option<Ending>,
    /// Whether its log lines name a space.
    is_named: bool,
    /// While the relay is being stopped: the deadline for answers.
    stopping: Option<Instant>,
    /// The last field: the hub is notified of the end after everything else is dropped.
    _registration: SessionRegistration,
}

/// The next event of the session.
enum Happening {
    Frame,
    Evicted,
    /// A message got its memory, which adds a deadline.
    Holding,
    Upload(UploadMemory),
    Event(Option<Event>),
    Overflow,
    Handed(Handed),
    Writable,
    Read(Option<Read>),
    AnswerPart(Option<AnswerPart>),
    Deliveries((Vec<Delivery>, Option<Grant>)),
    Written(WriteEnd),
    SocketRead(SocketRead),
    Grown,
    Time,
    Stopping,
}

impl Driver {
    fn new(
        shared: Arc<RelayState>,
        id: SessionId,
        (account, meter): (Account, Arc<Meter>),
        writer: mpsc::Sender<Outgoing>,
    ) -> Self {
        shared.metrics.sessions.inc();
        let registration = SessionRegistration { shared: Arc::clone(&shared), id };
        let (events_in, events) = mpsc::channel(2 * limits::UNANSWERED);
        let (overflow, grown) = (Arc::new(Notify::new()), Arc::default());
        let (upstream, patience) = (shared.upstream, shared.patience);
        Self {
            id,
            machine: Session::new(id, upstream, AGENT.to_owned(), patience, Moment::default()),
            rights: Everything,
            start: Instant::now(),
            inbound: None,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            push_queue: PushQueue::new(&shared, id, account.clone()),
            uploads: Uploads::new(account.clone(), Arc::clone(&shared.partial_uploads)),
            feeds: Feeds::new(&shared, account.clone()),
            queries: Queries::new(&shared, account.clone()),
            ephemeral_feed: EphemeralFeed::new(id, account.clone(), Arc::clone(&shared.fan_out)),
            account,
            meter,
            looked: Instant::now(),
            channel: HubChannel { events: events_in, overflow, grown },
            events,
            delivered: Moment::default(),
            writer: Some(writer),
            ending: None,
            is_named: false,
            stopping: None,
            _registration: registration,
            shared,
        }
    }

    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// Runs until the end; returns the code of the end.
    async fn drive(&mut self, mut stream: Stream, mut writing: Writing) -> Code {
        let ending = loop {
            self.perform();
            if let Some(ending) = self.ending.take() {
                break ending;
            }
            self.feeds
                .read_if_behind(|id| self.machine.position(id), |id| standing(&self.machine, id));
            let happening = self.next(&mut stream, &mut writing).await;
            self.handle(happening);
        };
        match ending {
            Ending::Closing(code, close) => {
                self.close(code, close, stream, writing).await;
                code
            }
            Ending::Lost(code) => {
                writing.abort();
                code
            }
        }
    }

    /// Waits for the first event. No event has priority, so that a peer that is fed continuously is still
    /// read, and vice versa.
    async fn next(&mut self, stream: &mut Stream, writing: &mut Writing) -> Happening {
        let takes = self.takes_frames();
        let (frame, reads) = (takes && self.inbound.is_some(), takes && self.inbound.is_none());
        let sends = self.has_something_to_send();
        // Answers are produced only as fast as the peer reads them.
        let takes_replies = self.outbox.is_empty();
        let deadline = self.deadline();
        let mut stopping = self.shared.stopping.clone();
        let stopped = self.stopping.is_some();
        tokio::select! {
            event = self.events.recv() => Happening::Event(event),
            () = self.channel.overflow.notified() => Happening::Overflow,
            () = self.account.evicted() => Happening::Evicted,
            () = self.meter.holding() => Happening::Holding,
            handed = self.push_queue.handed() => Happening::Handed(handed),
            () = tokio::task::coop::consume_budget(), if frame => Happening::Frame,
            room = self.uploads.room() => Happening::Upload(room),
            () = room(self.writer.as_ref()), if sends => Happening::Writable,
            read = self.feeds.read() => Happening::Read(read),
            reply = self.queries.reply(), if takes_replies => Happening::AnswerPart(reply),
            message = self.ephemeral_feed.message(), if takes_replies => Happening::Deliveries(message),
            end = writing => Happening::Written(end.map_or(WriteEnd::Gone, |(end, _)| end)),
            heard = stream.next(), if reads => Happening::SocketRead(heard.into()),
            () = self.channel.grown.notified() => Happening::Grown,
            () = sleep_until(deadline.into()) => Happening::Time,
            // An error means that the server is gone, which is a stop as well.
            () = async { drop(stopping.wait_for(|stop| *stop).await) }, if !stopped => {
                Happening::Stopping
            }
        }
    }

    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Holding => {}
            Happening::Frame => self.handle_frame(),
            Happening::Upload(room) => self.handle_room(room),
            Happening::Event(Some(event)) => self.handle_event(event),
            // `None` never arrives: the driver holds a sender itself.
            Happening::Event(None) => {}
            Happening::Grown => self.feeds.handle_grown(self.channel.grown.take()),
            Happening::Written(end) => self.handle_written(&end),
            Happening::Overflow => {
                let what = "the session did not read its answers".to_owned();
                self.machine.fail(Code::OVERLOADED, what, "connect again");
            }
            Happening::Evicted => {
                let what = "this session's subscriptions exceed its share of the memory budget";
                let hint = "connect again later, with fewer documents in filters";
                self.machine.fail(Code::OVERLOADED, what.to_owned(), hint);
            }
            Happening::Handed(Handed::Over) => {}
            Happening::Handed(Handed::Spoiled(id)) => {
                self.push_queue.handle_answered();
                self.uploads.handle_spoiled();
                let what = "another session sent wrong parts of the snapshot: send all of it again";
                self.machine.handle_no_room_for(id, what);
                self.let_uploads_go();
            }
            Happening::Handed(Handed::NoRoom(id)) => {
                self.push_queue.handle_answered();
                let what = "the relay has no memory to merge a snapshot now";
                self.machine.handle_no_room_for(id, what);
                self.let_uploads_go();
            }
            Happening::Handed(Handed::HubGone) => {
                let what = "the relay has an internal error".to_owned();
                self.machine.fail(Code::INTERNAL, what, "connect again later");
            }
            Happening::Writable => self.send_next(),
            Happening::Read(read) => read.into_iter().for_each(|read| self.handle_read(read)),
            Happening::AnswerPart(reply) => {
                reply.into_iter().for_each(|reply| self.handle_reply(reply))
            }
            Happening::Deliveries(deliveries) => self.handle_deliveries(deliveries),
            Happening::SocketRead(heard) => self.handle_heard(heard),
            Happening::Time => self.handle_time(),
            Happening::Stopping => {
                self.stopping = Some(Instant::now() + limits::ANSWER_GRACE);
                self.push_queue.drop_waiting();
            }
        }
        if self.stopping.is_some() && self.push_queue.is_settled() {
            self.stop();
        }
    }

    fn handle_room(&mut self, room: UploadMemory) {
        match room {
            UploadMemory::From(id, from) => self.machine.handle_wanted(id, from),
            UploadMemory::None(id) => {
                self.machine.handle_no_room_for(id, "the relay has no room for a snapshot now");
            }
        }
        // It may have been withdrawn while it waited.
        self.let_uploads_go();
    }

    fn stop(&mut self) {
        // Answers that arrived during the last hand-over.
        while let Ok(event) = self.events.try_recv() {
            self.handle_event(event);
        }
        match self.shared.store.condition().end() {
            Some((code, what)) => {
                self.machine.fail(
                    code,
                    what,
                    "connect again when the relay's operator has fixed it",
                );
            }
            None => {
                let what = "the relay is being stopped".to_owned();
                self.machine.fail(Code::SHUTTING_DOWN, what, "connect again in a moment");
            }
        }
    }

    fn handle_reply(&mut self, reply: AnswerPart) {
        match reply {
            AnswerPart::Branches((subscription, ticket), head, branches) => {
                self.machine.handle_branches(subscription, ticket, head, branches);
            }
            AnswerPart::Message((subscription, ticket), message, room) => {
                if self.machine.is_current(subscription, ticket) {
                    self.put_out(message, Some(room));
                }
            }
            AnswerPart::Fetched((subscription, ticket)) => {
                self.machine.handle_fetched(subscription, ticket);
            }
            AnswerPart::Failed((subscription, ticket), code, what) => {
                self.machine.handle_unanswerable();
                if self.machine.is_current(subscription, ticket) {
                    self.end_subscription(subscription, code, what);
                }
            }
        }
    }

    fn put_out(&mut self, frame: Vec<u8>, room: Option<Grant>) {
        self.outbox_bytes += frame.len();
        self.outbox.push_back((frame, room));
    }

    fn handle_deliveries(&mut self, (deliveries, room): (Vec<Delivery>, Option<Grant>)) {
        for news in deliveries {
            match news {
                Delivery::FilteredEphemeral(through, message) => {
                    self.machine.send_ephemeral(ephemeral_feed::message(through, message));
                }
                Delivery::ResendRequest(Some(through), request) => {
                    let Request { space, document, changes } = &*request;
                    if !self.machine.handle_lost(through, *document, changes) {
                        self.shared.repairs.answered(self.id, space, document, 0);
                    }
                }
                Delivery::Repaired(Some(through), document) => {
                    self.machine.handle_repaired(through, document);
                }
                // The session has no document open through automerge-repo.
                Delivery::Entry(..)
                | Delivery::Ephemeral(_)
                | Delivery::ResendRequest(..)
                | Delivery::Repaired(..) => {}
            }
        }
        // The frame is this session's own copy of the message: it holds the memory until it is written.
        self.perform();
        if let Some((_, last @ None)) = self.outbox.back_mut() {
            *last = room;
        }
    }

    fn deadline(&self) -> Instant {
        let timeout = self.start.checked_add(self.machine.poll_timeout().0);
        // A machine that waits for nothing returns a time that no clock reaches.
        let mut timeout =
            timeout.unwrap_or_else(|| Instant::now() + self.shared.patience.drop_after);
        // From the last check on: other events must not postpone the next one.
        if self.meter.is_holding() || self.uploads.is_busy() {
            timeout = timeout.min(self.looked + limits::PRESSED_LOOK);
        }
        self.stopping.map_or(timeout, |grace| grace.min(timeout))
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Attached { subscription, ticket, epoch, head, resume, feed } => {
                self.push_queue.handle_answered();
                if self.feeds.is_current(subscription, ticket) {
                    debug!(subscription, space = %feed.space, head = head.0, ?resume, "subscribed");
                    self.feeds.handle_attached(subscription, feed);
                    self.machine.handle_attached(subscription, epoch, head, resume);
                }
            }
            Event::AttachFailed { subscription, ticket, code, what } => {
                self.push_queue.handle_answered();
                if self.feeds.is_current(subscription, ticket) {
                    self.end_subscription(subscription, code, what);
                }
            }
            Event::Answered(answer) => {
                self.push_queue.handle_answered();
                self.machine.handle_answer(self.now(), answer);
                self.let_uploads_go();
            }
        }
    }

    fn end_subscription(&mut self, subscription: u32, code: Code, what: String) {
        self.feeds.remove(subscription);
        self.ephemeral_feed.end(subscription);
        self.machine.handle_attach_failed(subscription, code, what);
        self.push_queue.add(Item::Detach(subscription));
    }

    fn lose(&mut self, code: Code, why: &str) {
        debug!(why, "the connection is gone");
        self.ending = Some(Ending::Lost(code));
    }

    fn handle_written(&mut self, end: &WriteEnd) {
        match end {
            WriteEnd::Stalled => {
                warn!(stall = ?self.shared.stall, "the peer does not read; dropping it");
                self.lose(Code::NOT_READING, "the peer read no byte");
            }
            WriteEnd::Gone | WriteEnd::Finished => self.lose(Code::GOODBYE, "a write failed"),
        }
    }

    fn handle_read(&mut self, (target, page, room): Read) {
        let (failed, (code, what)) = match page {
            Ok(Some(page)) => return self.feeds.handle_read(target, page, room),
            Ok(None) => {
                let told = (Code::STORAGE_FAILED, "the relay could not read its store".to_owned());
                ("the log ends before its own head".to_owned(), told)
            }
            Err(error) => (error.chain(), error.told()),
        };
        tracing::error!(space = %target.feed.space, error = failed, "cannot read a page");
        if self.feeds.is_target(&target) {
            self.end_subscription(target.subscription, code, what);
        }
    }
}

/// A subscription's position and filter, for a read of the store.
fn standing(machine: &Session, subscription: SubscriptionId) -> Option<FeedPosition> {
    let after = machine.position(subscription)?;
    let filter = machine.filter(subscription)?.clone();
    Some(FeedPosition { after, filter, partial: machine.partial(subscription) })
}
