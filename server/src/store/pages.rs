//! Reading a log: a space's lineage, and its entries page by page.

use std::sync::Arc;

use landfall_protocol::frame::{EncodedEntry, Entry};
use landfall_protocol::lineage::{EpochRecord, Lineage};
use landfall_protocol::ring::Page;
use landfall_protocol::{Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::history::space_row;
use super::schema::{column, document_id, epoch, number};

const PAGE: &str = "SELECT e.\"offset\", d.document, e.kind, e.flags, e.hash, e.at_ms, e.author, \
    e.deps, e.body FROM entry e JOIN document d ON d.id = e.document \
    WHERE e.space = ?1 AND e.\"offset\" > ?2 ORDER BY e.\"offset\" LIMIT ?3";

const EPOCH_AT: &str =
    "SELECT epoch FROM epoch WHERE space = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";

/// A space's lineage; that of an empty log if nothing was ever appended.
pub(super) fn lineage(conn: &Connection, name: &SpaceName) -> rusqlite::Result<Lineage> {
    let Some(space) = space_row(conn, name)? else { return Ok(Lineage::default()) };
    let mut find = conn.prepare_cached(
        "SELECT epoch, first, predecessor FROM epoch WHERE space = ?1 ORDER BY first",
    )?;
    let record = |row: &Row<'_>| {
        let predecessor: Option<[u8; 16]> = row.get(2)?;
        Ok(EpochRecord {
            epoch: epoch(row, 0)?,
            first: Offset(number(row, 1)?),
            predecessor: predecessor.map(landfall_protocol::Epoch::from_bytes),
        })
    };
    let records = find.query_map([space], record)?.collect::<rusqlite::Result<_>>()?;
    Ok(Lineage::new(records, head(conn, space)?))
}

fn head(conn: &Connection, space: i64) -> rusqlite::Result<Offset> {
    let mut last = conn.prepare_cached("SELECT max(\"offset\") FROM entry WHERE space = ?1")?;
    let found: Option<i64> = last.query_row([space], |row| row.get(0))?;
    let found = found.unwrap_or_default();
    u64::try_from(found).map(Offset).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, found))
}

/// The page after a position; `None` at the log's end.
pub(super) fn page(
    conn: &Connection,
    name: &SpaceName,
    after: Offset,
) -> rusqlite::Result<Option<Page>> {
    let Some(space) = space_row(conn, name)? else { return Ok(None) };
    let mut find = conn.prepare_cached(PAGE)?;
    let mut rows = find.query(params![space, column(after.0)?, limits::ENTRIES_COUNT as i64])?;
    let (mut entries, mut bytes, mut up_to) = (Vec::new(), 0, after);
    while let Some(row) = rows.next()? {
        let entry = EncodedEntry::new(&entry(row)?);
        bytes += entry.len();
        if bytes > limits::ENTRIES_TARGET_BYTES && !entries.is_empty() {
            break;
        }
        up_to = entry.offset();
        entries.push(Arc::new(entry));
    }
    drop(rows);
    let mut find = conn.prepare_cached(EPOCH_AT)?;
    let found = find.query_row(params![space, column(up_to.0)?], |row| epoch(row, 0)).optional()?;
    let (Some(epoch), false) = (found, entries.is_empty()) else { return Ok(None) };
    Ok(Some(Page { after, up_to, epoch, head: head(conn, space)?, entries }))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let dependencies: &[u8] = row.get_ref(7)?.as_blob()?;
    let (hashes, _) = dependencies.as_chunks::<32>();
    Ok(Entry {
        offset: Offset(number(row, 0)?),
        document: document_id(row, 1)?,
        kind: row.get(2)?,
        flags: row.get(3)?,
        id: row.get(4)?,
        dependencies: hashes.to_vec(),
        author: row.get::<_, Vec<u8>>(6)?.into(),
        at_ms: number(row, 5)?,
        body: row.get::<_, Vec<u8>>(8)?.into(),
    })
}
