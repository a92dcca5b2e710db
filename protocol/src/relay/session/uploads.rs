//! Pushes that are not changes: entries of other kinds, and snapshot uploads in parts. The parts'
//! bytes are kept elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Session, SessionEffect};
use crate::access::Rights;
use crate::code::{Code, NackClass};
use crate::digest::tombstone_id;
use crate::frame::{
    Frame, Nack, Part, PushEntry, PushSnapshot, SubscriptionId, UploadFrom, entry_kind,
};
use crate::ids::{ChangeHash, DocumentId};
use crate::limits;

/// A snapshot upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotUpload {
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
pub(super) struct Uploads {
    by_id: BTreeMap<u64, SnapshotUpload>,
    by_document: BTreeMap<(SubscriptionId, DocumentId), u64>,
    /// The complete uploads, which the space's machine has.
    whole: BTreeSet<u64>,
}

impl Uploads {
    /// The number of incomplete uploads.
    fn awaited(&self) -> usize {
        self.by_id.len() - self.whole.len()
    }

    /// The number of heads of all uploads.
    fn heads(&self) -> usize {
        self.by_id.values().map(|upload| upload.heads.len()).sum()
    }

    fn insert(&mut self, upload: SnapshotUpload) {
        self.by_document.insert((upload.subscription, upload.document), upload.id);
        self.by_id.insert(upload.id, upload);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<SnapshotUpload> {
        let upload = self.by_id.remove(&id)?;
        self.by_document.remove(&(upload.subscription, upload.document));
        self.whole.remove(&id);
        Some(upload)
    }

    /// Cancels an upload, which gets no answer. Returns its number.
    pub(super) fn withdraw(&mut self, of: SubscriptionId, document: &DocumentId) -> Option<u64> {
        let id = *self.by_document.get(&(of, *document))?;
        self.remove(id).map(|upload| upload.id)
    }

    /// As [`Uploads::withdraw`], for all uploads of a subscription.
    pub(super) fn withdraw_all(&mut self, of: SubscriptionId) -> Vec<u64> {
        let (first, last) = (DocumentId::from_bytes([0; 16]), DocumentId::from_bytes([0xff; 16]));
        let ids: Vec<u64> =
            self.by_document.range((of, first)..=(of, last)).map(|(_, id)| *id).collect();
        ids.iter().for_each(|id| drop(self.remove(*id)));
        ids
    }

    fn awaiting(&self, of: SubscriptionId, document: &DocumentId) -> Option<&SnapshotUpload> {
        let id = self.by_document.get(&(of, *document))?;
        self.by_id.get(id).filter(|_| !self.whole.contains(id))
    }
}

impl Session {
    pub(super) fn handle_push_entry(&mut self, entry: PushEntry) {
        let needed = match entry.kind {
            entry_kind::TOMBSTONE => Rights::DELETE,
            _ => Rights::WRITE,
        };
        let begun = self.begin_push(entry.id, entry.subscription, &entry.document, needed);
        let Some((space, author)) = begun else { return };
        let fits = match entry.kind {
            entry_kind::CHANGE => true,
            entry_kind::TOMBSTONE => {
                entry.entry == tombstone_id(&entry.document) && entry.body.is_empty()
            }
            _ => false,
        };
        if !fits {
            let what =
                format!("an entry of kind {}, which a client cannot push this way", entry.kind);
            return self.refuse_push(entry.id, Code::FORM, what);
        }
        self.effects.push_back(SessionEffect::PushEntry { space, author, entry });
    }

