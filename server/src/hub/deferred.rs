//! Deferred pushes: a document's pushes wait, in order, while a slower step runs for it, such as reading a
//! packed index or merging an uploaded snapshot. Other documents are not affected.

use std::collections::BTreeSet;
use std::sync::Arc;

use landfall_compaction::WorkerError;
use landfall_protocol::admission::{CheckedChange, Roots};
use landfall_protocol::relay::{
    CheckedPush, PendingPush, PushVerdict, PushedEntry, Refusal, SnapshotUpload, StoreFailure,
};
use landfall_protocol::{ChangeHash, Code, DocumentId, NackClass, SpaceName};

use super::deferred_pushes::{DeferReason, Pushes, Settled, WaitingUpload};
use super::sequencer::Sequencer;
use super::{Command, Pushed};
use crate::clock::now_ms;
use crate::compaction::{Chunks, MergeError, MergeOutcome, Merged, Upload};
use crate::limits;
use crate::memory::{Grant, Key};
use crate::store::{Replaced, StoreError};

/// How often one push may cause an index load: an index can be evicted again before it is used.
const LOADS: u8 = 3;

impl Sequencer {
    /// Admission stopped because the store's view failed: loads the missing index, or rejects the push.
    pub(super) fn handle_pending_push(
        &mut self,
        space: &SpaceName,
        pending_push: PendingPush,
        loads: u8,
        error: &StoreError,
    ) {
        let Some(slot) = self.spaces.get_mut(space) else { return };
        match error.needs_index {
            Some(document) if loads < LOADS => {
                slot.deferred.defer(
                    document,
                    DeferReason::Loading,
                    Some(Pushed::Changes(pending_push, loads + 1)),
                );
                self.load_index(space, document);
            }
            _ => {
                tracing::error!(%space, error = error.chain(), "admission stopped within a push");
                let key = pending_push.key();
                let push_verdict = slot.machine.handle_unreadable(pending_push, error.failure);
                self.handle_verdict(space, key, loads, Ok(push_verdict));
            }
        }
    }

    fn load_index(&self, space: &SpaceName, document: DocumentId) {
        let (store, name) = (Arc::clone(&self.parts.store), space.clone());
        let load = move || store.load_index(&name, &document);
        let space = space.clone();
        self.begin(load, move |result| Command::IndexLoaded(space, document, result));
    }

    /// A document's index is in memory, or could not be loaded.
    pub(super) fn handle_index(
        &mut self,
        space: &SpaceName,
        document: &DocumentId,
        result: Result<(), StoreError>,
    ) {
        match result {
            Ok(()) => self.release(space, document),
            Err(error) if error.damaged_index().is_some() => {
                tracing::error!(%space, %document, "a packed index is damaged; rebuilding it");
                let (inbox, name, id) = (Arc::clone(&self.inbox), space.clone(), *document);
                let done = move |made: bool| {
                    let result = if made { Ok(()) } else { Err(StoreError::unsupported()) };
                    inbox.put(Command::IndexLoaded(name, id, result));
                };
                self.parts.compactor.rebuild(space.clone(), *document, Box::new(done));
            }
            Err(error) => {
                tracing::error!(%space, %document, error = error.chain(), "no index");
                self.reject_deferred(space, document, error.failure);
            }
        }
    }

    /// Rejects all deferred pushes of a document without admission.
    fn reject_deferred(&mut self, space: &SpaceName, document: &DocumentId, failure: StoreFailure) {
        let Some(slot) = self.spaces.get_mut(space) else { return };
        let Some(mut pushes) = slot.deferred.end(document) else { return };
        while let Some(push) = pushes.take() {
            self.reject_deferred_push(space, push, failure);
        }
    }

    /// Handles a push to a document that is known to be damaged: the stored bytes of its changes are checked
    /// against their hashes, and damaged ones are replaced by the pushed bytes. The push is admitted and
    /// answered when that is durable.
    pub(super) fn begin_repair(&mut self, space: &SpaceName, pending_push: PendingPush, loads: u8) {
        let document = pending_push.document();
        let Some(slot) = self.spaces.get_mut(space) else { return };
        let changes = pending_push.changes().iter();
        let changes = changes.map(|change| (change.hash, change.bytes.clone())).collect();
        slot.deferred.defer(
            document,
            DeferReason::Repairing,
            Some(Pushed::Changes(pending_push, loads)),
        );
        let (store, name) = (Arc::clone(&self.parts.store), space.clone());
        let repair = move || store.repair_changes(&name, &document, changes);
        let space = space.clone();
        self.begin(repair, move |result| Command::Repaired(space, document, result));
    }

