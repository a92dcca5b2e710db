//! Deferred entries: they arrived and cannot be applied yet. The store keeps them, and retries them
//! when what they wait for may have arrived.

use std::collections::BTreeSet;
use std::sync::Arc;

use landfall_protocol::admission::{Roots, preflight};
use landfall_protocol::frame::{Entry, entry_flags, entry_kind};
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::{ChangeHash, DocumentId, Offset, limits};
use landfall_storage::Durability;
use rusqlite::{Connection, params};

use super::prepare::ReadySnapshot;
use super::receive::{ReceiveTransaction, Received, received_only};
use crate::store::log::rows::{SpaceRow, UpstreamRow, document_row_or_new, space_waiting};
use crate::store::log::snapshots::Opened;
use crate::store::upstream::rejected;
use crate::store::upstream::{acked, damaged};
use crate::store::{Done, LocalLog};

/// The condition that a deferred entry waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Wait {
    /// None: the entry is kept for a later version, or as evidence.
    Never = 0,
    /// Its missing dependencies.
    Dependencies = 1,
    /// The application's request to merge unrelated histories.
    Merge = 2,
}

/// The changes that a transaction has added to a document.
#[derive(Debug, Default)]
pub(in crate::store) struct Fresh {
    hashes: BTreeSet<ChangeHash>,
    all: bool,
}

impl Fresh {
    pub(in crate::store) fn add(&mut self, hash: ChangeHash) {
        self.hashes.insert(hash);
    }

    /// Marks so many changes as added that comparing hashes is not worthwhile.
    pub(in crate::store) fn all(&mut self) {
        self.all = true;
    }

    fn concerns(&self, dependencies: &[u8]) -> bool {
        let came = |hash: &[u8; 32]| self.hashes.contains(&ChangeHash(*hash));
        // An entry without dependencies waits for something else, which may have arrived.
        self.all || dependencies.is_empty() || dependencies.as_chunks().0.iter().any(came)
    }
}

/// Stores a deferred entry; `false` if it is already there. The number of entries that wait for
/// dependencies is bounded: one more is dropped, and arrives again when the two ends compare their
/// documents.
pub(in crate::store) fn put(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    entry: &Entry,
    wait: Wait,
    reason: &str,
) -> rusqlite::Result<bool> {
    if wait == Wait::Dependencies {
        let waiting = space_waiting(conn, space)?.deferred_waiting;
        if waiting >= limits::DEFERRED_CHANGES as u64 {
            tracing::warn!(document = %entry.document, "too many changes wait for their dependencies; dropped one");
            return Ok(false);
        }
    }
    let is_mark = entry.kind == entry_kind::DAMAGED;
    if is_mark
        && !(damaged::is_news(conn, upstream, space, entry)?
            && damaged::make_room(conn, upstream, space)?)
    {
        return Ok(false);
    }
    let new = conn
        .prepare_cached(
            "INSERT OR IGNORE INTO aside (upstream, space, offset, document, kind, flags, hash,
                 dependencies, author, at_ms, body, reason, wait)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            upstream.0,
            space.0,
            entry.offset.0,
            entry.document.as_bytes(),
            entry.kind,
            entry.flags,
            entry.id,
            entry.dependencies.concat(),
            entry.author.as_slice(),
            entry.at_ms,
            entry.body.as_slice(),
            reason,
            wait as i64,
        ])?;
    Ok(new > 0)
}

/// A deferred entry.
struct DeferredEntry {
    id: i64,
    kind: u16,
    document: DocumentId,
    upstream: UpstreamRow,
    flags: u16,
    author: Vec<u8>,
    at_ms: u64,
    body: Vec<u8>,
}

/// Retries a document's deferred changes that may have waited for `fresh`. Returns how many are in the
/// document now.
pub(in crate::store) fn retry(
    writing: &mut ReceiveTransaction<'_>,
    document: DocumentId,
    fresh: &Fresh,
) -> rusqlite::Result<u64> {
    let (conn, space) = (writing.log_transaction.conn, writing.log_transaction.space);
    let ids: Vec<i64> = {
        let mut statement = conn.prepare_cached(
            "SELECT id, dependencies FROM aside
             WHERE space = ?1 AND document = ?2 AND wait = 1 ORDER BY id",
        )?;
        let mut rows = statement.query(params![space.0, document.as_bytes()])?;
        let mut ids = Vec::new();
        while let Some(row) = rows.next()? {
            if fresh.concerns(&row.get::<_, Vec<u8>>(1)?) {
                ids.push(row.get(0)?);
            }
        }
        ids
    };
    let mut recovered = 0;
    for id in ids {
        let waiting = conn
            .prepare_cached(
                "SELECT upstream, flags, author, at_ms, body, kind FROM aside WHERE id = ?1",
            )?
            .query_row([id], |row| {
                Ok(DeferredEntry {
                    id,
                    kind: row.get(5)?,
                    document,
                    upstream: UpstreamRow(row.get(0)?),
                    flags: row.get(1)?,
                    author: row.get(2)?,
                    at_ms: row.get(3)?,
                    body: row.get(4)?,
                })
            })?;
        let admitted = match waiting.kind {
            entry_kind::SNAPSHOT => admit_snapshot(writing, waiting)?,
            _ => admit(writing, waiting)?,
        };
        recovered += u64::from(admitted);
    }
    Ok(recovered)
}

