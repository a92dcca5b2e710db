//! The documents of a space with deferred pushes, and the order in which those are admitted. Addresses take
//! turns, and within an address its sessions, whose pushes stay in order. Single changes and deletions go
//! before other sessions' snapshots and whole documents, since each of those defers the document's pushes
//! again.
//!
//! Pure: the steps that the pushes wait for are in `deferred.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use landfall_protocol::DocumentId;
use landfall_protocol::relay::{PushedEntry, SnapshotUpload};

use super::Pushed;
use crate::limits;
use crate::memory::{Key, ShareKey};
use crate::turns::Round;

/// An upload to merge with the stored document.
pub(super) enum WaitingUpload {
    /// A client's snapshot.
    Snapshot(SnapshotUpload, Arc<Vec<u8>>),
    /// Chunks of an automerge-repo peer.
    Chunks(Arc<Vec<u8>>),
}

/// Why a document's pushes are deferred.
pub(super) enum DeferReason {
    /// Its index is being read.
    Loading,
    /// The stored bytes of its changes are being checked, and replaced if damaged.
    Repairing,
    /// An upload is to be merged; entries admitted before it must become durable first.
    Draining(PushedEntry, WaitingUpload),
    /// The upload is being merged with the stored document.
    Merging,
    /// The result of the merge is being written.
    Committing,
}

/// The next step for a document without uncommitted entries.
pub(super) enum Settled {
    /// Merge this upload.
    Drained(PushedEntry, WaitingUpload),
    /// Admit its deferred pushes.
    Committed,
    /// It waits for something else.
    Waits,
}

/// The deferred pushes of one document.
#[derive(Default)]
pub(super) struct Pushes {
    /// The push that goes before all others.
    first: Option<Pushed>,
    others: Round<(Pushed, usize)>,
    /// Number of deferred pushes of each share, and their bytes of memory.
    shares: BTreeMap<ShareKey, (usize, usize)>,
}

impl Pushes {
    /// Adds a push with its bytes; false if the number or the bytes exceed the limit, in total or for its
    /// share. The limits leave room for pushes to other documents, and of other addresses.
    fn add(&mut self, key: Key, push: Pushed, bytes: usize) -> bool {
        let sum = |(pushes, sum): (usize, usize), of: &(usize, usize)| (pushes + of.0, sum + of.1);
        let all = self.shares.values().fold((1, bytes), sum);
        let of = self.shares.get(&key.share).copied().unwrap_or_default();
        let of = (of.0 + 1, of.1 + bytes);
        let exceeds = |(pushes, bytes), shares| {
            pushes > shares * limits::DEFERRED_PUSHES
                || bytes > shares * limits::DEFERRED_PUSH_BYTES
        };
        if exceeds(all, 2) || exceeds(of, 1) {
            return false;
        }
        self.shares.insert(key.share, of);
        self.others.add(key, (push, bytes));
        true
    }

    /// Removes the next one.
    pub(super) fn take(&mut self) -> Option<Pushed> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let is_single = |(push, _): &(Pushed, usize)| !push.is_upload();
        let next = self.others.take(|_| true, is_single);
        let (key, (push, bytes)) = next.or_else(|| self.others.take(|_| true, |_| true))?;
        if let Some(of) = self.shares.get_mut(&key.share) {
            *of = (of.0 - 1, of.1 - bytes);
            if of.0 == 0 {
                self.shares.remove(&key.share);
            }
        }
        Some(push)
    }

    /// Records a session's turn: other addresses come first.
    fn note_turn(&mut self, key: Key) {
        self.others.note_turn(key.share);
    }

    /// Removes the one that goes before all others.
    pub(super) fn take_first(&mut self) -> Option<Pushed> {
        self.first.take()
    }
}

struct DeferredDocument {
    reason: DeferReason,
    pushes: Pushes,
}

/// The documents of one space with deferred pushes.
#[derive(Default)]
pub(super) struct DeferredPushes {
    documents: HashMap<DocumentId, DeferredDocument>,
}

impl DeferredPushes {
    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    pub(super) fn is_deferred(&self, document: &DocumentId) -> bool {
        self.documents.contains_key(document)
    }

    pub(super) fn documents(&self) -> impl Iterator<Item = &DocumentId> {
        self.documents.keys()
    }

    /// Defers a session's push, with the bytes of memory that it holds. False if there is no room.
    pub(super) fn wait(
        &mut self,
        document: &DocumentId,
        key: Key,
        push: Pushed,
        bytes: usize,
    ) -> bool {
        let waiting = self.documents.get_mut(document);
        waiting.is_some_and(|waiting| waiting.pushes.add(key, push, bytes))
    }

    /// Defers the remaining pushes again if the document was deferred again meanwhile; else returns them.
    pub(super) fn defer_again(&mut self, document: &DocumentId, pushes: Pushes) -> Option<Pushes> {
        let Some(waiting) = self.documents.get_mut(document) else { return Some(pushes) };
        // The document was deferred by one of them just now, so no other push waits yet.
        let first = waiting.pushes.first.take();
        waiting.pushes = Pushes { first, ..pushes };
        None
    }

