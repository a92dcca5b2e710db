//! `compact`: compacts documents that are due, or all, deletes the dead rows, and shrinks the file.

use std::path::Path;
use std::sync::Arc;

use landfall_protocol::{DocumentId, SpaceName};

use super::{AdminError, must_have_store};
use crate::clock::now_ms;
use crate::compaction::{CompactionFailure, CompactionOptions, VERSION, Worker};
use crate::limits;
use crate::metrics::Metrics;
use crate::store::admin::copies::Seized;
use crate::store::admin::inspect::DocumentReport;
use crate::store::{CompactionTask, CompactionWindow, Inspection, Log, Snapshots, SqliteStore};

/// Documents whose rows are read at a time.
const PAGE: usize = 1_000;

/// Which documents to compact.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompactOptions {
    /// Only this space.
    pub(crate) space: Option<SpaceName>,
    /// Only this document of it.
    pub(crate) document: Option<DocumentId>,
    /// Including documents that are not due, and the newest changes.
    pub(crate) all: bool,
}

/// The result.
#[derive(Debug, Default)]
pub(crate) struct CompactionReport {
    /// Documents that were compacted.
    pub(crate) compacted: u64,
    /// Changes that their snapshots replace.
    pub(crate) changes: u64,
    /// Documents that could not be compacted, and why; they are unchanged.
    pub(crate) failed: Vec<(SpaceName, DocumentId, String)>,
    /// Bytes of the store before and after.
    pub(crate) before: u64,
    /// See `before`.
    pub(crate) after: u64,
}

/// Compacts the store of a data folder that no relay uses.
pub(crate) fn compact(
    data: &Path,
    options: &CompactOptions,
    compactions: CompactionOptions,
) -> Result<CompactionReport, AdminError> {
    must_have_store(data)?;
    let store = Arc::new(SqliteStore::open(data)?);
    let before = store.size_bytes()?;
    let compacted = compact_documents(&store, options, compactions);
    // The first error is the one returned.
    let closed = store.close();
    let mut compacted = compacted?;
    closed?;
    drop(store);
    Seized::take(data)?.rewrite().map_err(AdminError::Rewrite)?;
    (compacted.before, compacted.after) = (before, Inspection::open(data)?.store()?.bytes);
    Ok(compacted)
}

fn compact_documents(
    store: &Arc<SqliteStore>,
    options: &CompactOptions,
    mut compactions: CompactionOptions,
) -> Result<CompactionReport, AdminError> {
    if options.all {
        compactions.window = CompactionWindow::NONE;
    }
    let window = compactions.window;
    let worker = Worker::new(store.clone(), Arc::new(Metrics::new()), compactions);
    if worker.supervisor().is_none() {
        return Err(AdminError::NoWorker);
    }
    let inspection = store.inspection();
    let mut compacted = CompactionReport::default();
    let mut each = |space: &SpaceName, document: &DocumentReport| {
        let is_wanted = document.compaction_due || (options.all && document.tail_changes > 0);
        if !is_wanted {
            return Ok(());
        }
        let task = store.compaction_task(space, &document.document, now_ms(), window)?;
        task.map_or(Ok(()), |task| compact_one(store, &worker, &task, &mut compacted))
    };
    match (&options.space, &options.document) {
        (Some(space), Some(document)) => {
            let found = inspection.document(space, document)?;
            let missing = || AdminError::NoDocument(space.clone(), *document);
            each(space, &found.ok_or_else(missing)?)?;
        }
        (only, _) => {
            let spaces: Vec<SpaceName> =
                inspection.store()?.spaces.into_iter().map(|report| report.space).collect();
            if let Some(only) = only.as_ref().filter(|only| !spaces.contains(only)) {
                return Err(AdminError::NoSpace(only.clone()));
            }
            let is_wanted = |space: &&SpaceName| only.as_ref().is_none_or(|only| only == *space);
            for space in spaces.iter().filter(is_wanted) {
                every(&inspection, space, &mut |document| each(space, document))?;
            }
        }
    }
    // No session is connected, so no reader needs a replaced snapshot.
    while store.prune(u64::MAX, limits::PRUNE_ROWS)? {}
    Ok(compacted)
}

/// Calls `each` for each document of a space.
fn every(
    inspection: &Inspection,
    space: &SpaceName,
    each: &mut dyn FnMut(&DocumentReport) -> Result<(), AdminError>,
) -> Result<(), AdminError> {
    let mut after = None;
    loop {
        let page = inspection.documents(space, after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.document);
        page.iter().try_for_each(&mut *each)?;
    }
}

fn compact_one(
    store: &SqliteStore,
    worker: &Worker,
    task: &CompactionTask,
    compacted: &mut CompactionReport,
) -> Result<(), AdminError> {
    let Some(supervisor) = worker.supervisor() else { return Err(AdminError::NoWorker) };
    match worker.compact(supervisor, task, || true) {
        Ok(Some(changes)) => {
            compacted.compacted += 1;
            compacted.changes += changes;
        }
        Ok(None) => {}
        Err(CompactionFailure::Store(error)) => return Err(error.into()),
        // The error is not about the document; the relay compacts it later.
        Err(CompactionFailure::Worker(error)) if error.is_no_worker() => {
            compacted.failed.push((task.space.clone(), task.document, error.to_string()));
        }
        Err(CompactionFailure::Worker(error)) => {
            let reason = error.to_string();
            store.compaction_failed(task, VERSION, &reason)?;
            compacted.failed.push((task.space.clone(), task.document, reason));
        }
    }
    Ok(())
}
