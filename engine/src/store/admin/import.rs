//! Imports changes of a portable file: admitted as local changes are, in the file's order.

use std::sync::Arc;

use landfall_protocol::DocumentId;
use landfall_protocol::admission::{CheckedChange, HistoryError, Origin, Roots, Verdict};
use landfall_storage::Durability;
use rusqlite::{Connection, params};

use crate::store::documents::deletion::{self, Tombstone};
use crate::store::log::indexes::Indexes;
use crate::store::log::log_transaction::LogTransaction;
use crate::store::log::rows::{document_row, merges, parts};
use crate::store::{LocalLog, SpaceRow, ViewError, WriteFailure};

/// A change of a portable file.
#[derive(Debug, Clone)]
pub(crate) struct ImportChange {
    pub(crate) document: DocumentId,
    pub(crate) change: CheckedChange,
    /// When it was made, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Whether the file marks it as a second root.
    pub(crate) roots: Roots,
}

/// The result of a batch of changes.
#[derive(Debug, Default)]
pub(crate) struct ImportBatch {
    /// How many of them are in the store now, including those that were there before.
    pub(crate) taken: u64,
    /// How many were there before.
    pub(crate) known: u64,
    /// Changes that were not admitted, with the reason. The others are stored all the same.
    pub(crate) refused: Vec<(ImportChange, HistoryError)>,
}

/// The result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImportDeletion {
    /// Whether the document was not deleted before.
    pub(crate) is_new: bool,
    /// Changes that the relay in use is not known to hold. They are kept as orphaned edits: the
    /// deleting replica did not know of them.
    pub(crate) kept: u64,
}

impl LocalLog {
    /// Stores the admitted changes of a batch, in one transaction.
    pub(crate) fn import_changes(
        &self,
        space: SpaceRow,
        changes: Vec<ImportChange>,
    ) -> Result<ImportBatch, WriteFailure> {
        let indexes = Arc::clone(&self.indexes);
        let job = move |tx: &rusqlite::Transaction<'_>| take(tx, &indexes, space, changes);
        self.write_in_space(Durability::Full, space, job).map(|committed| committed.value.1)
    }

    /// Deletes a document as a file states.
    pub(crate) fn import_deletion(
        &self,
        space: SpaceRow,
        document: DocumentId,
        at_ms: u64,
    ) -> Result<ImportDeletion, WriteFailure> {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let upstream = whose.row(tx)?;
            let mut log_transaction = LogTransaction::new(tx, &indexes, space)?;
            let row = log_transaction.row(&document)?;
            let pending =
                crate::store::upstream::pending::pending_of_document(tx, upstream, space, row)?;
            let tombstone = Tombstone { author: None, at_ms, from: None, unaware: pending.changes };
            let kept = deletion::delete(&mut log_transaction, &document, &tombstone)?;
            log_transaction.finish()?;
            Ok(ImportDeletion { is_new: kept.is_some(), kept: kept.unwrap_or_default() })
        };
        self.write_in_space(Durability::Full, space, job).map(|committed| committed.value.1)
    }

    /// Whether a file's document with several roots may be added to the document here: nothing is here,
    /// it has one of the roots, or the application has asked to merge unrelated histories.
    pub(crate) fn takes_roots(
        &self,
        space: SpaceRow,
        document: &DocumentId,
        roots: &[landfall_protocol::ChangeHash],
    ) -> Result<bool, ViewError> {
        let indexes = Arc::clone(&self.indexes);
        self.view(|conn| {
            let Some(row) = document_row(conn, space, document)? else { return Ok(true) };
            if parts(conn, row)?.changes() == 0 || merges(conn, space, document)? {
                return Ok(true);
            }
            let log_transaction = LogTransaction::new(conn, &indexes, space)?;
            for root in roots {
                if log_transaction.knows(document, root)? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

fn take(
    conn: &Connection,
    indexes: &Indexes,
    space: SpaceRow,
    changes: Vec<ImportChange>,
) -> rusqlite::Result<ImportBatch> {
    let mut batch = ImportBatch::default();
    let mut log_transaction = LogTransaction::new(conn, indexes, space)?;
    for item in changes {
        let ImportChange { document, change, at_ms, roots } = &item;
        let is_root = change.dependencies.is_empty();
        let roots = match is_root && merges(conn, space, document)? {
            true => Roots::Several,
            false => *roots,
        };
        match log_transaction.admit(document, change, roots, Origin::Received)? {
            Ok(Verdict::Duplicate(_)) => {
                batch.taken += 1;
                batch.known += 1;
            }
            Ok(Verdict::New) => {
                log_transaction.append(*document, change, None, *at_ms)?;
                batch.taken += 1;
            }
            Err(error) => {
                batch.refused.push((item, error));
                continue;
            }
        }
        if is_root && roots == Roots::Several {
            // The outbox marks second roots of such documents, or the relay would reject them.
            let row = log_transaction.row(document)?;
            conn.prepare_cached("UPDATE document SET merges = 1 WHERE id = ?1 AND merges = 0")?
                .execute(params![row.0])?;
        }
    }
    log_transaction.finish()?;
    Ok(batch)
}
