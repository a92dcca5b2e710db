//! Writing what arrives: admitted like our own, with its cursor, in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_fold::FoldLimits;
use landfall_protocol::admission::{CheckedChange, HistoryError, Origin, Roots, Verdict};
use landfall_protocol::frame::{Entry, entry_flags, entry_kind};
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::replica::{Batch, Incoming};
use landfall_protocol::{ChangeHash, DocumentId, Offset};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::Connection;

use super::aside::{self, Wait};
use super::excess::{Excess, excesses};
use super::indexes::{Indexes, is_unreadable};
use super::install::{Source, install};
use super::ledger::Ledger;
use super::prepare::{JoinError, PrepareError, Prepared, Ready, ReadySnapshot};
use super::report::Came;
use super::rows::{document_row, heads, local_of, merges, parts};
use super::{
    LocalLog, SpaceCount, SpaceRow, UpstreamRow, deletion, displaced, fitting, held, links, partial,
};

/// Why a batch was not written. The connection then begins again from what the store holds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the relay echoes change {0}, which this store does not hold")]
    UnknownEcho(ChangeHash),
    #[error("the entries follow offset {after}, the store's cursor is at {at}")]
    NotNext { at: Offset, after: Offset },
    #[error("no upstream is known")]
    NoUpstream,
    #[error("a part of a snapshot begins at {from} of {total}, what is there ends at {at}")]
    Part { from: u64, at: u64, total: u64 },
    #[error(transparent)]
    Prepare(#[from] Box<PrepareError>),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// A document that a batch added to.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) document: DocumentId,
    pub(crate) heads: Vec<ChangeHash>,
}

/// A document that the upstream says is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) document: DocumentId,
    /// Changes that the upstream was not known to hold. If there are any, the document's bytes are
    /// kept until the application exports or discards them.
    pub(crate) unsent: u64,
}

/// A document of which changes made here had to be taken out of the log, since others have their
/// actor and sequence number: to be made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Displaced {
    pub(crate) document: DocumentId,
    pub(crate) changes: u64,
}

/// What a batch brought.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) touched: Vec<Touched>,
    /// Entries that were set aside, with the reason.
    pub(crate) aside: Vec<(DocumentId, String)>,
    /// Documents of which an unrelated history was set aside.
    pub(crate) unrelated: Vec<DocumentId>,
    /// How many entries that were aside are in their documents now.
    pub(crate) recovered: u64,
    pub(crate) deleted: Vec<Deleted>,
    /// How many of the deleted documents the store had.
    pub(crate) known_deleted: u64,
    /// How many changes came into documents.
    pub(crate) changes: u64,
    pub(crate) displaced: Vec<Displaced>,
    /// Documents that exceed limits by what came, once for each limit.
    pub(crate) oversized: Vec<(DocumentId, Excess)>,
}

impl Received {
    /// What is counted of it.
    pub(super) fn came(&self) -> Came {
        Came { written: true, changes: self.changes, deleted: self.known_deleted }
    }
}

impl LocalLog {
    /// As [`LocalLog::submit_prepared`], with what is to be done before it done on this thread.
    #[cfg(test)]
    pub(crate) fn submit_received(
        &self,
        space: SpaceRow,
        mut batch: Batch,
        done: impl FnOnce(Result<Committed<Received>, WriteError<ReceiveError>>) + Send + 'static,
    ) {
        match self.prepare(space, std::mem::take(&mut batch.entries)) {
            Ok(ready) => self.submit_prepared(space, batch, ready, done),
            Err(error) => done(Err(WriteError::Job(ReceiveError::Prepare(Box::new(error))))),
        }
    }

    /// Writes a batch, whose entries were made ready by [`LocalLog::prepare`], and its cursor.
    /// Without an fsync of its own: a WAL survives as a prefix, so after a power cut the cursor
    /// and the entries are gone together, and come again.
    pub(crate) fn submit_prepared(
        &self,
        space: SpaceRow,
        batch: Batch,
        ready: Ready,
        done: impl FnOnce(Result<Committed<Received>, WriteError<ReceiveError>>) + Send + 'static,
    ) {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let limits = self.fold_limits();
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = whose.row(tx)?.ok_or(ReceiveError::NoUpstream)?;
            let (cursor, _) = links::cursor(tx, upstream, space)?;
            let at = cursor.map_or(Offset(0), |cursor| cursor.offset);
            if at != batch.after {
                // The batch before it failed, or a reset did. A cursor must never skip anything.
                return Err(ReceiveError::NotNext { at, after: batch.after });
            }
            let mut writing = Writing::new(tx, &indexes, upstream, space, limits)?;
            for entry in ready.entries {
                writing.take(entry)?;
            }
            links::set_cursor(tx, upstream, space, &batch.cursor)?;
            Ok(writing.finish()?)
        };
        self.submit_came(Durability::Relaxed, space, Received::came, job, received_only(done));
    }
}