    /// Runs work that waits for the disk on a pool thread. The hub gets the result even after a panic, since
    /// pushes are deferred until then.
    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
        command: impl FnOnce(Result<T, StoreError>) -> Command + Send + 'static,
    ) {
        let inbox = Arc::clone(&self.inbox);
        let work = self.parts.runtime.spawn_blocking(work);
        self.parts.runtime.spawn(async move {
            let result = work.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)));
            inbox.put(command(result));
        });
    }

    /// Damaged bytes were replaced, or could not be.
    pub(super) fn handle_repaired(
        &mut self,
        space: &SpaceName,
        document: &DocumentId,
        result: Result<Replaced, StoreError>,
    ) {
        let repaired = match result {
            Ok(repaired) => repaired,
            Err(error) => {
                tracing::error!(%space, %document, error = error.chain(),
                    "cannot replace damaged changes");
                return self.reject_deferred(space, document, error.failure);
            }
        };
        if repaired.count > 0 {
            let replaced = repaired.count;
            tracing::info!(%space, %document, replaced, "damaged changes were replaced");
            self.parts.repairs.data_arrived(space, document);
        }
        let Some(slot) = self.spaces.get_mut(space) else { return };
        let Some(mut pushes) = slot.deferred.end(document) else { return };
        if let Some(Pushed::Changes(pending_push, loads)) = pushes.take_first() {
            let doubted = self.doubted(space, &pending_push, &repaired);
            self.admit_changes(space, pending_push, loads, &doubted);
        }
        self.admit_deferred(space, document, pushes);
    }

    /// Changes of a push that must not be acknowledged as repetitions: those without intact bytes in the
    /// tail, while the document's snapshot is not known to be whole.
    fn doubted(
        &self,
        space: &SpaceName,
        pending_push: &PendingPush,
        repaired: &Replaced,
    ) -> BTreeSet<ChangeHash> {
        let document = pending_push.document();
        let Some(known) = self.parts.store.known_damage(space, &document) else {
            return BTreeSet::new();
        };
        if self.parts.repairs.is_snapshot_whole((space, &document), known) {
            return BTreeSet::new();
        }
        let hashes = pending_push.changes().iter().map(|change| change.hash);
        hashes.filter(|hash| !repaired.whole.contains(hash)).collect()
    }

    fn reject_deferred_push(&mut self, space: &SpaceName, push: Pushed, failure: StoreFailure) {
        let key = push.key();
        let Pushed::Changes(pending_push, loads) = push else {
            return self.reject_for_now(key, failure);
        };
        let Some(slot) = self.spaces.get_mut(space) else { return };
        let push_verdict = slot.machine.handle_unreadable(pending_push, failure);
        self.handle_verdict(space, key, loads, Ok(push_verdict));
    }

    /// Admits a document's deferred pushes.
    fn release(&mut self, space: &SpaceName, document: &DocumentId) {
        let Some(slot) = self.spaces.get_mut(space) else { return };
        if let Some(pushes) = slot.deferred.end(document) {
            self.admit_deferred(space, document, pushes);
        }
    }

    /// Admits pushes until one of them defers the rest again.
    fn admit_deferred(&mut self, space: &SpaceName, document: &DocumentId, mut pushes: Pushes) {
        while let Some(push) = pushes.take() {
            self.handle_push(space, push);
            let Some(slot) = self.spaces.get_mut(space) else { continue };
            match slot.deferred.defer_again(document, pushes) {
                Some(rest) => pushes = rest,
                None => return,
            }
        }
    }

    /// An upload is complete: defers the document's other pushes, and merges it.
    pub(super) fn begin_merge(
        &mut self,
        space: &SpaceName,
        entry: PushedEntry,
        upload: WaitingUpload,
    ) {
        let document = entry.document;
        match self.upload_refusal(space, &entry) {
            Ok(None) => {
                let grant = self.grants.get(&(entry.session, entry.id));
                let session = grant.map_or(Key::RELAY, Grant::key);
                let Some(slot) = self.spaces.get_mut(space) else { return };
                slot.deferred.defer(document, DeferReason::Draining(entry, upload), None);
                slot.deferred.note_turn(&document, session);
                self.advance_deferred(space);
            }
            Ok(Some(refusal)) => self.answer(entry.refused(refusal)),
            Err(failure) => self.reject_for_now((entry.session, entry.id), failure),
        }
    }

    /// Continues deferred documents whose admitted entries are all durable, or lost.
    pub(super) fn advance_deferred(&mut self, space: &SpaceName) {
        let Some(slot) = self.spaces.get_mut(space) else { return };
        let settled: Vec<DocumentId> = slot
            .deferred
            .documents()
            .filter(|document| !slot.machine.has_uncommitted(document))
            .copied()
            .collect();
        for document in settled {
            let Some(slot) = self.spaces.get_mut(space) else { return };
            match slot.deferred.settled(&document) {
                Settled::Drained(entry, upload) => self.merge(space, entry, upload),
                Settled::Committed => self.release(space, &document),
                Settled::Waits => {}
            }
        }
    }

    fn merge(&self, space: &SpaceName, entry: PushedEntry, upload: WaitingUpload) {
        let (inbox, name) = (Arc::clone(&self.inbox), space.clone());
        let (space, document) = (space.clone(), entry.document);
        // The push's memory is held until the answer, and identifies the session.
        let grant = self.grants.get(&(entry.session, entry.id));
        let session = grant.map_or(Key::RELAY, Grant::key);
        let done = Box::new(move |result| inbox.put(Command::Merged(name, entry, result)));
        match upload {
            WaitingUpload::Snapshot(upload, bytes) => {
                let SnapshotUpload { hash, heads, .. } = upload;
                let upload = Upload { space, document, hash, heads: Some(heads.to_vec()), bytes };
                self.parts.compactor.merge(session, upload, done);
            }
            WaitingUpload::Chunks(bytes) => {
                let chunks = Chunks { space, document, parts: vec![bytes] };
                self.parts.compactor.absorb(session, chunks, done);
            }
        }
    }

    /// An upload was merged, or could not be.
    pub(super) fn handle_merged(
        &mut self,
        space: &SpaceName,
        push: &PushedEntry,
        result: Result<MergeOutcome, MergeError>,
    ) {
        let Some(slot) = self.spaces.get_mut(space) else { return };
        slot.deferred.set(&push.document, DeferReason::Committing);
        let push_verdict: PushVerdict<StoreError> = match result {
            Ok(MergeOutcome::Merged(Merged::Nothing)) => {
                slot.machine.handle_duplicate_snapshot(push)
            }
            Ok(MergeOutcome::Changes(changes)) => {
                // The changes are admitted like any push, before the deferred ones.
                let document = push.document;
                slot.deferred.put_first(&document, Pushed::changes(checked_push(push, changes)));
                return self.release(space, &document);
            }
            Ok(MergeOutcome::TooLarge(changes)) => {
                let pending_push = PendingPush::of_snapshot(checked_push(push, changes));
                slot.deferred.put_first(&push.document, Pushed::Changes(pending_push, 0));
                return self.release(space, &push.document);
            }
            Ok(MergeOutcome::Merged(Merged::Snapshot(snapshot))) => {
                self.parts.metrics.snapshots_uploaded.inc();
                slot.machine.handle_snapshot(push, snapshot, now_ms())
            }
            Err(error) => {
                let refusal = refusal_of(&error);
                tracing::warn!(%space, document = %push.document, what = refusal.what,
                    "an uploaded history was rejected");
                PushVerdict::Answered(push.refused(refusal))
            }
        };
        self.handle_verdict(space, (push.session, push.id), 0, Ok(push_verdict));
        self.advance_deferred(space);
    }
}

