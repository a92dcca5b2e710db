//! The relay's answers to pushes.

use std::time::Duration;

use super::Delay;
use super::groups::{Group, Load};
use crate::client::{Replica, ReplicaEffect};
use crate::code::{Code, NackClass};
use crate::frame::{Ack, Nack};
use crate::ids::{DocumentId, SpaceName};
use crate::limits;
use crate::moment::Moment;

impl Replica {
    pub(in super::super) fn handle_ack(&mut self, now: Moment, ack: Ack) {
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
    pub(super) fn end_delay(&mut self, space: &SpaceName, document: Option<&DocumentId>) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let is_of = |delay: &mut Delay| document.is_none_or(|document| *document == delay.document);
        if link.outbox.delay.take_if(is_of).is_some() {
            let (space, why) = (space.clone(), None);
            self.effects.push_back(ReplicaEffect::Delayed { space, why });
        }
    }

    pub(in super::super) fn handle_nack(&mut self, now: Moment, nack: Nack) {
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
            NackClass::REPUSH if repeats => {}
            // The relay lacks something that counts as acked. Push the whole document again, once per
            // subscription.
            NackClass::REPUSH if outbox.requeued.insert(document) => {
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
