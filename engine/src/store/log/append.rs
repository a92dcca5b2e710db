//! Appends local changes: admitted and logged in one transaction.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use landfall_protocol::DocumentId;
use landfall_protocol::admission::{CheckedChange, HistoryError, Origin, Roots, Verdict};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::Connection;

use super::indexes::Indexes;
use super::log_transaction::LogTransaction;
use super::rows::{document_row, parts};
use crate::store::{DocumentRow, LocalLog, SpaceCount, SpaceRow, ViewError};

/// A local change.
#[derive(Debug, Clone)]
pub(crate) struct LocalChange {
    pub(crate) space: SpaceRow,
    pub(crate) document: DocumentId,
    pub(crate) change: CheckedChange,
    /// When it was made, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

/// Why a change was not appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("the change does not fit the document's history: {0}")]
    History(#[from] HistoryError),
    /// With the change the document would exceed the size for local changes.
    #[error("document {document} would have {bytes} bytes, the limit for local changes is {limit}")]
    DocumentTooLarge { document: DocumentId, bytes: u64, limit: u64 },
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// The result of an append.
#[derive(Debug)]
pub(crate) struct Appended {
    /// The row and local number of each change.
    pub(crate) places: Vec<(DocumentRow, u64)>,
    /// The spaces of the changes, with their new counts.
    pub(crate) counts: Vec<(SpaceRow, SpaceCount)>,
}

impl LocalLog {
    /// As [`LocalLog::append_up_to`], without a size limit.
    #[cfg(test)]
    pub(crate) fn append(
        &self,
        durability: Durability,
        changes: Vec<LocalChange>,
        committed: impl FnOnce(&Committed<Appended>) + Send + 'static,
    ) -> Result<Committed<Appended>, WriteError<AppendError>> {
        self.append_up_to(u64::MAX, durability, changes, committed)
    }

    /// Appends changes in one transaction: all or none. A change that is already there (a named
    /// document's first one) is not appended twice. `committed` is called on the writer thread, in the
    /// order of the commits, before this returns. Nothing is appended if a document would exceed
    /// `most_bytes`.
    pub(crate) fn append_up_to(
        &self,
        most_bytes: u64,
        durability: Durability,
        changes: Vec<LocalChange>,
        committed: impl FnOnce(&Committed<Appended>) + Send + 'static,
    ) -> Result<Committed<Appended>, WriteError<AppendError>> {
        let indexes = Arc::clone(&self.indexes);
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let done = move |result: Result<Committed<(AppendedRows, _)>, WriteError<AppendError>>| {
            let result = result.map(|Committed { value: (places, counts), number }| Committed {
                value: Appended { places, counts },
                number,
            });
            if let Ok(appended) = &result {
                committed(appended);
            }
            // The receiver waits below, so sending cannot fail.
            let _ = sender.send(result);
        };
        let job = move |tx: &rusqlite::Transaction<'_>| append(tx, &indexes, &changes, most_bytes);
        self.submit_reported(durability, job, done);
        receiver.recv().unwrap_or(Err(WriteError::Closed))
    }
}

#[cfg(test)]
impl LocalLog {
    /// Appends changes one by one on another connection, as a commit does, with the report, and rolls
    /// back. Returns how many operations of SQLite's virtual machine each took.
    pub(crate) fn operations_of(
        &self,
        path: &std::path::Path,
        changes: Vec<LocalChange>,
    ) -> Result<Vec<u64>, AppendError> {
        let (conn, operations) = crate::store::counting::connection(path)?;
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let mut costs = Vec::with_capacity(changes.len());
        for change in changes {
            let before = operations();
            let (_, spaces) = append(&conn, &self.indexes, &[change], u64::MAX)?;
            spaces.into_iter().try_for_each(|space| self.reports.try_draft(&conn, space))?;
            costs.push(operations() - before);
        }
        conn.execute_batch("ROLLBACK")?;
        Ok(costs)
    }
}

/// The row and local number of each change.
type AppendedRows = Vec<(DocumentRow, u64)>;

impl LocalLog {
    /// The bytes of a document, as the limits count them; 0 if the store has no change of it.
    pub(crate) fn bytes_of(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<u64, ViewError> {
        self.view(|conn| match document_row(conn, space, document)? {
            Some(row) => Ok(parts(conn, row)?.document_bytes()),
            None => Ok(0),
        })
    }
}

fn append(
    conn: &Connection,
    indexes: &Indexes,
    changes: &[LocalChange],
    most_bytes: u64,
) -> Result<(AppendedRows, Vec<SpaceRow>), AppendError> {
    let mut places = Vec::with_capacity(changes.len());
    let mut ledgers: BTreeMap<SpaceRow, LogTransaction<'_>> = BTreeMap::new();
    for local in changes {
        let log_transaction = match ledgers.entry(local.space) {
            Entry::Occupied(log_transaction) => log_transaction.into_mut(),
            Entry::Vacant(place) => place.insert(LogTransaction::new(conn, indexes, local.space)?),
        };
        let LocalChange { document, change, at_ms, .. } = local;
        let place = match log_transaction.admit(document, change, Roots::One, Origin::Local)?? {
            Verdict::Duplicate(known) => known.position.0,
            Verdict::New => {
                let place = log_transaction.append(*document, change, None, *at_ms)?;
                let bytes = log_transaction.document_bytes(document);
                if bytes > most_bytes {
                    let (document, limit) = (*document, most_bytes);
                    return Err(AppendError::DocumentTooLarge { document, bytes, limit });
                }
                place
            }
        };
        places.push((log_transaction.row(document)?, place));
    }
    let spaces = ledgers.keys().copied().collect();
    ledgers.into_values().try_for_each(LogTransaction::finish)?;
    Ok((places, spaces))
}
