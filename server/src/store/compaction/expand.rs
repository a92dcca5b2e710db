//! Splits a snapshot into its changes again. Replicas reject a snapshot above the size limit, so its changes
//! become entries of their own, at the end of the log.
//!
//! They get new offsets, in a new epoch: their original offsets are not known any more, and a replica that
//! has them recognises the repetition. The document's tail moves after them, so that every entry still
//! follows its dependencies. Only while no other writer runs.

use landfall_protocol::admission::CheckedChange;
use landfall_protocol::frame::{Entry, entry_flags};
use landfall_protocol::lineage::EpochRecord;
use landfall_protocol::{DocumentId, Epoch, Offset, SpaceName};
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::log::append::{insert_change, insert_epoch};
use crate::store::rows::actors::Actors;
use crate::store::rows::documents;
use crate::store::rows::documents::head;
use crate::store::rows::schema::{broken, column, document_id, number};
use crate::store::rows::snapshots;

/// The documents whose current snapshots exceed `most_bytes` bytes.
pub(in crate::store) fn oversized(
    conn: &Connection,
    most_bytes: u64,
) -> rusqlite::Result<Vec<(SpaceName, DocumentId, u64)>> {
    let sql = "SELECT p.name, d.document, s.bytes FROM snapshot s \
        JOIN document d ON d.id = s.document JOIN space p ON p.id = s.space \
        WHERE s.replaced_at_ms IS NULL AND s.bytes > ?1 AND d.tombstone IS NULL ORDER BY s.id";
    let mut find = conn.prepare_cached(sql)?;
    let mut rows = find.query([column(most_bytes.min(i64::MAX as u64))?])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let name = SpaceName::try_from(row.get::<_, String>(0)?);
        let name = name.map_err(|_| broken("a space's name is invalid"))?;
        found.push((name, document_id(row, 1)?, number(row, 2)?));
    }
    Ok(found)
}

/// Replaces a document's snapshot by its changes, dependencies first; false if the document has changed.
/// `fresh` must never have been used before.
pub(in crate::store) fn expand(
    tx: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    hash: &[u8; 32],
    changes: Vec<CheckedChange>,
    fresh: Epoch,
) -> rusqlite::Result<bool> {
    let Some((space, mut found)) = documents::find(tx, name, document)? else { return Ok(false) };
    let current = snapshots::current(tx, found.row)?.filter(|stored| stored.hash == *hash);
    let Some(stored) = current.filter(|stored| stored.changes == changes.len() as u64) else {
        return Ok(false);
    };
    let tail = tail(tx, found.row, found.compacted)?;
    let sql = "DELETE FROM entry WHERE document = ?1 AND \"offset\" <= ?2";
    tx.prepare_cached(sql)?.execute(params![found.row, column(found.compacted)?])?;
    snapshots::retire(tx, found.row, 0)?;
    tx.prepare_cached("DELETE FROM folded_actor WHERE document = ?1")?.execute([found.row])?;
    let mut at = head(tx, space)?.0;
    open_epoch(tx, space, Offset(at + 1), fresh)?;
    let mut actors = Actors::new(tx);
    let mut begun = false;
    for change in changes {
        at += 1;
        let is_second = begun && change.dependencies.is_empty();
        begun = true;
        let (actor, seq, max_op) = (actors.row(&change.actor)?, change.seq, change.max_op);
        found.tail_changes += 1;
        found.tail_bytes += change.bytes.len() as u64;
        // The author of a compacted change was not kept.
        let mut entry = Entry::of_change(Offset(at), *document, change, &[], stored.at_ms);
        entry.flags |= if is_second { entry_flags::SECOND_ROOT } else { 0 };
        insert_change(tx, space, found.row, &entry, (actor, seq, max_op))?;
    }
    for offset in tail {
        at += 1;
        let sql = "UPDATE entry SET \"offset\" = ?3 WHERE document = ?1 AND \"offset\" = ?2";
        let key = params![found.row, column(offset)?, column(at)?];
        tx.prepare_cached(sql)?.execute(key)?;
    }
    let key = params![space, column(at)?];
    tx.prepare_cached("UPDATE space SET head = ?2 WHERE id = ?1")?.execute(key)?;
    (found.compacted, found.compacted_changes) = (0, 0);
    found.reckon_due(tx)?;
    found.save(tx)?;
    tx.prepare_cached("DELETE FROM fold_failure WHERE document = ?1")?.execute([found.row])?;
    Ok(true)
}

fn tail(conn: &Connection, document: i64, compacted: u64) -> rusqlite::Result<Vec<u64>> {
    let sql = "SELECT \"offset\" FROM entry WHERE document = ?1 AND \"offset\" > ?2 \
        ORDER BY \"offset\"";
    let mut find = conn.prepare_cached(sql)?;
    let rows = find.query_map(params![document, column(compacted)?], |row| number(row, 0))?;
    rows.collect()
}

/// Starts a new epoch after the last one, as every appending process does: a replica must be able to
/// distinguish these entries from others that had the same offsets before a backup was restored.
fn open_epoch(tx: &Connection, space: i64, first: Offset, fresh: Epoch) -> rusqlite::Result<()> {
    let sql = "SELECT epoch FROM epoch WHERE space = ?1 ORDER BY first DESC LIMIT 1";
    let last: Option<[u8; 16]> =
        tx.prepare_cached(sql)?.query_row([space], |row| row.get(0)).optional()?;
    let predecessor = last.map(Epoch::from_bytes);
    insert_epoch(tx, space, &EpochRecord { epoch: fresh, first, predecessor })
}
