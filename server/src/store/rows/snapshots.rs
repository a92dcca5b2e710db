//! Snapshots as rows: their bytes in pieces, checked as they are read, their packed index, and the last change of each
//! actor in it.

use landfall_protocol::compacted::{LastOfActor, PackedIndex};
use landfall_protocol::frame::{EncodedEntry, Entry};
use landfall_protocol::relay::{Snapshot, SnapshotPart};
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName, limits};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use crate::store::damage::damaged;
use crate::store::rows::actors::Actors;
use crate::store::rows::checked::{self, SnapshotSums};
use crate::store::rows::documents::{self, Document};
use crate::store::rows::schema::{column, document_id, number};
use crate::store::rows::snapshot_row::HEAD_BYTES;
pub(in crate::store) use crate::store::rows::snapshot_row::{PIECE_BYTES, Stored, pieces};

/// A snapshot's position: its space and offset.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct SnapshotPosition {
    pub(in crate::store) space: i64,
    pub(in crate::store) offset: Offset,
}

impl Stored {
    /// Its entry, with its bytes if they are to be sent in it.
    pub(in crate::store) fn entry(&self, document: DocumentId, body: Option<Vec<u8>>) -> Entry {
        let heads: Vec<ChangeHash> = self.heads.iter().map(|(hash, _)| *hash).collect();
        Entry::of_snapshot(Offset(self.offset), document, self.hash, &heads, self.at_ms, body)
    }

    /// Its entry, with its verified bytes if they fit in one.
    pub(in crate::store) fn encoded(
        &self,
        conn: &Connection,
        document: DocumentId,
    ) -> rusqlite::Result<EncodedEntry> {
        let is_short = self.bytes <= limits::SNAPSHOT_INLINE_BYTES as u64;
        let body = is_short.then(|| self.whole(conn, document));
        Ok(EncodedEntry::new(&self.entry(document, body.transpose()?)))
    }

    /// Whether the pieces have as many bytes as the row states.
    pub(in crate::store) fn is_as_long(&self, conn: &Connection) -> rusqlite::Result<bool> {
        let sql = "SELECT coalesce(sum(length(bytes)), 0) FROM snapshot_piece \
            WHERE id >= ?1 AND id < ?2";
        let (low, high) = pieces(self.row);
        let there = conn.prepare_cached(sql)?.query_row([low, high], |row| number(row, 0))?;
        Ok(there == self.bytes)
    }

    /// All its bytes, verified.
    pub(in crate::store) fn whole(
        &self,
        conn: &Connection,
        document: DocumentId,
    ) -> rusqlite::Result<Vec<u8>> {
        // The stated length sizes a buffer, and could be damaged.
        if !self.is_as_long(conn)? {
            return Err(checked::snapshot_damage(document, self));
        }
        let bytes = self.read(conn, 0, self.bytes as usize)?;
        let found: [u8; 32] = Sha256::digest(&bytes).into();
        match found == self.hash {
            true => Ok(bytes),
            false => Err(checked::snapshot_damage(document, self)),
        }
    }

    /// Its bytes from a position on, bounded in number.
    pub(in crate::store) fn read(
        &self,
        conn: &Connection,
        from: u64,
        most: usize,
    ) -> rusqlite::Result<Vec<u8>> {
        self.read_with(conn, from, most, &mut |_, _| Ok(()))
    }

