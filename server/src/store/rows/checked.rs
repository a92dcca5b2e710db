//! Verifies that the bytes read are the bytes written. SQLite detects a malformed page, but not a bit that
//! flipped inside a value or a key. So before anything is sent, a change is checked against its hash, a
//! snapshot against its checksum, and a row against the other rows that refer to it. A mismatch is an error
//! that names the document; mismatching content is never returned.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use landfall_protocol::admission::change_hash;
use landfall_protocol::digest::tombstone_id;
use landfall_protocol::frame::{Entry, entry_flags, entry_kind};
use landfall_protocol::{DocumentId, Offset};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use crate::limits;
use crate::store::damage::{ContentDamage, damaged, damaged_change, is_damage};
use crate::store::rows::documents::Document;
use crate::store::rows::schema::{broken, column, number};
use crate::store::rows::snapshot_row::{HEAD_BYTES, Stored, pieces};

/// Checks a change against its hash before it is sent.
pub(in crate::store) fn change(entry: &Entry) -> rusqlite::Result<()> {
    form(entry)?;
    body(&entry.body, &entry.id).map_err(|what| damaged_change(entry, what))
}

/// Checks the columns of a change's row, apart from the body, against the values that a change can have.
pub(in crate::store) fn form(entry: &Entry) -> rusqlite::Result<()> {
    if entry.kind != entry_kind::CHANGE || entry.flags & !entry_flags::SECOND_ROOT != 0 {
        let what = format!("a change with an invalid kind {} or flags {}", entry.kind, entry.flags);
        return Err(damaged_change(entry, what));
    }
    Ok(())
}

/// Checks a change's bytes against its hash.
pub(in crate::store) fn body(bytes: &[u8], hash: &[u8; 32]) -> Result<(), String> {
    match change_hash(bytes) {
        Ok(found) if found.0 == *hash => Ok(()),
        Ok(found) => Err(format!("bytes of change {found} instead of the row's hash")),
        Err(error) => Err(format!("damaged bytes of a change ({error})")),
    }
}

/// Checks a tombstone's document against the tombstone's id. A deletion is final, so a wrong one could not be
/// undone.
pub(in crate::store) fn tombstone(entry: &Entry, hash: &[u8; 32]) -> rusqlite::Result<()> {
    match tombstone_id(&entry.document) == *hash {
        true => Ok(()),
        false => Err(damaged(
            Some(entry.document),
            Some(entry.offset.0),
            "a tombstone with another document's id",
        )),
    }
}

/// Checks a document's row against its digest entry, which covers its id and heads, and against the rows of
/// its snapshot and tombstone.
pub(in crate::store) fn document(conn: &Connection, document: &Document) -> rusqlite::Result<()> {
    let tell = |what| Err(damaged(Some(document.id), None, what));
    if document.digest_entry != document.digest_entry_now() {
        return tell("an id or heads that do not match the digest entry");
    }
    let sql = "SELECT \"offset\" FROM tombstone WHERE document = ?1";
    let offset = |row: &rusqlite::Row<'_>| number(row, 0);
    let stored = conn.prepare_cached(sql)?.query_row([document.row], offset).optional()?;
    if stored != document.tombstone {
        return tell("a tombstone that does not match the row");
    }
    let sql = "SELECT \"offset\" FROM snapshot WHERE document = ?1 AND replaced_at_ms IS NULL";
    let stored = conn.prepare_cached(sql)?.query_row([document.row], offset).optional()?;
    if document.tombstone.is_none() && stored.unwrap_or(0) != document.compacted {
        return tell("a snapshot at another offset than in the row");
    }
    match has_first_head(conn, document)? {
        true => Ok(()),
        false => tell("heads that are not among its changes"),
    }
}

/// Whether the first head is one of the document's changes. A damaged key can put another document's whole row,
/// which is consistent in itself, in the place of this one: the changes would then go out under that
/// document's id.
fn has_first_head(conn: &Connection, document: &Document) -> rusqlite::Result<bool> {
    let Some(head) = document.heads.first() else { return Ok(true) };
    let sql = "SELECT 1 FROM entry WHERE document = ?1 AND hash = ?2";
    if conn.prepare_cached(sql)?.exists(params![document.row, head])? {
        return Ok(true);
    }
    let sql = "SELECT heads FROM snapshot WHERE document = ?1 AND replaced_at_ms IS NULL";
    let heads = |row: &rusqlite::Row<'_>| {
        let heads = row.get_ref(0)?.as_blob()?.as_chunks::<HEAD_BYTES>().0;
        Ok(heads.iter().any(|stored| stored.starts_with(head)))
    };
    Ok(conn.prepare_cached(sql)?.query_row([document.row], heads).optional()?.unwrap_or(false))
}

