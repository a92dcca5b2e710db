//! The relay's machine of one session: the handshake, the subscriptions and their positions, the
//! pushes in flight, and the peer's silence. It knows no socket and no store.
//!
//! Inputs are `handle_*`; after each, drain [`Session::poll_effect`]. Pushes leave it unchecked:
//! the caller runs [`UncheckedPush::check`] (pure, so sessions do it in parallel) and passes the
//! result to the space's machine.

mod answers;
mod effects;
mod ephemeral;
mod feed;
mod identify;
mod push;
mod queries;
mod resend;
mod subscriptions;
mod uploads;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::access::{Identity, View};
use crate::code::Code;
use crate::frame::{
    ErrorFrame, Filter, Frame, FrameError, Frames, Hello, Partial, SubscriptionId, VERSIONS, fit,
};
use crate::ids::{Offset, SessionId, SpaceName, Upstream};
use crate::intervals::IntervalSet;
use crate::limits;
use crate::moment::Moment;
use crate::patience::Patience;
use identify::{Identifying, Lease};
use uploads::Uploads;

pub use effects::SessionEffect;
pub use push::UncheckedPush;
pub use uploads::SnapshotUpload;

#[derive(Debug)]
enum Phase {
    AwaitingHello,
    /// The caller identifies the client of this hello.
    Identifying(Identifying),
    Ready(Identity),
    Ended,
}

#[derive(Debug)]
struct Subscription {
    space: SpaceName,
    /// Distinguishes it from an earlier subscription of the same number.
    ticket: u64,
    filter: Filter,
    /// The documents of the filter that the principal may read: answers concern these only.
    view: View,
    /// `None` until the space's lineage is known.
    position: Option<Offset>,
    /// The two ends compare their documents: nothing is fed until the replica has finished.
    comparing: bool,
    /// Documents are being fetched: nothing is fed meanwhile, so that parts do not mix.
    fetching: bool,
    /// The replica's part of the next snapshot.
    partial: Option<Partial>,
    /// Whether the replica supports snapshots and comparison.
    knows_snapshots: bool,
    /// Offsets of entries that this session pushed: they are echoed without their bodies.
    own: IntervalSet,
    /// Snapshots that this session uploaded and that were stored unchanged, with their lengths.
    own_snapshots: BTreeMap<[u8; 32], u64>,
}

/// The machine.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    upstream: Upstream,
    agent: String,
    patience: Patience,
    phase: Phase,
    /// When the client's token ends, and whether a new one is being verified.
    lease: Lease,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// The number of documents named by the filters of all subscriptions.
    filter_documents: usize,
    /// The number of ranges of own offsets of all subscriptions.
    own_ranges: usize,
    /// The peer's features beyond its version.
    features: u64,
    last_push: u64,
    /// Pushes that the space's machine has not answered, with the ticket of their subscription.
    in_flight: BTreeMap<u64, (SubscriptionId, u64)>,
    /// Snapshot uploads that are incomplete or in flight.
    uploads: Uploads,
    /// The ticket of the latest subscription.
    tickets: u64,
    /// The number of unanswered queries.
    queries: usize,
    last_received: Moment,
    pinged: bool,
    effects: VecDeque<SessionEffect>,
}

impl Session {
    /// A session of a newly accepted connection.
    pub fn new(
        id: SessionId,
        upstream: Upstream,
        agent: String,
        patience: Patience,
        now: Moment,
    ) -> Self {
        Self {
            id,
            upstream,
            agent,
            patience,
            phase: Phase::AwaitingHello,
            lease: Lease::default(),
            subscriptions: BTreeMap::new(),
            filter_documents: 0,
            own_ranges: 0,
            features: 0,
            last_push: 0,
            in_flight: BTreeMap::new(),
            uploads: Uploads::default(),
            tickets: 0,
            queries: 0,
            last_received: now,
            pinged: false,
            effects: VecDeque::new(),
        }
    }

    /// The next effect, if any.
    pub fn poll_effect(&mut self) -> Option<SessionEffect> {
        self.effects.pop_front()
    }

