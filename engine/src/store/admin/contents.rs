//! Reads everything: of a store, as a copy of its file; of a space, as the records of a portable file.

use std::ops::ControlFlow;
use std::path::Path;

use landfall_protocol::frame::entry_flags;
use landfall_protocol::portable::Record;
use landfall_protocol::{DocumentId, limits};
use landfall_storage::{BackupError, Database, Options};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::log::indexes::unreadable;
use crate::store::log::rows::{DocumentRow, SpaceRow, merges, parts};
use crate::store::log::snapshots;
use crate::store::schema::SCHEMA;
use crate::store::{LocalLog, ViewError};

/// Receives records, and can stop the reading.
pub(crate) type RecordSink<'a> = dyn FnMut(Record) -> ControlFlow<()> + 'a;

const DOCUMENTS: &str = "SELECT id, document,
        EXISTS (SELECT 1 FROM deleted WHERE deleted.document = document.id)
    FROM document WHERE space = ?1 ORDER BY document.document";

impl LocalLog {
    /// Copies a store's file, also beside the process that writes it. The copy is fsynced and checked
    /// before it gets its name.
    pub(crate) fn copy_file(source: &Path, target: &Path) -> Result<(), BackupError> {
        Database::copy_file(source, target, &SCHEMA, &Options::default()).map(drop)
    }

    /// Returns all documents of a space by id, each as the records of a portable file that follow its
    /// name, from one snapshot of the store. Local changes have this replica as their author.
    pub(crate) fn contents(
        &self,
        row: SpaceRow,
        sink: &mut RecordSink<'_>,
    ) -> Result<(), ViewError> {
        let own = self.replica.as_bytes().to_vec();
        self.view(|conn| {
            let mut find = conn.prepare(DOCUMENTS)?;
            let mut rows = find.query([row.0])?;
            while let Some(found) = rows.next()? {
                let place = place(found)?;
                let flags =
                    if merges(conn, row, &place.id)? { entry_flags::SECOND_ROOT } else { 0 };
                if document(conn, &place, flags, &own, sink)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// Why the store keeps changes of a document that are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutsideReason {
    /// Orphaned edits of a deleted document, which no relay is known to hold:
    /// [`Space::export_orphaned`](crate::Space::export_orphaned) exports them.
    OrphanedEdits,
    /// Superseded local changes, whose actor and sequence number another change has:
    /// [`Space::export_rejected`](crate::Space::export_rejected) exports them.
    Superseded,
    /// Deferred entries, which came from a relay and cannot be applied yet.
    Deferred,
}

/// Changes that a store keeps for a document, and that a portable file of its space does not contain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// The document.
    pub document: DocumentId,
    /// Why it is kept.
    pub kept: OutsideReason,
    /// How many changes or entries.
    pub changes: u64,
}

const LEFT_OUT: &str = "
    SELECT d.document, 0, x.unsent FROM deleted x JOIN document d ON d.id = x.document
        WHERE x.space = ?1 AND x.kept_base IS NOT NULL
    UNION ALL
    SELECT d.document, 1, count(*) FROM displaced x CROSS JOIN document d ON d.id = x.document
        WHERE d.space = ?1 AND NOT EXISTS (SELECT 1 FROM deleted t WHERE t.document = d.id)
        GROUP BY d.document
    UNION ALL
    SELECT document, 2, count(*) FROM aside WHERE space = ?1 GROUP BY document
    ORDER BY 1, 2";

impl LocalLog {
    /// The entries of a space that the store keeps outside its documents.
    pub(crate) fn left_out(&self, space: SpaceRow) -> Result<Vec<LeftOut>, ViewError> {
        self.view(|conn| {
            let left_out = |row: &Row<'_>| {
                let kept = match row.get(1)? {
                    0 => OutsideReason::OrphanedEdits,
                    1 => OutsideReason::Superseded,
                    _ => OutsideReason::Deferred,
                };
                let document = DocumentId::from_bytes(row.get(0)?);
                Ok(LeftOut { document, kept, changes: row.get(2)? })
            };
            conn.prepare_cached(LEFT_OUT)?.query_map([space.0], left_out)?.collect()
        })
    }
}

struct FoundDocument {
    row: DocumentRow,
    id: DocumentId,
    deleted: bool,
}

fn place(row: &Row<'_>) -> rusqlite::Result<FoundDocument> {
    let id = DocumentId::from_bytes(row.get(1)?);
    Ok(FoundDocument { row: DocumentRow(row.get(0)?), id, deleted: row.get(2)? })
}

fn document(
    conn: &Connection,
    found: &FoundDocument,
    flags: u16,
    own: &[u8],
    sink: &mut RecordSink<'_>,
) -> rusqlite::Result<ControlFlow<()>> {
    let parts = parts(conn, found.row)?;
    if !found.deleted && parts.changes() == 0 {
        return Ok(ControlFlow::Continue(()));
    }
    let mut flow = sink(Record::Document(found.id));
    let author = |stored: Option<Vec<u8>>| stored.unwrap_or_else(|| own.to_vec());
    if found.deleted {
        let tombstone = conn
            .prepare_cached("SELECT at_ms, author FROM deleted WHERE document = ?1")?
            .query_row([found.row.0], |row| {
                Ok(Record::Tombstone { at_ms: row.get(0)?, author: author(row.get(1)?) })
            })?;
        return Ok(if flow.is_continue() { sink(tombstone) } else { flow });
    }
    let snapshot = conn
        .prepare_cached("SELECT hash FROM snapshot WHERE document = ?1")?
        .query_row([found.row.0], |row| row.get::<_, [u8; 32]>(0))
        .optional()?;
    if let (Some(hash), Some(body)) = (snapshot, snapshots::body(conn, found.row)?)
        && parts.compacted_changes > 0
    {
        flow = compacted(hash, &body, (flags, own), flow, sink)?;
    }
    let mut changes = conn.prepare_cached(
        "SELECT at_ms, author, body FROM change WHERE document = ?1 AND local > ?2 ORDER BY local",
    )?;
    let mut rows = changes.query(params![found.row.0, parts.base])?;
    while let Some(row) = rows.next()?
        && flow.is_continue()
    {
        let (at_ms, author) = (row.get(0)?, author(row.get(1)?));
        flow = sink(Record::Change { at_ms, flags, author, chunk: row.get(2)? });
    }
    Ok(flow)
}

/// A snapshot as a record, or as its single changes if it exceeds the limit of a record.
fn compacted(
    hash: [u8; 32],
    body: &[u8],
    (flags, own): (u16, &[u8]),
    mut flow: ControlFlow<()>,
    sink: &mut RecordSink<'_>,
) -> rusqlite::Result<ControlFlow<()>> {
    let records: Vec<Record> = if body.len() > limits::SNAPSHOT_BYTES {
        let changes = landfall_compaction::changes_since(body, &[]).map_err(unreadable)?;
        let change = |chunk| Record::Change { at_ms: 0, flags, author: own.to_vec(), chunk };
        changes.into_iter().map(change).collect()
    } else {
        let parts = body.chunks(limits::PART_BYTES).map(|part| Record::Part(part.to_vec()));
        std::iter::once(Record::Snapshot { hash, bytes: body.len() as u64 }).chain(parts).collect()
    };
    for record in records {
        if flow.is_continue() {
            flow = sink(record);
        }
    }
    Ok(flow)
}
