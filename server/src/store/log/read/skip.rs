//! Finds the first row that a short view wants, so that a subscription to a few documents of a large space
//! need not scan all rows between them.

use landfall_protocol::access::View;
use landfall_protocol::{DocumentId, Offset};
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::rows::documents::Document;
use crate::store::rows::schema::{column, number};

/// Up to this many documents of a view are looked up one by one. Each look-up costs about as much as
/// skipping ten rows.
const SHORT: usize = 64;

const NEXT: &str = "SELECT \"offset\" FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\" LIMIT 1";

/// The position before the first row after `after` that the view wants; `after` itself for a long view,
/// `None` if there is none.
pub(super) fn position(
    conn: &Connection,
    space: i64,
    after: Offset,
    view: &View,
) -> rusqlite::Result<Option<Offset>> {
    let Some(documents) = view.documents() else { return Ok(Some(after)) };
    if documents.len() > SHORT {
        return Ok(Some(after));
    }
    let mut first: Option<u64> = None;
    for document in documents.iter() {
        let next = next_of(conn, space, after.0, document)?;
        first = match (first, next) {
            (Some(first), Some(next)) => Some(first.min(next)),
            (first, next) => first.or(next),
        };
    }
    Ok(first.map(|first| Offset(first - 1)))
}

/// The next entry of one document after an offset.
fn next_of(
    conn: &Connection,
    space: i64,
    after: u64,
    document: &DocumentId,
) -> rusqlite::Result<Option<u64>> {
    let Some(document) = Document::find(conn, space, document)? else { return Ok(None) };
    if let Some(tombstone) = document.tombstone {
        return Ok(Some(tombstone).filter(|at| *at > after));
    }
    if document.compacted > after {
        return Ok(Some(document.compacted));
    }
    let mut find = conn.prepare_cached(NEXT)?;
    find.query_row(params![document.row, column(after)?], |row| number(row, 0)).optional()
}
