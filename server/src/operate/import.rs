//! `import`: a portable file into a store that no relay uses.
//!
//! The file is read twice: nothing is taken of one that is cut or damaged. What is in it passes the
//! same admission as what clients push, and its snapshots the same inspection in a child. So what
//! is there already is no error, and an interrupted import is simply done again.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, mpsc};

use landfall_protocol::admission::{CheckedChange, Roots, preflight};
use landfall_protocol::frame::entry_flags;
use landfall_protocol::portable::{PortableError, Record};
use landfall_protocol::space::{
    Answer, CheckedPush, Commit, Judged, Judging, NewKind, PushedEntry, Space,
};
use landfall_protocol::{Code, DocumentId, Epoch, SessionId, SpaceName};

use super::export::read;
use super::{OperateError, now_ms};
use crate::folding::{FoldOptions, MergeError, Merged, Offer, Worker, snapshot_of};
use crate::hub::Durable;
use crate::metrics::Metrics;
use crate::store::{LogStore, SqliteStore, StoreError};

/// Changes, and their bytes, that wait for one commit.
const PENDING: usize = 1_024;
const PENDING_BYTES: usize = 4 << 20;

/// Refusals that are told one by one; more are counted.
const REFUSALS: usize = 100;

/// What became of a file.
#[derive(Debug)]
pub(crate) struct Imported {
    /// Where it went.
    pub(crate) space: SpaceName,
    /// Documents that the file has.
    pub(crate) documents: u64,
    /// Changes that are new here.
    pub(crate) changes: u64,
    /// Deletions that are new here.
    pub(crate) tombstones: u64,
    /// Snapshots that brought something new.
    pub(crate) snapshots: u64,
    /// What was here already.
    pub(crate) known: u64,
    /// What is of documents that are deleted here: a deletion is for good.
    pub(crate) deleted_here: u64,
    /// What was refused.
    pub(crate) refused: u64,
    /// The first refusals: whose, and why.
    pub(crate) refusals: Vec<(DocumentId, String)>,
}

/// Imports a file into the store of a data folder, into the space that it names or another one.
pub(crate) fn import(
    data: &Path,
    path: &Path,
    space: Option<SpaceName>,
    folds: FoldOptions,
) -> Result<Imported, OperateError> {
    let unread = |error| OperateError::Read(path.to_owned(), error);
    let mut file = File::open(path).map_err(unread)?;
    let mut named = None;
    let counts = read(&file, path, &mut |record| {
        if let Record::Space { name, .. } = record {
            named = Some(name);
        }
        Ok(())
    })?;
    file.seek(SeekFrom::Start(0)).map_err(unread)?;
    // A whole file names one.
    let nameless = || OperateError::Portable(path.to_owned(), PortableError::NotPortable);
    let space = space.or(named).ok_or_else(nameless)?;

    let store = Arc::new(SqliteStore::open(data)?);
    let imported = Import::begin(&store, space, folds).and_then(|mut import| {
        read(&file, path, &mut |record| import.take(record))?;
        import.flush()?;
        Ok(import.done)
    });
    // The first error counts.
    let closed = store.close();
    let imported = imported?;
    closed?;
    Ok(Imported { documents: counts.documents, ..imported })
}

/// An import under way.
struct Import {
    store: Arc<SqliteStore>,
    worker: Worker,
    machine: Space,
    document: DocumentId,
    /// The document's snapshot, of which so many bytes are to come.
    snapshot: Option<([u8; 32], Vec<u8>, usize)>,
    next_push: u64,
    pending: usize,
    pending_bytes: usize,
    done: Imported,
}

