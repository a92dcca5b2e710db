//! One transaction that writes received entries: each is admitted as local changes are, and what cannot be
//! applied yet is deferred.

use std::collections::{BTreeMap, BTreeSet};

use landfall_compaction::CompactionLimits;
use landfall_protocol::admission::{CheckedChange, HistoryError, Origin, Roots, Verdict};
use landfall_protocol::client::Incoming;
use landfall_protocol::frame::{Entry, entry_flags, entry_kind};
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::{ChangeHash, DocumentId};
use rusqlite::Connection;

use super::compatibility;
use super::deferred::Wait;
use super::prepare::{JoinError, Prepared, ReadySnapshot};
use super::received::{Deleted, Superseded};
use super::{deferred, partial};
use crate::store::documents::deletion;
use crate::store::log::indexes::{Indexes, is_unreadable};
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{local_of, merges, parts};
use crate::store::log::{graph, tombstones};
use crate::store::snapshot::install::{Source, install};
use crate::store::upstream::{acked, superseded};
use crate::store::{DocumentRow, ReceiveError, Received, SpaceRow, UpstreamRow};

/// The state of one transaction that writes received entries.
pub(in crate::store) struct ReceiveTransaction<'a> {
    pub(in crate::store) log_transaction: LogTransaction<'a>,
    pub(in crate::store) upstream: UpstreamRow,
    /// Local numbers that this transaction adds to the upstream's acked ranges.
    pub(in crate::store) acked: IntervalSet,
    pub(super) touched: BTreeSet<DocumentId>,
    /// Changes that were added to each document: deferred changes may depend on them.
    pub(super) fresh: BTreeMap<DocumentId, deferred::Fresh>,
    pub(super) received: Received,
    /// The space's `added` counter when the transaction began.
    pub(super) added_before: u64,
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
        match self.check_compatibility(&ready, row) {
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

    /// Prepares a document for a received snapshot; returns why it cannot be installed now, if it cannot.
    fn check_compatibility(
        &mut self,
        ready: &ReadySnapshot,
        row: DocumentRow,
    ) -> rusqlite::Result<Result<(), (Wait, String)>> {
        let (conn, space) = (self.log_transaction.conn, self.log_transaction.space);
        let index = &ready.theirs().index;
        let tail = graph::tail(conn, row)?;
        if parts(conn, row)?.changes() > 0
            && !merges(conn, space, &ready.document)?
            && !compatibility::is_related(&self.log_transaction, row, &tail, index)?
        {
            return Ok(Err((Wait::Merge, HistoryError::Unrelated.to_string())));
        }
        while let Some((hash, theirs)) = compatibility::conflict(conn, row, index)? {
            if !self.make_room(ready.document, hash)? {
                let reason =
                    format!("it contains {theirs} in place of {hash}, which the relay has");
                return Ok(Err((Wait::Never, reason)));
            }
        }
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
            // `check_compatibility` found that its histories belong together.
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
}