/// The result of a job that wrote a batch, with the count of its space.
type Counted<E> = Result<Committed<(SpaceCount, Received)>, WriteError<E>>;

/// Calls `done` without the count, which was reported.
pub(super) fn received_only<E>(
    done: impl FnOnce(Result<Committed<Received>, WriteError<E>>) + Send + 'static,
) -> impl FnOnce(Counted<E>) + Send + 'static {
    move |result| {
        done(result.map(|Committed { value: (_, value), number }| Committed { value, number }));
    }
}

/// The state of one transaction that writes what arrived.
pub(super) struct Writing<'a> {
    pub(super) ledger: Ledger<'a>,
    pub(super) upstream: UpstreamRow,
    /// What the upstream is known to hold by this.
    pub(super) held: IntervalSet,
    touched: BTreeSet<DocumentId>,
    /// What came to a document: orphans may wait for it.
    fresh: BTreeMap<DocumentId, aside::Fresh>,
    received: Received,
    /// What the space had ever been added when it began.
    added_before: u64,
    /// What a snapshot may have.
    pub(super) limits: FoldLimits,
}

impl<'a> Writing<'a> {
    pub(super) fn new(
        conn: &'a Connection,
        indexes: &'a Indexes,
        upstream: UpstreamRow,
        space: SpaceRow,
        limits: FoldLimits,
    ) -> rusqlite::Result<Self> {
        let ledger = Ledger::new(conn, indexes, space)?;
        Ok(Self {
            added_before: ledger.totals.added,
            ledger,
            upstream,
            held: IntervalSet::new(),
            touched: BTreeSet::new(),
            fresh: BTreeMap::new(),
            received: Received::default(),
            limits,
        })
    }

    pub(super) fn take(&mut self, entry: Prepared) -> Result<(), ReceiveError> {
        match entry {
            Prepared::Snapshot(ready) => self.snapshot(ready),
            Prepared::Rejected { entry, reason } => {
                partial::forget(self.ledger.conn, self.upstream, self.ledger.space)?;
                Ok(self.put_aside(&entry, Wait::Never, reason)?)
            }
            Prepared::Plain(Incoming::Change {
                offset,
                document,
                change,
                author,
                at_ms,
                second_root,
            }) => {
                let roots = if second_root { Roots::Several } else { Roots::One };
                match self.change(document, change, &author, at_ms, roots)? {
                    // Should the relay lose it, it is brought back as what it is.
                    Ok(()) if second_root => self.note_merge(&document)?,
                    Ok(()) => {}
                    Err((change, wait, reason)) => {
                        let mut entry = Entry::of_change(offset, document, change, &author, at_ms);
                        entry.flags |= if second_root { entry_flags::SECOND_ROOT } else { 0 };
                        self.put_aside(&entry, wait, reason.to_string())?;
                    }
                }
                Ok(())
            }
            Prepared::Plain(Incoming::Echo { document, hash }) => self.echo(&document, hash),
            Prepared::Plain(Incoming::SnapshotEcho { document, .. }) => {
                let row = self.ledger.settle(&document)?;
                Ok(held::settle(self.ledger.conn, self.upstream, self.ledger.space, row)?)
            }
            Prepared::Plain(Incoming::Tombstone { document, author, at_ms, .. }) => {
                Ok(self.tombstone(document, Some(&author), at_ms)?)
            }
            Prepared::Plain(Incoming::Aside { entry, reason }) => {
                if entry.kind == entry_kind::SNAPSHOT {
                    partial::forget(self.ledger.conn, self.upstream, self.ledger.space)?;
                }
                Ok(self.put_aside(&entry, Wait::Never, reason.to_string())?)
            }
            // `prepare` leaves none of these.
            Prepared::Plain(Incoming::Snapshot { .. }) => Ok(()),
        }
    }

    /// The document holds several histories that somebody has merged.
    pub(super) fn note_merge(&mut self, document: &DocumentId) -> rusqlite::Result<()> {
        let row = self.ledger.settle(document)?;
        let sql = "UPDATE document SET merges = 1 WHERE id = ?1 AND merges = 0";
        self.ledger.conn.prepare_cached(sql)?.execute([row.0])?;
        Ok(())
    }

