//! Pushes that are no changes: entries of other kinds, and snapshots in parts.

use super::{Session, SessionEffect};
use crate::code::{Code, NackClass};
use crate::digest::tombstone_id;
use crate::frame::{
    Frame, Nack, Part, PushEntry, PushSnapshot, SubscriptionId, Wanted, entry_kind,
};
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;
use crate::rights::Rights;

/// A snapshot that a client offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The session's number for it.
    pub id: u64,
    /// The subscription that it came over.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// How many bytes.
    pub total: u64,
    /// Its heads, as the client says.
    pub heads: Vec<ChangeHash>,
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
        self.offers.insert(id, offer.clone());
        self.effects.push_back(SessionEffect::Offered { space, offer });
    }

    /// Refuses a push that was taken into the list of those in flight.
    fn refuse_push(&mut self, id: u64, code: Code, what: String) {
        self.in_flight.remove(&id);
        let (class, retry_after_ms) = (NackClass::REFUSED, 0);
        let what = crate::frame::fit(what);
        self.send(Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
    }

    pub(super) fn handle_part(&mut self, part: Part) {
        let Part { subscription, document, hash, total, from, bytes } = part;
        let is_of = |offer: &&Offered| offer.document == document && offer.hash == hash;
        let Some(offer) = self.offers.values().find(is_of).cloned() else {
            // Of an offer that was answered meanwhile.
            return;
        };
        let fits = offer.subscription == subscription
            && offer.total == total
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

    /// Some offers are not awaited any more: whatever becomes of them, nobody is told.
    pub(super) fn withdraw_offers(&mut self, which: impl Fn(&Offered) -> bool) {
        let in_flight = &mut self.in_flight;
        self.offers.retain(|id, offer| {
            let withdrawn = which(offer);
            if withdrawn {
                in_flight.remove(id);
            }
            !withdrawn
        });
    }

    /// So much of an offered snapshot is there; parts up to here may be sent.
    pub fn handle_wanted(&mut self, id: u64, from: u64) {
        if let Some(offer) = self.offers.get(&id) {
            let up_to = offer.total.min(from + limits::SNAPSHOT_WINDOW_BYTES as u64);
            self.send(Frame::Wanted(Wanted { id, from, up_to }));
        }
    }
}
