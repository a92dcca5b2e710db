//! Reading a log: a space's lineage, and what stands in it piece by piece.
//!
//! Three rows of things stand in a log: changes, the present snapshots, tombstones. They are
//! merged by their offsets. What is dead or not wanted is passed over before its body is read, and
//! one read looks at a bounded number of rows: a page may be empty and still move on.

mod skip;

use std::iter::Peekable;
use std::sync::Arc;

use landfall_protocol::frame::{EncodedEntry, Entry, Filter, Partial};
use landfall_protocol::lineage::{EpochRecord, Lineage};
use landfall_protocol::ring::{Chunk, Page};
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::documents::space_row;
use super::schema::{broken, column, document_id, epoch, hashes, number};
use super::snapshots::{self, Stored};

/// Rows that one read looks at. Those that are dead or not wanted cost about as much as a few
/// hundred bytes of a live one.
const SCANNED_ROWS: usize = 4 * limits::ENTRIES_COUNT;

/// Rows passed over before a snapshot in parts after which the position is moved first, so that
/// they are not passed over again for each part.
const PASSED_ROWS: usize = 64;

const CHANGES: &str = "SELECT e.\"offset\", d.document, e.kind, e.flags, e.hash, e.at_ms, \
    e.author, e.deps, e.id, e.\"offset\" > d.folded AND d.tombstone IS NULL, \
    CASE WHEN ?3 AND e.\"offset\" > d.folded AND d.tombstone IS NULL THEN e.body END \
    FROM entry e JOIN document d ON d.id = e.document \
    WHERE e.space = ?1 AND e.\"offset\" > ?2 ORDER BY e.\"offset\" LIMIT ?4";

const SNAPSHOTS: &str = "SELECT d.document, s.id, s.document, s.\"offset\", s.hash, s.heads, \
    s.changes, s.bytes, s.at_ms, s.replaced_at_ms \
    FROM snapshot s JOIN document d ON d.id = s.document \
    WHERE s.space = ?1 AND s.\"offset\" > ?2 AND s.replaced_at_ms IS NULL \
    ORDER BY s.\"offset\" LIMIT ?3";

const TOMBSTONES: &str = "SELECT d.document, t.\"offset\", t.author, t.at_ms \
    FROM tombstone t JOIN document d ON d.id = t.document \
    WHERE t.space = ?1 AND t.\"offset\" > ?2 ORDER BY t.\"offset\" LIMIT ?3";

const EPOCH_AT: &str =
    "SELECT epoch FROM epoch WHERE space = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";

/// A space's lineage; that of an empty log if nothing was ever appended.
pub(super) fn lineage(conn: &Connection, name: &SpaceName) -> rusqlite::Result<Lineage> {
    let Some(space) = space_row(conn, name)? else { return Ok(Lineage::default()) };
    Ok(Lineage::new(epochs(conn, space)?, head(conn, space)?))
}

/// The epochs of a log, in order.
pub(super) fn epochs(conn: &Connection, space: i64) -> rusqlite::Result<Vec<EpochRecord>> {
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
    find.query_map([space], record)?.collect()
}

/// The last offset of a log, whether its entry is still there or not.
pub(super) fn head(conn: &Connection, space: i64) -> rusqlite::Result<Offset> {
    let mut find = conn.prepare_cached("SELECT head FROM space WHERE id = ?1")?;
    find.query_row([space], |row| number(row, 0)).map(Offset)
}

/// The piece after a position; `None` at the log's end.
pub(super) fn next(
    conn: &Connection,
    name: &SpaceName,
    after: Offset,
    filter: &Filter,
    partial: Option<Partial>,
) -> rusqlite::Result<Option<Chunk>> {
    let Some(space) = space_row(conn, name)? else { return Ok(None) };
    let head = head(conn, space)?;
    if after >= head {
        return Ok(None);
    }
    let partial = partial.filter(|partial| partial.bytes > 0);
    let mut wanted = Wanted { conn, space, after, filter, partial };
    let mut ahead = wanted.replaced()?.map(|item| Offset(item.offset().0 - 1));
    if let Some(first) = skip::position(conn, space, after, filter)? {
        ahead = Some(ahead.map_or(first, |ahead| ahead.min(first)));
    }
    let (entries, up_to) = match ahead {
        None => (Vec::new(), head),
        Some(ahead) => {
            wanted.after = ahead;
            match wanted.fill(head)? {
                Filled::Part(chunk) => return Ok(Some(chunk)),
                Filled::Page(entries, up_to) => (entries, up_to),
            }
        }
    };
    let mut find = conn.prepare_cached(EPOCH_AT)?;
    let found = find.query_row(params![space, column(up_to.0)?], |row| epoch(row, 0)).optional()?;
    let Some(epoch) = found else { return Ok(None) };
    Ok(Some(Chunk::Entries(Page { after, up_to, epoch, head, entries })))
}

