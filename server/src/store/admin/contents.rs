//! The content of a space as records of a portable file: in one read view of the store, which may run beside
//! the relay that writes it.

use std::ops::ControlFlow;

use landfall_protocol::portable::Record;
use landfall_protocol::{SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::StoreError;
use crate::store::admin::inspect::Inspection;
use crate::store::rows::documents::{Document, space_row};
use crate::store::rows::schema::{column, number};
use crate::store::rows::snapshots;

const CHANGES: &str = "SELECT at_ms, flags, author, body FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\"";

/// Receives records; may stop the read early.
pub type RecordSink<'a> = dyn FnMut(Record) -> ControlFlow<()> + 'a;

impl Inspection {
    /// Passes all documents of a space, by id, to the sink, each as the records that follow its name in a
    /// portable file. Skips documents without entries. False if the space does not exist.
    pub fn contents(
        &self,
        space: &SpaceName,
        sink: &mut RecordSink<'_>,
    ) -> Result<bool, StoreError> {
        self.read(|conn| {
            let Some(space) = space_row(conn, space)? else { return Ok(false) };
            let mut find =
                conn.prepare("SELECT id FROM document WHERE space = ?1 ORDER BY document")?;
            let mut rows = find.query([space])?;
            while let Some(row) = rows.next()? {
                if document(conn, &Document::at(conn, row.get(0)?)?, sink)?.is_break() {
                    break;
                }
            }
            Ok(true)
        })
    }
}

fn document(
    conn: &Connection,
    document: &Document,
    sink: &mut RecordSink<'_>,
) -> rusqlite::Result<ControlFlow<()>> {
    if document.tombstone.is_none() && !document.has_changes() {
        return Ok(ControlFlow::Continue(()));
    }
    if sink(Record::Document(document.id)).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    if document.tombstone.is_some() {
        let sql = "SELECT at_ms, author FROM tombstone WHERE document = ?1";
        let record =
            |row: &Row<'_>| Ok(Record::Tombstone { at_ms: number(row, 0)?, author: row.get(1)? });
        let found = conn.prepare_cached(sql)?.query_row([document.row], record).optional()?;
        return Ok(found.map_or(ControlFlow::Continue(()), sink));
    }
    if snapshot(conn, document, sink)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    let mut find = conn.prepare_cached(CHANGES)?;
    let mut rows = find.query(params![document.row, column(document.compacted)?])?;
    while let Some(row) = rows.next()? {
        let (at_ms, flags) = (number(row, 0)?, row.get(1)?);
        let record = Record::Change { at_ms, flags, author: row.get(2)?, chunk: row.get(3)? };
        if sink(record).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn snapshot(
    conn: &Connection,
    document: &Document,
    sink: &mut RecordSink<'_>,
) -> rusqlite::Result<ControlFlow<()>> {
    let Some(stored) = snapshots::current(conn, document.row)? else {
        return Ok(ControlFlow::Continue(()));
    };
    let mut flow = sink(Record::Snapshot { hash: stored.hash, bytes: stored.bytes });
    let mut from = 0;
    while flow.is_continue() && from < stored.bytes {
        let part = stored.read(conn, from, limits::PART_BYTES)?;
        from += part.len() as u64;
        flow = sink(Record::Part(part));
    }
    Ok(flow)
}
