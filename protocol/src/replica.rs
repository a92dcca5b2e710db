//! The engine's machine: one connection to a relay, any number of spaces over it.
//!
//! Inputs are `handle_*`; after each, [`Replica::poll_effect`] is drained. What the store must do
//! leaves as an effect, and its outcome comes back as an input. The machine outlives connections:
//! [`Replica::handle_connected`] begins one, [`Replica::handle_disconnected`] forgets all that
//! was only true of it. What must survive (cursor, mark, what is held) is the store's.
//!
//! An ack never moves the cursor: only entries do, so nothing between them is skipped.

mod effects;
mod outbox;
mod receive;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::code::Code;
use crate::frame::{
    Close, Filter, Frame, Frames, Hello, Subscribe, Subscribed, SubscriptionId, VERSIONS, Welcome,
};
use crate::ids::{Offset, ReplicaId, SpaceName, Upstream};
use crate::limits;
use crate::moment::Moment;
use crate::session::Patience;

use outbox::Outbox;
use receive::Receiver;

pub use effects::{
    AsideReason, Batch, EndReason, Incoming, ReplicaEffect, ResumePoint, SpacePhase,
};
pub use outbox::OutboxChange;

#[derive(Debug)]
enum Phase {
    Disconnected,
    AwaitingWelcome,
    Ready { upstream: Upstream, limits: PushLimits },
    Ending,
}

/// What the relay takes, as far as it is tighter than our own limits.
#[derive(Debug, Clone, Copy)]
struct PushLimits {
    changes: usize,
    in_flight: usize,
}

/// One space on this connection.
#[derive(Debug)]
struct SpaceLink {
    subscription: SubscriptionId,
    receiver: Receiver,
    outbox: Outbox,
    told: SpacePhase,
}

/// The machine.
#[derive(Debug)]
pub struct Replica {
    replica: ReplicaId,
    agent: String,
    patience: Patience,
    phase: Phase,
    spaces: BTreeMap<SpaceName, SpaceLink>,
    next_subscription: SubscriptionId,
    next_push: u64,
    pushes_in_flight: usize,
    storing_bytes: usize,
    heard: Moment,
    pinged: bool,
    effects: VecDeque<ReplicaEffect>,
}

impl Replica {
    /// A machine without a connection.
    pub fn new(replica: ReplicaId, agent: String, patience: Patience) -> Self {
        Self {
            replica,
            agent,
            patience,
            phase: Phase::Disconnected,
            spaces: BTreeMap::new(),
            next_subscription: 0,
            next_push: 0,
            pushes_in_flight: 0,
            storing_bytes: 0,
            heard: Moment::default(),
            pinged: false,
            effects: VecDeque::new(),
        }
    }

    /// What to do next, if anything.
    pub fn poll_effect(&mut self) -> Option<ReplicaEffect> {
        self.effects.pop_front()
    }

    /// Whether the next message should be read: false while too much waits for the store.
    pub fn wants_message(&self) -> bool {
        self.storing_bytes < limits::STORING_BYTES
    }

    /// Whether a handshake is done and the connection goes on.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// The app uses this space. Once told, it is subscribed on every connection.
    pub fn handle_space(&mut self, space: SpaceName) {
        if self.spaces.contains_key(&space) {
            return;
        }
        self.spaces.insert(space.clone(), SpaceLink::new(self.next_subscription));
        self.next_subscription += 1;
        if let Phase::Ready { upstream, .. } = self.phase {
            self.effects.push_back(ReplicaEffect::LoadResume { upstream, space });
        }
    }

    /// A connection stands. `token` is what proves who we are, if the relay asks for that.
    pub fn handle_connected(&mut self, now: Moment, token: Option<Vec<u8>>) {
        self.handle_disconnected();
        self.phase = Phase::AwaitingWelcome;
        self.heard = now;
        self.send(Frame::Hello(Hello {
            versions: VERSIONS.to_vec(),
            replica: self.replica,
            token: token.map(Into::into),
            agent: self.agent.clone(),
        }));
    }

    /// The connection is gone. Effects that were not polled are void.
    pub fn handle_disconnected(&mut self) {
        self.phase = Phase::Disconnected;
        self.effects.clear();
        self.pushes_in_flight = 0;
        self.storing_bytes = 0;
        self.pinged = false;
        self.next_push = 0;
        self.next_subscription = 0;
        for (space, link) in &mut self.spaces {
            let told = std::mem::replace(&mut link.told, SpacePhase::Waiting);
            *link = SpaceLink::new(self.next_subscription);
            self.next_subscription += 1;
            if told != SpacePhase::Waiting {
                let (space, phase) = (space.clone(), SpacePhase::Waiting);
                self.effects.push_back(ReplicaEffect::Phase { space, phase });
            }
        }
    }

    /// The app goes offline, or the engine closes: says goodbye.
    pub fn handle_close(&mut self, reason: &str) {
        if !matches!(self.phase, Phase::Disconnected | Phase::Ending) {
            let reason = crate::frame::fit(reason.to_owned());
            self.send(Frame::Close(Close { code: Code::GOODBYE, reason }));
            self.phase = Phase::Ending;
        }
    }

