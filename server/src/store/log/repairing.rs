//! Repair from clients' copies: finds which changes of a document differ from what was written, and replaces
//! their bytes. A row keeps its offset and hash, and a snapshot its offset and changes, so a repair adds
//! nothing to a log and removes nothing from it.

use std::collections::BTreeSet;

use landfall_protocol::relay::Snapshot;
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store::damage::damaged;
use crate::store::log::plan;
use crate::store::log::read::change_of_row;
use crate::store::rows::checked::{self};
use crate::store::rows::documents::{self, Document};
use crate::store::rows::schema::{column, number};
use crate::store::rows::snapshots::{self, PIECE_BYTES, Stored, encoded_heads, pieces};

/// Bytes of changes, and rows, per examining read.
const READ_BYTES: usize = 1024 * 1024;
const READ_ROWS: i64 = 4_096;

/// Each row of the tail according to the index of its document, and whether the log's index and the index of
/// hashes lead to the same row.
const TAIL: &str = "SELECT i.\"offset\", d.document, e.kind, e.flags, e.hash, e.at_ms, e.author, \
    e.deps, e.body, e.\"offset\" = i.\"offset\" AND e.document = ?1 AND e.space = ?2 AND \
    i.id = (SELECT l.id FROM entry l WHERE l.space = ?2 AND l.\"offset\" = i.\"offset\") AND \
    i.id = (SELECT h.id FROM entry h WHERE h.document = ?1 AND h.hash = e.hash) \
    FROM entry i INDEXED BY entry_document LEFT JOIN entry e ON e.id = i.id \
    LEFT JOIN document d ON d.id = ?1 WHERE i.document = ?1 AND i.\"offset\" > ?3 ORDER BY i.\"offset\" LIMIT ?4";

const HASHES: &str = "SELECT hash FROM entry WHERE document = ?1 AND \"offset\" > ?2";

/// The result of one examining read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// Changes whose bytes are damaged.
    pub changes: Vec<ChangeHash>,
    /// The hash of the snapshot, if its bytes are damaged.
    pub snapshot: Option<[u8; 32]>,
    /// The next read continues after this offset; `None` at the end.
    pub next: Option<Offset>,
}

/// The result of a repair with a client's copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// How many replaced damaged bytes.
    pub count: u64,
    /// Those of the given changes that the tail holds with intact bytes, repaired or not. Compacted changes
    /// are not among them.
    pub whole: BTreeSet<ChangeHash>,
}

/// Examines one part of a document.
pub(in crate::store) fn examine(
    conn: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    after: Option<Offset>,
) -> rusqlite::Result<Examined> {
    let mut examined = Examined::default();
    let Some((space, found)) = documents::find(conn, name, document)? else { return Ok(examined) };
    if after.is_none() {
        examined.snapshot = frame(conn, &found)?;
    }
    if let Some(tombstone) = found.tombstone {
        plan::tombstone(conn, found.row, Offset(tombstone))?;
        return Ok(examined);
    }
    // Changes compacted meanwhile are skipped; the next examination covers them.
    let after = after.map_or(found.compacted, |after| after.0.max(found.compacted));
    let mut find = conn.prepare_cached(TAIL)?;
    let mut rows = find.query(params![found.row, space, column(after)?, READ_ROWS])?;
    let (mut bytes, mut taken) = (0, 0);
    while let Some(row) = rows.next()? {
        let offset = number(row, 0)?;
        if row.get::<_, Option<bool>>(9)? != Some(true) {
            let what = "a row that does not match its index entries";
            return Err(damaged(Some(found.id), Some(offset), what));
        }
        // A mismatch outside the bytes cannot be repaired from a client's copy, so it is an error.
        let entry = change_of_row(row, row.get(8)?)?;
        checked::form(&entry)?;
        if checked::body(&entry.body, &entry.id).is_err() {
            examined.changes.push(ChangeHash(entry.id));
        }
        (bytes, taken) = (bytes + entry.body.len(), taken + 1);
        if bytes >= READ_BYTES || taken == READ_ROWS {
            examined.next = Some(Offset(offset));
            break;
        }
    }
    Ok(examined)
}

