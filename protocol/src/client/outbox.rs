//! The pushing half of a space: a window over the changes that the upstream has not acknowledged.
//!
//! Over all spaces, at most [`limits::OUTBOX_PAGES`] have a page in memory and at most
//! [`limits::WINDOWS_BYTES`] are in flight; the other spaces wait for their turn. The outbox keeps
//! nothing durable: the store records the acked ranges.

mod answers;
mod groups;
mod uploads;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Phase, PushLimits, Replica, ReplicaEffect};
use crate::code::Code;
use crate::frame::Nack;
use crate::ids::{DocumentId, Local, SpaceName};
use crate::limits;
use crate::moment::Moment;
use groups::{Load, push_frame};
use uploads::Upload;

pub(super) use groups::{Group, group};
pub use groups::{OutboxChange, OutboxKind};

/// A push without an answer.
#[derive(Debug)]
struct InFlight {
    document: DocumentId,
    locals: Vec<Local>,
    /// The number of acknowledged items.
    acknowledged: usize,
    /// The relay requested it for repair: the answer does not change the acked ranges.
    resent: bool,
    bytes: usize,
    upload: Option<Upload>,
    /// It is the document's deletion.
    deletion: bool,
}

/// The relay currently rejects a document's changes and asks to retry.
#[derive(Debug)]
struct Delay {
    document: DocumentId,
    code: Code,
    what: String,
    /// Consecutive rounds that ended in this delay.
    rounds: u32,
}

impl Delay {
    /// The minimum wait before the next round.
    fn least(&self) -> Duration {
        let doubled = limits::RETRY_LEAST.saturating_mul(1 << self.rounds.min(16));
        doubled.min(limits::RETRY_MOST)
    }
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    open: bool,
    stopped: bool,
    /// Everything up to this position has been read.
    read_through: Local,
    reading: bool,
    /// There may be more to read.
    dirty: bool,
    ready: VecDeque<Group>,
    in_flight: BTreeMap<u64, InFlight>,
    window: usize,
    /// Begin again from the first unacknowledged change, once nothing is in flight.
    restart: bool,
    paused_until: Option<Moment>,
    /// The current delay.
    delay: Option<Delay>,
    /// The number of requeues that the store has not completed.
    requeueing: usize,
    requeued: BTreeSet<DocumentId>,
    /// Documents whose changes the relay rejects; `true` if it rejects their deletion too.
    rejected: BTreeMap<DocumentId, bool>,
}

impl Outbox {
    /// Starts pushing.
    pub(super) fn open(&mut self) {
        if !self.open {
            (self.open, self.dirty) = (true, true);
        }
    }

    /// Whether a page is in memory or being read.
    fn has_page(&self) -> bool {
        self.reading || !self.ready.is_empty()
    }

    /// Whether the relay rejects this item.
    fn is_rejected(&self, change: &OutboxChange) -> bool {
        let deletion = matches!(change.what, OutboxKind::Tombstone);
        self.rejected.get(&change.document).is_some_and(|deletion_too| !deletion || *deletion_too)
    }

    /// The relay rejects a push for now: the outbox begins again after a wait. Returns whether the
    /// reason is new.
    fn pause(&mut self, now: Moment, document: DocumentId, nack: Nack) -> bool {
        let stated = Duration::from_millis(u64::from(nack.retry_after_ms));
        let before = self.delay.take();
        // The answers to pushes that were in flight together count as one round.
        let is_same_round = self.paused_until.is_some_and(|until| until > now);
        let rounds = match &before {
            Some(delay) if is_same_round => delay.rounds,
            Some(delay) => delay.rounds.saturating_add(1),
            None => 0,
        };
        let delay = Delay { document, code: nack.code, what: nack.what, rounds };
        // The relay's wait is a lower bound. The doubling wait protects a relay that states none.
        let until = now.after(stated.max(delay.least()).min(limits::RECONNECT_MOST));
        self.paused_until = self.paused_until.max(Some(until));
        self.restart = true;
        let is_new =
            before.is_none_or(|before| (before.code, &before.what) != (delay.code, &delay.what));
        self.delay = Some(delay);
        is_new
    }

    pub(super) fn paused_until(&self) -> Option<Moment> {
        self.paused_until
    }

    fn wants_page(&self) -> bool {
        self.dirty
            && !self.reading
            && !self.restart
            && self.ready.is_empty()
            && self.window < limits::PUSH_WINDOW_BYTES
    }

