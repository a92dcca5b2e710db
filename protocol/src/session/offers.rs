//! Pushes that are not changes: entries of other kinds, and snapshot uploads in parts. The parts'
//! bytes are kept elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Session, SessionEffect};
use crate::code::{Code, NackClass};
use crate::digest::tombstone_id;
use crate::frame::{
    Frame, Nack, Part, PushEntry, PushSnapshot, SubscriptionId, Wanted, entry_kind,
};
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;
use crate::rights::Rights;

/// A snapshot upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The session's number for it.
    pub id: u64,
    /// The subscription of the push.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// Its length in bytes.
    pub total: u64,
    /// Its heads, as the client states them.
    pub heads: Arc<[ChangeHash]>,
}

/// The unanswered uploads of a session: at most one for each subscription and document.
#[derive(Debug, Default)]
pub(super) struct Offers {
    by_id: BTreeMap<u64, Offered>,
    by_document: BTreeMap<(SubscriptionId, DocumentId), u64>,
    /// The complete uploads, which the space's machine has.
    whole: BTreeSet<u64>,
}

impl Offers {
    /// The number of incomplete uploads.
    fn awaited(&self) -> usize {
        self.by_id.len() - self.whole.len()
    }

    /// The number of heads of all uploads.
    fn heads(&self) -> usize {
        self.by_id.values().map(|offer| offer.heads.len()).sum()
    }

    fn insert(&mut self, offer: Offered) {
        self.by_document.insert((offer.subscription, offer.document), offer.id);
        self.by_id.insert(offer.id, offer);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Offered> {
        let offer = self.by_id.remove(&id)?;
        self.by_document.remove(&(offer.subscription, offer.document));
        self.whole.remove(&id);
        Some(offer)
    }

    /// Cancels an upload, which gets no answer. Returns its number.
    pub(super) fn withdraw(&mut self, of: SubscriptionId, document: &DocumentId) -> Option<u64> {
        let id = *self.by_document.get(&(of, *document))?;
        self.remove(id).map(|offer| offer.id)
    }

    /// As [`Offers::withdraw`], for all uploads of a subscription.
    pub(super) fn withdraw_all(&mut self, of: SubscriptionId) -> Vec<u64> {
        let (first, last) = (DocumentId::from_bytes([0; 16]), DocumentId::from_bytes([0xff; 16]));
        let ids: Vec<u64> =
            self.by_document.range((of, first)..=(of, last)).map(|(_, id)| *id).collect();
        ids.iter().for_each(|id| drop(self.remove(*id)));
        ids
    }

    fn awaiting(&self, of: SubscriptionId, document: &DocumentId) -> Option<&Offered> {
        let id = self.by_document.get(&(of, *document))?;
        self.by_id.get(id).filter(|_| !self.whole.contains(id))
    }
}

impl Session {
    pub(super) fn handle_push_entry(&mut self, entry: PushEntry, rights: &dyn Rights) {
        let Some(space) = self.begin_push(entry.id, entry.subscription, &entry.document, rights)
        else {
            return;
        };
        let fits = match entry.kind {
            entry_kind::CHANGE => true,
            entry_kind::TOMBSTONE => {
                entry.entry == tombstone_id(&entry.document) && entry.body.is_empty()
            }
            _ => false,
        };
        if !fits {
            let what = format!("an entry of kind {} that a client cannot push so", entry.kind);
            return self.refuse_push(entry.id, Code::FORM, what);
        }
        self.effects.push_back(SessionEffect::PushEntry { space, entry });
    }