/// Checks everything of a document except its changes; returns the hash of the snapshot if its bytes are
/// damaged.
fn frame(conn: &Connection, found: &Document) -> rusqlite::Result<Option<[u8; 32]>> {
    checked::document(conn, found)?;
    if found.tombstone.is_some() {
        return Ok(None);
    }
    let stored = match found.compacted {
        0 => None,
        _ => snapshots::current(conn, found.row)?,
    };
    let mut find = conn.prepare_cached(HASHES)?;
    let hash = |row: &Row<'_>| row.get(0);
    let tail = find.query_map(params![found.row, column(found.compacted)?], hash)?;
    let tail = tail.collect::<rusqlite::Result<Vec<[u8; 32]>>>()?;
    checked::tail(found, stored.as_ref(), tail.into_iter())?;
    match stored {
        Some(stored) if !checked::is_whole(conn, found.id, &stored)? => Ok(Some(stored.hash)),
        _ => Ok(None),
    }
}

/// Checks the stored bytes of changes against their hashes, and replaces damaged ones by these.
pub(in crate::store) fn changes(
    tx: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    changes: &[(ChangeHash, Vec<u8>)],
) -> rusqlite::Result<Replaced> {
    let mut repaired = Replaced::default();
    let Some((_, mut found)) = documents::find(tx, name, document)? else { return Ok(repaired) };
    if found.tombstone.is_some() {
        return Ok(repaired);
    }
    let mut find = tx.prepare_cached(
        "SELECT id, body FROM entry WHERE document = ?1 AND hash = ?2 AND \"offset\" > ?3",
    )?;
    let mut replace = tx.prepare_cached("UPDATE entry SET body = ?2 WHERE id = ?1")?;
    let mut is_as_long = true;
    for (hash, bytes) in changes {
        if checked::body(bytes, &hash.0).is_err() {
            continue;
        }
        let both = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let key = params![found.row, hash.0, column(found.compacted)?];
        let there: Option<(i64, Vec<u8>)> = find.query_row(key, both).optional()?;
        let Some((row, before)) = there else { continue };
        repaired.whole.insert(*hash);
        if checked::body(&before, &hash.0).is_ok() {
            continue;
        }
        replace.execute(params![row, bytes])?;
        repaired.count += 1;
        // A change has the same hash compressed and uncompressed, so its length may differ.
        is_as_long &= before.len() == bytes.len();
    }
    if !is_as_long {
        let sql = "SELECT total(length(body)) FROM entry WHERE document = ?1 AND \"offset\" > ?2";
        let key = params![found.row, column(found.compacted)?];
        let total: f64 = tx.prepare_cached(sql)?.query_row(key, |row| row.get(0))?;
        found.tail_bytes = total as u64;
        found.save(tx)?;
    }
    Ok(repaired)
}

/// Replaces a snapshot whose bytes are damaged by one of the same changes.
pub(in crate::store) fn snapshot(
    tx: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    hash: &[u8; 32],
    snapshot: &Snapshot,
) -> rusqlite::Result<bool> {
    let Some((_, found)) = documents::find(tx, name, document)? else { return Ok(false) };
    let stored = snapshots::current(tx, found.row)?.filter(|stored| stored.hash == *hash);
    let Some(stored) = stored.filter(|stored| stands_for_the_same(stored, snapshot)) else {
        return Ok(false);
    };
    if found.tombstone.is_some() {
        return Ok(false);
    }
    let (low, high) = pieces(stored.row);
    let sql = "DELETE FROM snapshot_piece WHERE id >= ?1 AND id < ?2";
    tx.prepare_cached(sql)?.execute([low, high])?;
    let sql = "INSERT INTO snapshot_piece (id, bytes) VALUES (?1, ?2)";
    let mut insert = tx.prepare_cached(sql)?;
    for (number, piece) in snapshot.body.chunks(PIECE_BYTES).enumerate() {
        insert.execute(params![low + number as i64, piece])?;
    }
    let sql = "UPDATE snapshot SET hash = ?2, bytes = ?3 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![
        stored.row,
        snapshot.hash,
        snapshot.body.len() as i64
    ])?;
    let sql = "INSERT OR REPLACE INTO snapshot_index (snapshot, packed) VALUES (?1, ?2)";
    tx.prepare_cached(sql)?.execute(params![stored.row, snapshot.packed])?;
    Ok(true)
}

/// Heads identify their whole history by hashes: two histories with equal heads are equal.
fn stands_for_the_same(stored: &Stored, snapshot: &Snapshot) -> bool {
    encoded_heads(&stored.heads) == encoded_heads(&snapshot.heads)
        && stored.changes == snapshot.changes
}
