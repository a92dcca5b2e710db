//! A session of an engine: one task per WebSocket that performs the decisions of `landfall_protocol::relay`.
//!
//! It must not know the contents of a change, nor the store's tables: pushes go to the hub, pages come from
//! the ring or the store.

mod ephemeral_feed;
mod feeds;
mod identification;
mod inbound;
mod pages;
mod performing;
mod push_queue;
mod queries;
mod sending;
mod uploads;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use landfall_protocol::frame::SubscriptionId;
use landfall_protocol::relay::Session;
use landfall_protocol::{Code, Moment, ReplicaId, SessionId, limits as shared_limits};
use tracing::{Instrument, debug, info, info_span};

use crate::connection::bindings::Binding;
use crate::connection::identification::{Identification, Identified};
use crate::connection::{
    self, Connection, Driver, Input, MessageSizes, Outbox, Outgoing, Ready, RelayState, SocketRead,
    drive,
};
use crate::fan_out::{Delivery, ResendRequest};
use crate::hub::{Event, Grown};
use crate::limits;
use crate::memory::Grant;
use ephemeral_feed::EphemeralFeed;
use feeds::{FeedPosition, Feeds, Read};
use inbound::Inbound;
use push_queue::{Handed, Item, PushQueue};
use queries::{AnswerPart, Queries};
use uploads::{UploadMemory, Uploads};

/// The relay's agent string in handshakes.
const AGENT: &str = concat!("landfall-relay/", env!("CARGO_PKG_VERSION"));

/// Message sizes of the native protocol.
const SIZES: MessageSizes = MessageSizes {
    largest: shared_limits::MESSAGE_BYTES,
    times: 3,
    buffer: limits::SOCKET_BUFFER_BYTES,
    backlog: limits::SOCKET_BACKLOG_BYTES,
};

/// Runs a session from the accepted HTTP upgrade until its connection is closed.
pub(crate) async fn run(
    relay: Arc<RelayState>,
    id: SessionId,
    peer: SocketAddr,
    upgrade: OnUpgrade,
) {
    let span = info_span!("session", session = id.0, %peer, space = tracing::field::Empty);
    async move {
        let events = 2 * limits::UNANSWERED;
        let opened = Connection::open(relay, (id, peer), upgrade, SIZES, events).await;
        let Some(connection) = opened else { return };
        info!("session opened");
        let (identification, refused) = identification::begin(&connection);
        let mut driver = NativeDriver::new(connection, identification);
        refused.into_iter().for_each(|none| driver.refuse_unidentified(none));
        let ending = drive(driver).await;
        info!(code = %ending, "session closed");
    }
    .instrument(span)
    .await;
}

/// The session's own state.
struct NativeDriver {
    machine: Session,
    identification: Identification,
    /// The client's replica, bound to its principal.
    replica: Option<Binding<ReplicaId>>,
    /// The message whose frames are being handled.
    inbound: Option<Inbound>,
    /// Encoded frames other than entries, in order, each with its memory if it is an answer.
    outbox: Outbox,
    push_queue: PushQueue,
    uploads: Uploads,
    feeds: Feeds,
    queries: Queries,
    ephemeral_feed: EphemeralFeed,
    /// The subscriptions whose logs have grown.
    grown: Arc<Grown>,
    /// Whether its log lines name a space.
    is_named: bool,
    /// The last field, so that the hub is notified of the end after everything else is dropped.
    connection: Connection,
}

/// The next input of the session.
enum SessionInput {
    Connection(Input),
    Identified(Identified),
    Frame,
    Upload(UploadMemory),
    Handed(Handed),
    Read(Option<Read>),
    AnswerPart(Option<AnswerPart>),
    Deliveries((Vec<Delivery>, Option<Grant>)),
    Grown,
}