/// What one read is asked for.
struct Wanted<'a> {
    conn: &'a Connection,
    space: i64,
    after: Offset,
    filter: &'a Filter,
    partial: Option<Partial>,
}

/// What one read gives.
enum Filled {
    Part(Chunk),
    /// Entries, and the position that they reach.
    Page(Vec<Arc<EncodedEntry>>, Offset),
}

/// Something that stands in the log.
enum Item {
    /// A change; its row if its body is still to be read.
    Change(Box<Entry>, Option<i64>),
    Snapshot(DocumentId, Box<Stored>),
    Tombstone(Entry),
    /// Dead, or not wanted.
    Passed(Offset),
}

impl Item {
    fn offset(&self) -> Offset {
        match self {
            Self::Change(entry, _) => entry.offset,
            Self::Snapshot(_, stored) => Offset(stored.offset),
            Self::Tombstone(entry) => entry.offset,
            Self::Passed(offset) => *offset,
        }
    }
}

type Items<'a> = Peekable<Box<dyn Iterator<Item = rusqlite::Result<Item>> + 'a>>;

impl Wanted<'_> {
    fn fill(&self, head: Offset) -> rusqlite::Result<Filled> {
        let (limit, from) = (SCANNED_ROWS as i64, column(self.after.0)?);
        let whole = matches!(self.filter, Filter::Everything);
        let mut changes = self.conn.prepare_cached(CHANGES)?;
        let mut snapshots = self.conn.prepare_cached(SNAPSHOTS)?;
        let mut tombstones = self.conn.prepare_cached(TOMBSTONES)?;
        let key = params![self.space, from, limit];
        let changes =
            changes.query_map(params![self.space, from, whole, limit], |row| self.change(row))?;
        let snapshots = snapshots.query_map(key, |row| {
            Ok(self.snapshot(document_id(row, 0)?, Stored::of_row(row, 1)?))
        })?;
        let tombstones = tombstones.query_map(key, |row| self.tombstone(row))?;
        // A snapshot has the offset of the last change that it folds, whose row may still be there.
        // It must come first: a page that ended between the two would have passed it.
        let mut sources = [
            peekable(snapshots),
            peekable(self.replaced()?.into_iter().map(Ok)),
            peekable(tombstones),
            peekable(changes),
        ];
        let mut filling =
            Filling { wanted: self, entries: Vec::new(), bytes: 0, up_to: self.after };
        for scanned in 0..SCANNED_ROWS {
            let Some(item) = first(&mut sources)? else {
                filling.up_to = head;
                break;
            };
            if let Some(stopped) = filling.take(item, scanned)? {
                return Ok(stopped);
            }
        }
        Ok(Filled::Page(filling.entries, filling.up_to))
    }

    fn change(&self, row: &Row<'_>) -> rusqlite::Result<Item> {
        let (offset, document) = (Offset(number(row, 0)?), document_id(row, 1)?);
        let is_live: bool = row.get(9)?;
        if !is_live || !self.filter.wants(&document) {
            return Ok(Item::Passed(offset));
        }
        let body: Option<Vec<u8>> = row.get(10)?;
        let to_read = body.is_none().then(|| row.get(8)).transpose()?;
        Ok(Item::Change(Box::new(change_of_row(row, body.unwrap_or_default())?), to_read))
    }

    fn snapshot(&self, document: DocumentId, stored: Stored) -> Item {
        match self.filter.wants(&document) {
            true => Item::Snapshot(document, Box::new(stored)),
            false => Item::Passed(Offset(stored.offset)),
        }
    }

    fn tombstone(&self, row: &Row<'_>) -> rusqlite::Result<Item> {
        let entry = tombstone_of_row(row)?;
        match self.filter.wants(&entry.document) {
            true => Ok(Item::Tombstone(entry)),
            false => Ok(Item::Passed(entry.offset)),
        }
    }

    /// The snapshot that has arrived in part, if it was replaced meanwhile and is still kept.
    fn replaced(&self) -> rusqlite::Result<Option<Item>> {
        let Some(partial) = self.partial else { return Ok(None) };
        let found = snapshots::by_hash(self.conn, self.space, &partial.hash)?;
        let found = found.filter(|(document, stored)| {
            let lies_ahead = stored.replaced_at_ms.is_some() && stored.offset > self.after.0;
            lies_ahead && self.filter.wants(document)
        });
        Ok(found.map(|(document, stored)| Item::Snapshot(document, Box::new(stored))))
    }
}

fn peekable<'a>(items: impl Iterator<Item = rusqlite::Result<Item>> + 'a) -> Items<'a> {
    let items: Box<dyn Iterator<Item = rusqlite::Result<Item>> + 'a> = Box::new(items);
    items.peekable()
}

