//! Writes received entries: each is admitted as local changes are, and the batch's cursor moves in the
//! same transaction. Parsing and opening is done before, in `prepare`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_compaction::CompactionLimits;
use landfall_protocol::admission::{CheckedChange, HistoryError, Origin, Roots, Verdict};
use landfall_protocol::frame::{Entry, entry_flags, entry_kind};
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::replica::{Batch, Incoming};
use landfall_protocol::{ChangeHash, DocumentId, Offset};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::Connection;

use super::deferred::{self, Wait};
use super::prepare::{JoinError, PrepareError, Prepared, Ready, ReadySnapshot};
use super::{compatibility, partial};
use crate::store::documents::deletion;
use crate::store::documents::excess::{ExceededLimit, excesses};
use crate::store::log::indexes::{Indexes, is_unreadable};
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{document_row, heads, local_of, merges, parts};
use crate::store::log::tombstones;
use crate::store::snapshot::install::{Source, install};
use crate::store::upstream::report::Came;
use crate::store::upstream::{acked, links, superseded};
use crate::store::{LocalLog, SpaceCount, SpaceRow, UpstreamRow};

/// Why a batch was not written. The connection then restarts from the store's state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the relay echoes change {0}, which this store does not have")]
    UnknownEcho(ChangeHash),
    #[error("the entries follow offset {after}, the store's cursor is at {at}")]
    NotNext { at: Offset, after: Offset },
    #[error("no upstream is known")]
    NoUpstream,
    #[error("a part of a snapshot begins at {from} of {total}, the parts before it end at {at}")]
    Part { from: u64, at: u64, total: u64 },
    #[error(transparent)]
    Prepare(#[from] Box<PrepareError>),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// A document that a batch added to.
#[derive(Debug)]
pub(crate) struct TouchedDocument {
    pub(crate) document: DocumentId,
    pub(crate) heads: Vec<ChangeHash>,
}

/// A document that the upstream reported as deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) document: DocumentId,
    /// Changes that the upstream was not known to hold. If there are any, the document's bytes are kept
    /// until the application exports or discards them.
    pub(crate) unsent: u64,
}

/// A document whose local changes were superseded: other changes have their actor and sequence number,
/// so they left the log and have to be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superseded {
    pub(crate) document: DocumentId,
    pub(crate) changes: u64,
}

/// The effects of a batch.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) touched: Vec<TouchedDocument>,
    /// Entries that were deferred, with the reason.
    pub(crate) deferred: Vec<(DocumentId, String)>,
    /// Documents of which an unrelated history was deferred.
    pub(crate) unrelated: Vec<DocumentId>,
    /// How many deferred entries are in their documents now.
    pub(crate) recovered: u64,
    pub(crate) deleted: Vec<Deleted>,
    /// How many of the deleted documents this store had.
    pub(crate) known_deleted: u64,
    /// How many changes were added to documents.
    pub(crate) changes: u64,
    pub(crate) superseded: Vec<Superseded>,
    /// Documents that exceed limits after this batch, once for each limit.
    pub(crate) oversized: Vec<(DocumentId, ExceededLimit)>,
}

impl Received {
    /// The counts of the batch for the status.
    pub(in crate::store) fn came(&self) -> Came {
        Came { written: true, changes: self.changes, deleted: self.known_deleted }
    }
}

impl LocalLog {
    /// As [`LocalLog::submit_prepared`], with the preparation done on this thread.
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