    fn echo(&mut self, document: &DocumentId, hash: ChangeHash) -> Result<(), ReceiveError> {
        let row = self.ledger.settle(document)?;
        let conn = self.ledger.conn;
        if let Some(local) = local_of(conn, row, &hash)? {
            self.held.insert(local, local);
            return Ok(());
        }
        // It was folded, taken out or deleted since it was pushed.
        let known = self.ledger.knows(document, &hash)?
            || deletion::is_deleted(conn, row)?
            || displaced::contains(conn, row, &hash)?;
        if known { Ok(()) } else { Err(ReceiveError::UnknownEcho(hash)) }
    }

    /// Admits a change and appends it; gives it back, with the reason, if it cannot be now.
    pub(super) fn change(
        &mut self,
        document: DocumentId,
        change: CheckedChange,
        author: &[u8],
        at_ms: u64,
        roots: Roots,
    ) -> rusqlite::Result<Result<(), (CheckedChange, Wait, HistoryError)>> {
        let mut roots = roots;
        if change.dependencies.is_empty() && merges(self.ledger.conn, self.ledger.space, &document)?
        {
            roots = Roots::Several;
        }
        let mut verdict = self.ledger.admit(&document, &change, roots, Origin::Received)?;
        if let Err(HistoryError::ConflictingSequence { held, .. }) = &verdict
            && self.make_room(document, *held)?
        {
            verdict = self.ledger.admit(&document, &change, roots, Origin::Received)?;
        }
        let wait = match &verdict {
            Ok(Verdict::Duplicate(known)) => {
                let row = self.ledger.row(&document)?;
                // One that is folded says nothing of the others that are.
                if let Some(local) = local_of(self.ledger.conn, row, &known.hash)? {
                    self.held.insert(local, local);
                }
                return Ok(Ok(()));
            }
            Ok(Verdict::New) => {
                let local = self.ledger.append(document, &change, Some(author), at_ms)?;
                self.held.insert(local, local);
                self.touched.insert(document);
                self.fresh.entry(document).or_default().add(change.hash);
                return Ok(Ok(()));
            }
            // Ours to tell the upstream; nothing of such a document is kept.
            Err(HistoryError::Deleted) => return Ok(Ok(())),
            Err(
                HistoryError::MissingDependency { .. }
                | HistoryError::SequenceGap { .. }
                | HistoryError::UnknownActor { .. },
            ) => Wait::Dependencies,
            Err(HistoryError::Unrelated) => Wait::Merge,
            Err(_) => Wait::Never,
        };
        Ok(verdict.map(drop).map_err(|reason| (change, wait, reason)))
    }

    fn snapshot(&mut self, ready: ReadySnapshot) -> Result<(), ReceiveError> {
        let (conn, space) = (self.ledger.conn, self.ledger.space);
        partial::forget(conn, self.upstream, space)?;
        if let Err((ready, wait, reason)) = self.fold_in(ready, true)? {
            let theirs = ready.theirs();
            let (hash, heads) = (theirs.hash, theirs.index.heads());
            let (document, body) = (ready.document, Some(theirs.body.clone()));
            let entry = Entry::of_snapshot(ready.offset, document, hash, &heads, 0, body);
            self.put_aside(&entry, wait, reason)?;
        }
        Ok(())
    }

    /// Puts a received snapshot under its document; gives it back, with the reason, if it cannot be
    /// now. `held`: the upstream in use has it.
    pub(super) fn fold_in(
        &mut self,
        mut ready: ReadySnapshot,
        held: bool,
    ) -> rusqlite::Result<Result<(), (ReadySnapshot, Wait, String)>> {
        let document = ready.document;
        let row = self.ledger.settle(&document)?;
        if deletion::is_deleted(self.ledger.conn, row)? {
            return Ok(Ok(()));
        }
        match fitting::check(self, &ready, row) {
            Ok(Ok(())) => {}
            Ok(Err((wait, reason))) => return Ok(Err((ready, wait, reason))),
            // Ours cannot be read: that is this document's trouble alone.
            Err(error) if is_unreadable(&error) => {
                return Ok(Err((ready, Wait::Never, error.to_string())));
            }
            Err(error) => return Err(error),
        }
        match ready.join(self.ledger.conn, Some(row), &self.limits) {
            Ok(()) if ready.apart.is_some() => return self.take_apart(ready, held),
            Ok(()) => {}
            Err(JoinError::Sql(error)) => return Err(error),
            Err(JoinError::Fold(error)) => {
                let reason = format!("it cannot be joined with what is folded here: {error}");
                return Ok(Err((ready, Wait::Never, reason)));
            }
        }
        let held = held && (ready.pure || !held::is_owed(self.ledger.conn, self.upstream, row)?);
        let source = Source::Upstream { upstream: self.upstream, held };
        // Nothing that this transaction noted as held may be counted after its row is dead.
        self.hold_now()?;
        install(&mut self.ledger, &document, &ready.opened, &source)?;
        self.touched.insert(document);
        self.fresh.entry(document).or_default().all();
        Ok(Ok(()))
    }