/// Checks the rows of a document's tail against its row: their number, and that each head is in the tail or
/// in the snapshot.
pub(in crate::store) fn tail(
    document: &Document,
    stored: Option<&Stored>,
    hashes: impl Iterator<Item = [u8; 32]>,
) -> rusqlite::Result<()> {
    let tail: BTreeSet<[u8; 32]> = hashes.collect();
    let tell = |what: &'static str| Err(damaged(Some(document.id), None, what));
    if tail.len() as u64 != document.tail_changes {
        return tell("a tail with another number of changes than in the row");
    }
    let is_compacted =
        |head: &[u8; 32]| stored.is_some_and(|s| s.heads.iter().any(|(at, _)| at.0 == *head));
    match document.heads.iter().all(|head| tail.contains(head) || is_compacted(head)) {
        true => Ok(()),
        false => tell("a head that is not one of the changes"),
    }
}

/// The documents that one read has checked, so that each is checked once.
pub(in crate::store) struct Documents<'a> {
    conn: &'a Connection,
    checked: RefCell<BTreeSet<i64>>,
}

impl<'a> Documents<'a> {
    pub(in crate::store) fn new(conn: &'a Connection) -> Self {
        Self { conn, checked: RefCell::default() }
    }

    pub(in crate::store) fn check(&self, row: i64) -> rusqlite::Result<()> {
        if self.checked.borrow().contains(&row) {
            return Ok(());
        }
        document(self.conn, &Document::at(self.conn, row)?)?;
        self.checked.borrow_mut().insert(row);
        Ok(())
    }
}

/// Checksums of the pieces of snapshots whose whole bytes matched their SHA-256, so that a part can be
/// checked without the others. Computed at first use and kept in memory only: a checksum on disk could have
/// been computed from bytes that were already damaged.
#[derive(Default)]
pub(in crate::store) struct SnapshotSums {
    held: Mutex<HeldSums>,
}

/// Identifies a snapshot: its row, its SHA-256 and its length.
type Key = (i64, [u8; 32], u64);

#[derive(Default)]
struct HeldSums {
    sums: BTreeMap<Key, Arc<[u64]>>,
    /// In insertion order, for eviction.
    order: VecDeque<Key>,
    pieces: usize,
}

impl SnapshotSums {
    /// The checksums of a snapshot's pieces. Reads the whole snapshot at first use.
    pub(in crate::store) fn of(
        &self,
        conn: &Connection,
        document: DocumentId,
        stored: &Stored,
    ) -> rusqlite::Result<Arc<[u64]>> {
        let key = (stored.row, stored.hash, stored.bytes);
        if let Some(sums) = self.held.lock().sums.get(&key) {
            return Ok(Arc::clone(sums));
        }
        let sums: Arc<[u64]> = verified(conn, document, stored)?.into();
        self.held.lock().insert(key, Arc::clone(&sums));
        Ok(sums)
    }
}

impl HeldSums {
    fn insert(&mut self, key: Key, sums: Arc<[u64]>) {
        let pieces = sums.len();
        if self.sums.insert(key, sums).is_none() {
            self.order.push_back(key);
            self.pieces += pieces;
        }
        while self.pieces > limits::SNAPSHOT_SUMS
            && let Some(oldest) = self.order.pop_front()
        {
            self.pieces -= self.sums.remove(&oldest).map_or(0, |sums| sums.len());
        }
    }
}

/// The digest buckets that were checked against the sum of their documents: each is checked once, at the
/// first look-up of a document that it does not contain.
#[derive(Default)]
pub(in crate::store) struct CheckedBuckets {
    checked: Mutex<BTreeSet<(i64, u8)>>,
}

impl CheckedBuckets {
    /// Whether this is the first query for the bucket. Once `CHECKED_BUCKETS` buckets are remembered, all are
    /// forgotten: each is checked again, and none never.
    pub(in crate::store) fn is_first(&self, bucket: (i64, u8)) -> bool {
        let mut checked = self.checked.lock();
        if checked.len() >= limits::CHECKED_BUCKETS {
            checked.clear();
        }
        checked.insert(bucket)
    }

    pub(in crate::store) fn check(
        &self,
        bucket: (i64, u8),
        check: impl FnOnce() -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        if self.checked.lock().contains(&bucket) {
            return Ok(());
        }
        check()?;
        let mut checked = self.checked.lock();
        if checked.len() < limits::CHECKED_BUCKETS {
            checked.insert(bucket);
        }
        Ok(())
    }
}

/// Reads a whole snapshot, with one piece in memory at a time, and checks it against its SHA-256 and the length
/// in its row: a shorter one would end the parts early, each of them whole.
fn verified(
    conn: &Connection,
    document: DocumentId,
    stored: &Stored,
) -> rusqlite::Result<Vec<u64>> {
    let sql = "SELECT bytes FROM snapshot_piece WHERE id >= ?1 AND id < ?2 ORDER BY id";
    let mut find = conn.prepare_cached(sql)?;
    let mut rows = find.query([pieces(stored.row).0, pieces(stored.row).1])?;
    let (mut hasher, mut sums, mut bytes) = (Sha256::new(), Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let piece = row.get_ref(0)?.as_blob()?;
        hasher.update(piece);
        bytes += piece.len() as u64;
        sums.push(sum(piece));
    }
    let found: [u8; 32] = hasher.finalize().into();
    match found == stored.hash && bytes == stored.bytes {
        true => Ok(sums),
        false => Err(snapshot_damage(document, stored)),
    }
}