fn checked_push(entry: &PushedEntry, changes: Vec<CheckedChange>) -> CheckedPush {
    let PushedEntry { session, id, document, author } = entry.clone();
    // An automerge-repo document may have several first changes.
    CheckedPush { session, id, document, author, changes, rest: None, roots: Roots::Several }
}

fn refusal_of(error: &MergeError) -> Refusal {
    let refused = |code, what| Refusal::new(code, NackClass::REFUSED, what);
    match error {
        MergeError::NoWorker => {
            let what = "this relay does not accept compacted history: it has no compaction worker"
                .to_owned();
            refused(Code::SNAPSHOT, what)
        }
        MergeError::Worker(error @ WorkerError::Missing { .. }) => {
            let class = NackClass::REPUSH;
            Refusal::new(Code::MISSING_DEPENDENCY, class, error.to_string())
        }
        // Neither error is about the upload.
        MergeError::Worker(error)
            if error.is_no_worker() || matches!(error, WorkerError::Stopped) =>
        {
            Refusal {
                code: Code::OVERLOADED,
                class: NackClass::RETRY_AFTER,
                retry_after_ms: limits::SPAWN_RETRY.as_millis() as u32,
                what: format!("the relay cannot open the compacted history now: {error}"),
            }
        }
        MergeError::Worker(error) => refused(Code::SNAPSHOT, format!("the snapshot: {error}")),
        MergeError::Unrelated => {
            let what = "the document and the snapshot have unrelated histories";
            refused(Code::UNRELATED, what.to_owned())
        }
        MergeError::Store(error) => error.failure.refusal(),
        MergeError::Overtaken => StoreFailure::Busy.refusal(),
    }
}