    /// A binary message arrived.
    pub fn handle_message(&mut self, now: Moment, message: &[u8]) {
        self.handle_alive(now);
        let frames = match Frames::new(message) {
            Ok(frames) => frames,
            Err(error) => return self.end(EndReason::Malformed(error)),
        };
        for frame in frames {
            match frame {
                _ if matches!(self.phase, Phase::Ending | Phase::Disconnected) => return,
                Ok(frame) => self.handle_frame(now, frame),
                Err(error) => return self.end(EndReason::Malformed(error)),
            }
        }
    }

    /// Some sign of life that is no message, such as a WebSocket ping.
    pub fn handle_alive(&mut self, now: Moment) {
        self.heard = now;
        self.pinged = false;
    }

    fn handle_frame(&mut self, now: Moment, frame: Frame) {
        match (&self.phase, frame) {
            (_, Frame::Error(error)) => {
                let (code, what, hint) = (error.code, error.what, error.hint);
                self.end(EndReason::Ended { code, what, hint });
            }
            (_, Frame::Close(close)) => {
                let hint = "the link will connect again".to_owned();
                self.end(EndReason::Ended { code: close.code, what: close.reason, hint });
            }
            (_, Frame::Ping(nonce)) => self.send(Frame::Pong(nonce)),
            (_, Frame::Pong(_)) => {}
            (Phase::AwaitingWelcome, Frame::Welcome(welcome)) => self.handle_welcome(&welcome),
            (Phase::Ready { .. }, frame) => self.handle_ready(now, frame),
            (_, frame) => self.broken(format!("a {} frame before welcome", name_of(&frame))),
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome) {
        if !VERSIONS.contains(&welcome.version) {
            return self.broken(format!("it chose version {}", welcome.version));
        }
        let upstream = welcome.upstream;
        let limits = PushLimits {
            changes: (welcome.push_changes as usize).clamp(1, limits::PUSH_CHANGES),
            in_flight: (welcome.pushes_in_flight as usize).clamp(2, limits::PUSHES_IN_FLIGHT),
        };
        self.phase = Phase::Ready { upstream, limits };
        self.effects.push_back(ReplicaEffect::Welcomed(upstream));
        for space in self.spaces.keys().cloned() {
            self.effects.push_back(ReplicaEffect::LoadResume { upstream, space });
        }
    }

    /// Where a space stands with the upstream, as the store has it.
    pub fn handle_resume(&mut self, space: &SpaceName, point: ResumePoint) {
        let Phase::Ready { .. } = self.phase else { return };
        let Some(link) = self.spaces.get_mut(space) else { return };
        link.receiver.begin(point.cursor);
        let subscribe = Subscribe {
            subscription: link.subscription,
            space: space.clone(),
            filter: Filter::Everything,
            cursor: point.cursor,
            acknowledged: point.acknowledged,
        };
        self.send(Frame::Subscribe(subscribe));
    }

    fn handle_ready(&mut self, now: Moment, frame: Frame) {
        match frame {
            Frame::Subscribed(subscribed) => self.handle_subscribed(now, &subscribed),
            Frame::Unsubscribed(ended) if ended.code.is_passing() => {
                let (code, what, hint) = (ended.code, ended.what, ended.hint);
                self.end(EndReason::Ended { code, what, hint });
            }
            Frame::Unsubscribed(ended) => {
                let what = format!("{}; {}", ended.what, ended.hint);
                let phase = SpacePhase::Refused { code: ended.code, what };
                if let Some(space) = self.space_of(ended.subscription) {
                    self.refuse_space(&space, phase);
                }
            }
            Frame::Entries(entries) => self.handle_entries(now, entries),
            Frame::Ack(ack) => self.handle_ack(now, ack),
            Frame::Nack(nack) => self.handle_nack(now, nack),
            frame => self.broken(format!("a {} frame, which only a client sends", name_of(&frame))),
        }
    }

    fn refuse_space(&mut self, space: &SpaceName, phase: SpacePhase) {
        if let Some(link) = self.spaces.get_mut(space) {
            self.pushes_in_flight -= link.outbox.stop();
            link.receiver.stop();
            link.told = phase.clone();
            self.effects.push_back(ReplicaEffect::Phase { space: space.clone(), phase });
        }
    }

    fn handle_subscribed(&mut self, now: Moment, subscribed: &Subscribed) {
        let Some(space) = self.space_of(subscribed.subscription) else {
            return self.broken("it answers a subscription that nobody asked for".to_owned());
        };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        if !link.receiver.handle_subscribed(subscribed) {
            return self.broken("it answers one subscription twice".to_owned());
        }
        if !subscribed.resumed {
            self.effects.push_back(ReplicaEffect::Reset { space });
            return;
        }
        self.progress(now, &space);
    }

    /// The store has forgotten the cursor, as [`ReplicaEffect::Reset`] asked.
    pub fn handle_reset(&mut self, now: Moment, space: &SpaceName) {
        if let Some(link) = self.spaces.get_mut(space) {
            link.receiver.handle_reset();
            self.progress(now, space);
        }
    }

    /// The store wrote a batch.
    pub fn handle_stored(&mut self, now: Moment, space: &SpaceName, bytes: usize) {
        if !self.is_ready() {
            return;
        }
        if !self.wants_message() {
            // While nothing was read, the relay could not show that it is alive.
            self.heard = now;
        }
        self.storing_bytes = self.storing_bytes.saturating_sub(bytes);
        if let Some(link) = self.spaces.get_mut(space) {
            link.receiver.handle_stored(bytes);
            self.progress(now, space);
        }
    }

    /// The store failed at something that the machine asked for. The connection ends, and the
    /// next one begins from what the store holds.
    pub fn handle_store_failed(&mut self, what: String) {
        if !matches!(self.phase, Phase::Disconnected | Phase::Ending) {
            self.end(EndReason::Store(what));
        }
    }

    /// Tells a space's phase if it changed, and pushes what may be pushed.
    fn progress(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let phase = link.receiver.phase();
        if matches!(link.told, SpacePhase::Refused { .. }) {
            return;
        }
        if phase != link.told {
            link.told = phase.clone();
            self.effects.push_back(ReplicaEffect::Phase { space: space.clone(), phase });
        }
        if link.receiver.may_push() {
            link.outbox.open();
        }
        self.pump(now, space);
    }

    fn space_of(&self, subscription: SubscriptionId) -> Option<SpaceName> {
        let found = self.spaces.iter().find(|(_, link)| link.subscription == subscription);
        found.map(|(space, _)| space.clone())
    }

    /// When [`Replica::handle_timeout`] is next to be called.
    pub fn poll_timeout(&self) -> Moment {
        let silence = match self.phase {
            Phase::Disconnected | Phase::Ending => return Moment(Duration::MAX),
            Phase::AwaitingWelcome => self.heard.after(self.patience.handshake),
            Phase::Ready { .. } if self.pinged => self.heard.after(self.patience.drop_after),
            Phase::Ready { .. } => self.heard.after(self.patience.ping_after),
        };
        let retries = self.spaces.values().filter_map(|link| link.outbox.paused_until());
        retries.fold(silence, Ord::min)
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        let silent = now.since(self.heard);
        match self.phase {
            Phase::Ready { .. } if !self.wants_message() => self.heard = now,
            Phase::AwaitingWelcome if silent >= self.patience.handshake => {
                self.end(EndReason::Silent(silent));
            }
            Phase::Ready { .. } if silent >= self.patience.drop_after => {
                self.end(EndReason::Silent(silent));
            }
            Phase::Ready { .. } if silent >= self.patience.ping_after && !self.pinged => {
                self.pinged = true;
                self.send(Frame::Ping(self.next_push));
            }
            _ => {}
        }
        let spaces: Vec<SpaceName> = self.spaces.keys().cloned().collect();
        spaces.iter().for_each(|space| self.pump(now, space));
    }

    fn broken(&mut self, what: String) {
        self.end(EndReason::Broken(what));
    }

    fn end(&mut self, reason: EndReason) {
        let (code, text) = match &reason {
            EndReason::Broken(_) => (Code::OUT_OF_ORDER, reason.to_string()),
            EndReason::Malformed(error) => (error.code(), reason.to_string()),
            EndReason::Silent(_) => (Code::SILENT, reason.to_string()),
            EndReason::Ended { .. } | EndReason::Store(_) => (Code::GOODBYE, String::new()),
        };
        self.send(Frame::Close(Close { code, reason: crate::frame::fit(text) }));
        self.phase = Phase::Ending;
        self.effects.push_back(ReplicaEffect::End(reason));
    }

    fn send(&mut self, frame: Frame) {
        self.effects.push_back(ReplicaEffect::Send(frame));
    }
}

impl SpaceLink {
    fn new(subscription: SubscriptionId) -> Self {
        let (receiver, outbox) = (Receiver::default(), Outbox::default());
        Self { subscription, receiver, outbox, told: SpacePhase::Waiting }
    }
}

fn name_of(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello(_) => "hello",
        Frame::Welcome(_) => "welcome",
        Frame::Error(_) => "error",
        Frame::Subscribe(_) => "subscribe",
        Frame::Subscribed(_) => "subscribed",
        Frame::Unsubscribe(_) => "unsubscribe",
        Frame::Unsubscribed(_) => "unsubscribed",
        Frame::Entries(_) => "entries",
        Frame::Push(_) => "push",
        Frame::Ack(_) => "ack",
        Frame::Nack(_) => "nack",
        Frame::Ping(_) => "ping",
        Frame::Pong(_) => "pong",
        Frame::Close(_) => "close",
    }
}

/// Offsets in tests and in status.
const fn distance(from: Offset, to: Offset) -> u64 {
    to.0.saturating_sub(from.0)
}
