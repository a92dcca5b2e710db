//! `delete`: deletes documents of a space permanently, in a store that no relay uses. Clients receive it like
//! a deletion by one of them.

use std::path::Path;
use std::sync::Arc;

use landfall_protocol::{DocumentId, SpaceName};

use super::writing::{SpaceWriter, WriteCounts};
use super::{AdminError, must_have_store};
use crate::clock::now_ms;
use crate::compaction::CompactionOptions;
use crate::store::{Inspection, Log, SqliteStore};

/// Documents per read.
const PAGE: usize = 1_000;

/// Deletes documents of a space; all of them if none is named. If a named one does not exist, nothing is
/// deleted.
pub(crate) fn delete(
    data: &Path,
    space: &SpaceName,
    documents: Vec<DocumentId>,
) -> Result<WriteCounts, AdminError> {
    must_have_store(data)?;
    let store = Arc::new(SqliteStore::open(data)?);
    let deleted = chosen(&store.inspection(), space, documents)
        .and_then(|documents| delete_from(&store, space, documents));
    // The first error is the one returned.
    let closed = store.close();
    let deleted = deleted?;
    closed?;
    Ok(deleted)
}

fn chosen(
    inspection: &Inspection,
    space: &SpaceName,
    documents: Vec<DocumentId>,
) -> Result<Vec<DocumentId>, AdminError> {
    if !inspection.store()?.spaces.iter().any(|report| report.space == *space) {
        return Err(AdminError::NoSpace(space.clone()));
    }
    if documents.is_empty() {
        return all_of(inspection, space);
    }
    for document in &documents {
        if inspection.document(space, document)?.is_none() {
            return Err(AdminError::NoDocument(space.clone(), *document));
        }
    }
    Ok(documents)
}

fn all_of(inspection: &Inspection, space: &SpaceName) -> Result<Vec<DocumentId>, AdminError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = inspection.documents(space, after, PAGE)?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some(last.document);
        let there = page.iter().filter(|report| report.deleted_at.is_none());
        all.extend(there.map(|report| report.document));
    }
}

fn delete_from(
    store: &Arc<SqliteStore>,
    space: &SpaceName,
    documents: Vec<DocumentId>,
) -> Result<WriteCounts, AdminError> {
    let mut writing = SpaceWriter::begin(store, space.clone(), CompactionOptions::default())?;
    for chunk in documents.chunks(PAGE) {
        for document in chunk {
            writing.document = *document;
            writing.tombstone(now_ms(), Vec::new())?;
        }
        writing.flush()?;
    }
    Ok(writing.done)
}
