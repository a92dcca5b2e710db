//! The receiving half of a space: accepts entries in order, without gaps, and only after their
//! checks. It does not write the store.

use super::{Batch, DeferredReason, Incoming, Replica, ReplicaEffect, SpacePhase, distance};
use crate::admission::preflight;
use crate::code::Code;
use crate::frame::{Entries, Entry, Part, Partial, Subscribed, entry_flags, entry_kind};
use crate::ids::{ChangeHash, Cursor, Epoch, Offset, Scope, SpaceName};
use crate::limits;
use crate::moment::Moment;

/// The weight of a snapshot piece beyond its bytes, while it waits for the store.
pub const PART_WEIGHT: usize = 256;

/// The state of a space's receiving half on this connection.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Asked,
    /// The store is removing its cursor; entries that arrive meanwhile queue behind that.
    Resetting,
    /// The two ends compare their documents; no entries arrive.
    Comparing,
    Open,
    Stopped,
}

#[derive(Debug, Default)]
pub(super) struct Receiver {
    stage: Stage,
    /// The received cursor; the store may be behind it by `storing`.
    at: Offset,
    started_at: Offset,
    /// The relay's last offset at the subscription. A replica that began without a cursor pushes
    /// nothing before this offset is stored: most of its changes may be in the log already.
    target: Offset,
    from_nothing: bool,
    head: Offset,
    storing: usize,
    scope: Option<Scope>,
    /// The epoch of `target`.
    epoch: Option<Epoch>,
    live: bool,
    /// The arriving snapshot: bytes received, and all its bytes.
    partial: Option<(Partial, u64)>,
    /// A snapshot beyond the size limit, whose parts are skipped, and all its bytes.
    oversized: Option<([u8; 32], u64)>,
}

impl Receiver {
    pub(super) fn begin(&mut self, cursor: Option<Cursor>, partial: Option<Partial>) {
        let at = cursor.map_or(Offset(0), |cursor| cursor.offset);
        let from_nothing = cursor.is_none();
        let partial = partial.map(|partial| (partial, 0));
        let (stage, epoch) = (Stage::Asked, cursor.map(|cursor| cursor.epoch));
        *self = Self { stage, at, started_at: at, from_nothing, epoch, partial, ..Self::default() };
    }

    /// Returns false if no answer was expected.
    pub(super) fn handle_subscribed(&mut self, subscribed: &Subscribed) -> bool {
        if !matches!(self.stage, Stage::Asked) {
            return false;
        }
        (self.target, self.head) = (subscribed.head, subscribed.head);
        self.scope = Some(subscribed.scope);
        self.stage = Stage::Open;
        if !subscribed.resumed {
            self.stage = Stage::Resetting;
            (self.at, self.started_at, self.from_nothing) = (Offset(0), Offset(0), true);
            (self.partial, self.epoch) = (None, subscribed.epoch);
        }
        true
    }

    /// Returns false if no reset was expected.
    pub(super) fn handle_reset(&mut self, compares: bool) -> bool {
        let awaited = matches!(self.stage, Stage::Resetting);
        if awaited {
            self.stage = if compares { Stage::Comparing } else { Stage::Open };
        }
        awaited
    }

    /// A new filter is being compared: the relay has stopped the feed at our position.
    pub(super) fn handle_refiltered(&mut self, subscribed: &Subscribed) {
        self.stage = Stage::Comparing;
        self.scope = Some(subscribed.scope);
        (self.target, self.partial) = (subscribed.head, None);
    }

    /// The cursor for everything up to the relay's head when the comparison began.
    pub(super) fn compared_cursor(&self) -> Option<Cursor> {
        let scope = self.scope.unwrap_or(Scope::WHOLE_SPACE);
        self.epoch.map(|epoch| Cursor { epoch, offset: self.target, scope })
    }

    pub(super) fn handle_compared(&mut self) {
        if matches!(self.stage, Stage::Comparing) {
            self.stage = Stage::Open;
            (self.at, self.started_at, self.from_nothing) = (self.target, self.target, false);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.stage, Stage::Stopped)
    }

    pub(super) fn is_comparing(&self) -> bool {
        matches!(self.stage, Stage::Comparing)
    }

    /// The offset at which everything from the relay is stored; `None` while entries are on their
    /// way.
    pub(super) fn settled_at(&self) -> Option<Offset> {
        let open = matches!(self.stage, Stage::Open);
        (open && self.at == self.head && self.storing == 0).then_some(self.at)
    }

    /// The last received offset.
    pub(super) fn at(&self) -> Offset {
        self.at
    }

    /// Whether the store has unwritten entries.
    pub(super) fn is_storing(&self) -> bool {
        self.storing > 0
    }

    pub(super) fn add_storing(&mut self, bytes: usize) {
        self.storing += bytes;
    }

    pub(super) fn handle_stored(&mut self, bytes: usize) {
        self.storing = self.storing.saturating_sub(bytes);
    }

    pub(super) fn stop(&mut self) {
        self.stage = Stage::Stopped;
    }