    pub(super) fn handle_push_snapshot(&mut self, push: PushSnapshot) {
        let PushSnapshot { id, subscription, document, hash, total, heads } = push;
        let begun = self.begin_push(id, subscription, &document, Rights::WRITE);
        let Some((space, _)) = begun else { return };
        if total == 0 || total > limits::SNAPSHOT_BYTES as u64 {
            let limit = limits::SNAPSHOT_BYTES;
            let what = format!("a snapshot of {total} bytes; the limit is {limit}");
            return self.refuse_push(id, Code::SNAPSHOT, what);
        }
        let heads = heads.into_iter().map(ChangeHash).collect();
        let upload = SnapshotUpload { id, subscription, document, hash, total, heads };
        // The upload waits for the client and holds up no other push: only the relay's own work is
        // in flight.
        self.in_flight.remove(&id);
        if self.uploads.awaited() >= limits::PUSHES_IN_FLIGHT {
            let limit = limits::PUSHES_IN_FLIGHT;
            return self.give_back(id, format!("{limit} snapshot uploads wait for their parts"));
        }
        if self.uploads.heads() + upload.heads.len() > limits::SESSION_UPLOAD_HEADS {
            let limit = limits::SESSION_UPLOAD_HEADS;
            return self.give_back(
                id,
                format!("snapshot uploads with {limit} heads wait for their parts"),
            );
        }
        self.uploads.insert(upload.clone());
        self.effects.push_back(SessionEffect::SnapshotUpload { space, upload });
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
        self.uploads.by_id.contains_key(&id) && !self.uploads.whole.contains(&id)
    }

    /// Whether an upload is unanswered: the session keeps it, with its heads.
    pub fn has_upload(&self, id: u64) -> bool {
        self.uploads.by_id.contains_key(&id)
    }

    /// The relay has no room for an upload now, or its parts arrived too slowly.
    pub fn handle_upload_refused(&mut self, id: u64, what: &str) {
        if self.uploads.remove(id).is_some() {
            self.in_flight.remove(&id);
            self.give_back(id, what.to_owned());
        }
    }

    fn give_back(&mut self, id: u64, what: String) {
        let (code, class) = (Code::OVERLOADED, NackClass::RETRY_AFTER);
        let (retry_after_ms, what) = (limits::RETRY_UPLOAD_MS, crate::frame::fit(what));
        self.send(Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
    }

    /// An upload is complete and now in flight. Returns false if it was cancelled.
    pub fn handle_upload_complete(&mut self, id: u64) -> bool {
        let Some(upload) = self.uploads.by_id.get(&id) else { return false };
        let subscription = upload.subscription;
        let Some(entry) = self.subscriptions.get(&subscription) else { return false };
        self.in_flight.insert(id, (subscription, entry.ticket));
        self.uploads.whole.insert(id)
    }

    pub(super) fn handle_part(&mut self, part: Part) {
        let Part { subscription, document, hash, total, from, bytes } = part;
        let upload = self.uploads.awaiting(subscription, &document).cloned();
        let Some(upload) = upload.filter(|upload| upload.hash == hash) else {
            // The upload is complete, cancelled or answered.
            return;
        };
        let fits = upload.total == total
            && !bytes.is_empty()
            && bytes.len() <= limits::PART_BYTES
            && from.checked_add(bytes.len() as u64).is_some_and(|end| end <= total);
        let Some(entry) = self.subscriptions.get(&subscription).filter(|_| fits) else {
            let what = "a part that does not fit its snapshot".to_owned();
            return self.fail(Code::MALFORMED, what, "send the bytes that `UploadFrom` requests");
        };
        let (space, bytes) = (entry.space.clone(), bytes.into_vec());
        self.effects.push_back(SessionEffect::Part { space, upload, from, bytes });
    }

    /// Reports how much of an upload has arrived, and up to where parts may be sent.
    pub fn handle_upload_offset(&mut self, id: u64, from: u64) {
        if let Some(upload) =
            self.uploads.by_id.get(&id).filter(|_| !self.uploads.whole.contains(&id))
        {
            let up_to = upload.total.min(from + limits::SNAPSHOT_WINDOW_BYTES as u64);
            self.send(Frame::UploadFrom(UploadFrom { id, from, up_to }));
        }
    }
}
