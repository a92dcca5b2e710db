//! The counts of a space after a commit: read inside the transaction, and published after it is
//! committed, on the writer thread, in the order of the commits. Every job that can change a space's
//! counts goes through here, so that no caller can publish late, twice or not at all.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, OnceLock, mpsc};

use landfall_storage::{Committed, Database, Durability, WriteError};
use parking_lot::Mutex;
use rusqlite::{Connection, Transaction};

use super::rejected;
use super::{links, pending};
use crate::store::log::rows;
use crate::store::{LocalLog, Pending, Rejected, SpaceRow, SpaceTotals, UpstreamRow};

/// The counts of a space after a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpaceCount {
    /// The upstream that the other values refer to; `None` if the store never connected to one.
    pub(crate) upstream: Option<UpstreamRow>,
    pub(crate) totals: SpaceTotals,
    pub(crate) pending: Pending,
    /// The first local sequence number that the upstream is not known to hold.
    pub(crate) first_gap: Option<u64>,
    /// The first one that it is not known to hold and does not reject.
    pub(crate) first_unacked: Option<u64>,
    /// Deferred entries, without those that another upstream cannot read.
    pub(crate) deferred: u64,
    /// Those of them that stand for entries which the upstream cannot read.
    pub(crate) damaged: u64,
}

/// A space's state after a commit. Every value is absolute.
#[derive(Debug)]
pub(crate) struct SpaceReport {
    pub(crate) space: SpaceRow,
    pub(crate) count: SpaceCount,
    /// The documents whose changes are rejected, if the list differs from the one reported last.
    pub(crate) rejected: Option<Vec<Rejected>>,
    /// The entries that the commit received from a relay.
    pub(crate) came: Came,
    /// The commit's number, and the last one that is on disk.
    pub(crate) number: u64,
    pub(crate) synced: u64,
}

/// The entries that one commit received from a relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Came {
    /// Whether the commit wrote received entries, even if none was new.
    pub(crate) written: bool,
    /// Changes that are in documents now.
    pub(crate) changes: u64,
    /// Documents of this store that are deleted now.
    pub(crate) deleted: u64,
}

/// Called with each report, on the writer thread: it must not block.
pub(crate) type Observer = Box<dyn Fn(SpaceReport) + Send + Sync>;

/// Identifies the list of rejected documents in a report: the upstream's row (0 for none) and the
/// space's `refusals`.
type RejectedListKey = (i64, u64);

/// The receiver of reports.
#[derive(Default)]
pub(in crate::store) struct Reports {
    observer: OnceLock<Observer>,
    /// The list that was reported last, for each space. It is updated after the commit, so it can only
    /// be behind the store; a list is then reported once more.
    listed: Mutex<BTreeMap<SpaceRow, RejectedListKey>>,
}

/// A report as its transaction read it.
struct Draft {
    space: SpaceRow,
    count: SpaceCount,
    rejected: Option<Vec<Rejected>>,
    listed: RejectedListKey,
    came: Came,
}

impl Reports {
    fn draft(&self, conn: &Connection, space: SpaceRow) -> rusqlite::Result<Draft> {
        // Not the upstream that was in use when the job was submitted: another may have been connected
        // since, and reports after that must refer to the same one.
        let upstream = links::last_attached(conn)?.map(|(row, _)| row);
        let count = count(conn, upstream, space)?;
        if let Some(upstream) = upstream {
            pending::note_unacked_from(conn, upstream, space, &count)?;
        }
        let listed = (upstream.map_or(0, |row| row.0), rejected::refusals(conn, space)?);
        let known = self.listed.lock().get(&space) == Some(&listed);
        let rejected = match known {
            true => None,
            false => Some(rejected::rejected(conn, upstream, space)?),
        };
        Ok(Draft { space, count, rejected, listed, came: Came::default() })
    }

    /// A space was removed.
    pub(in crate::store) fn forget(&self, space: SpaceRow) {
        self.listed.lock().remove(&space);
    }

    #[cfg(test)]
    pub(in crate::store) fn try_draft(
        &self,
        conn: &Connection,
        space: SpaceRow,
    ) -> rusqlite::Result<()> {
        self.draft(conn, space).map(drop)
    }

    fn publish(&self, draft: Draft, number: u64, synced: u64) {
        let Draft { space, count, rejected, listed, came } = draft;
        self.listed.lock().insert(space, listed);
        if let Some(observer) = self.observer.get() {
            observer(SpaceReport { space, count, rejected, came, number, synced });
        }
    }
}

impl LocalLog {
    /// Sends every commit that may change a space's counts to `observer` from now on. To be called
    /// once, before anything is written that must be reported.
    pub(crate) fn observe(&self, observer: Observer) {
        if self.reports.observer.set(observer).is_err() {
            tracing::error!("a store has two observers; the second one is not called");
        }
    }

