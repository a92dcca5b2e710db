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
mod push;
mod queries;
mod resend;
mod subscriptions;
mod uploads;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::code::Code;
use crate::frame::{
    ErrorFrame, Features, Filter, Frame, FrameError, Frames, Hello, Partial, SubscriptionId,
    VERSIONS, Welcome, features, fit,
};
use crate::ids::{Offset, SessionId, SpaceName, Upstream};
use crate::intervals::IntervalSet;
use crate::limits;
use crate::moment::Moment;
use crate::patience::Patience;
use crate::relay::{Identity, Rights};
use uploads::Uploads;

pub use effects::SessionEffect;
pub use push::UncheckedPush;
pub use uploads::SnapshotUpload;

#[derive(Debug)]
enum Phase {
    AwaitingHello,
    Ready(Identity),
    Ended,
}

#[derive(Debug)]
struct Subscription {
    space: SpaceName,
    /// Distinguishes it from an earlier subscription of the same number.
    ticket: u64,
    filter: Filter,
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

    /// Whether to handle the next frame and read the next message: false while too many pushes or
    /// queries are unanswered, so that TCP holds the client back. Work that waits for the client,
    /// such as an incomplete upload, never pauses reading.
    pub fn wants_message(&self) -> bool {
        self.in_flight.len() < limits::PUSHES_IN_FLIGHT && self.queries < limits::QUERIES
    }

    /// Whether the session is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// The identity, once known.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.phase {
            Phase::Ready(identity) => Some(identity),
            Phase::AwaitingHello | Phase::Ended => None,
        }
    }

    /// A binary message arrived: handles all of its frames. A caller that bounds the effects of one
    /// message calls [`Session::handle_sign_of_life`] and [`Session::handle_next`] instead.
    pub fn handle_message(&mut self, now: Moment, message: &[u8], rights: &dyn Rights) {
        self.handle_sign_of_life(now);
        let mut at = Some(0);
        while let Some(from) = at {
            at = self.handle_next(message, from, rights);
        }
    }

    /// Handles the frame at byte `at` of a message. Returns the offset of the next frame, or `None`
    /// after the last, and once the session has ended.
    pub fn handle_next(&mut self, message: &[u8], at: usize, rights: &dyn Rights) -> Option<usize> {
        let mut frames = match Frames::from(message, at) {
            Ok(frames) => frames,
            Err(error) => {
                self.fail_frame(&error);
                return None;
            }
        };
        match frames.next()? {
            Ok(frame) => self.handle_frame(frame, rights),
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

    fn handle_frame(&mut self, frame: Frame, rights: &dyn Rights) {
        match (&self.phase, frame) {
            (Phase::AwaitingHello, Frame::Hello(hello)) => self.handle_hello(&hello, rights),
            (Phase::AwaitingHello, Frame::Close(_)) => self.end(Code::GOODBYE),
            (_, Frame::Features(theirs)) => self.features = theirs.bits,
            (Phase::AwaitingHello, _) => {
                self.fail(Code::OUT_OF_ORDER, "a frame before hello".into(), "send hello first");
            }
            (Phase::Ready(_), frame) => self.handle_ready(frame, rights),
            (Phase::Ended, _) => {}
        }
    }

    fn handle_hello(&mut self, hello: &Hello, rights: &dyn Rights) {
        let Some(version) = VERSIONS.iter().find(|known| hello.versions.contains(known)) else {
            let what = format!(
                "the client offers versions {:?}, the relay supports {VERSIONS:?}",
                hello.versions
            );
            return self.fail(Code::UNSUPPORTED_VERSION, what, "upgrade the older side");
        };
        match rights.identify(hello) {
            Ok(identity) => self.phase = Phase::Ready(identity),
            Err(denied) => return self.fail(Code::UNAUTHORIZED, denied.what, &denied.hint),
        }
        self.send(Frame::Features(Features { bits: features::ALL }));
        self.send(Frame::Welcome(Welcome {
            version: *version,
            upstream: self.upstream,
            session: self.id,
            message_bytes: limits::MESSAGE_BYTES as u32,
            push_changes: limits::PUSH_CHANGES as u32,
            pushes_in_flight: limits::PUSHES_IN_FLIGHT as u32,
            agent: self.agent.clone(),
        }));
    }

    fn handle_ready(&mut self, frame: Frame, rights: &dyn Rights) {
        match frame {
            Frame::Subscribe(subscribe) => self.handle_subscribe(subscribe.into(), rights),
            Frame::SubscribeFrom(subscribe) => self.handle_subscribe(subscribe.into(), rights),
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
            Frame::PushEntry(entry) => self.handle_push_entry(entry, rights),
            Frame::PushSnapshot(upload) => self.handle_push_snapshot(upload, rights),
            Frame::Part(part) => self.handle_part(part),
            Frame::Push(push) => self.handle_push(push, rights),
            Frame::Ephemeral(message) => self.handle_ephemeral(message),
            Frame::Resent(resent) => self.handle_resent(resent),
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
            Phase::Ready(_) if self.pinged => self.last_received.after(self.patience.drop_after),
            Phase::Ready(_) => self.last_received.after(self.patience.ping_after),
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
            Phase::Ready(_) if !self.wants_message() => self.last_received = now,
            Phase::Ready(_) if silent >= self.patience.drop_after => {
                let what = format!("nothing was received for {} s", silent.as_secs());
                self.fail(Code::SILENT, what, "answer pings");
            }
            Phase::Ready(_) if silent >= self.patience.ping_after && !self.pinged => {
                self.pinged = true;
                self.send(Frame::Ping(self.last_push));
            }
            Phase::AwaitingHello | Phase::Ready(_) | Phase::Ended => {}
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
