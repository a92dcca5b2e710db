//! The pushing half of a space: a window over the changes that the upstream has not acknowledged.
//!
//! Over all spaces, at most [`limits::OUTBOX_PAGES`] have a page in memory and at most
//! [`limits::WINDOWS_BYTES`] are in flight; the other spaces wait for their turn. The outbox keeps
//! nothing durable: the store records the acked ranges.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_bytes::ByteBuf;

use super::{Phase, PushLimits, Replica, ReplicaEffect};
use crate::admission::Roots;
use crate::code::{Code, NackClass};
use crate::digest::tombstone_id;
use crate::frame::{
    Ack, Frame, Nack, Part, Push, PushEntry, PushSnapshot, SubscriptionId, UploadFrom, entry_flags,
    entry_kind, features,
};
use crate::ids::{ChangeHash, DocumentId, Local, SpaceName};
use crate::limits;
use crate::moment::Moment;

/// An item that the upstream has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxChange {
    /// Its position in our own log; for a snapshot, the position of the last change in it.
    pub local: Local,
    /// Its document.
    pub document: DocumentId,
    /// Its kind.
    pub what: OutboxKind,
}

/// The kinds of outbox items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxKind {
    /// A change: its chunk, and whether it may begin a second history.
    Change(Vec<u8>, Roots),
    /// A snapshot.
    Snapshot {
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its length in bytes.
        total: u64,
        /// Its heads, sorted.
        heads: Vec<ChangeHash>,
    },
    /// The document's deletion.
    Tombstone,
}

impl OutboxKind {
    /// The features that the relay must have to accept it.
    fn needs(&self) -> u64 {
        match self {
            Self::Change(_, Roots::One) => 0,
            Self::Snapshot { .. } => features::SNAPSHOTS,
            Self::Change(_, Roots::Several) | Self::Tombstone => features::ENTRIES,
        }
    }
}

/// The items of one document that go into one push.
#[derive(Debug)]
pub(super) struct Group {
    document: DocumentId,
    locals: Vec<Local>,
    load: Load,
    bytes: usize,
}

#[derive(Debug)]
enum Load {
    Changes(Vec<ByteBuf>),
    /// One change that may begin a second history.
    Root(ByteBuf),
    Snapshot {
        hash: [u8; 32],
        total: u64,
        heads: Vec<ChangeHash>,
    },
    Tombstone,
}

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

