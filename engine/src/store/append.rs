//! Appending what was made here: admitted, logged, one transaction.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use landfall_protocol::DocumentId;
use landfall_protocol::admission::{CheckedChange, HistoryError, Roots, Verdict};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::Connection;

use super::indexes::Indexes;
use super::ledger::Ledger;
use super::{DocumentRow, LocalLog, SpaceCount, SpaceRow, UpstreamRow, count};

/// A change that was made here.
#[derive(Debug, Clone)]
pub(crate) struct LocalChange {
    pub(crate) space: SpaceRow,
    pub(crate) document: DocumentId,
    pub(crate) change: CheckedChange,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

/// Why it was not appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("the change does not fit the document's history: {0}")]
    History(#[from] HistoryError),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// What was appended.
#[derive(Debug)]
pub(crate) struct Appended {
    /// Where each change went.
    pub(crate) places: Vec<(DocumentRow, u64)>,
    /// The spaces that they went to, as they are now.
    pub(crate) counts: Vec<(SpaceRow, SpaceCount)>,
}

impl LocalLog {
    /// Appends changes in one transaction: all or none. A change that is there already (a named
    /// document's first one) is not appended twice. `committed` is called on the writer thread,
    /// in the order of the commits, before this returns.
    pub(crate) fn append(
        &self,
        durability: Durability,
        changes: Vec<LocalChange>,
        committed: impl FnOnce(&Committed<Appended>) + Send + 'static,
    ) -> Result<Committed<Appended>, WriteError<AppendError>> {
        let (whose, indexes) = (self.whose, Arc::clone(&self.indexes));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let done = move |result: Result<Committed<Appended>, WriteError<AppendError>>| {
            if let Ok(appended) = &result {
                committed(appended);
            }
            // Whoever waits for this is below; nobody else can have gone.
            let _ = tell.send(result);
        };
        let job =
            move |tx: &rusqlite::Transaction<'_>| append(tx, &indexes, whose.row(tx)?, &changes);
        self.db.submit(durability, job, done);
        told.recv().unwrap_or(Err(WriteError::Closed))
    }
}

fn append(
    conn: &Connection,
    indexes: &Indexes,
    upstream: Option<UpstreamRow>,
    changes: &[LocalChange],
) -> Result<Appended, AppendError> {
    let mut appended = Appended { places: Vec::with_capacity(changes.len()), counts: Vec::new() };
    let mut ledgers: BTreeMap<SpaceRow, Ledger<'_>> = BTreeMap::new();
    for local in changes {
        let ledger = match ledgers.entry(local.space) {
            Entry::Occupied(ledger) => ledger.into_mut(),
            Entry::Vacant(place) => place.insert(Ledger::new(conn, indexes, local.space)?),
        };
        let LocalChange { document, change, at_ms, .. } = local;
        let place = match ledger.admit(document, change, Roots::One)?? {
            Verdict::Duplicate(known) => known.position.0,
            Verdict::New => ledger.append(*document, change, None, *at_ms)?,
        };
        appended.places.push((ledger.row(document)?, place));
    }
    for (space, ledger) in ledgers {
        ledger.finish()?;
        appended.counts.push((space, count(conn, upstream, space)?));
    }
    Ok(appended)
}