/// Retries a deferred snapshot. It is opened within the transaction, since that is rare.
fn admit_snapshot(
    writing: &mut ReceiveTransaction<'_>,
    waiting: DeferredEntry,
) -> rusqlite::Result<bool> {
    let conn = writing.log_transaction.conn;
    let Ok(opened) = Opened::open_within(waiting.body, &writing.limits) else {
        wait_for(conn, waiting.id, Wait::Never)?;
        return Ok(false);
    };
    let acked = waiting.upstream == writing.upstream;
    let ready = ReadySnapshot::new(Offset(0), waiting.document, opened);
    if let Err((_, wait, _)) = writing.join_snapshot(ready, acked)? {
        wait_for(conn, waiting.id, wait)?;
        return Ok(false);
    }
    conn.prepare_cached("DELETE FROM aside WHERE id = ?1")?.execute([waiting.id])?;
    Ok(true)
}

fn admit(writing: &mut ReceiveTransaction<'_>, waiting: DeferredEntry) -> rusqlite::Result<bool> {
    let conn = writing.log_transaction.conn;
    let DeferredEntry { id, document, upstream, flags, author, at_ms, body, .. } = waiting;
    let Ok(change) = preflight(&body) else {
        wait_for(conn, id, Wait::Never)?;
        return Ok(false);
    };
    let second = flags & entry_flags::SECOND_ROOT != 0;
    let roots = if second { Roots::Several } else { Roots::One };
    // The upstream that sent the entry holds the change, and may be another than the one in use.
    let acked = std::mem::take(&mut writing.acked);
    let outcome = writing.change(document, change, &author, at_ms, roots)?;
    let locals = std::mem::replace(&mut writing.acked, acked);
    match outcome {
        Ok(()) if upstream == writing.upstream => {
            locals.iter().for_each(|(first, last)| drop(writing.acked.insert(first, last)));
        }
        Ok(()) => hold_elsewhere(writing, upstream, &locals)?,
        Err((_, wait, _)) => {
            wait_for(conn, id, wait)?;
            return Ok(false);
        }
    }
    if second {
        writing.note_merge(&document)?;
    }
    conn.prepare_cached("DELETE FROM aside WHERE id = ?1")?.execute([id])?;
    Ok(true)
}

fn hold_elsewhere(
    writing: &mut ReceiveTransaction<'_>,
    upstream: UpstreamRow,
    locals: &IntervalSet,
) -> rusqlite::Result<()> {
    writing.log_transaction.settle_all()?;
    acked::hold(writing.log_transaction.conn, upstream, writing.log_transaction.space, locals)
}

fn wait_for(conn: &Connection, id: i64, wait: Wait) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE aside SET wait = ?2 WHERE id = ?1")?
        .execute(params![id, wait as i64])?;
    Ok(())
}

impl LocalLog {
    /// Allows unrelated histories of a document to be merged from now on: admits the entries that wait
    /// for it, and lets the outbox send the local changes again, as second roots.
    pub(crate) fn submit_allow_merge(
        &self,
        space: SpaceRow,
        document: DocumentId,
        done: Done<Received>,
    ) {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let limits = self.compaction_limits();
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let row = document_row_or_new(tx, space, &document)?;
            tx.prepare_cached("UPDATE document SET merges = 1 WHERE id = ?1")?.execute([row.0])?;
            tx.prepare_cached(
                "UPDATE aside SET wait = 1 WHERE space = ?1 AND document = ?2 AND wait = 2",
            )?
            .execute(params![space.0, document.as_bytes()])?;
            let Some(upstream) = whose.row(tx)? else { return Ok(Received::default()) };
            rejected::retry_rejected(tx, upstream, row)?;
            let mut writing = ReceiveTransaction::new(tx, &indexes, upstream, space, limits)?;
            let mut fresh = Fresh::default();
            fresh.all();
            writing.try_again(document, fresh);
            writing.finish()
        };
        self.submit_came(Durability::Full, space, Received::came, job, received_only(done));
    }
}
