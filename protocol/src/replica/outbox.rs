//! The pushing half of a space: a window over what the upstream is not known to hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::{Phase, PushLimits, Replica, ReplicaEffect};
use crate::code::{Code, NackClass};
use crate::frame::{Ack, Frame, Nack, Push};
use crate::ids::{DocumentId, Local, SpaceName};
use crate::limits;
use crate::moment::Moment;

/// One change that the upstream is not known to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxChange {
    /// Its position in our own log.
    pub local: Local,
    /// Its document.
    pub document: DocumentId,
    /// Its chunk.
    pub bytes: Vec<u8>,
}

/// Changes of one document that go into one push.
#[derive(Debug)]
struct Group {
    document: DocumentId,
    locals: Vec<Local>,
    changes: Vec<ByteBuf>,
    bytes: usize,
}

/// A push that is not answered yet.
#[derive(Debug)]
struct InFlight {
    document: DocumentId,
    locals: Vec<Local>,
    /// How many of them are acknowledged.
    acknowledged: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    open: bool,
    stopped: bool,
    /// Everything up to here was read.
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
    /// How many requeues the store is still working on.
    requeueing: usize,
    requeued: BTreeSet<DocumentId>,
    parked: BTreeSet<DocumentId>,
}

impl Outbox {
    /// From now on what is there is pushed.
    pub(super) fn open(&mut self) {
        if !self.open {
            (self.open, self.dirty) = (true, true);
        }
    }

    /// Nothing more is pushed. Gives the number of pushes that were in flight.
    pub(super) fn stop(&mut self) -> usize {
        let in_flight = self.in_flight.len();
        *self = Self { stopped: true, ..Self::default() };
        in_flight
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
        let settled = self.in_flight.is_empty() && !self.reading && self.requeueing == 0;
        if self.restart && settled && self.paused_until.is_none() {
            self.ready.clear();
            (self.restart, self.dirty, self.read_through) = (false, true, Local(0));
        }
    }

    fn handle_page(&mut self, page: Vec<OutboxChange>, more: bool, limits: PushLimits) {
        self.reading = false;
        if self.restart {
            return;
        }
        self.dirty |= more;
        if let Some(last) = page.last() {
            self.read_through = last.local;
        }
        let wanted = page.into_iter().filter(|change| !self.parked.contains(&change.document));
        self.ready.extend(group(wanted, limits.changes));
    }

    fn take_ready(&mut self) -> Option<Group> {
        if self.restart || self.window >= limits::PUSH_WINDOW_BYTES {
            return None;
        }
        self.ready.pop_front()
    }
}

/// Groups changes by document, keeping each document's order; a group that is full is followed
/// by another of its document.
fn group(page: impl Iterator<Item = OutboxChange>, most: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: BTreeMap<DocumentId, usize> = BTreeMap::new();
    for OutboxChange { local, document, bytes } in page {
        let fits = |group: &Group| {
            group.locals.len() < most && group.bytes + bytes.len() <= limits::PUSH_TARGET_BYTES
        };
        let index = match open.get(&document) {
            Some(index) if fits(&groups[*index]) => *index,
            _ => {
                groups.push(Group { document, locals: vec![], changes: vec![], bytes: 0 });
                open.insert(document, groups.len() - 1);
                groups.len() - 1
            }
        };
        let group = &mut groups[index];
        group.bytes += bytes.len();
        group.locals.push(local);
        group.changes.push(ByteBuf::from(bytes));
    }
    groups
}

impl Replica {
    /// Something was added to what the upstream does not hold.
    pub fn handle_local(&mut self, now: Moment, space: &SpaceName) {
        if let Some(link) = self.spaces.get_mut(space) {
            link.outbox.dirty = true;
            self.pump(now, space);
        }
    }

    /// The page that [`ReplicaEffect::LoadOutbox`] asked for; `more` says that it was cut.
    pub fn handle_outbox(
        &mut self,
        now: Moment,
        space: &SpaceName,
        page: Vec<OutboxChange>,
        more: bool,
    ) {
        let Phase::Ready { limits, .. } = self.phase else { return };
        if let Some(link) = self.spaces.get_mut(space) {
            link.outbox.handle_page(page, more, limits);
            self.pump(now, space);
        }
    }

    /// The store holds none of a document's changes for acknowledged any more.
    pub fn handle_requeued(&mut self, now: Moment, space: &SpaceName) {
        if let Some(link) = self.spaces.get_mut(space) {
            link.outbox.requeueing = link.outbox.requeueing.saturating_sub(1);
            self.pump(now, space);
        }
    }