/// The progress of a snapshot upload.
#[derive(Debug, Clone, Copy)]
struct Upload {
    hash: [u8; 32],
    total: u64,
    /// The offset of the next part.
    next: u64,
    /// The relay accepts parts up to this offset.
    up_to: u64,
    /// The relay's last stated offset. Within one upload it only grows.
    told: u64,
    /// The store is reading a part.
    reading: bool,
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
        let told = Duration::from_millis(u64::from(nack.retry_after_ms));
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
        let until = now.after(told.max(delay.least()).min(limits::RECONNECT_MOST));
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

/// Groups changes by document and keeps each document's order. A full group is followed by another
/// of its document, and so is an item that is not a plain change.
pub(super) fn group(page: impl Iterator<Item = OutboxChange>, most: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: BTreeMap<DocumentId, usize> = BTreeMap::new();
    for OutboxChange { local, document, what } in page {
        let bytes = match what {
            OutboxKind::Change(bytes, Roots::One) => bytes,
            other => {
                // Later changes may depend on this item, so they must not join a group before it.
                open.remove(&document);
                groups.push(alone(local, document, other));
                continue;
            }
        };
        let fits = |group: &Group| {
            group.locals.len() < most && group.bytes + bytes.len() <= limits::PUSH_TARGET_BYTES
        };
        let index = match open.get(&document) {
            Some(index) if fits(&groups[*index]) => *index,
            _ => {
                let load = Load::Changes(Vec::new());
                groups.push(Group { document, locals: vec![], load, bytes: 0 });
                open.insert(document, groups.len() - 1);
                groups.len() - 1
            }
        };
        let group = &mut groups[index];
        group.bytes += bytes.len();
        group.locals.push(local);
        if let Load::Changes(changes) = &mut group.load {
            changes.push(ByteBuf::from(bytes));
        }
    }
    groups
}

fn alone(local: Local, document: DocumentId, what: OutboxKind) -> Group {
    let (load, bytes) = match what {
        OutboxKind::Change(bytes, _) => {
            let weight = bytes.len();
            (Load::Root(ByteBuf::from(bytes)), weight)
        }
        OutboxKind::Snapshot { hash, total, heads } => {
            let weight = heads.len() * limits::UPLOAD_HEAD_WEIGHT;
            (Load::Snapshot { hash, total, heads }, weight)
        }
        OutboxKind::Tombstone => (Load::Tombstone, 0),
    };
    Group { document, locals: vec![local], load, bytes }
}

/// The frame that pushes a group, and the upload's initial progress if it is a snapshot.
fn push_frame(
    id: u64,
    subscription: SubscriptionId,
    document: DocumentId,
    load: Load,
) -> (Frame, Option<Upload>) {
    let entry = |kind, flags, entry, body| {
        Frame::PushEntry(PushEntry { id, subscription, document, kind, flags, entry, body })
    };
    match load {
        Load::Changes(changes) => (Frame::Push(Push { id, subscription, document, changes }), None),
        // The hash of a root is in its bytes.
        Load::Root(bytes) => {
            (entry(entry_kind::CHANGE, entry_flags::SECOND_ROOT, [0; 32], bytes), None)
        }
        Load::Tombstone => {
            let flags = entry_flags::MUST_UNDERSTAND;
            (entry(entry_kind::TOMBSTONE, flags, tombstone_id(&document), ByteBuf::new()), None)
        }
        Load::Snapshot { hash, total, heads } => {
            let heads = heads.into_iter().map(|head| head.0).collect();
            let push = PushSnapshot { id, subscription, document, hash, total, heads };
            let upload = Upload { hash, total, next: 0, up_to: 0, told: 0, reading: false };
            (Frame::PushSnapshot(push), Some(upload))
        }
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
        self.pump_hungry(now);
        self.push_resend(now);
    }

    /// A page or part of the window became free: serves the spaces that wait for it.
    pub(super) fn pump_hungry(&mut self, now: Moment) {
        let paged: Vec<SpaceName> = self.paged.iter().cloned().collect();
        paged.iter().for_each(|space| self.pump_one(now, space, false));
        while self.paged.len() < limits::OUTBOX_PAGES
            && let Some(space) = self.hungry.pop_front()
        {
            if let Some(link) = self.spaces.get_mut(&space) {
                link.hungry = false;
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
        let has_turn = turn || self.hungry.is_empty();
        if !has_turn || self.paged.len() >= limits::OUTBOX_PAGES {
            if !std::mem::replace(&mut link.hungry, true) {
                self.hungry.push_back(space.clone());
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
        self.interrupt_question(space);
        let Some(link) = self.spaces.get_mut(space) else { return };
        let outbox = Outbox { stopped: true, ..Outbox::default() };
        let before = std::mem::replace(&mut link.outbox, outbox);
        before.in_flight.keys().for_each(|id| drop(self.pushes.remove(id)));
        self.window -= before.window;
        self.paged.remove(space);
        if std::mem::take(&mut link.hungry) {
            self.hungry.retain(|other| other != space);
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
        // The relay acknowledged these items earlier, so the store has nothing new to record.
        if push.resent {
            if count == push.locals.len() {
                self.end_push(&space, ack.id);
                self.handle_resent_push(now, &space, count);
            }
            return;
        }
        let document = push.document;
        let locals = push.locals[..count].to_vec();
        let upload = push.upload.map(|upload| (push.document, upload.hash));
        if count == push.locals.len() {
            self.end_push(&space, ack.id);
        }
        let (name, mark) = (space.clone(), ack.through);
        self.effects.push_back(match upload {
            None => ReplicaEffect::Acknowledged { space, locals, mark },
            Some((document, hash)) => {
                ReplicaEffect::SnapshotAcknowledged { space, document, hash, mark }
            }
        });
        self.end_delay(&name, Some(&document));
        self.pump(now, &name);
        self.try_check(now, &name);
    }

    /// Ends a delay: the relay accepts the document's changes again, or has rejected them permanently.
    /// `None` stands for all documents.
    fn end_delay(&mut self, space: &SpaceName, document: Option<&DocumentId>) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let is_of = |delay: &mut Delay| document.is_none_or(|document| *document == delay.document);
        if link.outbox.delay.take_if(is_of).is_some() {
            let (space, why) = (space.clone(), None);
            self.effects.push_back(ReplicaEffect::Delayed { space, why });
        }
    }

    /// The relay requests more of a snapshot upload.
    pub(super) fn handle_wanted(&mut self, wanted: UploadFrom) {
        let UploadFrom { id, from, up_to } = wanted;
        let Some(space) = self.space_of_push(id) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let Some(push) = link.outbox.in_flight.get_mut(&id) else { return };
        let Some(upload) = &mut push.upload else {
            return self.broken("it requests parts of a push that has none".to_owned());
        };
        let window = limits::SNAPSHOT_WINDOW_BYTES as u64;
        if from > upload.total || up_to > upload.total || up_to < from || up_to - from > window {
            let total = upload.total;
            return self.broken(format!("it requests bytes {from} to {up_to} of {total}"));
        }
        // An offset below the last one means that the relay has dropped bytes it had; another
        // session may have begun again meanwhile.
        let is_again = from == 0 || from < upload.told;
        upload.next = if is_again { from } else { upload.next.max(from) };
        (upload.told, upload.up_to) = (from, up_to);
        self.read_part(&space, id);
    }

    fn read_part(&mut self, space: &SpaceName, id: u64) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(push) = link.outbox.in_flight.get_mut(&id) else { return };
        let Some(upload) = &mut push.upload else { return };
        if upload.reading || upload.next >= upload.up_to {
            return;
        }
        upload.reading = true;
        let (space, document) = (space.clone(), push.document);
        let (hash, from) = (upload.hash, upload.next);
        self.effects.push_back(ReplicaEffect::LoadSnapshotPart { space, document, hash, from });
    }

    /// The piece that [`ReplicaEffect::LoadSnapshotPart`] asked for; `None` if the store now has
    /// another snapshot of the document, which is then uploaded instead.
    pub fn handle_snapshot_part(
        &mut self,
        now: Moment,
        space: &SpaceName,
        document: DocumentId,
        from: u64,
        bytes: Option<Vec<u8>>,
    ) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let is_of = |push: &InFlight| push.upload.is_some() && push.document == document;
        let found = link.outbox.in_flight.iter_mut().find(|(_, push)| is_of(push));
        let Some((&id, push)) = found else { return };
        let Some(upload) = &mut push.upload else { return };
        upload.reading = false;
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
            let resent = push.resent;
            link.outbox.restart |= !resent;
            self.end_push(space, id);
            return match resent {
                true => self.handle_resent_push(now, space, 0),
                false => self.pump(now, space),
            };
        };
        // Otherwise the relay restarted the upload while the store was reading.
        if upload.next == from {
            upload.next = from + bytes.len() as u64;
            let (subscription, hash, total) = (link.subscription, upload.hash, upload.total);
            let bytes = ByteBuf::from(bytes);
            self.send(Frame::Part(Part { subscription, document, hash, total, from, bytes }));
        }
        self.read_part(space, id);
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

    pub(super) fn handle_nack(&mut self, now: Moment, nack: Nack) {
        let Some(space) = self.space_of_push(nack.id) else { return };
        let Some(push) = self.end_push(&space, nack.id) else { return };
        if push.resent {
            // The relay requests again the changes that it did not accept.
            return self.handle_resent_push(now, &space, push.acknowledged);
        }
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let outbox = &mut link.outbox;
        let (document, deletion) = (push.document, push.deletion);
        let repeats = outbox.restart || outbox.rejected.contains_key(&document);
        let name = space.clone();
        match nack.class {
            // The relay accepts only so much at once; it has accepted the first part of this push.
            NackClass::RETRY_AFTER if push.acknowledged > 0 => {
                let wait = Duration::from_millis(u64::from(nack.retry_after_ms));
                let until = now.after(wait.min(limits::RECONNECT_MOST));
                outbox.paused_until = outbox.paused_until.max(Some(until));
                outbox.restart = true;
            }
            NackClass::RETRY_AFTER => {
                let why = Some((nack.code, nack.what.clone()));
                if outbox.pause(now, document, nack) {
                    self.effects.push_back(ReplicaEffect::Delayed { space, why });
                }
            }
            // The missing dependency was just requeued: the restart pushes both.
            NackClass::RECONCILE if repeats => {}
            // The relay lacks something that counts as acked. Push the whole document again, once per
            // subscription.
            NackClass::RECONCILE if outbox.requeued.insert(document) => {
                outbox.requeueing += 1;
                outbox.restart = true;
                self.effects.push_back(ReplicaEffect::Requeue { space, document });
            }
            // Final. The rest of the push is not on the relay's disk: record that, then stop pushing
            // the document.
            _ => {
                let locals = push.locals[push.acknowledged..].to_vec();
                let refused = ReplicaEffect::Refused { space: name.clone(), document, locals };
                self.effects.push_back(refused);
                self.reject(&space, document, deletion, (nack.code, nack.what));
            }
        }
        self.pump(now, &name);
        self.try_check(now, &name);
    }

    fn reject(
        &mut self,
        space: &SpaceName,
        document: DocumentId,
        deletion: bool,
        (code, what): (Code, String),
    ) {
        self.end_delay(space, Some(&document));
        let Some(link) = self.spaces.get_mut(space) else { return };
        // A rejected change must not hold back the document's deletion. Report a document once, and
        // again only if its deletion is rejected as well.
        let before = link.outbox.rejected.insert(document, deletion);
        if before.is_some_and(|before| before || !deletion) {
            let rejected = before.unwrap_or_default() || deletion;
            link.outbox.rejected.insert(document, rejected);
            return;
        }
        let stays = |group: &Group| {
            group.document != document || (!deletion && matches!(group.load, Load::Tombstone))
        };
        link.outbox.ready.retain(stays);
        let space = space.clone();
        self.effects.push_back(ReplicaEffect::Reject { space, document, code, what, deletion });
    }
}