    /// Whether pushing may begin.
    pub(super) fn may_push(&self) -> bool {
        let caught_up = self.at >= self.target && self.storing == 0;
        matches!(self.stage, Stage::Open) && (caught_up || !self.from_nothing)
    }

    pub(super) fn phase(&mut self) -> SpacePhase {
        if !matches!(self.stage, Stage::Open | Stage::Resetting) {
            return SpacePhase::Waiting;
        }
        let to_go = distance(self.at, self.head);
        if to_go == 0 && self.storing == 0 && matches!(self.stage, Stage::Open) {
            self.live = true;
        } else if to_go > limits::ENTRIES_COUNT as u64 {
            self.live = false;
        }
        match self.live {
            true => SpacePhase::Live,
            false => {
                let (done, snapshot) = (distance(self.started_at, self.at), self.arriving());
                SpacePhase::CatchingUp { done, to_go, snapshot }
            }
        }
    }
}

impl Receiver {
    /// Accepts a piece that continues the previous one or begins another snapshot. Returns false if
    /// the piece must be skipped because the snapshot exceeds the limit: the snapshot's entry is
    /// then deferred, and other documents continue.
    fn take_part(
        &mut self,
        hash: [u8; 32],
        total: u64,
        from: u64,
        bytes: u64,
    ) -> Result<bool, String> {
        let known = self.partial.filter(|(partial, _)| partial.hash == hash);
        let at = known.map_or(0, |(partial, _)| partial.bytes);
        let end = from.saturating_add(bytes);
        if (from != at && from != 0) || bytes == 0 || end > total {
            return Err(format!("it goes from {from} to {end} of {total}, we have {at}"));
        }
        // Count skipped parts too: a snapshot's entry is accepted only after all of its parts.
        self.partial = Some((Partial { hash, bytes: end }, total));
        let fits = total <= limits::SNAPSHOT_BYTES as u64;
        self.oversized = (!fits).then_some((hash, total));
        Ok(fits)
    }

    /// The length of a snapshot whose parts were skipped.
    pub(super) fn take_oversized(&mut self, entry: &Entry) -> Option<u64> {
        let (hash, total) = self.oversized?;
        let is_its = entry.kind == entry_kind::SNAPSHOT && entry.id == hash;
        is_its.then(|| {
            self.oversized = None;
            total
        })
    }

    /// Fails unless a snapshot that was sent in parts is complete.
    pub(super) fn take_parts_of(&mut self, entry: &Entry) -> Result<(), String> {
        let in_parts = entry.flags & (entry_flags::PARTS | entry_flags::ECHO) == entry_flags::PARTS;
        if entry.kind != entry_kind::SNAPSHOT || !in_parts {
            return Ok(());
        }
        match self.partial.take() {
            // After a reconnect the total is unknown until the next part.
            Some((partial, total))
                if partial.hash == entry.id && (total == 0 || partial.bytes == total) =>
            {
                Ok(())
            }
            _ => Err("a snapshot whose parts are missing".to_owned()),
        }
    }

    /// The arriving snapshot: bytes received, and all its bytes.
    pub(super) fn arriving(&self) -> Option<(u64, u64)> {
        let (partial, total) = self.partial?;
        (total > 0).then_some((partial.bytes, total))
    }
}

impl Replica {
    pub(super) fn handle_entries(&mut self, now: Moment, frame: Entries) {
        let Some(space) = self.space_of(frame.subscription) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let receiver = &mut link.receiver;
        if matches!(receiver.stage, Stage::Stopped) {
            return;
        }
        if !matches!(receiver.stage, Stage::Open | Stage::Resetting) {
            return self.broken(format!("entries of {space} before subscribed"));
        }
        if let Err(what) = check_order(receiver.at, &frame) {
            return self.broken(format!("entries of {space}: {what}"));
        }
        receiver.head = receiver.head.max(frame.head).max(frame.up_to);
        receiver.epoch = Some(frame.epoch);
        let scope = receiver.scope.unwrap_or(Scope::WHOLE_SPACE);
        let mut cursor = Cursor { epoch: frame.epoch, offset: frame.up_to, scope };
        let mut entries = Vec::with_capacity(frame.entries.len());
        let mut bytes = 64;
        let mut stopped_by = None;
        for entry in frame.entries {
            if must_stop(&entry) {
                cursor.offset = Offset(entry.offset.0 - 1);
                stopped_by = Some(entry.kind);
                break;
            }
            bytes += weight(&entry);
            if let Err(what) = receiver.take_parts_of(&entry) {
                return self.broken(format!("entries of {space}: {what}"));
            }
            entries.push(match receiver.take_oversized(&entry) {
                Some(total) => too_large(entry, total),
                None => check(entry),
            });
        }
        if cursor.offset > receiver.at {
            let after = std::mem::replace(&mut receiver.at, cursor.offset);
            receiver.storing += bytes;
            self.storing_bytes += bytes;
            let batch = Batch { space: space.clone(), after, cursor, entries, bytes };
            self.effects.push_back(ReplicaEffect::Store(batch));
        }
        match stopped_by {
            Some(kind) => self.stop_space(&space, kind),
            None => self.progress(now, &space),
        }
    }

