//! The receiving half of a space: entries in order, none skipped, none believed unchecked.

use super::{AsideReason, Batch, Incoming, Replica, ReplicaEffect, SpacePhase, distance};
use crate::admission::preflight;
use crate::code::Code;
use crate::frame::{Entries, Entry, Subscribed, entry_flags, entry_kind};
use crate::ids::{Cursor, Offset, Scope, SpaceName};
use crate::limits;
use crate::moment::Moment;

/// How far a space's receiving half has come on this connection.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Asked,
    /// The store is to forget its cursor; entries may arrive meanwhile and queue behind it.
    Resetting,
    Open,
    Stopped,
}

#[derive(Debug, Default)]
pub(super) struct Receiver {
    stage: Stage,
    /// The cursor as received; the store may be behind it by `storing`.
    at: Offset,
    started_at: Offset,
    /// The relay's last offset when we subscribed: nothing is pushed before it is stored, if we
    /// began from nothing, since most of what we hold may turn out to be there.
    target: Offset,
    from_nothing: bool,
    head: Offset,
    storing: usize,
    scope: Option<Scope>,
    live: bool,
}

impl Receiver {
    pub(super) fn begin(&mut self, cursor: Option<Cursor>) {
        let at = cursor.map_or(Offset(0), |cursor| cursor.offset);
        let from_nothing = cursor.is_none();
        *self = Self { stage: Stage::Asked, at, started_at: at, from_nothing, ..Self::default() };
    }

    /// False if no answer was awaited.
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
        }
        true
    }

    pub(super) fn handle_reset(&mut self) {
        if matches!(self.stage, Stage::Resetting) {
            self.stage = Stage::Open;
        }
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
            false => SpacePhase::CatchingUp { done: distance(self.started_at, self.at), to_go },
        }
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
            bytes += entry.body.len() + 256;
            entries.push(check(entry));
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
        return Err(format!("they follow offset {}, our copy ends at {at}", frame.after));
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
    entry.kind != entry_kind::CHANGE && entry.flags & entry_flags::MUST_UNDERSTAND != 0
}

fn check(entry: Entry) -> Incoming {
    if entry.kind != entry_kind::CHANGE {
        let reason = AsideReason::UnknownKind(entry.kind);
        return Incoming::Aside { entry, reason };
    }
    let document = entry.document;
    if entry.flags & entry_flags::ECHO != 0 {
        return Incoming::Echo { document, hash: entry.hash() };
    }
    match preflight(&entry.body) {
        Err(error) => Incoming::Aside { entry, reason: AsideReason::Form(error) },
        Ok(change) if change.hash != entry.hash() => {
            Incoming::Aside { entry, reason: AsideReason::WrongId }
        }
        Ok(change) => {
            let (offset, author, at_ms) = (entry.offset, entry.author.into_vec(), entry.at_ms);
            Incoming::Change { offset, document, change, author, at_ms }
        }
    }
}
