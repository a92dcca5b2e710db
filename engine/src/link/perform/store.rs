//! What arrives, into the store: batches, pieces of snapshots, fetched documents.

use std::sync::Arc;

use landfall_protocol::replica::{Batch, DocumentBatch, Incoming};
use landfall_protocol::{Cursor, DocumentId, Local, SpaceName};
use landfall_storage::{Committed, WriteError};

use super::{Completion, Outcome, Performer, chain, count_space};
use crate::store::{ReceiveError, Received, SnapshotPart};

type ReceivedResult = Result<Committed<Received>, WriteError<ReceiveError>>;

impl Performer {
    pub(super) fn store(&self, mut batch: Batch) {
        let Some(row) = self.row(&batch.space) else { return };
        let (space, bytes) = (batch.space.clone(), batch.bytes);
        let entries = std::mem::take(&mut batch.entries);
        let short = !entries.iter().any(is_snapshot);
        let (done, gate) = (self.received(space, bytes), self.arrivals.gate(self.connection));
        let log = self.core.log.clone();
        self.arrivals.run(self.connection, short, move || match log.prepare(row, entries) {
            Ok(ready) => gate.pass(|| log.submit_prepared(row, batch, ready, done)),
            Err(error) => done(Err(WriteError::Job(ReceiveError::Prepare(Box::new(error))))),
        });
    }

    pub(super) fn store_document(&self, mut batch: DocumentBatch) {
        let Some(row) = self.row(&batch.space) else { return };
        let (space, bytes) = (batch.space.clone(), batch.bytes);
        let entries = std::mem::take(&mut batch.entries);
        let short = !entries.iter().any(is_snapshot);
        let (done, gate) = (self.received(space, bytes), self.arrivals.gate(self.connection));
        let log = self.core.log.clone();
        self.arrivals.run(self.connection, short, move || match log.prepare(row, entries) {
            Ok(ready) => gate.pass(|| log.submit_document(row, batch, ready, done)),
            Err(error) => done(Err(WriteError::Job(ReceiveError::Prepare(Box::new(error))))),
        });
    }

    /// What every finished write of arrivals does: tell the core, then the machine.
    fn received(
        &self,
        space: SpaceName,
        bytes: usize,
    ) -> impl FnOnce(ReceivedResult) + Send + 'static {
        let (core, tell, connection) = (Arc::clone(&self.core), self.tell.clone(), self.connection);
        let row = self.row(&space);
        move |result| {
            let outcome = match (result, row) {
                (Ok(received), Some(row)) => {
                    core.received(&space, row, received);
                    Outcome::Stored(space, bytes)
                }
                (Ok(_), None) => return,
                (Err(error), _) => Outcome::Failed(chain(&error)),
            };
            // A link that is gone needs no outcome.
            let _ = tell.send(Completion { connection, outcome });
        }
    }

    pub(super) fn store_part(&self, space: SpaceName, part: SnapshotPart) {
        let Some(row) = self.row(&space) else { return };
        // As the machine weighs it.
        let bytes = part.bytes.len() + 256;
        let (tell, connection) = (self.tell.clone(), self.connection);
        let done = move |result: Result<Committed<()>, WriteError<ReceiveError>>| {
            let outcome = match result {
                Ok(_) => Outcome::Stored(space, bytes),
                Err(error) => Outcome::Failed(chain(&error)),
            };
            let _ = tell.send(Completion { connection, outcome });
        };
        let (log, gate) = (self.core.log.clone(), self.arrivals.gate(connection));
        self.arrivals.run(connection, true, move || {
            gate.pass(|| log.submit_part(row, part, done));
        });
    }

    pub(super) fn finish_reconcile(
        &self,
        space: SpaceName,
        cursor: Option<Cursor>,
        through: Local,
        except: Vec<DocumentId>,
    ) {
        let Some(row) = self.row(&space) else { return };
        let (core, tell, connection) = (Arc::clone(&self.core), self.tell.clone(), self.connection);
        let done = move |result: Result<Committed<_>, WriteError<_>>| {
            let outcome = match result {
                Ok(Committed { value: (count, ()), number }) => {
                    count_space(&core, row, count, number.0);
                    Outcome::Reconciled(space)
                }
                Err(error) => Outcome::Failed(chain(&error)),
            };
            let _ = tell.send(Completion { connection, outcome });
        };
        let (log, gate) = (self.core.log.clone(), self.arrivals.gate(connection));
        self.arrivals.run(connection, true, move || {
            gate.pass(|| {
                log.submit_finish_reconcile(row, cursor, through, except, Box::new(done));
            });
        });
    }
}

/// Whether it must be opened before it is written.
fn is_snapshot(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Snapshot { .. })
}
