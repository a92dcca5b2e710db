//! The documents of a space, most recently changed first: a backward scan from a log's end.
//!
//! A document is listed at its last entry. The scan reads only the log's own indexes and a bounded number of
//! rows per call: a page may be empty and still advance.

use std::iter::Peekable;

use landfall_protocol::{DocumentId, Offset, SpaceName};
use rusqlite::{Connection, Row, params};

use crate::store::rows::documents::space_row;
use crate::store::rows::schema::{column, document_id, number};

/// Rows per read: some 30 ms. A longer read would keep the write-ahead log from being reset.
pub(in crate::store) const LISTED_ROWS: usize = 8_192;

/// `LEFT`: an entry without its document is damage, which other reads report.
pub(in crate::store) const CHANGES: &str = "SELECT e.\"offset\", d.document, \
    e.\"offset\" > d.folded AND d.tombstone IS NULL AND NOT EXISTS \
    (SELECT 1 FROM entry n WHERE n.document = e.document AND n.\"offset\" > e.\"offset\") \
    FROM entry e LEFT JOIN document d ON d.id = e.document \
    WHERE e.space = ?1 AND e.\"offset\" > ?2 AND e.\"offset\" < ?3 ORDER BY e.\"offset\" DESC LIMIT ?4";

pub(in crate::store) const SNAPSHOTS: &str = "SELECT s.\"offset\", d.document, d.tombstone IS NULL AND NOT EXISTS \
    (SELECT 1 FROM entry n WHERE n.document = s.document AND n.\"offset\" > s.\"offset\") \
    FROM snapshot s LEFT JOIN document d ON d.id = s.document \
    WHERE s.space = ?1 AND s.\"offset\" > ?2 AND s.\"offset\" < ?3 AND s.replaced_at_ms IS NULL \
    ORDER BY s.\"offset\" DESC LIMIT ?4";

pub(in crate::store) const TOMBSTONES: &str = "SELECT t.\"offset\", d.document, ?2 > 0 \
    FROM tombstone t LEFT JOIN document d ON d.id = t.document \
    WHERE t.space = ?1 AND t.\"offset\" > ?2 AND t.\"offset\" < ?3 ORDER BY t.\"offset\" DESC LIMIT ?4";

/// A document of a space, with its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// The document.
    pub document: DocumentId,
    /// The offset of its last entry; that of its snapshot if the tail is empty.
    pub last: Offset,
    /// Whether that entry is its tombstone.
    pub is_deleted: bool,
}

/// Documents of a space, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecentPage {
    /// The documents.
    pub documents: Vec<Recent>,
    /// The next page ends before this offset; `None` at the end.
    pub next: Option<Offset>,
}

/// An entry met by the scan: its offset, whether it is a tombstone, and the document whose last entry it is,
/// if it is one.
struct Met {
    offset: Offset,
    document: Option<DocumentId>,
    is_tombstone: bool,
}

type Walk<'a> = Peekable<Box<dyn Iterator<Item = rusqlite::Result<Met>> + 'a>>;

/// The documents whose last entry is after `since` and before `before`, at most `most`. Includes deleted
/// documents unless `since` is the log's start: a client that knows nothing of a space needs no tombstones.
pub(in crate::store) fn recent(
    conn: &Connection,
    name: &SpaceName,
    range: (Offset, Option<Offset>),
    most: usize,
) -> rusqlite::Result<RecentPage> {
    walk(conn, name, range, most, LISTED_ROWS)
}

/// The same, reading at most `rows` rows.
pub(in crate::store) fn walk(
    conn: &Connection,
    name: &SpaceName,
    (since, before): (Offset, Option<Offset>),
    most: usize,
    rows: usize,
) -> rusqlite::Result<RecentPage> {
    let Some(space) = space_row(conn, name)? else { return Ok(RecentPage::default()) };
    let before = before.map_or(Ok(i64::MAX), |before| column(before.0))?;
    // Each statement reads one row more than the bound, to distinguish the log's end from the bound.
    let key = params![space, column(since.0)?, before, rows as i64 + 1];
    let mut statements = Vec::new();
    for sql in [CHANGES, SNAPSHOTS, TOMBSTONES] {
        statements.push((conn.prepare_cached(sql)?, sql == TOMBSTONES));
    }
    let mut walks = Vec::new();
    for (statement, is_tombstone) in &mut statements {
        let is_tombstone = *is_tombstone;
        let found = statement.query_map(key, move |row| met(row, is_tombstone))?;
        let found: Box<dyn Iterator<Item = rusqlite::Result<Met>>> = Box::new(found);
        walks.push(found.peekable());
    }
    let (mut page, mut reached) = (RecentPage::default(), None);
    for _ in 0..rows {
        if page.documents.len() == most {
            break;
        }
        let Some(met) = last(&mut walks)? else { return Ok(page) };
        reached = Some(met.offset);
        if let Some(document) = met.document {
            let (last, is_deleted) = (met.offset, met.is_tombstone);
            page.documents.push(Recent { document, last, is_deleted });
        }
    }
    // Only if more remain: a known end saves the caller a request.
    if last(&mut walks)?.is_some() {
        page.next = reached;
    }
    Ok(page)
}

fn met(row: &Row<'_>, is_tombstone: bool) -> rusqlite::Result<Met> {
    let is_last = row.get::<_, Option<bool>>(2)?.unwrap_or(false);
    let has_document = is_last && row.get_ref(1)? != rusqlite::types::ValueRef::Null;
    let document = has_document.then(|| document_id(row, 1)).transpose()?;
    Ok(Met { offset: Offset(number(row, 0)?), document, is_tombstone })
}

/// The entry with the highest offset of all remaining ones.
fn last(walks: &mut [Walk<'_>]) -> rusqlite::Result<Option<Met>> {
    let mut found: Option<(usize, Offset)> = None;
    for (index, walk) in walks.iter_mut().enumerate() {
        match walk.peek() {
            Some(Err(_)) => return walk.next().transpose(),
            Some(Ok(met)) if found.is_none_or(|(_, offset)| met.offset > offset) => {
                found = Some((index, met.offset));
            }
            _ => {}
        }
    }
    found.and_then(|(index, _)| walks[index].next()).transpose()
}