impl Driver for NativeDriver {
    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn perform(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            self.perform_effect(effect);
        }
    }

    async fn step(&mut self) {
        self.feeds
            .read_if_behind(|id| self.machine.position(id), |id| feed_position(&self.machine, id));
        let input = self.next().await;
        self.handle(input);
    }

    fn fail(&mut self, code: Code, what: String, hint: &str) {
        self.machine.fail(code, what, hint);
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
                self.machine.handle_answer(self.connection.now(), answer);
                self.release_uploads();
            }
        }
    }

    fn handle_read(&mut self, read: SocketRead) {
        self.handle_socket(read);
    }

    fn handle_evicted(&mut self) {
        let what = "this session's subscriptions exceed its share of the memory budget";
        let hint = "connect again later, with fewer documents in filters";
        self.machine.fail(Code::OVERLOADED, what.to_owned(), hint);
    }

    fn handle_time(&mut self) {
        self.check_progress();
    }

    fn next_message(&mut self) -> Option<Outgoing> {
        // A pending answer says which entries need not be sent whole.
        while let Some(event) = self.connection.next_event() {
            self.handle_event(event);
        }
        self.perform();
        self.outbox.pop_joined(limits::JOINED_BYTES).or_else(|| self.next_page())
    }

    fn drop_waiting(&mut self) {
        self.push_queue.drop_waiting();
    }

    fn is_settled(&self) -> bool {
        self.push_queue.is_settled()
    }

    fn into_farewell(mut self) -> (Connection, Vec<Outgoing>) {
        let queued = std::iter::from_fn(|| self.outbox.pop_joined(limits::JOINED_BYTES)).collect();
        (self.connection, queued)
    }
}

impl NativeDriver {
    fn new(connection: Connection, identification: Identification) -> Self {
        let Connection { relay, id, account, .. } = &connection;
        let (id, upstream, patience) = (*id, relay.upstream, relay.patience);
        Self {
            machine: Session::new(id, upstream, AGENT.to_owned(), patience, Moment::default()),
            identification,
            replica: None,
            inbound: None,
            outbox: Outbox::default(),
            push_queue: PushQueue::new(relay, id, account.clone()),
            uploads: Uploads::new(account.clone(), Arc::clone(&relay.partial_uploads)),
            feeds: Feeds::new(relay, account.clone()),
            queries: Queries::new(relay, account.clone()),
            ephemeral_feed: EphemeralFeed::new(id, account.clone(), Arc::clone(&relay.fan_out)),
            grown: Arc::clone(&connection.channel.grown),
            is_named: false,
            connection,
        }
    }

    /// Waits for the first input; none has priority.
    async fn next(&mut self) -> SessionInput {
        let takes = self.takes_frames();
        let frame = takes && self.inbound.is_some();
        // Answers are produced only as fast as the peer reads them.
        let takes_replies = self.outbox.is_empty();
        let ready = Ready {
            events: true,
            reads: takes && self.inbound.is_none(),
            sends: self.has_something_to_send(),
            holds: self.uploads.is_busy(),
            timeout: self.machine.poll_timeout(),
        };
        tokio::select! {
            input = self.connection.input(ready) => SessionInput::Connection(input),
            identified = self.identification.done() => SessionInput::Identified(identified),
            handed = self.push_queue.handed() => SessionInput::Handed(handed),
            () = tokio::task::coop::consume_budget(), if frame => SessionInput::Frame,
            memory = self.uploads.memory() => SessionInput::Upload(memory),
            read = self.feeds.read() => SessionInput::Read(read),
            reply = self.queries.reply(), if takes_replies => SessionInput::AnswerPart(reply),
            message = self.ephemeral_feed.message(), if takes_replies => SessionInput::Deliveries(message),
            () = self.grown.notified() => SessionInput::Grown,
        }
    }

    fn handle(&mut self, input: SessionInput) {
        match input {
            SessionInput::Connection(input) => connection::handle(self, input),
            SessionInput::Identified(identified) => self.handle_identified(identified),
            SessionInput::Frame => self.handle_frame(),
            SessionInput::Upload(memory) => self.handle_upload_memory(memory),
            SessionInput::Grown => self.feeds.handle_grown(self.grown.take()),
            SessionInput::Handed(handed) => self.handle_handed(handed),
            SessionInput::Read(read) => {
                read.into_iter().for_each(|read| self.handle_page_read(read))
            }
            SessionInput::AnswerPart(reply) => {
                reply.into_iter().for_each(|reply| self.handle_reply(reply))
            }
            SessionInput::Deliveries(deliveries) => self.handle_deliveries(deliveries),
        }
    }

