//! Merges whole documents from clients with the stored ones: uploaded snapshots, and chunks of automerge-repo
//! clients.

use std::sync::Arc;
use std::time::Instant;

use landfall_compaction::{Absorbed, Compacted, JobKind, NewContent, Supervisor, WorkerError};
use landfall_protocol::admission::preflight;
use landfall_protocol::relay::Snapshot;

use super::worker::{Worker, give};
use super::{Chunks, MergeError, MergeOutcome, Merged, Upload};

impl Worker {
    /// Merges an uploaded snapshot with the stored document. If the two exceed the size limit, the new
    /// changes of the upload become single changes.
    pub(crate) fn merge(&self, upload: &Upload) -> Result<MergeOutcome, MergeError> {
        let Some(supervisor) = &self.supervisor else { return Err(MergeError::NoWorker) };
        let began = Instant::now();
        let merged = self.merge_with(supervisor, upload);
        let outcome = match &merged {
            Ok(MergeOutcome::TooLarge(_)) => "oversized",
            Ok(_) => "compacted",
            Err(_) => "failed",
        };
        self.metrics.compacted(outcome, began.elapsed());
        merged
    }

    /// The new changes of an uploaded snapshot of `theirs` changes, as single changes.
    fn merge_as_changes(&self, upload: &Upload, theirs: u64) -> Result<MergeOutcome, MergeError> {
        let (space, document) = (upload.space.clone(), upload.document);
        let chunks = Chunks { space, document, parts: vec![Arc::clone(&upload.bytes)] };
        match self.absorb(&chunks)? {
            // The stored document has changes, and the upload has none of them.
            MergeOutcome::Changes(changes) if changes.len() as u64 == theirs => {
                Err(MergeError::Unrelated)
            }
            MergeOutcome::Changes(changes) => Ok(MergeOutcome::TooLarge(changes)),
            brought => Ok(brought),
        }
    }

    /// One child opens the uploaded snapshot and merges it.
    fn merge_with(
        &self,
        supervisor: &Supervisor,
        upload: &Upload,
    ) -> Result<MergeOutcome, MergeError> {
        let worker = MergeError::Worker;
        let (hash, heads) = (upload.hash, upload.heads.clone());
        let mut job = supervisor.start(JobKind::Merge { hash, heads }).map_err(worker)?;
        let theirs = job.part(&upload.bytes).and_then(|()| job.sound()).map_err(worker)?;
        let (mut held, mut failed) = (false, None);
        let mut sink = |input| {
            held = true;
            give(&mut job, input, &mut failed)
        };
        let whole = self.store.document_bases(&upload.space, &upload.document, &mut sink);
        let whole = whole.map_err(MergeError::Store)?;
        if let Some(error) = failed {
            // The worker's own error explains more than a broken pipe.
            return Err(worker(job.finish().err().unwrap_or(error)));
        }
        if !whole {
            return Err(MergeError::Overtaken);
        }
        let both = match job.finish() {
            // Each of the two is valid, but a snapshot of both would exceed its limits on bytes, heads or
            // budget. Admission decides on the single changes.
            Err(error @ (WorkerError::TooLarge { .. } | WorkerError::Refused { .. })) => {
                let (space, document) = (&upload.space, &upload.document);
                tracing::warn!(%space, %document, %error,
                    "cannot merge an uploaded snapshot into its document; the document still syncs");
                return self.merge_as_changes(upload, theirs);
            }
            both => snapshot_of(both.map_err(worker)?).map_err(worker)?,
        };
        match held {
            true => self.check_merge(upload, theirs, both).map(MergeOutcome::Merged),
            false => Ok(MergeOutcome::Merged(Merged::Snapshot(Arc::new(both)))),
        }
    }

    /// Checks whether the two had changes in common, and whether the merge added any.
    fn check_merge(
        &self,
        upload: &Upload,
        theirs: u64,
        both: Snapshot,
    ) -> Result<Merged, MergeError> {
        let store = MergeError::Store;
        let ours = self.store.changes_held(&upload.space, &upload.document).map_err(store)?;
        if both.changes == ours {
            return Ok(Merged::Nothing);
        }
        if both.changes == ours + theirs {
            return Err(MergeError::Unrelated);
        }
        Ok(Merged::Snapshot(Arc::new(both)))
    }

    /// The new changes in a client's chunks; all of them, or an error.
    pub(super) fn absorb(&self, chunks: &Chunks) -> Result<MergeOutcome, MergeError> {
        brought(self.open_chunks(chunks, false)?.news)
    }

    /// Has a child open a client's chunks. With `salvage`, the child returns the valid ones of them.
    pub(crate) fn open_chunks(
        &self,
        chunks: &Chunks,
        salvage: bool,
    ) -> Result<Absorbed, MergeError> {
        let Some(supervisor) = &self.supervisor else { return Err(MergeError::NoWorker) };
        let began = Instant::now();
        let opened = self.open_with(supervisor, chunks, salvage);
        let outcome = if opened.is_ok() { "compacted" } else { "failed" };
        self.metrics.compacted(outcome, began.elapsed());
        opened
    }

    fn open_with(
        &self,
        supervisor: &Supervisor,
        chunks: &Chunks,
        salvage: bool,
    ) -> Result<Absorbed, MergeError> {
        let Chunks { space, document, parts } = chunks;
        let mut job = supervisor.start(JobKind::Absorb { salvage }).map_err(MergeError::Worker)?;
        let mut failed = parts.iter().try_for_each(|part| job.part(part)).err();
        if failed.is_none() {
            let mut sink = |input| give(&mut job, input, &mut failed);
            let whole = self.store.document_bases(space, document, &mut sink);
            if !whole.map_err(MergeError::Store)? && failed.is_none() {
                return Err(MergeError::Overtaken);
            }
        }
        match failed {
            // The worker's own error explains more than a broken pipe.
            Some(error) => Err(MergeError::Worker(job.finish_absorbed().err().unwrap_or(error))),
            None => job.finish_absorbed().map_err(MergeError::Worker),
        }
    }
}

/// Converts a child's result. The child has parsed untrusted bytes, so the form of its changes is checked
/// again.
pub(crate) fn brought(news: NewContent) -> Result<MergeOutcome, MergeError> {
    match news {
        NewContent::Nothing => Ok(MergeOutcome::Merged(Merged::Nothing)),
        NewContent::Changes(changes) => {
            let checked: Result<Vec<_>, _> = changes.iter().map(|bytes| preflight(bytes)).collect();
            checked.map(MergeOutcome::Changes).map_err(|error| {
                MergeError::Worker(WorkerError::Refused { reason: error.to_string() })
            })
        }
        NewContent::Snapshot(compacted) => {
            let snapshot = snapshot_of(*compacted).map_err(MergeError::Worker)?;
            Ok(MergeOutcome::Merged(Merged::Snapshot(Arc::new(snapshot))))
        }
    }
}

pub(crate) fn snapshot_of(compacted: Compacted) -> Result<Snapshot, WorkerError> {
    let Compacted { snapshot, hash, index, .. } = compacted;
    Snapshot::new(snapshot, hash, index)
        .map_err(|error| WorkerError::Refused { reason: error.to_string() })
}
