//! Reads a log: a space's lineage, and its entries page by page.
//!
//! A log consists of three tables: changes, current snapshots, tombstones. They are merged by offset. Dead
//! and unwanted rows are skipped before their bodies are read, and one read examines a bounded number of
//! rows: a page may be empty and still advance.

mod salvage;
mod skip;

use std::cell::RefCell;
use std::iter::Peekable;
use std::sync::Arc;

use landfall_protocol::access::View;
use landfall_protocol::frame::{EncodedEntry, Entry, Partial};
use landfall_protocol::relay::{Chunk, EpochRecord, Lineage, Page};
use landfall_protocol::{DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::damage::damaged;
use crate::store::damage::is_damage;
use crate::store::rows::checked::{self, Documents, SnapshotSums};
use crate::store::rows::documents::head;
use crate::store::rows::documents::space_row;
use crate::store::rows::schema::{column, document_id, epoch, hashes, number};
use crate::store::rows::snapshots::{self, Stored};

/// Rows per read. A dead or unwanted row costs about as much as a few hundred bytes of a live one.
const SCANNED_ROWS: usize = 4 * limits::ENTRIES_COUNT;

/// If more rows than this were skipped before a snapshot that is sent in parts, the position moves first, so
/// that they are not skipped again for each part.
const PASSED_ROWS: usize = 64;

/// `i` reads the log's index alone, `e` the row by its id: this detects a row that differs from its index
/// entry, and one that is missing from the index of its document.
const CHANGES: &str = "SELECT i.\"offset\", d.document, e.kind, e.flags, e.hash, e.at_ms, \
    e.author, e.deps, i.id, i.\"offset\" > d.folded AND d.tombstone IS NULL, \
    CASE WHEN ?3 AND i.\"offset\" > d.folded AND d.tombstone IS NULL THEN e.body END, \
    d.id, e.\"offset\" = i.\"offset\" AND e.space = ?1 AND d.space = ?1 AND i.id = \
    (SELECT c.id FROM entry c WHERE c.document = e.document AND c.\"offset\" = i.\"offset\") \
    FROM entry i LEFT JOIN entry e ON e.id = i.id LEFT JOIN document d ON d.id = e.document \
    WHERE i.space = ?1 AND i.\"offset\" > ?2 ORDER BY i.\"offset\" LIMIT ?4";

/// `LEFT`: a row without its document is damage, and must not be left out.
const SNAPSHOTS: &str = "SELECT d.document, s.id, s.document, s.\"offset\", s.hash, s.heads, \
    s.changes, s.bytes, s.at_ms, s.replaced_at_ms \
    FROM snapshot s LEFT JOIN document d ON d.id = s.document \
    WHERE s.space = ?1 AND s.\"offset\" > ?2 AND s.replaced_at_ms IS NULL \
    ORDER BY s.\"offset\" LIMIT ?3";

const TOMBSTONES: &str = "SELECT d.document, t.\"offset\", t.author, t.at_ms, t.hash \
    FROM tombstone t LEFT JOIN document d ON d.id = t.document \
    WHERE t.space = ?1 AND t.\"offset\" > ?2 ORDER BY t.\"offset\" LIMIT ?3";

const EPOCH_AT: &str =
    "SELECT epoch FROM epoch WHERE space = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";

/// A space's lineage; that of an empty log before the first append.
pub(in crate::store) fn lineage(conn: &Connection, name: &SpaceName) -> rusqlite::Result<Lineage> {
    let Some(space) = space_row(conn, name)? else { return Ok(Lineage::default()) };
    let head = head(conn, space)?;
    checked::head(conn, space, head)?;
    let epochs = epochs(conn, space)?;
    let is_in_order = epochs.is_sorted_by(|one, next| one.first < next.first);
    if !is_in_order || (epochs.is_empty() && head > Offset(0)) {
        return Err(damaged(None, None, "a log whose epochs are missing or out of order"));
    }
    Ok(Lineage::new(epochs, head))
}

/// The epochs of a log, in order.
pub(in crate::store) fn epochs(
    conn: &Connection,
    space: i64,
) -> rusqlite::Result<Vec<EpochRecord>> {
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

/// The page after a position; `None` at the log's end. A damaged entry is replaced by a damage entry, and
/// reported in `damage`.
pub(in crate::store) fn next(
    conn: &Connection,
    name: &SpaceName,
    after: Offset,
    view: &View,
    partial: Option<Partial>,
    (sums, damage): (&SnapshotSums, &mut Vec<SkippedRead>),
) -> rusqlite::Result<Option<Chunk>> {
    let Some(space) = space_row(conn, name)? else { return Ok(None) };
    let head = head(conn, space)?;
    if after >= head {
        return Ok(None);
    }
    let partial = partial.filter(|partial| partial.bytes > 0);
    let (documents, found) = (Documents::new(conn), RefCell::default());
    let mut wanted =
        LogRead { conn, space, after, head, view, partial, sums, documents, damage: found };
    let (entries, up_to) = match wanted.ahead()? {
        None => (Vec::new(), head),
        Some(ahead) => {
            wanted.after = ahead;
            let filled = wanted.fill();
            damage.append(&mut wanted.damage.borrow_mut());
            match filled? {
                Filled::Part(chunk) => return Ok(Some(chunk)),
                Filled::Page(entries, up_to) => (entries, up_to),
            }
        }
    };
    let mut find = conn.prepare_cached(EPOCH_AT)?;
    let found = find.query_row(params![space, column(up_to.0)?], |row| epoch(row, 0)).optional()?;
    // `None` would tell the reader that it has the whole log.
    let what = "a log with entries outside its epochs";
    let epoch = found.ok_or_else(|| damaged(None, Some(up_to.0), what))?;
    Ok(Some(Chunk::Entries(Page { after, up_to, epoch, head, entries })))
}

/// The arguments and state of one read.
struct LogRead<'a> {
    conn: &'a Connection,
    space: i64,
    after: Offset,
    head: Offset,
    view: &'a View,
    partial: Option<Partial>,
    sums: &'a SnapshotSums,
    documents: Documents<'a>,
    /// The damage found so far.
    damage: RefCell<Vec<SkippedRead>>,
}

/// Damage that a read found and read around, and its document, if known.
pub(in crate::store) type SkippedRead = (Option<DocumentId>, rusqlite::Error);

/// The result of one read.
enum Filled {
    Part(Chunk),
    /// Entries, and the offset through which they cover the log.
    Page(Vec<Arc<EncodedEntry>>, Offset),
}

/// A row of the log.
enum Item {
    /// A change; with its row id if its body is not read yet.
    Change(Box<Entry>, Option<i64>),
    Snapshot(DocumentId, Box<Stored>),
    Tombstone(Entry),
    /// Dead, or not wanted.
    Passed(Offset),
    /// Unreadable, or different from what was written.
    Damaged(Offset, Option<DocumentId>, rusqlite::Error),
}

impl Item {
    fn offset(&self) -> Offset {
        match self {
            Self::Change(entry, _) => entry.offset,
            Self::Snapshot(_, stored) => Offset(stored.offset),
            Self::Tombstone(entry) => entry.offset,
            Self::Passed(offset) | Self::Damaged(offset, ..) => *offset,
        }
    }
}

type Items<'a> = Peekable<Box<dyn Iterator<Item = rusqlite::Result<Item>> + 'a>>;

impl LogRead<'_> {
    /// The position before the first wanted row; `None` if there is none.
    fn ahead(&self) -> rusqlite::Result<Option<Offset>> {
        let mut ahead = self.replaced()?.map(|item| Offset(item.offset().0 - 1));
        let first = match skip::position(self.conn, self.space, self.after, self.view) {
            // Without the index, scan every row.
            Err(error) if is_damage(&error) => Some(self.after),
            found => found?,
        };
        if let Some(first) = first {
            ahead = Some(ahead.map_or(first, |ahead| ahead.min(first)));
        }
        Ok(ahead)
    }

    /// Fills a page in one pass over the log's index; if that meets damage, row by row.
    fn fill(&self) -> rusqlite::Result<Filled> {
        match self.fill_in_order() {
            Err(error) if is_damage(&error) => {
                self.damage.borrow_mut().clear();
                let filled = self.fill_with(salvage::sources(self)?)?;
                if self.damage.borrow().is_empty() {
                    // Every row could be read another way, so the damage is in an index.
                    self.note(None, error);
                }
                Ok(filled)
            }
            filled => filled,
        }
    }

    fn fill_in_order(&self) -> rusqlite::Result<Filled> {
        let (limit, from) = (SCANNED_ROWS as i64, column(self.after.0)?);
        let whole = self.view.is_whole_space();
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
        // A snapshot has the offset of the last change that it replaces, whose row may still exist. The
        // snapshot must come first: a page that ended between the two would have passed it.
        self.fill_with([
            peekable(snapshots),
            peekable(self.replaced()?.into_iter().map(Ok)),
            peekable(tombstones),
            peekable(changes),
        ])
    }

    fn fill_with<const N: usize>(&self, mut sources: [Items<'_>; N]) -> rusqlite::Result<Filled> {
        let mut filling = Filling::new(self);
        for scanned in 0..SCANNED_ROWS {
            let Some(item) = first(&mut sources)? else {
                filling.up_to = self.head;
                break;
            };
            if let Some(stopped) = filling.take(item, scanned)? {
                return Ok(stopped);
            }
        }
        Ok(Filled::Page(filling.entries, filling.up_to))
    }

    fn note(&self, document: Option<DocumentId>, error: rusqlite::Error) {
        self.damage.borrow_mut().push((document, error));
    }

    /// Reads the columns of [`CHANGES`]. Fails on a row that does not match its index entry: the right row
    /// must be found another way.
    fn change(&self, row: &Row<'_>) -> rusqlite::Result<Item> {
        let offset = Offset(number(row, 0)?);
        if row.get::<_, Option<bool>>(12)? != Some(true) {
            let what = "a row that does not match its index entry";
            return Err(damaged(None, Some(offset.0), what));
        }
        let document = document_id(row, 1)?;
        if !self.view.contains(&document) {
            return Ok(Item::Passed(offset));
        }
        if let Err(error) = self.documents.check(row.get(11)?) {
            return self.damaged(offset, document, error);
        }
        let is_live: bool = row.get(9)?;
        if !is_live {
            return Ok(Item::Passed(offset));
        }
        let body: Option<Vec<u8>> = row.get(10)?;
        let to_read = body.is_none().then(|| row.get(8)).transpose()?;
        match change_of_row(row, body.unwrap_or_default()) {
            Ok(entry) => Ok(Item::Change(Box::new(entry), to_read)),
            Err(error) => self.damaged(offset, document, error),
        }
    }

    /// A damaged document does not end the read.
    fn damaged(
        &self,
        offset: Offset,
        document: DocumentId,
        error: rusqlite::Error,
    ) -> rusqlite::Result<Item> {
        match is_damage(&error) {
            true => Ok(Item::Damaged(offset, Some(document), error)),
            false => Err(error),
        }
    }

    fn snapshot(&self, document: DocumentId, stored: Stored) -> Item {
        match self.view.contains(&document) {
            true => Item::Snapshot(document, Box::new(stored)),
            false => Item::Passed(Offset(stored.offset)),
        }
    }

    fn tombstone(&self, row: &Row<'_>) -> rusqlite::Result<Item> {
        let entry = tombstone_of_row(row)?;
        if let Err(error) = checked::tombstone(&entry, &row.get(4)?) {
            return Ok(Item::Damaged(entry.offset, None, error));
        }
        match self.view.contains(&entry.document) {
            true => Ok(Item::Tombstone(entry)),
            false => Ok(Item::Passed(entry.offset)),
        }
    }

    /// The partially received snapshot, if it was replaced meanwhile and is still retained.
    fn replaced(&self) -> rusqlite::Result<Option<Item>> {
        let Some(partial) = self.partial else { return Ok(None) };
        let found = snapshots::by_hash(self.conn, self.space, &partial.hash)?;
        let found = found.filter(|(document, stored)| {
            let lies_ahead = stored.replaced_at_ms.is_some() && stored.offset > self.after.0;
            lies_ahead && self.view.contains(document)
        });
        Ok(found.map(|(document, stored)| Item::Snapshot(document, Box::new(stored))))
    }
}

fn peekable<'a>(items: impl Iterator<Item = rusqlite::Result<Item>> + 'a) -> Items<'a> {
    let items: Box<dyn Iterator<Item = rusqlite::Result<Item>> + 'a> = Box::new(items);
    items.peekable()
}

