//! Compaction: which documents are due, which of their changes may be compacted, and installing the
//! result. It never runs automerge.
//!
//! `landfall_protocol::weight` decides when a compaction is due. The newest entries of the log are left
//! alone, so that an upstream that is slightly behind receives single changes; a tail of few large
//! changes is the exception, because its snapshot is no longer than they are. Changes that the upstream
//! in use is not known to hold are not compacted; a store that never connected to one compacts
//! everything. No more is compacted than one snapshot may have: the rest stays single changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_compaction::CompactionLimits;
use landfall_protocol::weight::{CompactionRule, Weight, document_bytes};
use landfall_protocol::{DocumentId, limits};
use landfall_storage::{Durability, WriteError};
use rusqlite::{Connection, OptionalExtension, params};

use super::install::{Source, install};
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{
    DocumentCounts, DocumentRow, SpaceRow, document_id, document_row, parts, space_totals,
};
use crate::store::log::snapshots::{Opened, body};
use crate::store::upstream::acked;
use crate::store::{LocalLog, SOFTWARE, UpstreamRow, ViewError, WriteFailure};

/// When a compaction is due, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompactionOptions {
    /// The least number of changes that is worth a compaction.
    pub(crate) least: u64,
    /// A compaction is due when the tail weighs at least 1/`share` of the snapshot.
    pub(crate) share: u64,
    /// The number of newest entries of a space's log that are not compacted.
    pub(crate) recent_entries: u64,
    /// The minimum age of a change for compaction.
    pub(crate) recent_age: Duration,
    /// The limits of a snapshot.
    pub(crate) limits: CompactionLimits,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            least: limits::COMPACTION_MIN_CHANGES,
            share: limits::COMPACTION_SHARE,
            recent_entries: limits::RECENT_ENTRIES,
            recent_age: limits::RECENT_AGE,
            limits: CompactionLimits::default(),
        }
    }
}

impl CompactionOptions {
    /// Compacts everything that may be compacted, for an explicit request.
    pub(crate) const EVERYTHING: Self = Self {
        least: 1,
        share: u64::MAX,
        recent_entries: 0,
        recent_age: Duration::ZERO,
        limits: CompactionLimits { snapshot_bytes: limits::SNAPSHOT_BYTES },
    };

    fn rule(&self) -> CompactionRule {
        let rule = CompactionRule::default();
        CompactionRule { least: Weight { changes: self.least, ..rule.least }, share: self.share }
    }
}

/// A document that has changes to compact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompactionTask {
    pub(crate) space: SpaceRow,
    pub(crate) row: DocumentRow,
    pub(crate) document: DocumentId,
    /// The last local sequence number that is compacted.
    through: u64,
    /// The local sequence number at which its snapshot ended before.
    base: u64,
    /// How many changes are compacted.
    pub(crate) changes: u64,
    /// Whether the new snapshot will hold the whole document.
    pub(crate) whole: bool,
    /// An estimate of the operations in the new snapshot.
    pub(crate) operations: u64,
    /// The bytes of its inputs.
    pub(crate) bytes: u64,
}

/// The inputs of a compaction: the snapshot before, and changes, dependencies first.
#[derive(Debug)]
pub(crate) struct CompactionInput {
    pub(crate) snapshot: Option<Vec<u8>>,
    pub(crate) changes: Vec<Vec<u8>>,
}

impl LocalLog {
    /// The documents of a space that are due for compaction, the longest tails first.
    pub(crate) fn compaction_candidates(
        &self,
        space: SpaceRow,
        options: &CompactionOptions,
        now_ms: u64,
    ) -> Result<Vec<CompactionTask>, ViewError> {
        let whose = self.whose;
        self.view(|conn| {
            let upstream = whose.row(conn)?;
            let mut due = Vec::new();
            for row in long_tails(conn, space, options)? {
                due.extend(task(conn, upstream, space, row, options, now_ms)?);
            }
            due.sort_by_key(|task| std::cmp::Reverse(task.changes));
            Ok(due)
        })
    }

