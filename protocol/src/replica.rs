//! The engine's machine: one connection to a relay, with any number of spaces.
//!
//! Inputs are `handle_*`; after each, drain [`Replica::poll_effect`]. Store work leaves as an
//! effect, and its outcome returns as an input. The machine outlives connections:
//! [`Replica::handle_connected`] begins one, [`Replica::handle_disconnected`] drops its state.
//! Durable state (cursor, mark, acked ranges) belongs to the store. The machine knows no socket,
//! clock or file.
//!
//! An ack never moves the cursor: only entries do, so nothing between them is skipped.

mod checks;
mod compare;
mod effects;
mod ephemeral;
mod outbox;
mod receive;
mod resend;
mod spaces;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::code::Code;
use crate::ephemeral::Sources;
use crate::frame::{
    Close, Features, Filter, Frame, Frames, Hello, Subscribed, SubscriptionId, VERSIONS, Welcome,
    features,
};
use crate::ids::{Local, Offset, ReplicaId, SpaceName, Upstream};
use crate::limits;
use crate::moment::Moment;
use crate::session::Patience;

use checks::CheckState;
use compare::Compare;
use outbox::Outbox;
use receive::Receiver;
use resend::Resends;

pub use effects::{
    Batch, DeferredReason, DocumentBatch, DocumentHeads, EndReason, Incoming, ReplicaEffect,
    ResumePoint, SpacePhase, Unchecked,
};
pub use outbox::{OutboxChange, OutboxKind};
pub use receive::PART_WEIGHT;
pub use resend::Resendable;

#[derive(Debug)]
enum Phase {
    Disconnected,
    AwaitingWelcome,
    Ready { upstream: Upstream, limits: PushLimits },
    Ending,
}

/// The relay's limits for pushes, where they are below our own.
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
    filter: Filter,
    /// The comparison in progress.
    compare: Option<Compare>,
    /// The check that was requested and has not begun.
    check: CheckState,
    /// Whether the space waits in `hungry`.
    hungry: bool,
    /// Whether `Refilter` was sent and is unanswered.
    refiltering: bool,
    /// The number of unanswered `LoadResume` effects.
    resumes: u32,
    /// Whether ephemeral messages can be sent.
    sends_ephemeral: bool,
}

/// A ping that must be answered soon, or the connection counts as dead.
#[derive(Debug)]
struct Probe {
    nonce: u64,
    /// The deadline for the next received message.
    until: Moment,
}

