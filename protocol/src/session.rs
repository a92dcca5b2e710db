//! The relay's machine of one session: the handshake, the subscriptions and their positions, the
//! pushes in flight, and the silence of the peer.
//!
//! Inputs are `handle_*`; after each, [`Session::poll_effect`] is drained. Pushes leave it raw:
//! the caller runs [`check_push`] (pure, so sessions do it in parallel) and hands the result to
//! the space's machine.

mod push;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::code::{Code, NackClass};
use crate::frame::{
    Ack, EntriesBuilder, ErrorFrame, Frame, FrameError, Frames, Hello, Mark, Nack, Push, Subscribe,
    Subscribed, SubscriptionId, Unsubscribed, VERSIONS, Welcome, fit,
};
use crate::ids::{Cursor, Epoch, Offset, Scope, SessionId, SpaceName, Upstream};
use crate::intervals::IntervalSet;
use crate::limits;
use crate::moment::Moment;
use crate::rights::{Identity, Rights};
use crate::ring::Page;
use crate::space::Answer;

pub use push::check_push;

/// What the caller must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEffect {
    /// Send this frame.
    Send(Frame),
    /// Find the space's lineage, and answer with [`Session::handle_attached`] or
    /// [`Session::handle_attach_failed`].
    Attach {
        /// The subscription.
        subscription: SubscriptionId,
        /// Its space.
        space: SpaceName,
        /// Where the replica's copy ends.
        cursor: Option<Cursor>,
        /// The furthest ack that the replica saw.
        acknowledged: Option<Mark>,
    },
    /// Nothing more is to be fed to this subscription.
    Detach(SubscriptionId),
    /// Check this push and hand it to the space's machine, which will answer it.
    Push {
        /// The space.
        space: SpaceName,
        /// The push as it came.
        push: Push,
    },
    /// Close the connection, after what was to be sent before.
    End(Code),
}

/// How a session's silence is measured.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Silence after which the peer is pinged.
    pub ping_after: Duration,
    /// Silence after which it is dropped.
    pub drop_after: Duration,
    /// How long the first frame may take.
    pub handshake: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ping_after: limits::PING_AFTER,
            drop_after: limits::DROP_AFTER,
            handshake: limits::HANDSHAKE,
        }
    }
}

#[derive(Debug)]
enum Phase {
    AwaitingHello,
    Ready(Identity),
    Ended,
}

#[derive(Debug)]
struct Subscription {
    space: SpaceName,
    /// `None` until the space's lineage is known.
    position: Option<Offset>,
    /// Offsets of what this session pushed: they come back without their bodies.
    own: IntervalSet,
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
    last_push: u64,
    in_flight: BTreeMap<u64, SubscriptionId>,
    heard: Moment,
    pinged: bool,
    effects: VecDeque<SessionEffect>,
}