    pub(super) fn defer(
        &mut self,
        document: DocumentId,
        reason: DeferReason,
        first: Option<Pushed>,
    ) {
        let pushes = Pushes { first, ..Pushes::default() };
        self.documents.insert(document, DeferredDocument { reason, pushes });
    }

    /// The document is deferred for an upload of this session: other addresses come first.
    pub(super) fn note_turn(&mut self, document: &DocumentId, key: Key) {
        if let Some(waiting) = self.documents.get_mut(document) {
            waiting.pushes.note_turn(key);
        }
    }

    pub(super) fn set(&mut self, document: &DocumentId, reason: DeferReason) {
        if let Some(waiting) = self.documents.get_mut(document) {
            waiting.reason = reason;
        }
    }

    /// Puts a push before the deferred ones.
    pub(super) fn put_first(&mut self, document: &DocumentId, push: Pushed) {
        if let Some(waiting) = self.documents.get_mut(document) {
            waiting.pushes.first = Some(push);
        }
    }

    /// The document has no uncommitted entries any more: returns its next step.
    pub(super) fn settled(&mut self, document: &DocumentId) -> Settled {
        let Some(waiting) = self.documents.get_mut(document) else { return Settled::Waits };
        match std::mem::replace(&mut waiting.reason, DeferReason::Merging) {
            DeferReason::Draining(entry, upload) => Settled::Drained(entry, upload),
            DeferReason::Committing => Settled::Committed,
            reason => {
                waiting.reason = reason;
                Settled::Waits
            }
        }
    }

    /// Releases the document; returns its deferred pushes.
    pub(super) fn end(&mut self, document: &DocumentId) -> Option<Pushes> {
        self.documents.remove(document).map(|waiting| waiting.pushes)
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::SessionId;

    use super::*;

    const DOCUMENT: DocumentId = DocumentId::from_bytes([1; 16]);

    fn key(share: u64, account: u64) -> Key {
        Key { share: ShareKey::Session(share), account }
    }

    fn entry(id: u64) -> PushedEntry {
        PushedEntry {
            session: SessionId(1),
            id,
            document: DOCUMENT,
            author: landfall_protocol::relay::Author::of_all(vec![1]),
        }
    }

    fn single(id: u64) -> Pushed {
        Pushed::Deletion(entry(id))
    }

    fn upload(id: u64) -> Pushed {
        Pushed::chunks(entry(id), Arc::default())
    }

    fn deferred() -> DeferredPushes {
        let mut deferred = DeferredPushes::default();
        deferred.defer(DOCUMENT, DeferReason::Merging, None);
        deferred
    }

    fn order(pushes: &mut Pushes) -> Vec<u64> {
        std::iter::from_fn(|| pushes.take()).map(|push| push.key().1).collect()
    }

    #[test]
    fn changes_precede_uploads_of_others_and_addresses_take_turns() {
        let mut deferred = deferred();
        for session in 0..3 {
            assert!(deferred.wait(&DOCUMENT, key(1, session), upload(10 + session), 1));
        }
        assert!(deferred.wait(&DOCUMENT, key(2, 7), upload(20), 1));
        // After an upload of its own session.
        assert!(deferred.wait(&DOCUMENT, key(2, 7), single(21), 1));
        assert!(deferred.wait(&DOCUMENT, key(3, 8), single(30), 1));
        deferred.put_first(&DOCUMENT, single(1));
        let mut pushes = deferred.end(&DOCUMENT).unwrap();
        assert_eq!(order(&mut pushes), [1, 30, 10, 20, 21, 11, 12]);
        assert!(pushes.shares.is_empty());
    }

    #[test]
    fn a_push_that_is_deferred_again_keeps_its_turn() {
        let mut deferred = deferred();
        for session in 0..3 {
            assert!(deferred.wait(&DOCUMENT, key(1, session), upload(10 + session), 1));
            assert!(deferred.wait(&DOCUMENT, key(2, session), upload(20 + session), 1));
        }
        let mut seen = Vec::new();
        while let Some(mut pushes) = deferred.end(&DOCUMENT) {
            let Some(push) = pushes.take() else { break };
            seen.push(push.key().1);
            deferred.defer(DOCUMENT, DeferReason::Merging, None);
            assert!(deferred.defer_again(&DOCUMENT, pushes).is_none());
        }
        assert_eq!(seen, [10, 20, 11, 21, 12, 22]);
    }

    #[test]
    fn an_address_gets_half_of_the_slots_and_bytes() {
        let mut deferred = deferred();
        let mut wait =
            |share, id, bytes| deferred.wait(&DOCUMENT, key(share, id), single(id), bytes);
        let part = limits::DEFERRED_PUSHES as u64;
        assert!((0..part).all(|id| wait(1, id, 0)));
        assert!(!wait(1, part, 0), "the slots of its share are taken");
        assert!(wait(2, 1_000, limits::DEFERRED_PUSH_BYTES));
        assert!(!wait(2, 1_001, 1), "the bytes of its share are taken");
        assert!((2_001..2_000 + part).all(|id| wait(3, id, 0)));
        assert!(!wait(4, 3_000, 0), "all slots are taken");
    }
}
