//! The relay's machine of one session: the handshake, the subscriptions and their positions, the
//! pushes in flight, and the silence of the peer.
//!
//! Inputs are `handle_*`; after each, [`Session::poll_effect`] is drained. Pushes leave it raw:
//! the caller runs [`UncheckedPush::check`] (pure, so sessions do it in parallel) and hands the result to
//! the space's machine.

mod ephemeral;
mod feed;
mod offers;
mod push;
mod queries;
mod resend;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::code::{Code, NackClass};
use crate::digest::Prefix;
use crate::frame::{
    Ack, Ephemeral, ErrorFrame, Features, Filter, Frame, FrameError, Frames, Hello, Mark, Nack,
    Partial, Push, PushEntry, Subscribe, SubscribeFrom, SubscriptionId, Unsubscribed, VERSIONS,
    Want, Welcome, features, fit,
};
use crate::ids::{Cursor, DocumentId, Offset, SessionId, SpaceName, Upstream};
use crate::intervals::IntervalSet;
use crate::limits;
use crate::moment::Moment;
use crate::rights::{Identity, Rights};
use crate::space::Answer;

pub use offers::Offered;
use offers::Offers;
pub use push::UncheckedPush;

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
        /// Which documents it wants.
        filter: Filter,
        /// Without a cursor: it holds documents all the same.
        holds: bool,
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
    /// Hand this entry to the space's machine, which will answer it like a push.
    PushEntry {
        /// The space.
        space: SpaceName,
        /// The entry as it came.
        entry: PushEntry,
    },
    /// A snapshot is offered: say how much of it is there, with [`Session::handle_wanted`], or give
    /// it back with [`Session::handle_no_room_for`].
    Offered {
        /// The space.
        space: SpaceName,
        /// The offer.
        offer: Offered,
    },
    /// A part of an offered snapshot came. Answer with [`Session::handle_wanted`]; when all of it
    /// is there, call [`Session::handle_whole`] and hand it to the space's machine, which will answer
    /// it like a push.
    Part {
        /// The space.
        space: SpaceName,
        /// The offer.
        offer: Offered,
        /// Where the part begins.
        from: u64,
        /// The part.
        bytes: Vec<u8>,
    },
    /// Sum what lies below these prefixes; answer with [`Session::handle_branches`].
    Digest {
        /// The subscription that asks.
        subscription: SubscriptionId,
        /// Tells it from an earlier one of the same number; comes back with the answer.
        ticket: u64,
        /// Its space.
        space: SpaceName,
        /// At least one.
        prefixes: Vec<Prefix>,
    },
    /// Read what is missing of these documents: for each its plan and its entries, as
    /// [`Session::document_frame`]s and [`Session::part_frame`]s; then
    /// [`Session::handle_fetched`].
    Fetch {
        /// The subscription that asks.
        subscription: SubscriptionId,
        /// Tells it from an earlier one of the same number; comes back with the answer.
        ticket: u64,
        /// Its space.
        space: SpaceName,
        /// At least one.
        wants: Vec<Want>,
    },
    /// From now on, what others say about the documents that this filter takes is wanted: give it
    /// to [`Session::handle_said`]; and the peer can be asked for them: [`Session::handle_lost`]. Takes the place of what was wanted of the subscription before,
    /// and ends with its [`SessionEffect::Detach`].
    Listen {
        /// The subscription.
        subscription: SubscriptionId,
        /// Its space.
        space: SpaceName,
        /// Which documents.
        filter: Filter,
    },
    /// A subscription has another filter.
    Refiltered {
        /// The subscription.
        subscription: SubscriptionId,
        /// What it wants now.
        filter: Filter,
    },
    /// The peer said something: tell everybody else who follows the document.
    Said {
        /// The space.
        space: SpaceName,
        /// The message, with its sender's name.
        message: Ephemeral,
    },
    /// The peer has pushed what it has of what [`Session::handle_lost`] asked for, and was answered.
    Resent {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// Changes that it brought, as it says; 0 if it has nothing.
        count: u32,
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
    /// Tells it from an earlier one of the same number.
    ticket: u64,
    filter: Filter,
    /// `None` until the space's lineage is known.
    position: Option<Offset>,
    /// The two compare what they hold: nothing is fed until the replica says that it is done.
    comparing: bool,
    /// Documents are being fetched: nothing is fed meanwhile, so that parts do not mix.
    fetching: bool,
    /// How much the replica has of the snapshot that comes next.
    partial: Option<Partial>,
    /// Whether the replica knows snapshots and can compare.
    knows_snapshots: bool,
    /// Offsets of what this session pushed: they come back without their bodies.
    own: IntervalSet,
    /// Snapshots that this session offered and that were taken as they are, with their bytes.
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
    /// Documents that the filters of all subscriptions name.
    filter_documents: usize,
    /// Ranges of own offsets of all subscriptions.
    own_ranges: usize,
    /// What the peer can do beyond its version.
    features: u64,
    last_push: u64,
    /// Pushes that the space's machine has to answer, with the ticket of their subscription.
    in_flight: BTreeMap<u64, (SubscriptionId, u64)>,
    /// Snapshots that the client has yet to send, or that are in flight.
    offers: Offers,
    /// The ticket of the last subscription.
    tickets: u64,
    /// Questions that are not answered yet.
    queries: usize,
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
            filter_documents: 0,
            own_ranges: 0,
            features: 0,
            last_push: 0,
            in_flight: BTreeMap::new(),
            offers: Offers::default(),
            tickets: 0,
            queries: 0,
            heard: now,
            pinged: false,
            effects: VecDeque::new(),
        }
    }

    /// What to do next, if anything.
    pub fn poll_effect(&mut self) -> Option<SessionEffect> {
        self.effects.pop_front()
    }

    /// Whether the next frame should be handled, and the next message be read: false while too many
    /// pushes or questions are unanswered, so that TCP holds the client back. What waits for the
    /// client, such as an offer whose parts are to come, never holds it back.
    pub fn wants_message(&self) -> bool {
        self.in_flight.len() < limits::PUSHES_IN_FLIGHT && self.queries < limits::QUERIES
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

    /// A binary message arrived: handles all of its frames. A caller that bounds what one message
    /// can cause calls [`Session::handle_alive`] and [`Session::handle_next`] instead.
    pub fn handle_message(&mut self, now: Moment, message: &[u8], rights: &dyn Rights) {
        self.handle_alive(now);
        let mut at = Some(0);
        while let Some(from) = at {
            at = self.handle_next(message, from, rights);
        }
    }

    /// Handles the frame of a message that begins at this byte; gives where the next one does, or
    /// `None` after the last, and once the session has ended.
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
            (_, Frame::Features(told)) => self.features = told.bits,
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
                    for id in self.offers.withdraw_all(subscription) {
                        self.in_flight.remove(&id);
                    }
                    self.effects.push_back(SessionEffect::Detach(subscription));
                }
            }
            Frame::Refilter(refilter) => self.handle_refilter(refilter),
            Frame::Reconciled(subscription) => self.handle_reconciled(subscription),
            Frame::Digest(query) => self.handle_digest(query),
            Frame::Fetch(fetch) => self.handle_fetch(fetch),
            Frame::PushEntry(entry) => self.handle_push_entry(entry, rights),
            Frame::PushSnapshot(offer) => self.handle_push_snapshot(offer, rights),
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
            | Frame::Wanted(_)
            | Frame::Difference(_)
            | Frame::Document(_)
            | Frame::Resend(_)
            | Frame::Mended(_) => {
                let what = "a frame that only a relay sends, or a second hello".to_owned();
                self.fail(Code::OUT_OF_ORDER, what, "see docs/protocol.md for who sends what");
            }
        }
    }

    fn handle_subscribe(&mut self, request: Request, rights: &dyn Rights) {
        let Request { subscription, space, filter, cursor, acknowledged, .. } = request;
        if self.subscriptions.contains_key(&subscription) {
            let what = format!("subscription {subscription} is in use");
            return self.fail(Code::OUT_OF_ORDER, what, "give each subscription a new number");
        }
        if self.subscriptions.len() >= limits::SUBSCRIPTIONS {
            let what = format!("{} subscriptions are open", limits::SUBSCRIPTIONS);
            return self.refuse_too_many(subscription, what);
        }
        if self.filter_documents + named(&filter) > limits::SESSION_FILTER_DOCUMENTS {
            let limit = limits::SESSION_FILTER_DOCUMENTS;
            let what = format!("the filters of this session name {limit} documents");
            return self.refuse_too_many(subscription, what);
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
        let holds = request.holds;
        self.tickets += 1;
        let entry = Subscription {
            space: space.clone(),
            ticket: self.tickets,
            filter: filter.clone(),
            position: None,
            comparing: false,
            fetching: false,
            partial: request.partial,
            knows_snapshots: request.knows_snapshots,
            own: IntervalSet::new(),
            own_snapshots: BTreeMap::new(),
        };
        self.filter_documents += named(&filter);
        self.subscriptions.insert(subscription, entry);
        self.effects.push_back(SessionEffect::Attach {
            subscription,
            space,
            cursor,
            acknowledged,
            filter,
            holds,
        });
    }

    fn refuse_too_many(&mut self, subscription: SubscriptionId, what: String) {
        let hint = "remove spaces that are not needed here, or use a second connection".to_owned();
        self.refuse_subscription(subscription, Code::TOO_MANY_SUBSCRIPTIONS, what, hint);
    }

    /// The relay has no room for another subscription, of whatever session: it is refused.
    pub fn handle_no_room(&mut self, subscription: SubscriptionId, limit: usize) {
        if self.remove_subscription(subscription) {
            let what = format!("the relay's {limit} subscriptions are taken");
            self.refuse_too_many(subscription, what);
            self.effects.push_back(SessionEffect::Detach(subscription));
        }
    }

    /// True if there was one.
    fn remove_subscription(&mut self, subscription: SubscriptionId) -> bool {
        let Some(entry) = self.subscriptions.remove(&subscription) else { return false };
        self.filter_documents -= named(&entry.filter);
        self.own_ranges -= entry.own.intervals();
        true
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
        if let Some(space) = self.begin_push(push.id, push.subscription, &push.document, rights) {
            self.effects.push_back(SessionEffect::Push { space, push });
        }
    }

    /// What every kind of push must pass; gives its space.
    fn begin_push(
        &mut self,
        id: u64,
        subscription: SubscriptionId,
        document: &DocumentId,
        rights: &dyn Rights,
    ) -> Option<SpaceName> {
        if id <= self.last_push {
            let what = format!("push {id} after push {}", self.last_push);
            self.fail(Code::OUT_OF_ORDER, what, "number pushes upwards");
            return None;
        }
        self.last_push = id;
        let Some(entry) = self.subscriptions.get(&subscription) else {
            let what = format!("a push to subscription {subscription}, which does not exist");
            self.fail(Code::UNKNOWN_SUBSCRIPTION, what, "subscribe to the space first");
            return None;
        };
        let (space, ticket) = (entry.space.clone(), entry.ticket);
        // Whoever pushes to a document has given up what it offered of it before.
        if let Some(id) = self.offers.withdraw(subscription, document) {
            self.in_flight.remove(&id);
        }
        let Phase::Ready(identity) = &self.phase else { return None };
        if let Err(denied) = rights.may_push(identity, &space, document) {
            let nack = Nack {
                id,
                code: Code::FORBIDDEN,
                class: NackClass::REFUSED,
                retry_after_ms: 0,
                what: fit(denied.to_string()),
            };
            self.send(Frame::Nack(nack));
            return None;
        }
        self.in_flight.insert(id, (subscription, ticket));
        Some(space)
    }

    /// A push was answered.
    pub fn handle_answer(&mut self, now: Moment, answer: Answer) {
        let Some((subscription, ticket)) = self.in_flight.remove(&answer.push) else { return };
        let offer = self.offers.remove(answer.push);
        if !self.wants_message_without(1) {
            // While nothing was read, the peer could not show that it is alive.
            self.heard = now;
        }
        // Of the subscription that it was pushed over, not of a later one with its number.
        let entry = self.subscriptions.get_mut(&subscription);
        if let (Some(added), Some(entry)) = (answer.added, entry.filter(|e| e.ticket == ticket)) {
            if let Some(offer) = offer
                && entry.own_snapshots.len() < limits::PUSHES_IN_FLIGHT
            {
                entry.own_snapshots.insert(offer.hash, offer.total);
            }
            let before = entry.own.intervals();
            if before < limits::OWN_RANGES && self.own_ranges < limits::SESSION_OWN_RANGES {
                entry.own.insert(added.0.0, added.1.0);
                self.own_ranges = self.own_ranges + entry.own.intervals() - before;
            }
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

    fn fail_unknown(&mut self, subscription: SubscriptionId) {
        let what = format!("a frame for subscription {subscription}, which does not exist");
        self.fail(Code::UNKNOWN_SUBSCRIPTION, what, "subscribe to the space first");
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

/// How many documents a filter names.
fn named(filter: &Filter) -> usize {
    match filter {
        Filter::Everything => 0,
        Filter::Documents(documents) => documents.len(),
    }
}

/// A subscription as either frame asks for it.
struct Request {
    subscription: SubscriptionId,
    space: SpaceName,
    filter: Filter,
    cursor: Option<Cursor>,
    acknowledged: Option<Mark>,
    holds: bool,
    partial: Option<Partial>,
    knows_snapshots: bool,
}

impl From<Subscribe> for Request {
    fn from(frame: Subscribe) -> Self {
        let Subscribe { subscription, space, filter, cursor, acknowledged } = frame;
        let (holds, partial, knows_snapshots) = (false, None, false);
        Self { subscription, space, filter, cursor, acknowledged, holds, partial, knows_snapshots }
    }
}

impl From<SubscribeFrom> for Request {
    fn from(frame: SubscribeFrom) -> Self {
        let SubscribeFrom { subscription, space, filter, cursor, acknowledged, holds, partial } =
            frame;
        let knows_snapshots = true;
        Self { subscription, space, filter, cursor, acknowledged, holds, partial, knows_snapshots }
    }
}
