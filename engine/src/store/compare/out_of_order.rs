//! Entries of single documents that arrive outside the log's order, while the two ends compare their
//! documents. They move no cursor before everything is compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use landfall_protocol::client::DocumentBatch;
use landfall_protocol::frame::{Holding, Mark};
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::{ChangeHash, Cursor, DocumentId, Local};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::{Connection, params};

use crate::store::ingest::prepare::Ready;
use crate::store::ingest::received::received_only;
use crate::store::ingest::transaction::ReceiveTransaction;
use crate::store::log::rows::{
    DocumentRow, SpaceRow, UpstreamRow, document_row, heads, space_totals,
};
use crate::store::log::snapshots::compacted_heads;
use crate::store::log::{graph, tombstones};
use crate::store::upstream::{acked, damaged, links};
use crate::store::{Done, LocalLog, ReceiveError, Received, SpaceCount};

impl LocalLog {
    /// Writes received entries of one document, which [`LocalLog::prepare`] made ready. The last batch
    /// of a document also records which of its changes the upstream holds: exactly the ancestors of the
    /// heads that it reported.
    pub(crate) fn submit_document(
        &self,
        space: SpaceRow,
        batch: DocumentBatch,
        ready: Ready,
        done: impl FnOnce(Result<Committed<Received>, WriteError<ReceiveError>>) + Send + 'static,
    ) {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let limits = self.compaction_limits();
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = whose.row(tx)?.ok_or(ReceiveError::NoUpstream)?;
            let mut writing = ReceiveTransaction::new(tx, &indexes, upstream, space, limits)?;
            for entry in ready.entries {
                writing.take(entry)?;
            }
            if batch.last {
                writing.note(batch.document, &batch.holding)?;
                if !batch.damaged {
                    damaged::forget_document(tx, upstream, space, &batch.document)?;
                }
            }
            Ok(writing.finish()?)
        };
        self.submit_came(Durability::Relaxed, space, Received::came, job, received_only(done));
    }

    /// Completes a comparison: sets the cursor, and records that the upstream holds everything up to
    /// `through` that it was not found to lack. Nothing is recorded of the documents in `except`.
    pub(crate) fn submit_finish_comparison(
        &self,
        space: SpaceRow,
        cursor: Option<Cursor>,
        through: Local,
        except: Vec<DocumentId>,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            match &cursor {
                Some(cursor) => links::set_cursor(tx, upstream, space, cursor)?,
                None => links::forget_cursor(tx, upstream, space)?,
            }
            hold_through(tx, upstream, space, through.0, &except)
        });
    }

    /// Records that the upstream in use holds everything in a document's snapshot. A newer snapshot may
    /// have replaced it by now: compaction includes only changes that the upstream holds, so it holds
    /// that one too.
    pub(crate) fn submit_snapshot_acknowledged(
        &self,
        space: SpaceRow,
        document: DocumentId,
        _hash: [u8; 32],
        mark: Mark,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            if let Some(row) = document_row(tx, space, &document)? {
                acked::settle(tx, upstream, space, row)?;
            }
            links::set_mark(tx, upstream, space, &mark)
        });
    }
}

fn hold_through(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    through: u64,
    except: &[DocumentId],
) -> rusqlite::Result<()> {
    let through = through.min(space_totals(conn, space)?.last);
    let mut holds = IntervalSet::new();
    if through > 0 {
        holds.insert(1, through);
    }
    let mut excepted = BTreeSet::new();
    for document in except {
        let Some(row) = document_row(conn, space, document)? else { continue };
        excepted.insert(row);
        let mut left = acked::locals(conn, row)?;
        if let Some(local) = tombstones::local(conn, row)? {
            left.insert(local, local);
        }
        for (first, last) in acked::acked_of(conn, upstream, space, &left)?.iter() {
            left.remove(first, last);
        }
        left.iter().for_each(|(first, last)| drop(holds.remove(first, last)));
    }
    acked::hold(conn, upstream, space, &holds)?;
    let unacked: Vec<DocumentRow> = conn
        .prepare_cached(
            "SELECT document FROM owed WHERE upstream = ?1 AND space = ?2 AND local <= ?3",
        )?
        .query_map(params![upstream.0, space.0, through], |row| row.get(0).map(DocumentRow))?
        .collect::<rusqlite::Result<_>>()?;
    for row in unacked.into_iter().filter(|row| !excepted.contains(row)) {
        acked::settle(conn, upstream, space, row)?;
    }
    Ok(())
}

impl ReceiveTransaction<'_> {
    /// Records which changes of a document the upstream holds.
    fn note(&mut self, document: DocumentId, holding: &Holding) -> Result<(), ReceiveError> {
        if matches!(holding, Holding::Deleted) {
            return Ok(self.tombstone(document, Some(&[]), 0)?);
        }
        self.hold_now()?;
        let (conn, space, upstream) =
            (self.log_transaction.conn, self.log_transaction.space, self.upstream);
        let Some(row) = document_row(conn, space, &document)? else { return Ok(()) };
        if let Some(local) = tombstones::local(conn, row)? {
            // The upstream still has the document, so the deletion must be sent to it.
            let tombstone = IntervalSet::from_iter([(local, local)]);
            return Ok(acked::release(conn, upstream, space, &tombstone)?);
        }
        let theirs: Vec<ChangeHash> = match holding {
            Holding::Present(heads) => heads.iter().map(|head| ChangeHash(*head)).collect(),
            Holding::Absent | Holding::Deleted => Vec::new(),
        };
        Ok(note_heads(conn, upstream, space, row, theirs)?)
    }
}

fn note_heads(
    conn: &Connection,
    upstream: UpstreamRow,
    space: SpaceRow,
    row: DocumentRow,
    mut theirs: Vec<ChangeHash>,
) -> rusqlite::Result<()> {
    theirs.sort_unstable();
    let all = acked::locals(conn, row)?;
    if theirs == heads(conn, row)? {
        acked::hold(conn, upstream, space, &all)?;
        return acked::settle(conn, upstream, space, row);
    }
    let nodes = graph::tail(conn, row)?;
    let (reached, outside) = graph::ancestors(&nodes, &theirs);
    let (mut holds, mut lacks) = (IntervalSet::new(), IntervalSet::new());
    for node in nodes {
        let set = if reached.contains(&node.hash) { &mut holds } else { &mut lacks };
        set.insert(node.local, node.local);
    }
    acked::hold(conn, upstream, space, &holds)?;
    acked::release(conn, upstream, space, &lacks)?;
    let compacted = compacted_heads(conn, row)?;
    match compacted.iter().all(|(head, _)| outside.contains(head)) {
        true => acked::settle(conn, upstream, space, row),
        false => acked::add_unacked(conn, upstream, space, row),
    }
}