    fn try_restart(&mut self, now: Moment) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        // Wait until nothing is in flight: a pending answer or requeue still changes which items
        // are unacknowledged.
        let settled = self.in_flight.is_empty() && !self.reading && self.requeueing == 0;
        if self.restart && settled && self.paused_until.is_none() {
            self.ready.clear();
            (self.restart, self.dirty, self.read_through) = (false, true, Local(0));
        }
    }

    fn handle_page(
        &mut self,
        page: Vec<OutboxChange>,
        more: bool,
        limits: PushLimits,
        features: u64,
    ) {
        // A page that was requested for the previous subscription is ignored.
        let awaited = std::mem::take(&mut self.reading);
        if self.restart || !awaited {
            return;
        }
        self.dirty |= more;
        if let Some(last) = page.last() {
            self.read_through = last.local;
        }
        // Items that need a feature which this relay lacks wait for the relay's upgrade.
        for change in page.iter().filter(|change| change.what.needs() & !features != 0) {
            let deletion = matches!(change.what, OutboxKind::Tombstone);
            *self.rejected.entry(change.document).or_default() |= deletion;
        }
        let wanted: Vec<_> = page.into_iter().filter(|change| !self.is_rejected(change)).collect();
        self.ready.extend(group(wanted.into_iter(), limits.changes));
    }

    fn take_ready(&mut self) -> Option<Group> {
        if self.restart || self.window >= limits::PUSH_WINDOW_BYTES {
            return None;
        }
        // Changes that depend on a snapshot wait until the relay has accepted the snapshot.
        let index = self.ready.iter().position(|group| !self.is_uploading(&group.document))?;
        self.ready.remove(index)
    }

    /// Whether an upload of the document's snapshot is unanswered.
    pub(super) fn is_uploading(&self, document: &DocumentId) -> bool {
        let mut in_flight = self.in_flight.values();
        in_flight.any(|push| push.upload.is_some() && push.document == *document)
    }

    /// Whether every known item has been answered.
    pub(super) fn is_settled(&self) -> bool {
        let idle = self.in_flight.is_empty() && self.ready.is_empty() && !self.reading;
        self.open && !self.stopped && idle && !self.dirty && !self.restart && self.requeueing == 0
    }

    /// The store is removing a document's changes from the acked ranges.
    pub(super) fn begin_requeue(&mut self) {
        self.requeueing += 1;
    }

    /// The acked ranges have changed: begin again from the first unacknowledged change.
    pub(super) fn begin_again(&mut self) {
        self.restart = true;
    }
}

impl Replica {
    /// An item was added that the upstream does not hold.
    pub fn handle_local(&mut self, now: Moment, space: &SpaceName) {
        if let Some(link) = self.spaces.get_mut(space) {
            link.outbox.dirty = true;
            self.pump(now, space);
        }
    }

    /// The page that [`ReplicaEffect::LoadOutbox`] asked for; `more` means that it was truncated.
    pub fn handle_outbox(
        &mut self,
        now: Moment,
        space: &SpaceName,
        page: Vec<OutboxChange>,
        more: bool,
    ) {
        let Phase::Ready { limits, .. } = self.phase else { return };
        if let Some(link) = self.spaces.get_mut(space) {
            link.outbox.handle_page(page, more, limits, self.features);
            self.pump(now, space);
            // A delayed change may have reached the relay on another path; then it is not pushed
            // again, and no ack ends the delay.
            if self.spaces.get(space).is_some_and(|link| link.outbox.is_settled()) {
                self.end_delay(space, None);
            }
            self.try_check(now, space);
        }
    }

    /// The store has removed a document's changes from the acked ranges.
    pub fn handle_requeued(&mut self, now: Moment, space: &SpaceName) {
        if let Some(link) = self.spaces.get_mut(space) {
            link.outbox.requeueing = link.outbox.requeueing.saturating_sub(1);
            self.pump(now, space);
            self.try_check(now, space);
        }
    }

    /// Sends the items of a space that may be sent, and requests more; then those of the waiting
    /// spaces.
    pub(super) fn pump(&mut self, now: Moment, space: &SpaceName) {
        self.pump_one(now, space, false);
        self.pump_queue(now);
        self.push_resend(now);
    }

    /// A page or part of the window became free: serves the spaces that wait for it.
    pub(super) fn pump_queue(&mut self, now: Moment) {
        let paged: Vec<SpaceName> = self.paged.iter().cloned().collect();
        paged.iter().for_each(|space| self.pump_one(now, space, false));
        while self.paged.len() < limits::OUTBOX_PAGES
            && let Some(space) = self.page_queue.pop_front()
        {
            if let Some(link) = self.spaces.get_mut(&space) {
                link.awaits_page = false;
                self.pump_one(now, &space, true);
            }
        }
    }