/// The item that stands first in the log; of two with one offset, that of the first source.
fn first(sources: &mut [Items<'_>]) -> rusqlite::Result<Option<Item>> {
    let mut first: Option<(usize, Offset)> = None;
    for (index, source) in sources.iter_mut().enumerate() {
        match source.peek() {
            // Errors at once: it is not known what they hide.
            Some(Err(_)) => return source.next().transpose(),
            Some(Ok(item)) if first.is_none_or(|(_, offset)| item.offset() < offset) => {
                first = Some((index, item.offset()));
            }
            _ => {}
        }
    }
    first.and_then(|(index, _)| sources[index].next()).transpose()
}

/// A page that is being filled.
struct Filling<'a> {
    wanted: &'a Wanted<'a>,
    entries: Vec<Arc<EncodedEntry>>,
    bytes: usize,
    up_to: Offset,
}

impl Filling<'_> {
    /// Takes the next thing of the log in; the end of the read if there is no room for it.
    fn take(&mut self, item: Item, scanned: usize) -> rusqlite::Result<Option<Filled>> {
        let offset = item.offset();
        let entry = match item {
            Item::Passed(_) => {
                self.up_to = offset;
                return Ok(None);
            }
            Item::Tombstone(entry) => entry,
            Item::Change(mut entry, to_read) => {
                if let Some(row) = to_read {
                    entry.body = body(self.wanted.conn, row)?.into();
                }
                *entry
            }
            Item::Snapshot(document, stored) => match self.snapshot(document, &stored, scanned)? {
                Ok(entry) => entry,
                Err(stopped) => return Ok(Some(stopped)),
            },
        };
        let entry = EncodedEntry::new(&entry);
        let is_full = self.entries.len() >= limits::ENTRIES_COUNT
            || self.bytes + entry.len() > limits::ENTRIES_TARGET_BYTES;
        if is_full && !self.entries.is_empty() {
            return Ok(Some(self.stop_before(offset)));
        }
        self.bytes += entry.len();
        self.entries.push(Arc::new(entry));
        self.up_to = offset;
        Ok(None)
    }

    /// A snapshot's entry if it may stand in this page; else what is to be sent instead.
    fn snapshot(
        &mut self,
        document: DocumentId,
        stored: &Stored,
        scanned: usize,
    ) -> rusqlite::Result<Result<Entry, Filled>> {
        let conn = self.wanted.conn;
        let partial = self.wanted.partial.filter(|partial| partial.hash == stored.hash);
        let from = partial.map_or(0, |partial| partial.bytes.min(stored.bytes));
        if stored.bytes <= limits::SNAPSHOT_INLINE_BYTES as u64 {
            let body = stored.read(conn, 0, limits::SNAPSHOT_INLINE_BYTES)?;
            return Ok(Ok(stored.entry(document, Some(body))));
        }
        if !self.entries.is_empty() || scanned > PASSED_ROWS {
            return Ok(Err(self.stop_before(Offset(stored.offset))));
        }
        // All its parts went before: now its entry.
        if from == stored.bytes {
            return Ok(Ok(stored.entry(document, None)));
        }
        let part = stored.part(conn, document, from)?.map(Chunk::Part);
        let part = part.ok_or_else(|| broken("a snapshot without bytes"))?;
        Ok(Err(Filled::Part(part)))
    }

    /// Ends the page before a position: nothing that is wanted lies between.
    fn stop_before(&mut self, offset: Offset) -> Filled {
        self.up_to = self.up_to.max(Offset(offset.0.saturating_sub(1)));
        Filled::Page(std::mem::take(&mut self.entries), self.up_to)
    }
}

/// Out of the columns `document, "offset", author, at_ms`.
pub(super) fn tombstone_of_row(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let author: Vec<u8> = row.get(2)?;
    let (document, offset) = (document_id(row, 0)?, Offset(number(row, 1)?));
    Ok(Entry::of_tombstone(offset, document, &author, number(row, 3)?))
}

/// Out of the columns `"offset", document, kind, flags, hash, at_ms, author, deps`.
pub(super) fn change_of_row(row: &Row<'_>, body: Vec<u8>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        offset: Offset(number(row, 0)?),
        document: document_id(row, 1)?,
        kind: row.get(2)?,
        flags: row.get(3)?,
        id: row.get(4)?,
        dependencies: hashes(row, 7)?,
        author: row.get::<_, Vec<u8>>(6)?.into(),
        at_ms: number(row, 5)?,
        body: body.into(),
    })
}

fn body(conn: &Connection, row: i64) -> rusqlite::Result<Vec<u8>> {
    conn.prepare_cached("SELECT body FROM entry WHERE id = ?1")?.query_row([row], |row| row.get(0))
}
