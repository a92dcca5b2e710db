//! The embedded store's Snapshots role.

use landfall_protocol::admission::CheckedChange;
use landfall_protocol::frame::EncodedEntry;
use landfall_protocol::ring::SnapshotPart;
use landfall_protocol::snapshot::Snapshot;
use landfall_protocol::{DocumentId, Epoch, SpaceName};

use super::SqliteStore;
use crate::store::compaction::expand;
use crate::store::compaction::prune;
use crate::store::contract::Snapshots;
use crate::store::damage::condition::Operation;
use crate::store::rows::documents;
use crate::store::rows::passed::PassedOver;
use crate::store::rows::snapshots;
use crate::store::{CompactionSink, CompactionTask, CompactionWindow, StoreError, compaction};

impl Snapshots for SqliteStore {
    fn snapshot_entry(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
    ) -> Result<Option<EncodedEntry>, StoreError> {
        self.read(Operation::of_space("read a snapshot's entry", space), |conn| {
            match documents::space_row(conn, space)? {
                Some(space) => snapshots::entry(conn, space, hash),
                None => Ok(None),
            }
        })
    }

    fn snapshot_part(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
        from: u64,
    ) -> Result<Option<SnapshotPart>, StoreError> {
        self.read(Operation::of_space("read a part of a snapshot", space), |conn| {
            match documents::space_row(conn, space)? {
                Some(space) => snapshots::part(conn, &self.sums, space, hash, from),
                None => Ok(None),
            }
        })
    }

    fn document_bases(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        let what = "read all of a document";
        let task = self.read(Operation::of_document(what, space, document), |conn| {
            compaction::everything(conn, space, document)
        })?;
        match task {
            Some(task) => self.compaction_read(&task, sink),
            None => Ok(true),
        }
    }

    fn compaction_candidate(
        &self,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        let what = "find a document to compact";
        let (task, passed) = self.read(what, |conn| {
            let mut passed = PassedOver::default();
            let task = compaction::candidate(conn, now_ms, window, &mut passed)?;
            Ok((task, passed.named(conn)))
        })?;
        self.note_passed(what, passed);
        Ok(task)
    }

    fn compaction_task(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        let what = "read the state of a document to compact";
        self.read(Operation::of_document(what, space, document), |conn| {
            compaction::task(conn, space, document, now_ms, window)
        })
    }

    fn compaction_read(
        &self,
        task: &CompactionTask,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        let mut after = None;
        loop {
            // The sink may wait for a child process, so no read transaction is open while it runs.
            let batch = self.read(
                Operation::of_document("read the changes to compact", &task.space, &task.document),
                |conn| compaction::batch(conn, task, after),
            )?;
            let Some(batch) = batch else { return Ok(false) };
            for input in batch.inputs {
                if sink(input).is_break() {
                    return Ok(false);
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(true),
            }
        }
    }

    fn compaction_commit(
        &self,
        task: &CompactionTask,
        snapshot: Snapshot,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let task = task.clone();
        self.write("store a snapshot", move |tx| compaction::commit(tx, &task, &snapshot, now_ms))
    }

    fn compaction_failed(
        &self,
        task: &CompactionTask,
        version: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        let (task, version, reason) = (task.clone(), version.to_owned(), reason.to_owned());
        let what = "record a failed compaction";
        self.write(what, move |tx| compaction::failed(tx, &task, &version, &reason))
    }

    fn retry_failed_compactions(&self, version: &str) -> Result<(), StoreError> {
        let version = version.to_owned();
        self.write("schedule failed compactions again", move |tx| compaction::retry(tx, &version))
    }

    fn prune(&self, now_ms: u64, max_rows: usize) -> Result<bool, StoreError> {
        let (what, damaged) = ("delete compacted changes", self.found.documents());
        let (more, passed) = self.write(what, move |tx| {
            let mut passed = PassedOver::default();
            let more = prune::prune(tx, (now_ms, max_rows), &damaged, &mut passed)?;
            Ok((more, passed.named(tx)))
        })?;
        self.note_passed(what, passed);
        Ok(more)
    }

    fn oversized(&self, most_bytes: u64) -> Result<Vec<(SpaceName, DocumentId, u64)>, StoreError> {
        self.read("find oversized snapshots", |conn| expand::oversized(conn, most_bytes))
    }

    fn expand(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        changes: Vec<CheckedChange>,
        fresh: Epoch,
    ) -> Result<bool, StoreError> {
        let (space, document, hash) = (space.clone(), *document, *hash);
        self.write("split a snapshot into single changes", move |tx| {
            expand::expand(tx, &space, &document, &hash, changes, fresh)
        })
    }
}