/// The next item by offset; of two with one offset, that of the earlier source.
fn first(sources: &mut [Items<'_>]) -> rusqlite::Result<Option<Item>> {
    let mut first: Option<(usize, Offset)> = None;
    for (index, source) in sources.iter_mut().enumerate() {
        match source.peek() {
            // An error is returned at once: the rows that it hides are unknown.
            Some(Err(_)) => return source.next().transpose(),
            Some(Ok(item)) if first.is_none_or(|(_, offset)| item.offset() < offset) => {
                first = Some((index, item.offset()));
            }
            _ => {}
        }
    }
    first.and_then(|(index, _)| sources[index].next()).transpose()
}

/// A page being filled.
struct Filling<'a> {
    wanted: &'a LogRead<'a>,
    entries: Vec<Arc<EncodedEntry>>,
    bytes: usize,
    up_to: Offset,
}

impl<'a> Filling<'a> {
    fn new(wanted: &'a LogRead<'a>) -> Self {
        Self { wanted, entries: Vec::new(), bytes: 0, up_to: wanted.after }
    }

    /// Adds the next item to the page; returns the finished page if it does not fit.
    fn take(&mut self, item: Item, scanned: usize) -> rusqlite::Result<Option<Filled>> {
        let offset = item.offset();
        if offset < self.up_to || offset > self.wanted.head {
            let what = format!("a log that is out of order behind offset {}", self.up_to);
            return Err(damaged(None, Some(offset.0), what));
        }
        let entry = match self.entry(item, scanned) {
            Ok(Some(Ok(entry))) => entry,
            Ok(Some(Err(stopped))) => return Ok(Some(stopped)),
            Ok(None) => {
                self.up_to = offset;
                return Ok(None);
            }
            Err((document, error)) if is_damage(&error) => {
                self.wanted.note(document, error);
                if self.entries.last().is_some_and(|last| last.offset() == offset) {
                    // A change that is replaced by the snapshot just added.
                    return Ok(None);
                }
                Entry::of_damage(offset, document)
            }
            Err((_, error)) => return Err(error),
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

    /// The verified entry of an item; or the page or part to send instead; or nothing.
    fn entry(
        &mut self,
        item: Item,
        scanned: usize,
    ) -> Result<Option<Result<Entry, Filled>>, SkippedRead> {
        match item {
            Item::Passed(_) => Ok(None),
            Item::Damaged(_, document, error) => Err((document, error)),
            Item::Tombstone(entry) => Ok(Some(Ok(entry))),
            Item::Change(mut entry, to_read) => {
                let whose = |error| (Some(entry.document), error);
                if let Some(row) = to_read {
                    entry.body = body(self.wanted.conn, row).map_err(whose)?.into();
                }
                checked::change(&entry).map_err(|error| (Some(entry.document), error))?;
                Ok(Some(Ok(*entry)))
            }
            Item::Snapshot(document, stored) => {
                let sent = self.snapshot(document, &stored, scanned);
                sent.map(Some).map_err(|error| (Some(document), error))
            }
        }
    }

    /// A snapshot's entry, if it fits in this page; else the page or part to send instead.
    fn snapshot(
        &mut self,
        document: DocumentId,
        stored: &Stored,
        scanned: usize,
    ) -> rusqlite::Result<Result<Entry, Filled>> {
        let conn = self.wanted.conn;
        if stored.replaced_at_ms.is_none() {
            self.wanted.documents.check(stored.document)?;
        }
        let partial = self.wanted.partial.filter(|partial| partial.hash == stored.hash);
        let from = partial.map_or(0, |partial| partial.bytes.min(stored.bytes));
        if stored.bytes <= limits::SNAPSHOT_INLINE_BYTES as u64 {
            let body = stored.whole(conn, document)?;
            return Ok(Ok(stored.entry(document, Some(body))));
        }
        if !self.entries.is_empty() || scanned > PASSED_ROWS {
            return Ok(Err(self.stop_before(Offset(stored.offset))));
        }
        // All parts were sent: the entry itself comes next.
        if from == stored.bytes {
            return Ok(Ok(stored.entry(document, None)));
        }
        let part = stored.part(conn, self.wanted.sums, document, from)?.map(Chunk::Part);
        let part = part.ok_or_else(|| checked::snapshot_damage(document, stored))?;
        Ok(Err(Filled::Part(part)))
    }

    /// Ends the page before a position. No wanted row lies in between.
    fn stop_before(&mut self, offset: Offset) -> Filled {
        self.up_to = self.up_to.max(Offset(offset.0.saturating_sub(1)));
        Filled::Page(std::mem::take(&mut self.entries), self.up_to)
    }
}

/// Reads the columns `document, "offset", author, at_ms`.
pub(in crate::store) fn tombstone_of_row(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let author: Vec<u8> = row.get(2)?;
    let (document, offset) = (document_id(row, 0)?, Offset(number(row, 1)?));
    Ok(Entry::of_tombstone(offset, document, &author, number(row, 3)?))
}

/// Reads the columns `"offset", document, kind, flags, hash, at_ms, author, deps`.
pub(in crate::store) fn change_of_row(row: &Row<'_>, body: Vec<u8>) -> rusqlite::Result<Entry> {
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
