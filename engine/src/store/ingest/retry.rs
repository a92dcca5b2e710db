//! Retries deferred entries when what they wait for may have arrived: at the end of every transaction that
//! receives entries, and when the application allows a merge.

use std::sync::Arc;

use landfall_protocol::admission::{Roots, preflight};
use landfall_protocol::frame::{entry_flags, entry_kind};
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::{DocumentId, Offset};
use landfall_storage::Durability;
use rusqlite::{Connection, params};

use super::deferred;
use super::deferred::{Fresh, Wait};
use super::prepare::ReadySnapshot;
use super::received::{TouchedDocument, received_only};
use super::transaction::ReceiveTransaction;
use crate::store::documents::excess::excesses;
use crate::store::log::rows::{document_row, document_row_or_new, heads};
use crate::store::upstream::acked;
use crate::store::upstream::rejected;
use crate::store::{Done, LocalLog, Opened, Received, SpaceRow, UpstreamRow};

impl ReceiveTransaction<'_> {
    /// Makes [`ReceiveTransaction::finish`] retry the document's deferred changes.
    pub(in crate::store) fn try_again(&mut self, document: DocumentId, fresh: deferred::Fresh) {
        self.fresh.insert(document, fresh);
    }

    /// Retries the deferred changes that may now apply, and writes everything.
    pub(in crate::store) fn finish(mut self) -> rusqlite::Result<Received> {
        // A retried change may be the dependency of further deferred ones, so this runs until nothing
        // is new.
        while let Some((document, fresh)) = self.fresh.pop_first() {
            self.received.recovered += retry(&mut self, document, &fresh)?;
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