    /// `turn`: the space has waited for a page.
    fn pump_one(&mut self, now: Moment, space: &SpaceName, turn: bool) {
        let Phase::Ready { limits, .. } = self.phase else { return };
        let Some(link) = self.spaces.get_mut(space) else { return };
        let outbox = &mut link.outbox;
        if !outbox.open || outbox.stopped {
            return;
        }
        outbox.try_restart(now);
        if outbox.restart {
            // These items are read again.
            outbox.ready.clear();
        }
        // One push slot is kept free: a relay stops reading when all are taken.
        while self.pushes.len() + 1 < limits.in_flight
            && self.window < limits::WINDOWS_BYTES
            && let Some(group) = self.take_ready(space)
        {
            self.push_group(space, group, false);
        }
        let Some(link) = self.spaces.get_mut(space) else { return };
        let outbox = &mut link.outbox;
        if !outbox.has_page() {
            self.paged.remove(space);
        }
        if outbox.paused_until.is_some() {
            self.timers.insert(space.clone());
        }
        if !outbox.wants_page() {
            return;
        }
        // Spaces read pages in the order in which they asked, so a busy space cannot starve the
        // others.
        let has_turn = turn || self.page_queue.is_empty();
        if !has_turn || self.paged.len() >= limits::OUTBOX_PAGES {
            if !std::mem::replace(&mut link.awaits_page, true) {
                self.page_queue.push_back(space.clone());
            }
            return;
        }
        (outbox.reading, outbox.dirty) = (true, false);
        self.paged.insert(space.clone());
        self.effects.push_back(ReplicaEffect::LoadOutbox {
            space: space.clone(),
            after: outbox.read_through,
            changes: limits::PUSH_CHANGES,
            bytes: limits::PUSH_WINDOW_BYTES.saturating_sub(outbox.window),
        });
    }

    fn take_ready(&mut self, space: &SpaceName) -> Option<Group> {
        self.spaces.get_mut(space)?.outbox.take_ready()
    }

    /// Sends a push. `resent`: the relay requested it for repair.
    pub(super) fn push_group(&mut self, space: &SpaceName, group: Group, resent: bool) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Group { document, locals, load, bytes } = group;
        self.next_push += 1;
        let (id, subscription) = (self.next_push, link.subscription);
        let deletion = matches!(load, Load::Tombstone);
        let (frame, upload) = push_frame(id, subscription, document, load);
        let acknowledged = 0;
        let push = InFlight { document, locals, acknowledged, bytes, upload, deletion, resent };
        link.outbox.window += bytes;
        link.outbox.in_flight.insert(id, push);
        self.window += bytes;
        self.pushes.insert(id, space.clone());
        self.send(frame);
    }

    /// Stops pushing a space.
    pub(super) fn stop_pushing(&mut self, space: &SpaceName) {
        self.end_delay(space, None);
        self.interrupt_resend(space);
        let Some(link) = self.spaces.get_mut(space) else { return };
        let outbox = Outbox { stopped: true, ..Outbox::default() };
        let before = std::mem::replace(&mut link.outbox, outbox);
        before.in_flight.keys().for_each(|id| drop(self.pushes.remove(id)));
        self.window -= before.window;
        self.paged.remove(space);
        if std::mem::take(&mut link.awaits_page) {
            self.page_queue.retain(|other| other != space);
        }
    }

    /// Removes a push that is answered or given up, and returns it.
    fn end_push(&mut self, space: &SpaceName, id: u64) -> Option<InFlight> {
        self.pushes.remove(&id);
        let push = self.spaces.get_mut(space)?.outbox.in_flight.remove(&id)?;
        self.window -= push.bytes;
        self.spaces.get_mut(space)?.outbox.window -= push.bytes;
        Some(push)
    }

    fn space_of_push(&self, id: u64) -> Option<SpaceName> {
        self.pushes.get(&id).cloned()
    }

    /// A document with rejected changes may be pushed again.
    pub fn handle_retried(&mut self, now: Moment, space: &SpaceName, document: &DocumentId) {
        if let Some(link) = self.spaces.get_mut(space) {
            link.outbox.rejected.remove(document);
            link.outbox.requeued.remove(document);
            link.outbox.restart = true;
            self.pump(now, space);
        }
    }
}