impl Import {
    fn begin(
        store: &Arc<SqliteStore>,
        space: SpaceName,
        folds: FoldOptions,
    ) -> Result<Self, OperateError> {
        let mut epoch = [0; 16];
        getrandom::fill(&mut epoch).map_err(OperateError::Randomness)?;
        let lineage = store.open_space(&space)?;
        Ok(Self {
            store: Arc::clone(store),
            worker: Worker::new(store.clone(), Arc::new(Metrics::new()), folds),
            machine: Space::new(space.clone(), lineage, Epoch::from_bytes(epoch)),
            document: DocumentId::from_bytes([0; 16]),
            snapshot: None,
            next_push: 0,
            pending: 0,
            pending_bytes: 0,
            done: Imported {
                space,
                documents: 0,
                changes: 0,
                tombstones: 0,
                snapshots: 0,
                known: 0,
                deleted_here: 0,
                refused: 0,
                refusals: Vec::new(),
            },
        })
    }

    fn take(&mut self, record: Record) -> Result<(), OperateError> {
        match record {
            Record::Space { .. } | Record::End(_) => Ok(()),
            Record::Document(document) => {
                self.document = document;
                Ok(())
            }
            Record::Tombstone { at_ms, author } => {
                let entry = self.entry(author);
                self.ask(at_ms, |machine, view, at_ms| machine.handle_deletion(&entry, view, at_ms))
            }
            Record::Snapshot { hash, bytes } => {
                let bytes = bytes as usize;
                self.snapshot = Some((hash, Vec::with_capacity(bytes), bytes));
                Ok(())
            }
            Record::Part(part) => {
                let Some((hash, mut body, bytes)) = self.snapshot.take() else { return Ok(()) };
                body.extend(part);
                if body.len() < bytes {
                    self.snapshot = Some((hash, body, bytes));
                    return Ok(());
                }
                self.snapshot(hash, body)
            }
            Record::Change { at_ms, flags, author, chunk } => match preflight(&chunk) {
                Ok(change) => self.change(change, at_ms, flags, author),
                Err(error) => {
                    self.refuse(error.to_string());
                    Ok(())
                }
            },
        }
    }

    fn entry(&mut self, author: Vec<u8>) -> PushedEntry {
        self.next_push += 1;
        PushedEntry { session: SessionId(0), id: self.next_push, document: self.document, author }
    }