    /// Writes a batch, whose entries [`LocalLog::prepare`] made ready, and its cursor. Takes no fsync
    /// of its own: a WAL survives as a prefix, so a power cut loses the cursor and the entries
    /// together, and the relay sends them again.
    pub(crate) fn submit_prepared(
        &self,
        space: SpaceRow,
        batch: Batch,
        ready: Ready,
        done: impl FnOnce(Result<Committed<Received>, WriteError<ReceiveError>>) + Send + 'static,
    ) {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let limits = self.compaction_limits();
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = whose.row(tx)?.ok_or(ReceiveError::NoUpstream)?;
            let (cursor, _) = links::cursor(tx, upstream, space)?;
            let at = cursor.map_or(Offset(0), |cursor| cursor.offset);
            if at != batch.after {
                // An earlier batch failed, or the cursor was reset. A cursor must never skip an entry.
                return Err(ReceiveError::NotNext { at, after: batch.after });
            }
            // Entries are admitted in the order of the log, so that each finds its dependencies.
            let mut writing = ReceiveTransaction::new(tx, &indexes, upstream, space, limits)?;
            for entry in ready.entries {
                writing.take(entry)?;
            }
            // In the same transaction as the entries: a cursor without them would lose them.
            links::set_cursor(tx, upstream, space, &batch.cursor)?;
            Ok(writing.finish()?)
        };
        self.submit_came(Durability::Relaxed, space, Received::came, job, received_only(done));
    }
}

/// The result of a job that wrote a batch, with the count of its space.
type CountedResult<E> = Result<Committed<(SpaceCount, Received)>, WriteError<E>>;

/// Calls `done` without the count, which was reported.
pub(in crate::store) fn received_only<E>(
    done: impl FnOnce(Result<Committed<Received>, WriteError<E>>) + Send + 'static,
) -> impl FnOnce(CountedResult<E>) + Send + 'static {
    move |result| {
        done(result.map(|Committed { value: (_, value), number }| Committed { value, number }));
    }
}

/// The state of one transaction that writes received entries.
pub(in crate::store) struct ReceiveTransaction<'a> {
    pub(in crate::store) log_transaction: LogTransaction<'a>,
    pub(in crate::store) upstream: UpstreamRow,
    /// Local numbers that this transaction adds to the upstream's acked ranges.
    pub(in crate::store) acked: IntervalSet,
    touched: BTreeSet<DocumentId>,
    /// Changes that were added to each document: deferred changes may depend on them.
    fresh: BTreeMap<DocumentId, deferred::Fresh>,
    received: Received,
    /// The space's `added` counter when the transaction began.
    added_before: u64,
    /// The limits of a snapshot.
    pub(in crate::store) limits: CompactionLimits,
}

impl<'a> ReceiveTransaction<'a> {
    pub(in crate::store) fn new(
        conn: &'a Connection,
        indexes: &'a Indexes,
        upstream: UpstreamRow,
        space: SpaceRow,
        limits: CompactionLimits,
    ) -> rusqlite::Result<Self> {
        let log_transaction = LogTransaction::new(conn, indexes, space)?;
        Ok(Self {
            added_before: log_transaction.totals.added,
            log_transaction,
            upstream,
            acked: IntervalSet::new(),
            touched: BTreeSet::new(),
            fresh: BTreeMap::new(),
            received: Received::default(),
            limits,
        })
    }