/// Whether a snapshot's bytes match its SHA-256 and the length in its row. Reads from disk, never from
/// memory.
pub(in crate::store) fn is_whole(
    conn: &Connection,
    document: DocumentId,
    stored: &Stored,
) -> rusqlite::Result<bool> {
    match verified(conn, document, stored) {
        Ok(_) => Ok(true),
        Err(error) if is_content_damage(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the error comes from [`damaged`] and not from SQLite.
fn is_content_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::ToSqlConversionFailure(source) => source.is::<ContentDamage>(),
        _ => false,
    }
}

/// The error for a snapshot whose bytes differ from those written.
pub(in crate::store) fn snapshot_damage(document: DocumentId, stored: &Stored) -> rusqlite::Error {
    damaged(Some(document), Some(stored.offset), "damaged bytes of a snapshot")
}

/// The checksum of a piece.
pub(in crate::store) fn sum(piece: &[u8]) -> u64 {
    // In memory only, so it may differ in another release.
    let mut hasher = DefaultHasher::new();
    hasher.write(piece);
    hasher.finish()
}

/// Checks a log's recorded head against its last row: entries after a head that is too small would never be
/// sent.
pub(in crate::store) fn head(
    conn: &Connection,
    space: i64,
    stated: Offset,
) -> rusqlite::Result<()> {
    for table in ["entry", "snapshot", "tombstone"] {
        let sql = format!(
            "SELECT \"offset\" FROM {table} WHERE space = ?1 AND \"offset\" > ?2 {} LIMIT 1",
            if table == "snapshot" { "AND replaced_at_ms IS NULL" } else { "" }
        );
        let is_beyond = conn
            .prepare_cached(&sql)
            .and_then(|mut find| find.exists(params![space, column(stated.0)?]));
        let is_beyond = match is_beyond {
            // The index cannot be read. The read of the log meets the same damage, and reads around it.
            Err(error) if is_damage(&error) => false,
            is_beyond => is_beyond?,
        };
        if is_beyond {
            let what = format!("a log with entries behind its recorded end {stated}");
            return Err(damaged(None, None, what));
        }
    }
    Ok(())
}

/// Checks the indexes of a log against its documents, by number and total of the offsets. A row that an index
/// misses, or has under another offset, would be left out silently: offsets have gaps, so no reader would
/// notice. Reads indexes only, some 0.1 s for a million entries.
pub(in crate::store) fn log(conn: &Connection, space: i64) -> rusqlite::Result<()> {
    let read = |sql: &str| {
        let mut count = conn.prepare_cached(sql)?;
        count.query_row([space], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?)))
    };
    for (what, by_log, by_documents) in COUNTS {
        let ((found, total), (expected, expected_total)) = (read(by_log)?, read(by_documents)?);
        if found != expected {
            let what = format!("a log index with only {found} of {expected} {what}");
            return Err(damaged(None, None, what));
        }
        if total != expected_total {
            let what = format!("a log index with other offsets than those of its {what}");
            return Err(damaged(None, None, what));
        }
    }
    Ok(())
}

/// The offsets by the log's index, and by the documents. A column of an index can be read as NULL, which only a
/// comparison leaves out.
const COUNTS: [(&str, &str, &str); 3] = [
    (
        "changes",
        "SELECT count(*), total(\"offset\") FROM entry WHERE space = ?1 AND \"offset\" > 0",
        "SELECT count(*), total(c.\"offset\") FROM document d CROSS JOIN entry c \
            INDEXED BY entry_document ON c.document = d.id WHERE d.space = ?1",
    ),
    (
        "snapshots",
        "SELECT count(*), total(\"offset\") FROM snapshot INDEXED BY snapshot_log \
            WHERE space = ?1 AND replaced_at_ms IS NULL AND \"offset\" > 0",
        "SELECT count(*), total(folded) FROM document \
            WHERE space = ?1 AND folded > 0 AND tombstone IS NULL",
    ),
    (
        "deletions",
        "SELECT count(*), total(\"offset\") FROM tombstone WHERE space = ?1 AND \"offset\" > 0",
        "SELECT count(*), total(tombstone) FROM document \
            WHERE space = ?1 AND tombstone IS NOT NULL",
    ),
];

/// Checks that each space is found by its name: one that is not would look like an empty space.
pub(in crate::store) fn spaces(conn: &Connection) -> rusqlite::Result<()> {
    let mut all = conn.prepare("SELECT id, name FROM space NOT INDEXED")?;
    let mut find = conn.prepare("SELECT id FROM space WHERE name = ?1")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
        let found: Option<i64> = find.query_row([&name], |row| row.get(0)).optional()?;
        if found != Some(id) {
            return Err(broken("a space's name in its row differs from its index"));
        }
    }
    Ok(())
}
