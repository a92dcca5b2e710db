//! Writes to a store that no relay uses: imported content is admitted by the space's machine, like clients'
//! pushes, and committed in groups.

use std::sync::{Arc, mpsc};

use landfall_protocol::admission::{CheckedChange, Roots};
use landfall_protocol::relay::{
    Author, CheckedPush, Commit, NewKind, PendingPush, PushAnswer, PushVerdict, PushedEntry,
    Snapshot, Space,
};
use landfall_protocol::{Code, DocumentId, Epoch, SessionId, SpaceName};

use super::AdminError;
use crate::clock::now_ms;
use crate::compaction::{CompactionOptions, Worker};
use crate::hub::Durable;
use crate::metrics::Metrics;
use crate::store::{Documents, Log, SqliteStore, StoreError};

/// Changes, and their bytes, per commit.
const PENDING: usize = 1_024;
const PENDING_BYTES: usize = 4 << 20;

/// Rejections listed one by one; more are only counted.
pub(super) const REFUSALS: usize = 100;

/// Counts of the content written, and of the content that was not.
#[derive(Debug, Default)]
pub(crate) struct WriteCounts {
    /// Changes that were new.
    pub(crate) changes: u64,
    /// Deletions that were new.
    pub(crate) tombstones: u64,
    /// Snapshots with new content.
    pub(crate) snapshots: u64,
    /// Content that the store already had.
    pub(crate) known: u64,
    /// Content of documents that are deleted in the store: a deletion is final.
    pub(crate) deleted_here: u64,
    /// Rejected content.
    pub(crate) refused: u64,
    /// The first rejections: the document, and the reason.
    pub(crate) refusals: Vec<(DocumentId, String)>,
}

/// A writer to one space.
pub(super) struct SpaceWriter {
    pub(super) space: SpaceName,
    pub(super) store: Arc<SqliteStore>,
    pub(super) worker: Worker,
    machine: Space,
    /// The current document.
    pub(super) document: DocumentId,
    next_push: u64,
    pending: usize,
    pending_bytes: usize,
    pub(super) done: WriteCounts,
}

impl SpaceWriter {
    pub(super) fn begin(
        store: &Arc<SqliteStore>,
        space: SpaceName,
        compactions: CompactionOptions,
    ) -> Result<Self, AdminError> {
        let mut epoch = [0; 16];
        getrandom::fill(&mut epoch).map_err(AdminError::Randomness)?;
        let lineage = store.open_space(&space)?;
        Ok(Self {
            store: Arc::clone(store),
            worker: Worker::new(store.clone(), Arc::new(Metrics::new()), compactions),
            machine: Space::new(space.clone(), lineage, Epoch::from_bytes(epoch)),
            document: DocumentId::from_bytes([0; 16]),
            next_push: 0,
            pending: 0,
            pending_bytes: 0,
            done: WriteCounts::default(),
            space,
        })
    }

    fn entry(&mut self, author: Vec<u8>) -> PushedEntry {
        self.next_push += 1;
        PushedEntry {
            session: SessionId(0),
            id: self.next_push,
            document: self.document,
            author: Author::of_all(author),
        }
    }

    /// Deletes the document.
    pub(super) fn tombstone(&mut self, at_ms: u64, author: Vec<u8>) -> Result<(), AdminError> {
        let entry = self.entry(author);
        self.ask(at_ms, |machine, view, at_ms| machine.handle_deletion(&entry, view, at_ms))
    }