    /// The same; calls `check` with each piece read and its number.
    fn read_with(
        &self,
        conn: &Connection,
        from: u64,
        most: usize,
        check: &mut dyn FnMut(usize, &[u8]) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Vec<u8>> {
        let until = self.bytes.min(from.saturating_add(most as u64));
        let mut bytes = Vec::with_capacity(until.saturating_sub(from) as usize);
        let first = from / PIECE_BYTES as u64;
        let mut number = first as usize;
        let mut skip = (from % PIECE_BYTES as u64) as usize;
        let sql = "SELECT bytes FROM snapshot_piece WHERE id >= ?1 AND id < ?2 ORDER BY id";
        let mut find = conn.prepare_cached(sql)?;
        let (low, high) = pieces(self.row);
        let mut rows = find.query([low + column(first)?, high])?;
        while from + (bytes.len() as u64) < until {
            let Some(row) = rows.next()? else { break };
            let piece = row.get_ref(0)?.as_blob()?;
            check(number, piece)?;
            number += 1;
            let left = (until - from) as usize - bytes.len();
            let piece = piece.get(skip..).unwrap_or_default();
            bytes.extend_from_slice(&piece[..piece.len().min(left)]);
            skip = 0;
        }
        match from.saturating_add(bytes.len() as u64) < until {
            true => Err(damaged(None, Some(self.offset), "a snapshot with missing bytes")),
            false => Ok(bytes),
        }
    }

    /// A part of it, verified; `None` if it has no byte at that position.
    pub(in crate::store) fn part(
        &self,
        conn: &Connection,
        sums: &SnapshotSums,
        document: DocumentId,
        from: u64,
    ) -> rusqlite::Result<Option<SnapshotPart>> {
        let sums = sums.of(conn, document, self)?;
        let bytes =
            self.read_with(conn, from, limits::PART_BYTES, &mut |number, piece| match sums
                .get(number)
                == Some(&checked::sum(piece))
            {
                true => Ok(()),
                false => Err(checked::snapshot_damage(document, self)),
            })?;
        let (hash, total) = (self.hash, self.bytes);
        let part = SnapshotPart { document, hash, total, from, bytes };
        Ok((!part.bytes.is_empty()).then_some(part))
    }
}

/// The column value of heads with their last operation counters.
pub(in crate::store) fn encoded_heads(heads: &[(ChangeHash, u64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(heads.len() * HEAD_BYTES);
    for (hash, max_op) in heads {
        bytes.extend_from_slice(&hash.0);
        bytes.extend_from_slice(&max_op.to_le_bytes());
    }
    bytes
}

/// A document's current snapshot.
pub(in crate::store) fn current(
    conn: &Connection,
    document: i64,
) -> rusqlite::Result<Option<Stored>> {
    let sql = "SELECT id, document, \"offset\", hash, heads, changes, bytes, at_ms, replaced_at_ms \
        FROM snapshot WHERE document = ?1 AND replaced_at_ms IS NULL";
    conn.prepare_cached(sql)?.query_row([document], |row| Stored::of_row(row, 0)).optional()
}

/// A snapshot of a space by its hash, with its document: the current one, else the one replaced last. `None`
/// for a deleted document.
pub(in crate::store) fn by_hash(
    conn: &Connection,
    space: i64,
    hash: &[u8; 32],
) -> rusqlite::Result<Option<(DocumentId, Stored)>> {
    let sql = "SELECT d.document, s.id, s.document, s.\"offset\", s.hash, s.heads, s.changes, \
        s.bytes, s.at_ms, s.replaced_at_ms FROM snapshot s JOIN document d ON d.id = s.document \
        WHERE s.hash = ?2 AND s.space = ?1 AND d.tombstone IS NULL \
        AND (s.replaced_at_ms IS NULL OR s.replaced_at_ms > 0) \
        ORDER BY s.replaced_at_ms IS NOT NULL, s.replaced_at_ms DESC LIMIT 1";
    let of_row = |row: &Row<'_>| Ok((document_id(row, 0)?, Stored::of_row(row, 1)?));
    let found = conn.prepare_cached(sql)?.query_row(params![space, hash], of_row).optional()?;
    if found.is_none() {
        is_gone(conn, space, hash)?;
    }
    Ok(found)
}

/// Checks against the table itself that a snapshot missing from the index of hashes does not exist. Snapshots
/// are few, and requests for missing ones are rare.
fn is_gone(conn: &Connection, space: i64, hash: &[u8; 32]) -> rusqlite::Result<()> {
    let sql = "SELECT d.document FROM snapshot s LEFT JOIN document d ON d.id = s.document \
        WHERE s.space = ?1 AND +s.hash = ?2 AND s.replaced_at_ms IS NULL \
        AND d.tombstone IS NULL LIMIT 1";
    let id = |row: &Row<'_>| document_id(row, 0);
    match conn.prepare_cached(sql)?.query_row(params![space, hash], id).optional()? {
        Some(id) => Err(damaged(Some(id), None, "an index that lacks the snapshot")),
        None => Ok(()),
    }
}

/// A snapshot of a space as an entry: with its body if that fits.
pub(in crate::store) fn entry(
    conn: &Connection,
    space: i64,
    hash: &[u8; 32],
) -> rusqlite::Result<Option<EncodedEntry>> {
    let Some((document, stored)) = by_hash(conn, space, hash)? else { return Ok(None) };
    stored.encoded(conn, document).map(Some)
}

/// A part of a snapshot of a space.
pub(in crate::store) fn part(
    conn: &Connection,
    sums: &SnapshotSums,
    space: i64,
    hash: &[u8; 32],
    from: u64,
) -> rusqlite::Result<Option<SnapshotPart>> {
    match by_hash(conn, space, hash)? {
        Some((document, stored)) => stored.part(conn, sums, document, from),
        None => Ok(None),
    }
}

/// The packed index of a snapshot.
pub(in crate::store) fn packed(
    conn: &Connection,
    snapshot: i64,
) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut find = conn.prepare_cached("SELECT packed FROM snapshot_index WHERE snapshot = ?1")?;
    find.query_row([snapshot], |row| row.get(0)).optional()
}

/// Marks a document's current snapshot as replaced. One replaced at time 0 is no longer found.
pub(in crate::store) fn retire(
    conn: &Connection,
    document: i64,
    at_ms: u64,
) -> rusqlite::Result<()> {
    let sql = "UPDATE snapshot SET replaced_at_ms = ?2 \
        WHERE document = ?1 AND replaced_at_ms IS NULL";
    conn.prepare_cached(sql)?.execute(params![document, column(at_ms)?])?;
    Ok(())
}

/// Replaces a document's current snapshot. The changes that the new one covers are dead from now on; the
/// caller updates the document's tail and heads.
pub(in crate::store) fn replace(
    conn: &Connection,
    actors: &mut Actors<'_>,
    document: &mut Document,
    place: SnapshotPosition,
    snapshot: &Snapshot,
    at_ms: u64,
) -> rusqlite::Result<()> {
    retire(conn, document.row, at_ms.max(1))?;
    let SnapshotPosition { space, offset } = place;
    let sql = "INSERT INTO snapshot (document, space, \"offset\", hash, heads, changes, bytes, \
        at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let row = conn.prepare_cached(sql)?.insert(params![
        document.row,
        space,
        column(offset.0)?,
        snapshot.hash,
        encoded_heads(&snapshot.heads),
        column(snapshot.changes)?,
        snapshot.body.len() as i64,
        column(at_ms)?,
    ])?;
    let sql = "INSERT INTO snapshot_piece (id, bytes) VALUES (?1, ?2)";
    let mut insert = conn.prepare_cached(sql)?;
    for (number, piece) in snapshot.body.chunks(PIECE_BYTES).enumerate() {
        insert.execute(params![pieces(row).0 + number as i64, piece])?;
    }
    conn.prepare_cached("INSERT INTO snapshot_index (snapshot, packed) VALUES (?1, ?2)")?
        .execute(params![row, snapshot.packed])?;
    let sql = "INSERT INTO folded_actor (document, actor, seq, hash, max_op) \
        VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (document, actor) \
        DO UPDATE SET seq = excluded.seq, hash = excluded.hash, max_op = excluded.max_op";
    let mut insert = conn.prepare_cached(sql)?;
    for LastOfActor { actor, seq, hash, max_op } in &snapshot.actors {
        let (actor, seq, max_op) = (actors.row(actor)?, column(*seq)?, column(*max_op)?);
        insert.execute(params![document.row, actor, seq, hash.0, max_op])?;
    }
    (document.compacted, document.compacted_changes) = (offset.0, snapshot.changes);
    document.operations = document.operations.max(snapshot.operations);
    document.dead = true;
    Ok(())
}

/// Stores an index for a document's current snapshot; false if the snapshot was replaced, or the index has
/// other heads.
pub(in crate::store) fn store_index(
    tx: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    hash: &[u8; 32],
    index: Vec<u8>,
) -> rusqlite::Result<bool> {
    let Some((_, found)) = documents::find(tx, name, document)? else { return Ok(false) };
    let stored = current(tx, found.row)?.filter(|stored| stored.hash == *hash);
    let (Some(stored), Ok(index)) = (stored, PackedIndex::parse(index)) else { return Ok(false) };
    let is_its = stored.heads.iter().map(|(head, _)| *head).eq(index.heads());
    if !is_its || index.len() as u64 != stored.changes {
        // The index was built from bytes with this hash, so the row is what is damaged.
        let what = "a snapshot's row whose heads differ from its bytes";
        return Err(damaged(Some(*document), Some(stored.offset), what));
    }
    let sql = "INSERT OR REPLACE INTO snapshot_index (snapshot, packed) VALUES (?1, ?2)";
    tx.prepare_cached(sql)?.execute(params![stored.row, index.as_bytes()])?;
    Ok(true)
}
