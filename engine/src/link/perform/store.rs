//! Writes received data into the store: batches, parts of snapshots, fetched documents.

use std::sync::Arc;

use landfall_protocol::client::{Batch, DocumentBatch, Incoming, PART_WEIGHT};
use landfall_protocol::{Cursor, DocumentId, Local, SpaceName};
use landfall_storage::{Committed, WriteError};

use super::{Outcome, Performer, failed};
use crate::store::{LocalLog, Ready, ReceiveError, Received, SnapshotPart, SpaceRow};

/// The completion of a write of received entries.
type ReceiveDone = Box<dyn FnOnce(Result<Committed<Received>, WriteError<ReceiveError>>) + Send>;

impl Performer {
    pub(super) fn store(&self, mut batch: Batch) {
        let (space, bytes) = (batch.space.clone(), batch.bytes);
        let entries = std::mem::take(&mut batch.entries);
        self.arrive(space, bytes, entries, |log, row, ready, done| {
            log.submit_prepared(row, batch, ready, done);
        });
    }

    pub(super) fn store_document(&self, mut batch: DocumentBatch) {
        let (space, bytes) = (batch.space.clone(), batch.bytes);
        let entries = std::mem::take(&mut batch.entries);
        self.arrive(space, bytes, entries, |log, row, ready, done| {
            log.submit_document(row, batch, ready, done);
        });
    }

    /// Prepares entries for their transaction, in their turn, and submits them.
    fn arrive(
        &self,
        space: SpaceName,
        bytes: usize,
        entries: Vec<Incoming>,
        submit: impl FnOnce(&LocalLog, SpaceRow, Ready, ReceiveDone) + Send + 'static,
    ) {
        let Some(row) = self.row(&space) else { return };
        let short = !entries.iter().any(is_snapshot);
        let (done, gate) = (self.received(space, row, bytes), self.arrivals.gate(self.connection));
        let log = self.log.clone();
        self.arrivals.run(self.connection, short, move || match log.prepare(row, entries) {
            Ok(ready) => gate.pass(|| submit(&log, row, ready, done)),
            Err(error) => done(Err(WriteError::Job(ReceiveError::Prepare(Box::new(error))))),
        });
    }

    /// The completion of every write of received entries: publishes them, then notifies the machine.
    fn received(&self, space: SpaceName, row: SpaceRow, bytes: usize) -> ReceiveDone {
        let (publisher, pending_reply) = (self.publisher(), self.pending_reply(row, bytes));
        Box::new(move |result| {
            let outcome = match result {
                Ok(received) => {
                    publisher.received(&space, row, received);
                    Outcome::Stored(space)
                }
                Err(error) => failed(&publisher.store, &error),
            };
            pending_reply.give(outcome);
        })
    }

    pub(super) fn store_part(&self, space: SpaceName, part: SnapshotPart) {
        let Some(row) = self.row(&space) else { return };
        // The same weight as in the machine.
        let bytes = part.bytes.len() + PART_WEIGHT;
        let (store, pending_reply) = (Arc::clone(&self.store), self.pending_reply(row, bytes));
        let done = move |result: Result<Committed<()>, WriteError<ReceiveError>>| {
            let outcome = match result {
                Ok(_) => Outcome::Stored(space),
                Err(error) => failed(&store, &error),
            };
            pending_reply.give(outcome);
        };
        let (log, gate) = (self.log.clone(), self.arrivals.gate(self.connection));
        self.arrivals.run(self.connection, true, move || {
            gate.pass(|| log.submit_part(row, part, done));
        });
    }

    pub(super) fn finish_comparison(
        &self,
        space: SpaceName,
        cursor: Option<Cursor>,
        through: Local,
        except: Vec<DocumentId>,
    ) {
        let Some(row) = self.row(&space) else { return };
        let (store, pending_reply) = (Arc::clone(&self.store), self.pending_reply(row, 0));
        let done = move |result: Result<Committed<_>, WriteError<_>>| {
            let outcome = match result {
                Ok(_) => Outcome::Compared(space),
                Err(error) => failed(&store, &error),
            };
            pending_reply.give(outcome);
        };
        let (log, gate) = (self.log.clone(), self.arrivals.gate(self.connection));
        self.arrivals.run(self.connection, true, move || {
            gate.pass(|| {
                log.submit_finish_comparison(row, cursor, through, except, Box::new(done));
            });
        });
    }
}

/// Whether it must be opened before it is written.
fn is_snapshot(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Snapshot { .. })
}