    /// Appends changes to the document, in their order.
    pub(super) fn changes(
        &mut self,
        changes: Vec<CheckedChange>,
        at_ms: u64,
        author: Vec<u8>,
        roots: Roots,
    ) -> Result<(), AdminError> {
        let PushedEntry { session, id, document, author } = self.entry(author);
        self.pending += changes.len();
        self.pending_bytes += changes.iter().map(|change| change.bytes.len()).sum::<usize>();
        let rest = None;
        let push = CheckedPush { session, id, document, author, changes, rest, roots };
        let pending_push = PendingPush::new(push);
        self.ask(at_ms, |machine, view, at_ms| Ok(machine.handle_push(pending_push, view, at_ms)))?;
        match self.pending >= PENDING || self.pending_bytes >= PENDING_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Replaces the document's content by a snapshot that it was merged into.
    pub(super) fn snapshot(&mut self, snapshot: Arc<Snapshot>) -> Result<(), AdminError> {
        let entry = self.entry(Vec::new());
        let push_verdict: PushVerdict<StoreError> =
            self.machine.handle_snapshot(&entry, snapshot, now_ms());
        if let PushVerdict::Answered(answer) = push_verdict {
            self.tally(&answer);
        }
        self.flush()
    }

    /// Whether the document is deleted.
    pub(super) fn is_deleted(&mut self) -> Result<bool, AdminError> {
        let document = self.document;
        Ok(self.view(|machine, view| machine.is_deleted(view, &document))??)
    }

    /// Has the machine admit something, with the store's durable view; loads the packed index if that is
    /// needed.
    fn ask(
        &mut self,
        at_ms: u64,
        ask: impl FnOnce(&mut Space, &Durable<'_>, u64) -> Result<PushVerdict<StoreError>, StoreError>,
    ) -> Result<(), AdminError> {
        let mut push_verdict = self.view(|machine, view| ask(machine, view, at_ms))?;
        let mut loads = 0;
        loop {
            let (pending_push, error) = match push_verdict? {
                PushVerdict::Waits => return Ok(()),
                PushVerdict::Answered(answer) => {
                    self.tally(&answer);
                    return Ok(());
                }
                PushVerdict::Stopped(pending_push, error) => (*pending_push, error),
            };
            loads += 1;
            if error.needs_index.is_none() || loads > 2 {
                return Err(error.into());
            }
            self.load_index()?;
            push_verdict =
                self.view(|machine, view| Ok(machine.handle_push(pending_push, view, at_ms)))?;
        }
    }

    fn view<T>(
        &mut self,
        ask: impl FnOnce(&mut Space, &Durable<'_>) -> T,
    ) -> Result<T, StoreError> {
        let Self { store, machine, space, .. } = self;
        let (mut ask, mut answer) = (Some(ask), None);
        let viewed = store.with_history(space, &mut |view| {
            answer = ask.take().map(|ask| {
                ask(machine, &Durable { view, doubted: &std::collections::BTreeSet::new() })
            });
        });
        match answer {
            Some(answer) => Ok(answer),
            None => Err(viewed.err().unwrap_or_else(StoreError::unsupported)),
        }
    }

    fn load_index(&self) -> Result<(), StoreError> {
        let (space, document) = (&self.space, &self.document);
        match self.store.load_index(space, document) {
            Err(error) if error.damaged_index().is_some() => {
                self.worker.rebuild(space, document);
                self.store.load_index(space, document)
            }
            loaded => loaded,
        }
    }

    /// Commits everything admitted so far.
    pub(super) fn flush(&mut self) -> Result<(), AdminError> {
        (self.pending, self.pending_bytes) = (0, 0);
        while let Some(commit) = self.machine.poll_commit() {
            self.commit(commit)?;
        }
        Ok(())
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Result<(), AdminError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.store.append(
            Arc::clone(&commit),
            Box::new(move |result| {
                // The send fails only if the waiting thread is gone.
                let _ = sender.send(result);
            }),
        );
        let result = receiver.recv().unwrap_or_else(|_| Err(StoreError::unsupported()));
        if let Err(error) = result {
            self.machine.handle_commit_failed(error.failure);
            return Err(error.into());
        }
        for new in &commit.entries {
            match new.kind {
                NewKind::Change { .. } => self.done.changes += 1,
                NewKind::Tombstone => self.done.tombstones += 1,
                NewKind::Snapshot(_) => self.done.snapshots += 1,
            }
        }
        let answers = self.machine.handle_committed().answers;
        answers.iter().for_each(|answer| self.tally(answer));
        Ok(())
    }

    /// Counts an answer that needs no commit.
    fn tally(&mut self, answer: &PushAnswer) {
        match &answer.refusal {
            None => self.done.known += u64::from(answer.added.is_none()),
            Some(refusal) if refusal.code == Code::DELETED => self.done.deleted_here += 1,
            Some(refusal) => self.refuse(refusal.what.clone()),
        }
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.done.refused += 1;
        if self.done.refusals.len() < REFUSALS {
            self.done.refusals.push((self.document, why));
        }
    }
}
