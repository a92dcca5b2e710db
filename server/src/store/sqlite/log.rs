//! The embedded store's Log role.

use std::sync::Arc;

use landfall_protocol::access::View;
use landfall_protocol::admission::History;
use landfall_protocol::frame::Partial;
use landfall_protocol::relay::{Chunk, Commit, Lineage, StoreFailure};
use landfall_protocol::{Offset, SpaceName, Upstream};
use landfall_storage::{Durability, WriteError};
use parking_lot::Mutex;

use super::SqliteStore;
use crate::limits;
use crate::store::contract::Log;
use crate::store::damage::condition::Operation;
use crate::store::log::append;
use crate::store::log::read;
use crate::store::lookups::history::SpaceView;
use crate::store::rows::checked::{self};
use crate::store::rows::documents;
use crate::store::{Done, StoreError};

impl Log for SqliteStore {
    fn upstream(&self) -> Upstream {
        self.upstream
    }

    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError> {
        // The hub waits for this read, so it must not queue behind reads of sessions.
        self.read_for_hub(space, "read a space's lineage", |conn| read::lineage(conn, space))
    }

    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        self.read_for_hub(space, "read a space's history", |conn| {
            ask(&SpaceView::new(conn, space, &self.indexes, &self.found)?);
            Ok(())
        })
    }

    fn look_up(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        self.read(
            Operation::of_space("look up the changes and dependencies of a push", space),
            |conn| {
                ask(&SpaceView::new(conn, space, &self.indexes, &self.found)?);
                Ok(())
            },
        )
    }

    fn next(
        &self,
        space: &SpaceName,
        after: Offset,
        view: &View,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError> {
        let operation = Operation::of_space("read a page of a log", space);
        // Checked once per log, whatever the outcome: an error is recorded, and readable entries are served.
        let _ = self.read(operation, |conn| match documents::space_row(conn, space)? {
            Some(row) if self.logs.is_first((row, 0)) => checked::log(conn, row),
            _ => Ok(()),
        });
        let mut damage = Vec::new();
        let chunk = self.read(operation, |conn| {
            read::next(conn, space, after, view, partial, (&self.sums, &mut damage))
        });
        self.note_damage(operation, damage);
        chunk
    }

    fn append(&self, commit: Arc<Commit>, done: Done) {
        let what = "append to a log";
        // The document at which the commit failed.
        let failed_at = Arc::new(Mutex::new(None));
        let (note_at, found, space) =
            (Arc::clone(&failed_at), Arc::clone(&self.found), commit.space.clone());
        let on_commit = move |result: Result<_, WriteError<rusqlite::Error>>| {
            let failed = |error| {
                let error = StoreError::of_write(what, error);
                let at = *failed_at.lock();
                match at {
                    // The hub reports all other failures.
                    _ if error.failure != StoreFailure::Damaged => error,
                    Some(document) => {
                        found.note(Operation::of_document(what, &space, &document), error)
                    }
                    None => found.note(Operation::of_space(what, &space), error),
                }
            };
            done(result.map(drop).map_err(failed));
        };
        let job = move |tx: &rusqlite::Transaction<'_>| {
            append::append(tx, &commit, &mut |document| *note_at.lock() = Some(document))
        };
        self.db.submit(Durability::Full, job, on_commit);
    }

    fn probe(&self, done: Done) {
        let job = |tx: &rusqlite::Transaction<'_>| {
            tx.prepare_cached("INSERT INTO probe (filler) VALUES (zeroblob(?1))")?
                .execute([limits::PROBE_BYTES as i64])?;
            tx.prepare_cached("DELETE FROM probe")?.execute([])?;
            Ok(())
        };
        let on_commit = |result: Result<_, WriteError<rusqlite::Error>>| {
            done(result.map(drop).map_err(|error| StoreError::of_write("write a probe", error)));
        };
        self.db.submit(Durability::Full, job, on_commit);
    }

    fn close(&self) -> Result<(), StoreError> {
        // The store is closed even if there is no room to save the condition.
        let _ = self.keep_new_condition();
        *self.admission.lock() = None;
        self.db.close().map_err(|error| StoreError::new("close cleanly", error.class(), error))
    }
}