    fn change(
        &mut self,
        change: CheckedChange,
        at_ms: u64,
        flags: u16,
        author: Vec<u8>,
    ) -> Result<(), OperateError> {
        self.next_push += 1;
        self.pending += 1;
        self.pending_bytes += change.bytes.len();
        let is_second = flags & entry_flags::SECOND_ROOT != 0;
        let judging = Judging::new(CheckedPush {
            session: SessionId(0),
            id: self.next_push,
            document: self.document,
            author,
            changes: vec![change],
            rest: None,
            roots: if is_second { Roots::Several } else { Roots::One },
        });
        self.ask(at_ms, |machine, view, at_ms| Ok(machine.handle_push(judging, view, at_ms)))?;
        match self.pending >= PENDING || self.pending_bytes >= PENDING_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Has the machine judge something, with the store's view of what is durable; loads the index
    /// of folded history if that is needed.
    fn ask(
        &mut self,
        at_ms: u64,
        ask: impl FnOnce(&mut Space, &Durable<'_>, u64) -> Result<Judged<StoreError>, StoreError>,
    ) -> Result<(), OperateError> {
        let mut judged = self.view(|machine, view| ask(machine, view, at_ms))?;
        let mut loads = 0;
        loop {
            let (judging, error) = match judged? {
                Judged::Waits => return Ok(()),
                Judged::Answered(answer) => {
                    self.tally(&answer);
                    return Ok(());
                }
                Judged::Stopped(judging, error) => (*judging, error),
            };
            loads += 1;
            if error.needs_index.is_none() || loads > 2 {
                return Err(error.into());
            }
            self.load_index()?;
            judged = self.view(|machine, view| Ok(machine.handle_push(judging, view, at_ms)))?;
        }
    }

    fn view<T>(
        &mut self,
        ask: impl FnOnce(&mut Space, &Durable<'_>) -> T,
    ) -> Result<T, StoreError> {
        let Self { store, machine, done, .. } = self;
        let (mut ask, mut answer) = (Some(ask), None);
        let asked = store.with_history(&done.space, &mut |view| {
            answer = ask.take().map(|ask| ask(machine, &Durable(view)));
        });
        match answer {
            Some(answer) => Ok(answer),
            None => Err(asked.err().unwrap_or_else(StoreError::unsupported)),
        }
    }

    fn load_index(&self) -> Result<(), StoreError> {
        let (space, document) = (&self.done.space, &self.document);
        match self.store.load_index(space, document) {
            Err(error) if error.damaged_index().is_some() => {
                self.worker.rebuild(space, document);
                self.store.load_index(space, document)
            }
            loaded => loaded,
        }
    }

    fn snapshot(&mut self, hash: [u8; 32], body: Vec<u8>) -> Result<(), OperateError> {
        // It is merged with what is durable.
        self.flush()?;
        let document = self.document;
        if self.view(|machine, view| machine.is_deleted(view, &document))?? {
            self.done.deleted_here += 1;
            return Ok(());
        }
        let snapshot = match self.merge(hash, body) {
            Ok(Merged::Nothing) => {
                self.done.known += 1;
                return Ok(());
            }
            Ok(Merged::Snapshot(snapshot)) => snapshot,
            Err(MergeError::NoWorker) => return Err(OperateError::NoWorker),
            Err(MergeError::Store(error)) => return Err(error.into()),
            // Nobody else folds here.
            Err(MergeError::Overtaken) => return Err(StoreError::unsupported().into()),
            Err(MergeError::Worker(error)) => {
                self.refuse(format!("its snapshot: {error}"));
                return Ok(());
            }
            Err(MergeError::Unrelated) => {
                let what = "its snapshot has nothing in common with the document that is here";
                self.refuse(what.to_owned());
                return Ok(());
            }
        };
        let entry = self.entry(Vec::new());
        let judged: Judged<StoreError> = self.machine.handle_snapshot(&entry, snapshot, now_ms());
        if let Judged::Answered(answer) = judged {
            self.tally(&answer);
        }
        self.flush()
    }

    /// What a snapshot and what is here come to.
    fn merge(&self, hash: [u8; 32], body: Vec<u8>) -> Result<Merged, MergeError> {
        let Some(supervisor) = self.worker.supervisor() else { return Err(MergeError::NoWorker) };
        let inspected = supervisor.inspect(&body, hash).map_err(MergeError::Worker)?;
        let (space, document) = (self.done.space.clone(), self.document);
        let ours = self.store.changes_held(&space, &document).map_err(MergeError::Store)?;
        if ours == 0 {
            let snapshot = snapshot_of(inspected).map_err(MergeError::Worker)?;
            return Ok(Merged::Snapshot(Arc::new(snapshot)));
        }
        let mut heads = inspected.heads;
        heads.sort_unstable();
        self.worker.merge(&Offer { space, document, hash, heads, bytes: Arc::new(body) })
    }

    /// Commits everything that was admitted.
    fn flush(&mut self) -> Result<(), OperateError> {
        (self.pending, self.pending_bytes) = (0, 0);
        while let Some(commit) = self.machine.poll_commit() {
            self.commit(commit)?;
        }
        Ok(())
    }

    fn commit(&mut self, commit: Arc<Commit>) -> Result<(), OperateError> {
        let (tell, told) = mpsc::sync_channel(1);
        self.store.append(
            Arc::clone(&commit),
            Box::new(move |result| {
                // Nobody hears it only if the waiting thread is gone.
                let _ = tell.send(result);
            }),
        );
        let result = told.recv().unwrap_or_else(|_| Err(StoreError::unsupported()));
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

    /// Counts what is not in a commit.
    fn tally(&mut self, answer: &Answer) {
        match &answer.refusal {
            None => self.done.known += u64::from(answer.added.is_none()),
            Some(refusal) if refusal.code == Code::DELETED => self.done.deleted_here += 1,
            Some(refusal) => self.refuse(refusal.what.clone()),
        }
    }

    fn refuse(&mut self, why: String) {
        self.done.refused += 1;
        if self.done.refusals.len() < REFUSALS {
            self.done.refusals.push((self.document, why));
        }
    }
}