    pub(super) fn handle_push_snapshot(&mut self, push: PushSnapshot, rights: &dyn Rights) {
        let PushSnapshot { id, subscription, document, hash, total, heads } = push;
        let Some(space) = self.begin_push(id, subscription, &document, rights) else { return };
        if total == 0 || total > limits::SNAPSHOT_BYTES as u64 {
            let limit = limits::SNAPSHOT_BYTES;
            let what = format!("a snapshot of {total} bytes; the limit is {limit}");
            return self.refuse_push(id, Code::SNAPSHOT, what);
        }
        let heads = heads.into_iter().map(ChangeHash).collect();
        let offer = Offered { id, subscription, document, hash, total, heads };
        // The upload waits for the client and holds up no other push: only the relay's own work is
        // in flight.
        self.in_flight.remove(&id);
        if self.offers.awaited() >= limits::PUSHES_IN_FLIGHT {
            let limit = limits::PUSHES_IN_FLIGHT;
            return self.give_back(id, format!("{limit} offers wait for their parts"));
        }
        if self.offers.heads() + offer.heads.len() > limits::SESSION_OFFERED_HEADS {
            let limit = limits::SESSION_OFFERED_HEADS;
            return self.give_back(id, format!("offers of {limit} heads wait for their parts"));
        }
        self.offers.insert(offer.clone());
        self.effects.push_back(SessionEffect::Offered { space, offer });
    }

    /// Rejects a push that was recorded as in flight.
    fn refuse_push(&mut self, id: u64, code: Code, what: String) {
        self.in_flight.remove(&id);
        let (class, retry_after_ms) = (NackClass::REFUSED, 0);
        let what = crate::frame::fit(what);
        self.send(Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
    }

    /// Whether the upload is incomplete.
    pub fn awaits(&self, id: u64) -> bool {
        self.offers.by_id.contains_key(&id) && !self.offers.whole.contains(&id)
    }

    /// Whether an upload is unanswered: the session keeps it, with its heads.
    pub fn has_offer(&self, id: u64) -> bool {
        self.offers.by_id.contains_key(&id)
    }

    /// The relay has no room for an upload now, or its parts arrived too slowly.
    pub fn handle_no_room_for(&mut self, id: u64, what: &str) {
        if self.offers.remove(id).is_some() {
            self.in_flight.remove(&id);
            self.give_back(id, what.to_owned());
        }
    }

    fn give_back(&mut self, id: u64, what: String) {
        let (code, class) = (Code::OVERLOADED, NackClass::RETRY_AFTER);
        let (retry_after_ms, what) = (limits::RETRY_OFFER_MS, crate::frame::fit(what));
        self.send(Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
    }

    /// An upload is complete and now in flight. Returns false if it was cancelled.
    pub fn handle_whole(&mut self, id: u64) -> bool {
        let Some(offer) = self.offers.by_id.get(&id) else { return false };
        let subscription = offer.subscription;
        let Some(entry) = self.subscriptions.get(&subscription) else { return false };
        self.in_flight.insert(id, (subscription, entry.ticket));
        self.offers.whole.insert(id)
    }

    pub(super) fn handle_part(&mut self, part: Part) {
        let Part { subscription, document, hash, total, from, bytes } = part;
        let offer = self.offers.awaiting(subscription, &document).cloned();
        let Some(offer) = offer.filter(|offer| offer.hash == hash) else {
            // The upload is complete, cancelled or answered.
            return;
        };
        let fits = offer.total == total
            && !bytes.is_empty()
            && bytes.len() <= limits::PART_BYTES
            && from.checked_add(bytes.len() as u64).is_some_and(|end| end <= total);
        let Some(entry) = self.subscriptions.get(&subscription).filter(|_| fits) else {
            let what = "a part that does not fit its snapshot".to_owned();
            return self.fail(Code::MALFORMED, what, "send what wanted asks for");
        };
        let (space, bytes) = (entry.space.clone(), bytes.into_vec());
        self.effects.push_back(SessionEffect::Part { space, offer, from, bytes });
    }

    /// Reports how much of an upload has arrived, and up to where parts may be sent.
    pub fn handle_wanted(&mut self, id: u64, from: u64) {
        if let Some(offer) = self.offers.by_id.get(&id).filter(|_| !self.offers.whole.contains(&id))
        {
            let up_to = offer.total.min(from + limits::SNAPSHOT_WINDOW_BYTES as u64);
            self.send(Frame::Wanted(Wanted { id, from, up_to }));
        }
    }
}