    /// The compaction of one document, if it is due.
    pub(crate) fn compaction_candidate(
        &self,
        space: SpaceRow,
        document: &DocumentId,
        options: &CompactionOptions,
        now_ms: u64,
    ) -> Result<Option<CompactionTask>, ViewError> {
        self.view(|conn| {
            let upstream = self.whose.row(conn)?;
            let Some(row) = document_row(conn, space, document)? else { return Ok(None) };
            let may = conn
                .prepare_cached(
                    "SELECT 1 FROM document WHERE id = ?1 AND tail_changes > 0 AND
                         (fold_failed IS NULL OR fold_version <> ?2
                             OR tail_changes >= 2 * fold_failed)",
                )?
                .exists(params![row.0, SOFTWARE])?;
            if may { task(conn, upstream, space, row, options, now_ms) } else { Ok(None) }
        })
    }

    /// Reads the inputs of a compaction. `None` if the document was compacted since the task was made.
    pub(crate) fn compaction_read(
        &self,
        task: &CompactionTask,
    ) -> Result<Option<CompactionInput>, ViewError> {
        self.view(|conn| {
            if parts(conn, task.row)?.base != task.base {
                return Ok(None);
            }
            let changes = conn
                .prepare_cached(
                    "SELECT body FROM change
                     WHERE document = ?1 AND local > ?2 AND local <= ?3 ORDER BY local",
                )?
                .query_map(params![task.row.0, task.base, task.through], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Some(CompactionInput { snapshot: body(conn, task.row)?, changes }))
        })
    }

    /// Installs the result; `false`, and no change, if the document is not in the state of the task.
    /// Takes no fsync of its own: snapshot and mark are in one transaction, so a power cut loses both
    /// or neither.
    pub(crate) fn compaction_commit(
        &self,
        task: &CompactionTask,
        opened: Opened,
    ) -> Result<bool, WriteFailure> {
        let space = task.space;
        let (task, indexes, whose) = (task.clone(), Arc::clone(&self.indexes), self.whose);
        let job = move |tx: &rusqlite::Transaction<'_>| {
            if document_row(tx, task.space, &task.document)? != Some(task.row) {
                // Its space was removed, and another document may have the row.
                return Ok(false);
            }
            let now = parts(tx, task.row)?;
            // Automerge ran outside the transaction. The snapshot may be installed only if it still
            // stands for exactly the rows up to `through`, and the upstream still holds all of them.
            let compacted = now.compacted_changes + task.changes;
            let same = now.base == task.base
                && rows_between(tx, task.row, task.base, task.through)? == task.changes
                && opened.changes() == compacted
                && unacked_from(tx, whose.row(tx)?, task.space, task.row)?
                    .is_none_or(|first| first > task.through);
            if !same {
                return Ok(false);
            }
            let mut log_transaction = LogTransaction::new(tx, &indexes, task.space)?;
            let source = Source::Compaction { through: task.through };
            install(&mut log_transaction, &task.document, &opened, &source)?;
            log_transaction.finish()?;
            Ok::<_, rusqlite::Error>(true)
        };
        self.write_in_space(Durability::Relaxed, space, job).map(|committed| committed.value.1)
    }

    /// Records that a compaction failed: this version does not retry before the tail has doubled.
    pub(crate) fn compaction_failed(
        &self,
        task: &CompactionTask,
        reason: String,
    ) -> Result<(), WriteFailure> {
        let row = task.row;
        let job = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute(
                "UPDATE document SET fold_failed = tail_changes, fold_version = ?2,
                     fold_reason = ?3 WHERE id = ?1",
                params![row.0, SOFTWARE, reason],
            )
            .map(drop)
        };
        self.db.write(Durability::Relaxed, job).map(|committed| committed.value)
    }

    /// Whether dead rows wait to be removed. It only reads.
    pub(crate) fn has_dead_rows(&self) -> Result<bool, ViewError> {
        self.view(|conn| {
            conn.prepare_cached("SELECT 1 FROM document WHERE sweep_through > 0")?.exists([])
        })
    }

    /// Removes at most `most` dead rows; `true` if there are more.
    pub(crate) fn sweep(&self, most: usize) -> Result<bool, WriteError<rusqlite::Error>> {
        let job = move |tx: &rusqlite::Transaction<'_>| sweep(tx, most);
        self.db.write(Durability::Relaxed, job).map(|committed| committed.value)
    }
}