impl Session {
    /// A session whose connection was just accepted.
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
            last_push: 0,
            in_flight: BTreeMap::new(),
            heard: now,
            pinged: false,
            effects: VecDeque::new(),
        }
    }

    /// What to do next, if anything.
    pub fn poll_effect(&mut self) -> Option<SessionEffect> {
        self.effects.pop_front()
    }

    /// Whether the next message should be read: false while too many pushes are unanswered, so
    /// that TCP holds the client back.
    pub fn wants_message(&self) -> bool {
        self.in_flight.len() < limits::PUSHES_IN_FLIGHT
    }

    /// Whether the session is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Who it is, once known.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.phase {
            Phase::Ready(identity) => Some(identity),
            Phase::AwaitingHello | Phase::Ended => None,
        }
    }

    /// A binary message arrived.
    pub fn handle_message(&mut self, now: Moment, message: &[u8], rights: &dyn Rights) {
        self.heard = now;
        self.pinged = false;
        let frames = match Frames::new(message) {
            Ok(frames) => frames,
            Err(error) => return self.fail_frame(&error),
        };
        for frame in frames {
            if self.has_ended() {
                return;
            }
            match frame {
                Ok(frame) => self.handle_frame(frame, rights),
                Err(error) => return self.fail_frame(&error),
            }
        }
    }

    /// The peer sent something that the protocol does not use, such as a text message.
    pub fn handle_alien(&mut self, what: &str) {
        self.fail(Code::MALFORMED, what.to_owned(), "send binary messages of landfall.v1 frames");
    }

    /// Some sign of life that is no message, such as a WebSocket pong.
    pub fn handle_alive(&mut self, now: Moment) {
        self.heard = now;
        self.pinged = false;
    }

    fn handle_frame(&mut self, frame: Frame, rights: &dyn Rights) {
        match (&self.phase, frame) {
            (Phase::AwaitingHello, Frame::Hello(hello)) => self.handle_hello(&hello, rights),
            (Phase::AwaitingHello, Frame::Close(_)) => self.end(Code::GOODBYE),
            (Phase::AwaitingHello, _) => {
                self.fail(Code::OUT_OF_ORDER, "a frame before hello".into(), "send hello first");
            }
            (Phase::Ready(_), frame) => self.handle_ready(frame, rights),
            (Phase::Ended, _) => {}
        }
    }

    fn handle_hello(&mut self, hello: &Hello, rights: &dyn Rights) {
        let Some(version) = VERSIONS.iter().find(|known| hello.versions.contains(known)) else {
            let what =
                format!("versions {:?} are offered, {VERSIONS:?} are spoken", hello.versions);
            return self.fail(Code::UNSUPPORTED_VERSION, what, "upgrade the older side");
        };
        match rights.identify(hello) {
            Ok(identity) => self.phase = Phase::Ready(identity),
            Err(denied) => return self.fail(Code::UNAUTHORIZED, denied.what, &denied.hint),
        }
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
            Frame::Subscribe(subscribe) => self.handle_subscribe(subscribe, rights),
            Frame::Unsubscribe(subscription) => {
                if self.subscriptions.remove(&subscription).is_some() {
                    self.effects.push_back(SessionEffect::Detach(subscription));
                }
            }
            Frame::Push(push) => self.handle_push(push, rights),
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
            | Frame::Nack(_) => {
                let what = "a frame that only a relay sends, or a second hello".to_owned();
                self.fail(Code::OUT_OF_ORDER, what, "see docs/protocol.md for who sends what");
            }
        }
    }

    fn handle_subscribe(&mut self, subscribe: Subscribe, rights: &dyn Rights) {
        let Subscribe { subscription, space, filter: _, cursor, acknowledged } = subscribe;
        if self.subscriptions.contains_key(&subscription) {
            let what = format!("subscription {subscription} is in use");
            return self.fail(Code::OUT_OF_ORDER, what, "give each subscription a new number");
        }
        if self.subscriptions.len() >= limits::SUBSCRIPTIONS {
            let what = format!("{} subscriptions are open", limits::SUBSCRIPTIONS);
            let hint = "end some, or use a second connection".to_owned();
            return self.refuse_subscription(
                subscription,
                Code::TOO_MANY_SUBSCRIPTIONS,
                what,
                hint,
            );
        }
        let Phase::Ready(identity) = &self.phase else { return };
        if let Err(denied) = rights.may_subscribe(identity, &space) {
            return self.refuse_subscription(
                subscription,
                Code::FORBIDDEN,
                denied.what,
                denied.hint,
            );
        }
        let entry = Subscription { space: space.clone(), position: None, own: IntervalSet::new() };
        self.subscriptions.insert(subscription, entry);
        self.effects.push_back(SessionEffect::Attach { subscription, space, cursor, acknowledged });
    }

    fn refuse_subscription(
        &mut self,
        subscription: SubscriptionId,
        code: Code,
        what: String,
        hint: String,
    ) {
        let (what, hint) = (fit(what), fit(hint));
        self.send(Frame::Unsubscribed(Unsubscribed { subscription, code, what, hint }));
    }

    fn handle_push(&mut self, push: Push, rights: &dyn Rights) {
        if push.id <= self.last_push {
            let what = format!("push {} after push {}", push.id, self.last_push);
            return self.fail(Code::OUT_OF_ORDER, what, "number pushes upwards");
        }
        self.last_push = push.id;
        let Some(subscription) = self.subscriptions.get(&push.subscription) else {
            let what =
                format!("a push to subscription {}, which does not exist", push.subscription);
            return self.fail(Code::UNKNOWN_SUBSCRIPTION, what, "subscribe to the space first");
        };
        let Phase::Ready(identity) = &self.phase else { return };
        let space = subscription.space.clone();
        if let Err(denied) = rights.may_push(identity, &space, &push.document) {
            let nack = Nack {
                id: push.id,
                code: Code::FORBIDDEN,
                class: NackClass::REFUSED,
                retry_after_ms: 0,
                what: fit(denied.to_string()),
            };
            return self.send(Frame::Nack(nack));
        }
        self.in_flight.insert(push.id, push.subscription);
        self.effects.push_back(SessionEffect::Push { space, push });
    }

    /// The space's lineage answered a subscription: entries follow after `resume`, or from the
    /// start if it is `None`.
    pub fn handle_attached(
        &mut self,
        subscription: SubscriptionId,
        epoch: Option<Epoch>,
        head: Offset,
        resume: Option<Offset>,
    ) {
        let Some(entry) = self.subscriptions.get_mut(&subscription) else { return };
        entry.position = Some(resume.unwrap_or_default());
        let (scope, resumed) = (Scope::WHOLE_SPACE, resume.is_some());
        self.send(Frame::Subscribed(Subscribed { subscription, epoch, head, scope, resumed }));
    }

    /// The space could not be opened.
    pub fn handle_attach_failed(&mut self, subscription: SubscriptionId, code: Code, what: String) {
        if self.subscriptions.remove(&subscription).is_some() {
            let hint = "try again later; the relay's log says more".to_owned();
            self.refuse_subscription(subscription, code, what, hint);
        }
    }

    /// Where a subscription stands; `None` if there is nothing to feed.
    pub fn position(&self, subscription: SubscriptionId) -> Option<Offset> {
        self.subscriptions.get(&subscription)?.position
    }

    /// A page of entries for a subscription, as a message that is ready to send; `None` if the
    /// page does not go on where the subscription stands, or holds nothing new.
    pub fn handle_page(&mut self, subscription: SubscriptionId, page: &Page) -> Option<Vec<u8>> {
        let entry = self.subscriptions.get_mut(&subscription)?;
        if entry.position != Some(page.after) || page.up_to <= page.after {
            return None;
        }
        let Page { after, up_to, epoch, head, .. } = *page;
        let mut frame = EntriesBuilder::new(subscription, after, up_to, epoch, head);
        for encoded in &page.entries {
            frame.add(encoded, entry.own.contains(encoded.offset().0));
        }
        entry.position = Some(up_to);
        entry.own.remove(0, up_to.0);
        Some(frame.finish())
    }

    /// A push was answered.
    pub fn handle_answer(&mut self, now: Moment, answer: Answer) {
        let Some(subscription) = self.in_flight.remove(&answer.push) else { return };
        if !self.wants_message_without(1) {
            // While nothing was read, the peer could not show that it is alive.
            self.heard = now;
        }
        if let (Some((first, last)), Some(entry)) =
            (answer.added, self.subscriptions.get_mut(&subscription))
            && entry.own.intervals() < limits::OWN_RANGES
        {
            entry.own.insert(first.0, last.0);
        }
        let (id, count) = (answer.push, answer.count);
        if let Some(through) = answer.through {
            self.send(Frame::Ack(Ack { id, count, through }));
        }
        if let Some(refusal) = answer.refusal {
            let (code, class) = (refusal.code, refusal.class);
            let (retry_after_ms, what) = (refusal.retry_after_ms, refusal.what);
            self.send(Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
        }
    }

    fn wants_message_without(&self, answered: usize) -> bool {
        self.in_flight.len() + answered < limits::PUSHES_IN_FLIGHT
    }

    /// When [`Session::handle_timeout`] is next to be called.
    pub fn poll_timeout(&self) -> Moment {
        match self.phase {
            Phase::AwaitingHello => self.heard.after(self.patience.handshake),
            Phase::Ready(_) if self.pinged => self.heard.after(self.patience.drop_after),
            Phase::Ready(_) => self.heard.after(self.patience.ping_after),
            Phase::Ended => Moment(Duration::MAX),
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        let silent = now.since(self.heard);
        match self.phase {
            Phase::AwaitingHello if silent >= self.patience.handshake => {
                self.fail(Code::SILENT, "no hello".into(), "send hello at once");
            }
            Phase::Ready(_) if !self.wants_message() => self.heard = now,
            Phase::Ready(_) if silent >= self.patience.drop_after => {
                let what = format!("nothing was heard for {} s", silent.as_secs());
                self.fail(Code::SILENT, what, "answer pings");
            }
            Phase::Ready(_) if silent >= self.patience.ping_after && !self.pinged => {
                self.pinged = true;
                self.send(Frame::Ping(self.last_push));
            }
            Phase::AwaitingHello | Phase::Ready(_) | Phase::Ended => {}
        }
    }

    /// The relay ends the session: it is being stopped, or the session cannot go on.
    pub fn fail(&mut self, code: Code, what: String, hint: &str) {
        if !self.has_ended() {
            let (what, hint) = (fit(what), fit(hint.to_owned()));
            self.send(Frame::Error(ErrorFrame { code, what, hint }));
            self.end(code);
        }
    }

    fn fail_frame(&mut self, error: &FrameError) {
        let hint = "see docs/protocol.md; the versions of both sides may not fit";
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