    pub(in crate::store) fn take(&mut self, entry: Prepared) -> Result<(), ReceiveError> {
        match entry {
            Prepared::Snapshot(ready) => self.snapshot(ready),
            Prepared::Rejected { entry, reason } => {
                partial::forget(
                    self.log_transaction.conn,
                    self.upstream,
                    self.log_transaction.space,
                )?;
                Ok(self.defer(&entry, Wait::Never, reason)?)
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
                    // If the relay loses it, this store sends it back with the flag of a second root.
                    Ok(()) if second_root => self.note_merge(&document)?,
                    Ok(()) => {}
                    Err((change, wait, reason)) => {
                        let mut entry = Entry::of_change(offset, document, change, &author, at_ms);
                        entry.flags |= if second_root { entry_flags::SECOND_ROOT } else { 0 };
                        self.defer(&entry, wait, reason.to_string())?;
                    }
                }
                Ok(())
            }
            Prepared::Plain(Incoming::Echo { document, hash }) => self.echo(&document, hash),
            Prepared::Plain(Incoming::SnapshotEcho { document, .. }) => {
                let row = self.log_transaction.settle(&document)?;
                Ok(acked::settle(
                    self.log_transaction.conn,
                    self.upstream,
                    self.log_transaction.space,
                    row,
                )?)
            }
            Prepared::Plain(Incoming::Tombstone { document, author, at_ms, .. }) => {
                Ok(self.tombstone(document, Some(&author), at_ms)?)
            }
            Prepared::Plain(Incoming::Deferred { entry, reason }) => {
                if entry.kind == entry_kind::SNAPSHOT {
                    partial::forget(
                        self.log_transaction.conn,
                        self.upstream,
                        self.log_transaction.space,
                    )?;
                }
                Ok(self.defer(&entry, Wait::Never, reason.to_string())?)
            }
            // `prepare` has replaced all of these.
            Prepared::Plain(Incoming::Snapshot { .. }) => Ok(()),
        }
    }

    /// Notes that the document holds several histories that an application has merged.
    pub(in crate::store) fn note_merge(&mut self, document: &DocumentId) -> rusqlite::Result<()> {
        let row = self.log_transaction.settle(document)?;
        let sql = "UPDATE document SET merges = 1 WHERE id = ?1 AND merges = 0";
        self.log_transaction.conn.prepare_cached(sql)?.execute([row.0])?;
        Ok(())
    }

    fn echo(&mut self, document: &DocumentId, hash: ChangeHash) -> Result<(), ReceiveError> {
        let row = self.log_transaction.settle(document)?;
        let conn = self.log_transaction.conn;
        // The relay stored a change of this replica: it is acknowledged by its place in the log.
        if let Some(local) = local_of(conn, row, &hash)? {
            self.acked.insert(local, local);
            return Ok(());
        }
        // Not in the log: it was compacted, superseded or deleted after it was pushed. The echo of a
        // change that this store never had is an error.
        let known = self.log_transaction.knows(document, &hash)?
            || tombstones::is_deleted(conn, row)?
            || superseded::contains(conn, row, &hash)?;
        if known { Ok(()) } else { Err(ReceiveError::UnknownEcho(hash)) }
    }

    /// Admits a change and appends it. Returns it with the reason if it cannot be admitted now.
    pub(in crate::store) fn change(
        &mut self,
        document: DocumentId,
        change: CheckedChange,
        author: &[u8],
        at_ms: u64,
        roots: Roots,
    ) -> rusqlite::Result<Result<(), (CheckedChange, Wait, HistoryError)>> {
        let mut roots = roots;
        if change.dependencies.is_empty()
            && merges(self.log_transaction.conn, self.log_transaction.space, &document)?
        {
            roots = Roots::Several;
        }
        // Two changes with one actor and sequence number cannot both be in a document. The relay's log
        // decides, so the local one is superseded and admission is tried again.
        let mut verdict =
            self.log_transaction.admit(&document, &change, roots, Origin::Received)?;
        if let Err(HistoryError::ConflictingSequence { held, .. }) = &verdict
            && self.make_room(document, *held)?
        {
            verdict = self.log_transaction.admit(&document, &change, roots, Origin::Received)?;
        }
        let wait = match &verdict {
            Ok(Verdict::Duplicate(known)) => {
                let row = self.log_transaction.row(&document)?;
                // A compacted change has no row of its own, and implies nothing about the rest of its
                // snapshot.
                if let Some(local) = local_of(self.log_transaction.conn, row, &known.hash)? {
                    self.acked.insert(local, local);
                }
                return Ok(Ok(()));
            }
            Ok(Verdict::New) => {
                let local = self.log_transaction.append(document, &change, Some(author), at_ms)?;
                self.acked.insert(local, local);
                self.touched.insert(document);
                self.fresh.entry(document).or_default().add(change.hash);
                return Ok(Ok(()));
            }
            // The link sends the deletion to the upstream; changes of a deleted document are not kept.
            Err(HistoryError::Deleted) => return Ok(Ok(())),
            // A missing dependency may still arrive, and an unrelated history may be merged later.
            // Nothing changes the other verdicts.
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
        let (conn, space) = (self.log_transaction.conn, self.log_transaction.space);
        // The parts are assembled by now: they only take space.
        partial::forget(conn, self.upstream, space)?;
        if let Err((ready, wait, reason)) = self.join_snapshot(ready, true)? {
            let theirs = ready.theirs();
            let (hash, heads) = (theirs.hash, theirs.index.heads());
            let (document, body) = (ready.document, Some(theirs.body.clone()));
            let entry = Entry::of_snapshot(ready.offset, document, hash, &heads, 0, body);
            self.defer(&entry, wait, reason)?;
        }
        Ok(())
    }

    /// Installs a received snapshot under its document's tail. Returns it with the reason if it cannot
    /// be installed now. `acked`: the upstream in use has all of it.
    pub(in crate::store) fn join_snapshot(
        &mut self,
        mut ready: ReadySnapshot,
        acked: bool,
    ) -> rusqlite::Result<Result<(), (ReadySnapshot, Wait, String)>> {
        let document = ready.document;
        let row = self.log_transaction.settle(&document)?;
        if tombstones::is_deleted(self.log_transaction.conn, row)? {
            return Ok(Ok(()));
        }
        // Related histories only, and no actor and sequence number twice: the same rules as for single
        // changes.
        match compatibility::check(self, &ready, row) {
            Ok(Ok(())) => {}
            Ok(Err((wait, reason))) => return Ok(Err((ready, wait, reason))),
            // The store's own snapshot cannot be read: that affects only this document.
            Err(error) if is_unreadable(&error) => {
                return Ok(Err((ready, Wait::Never, error.to_string())));
            }
            Err(error) => return Err(error),
        }
        // The preparation joined it with an earlier state; a compaction may have been committed since.
        match ready.join(self.log_transaction.conn, Some(row), &self.limits) {
            Ok(()) if ready.apart.is_some() => return self.take_apart(ready, acked),
            Ok(()) => {}
            Err(JoinError::Sql(error)) => return Err(error),
            Err(JoinError::Compaction(error)) => {
                let reason = format!("it cannot be merged into the local snapshot: {error}");
                return Ok(Err((ready, Wait::Never, reason)));
            }
        }
        // A joined snapshot has changes that the upstream did not send: it counts as acknowledged only
        // if the upstream had acknowledged the store's own part.
        let acked = acked
            && (ready.pure
                || !acked::has_unacked_snapshot(self.log_transaction.conn, self.upstream, row)?);
        let source = Source::Upstream { upstream: self.upstream, acked };
        // Local numbers noted so far must be counted before their rows are dead.
        self.hold_now()?;
        install(&mut self.log_transaction, &document, &ready.opened, &source)?;
        self.touched.insert(document);
        self.fresh.entry(document).or_default().all();
        Ok(Ok(()))
    }

    /// Admits the new changes of a received snapshot one by one. If one is not admitted, the whole
    /// snapshot is deferred; the changes before it stay.
    fn take_apart(
        &mut self,
        mut ready: ReadySnapshot,
        acked: bool,
    ) -> rusqlite::Result<Result<(), (ReadySnapshot, Wait, String)>> {
        let before = std::mem::take(&mut self.acked);
        let mut refused = None;
        for change in ready.apart.take().unwrap_or_default() {
            // `compatibility::check` found that its histories belong together.
            let admitted = self.change(ready.document, change, &[], 0, Roots::Several)?;
            if let Err((_, wait, reason)) = admitted {
                refused = Some((wait, reason.to_string()));
                break;
            }
        }
        let came = std::mem::replace(&mut self.acked, before);
        if acked {
            came.iter().for_each(|(first, last)| drop(self.acked.insert(first, last)));
        }
        Ok(match refused {
            Some((wait, reason)) => Err((ready, wait, reason)),
            None => Ok(()),
        })
    }

    /// Removes superseded local changes of a document from its log. Returns `false` if `taken` is not a
    /// local change that may be removed.
    pub(in crate::store) fn make_room(
        &mut self,
        document: DocumentId,
        taken: ChangeHash,
    ) -> rusqlite::Result<bool> {
        let changes =
            superseded::supersede(&mut self.log_transaction, self.upstream, &document, taken)?;
        if changes > 0 {
            self.received.superseded.push(Superseded { document, changes });
            self.touched.insert(document);
        }
        Ok(changes > 0)
    }

    pub(in crate::store) fn tombstone(
        &mut self,
        document: DocumentId,
        author: Option<&[u8]>,
        at_ms: u64,
    ) -> rusqlite::Result<()> {
        self.hold_now()?;
        let row = self.log_transaction.settle(&document)?;
        let is_known = parts(self.log_transaction.conn, row)?.changes() > 0;
        let tombstone =
            deletion::Tombstone { author, at_ms, from: Some(self.upstream), unaware: 0 };
        if let Some(unsent) = deletion::delete(&mut self.log_transaction, &document, &tombstone)? {
            self.received.deleted.push(Deleted { document, unsent });
            self.received.known_deleted += u64::from(is_known);
            self.touched.remove(&document);
            self.fresh.remove(&document);
        }
        Ok(())
    }

    /// Makes [`ReceiveTransaction::finish`] retry the document's deferred changes.
    pub(in crate::store) fn try_again(&mut self, document: DocumentId, fresh: deferred::Fresh) {
        self.fresh.insert(document, fresh);
    }

    fn defer(&mut self, entry: &Entry, wait: Wait, reason: String) -> rusqlite::Result<()> {
        let (conn, space) = (self.log_transaction.conn, self.log_transaction.space);
        // After a reset the relay sends the same entries again: an entry that is already there is not
        // reported.
        if deferred::put(conn, self.upstream, space, entry, wait, &reason)? {
            if wait == Wait::Merge {
                self.received.unrelated.push(entry.document);
            }
            self.received.deferred.push((entry.document, reason));
        }
        Ok(())
    }

    /// Writes the acked ranges collected so far.
    pub(in crate::store) fn hold_now(&mut self) -> rusqlite::Result<()> {
        let acked = std::mem::take(&mut self.acked);
        self.log_transaction.settle_all()?;
        acked::hold(self.log_transaction.conn, self.upstream, self.log_transaction.space, &acked)
    }

    /// Retries the deferred changes that may now apply, and writes everything.
    pub(in crate::store) fn finish(mut self) -> rusqlite::Result<Received> {
        // A retried change may be the dependency of further deferred ones, so this runs until nothing
        // is new.
        while let Some((document, fresh)) = self.fresh.pop_first() {
            self.received.recovered += deferred::retry(&mut self, document, &fresh)?;
        }
        self.hold_now()?;
        let added = self.log_transaction.totals.added.saturating_sub(self.added_before);
        // A deletion counts as one added change.
        self.received.changes = added.saturating_sub(self.received.deleted.len() as u64);
        let Self { log_transaction, touched, mut received, limits, .. } = self;
        let (conn, space) = (log_transaction.conn, log_transaction.space);
        log_transaction.finish()?;
        for document in touched {
            if let Some(row) = document_row(conn, space, &document)? {
                let exceeded = excesses(conn, row, limits.snapshot_bytes as u64)?;
                received.oversized.extend(exceeded.into_iter().map(|excess| (document, excess)));
                received.touched.push(TouchedDocument { document, heads: heads(conn, row)? });
            }
        }
        Ok(received)
    }
}