/// Documents whose tails may be due, without those whose last compaction failed recently.
fn long_tails(
    conn: &Connection,
    space: SpaceRow,
    options: &CompactionOptions,
) -> rusqlite::Result<Vec<DocumentRow>> {
    // SQLite uses a partial index only if the query repeats its condition. The indexes hold tails that
    // are worth a look by default.
    let by_index = if options.least >= 64 { "AND tail_changes >= 64" } else { "" };
    let long = format!("AND tail_changes >= ?3 {by_index} AND tail_changes >= folded_changes / ?4");
    let heavy = "AND (tail_bytes >= 524288 OR counter - folded_counter >= 32768)";
    let least = options.least.clamp(1, i64::MAX as u64);
    let share = options.share.clamp(1, i64::MAX as u64);
    let (long_params, heavy_params) =
        (params![space.0, SOFTWARE, least, share], params![space.0, SOFTWARE]);
    let mut found = BTreeSet::new();
    for (which, params) in [(long.as_str(), long_params), (heavy, heavy_params)] {
        let mut statement = conn.prepare_cached(&format!(
            "SELECT id FROM document WHERE space = ?1 AND
                 (fold_failed IS NULL OR fold_version <> ?2 OR tail_changes >= 2 * fold_failed)
                 {which}"
        ))?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            found.insert(DocumentRow(row.get(0)?));
        }
    }
    Ok(found.into_iter().collect())
}

/// The compaction of a document, if enough of its tail may be compacted.
fn task(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    row: DocumentRow,
    options: &CompactionOptions,
    now_ms: u64,
) -> rusqlite::Result<Option<CompactionTask>> {
    let last = space_totals(conn, space)?.last;
    let parts = parts(conn, row)?;
    let (rule, compacted) = (options.rule(), parts.compacted());
    // The outbox sends a compacted change only within its whole snapshot. So compaction stops before
    // the first change that the upstream in use is not known to hold.
    let acked = match unacked_from(conn, upstream, space, row)? {
        Some(first) => first.saturating_sub(1),
        None => last,
    };
    let young = young_from(conn, row, &parts, last, options, now_ms)?;
    // First everything old enough, by the geometric rule: a compaction costs in proportion to the
    // document, and requiring a tail of a fixed share of it bounds the total cost by a multiple of the
    // last one. Otherwise heavy changes of any age: a snapshot is no longer than they are, so keeping
    // them single saves nothing.
    let mut due = None;
    for (through, is_due) in [
        (
            acked.min(young.saturating_sub(1)),
            CompactionRule::is_due as fn(&CompactionRule, &_, &_) -> bool,
        ),
        (acked, CompactionRule::is_heavy),
    ] {
        let through = fitting_a_snapshot(conn, row, &parts, through, options.limits)?;
        let tail = weigh(conn, row, &parts, through)?;
        if is_due(&rule, &compacted, &tail) {
            due = Some((through, tail));
            break;
        }
    }
    let Some((through, tail)) = due else { return Ok(None) };
    // The snapshot takes the local number of the last change in it.
    let through = conn
        .prepare_cached("SELECT max(local) FROM change WHERE document = ?1 AND local <= ?2")?
        .query_row(params![row.0, through], |row| row.get(0))?;
    Ok(Some(CompactionTask {
        space,
        row,
        document: document_id(conn, row)?,
        through,
        base: parts.base,
        changes: tail.changes,
        whole: tail.changes == parts.tail_changes,
        operations: parts.counter,
        bytes: parts.snapshot_bytes + tail.bytes,
    }))
}

/// The first local sequence number of a document that is too young to be compacted.
fn young_from(
    conn: &Connection,
    row: DocumentRow,
    parts: &DocumentCounts,
    last: u64,
    options: &CompactionOptions,
    now_ms: u64,
) -> rusqlite::Result<u64> {
    let end = last.saturating_sub(options.recent_entries) + 1;
    let age = u64::try_from(options.recent_age.as_millis()).unwrap_or(u64::MAX);
    if age == 0 {
        return Ok(end);
    }
    // A change dated in the future was made with a wrong clock: its age is unknown, and does not delay
    // compaction.
    let young: Option<u64> = conn
        .prepare_cached(
            "SELECT min(local) FROM change
             WHERE document = ?1 AND local > ?2 AND at_ms > ?3 AND at_ms <= ?4",
        )?
        .query_row(params![row.0, parts.base, now_ms.saturating_sub(age), now_ms], |row| {
            row.get(0)
        })?;
    Ok(young.map_or(end, |young| young.min(end)))
}

