//! The engine's machine: one connection to a relay, with any number of spaces.
//!
//! Inputs are `handle_*`; after each, drain [`Replica::poll_effect`]. Store work leaves as an
//! effect, and its outcome returns as an input. The machine outlives connections:
//! [`Replica::handle_connected`] begins one, [`Replica::handle_disconnected`] drops its state.
//! Durable state (cursor, mark, acked ranges) belongs to the store. The machine knows no socket,
//! clock or file.
//!
//! An ack never moves the cursor: only entries do, so nothing between them is skipped.

mod batches;
mod checks;
mod compare;
mod conceal;
mod connection;
mod effects;
mod ephemeral;
mod outbox;
mod receive;
mod resend;
mod spaces;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ephemeral::Sources;
use crate::frame::{Filter, Frame, Subscribed, SubscriptionId, features};
use crate::ids::{Local, Offset, ReplicaId, SpaceName, Upstream};
use crate::limits;
use crate::moment::Moment;
use crate::patience::Patience;

use checks::CheckState;
use compare::Compare;
use conceal::Tokens;
use outbox::Outbox;
use receive::Receiver;
use resend::Resends;

pub use batches::{Batch, DeferredReason, DocumentBatch, DocumentHeads, Incoming};
pub use effects::{EndReason, ReplicaEffect, ResumePoint, SpacePhase, Unchecked};
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
    reported: SpacePhase,
    filter: Filter,
    /// The comparison in progress.
    compare: Option<Compare>,
    /// The check that was requested and has not begun.
    check: CheckState,
    /// Whether the space waits in `page_queue`.
    awaits_page: bool,
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
    page_queue: VecDeque<SpaceName>,
    /// Spaces with a deadline.
    timers: BTreeSet<SpaceName>,
    /// The number of steps made by checks.
    check_steps: u64,
    storing_bytes: usize,
    /// The relay's repair requests.
    resends: Resends,
    /// This connection's tokens.
    tokens: Tokens,
    /// The relay's features beyond its version.
    features: u64,
    /// The known sources of ephemeral messages, over all spaces.
    sources: Sources,
    last_received: Moment,
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
            page_queue: VecDeque::new(),
            timers: BTreeSet::new(),
            check_steps: 0,
            storing_bytes: 0,
            resends: Resends::default(),
            tokens: Tokens::default(),
            features: 0,
            sources: Sources::default(),
            last_received: Moment::default(),
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
        let compares = self.features & features::COMPARE != 0;
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
            self.last_received = now;
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
            self.last_received = now;
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
        if matches!(link.reported, SpacePhase::Refused { .. }) {
            return;
        }
        if link.receiver.may_push() {
            link.outbox.open();
        }
        self.report_phase(space);
        self.pump(now, space);
        self.try_check(now, space);
    }

    /// Reports a space's phase if it changed.
    fn report_phase(&mut self, space: &SpaceName) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let phase = match &link.compare {
            Some(compare) if link.receiver.is_comparing() => SpacePhase::Comparing {
                documents: compare.remaining(),
                snapshot: link.receiver.arriving(),
            },
            _ => link.receiver.phase(),
        };
        if phase != link.reported && !matches!(link.reported, SpacePhase::Refused { .. }) {
            link.reported = phase.clone();
            self.effects.push_back(ReplicaEffect::Phase { space: space.clone(), phase });
        }
    }

    fn space_of(&self, subscription: SubscriptionId) -> Option<SpaceName> {
        self.subscriptions.get(&subscription).cloned()
    }

    fn send(&mut self, frame: Frame) {
        self.effects.push_back(ReplicaEffect::Send(frame));
    }
}

/// The number of log positions between two offsets, for the status.
const fn distance(from: Offset, to: Offset) -> u64 {
    to.0.saturating_sub(from.0)
}