    fn handle_handed(&mut self, handed: Handed) {
        match handed {
            Handed::Over => {}
            Handed::Spoiled(id) => {
                self.push_queue.handle_answered();
                self.uploads.handle_spoiled();
                let what = "another session sent wrong parts of the snapshot: send all of it again";
                self.machine.handle_upload_refused(id, what);
                self.release_uploads();
            }
            Handed::NoRoom(id) => {
                self.push_queue.handle_answered();
                let what = "the relay has no memory to merge a snapshot now";
                self.machine.handle_upload_refused(id, what);
                self.release_uploads();
            }
            Handed::HubGone => self.handle_hub_gone(),
        }
    }

    fn handle_upload_memory(&mut self, memory: UploadMemory) {
        match memory {
            UploadMemory::From(id, from) => self.machine.handle_upload_offset(id, from),
            UploadMemory::None(id) => {
                self.machine.handle_upload_refused(id, "the relay has no room for a snapshot now");
            }
        }
        // It may have been withdrawn while it waited.
        self.release_uploads();
    }

    fn handle_reply(&mut self, reply: AnswerPart) {
        match reply {
            AnswerPart::Branches((subscription, ticket), head, branches) => {
                self.machine.handle_branches(subscription, ticket, head, branches);
            }
            AnswerPart::Message((subscription, ticket), message, grant) => {
                if self.machine.is_current(subscription, ticket) {
                    self.outbox.push(message, Some(grant));
                }
            }
            AnswerPart::Fetched((subscription, ticket)) => {
                self.machine.handle_fetched(subscription, ticket);
            }
            AnswerPart::Failed((subscription, ticket), code, what) => {
                self.machine.handle_query_failed();
                if self.machine.is_current(subscription, ticket) {
                    self.end_subscription(subscription, code, what);
                }
            }
        }
    }

    fn handle_deliveries(&mut self, (deliveries, grant): (Vec<Delivery>, Option<Grant>)) {
        for delivery in deliveries {
            match delivery {
                Delivery::FilteredEphemeral(through, message) => {
                    self.machine.send_ephemeral(ephemeral_feed::message(through, message));
                }
                Delivery::ResendRequest(Some(through), request) => {
                    let ResendRequest { space, document, changes } = &*request;
                    if !self.machine.handle_damaged(through, *document, changes) {
                        self.connection.relay.repairs.answered(
                            self.connection.id,
                            space,
                            document,
                            0,
                        );
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
        self.outbox.grant_last(grant);
    }

    fn end_subscription(&mut self, subscription: u32, code: Code, what: String) {
        self.feeds.remove(subscription);
        self.ephemeral_feed.end(subscription);
        self.machine.handle_attach_failed(subscription, code, what);
        self.push_queue.add(Item::Detach(subscription));
    }

    fn handle_page_read(&mut self, (target, page, grant): Read) {
        let (failed, (code, what)) = match page {
            Ok(Some(page)) => return self.feeds.handle_read(target, page, grant),
            Ok(None) => {
                let refusal =
                    (Code::STORAGE_FAILED, "the relay could not read its store".to_owned());
                ("the log ends before its own head".to_owned(), refusal)
            }
            Err(error) => (error.chain(), error.for_client()),
        };
        tracing::error!(space = %target.feed.space, error = failed, "cannot read a page");
        if self.feeds.is_target(&target) {
            self.end_subscription(target.subscription, code, what);
        }
    }
}

/// A subscription's position and filter, for a read of the store.
fn feed_position(machine: &Session, subscription: SubscriptionId) -> Option<FeedPosition> {
    let after = machine.position(subscription)?;
    let view = machine.view(subscription)?.clone();
    Some(FeedPosition { after, view, partial: machine.partial(subscription) })
}