    /// Admits what is new in a received snapshot as single changes. One that does not fit sets the
    /// whole snapshot aside; those before it stay.
    fn take_apart(
        &mut self,
        mut ready: ReadySnapshot,
        held: bool,
    ) -> rusqlite::Result<Result<(), (ReadySnapshot, Wait, String)>> {
        let before = std::mem::take(&mut self.held);
        let mut refused = None;
        for change in ready.apart.take().unwrap_or_default() {
            // Its histories were found to belong together.
            let admitted = self.change(ready.document, change, &[], 0, Roots::Several)?;
            if let Err((_, wait, reason)) = admitted {
                refused = Some((wait, reason.to_string()));
                break;
            }
        }
        let came = std::mem::replace(&mut self.held, before);
        if held {
            came.iter().for_each(|(first, last)| drop(self.held.insert(first, last)));
        }
        Ok(match refused {
            Some((wait, reason)) => Err((ready, wait, reason)),
            None => Ok(()),
        })
    }

    /// Takes changes of ours out of a document that others have the place of; `false` if they are
    /// not ours to take out.
    pub(super) fn make_room(
        &mut self,
        document: DocumentId,
        taken: ChangeHash,
    ) -> rusqlite::Result<bool> {
        let changes = displaced::displace(&mut self.ledger, self.upstream, &document, taken)?;
        if changes > 0 {
            self.received.displaced.push(Displaced { document, changes });
            self.touched.insert(document);
        }
        Ok(changes > 0)
    }

    pub(super) fn tombstone(
        &mut self,
        document: DocumentId,
        author: Option<&[u8]>,
        at_ms: u64,
    ) -> rusqlite::Result<()> {
        self.hold_now()?;
        let row = self.ledger.settle(&document)?;
        let is_known = parts(self.ledger.conn, row)?.changes() > 0;
        let tombstone =
            deletion::Tombstone { author, at_ms, from: Some(self.upstream), unaware: 0 };
        if let Some(unsent) = deletion::delete(&mut self.ledger, &document, &tombstone)? {
            self.received.deleted.push(Deleted { document, unsent });
            self.received.known_deleted += u64::from(is_known);
            self.touched.remove(&document);
            self.fresh.remove(&document);
        }
        Ok(())
    }

    /// What waits for something that came to a document is tried again.
    pub(super) fn try_again(&mut self, document: DocumentId, fresh: aside::Fresh) {
        self.fresh.insert(document, fresh);
    }

    fn put_aside(&mut self, entry: &Entry, wait: Wait, reason: String) -> rusqlite::Result<()> {
        let (conn, space) = (self.ledger.conn, self.ledger.space);
        // After a reset the same entries come again.
        if aside::put(conn, self.upstream, space, entry, wait, &reason)? {
            if wait == Wait::Merge {
                self.received.unrelated.push(entry.document);
            }
            self.received.aside.push((entry.document, reason));
        }
        Ok(())
    }

    /// Writes down what is known to be held so far.
    pub(super) fn hold_now(&mut self) -> rusqlite::Result<()> {
        let held = std::mem::take(&mut self.held);
        self.ledger.settle_all()?;
        held::hold(self.ledger.conn, self.upstream, self.ledger.space, &held)
    }

    /// Tries again what waits for what has come, and writes everything.
    pub(super) fn finish(mut self) -> rusqlite::Result<Received> {
        while let Some((document, fresh)) = self.fresh.pop_first() {
            self.received.recovered += aside::retry(&mut self, document, &fresh)?;
        }
        self.hold_now()?;
        let added = self.ledger.totals.added.saturating_sub(self.added_before);
        // A deletion counts as one that was added.
        self.received.changes = added.saturating_sub(self.received.deleted.len() as u64);
        let Self { ledger, touched, mut received, limits, .. } = self;
        let (conn, space) = (ledger.conn, ledger.space);
        ledger.finish()?;
        for document in touched {
            if let Some(row) = document_row(conn, space, &document)? {
                let exceeded = excesses(conn, row, limits.snapshot_bytes as u64)?;
                received.oversized.extend(exceeded.into_iter().map(|excess| (document, excess)));
                received.touched.push(Touched { document, heads: heads(conn, row)? });
            }
        }
        Ok(received)
    }
}