    /// Sends what may be sent, and asks for more.
    pub(super) fn pump(&mut self, now: Moment, space: &SpaceName) {
        let Phase::Ready { limits, .. } = self.phase else { return };
        let Some(link) = self.spaces.get_mut(space) else { return };
        let outbox = &mut link.outbox;
        if !outbox.open || outbox.stopped {
            return;
        }
        outbox.try_restart(now);
        // One place is kept free: a relay stops reading when all are taken.
        while self.pushes_in_flight + 1 < limits.in_flight
            && let Some(group) = outbox.take_ready()
        {
            self.next_push += 1;
            self.pushes_in_flight += 1;
            outbox.window += group.bytes;
            let Group { document, locals, changes, bytes } = group;
            let in_flight = InFlight { document, locals, acknowledged: 0, bytes };
            outbox.in_flight.insert(self.next_push, in_flight);
            let (id, subscription) = (self.next_push, link.subscription);
            let push = Push { id, subscription, document, changes };
            self.effects.push_back(ReplicaEffect::Send(Frame::Push(push)));
        }
        if outbox.wants_page() {
            (outbox.reading, outbox.dirty) = (true, false);
            self.effects.push_back(ReplicaEffect::LoadOutbox {
                space: space.clone(),
                after: outbox.read_through,
                changes: limits::PUSH_CHANGES,
                bytes: limits::PUSH_WINDOW_BYTES - outbox.window,
            });
        }
    }

    /// Pumps every space: a place became free.
    fn pump_all(&mut self, now: Moment) {
        let spaces: Vec<SpaceName> = self.spaces.keys().cloned().collect();
        spaces.iter().for_each(|space| self.pump(now, space));
    }

    fn space_of_push(&self, id: u64) -> Option<SpaceName> {
        let found = self.spaces.iter().find(|(_, link)| link.outbox.in_flight.contains_key(&id));
        found.map(|(space, _)| space.clone())
    }

    pub(super) fn handle_ack(&mut self, now: Moment, ack: Ack) {
        // An answer may cross the end of its subscription.
        let Some(space) = self.space_of_push(ack.id) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let Some(push) = link.outbox.in_flight.get_mut(&ack.id) else { return };
        let count = ack.count as usize;
        if count == 0 || count > push.locals.len() || push.acknowledged > 0 {
            let of = push.locals.len();
            return self.broken(format!("an ack of {count} for push {} of {of}", ack.id));
        }
        push.acknowledged = count;
        let locals = push.locals[..count].to_vec();
        if count == push.locals.len() {
            link.outbox.window -= push.bytes;
            link.outbox.in_flight.remove(&ack.id);
            self.pushes_in_flight -= 1;
        }
        let mark = ack.through;
        self.effects.push_back(ReplicaEffect::Acknowledged { space, locals, mark });
        self.pump_all(now);
    }

    pub(super) fn handle_nack(&mut self, now: Moment, nack: Nack) {
        let Some(space) = self.space_of_push(nack.id) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let outbox = &mut link.outbox;
        let Some(push) = outbox.in_flight.remove(&nack.id) else { return };
        outbox.window -= push.bytes;
        self.pushes_in_flight -= 1;
        let document = push.document;
        let repeats = outbox.restart || outbox.parked.contains(&document);
        match nack.class {
            NackClass::RETRY_AFTER => {
                let wait = Duration::from_millis(u64::from(nack.retry_after_ms));
                let until = now.after(wait.min(limits::RECONNECT_MOST));
                outbox.paused_until = outbox.paused_until.max(Some(until));
                outbox.restart = true;
            }
            // It rests on what was just given back: the restart brings both.
            NackClass::RECONCILE if repeats => {}
            NackClass::RECONCILE if outbox.requeued.insert(document) => {
                outbox.requeueing += 1;
                outbox.restart = true;
                self.effects.push_back(ReplicaEffect::Requeue { space, document });
            }
            _ => self.park(&space, document, nack.code, nack.what),
        }
        self.pump_all(now);
    }

    fn park(&mut self, space: &SpaceName, document: DocumentId, code: Code, what: String) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        if link.outbox.parked.insert(document) {
            link.outbox.ready.retain(|group| group.document != document);
            let space = space.clone();
            self.effects.push_back(ReplicaEffect::Park { space, document, code, what });
        }
    }
}
