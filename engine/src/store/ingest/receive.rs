//! Writes a received batch, and moves the cursor in the same transaction. Parsing and opening is done before,
//! in `prepare`.

use std::sync::Arc;

use landfall_protocol::Offset;
use landfall_protocol::client::Batch;
use landfall_storage::{Committed, Durability, WriteError};

use super::prepare::Ready;
use super::received::received_only;
use super::transaction::ReceiveTransaction;
use crate::store::upstream::links;
use crate::store::{LocalLog, ReceiveError, Received, SpaceRow};

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