    /// Whether to handle the next frame and read the next message: false while the client is being
    /// identified, and while too many pushes or queries are unanswered, so that TCP holds the client
    /// back. Work that waits for the client, such as an incomplete upload, never pauses reading.
    pub fn wants_message(&self) -> bool {
        !matches!(self.phase, Phase::Identifying(_))
            && self.in_flight.len() < limits::PUSHES_IN_FLIGHT
            && self.queries < limits::QUERIES
    }

    /// Whether the session is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// The identity, once known.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.phase {
            Phase::Ready(identity) => Some(identity),
            Phase::AwaitingHello | Phase::Identifying(_) | Phase::Ended => None,
        }
    }

    /// A binary message arrived: handles all of its frames. A caller that bounds the effects of one
    /// message calls [`Session::handle_sign_of_life`] and [`Session::handle_next`] instead.
    pub fn handle_message(&mut self, now: Moment, message: &[u8]) {
        self.handle_sign_of_life(now);
        let mut at = Some(0);
        while let Some(from) = at {
            at = self.handle_next(message, from);
        }
    }

    /// Handles the frame at byte `at` of a message. Returns the offset of the next frame, or `None`
    /// after the last, and once the session has ended.
    pub fn handle_next(&mut self, message: &[u8], at: usize) -> Option<usize> {
        if matches!(self.phase, Phase::AwaitingHello)
            && message.len() > limits::UNIDENTIFIED_MESSAGE_BYTES
        {
            let (bytes, limit) = (message.len(), limits::UNIDENTIFIED_MESSAGE_BYTES);
            let what = format!("a first message of {bytes} bytes; the limit is {limit}");
            self.fail(Code::TOO_LARGE, what, "send hello alone in the first message");
            return None;
        }
        let mut frames = match Frames::from(message, at) {
            Ok(frames) => frames,
            Err(error) => {
                self.fail_frame(&error);
                return None;
            }
        };
        match frames.next()? {
            Ok(frame) => self.handle_frame(frame),
            Err(error) => self.fail_frame(&error),
        }
        (!self.has_ended() && !frames.is_done()).then(|| frames.at())
    }

    /// The peer sent a message that the protocol does not use, such as a text message.
    pub fn handle_unsupported(&mut self, what: &str) {
        self.fail(Code::MALFORMED, what.to_owned(), "send binary messages of landfall.v1 frames");
    }

    /// A sign of life that is not a message, such as a WebSocket pong.
    pub fn handle_sign_of_life(&mut self, now: Moment) {
        self.last_received = now;
        self.pinged = false;
    }

    fn handle_frame(&mut self, frame: Frame) {
        match (&self.phase, frame) {
            (Phase::AwaitingHello, Frame::Hello(hello)) => self.handle_hello(hello),
            (Phase::AwaitingHello, Frame::Close(_)) => self.end(Code::GOODBYE),
            (_, Frame::Features(theirs)) => self.features = theirs.bits,
            (Phase::AwaitingHello, _) => {
                self.fail(Code::OUT_OF_ORDER, "a frame before hello".into(), "send hello first");
            }
            (Phase::Identifying(_), _) => {
                let what = "a frame while the client is being identified".to_owned();
                self.fail(Code::OUT_OF_ORDER, what, "wait for welcome");
            }
            (Phase::Ready(_), frame) => self.handle_ready(frame),
            (Phase::Ended, _) => {}
        }
    }

    fn handle_hello(&mut self, hello: Hello) {
        let Some(version) = VERSIONS.iter().find(|known| hello.versions.contains(known)) else {
            let what = format!(
                "the client offers versions {:?}, the relay supports {VERSIONS:?}",
                hello.versions
            );
            return self.fail(Code::UNSUPPORTED_VERSION, what, "upgrade the older side");
        };
        self.identify(*version, hello);
    }

    fn handle_ready(&mut self, frame: Frame) {
        match frame {
            Frame::Subscribe(subscribe) => self.handle_subscribe(subscribe.into()),
            Frame::SubscribeFrom(subscribe) => self.handle_subscribe(subscribe.into()),
            Frame::Unsubscribe(subscription) => {
                if self.remove_subscription(subscription) {
                    for id in self.uploads.withdraw_all(subscription) {
                        self.in_flight.remove(&id);
                    }
                    self.effects.push_back(SessionEffect::Detach(subscription));
                }
            }
            Frame::Refilter(refilter) => self.handle_refilter(refilter),
            Frame::Compared(subscription) => self.handle_compared(subscription),
            Frame::Digest(query) => self.handle_digest(query),
            Frame::Fetch(fetch) => self.handle_fetch(fetch),
            Frame::PushEntry(entry) => self.handle_push_entry(entry),
            Frame::PushSnapshot(upload) => self.handle_push_snapshot(upload),
            Frame::Part(part) => self.handle_part(part),
            Frame::Push(push) => self.handle_push(push),
            Frame::Ephemeral(message) => self.handle_ephemeral(message),
            Frame::Resent(resent) => self.handle_resent(resent),
            Frame::Token(renewed) => self.handle_token(renewed),
            Frame::Ping(nonce) => self.send(Frame::Pong(nonce)),
            Frame::Pong(_) => {}
            Frame::Close(_) => self.end(Code::GOODBYE),
            Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Error(_)
            | Frame::Subscribed(_)
            | Frame::Unsubscribed(_)
            | Frame::Entries(_)
            | Frame::Ack(_)
            | Frame::Nack(_)
            | Frame::Features(_)
            | Frame::UploadFrom(_)
            | Frame::Difference(_)
            | Frame::Document(_)
            | Frame::Resend(_)
            | Frame::Repaired(_) => {
                let what = "a frame that only a relay sends, or a second hello".to_owned();
                self.fail(
                    Code::OUT_OF_ORDER,
                    what,
                    "see docs/protocol.md for the sender of each frame",
                );
            }
        }
    }

    /// When to call [`Session::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Moment {
        match self.phase {
            Phase::AwaitingHello => self.last_received.after(self.patience.handshake),
            Phase::Identifying(ref pending) => pending.deadline(),
            Phase::Ready(_) => {
                let silence = match self.pinged {
                    true => self.patience.drop_after,
                    false => self.patience.ping_after,
                };
                self.lease.deadline().min(self.last_received.after(silence))
            }
            Phase::Ended => Moment(Duration::MAX),
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        let silent = now.since(self.last_received);
        match self.phase {
            Phase::AwaitingHello if silent >= self.patience.handshake => {
                self.fail(Code::SILENT, "no hello".into(), "send hello at once");
            }
            Phase::Identifying(ref pending) if now >= pending.deadline() => {
                let what = "the relay could not verify the token in time".to_owned();
                self.fail(Code::OVERLOADED, what, "connect again later");
            }
            Phase::Ready(_) if now >= self.lease.deadline() => self.fail_lease(),
            Phase::Ready(_) if !self.wants_message() => self.last_received = now,
            Phase::Ready(_) if silent >= self.patience.drop_after => {
                let what = format!("nothing was received for {} s", silent.as_secs());
                self.fail(Code::SILENT, what, "answer pings");
            }
            Phase::Ready(_) if silent >= self.patience.ping_after && !self.pinged => {
                self.pinged = true;
                self.send(Frame::Ping(self.last_push));
            }
            Phase::AwaitingHello | Phase::Identifying(_) | Phase::Ready(_) | Phase::Ended => {}
        }
    }

    /// Ends the session: the relay is stopping, or the session cannot continue.
    pub fn fail(&mut self, code: Code, what: String, hint: &str) {
        if !self.has_ended() {
            let (what, hint) = (fit(what), fit(hint.to_owned()));
            self.send(Frame::Error(ErrorFrame { code, what, hint }));
            self.end(code);
        }
    }

    fn fail_unknown(&mut self, subscription: SubscriptionId) {
        let what = format!("a frame for subscription {subscription}, which does not exist");
        self.fail(Code::UNKNOWN_SUBSCRIPTION, what, "subscribe to the space first");
    }

    fn fail_frame(&mut self, error: &FrameError) {
        let hint = "see docs/protocol.md; the versions of the two sides may be incompatible";
        self.fail(error.code(), error.to_string(), hint);
    }

    fn end(&mut self, code: Code) {
        self.phase = Phase::Ended;
        self.effects.push_back(SessionEffect::End(code));
    }

    fn send(&mut self, frame: Frame) {
        self.effects.push_back(SessionEffect::Send(frame));
    }
}