    /// A piece of a snapshot arrived.
    pub(super) fn handle_part(&mut self, part: Part) {
        let Some(space) = self.space_of(part.subscription) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let receiver = &mut link.receiver;
        if matches!(receiver.stage, Stage::Stopped) {
            return;
        }
        let Part { document, hash, total, from, bytes, .. } = part;
        match receiver.take_part(hash, total, from, bytes.len() as u64) {
            Err(what) => return self.broken(format!("a part of {space}: {what}")),
            Ok(false) => return self.report_phase(&space),
            Ok(true) => {}
        }
        let weight = bytes.len() + PART_WEIGHT;
        receiver.storing += weight;
        self.storing_bytes += weight;
        let bytes = bytes.into_vec();
        self.effects.push_back(ReplicaEffect::StorePart {
            space: space.clone(),
            document,
            hash,
            total,
            from,
            bytes,
        });
        self.report_phase(&space);
    }

    fn stop_space(&mut self, space: &SpaceName, kind: u16) {
        let what = format!("an entry of kind {kind} must be understood; upgrade this application");
        let code = Code::MUST_UNDERSTAND;
        if let Some(link) = self.spaces.get(space) {
            let subscription = link.subscription;
            self.send(crate::frame::Frame::Unsubscribe(subscription));
        }
        self.refuse_space(space, SpacePhase::Refused { code, what });
    }
}

fn check_order(at: Offset, frame: &Entries) -> Result<(), String> {
    if frame.after != at {
        return Err(format!("they follow offset {}, our cursor is at {at}", frame.after));
    }
    if frame.up_to <= frame.after || frame.up_to.0 > limits::OFFSET {
        return Err(format!("they go from {} to {}", frame.after, frame.up_to));
    }
    let mut last = frame.after;
    for entry in &frame.entries {
        if entry.offset <= last || entry.offset > frame.up_to {
            return Err(format!("offset {} after {last}, up to {}", entry.offset, frame.up_to));
        }
        last = entry.offset;
    }
    Ok(())
}

fn must_stop(entry: &Entry) -> bool {
    let known = [entry_kind::CHANGE, entry_kind::SNAPSHOT, entry_kind::TOMBSTONE];
    !known.contains(&entry.kind) && entry.flags & entry_flags::MUST_UNDERSTAND != 0
}

/// The approximate memory of an entry that waits for the store: a small body may have a thousand
/// dependencies.
pub(super) fn weight(entry: &Entry) -> usize {
    entry.body.len() + 32 * entry.dependencies.len() + entry.author.len() + 256
}

/// The stateless checks of one entry.
pub(super) fn check(entry: Entry) -> Incoming {
    let document = entry.document;
    match entry.kind {
        entry_kind::CHANGE => {}
        entry_kind::SNAPSHOT => return check_snapshot(entry),
        entry_kind::TOMBSTONE => {
            let (offset, author, at_ms) = (entry.offset, entry.author.into_vec(), entry.at_ms);
            return Incoming::Tombstone { offset, document, author, at_ms };
        }
        entry_kind::DAMAGED => {
            return Incoming::Deferred { entry, reason: DeferredReason::Damaged };
        }
        kind => return Incoming::Deferred { entry, reason: DeferredReason::UnknownKind(kind) },
    }
    if entry.flags & entry_flags::ECHO != 0 {
        return Incoming::Echo { document, hash: entry.hash() };
    }
    match preflight(&entry.body) {
        Err(error) => Incoming::Deferred { entry, reason: DeferredReason::Form(error) },
        Ok(change) if change.hash != entry.hash() => {
            Incoming::Deferred { entry, reason: DeferredReason::WrongId }
        }
        Ok(change) => {
            let (offset, author, at_ms) = (entry.offset, entry.author.into_vec(), entry.at_ms);
            let second_root = entry.flags & entry_flags::SECOND_ROOT != 0;
            Incoming::Change { offset, document, change, author, at_ms, second_root }
        }
    }
}

/// The deferred entry of a snapshot that exceeds the limit.
pub(super) fn too_large(entry: Entry, actual: u64) -> Incoming {
    let limit = limits::SNAPSHOT_BYTES as u64;
    Incoming::Deferred { entry, reason: DeferredReason::SnapshotTooLarge { actual, limit } }
}

fn check_snapshot(entry: Entry) -> Incoming {
    let (offset, document, hash) = (entry.offset, entry.document, entry.id);
    let heads = entry.dependencies.into_iter().map(ChangeHash).collect();
    if entry.flags & entry_flags::ECHO != 0 {
        return Incoming::SnapshotEcho { document, hash, heads };
    }
    let whole = entry.flags & entry_flags::PARTS == 0;
    let body = whole.then(|| entry.body.into_vec());
    Incoming::Snapshot { offset, document, hash, heads, body }
}