/// The machine.
#[derive(Debug)]
pub struct Replica {
    replica: ReplicaId,
    agent: String,
    patience: Patience,
    phase: Phase,
    spaces: BTreeMap<SpaceName, SpaceLink>,
    /// The spaces of the subscriptions of this connection.
    subscriptions: BTreeMap<SubscriptionId, SpaceName>,
    /// The spaces of the pushes in flight.
    pushes: BTreeMap<u64, SpaceName>,
    next_subscription: SubscriptionId,
    next_push: u64,
    /// Bytes of all pushes in flight.
    window: usize,
    /// Spaces with a page of their outbox in memory, or being read.
    paged: BTreeSet<SpaceName>,
    /// Spaces that wait for their turn to read a page.
    hungry: VecDeque<SpaceName>,
    /// Spaces with a deadline.
    timers: BTreeSet<SpaceName>,
    /// The number of steps made by checks.
    check_steps: u64,
    storing_bytes: usize,
    /// The relay's repair requests.
    resends: Resends,
    /// The relay's features beyond its version.
    features: u64,
    /// The known sources of ephemeral messages, over all spaces.
    sources: Sources,
    heard: Moment,
    pinged: bool,
    /// Pings sent, over all connections; each has its own nonce.
    pings: u64,
    probe: Option<Probe>,
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
            subscriptions: BTreeMap::new(),
            pushes: BTreeMap::new(),
            next_subscription: 0,
            next_push: 0,
            window: 0,
            paged: BTreeSet::new(),
            hungry: VecDeque::new(),
            timers: BTreeSet::new(),
            check_steps: 0,
            storing_bytes: 0,
            resends: Resends::default(),
            features: 0,
            sources: Sources::default(),
            heard: Moment::default(),
            pinged: false,
            pings: 0,
            probe: None,
            effects: VecDeque::new(),
        }
    }

    /// Sets how long the relay may be silent.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// The next effect, if any.
    pub fn poll_effect(&mut self) -> Option<ReplicaEffect> {
        self.effects.pop_front()
    }

    /// Whether to read the next message: false while too much waits for the store.
    pub fn wants_message(&self) -> bool {
        self.storing_bytes < limits::STORING_BYTES
    }

    /// Whether the handshake is complete and the connection continues.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// A connection was established. `token` authenticates us, if the relay requires it.
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
        self.send(Frame::Features(Features { bits: features::ALL }));
    }

    /// The connection is gone. Effects that were not polled are void.
    pub fn handle_disconnected(&mut self) {
        self.phase = Phase::Disconnected;
        self.effects.clear();
        self.subscriptions.clear();
        self.pushes.clear();
        self.window = 0;
        self.paged.clear();
        self.hungry.clear();
        self.timers.clear();
        self.storing_bytes = 0;
        self.resends.end();
        self.features = 0;
        (self.pinged, self.probe) = (false, None);
        self.next_push = 0;
        self.next_subscription = 0;
        for (space, link) in &mut self.spaces {
            let told = std::mem::replace(&mut link.told, SpacePhase::Waiting);
            let spoke = link.sends_ephemeral;
            let check = link.take_check();
            *link = SpaceLink { check, ..SpaceLink::new(self.next_subscription) };
            self.subscriptions.insert(self.next_subscription, space.clone());
            self.next_subscription += 1;
            if told != SpacePhase::Waiting {
                let (space, phase) = (space.clone(), SpacePhase::Waiting);
                self.effects.push_back(ReplicaEffect::Phase { space, phase });
            }
            if spoke {
                let (space, filter) = (space.clone(), None);
                self.effects.push_back(ReplicaEffect::SendsEphemeral { space, filter });
            }
        }
    }

    /// The application goes offline, or the engine closes: sends `Close`.
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

    /// A sign of life that is not a message, such as a WebSocket ping.
    pub fn handle_alive(&mut self, now: Moment) {
        self.heard = now;
        self.pinged = false;
        self.extend_probe(now);
    }

    /// The arrived bytes may have been sent before the probe, so they do not answer it; but the
    /// answer may be behind them.
    fn extend_probe(&mut self, now: Moment) {
        if let Some(probe) = &mut self.probe {
            probe.until = now.after(limits::PROBE);
        }
    }

    /// Checks at once whether the connection is alive, as the application asked: sends a ping, and
    /// ends with [`EndReason::Unanswered`] if nothing is received for [`limits::PROBE`] before its
    /// pong.
    pub fn handle_probe(&mut self, now: Moment) {
        if self.is_ready() && self.probe.is_none() {
            let nonce = self.ping();
            self.probe = Some(Probe { nonce, until: now.after(limits::PROBE) });
        }
    }

    /// Sends a ping and returns its nonce.
    fn ping(&mut self) -> u64 {
        self.pings += 1;
        self.send(Frame::Ping(self.pings));
        self.pings
    }

    fn handle_frame(&mut self, now: Moment, frame: Frame) {
        match (&self.phase, frame) {
            (_, Frame::Error(error)) => {
                let (code, what, hint) = (error.code, error.what, error.hint);
                self.end(EndReason::Ended { code, what, hint });
            }
            (_, Frame::Close(close)) => {
                let hint = "the link connects again".to_owned();
                self.end(EndReason::Ended { code: close.code, what: close.reason, hint });
            }
            (_, Frame::Ping(nonce)) => self.send(Frame::Pong(nonce)),
            (_, Frame::Pong(nonce)) => {
                self.probe.take_if(|probe| probe.nonce == nonce);
            }
            (Phase::AwaitingWelcome, Frame::Features(told)) => self.features = told.bits,
            (Phase::AwaitingWelcome, Frame::Welcome(welcome)) => self.handle_welcome(&welcome),
            (Phase::Ready { .. }, frame) => self.handle_ready(now, frame),
            (_, frame) => self.broken(format!("a {} frame before welcome", name_of(&frame))),
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome) {
        if !VERSIONS.contains(&welcome.version) {
            return self
                .broken(format!("it chose version {}, which was not offered", welcome.version));
        }
        let upstream = welcome.upstream;
        let limits = PushLimits {
            changes: (welcome.push_changes as usize).clamp(1, limits::PUSH_CHANGES),
            in_flight: (welcome.pushes_in_flight as usize).clamp(2, limits::PUSHES_IN_FLIGHT),
        };
        self.phase = Phase::Ready { upstream, limits };
        self.effects.push_back(ReplicaEffect::Welcomed(upstream));
        let spaces: Vec<SpaceName> = self.spaces.keys().cloned().collect();
        spaces.into_iter().for_each(|space| self.load_resume(space));
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
            Frame::Part(part) => self.handle_part(part),
            Frame::Difference(found) => self.handle_difference(now, found),
            Frame::Document(found) => self.handle_document(now, found),
            Frame::UploadFrom(wanted) => self.handle_wanted(wanted),
            Frame::Ack(ack) => self.handle_ack(now, ack),
            Frame::Nack(nack) => self.handle_nack(now, nack),
            Frame::Ephemeral(message) => self.handle_ephemeral(message),
            Frame::Resend(asked) => self.handle_resend(now, asked),
            Frame::Repaired(repaired) => self.handle_repaired(now, repaired),
            frame => self.broken(format!("a {} frame, which only a client sends", name_of(&frame))),
        }
    }

    fn handle_subscribed(&mut self, now: Moment, subscribed: &Subscribed) {
        let Some(space) = self.space_of(subscribed.subscription) else {
            if subscribed.subscription < self.next_subscription {
                // The answer crossed the end of its subscription.
                return;
            }
            return self.broken("it answers an unknown subscription".to_owned());
        };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        if std::mem::take(&mut link.refiltering) {
            link.receiver.handle_refiltered(subscribed);
            return self.compare_on(now, &space);
        }
        if !link.receiver.handle_subscribed(subscribed) {
            return self.broken("it answers one subscription twice".to_owned());
        }
        self.announce_ephemeral(&space, true);
        if !subscribed.resumed {
            self.effects.push_back(ReplicaEffect::Reset { space });
            return;
        }
        self.progress(now, &space);
    }

    /// The store has removed the cursor, as [`ReplicaEffect::Reset`] asked. `through` is its last
    /// local change.
    pub fn handle_reset(&mut self, now: Moment, space: &SpaceName, through: Local) {
        let compares = self.features & features::RECONCILE != 0;
        if let Some(link) = self.spaces.get_mut(space) {
            if !link.receiver.handle_reset(compares) {
                // The answer belongs to the previous subscription.
                return;
            }
            if compares {
                link.compare = Some(Compare::of_lineage(&link.filter, through));
                self.compare_on(now, space);
            }
            self.progress(now, space);
        }
    }

    /// The store wrote a batch.
    pub fn handle_stored(&mut self, now: Moment, space: &SpaceName, bytes: usize) {
        if !self.is_ready() {
            return;
        }
        if !self.wants_message() {
            // Reading was paused, so the relay could not show that it is alive.
            self.heard = now;
        }
        self.storing_bytes = self.storing_bytes.saturating_sub(bytes);
        if let Some(link) = self.spaces.get_mut(space) {
            link.receiver.handle_stored(bytes);
            if !link.refiltering {
                self.compare_on(now, space);
            }
            self.progress(now, space);
        }
    }

    /// A batch will not be written, because its space was removed.
    pub fn handle_discarded(&mut self, now: Moment, bytes: usize) {
        if !self.wants_message() {
            self.heard = now;
        }
        self.storing_bytes = self.storing_bytes.saturating_sub(bytes);
    }

    /// A requested store operation failed. The connection ends, and the next one resumes from the
    /// store's state.
    pub fn handle_store_failed(&mut self, what: String) {
        if !matches!(self.phase, Phase::Disconnected | Phase::Ending) {
            self.end(EndReason::Store(what));
        }
    }

    /// Reports a changed phase of the space, and pushes what may be pushed.
    fn progress(&mut self, now: Moment, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        if matches!(link.told, SpacePhase::Refused { .. }) {
            return;
        }
        if link.receiver.may_push() {
            link.outbox.open();
        }
        self.tell_phase(space);
        self.pump(now, space);
        self.try_check(now, space);
    }

    /// Reports a space's phase if it changed.
    fn tell_phase(&mut self, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let phase = match &link.compare {
            Some(compare) if link.receiver.is_comparing() => SpacePhase::Comparing {
                documents: compare.to_come(),
                snapshot: link.receiver.arriving(),
            },
            _ => link.receiver.phase(),
        };
        if phase != link.told && !matches!(link.told, SpacePhase::Refused { .. }) {
            link.told = phase.clone();
            self.effects.push_back(ReplicaEffect::Phase { space: space.clone(), phase });
        }
    }

    fn space_of(&self, subscription: SubscriptionId) -> Option<SpaceName> {
        self.subscriptions.get(&subscription).cloned()
    }

    /// When to call [`Replica::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Moment {
        let silence = match self.phase {
            Phase::Disconnected | Phase::Ending => return Moment(Duration::MAX),
            Phase::AwaitingWelcome => self.heard.after(self.patience.handshake),
            Phase::Ready { .. } if self.pinged => self.heard.after(self.patience.drop_after),
            Phase::Ready { .. } => self.heard.after(self.patience.ping_after),
        };
        let waits = self.timers.iter().filter_map(|space| self.spaces.get(space)?.wakes_at());
        let waits = waits.chain(self.resends.wakes_at());
        waits.chain(self.probe.as_ref().map(|probe| probe.until)).fold(silence, Ord::min)
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        let silent = now.since(self.heard);
        match self.phase {
            Phase::Ready { .. } if !self.wants_message() => {
                self.heard = now;
                // The answer to the probe cannot arrive while reading is paused.
                self.extend_probe(now);
            }
            Phase::Ready { .. } if self.probe.as_ref().is_some_and(|probe| probe.until <= now) => {
                self.end(EndReason::Unanswered(limits::PROBE));
            }
            Phase::AwaitingWelcome if silent >= self.patience.handshake => {
                self.end(EndReason::Silent(silent));
            }
            Phase::Ready { .. } if silent >= self.patience.drop_after => {
                self.end(EndReason::Silent(silent));
            }
            Phase::Ready { .. } if silent >= self.patience.ping_after && !self.pinged => {
                self.pinged = true;
                self.ping();
            }
            _ => {}
        }
        let is_due = |space: &SpaceName| {
            let wakes = self.spaces.get(space).and_then(SpaceLink::wakes_at);
            wakes.is_none_or(|at| at <= now)
        };
        let due: Vec<SpaceName> =
            self.timers.iter().filter(|space| is_due(space)).cloned().collect();
        for space in due {
            self.timers.remove(&space);
            self.pump(now, &space);
            self.try_check(now, &space);
        }
        self.handle_resend_timeout(now);
    }

    fn broken(&mut self, what: String) {
        self.end(EndReason::Broken(what));
    }

    fn end(&mut self, reason: EndReason) {
        let (code, text) = match &reason {
            EndReason::Broken(_) => (Code::OUT_OF_ORDER, reason.to_string()),
            EndReason::Malformed(error) => (error.code(), reason.to_string()),
            EndReason::Silent(_) | EndReason::Unanswered(_) => (Code::SILENT, reason.to_string()),
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
        Frame::Features(_) => "features",
        Frame::SubscribeFrom(_) => "subscribe-from",
        Frame::Part(_) => "part",
        Frame::PushSnapshot(_) => "push-snapshot",
        Frame::UploadFrom(_) => "wanted",
        Frame::PushEntry(_) => "push-entry",
        Frame::Digest(_) => "digest",
        Frame::Difference(_) => "difference",
        Frame::Fetch(_) => "fetch",
        Frame::Document(_) => "document",
        Frame::Refilter(_) => "refilter",
        Frame::Reconciled(_) => "reconciled",
        Frame::Ephemeral(_) => "ephemeral",
        Frame::Resend(_) => "resend",
        Frame::Resent(_) => "resent",
        Frame::Repaired(_) => "repaired",
    }
}

/// The number of log positions between two offsets, for the status.
const fn distance(from: Offset, to: Offset) -> u64 {
    to.0.saturating_sub(from.0)
}
