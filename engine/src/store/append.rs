//! Appending what was made here: admitted, logged, one transaction.

use landfall_protocol::DocumentId;
use landfall_protocol::Offset;
use landfall_protocol::admission::{CheckedChange, HistoryError, Layered, Overlay, Verdict, admit};
use landfall_storage::{Committed, Durability, WriteError};
use rusqlite::Connection;

use super::rows::{
    NewChange, StoredHistory, advance_heads, document_row_or_new, heads, insert_change, set_heads,
    set_space_totals, space_totals,
};
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
        let upstream = self.upstream();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let done = move |result: Result<Committed<Appended>, WriteError<AppendError>>| {
            if let Ok(appended) = &result {
                committed(appended);
            }
            // Whoever waits for this is below; nobody else can have gone.
            let _ = tell.send(result);
        };
        self.db.submit(durability, move |tx| append(tx, upstream, &changes), done);
        told.recv().unwrap_or(Err(WriteError::Closed))
    }
}

fn append(
    conn: &Connection,
    upstream: Option<UpstreamRow>,
    changes: &[LocalChange],
) -> Result<Appended, AppendError> {
    let mut appended = Appended { places: Vec::with_capacity(changes.len()), counts: Vec::new() };
    let overlay = Overlay::default();
    for local in changes {
        let stored = StoredHistory { conn, space: local.space };
        let history = Layered { overlay: &overlay, stored: &stored };
        let verdict = admit(&history, &local.document, &local.change)??;
        let document = document_row_or_new(conn, local.space, &local.document)?;
        let place = match verdict {
            Verdict::Duplicate(known) => known.position,
            Verdict::New => insert(conn, document, local)?,
        };
        appended.places.push((document, place.0));
        if !appended.counts.iter().any(|(space, _)| *space == local.space) {
            appended.counts.push((local.space, SpaceCount::default()));
        }
    }
    for (space, totals) in &mut appended.counts {
        *totals = count(conn, upstream, *space)?;
    }
    Ok(appended)
}

fn insert(
    conn: &Connection,
    document: DocumentRow,
    local: &LocalChange,
) -> rusqlite::Result<Offset> {
    let mut totals = space_totals(conn, local.space)?;
    totals.changes += 1;
    totals.bytes += local.change.bytes.len() as u64;
    insert_change(
        conn,
        &NewChange {
            space: local.space,
            local: totals.changes,
            document,
            change: &local.change,
            author: None,
            at_ms: local.at_ms,
        },
    )?;
    let before = heads(conn, document)?;
    let mut after = before.clone();
    advance_heads(&mut after, &local.change);
    set_heads(conn, document, &before, &after)?;
    set_space_totals(conn, local.space, totals)?;
    Ok(Offset(totals.changes))
}