/// The last local number, up to `through`, at which a compaction still fits the limit of a snapshot. It
/// counts the uncompacted bytes, which are more than their share of the snapshot will be; the next
/// round considers the rest with the real size.
fn fitting_a_snapshot(
    conn: &Connection,
    row: DocumentRow,
    parts: &DocumentCounts,
    through: u64,
    limits: CompactionLimits,
) -> rusqlite::Result<u64> {
    let most = limits.snapshot_bytes as u64;
    if parts.document_bytes() <= most {
        return Ok(through);
    }
    let mut statement = conn.prepare_cached(
        "SELECT local, length(body) FROM change
         WHERE document = ?1 AND local > ?2 AND local <= ?3 ORDER BY local",
    )?;
    let mut rows = statement.query(params![row.0, parts.base, through])?;
    let (mut fits, mut bytes) = (parts.base, parts.snapshot_bytes);
    while let Some(row) = rows.next()? {
        bytes += document_bytes(0, 1, row.get(1)?);
        if bytes > most {
            break;
        }
        fits = row.get(0)?;
    }
    Ok(fits)
}

/// The weight of a document's tail up to a local sequence number.
fn weigh(
    conn: &Connection,
    row: DocumentRow,
    parts: &DocumentCounts,
    through: u64,
) -> rusqlite::Result<Weight> {
    conn.prepare_cached(
        "SELECT count(*), coalesce(sum(length(body)), 0), coalesce(max(max_op), 0) FROM change
         WHERE document = ?1 AND local > ?2 AND local <= ?3",
    )?
    .query_row(params![row.0, parts.base, through], |row| {
        let (changes, bytes, counter): (u64, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Weight { changes, operations: counter.saturating_sub(parts.compacted_counter), bytes })
    })
}

fn rows_between(
    conn: &Connection,
    row: DocumentRow,
    after: u64,
    through: u64,
) -> rusqlite::Result<u64> {
    conn.prepare_cached(
        "SELECT count(*) FROM change WHERE document = ?1 AND local > ?2 AND local <= ?3",
    )?
    .query_row(params![row.0, after, through], |row| row.get(0))
}

/// The first change of a document's tail that the upstream in use is not known to hold.
fn unacked_from(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    space: SpaceRow,
    row: DocumentRow,
) -> rusqlite::Result<Option<u64>> {
    let Some(upstream) = upstream else { return Ok(None) };
    let (base, last) = (parts(conn, row)?.base, space_totals(conn, space)?.last);
    for (first, last) in acked::gaps_between(conn, upstream, space, base + 1, last)? {
        let unacked: Option<u64> = conn
            .prepare_cached(
                "SELECT min(local) FROM change WHERE document = ?1 AND local BETWEEN ?2 AND ?3",
            )?
            .query_row(params![row.0, first, last], |row| row.get(0))?;
        if unacked.is_some() {
            return Ok(unacked);
        }
    }
    Ok(None)
}

/// Removes the rows up to a document's sweep mark, and no others: the present `base` or tombstone does
/// not show which rows are dead.
fn sweep(conn: &Connection, most: usize) -> rusqlite::Result<bool> {
    let mut left = most;
    while left > 0 {
        let next: Option<(i64, u64)> = conn
            .prepare_cached(
                "SELECT id, sweep_through FROM document WHERE sweep_through > 0 ORDER BY id LIMIT 1",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((document, through)) = next else { return Ok(false) };
        let gone = conn
            .prepare_cached(
                "DELETE FROM change WHERE id IN (SELECT c.id FROM change c
                     WHERE c.document = ?1 AND c.local <= ?2 LIMIT ?3)",
            )?
            .execute(params![document, through, left])?;
        if gone < left {
            conn.prepare_cached("UPDATE document SET sweep_through = 0 WHERE id = ?1")?
                .execute([document])?;
        }
        left -= gone;
    }
    Ok(true)
}
