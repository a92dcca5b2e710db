//! The feed of a subscription: its position, the pages and parts that advance it, and the pause
//! while the two ends compare their documents. Reads no log: the caller brings the pages.

use super::subscriptions::named;
use super::{Phase, Session, SessionEffect};
use crate::access::View;
use crate::code::Code;
use crate::frame::{
    EntriesBuilder, Frame, Part, Partial, Refilter, Subscribed, SubscriptionId, encode, entry_kind,
};
use crate::ids::{Epoch, Offset};
use crate::limits;
use crate::relay::{Page, SnapshotPart};

impl Session {
    /// The lineage of a subscription's space is known: entries follow after `resume`. If it is
    /// `None`, a replica that supports comparison compares first; others are fed from the start.
    pub fn handle_attached(
        &mut self,
        subscription: SubscriptionId,
        epoch: Option<Epoch>,
        head: Offset,
        resume: Option<Offset>,
    ) {
        let Some(entry) = self.subscriptions.get_mut(&subscription) else { return };
        entry.comparing = resume.is_none() && entry.knows_snapshots;
        entry.position = match resume {
            Some(after) => Some(after),
            None if entry.comparing => Some(head),
            None => Some(Offset(0)),
        };
        if resume.is_none() {
            entry.partial = None;
        }
        let Phase::Ready(identity) = &self.phase else { return };
        let scope = identity.principal.scope(&entry.space, &entry.filter);
        let resumed = resume.is_some();
        self.send(Frame::Subscribed(Subscribed { subscription, epoch, head, scope, resumed }));
        // Not before `Subscribed`: the peer does not know the subscription until then.
        self.listen(subscription);
    }

    /// The space could not be opened.
    pub fn handle_attach_failed(&mut self, subscription: SubscriptionId, code: Code, what: String) {
        if self.remove_subscription(subscription) {
            let hint = "try again later; the relay's log says more".to_owned();
            self.refuse_subscription(subscription, code, what, hint);
        }
    }

    /// The position of a subscription; `None` if there is nothing to feed.
    pub fn position(&self, subscription: SubscriptionId) -> Option<Offset> {
        let entry = self.subscriptions.get(&subscription)?;
        if entry.comparing || entry.fetching { None } else { entry.position }
    }

    /// The documents that a subscription is answered about.
    pub fn view(&self, subscription: SubscriptionId) -> Option<&View> {
        Some(&self.subscriptions.get(&subscription)?.view)
    }

    /// The replica's part of the next snapshot.
    pub fn partial(&self, subscription: SubscriptionId) -> Option<Partial> {
        self.subscriptions.get(&subscription)?.partial
    }

    /// A page of entries for a subscription, as an encoded message; `None` if the page does not
    /// continue at the subscription's position, or holds nothing new.
    pub fn handle_page(&mut self, subscription: SubscriptionId, page: &Page) -> Option<Vec<u8>> {
        let entry = self.subscriptions.get_mut(&subscription)?;
        let paused = entry.comparing || entry.fetching;
        if paused || entry.position != Some(page.after) || page.up_to <= page.after {
            return None;
        }
        let Page { after, up_to, epoch, head, .. } = *page;
        let mut frame = EntriesBuilder::new(subscription, after, up_to, epoch, head);
        for encoded in &page.entries {
            let mut own = entry.own.contains(encoded.offset().0);
            if encoded.kind() == entry_kind::SNAPSHOT {
                entry.partial = None;
                // The snapshot in the log may have more changes than the uploaded one.
                own = entry.own_snapshots.remove(&encoded.id()).is_some();
            }
            if entry.view.contains(&encoded.document()) {
                frame.add(encoded, own);
            }
        }
        entry.position = Some(up_to);
        let before = entry.own.intervals();
        entry.own.remove(0, up_to.0);
        self.own_ranges = self.own_ranges + entry.own.intervals() - before;
        Some(frame.finish())
    }

    /// A part of the next snapshot, as an encoded message; `None` if it does not continue at the
    /// subscription's position.
    pub fn handle_snapshot_part(
        &mut self,
        subscription: SubscriptionId,
        part: SnapshotPart,
    ) -> Option<Vec<u8>> {
        let entry = self.subscriptions.get_mut(&subscription)?;
        if !entry.knows_snapshots {
            self.remove_subscription(subscription);
            let what = "the next entry is a snapshot, which must be understood".to_owned();
            let hint = "upgrade this application".to_owned();
            self.refuse_subscription(subscription, Code::MUST_UNDERSTAND, what, hint);
            self.effects.push_back(SessionEffect::Detach(subscription));
            return None;
        }
        if let Some(bytes) = entry.own_snapshots.get(&part.hash) {
            // The peer uploaded this snapshot: the next read returns its entry.
            entry.partial = Some(Partial { hash: part.hash, bytes: *bytes });
            return None;
        }
        let partial = entry.partial.filter(|partial| partial.hash == part.hash);
        let at = partial.map_or(0, |partial| partial.bytes);
        if entry.comparing || entry.fetching || (part.from != at && part.from != 0) {
            return None;
        }
        let bytes = part.from + part.bytes.len() as u64;
        entry.partial = Some(Partial { hash: part.hash, bytes });
        Some(Self::part_frame(subscription, part))
    }

    /// A part of a snapshot as a message.
    pub fn part_frame(subscription: SubscriptionId, part: SnapshotPart) -> Vec<u8> {
        let SnapshotPart { document, hash, total, from, bytes } = part;
        let bytes = bytes.into();
        encode(&Frame::Part(Part { subscription, document, hash, total, from, bytes }))
    }

    pub(super) fn handle_refilter(&mut self, refilter: Refilter) {
        let Refilter { subscription, filter } = refilter;
        let Some(entry) = self.subscriptions.get_mut(&subscription) else {
            return self.fail_unknown(subscription);
        };
        let Some(position) = entry.position else {
            let what = "a second filter before the subscription is confirmed".to_owned();
            return self.fail(Code::OUT_OF_ORDER, what, "wait for subscribed");
        };
        let others = self.filter_documents - named(&entry.filter);
        if others + named(&filter) > limits::SESSION_FILTER_DOCUMENTS {
            self.remove_subscription(subscription);
            self.effects.push_back(SessionEffect::Detach(subscription));
            let limit = limits::SESSION_FILTER_DOCUMENTS;
            let what = format!("the filters of this session name {limit} documents");
            return self.refuse_too_many(subscription, what);
        }
        self.filter_documents = others + named(&filter);
        let Phase::Ready(identity) = &self.phase else { return };
        let view = identity.principal.view(&entry.space, &filter);
        let scope = identity.principal.scope(&entry.space, &filter);
        (entry.filter, entry.view) = (filter, view.clone());
        entry.comparing = true;
        entry.partial = None;
        // The head is the position at which the feed continues: everything up to it has been sent.
        let (epoch, head, resumed) = (None, position, false);
        self.send(Frame::Subscribed(Subscribed { subscription, epoch, head, scope, resumed }));
        self.effects.push_back(SessionEffect::Refiltered { subscription, view });
        self.listen(subscription);
    }

    pub(super) fn handle_compared(&mut self, subscription: SubscriptionId) {
        let Some(entry) = self.subscriptions.get_mut(&subscription) else {
            return self.fail_unknown(subscription);
        };
        entry.comparing = false;
    }
}