    /// Runs a job that touches spaces, which it names; `done` is called after the report.
    pub(in crate::store) fn submit_reported<T, E>(
        &self,
        durability: Durability,
        job: impl FnOnce(&Transaction<'_>) -> Result<(T, Vec<SpaceRow>), E> + Send + 'static,
        done: impl FnOnce(Result<Committed<(T, Vec<SpaceCounted>)>, WriteError<E>>) + Send + 'static,
    ) where
        T: Send + 'static,
        E: Error + From<rusqlite::Error> + Send + 'static,
    {
        self.submit_with(durability, |_| Came::default(), job, done);
    }

    /// As [`LocalLog::submit_reported`]; `came` extracts from the result the counts of received
    /// entries.
    fn submit_with<T, E>(
        &self,
        durability: Durability,
        came: fn(&T) -> Came,
        job: impl FnOnce(&Transaction<'_>) -> Result<(T, Vec<SpaceRow>), E> + Send + 'static,
        done: impl FnOnce(Result<Committed<(T, Vec<SpaceCounted>)>, WriteError<E>>) + Send + 'static,
    ) where
        T: Send + 'static,
        E: Error + From<rusqlite::Error> + Send + 'static,
    {
        let reports = Arc::clone(&self.reports);
        let for_done = (Arc::clone(&self.reports), self.db.clone());
        let job = move |tx: &Transaction<'_>| {
            let (value, spaces) = job(tx)?;
            let mut drafts = Vec::with_capacity(spaces.len());
            for space in spaces {
                // A removed space has nothing to report.
                if rows::is_space(tx, space)? {
                    drafts.push(Draft { came: came(&value), ..reports.draft(tx, space)? });
                }
            }
            Ok((value, drafts))
        };
        let done = move |result: Result<Committed<(T, Vec<Draft>)>, WriteError<E>>| {
            let (reports, db) = for_done;
            done(result.map(|Committed { value: (value, drafts), number }| {
                let counted = drafts.iter().map(|draft| (draft.space, draft.count)).collect();
                publish_all(&reports, &db, drafts, number.0);
                Committed { value: (value, counted), number }
            }));
        };
        self.db.submit(durability, job, done);
    }

    /// As [`LocalLog::submit_reported`], of one space.
    pub(in crate::store) fn submit_in_space<T, E>(
        &self,
        durability: Durability,
        space: SpaceRow,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        done: impl FnOnce(Result<Committed<(SpaceCount, T)>, WriteError<E>>) + Send + 'static,
    ) where
        T: Send + 'static,
        E: Error + From<rusqlite::Error> + Send + 'static,
    {
        self.submit_came(durability, space, |_| Came::default(), job, done);
    }

    /// As [`LocalLog::submit_in_space`]; `came` extracts from the result the counts of received
    /// entries.
    pub(in crate::store) fn submit_came<T, E>(
        &self,
        durability: Durability,
        space: SpaceRow,
        came: fn(&T) -> Came,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        done: impl FnOnce(Result<Committed<(SpaceCount, T)>, WriteError<E>>) + Send + 'static,
    ) where
        T: Send + 'static,
        E: Error + From<rusqlite::Error> + Send + 'static,
    {
        let job = move |tx: &Transaction<'_>| Ok((job(tx)?, vec![space]));
        let done = move |result: Result<Committed<(T, Vec<SpaceCounted>)>, WriteError<E>>| {
            done(result.map(|Committed { value: (value, counted), number }| {
                let count = counted.first().map(|counted| counted.1).unwrap_or_default();
                Committed { value: (count, value), number }
            }));
        };
        self.submit_with(durability, came, job, done);
    }

    /// As [`LocalLog::submit_in_space`], and waits.
    pub(in crate::store) fn write_in_space<T, E>(
        &self,
        durability: Durability,
        space: SpaceRow,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<Committed<(SpaceCount, T)>, WriteError<E>>
    where
        T: Send + 'static,
        E: Error + From<rusqlite::Error> + Send + 'static,
    {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit_in_space(durability, space, job, move |result| {
            // The receiver waits below, so sending cannot fail.
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or(Err(WriteError::Closed))
    }
}

/// A space, with its counts after the commit.
pub(super) type SpaceCounted = (SpaceRow, SpaceCount);

fn publish_all(reports: &Reports, db: &Database, drafts: Vec<Draft>, number: u64) {
    let synced = db.synced().0;
    drafts.into_iter().for_each(|draft| reports.publish(draft, number, synced));
}

/// The counts of a space. The cost does not depend on how much is in the store.
pub(in crate::store) fn count(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
) -> rusqlite::Result<SpaceCount> {
    let totals = rows::space_totals(conn, space)?;
    let waiting = rows::space_waiting(conn, space)?;
    let pending = pending::pending(conn, upstream, space, totals, &waiting)?;
    let (first_gap, first_unacked) = match upstream {
        _ if pending.changes == 0 => (None, None),
        None => (Some(1), Some(1)),
        Some(upstream) => (
            pending::first_gap(conn, upstream, space, totals, &waiting)?,
            pending::first_unacked(conn, upstream, space, totals)?,
        ),
    };
    let damaged = match upstream {
        Some(upstream) if waiting.deferred_damaged > 0 => links::damaged(conn, upstream, space)?,
        _ => 0,
    };
    // Entries that another relay could not read do not count for this one.
    let deferred = (waiting.deferred_entries + damaged).saturating_sub(waiting.deferred_damaged);
    Ok(SpaceCount { upstream, totals, pending, first_gap, first_unacked, deferred, damaged })
}
