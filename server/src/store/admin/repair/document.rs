//! Repairs one document: recomputes its rows from its bytes, and drops rows without whole bytes.

use std::collections::{HashMap, HashSet};

use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::digest::tombstone_id;
use landfall_protocol::frame::{entry_flags, entry_kind};
use landfall_protocol::{ChangeHash, DocumentId, SpaceName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Damaged, DocumentRepair};
use crate::store::log::fill::reckon;
use crate::store::rows::actors::Actors;
use crate::store::rows::documents::{self, Document};
use crate::store::rows::schema::{column, hashes, number};
use crate::store::rows::snapshots::{self, Stored};

const TAIL: &str = "SELECT id, \"offset\", hash, actor, seq, deps FROM entry \
    WHERE document = ?1 AND \"offset\" > ?2 ORDER BY \"offset\"";

/// Rebuilds a document from its whole bytes.
pub(super) fn repair_document(
    tx: &Connection,
    name: &SpaceName,
    document: &DocumentId,
    damaged: &Damaged,
) -> rusqlite::Result<DocumentRepair> {
    let mut repaired = DocumentRepair::default();
    let Some((space, mut document)) = documents::find(tx, name, document)? else {
        return Ok(repaired);
    };
    if tombstone(tx, space, &mut document)? {
        return document.save(tx).map(|()| repaired);
    }
    let mut stored = snapshots::current(tx, document.row)?;
    if damaged.snapshot
        && let Some(lost) = stored.take()
    {
        drop_snapshot(tx, &lost)?;
        repaired.dropped_snapshots += 1;
    }
    let index = match &stored {
        Some(stored) => snapshot(tx, stored)?,
        None => None,
    };
    if index.is_none() {
        repaired.index = stored.as_ref().map(|stored| stored.hash);
    }
    // The step before may have rewritten the heads.
    let stored = snapshots::current(tx, document.row)?;
    document.compacted = stored.as_ref().map_or(0, |stored| stored.offset);
    document.compacted_changes = stored.as_ref().map_or(0, |stored| stored.changes);
    for offset in &damaged.changes {
        repaired.dropped_changes += change(tx, &document, *offset)?;
    }
    let compacted = stored.is_some().then_some(index.as_ref());
    repaired.dropped_changes += drop_unsupported(tx, &document, compacted)?;
    let heads = stored.map_or(Vec::new(), |stored| stored.heads);
    document.heads = heads.into_iter().map(|(head, _)| head.0).collect();
    reckon(tx, &mut document)?;
    document.save(tx)?;
    Ok(repaired)
}

/// A deletion is final, so the record of it in either place counts.
fn tombstone(tx: &Connection, space: i64, document: &mut Document) -> rusqlite::Result<bool> {
    let sql = "SELECT \"offset\" FROM tombstone WHERE document = ?1";
    let stated = tx.prepare_cached(sql)?.query_row([document.row], |row| number(row, 0));
    let Some(offset) = document.tombstone.or(stated.optional()?) else { return Ok(false) };
    let id = tombstone_id(&document.id);
    let sql = "INSERT INTO tombstone (document, space, \"offset\", hash, author, at_ms) \
        VALUES (?1, ?2, ?3, ?4, x'', 0) ON CONFLICT (document) DO UPDATE SET \
        space = excluded.space, \"offset\" = excluded.\"offset\", hash = excluded.hash";
    tx.prepare_cached(sql)?.execute(params![document.row, space, column(offset)?, id])?;
    snapshots::retire(tx, document.row, 0)?;
    document.tombstone = Some(offset);
    document.heads.clear();
    (document.tail_changes, document.tail_bytes) = (0, 0);
    (document.compacted, document.compacted_changes) = (0, 0);
    document.dead = true;
    document.digest_entry = document.digest_entry_now();
    document.reckon_due(tx)?;
    Ok(true)
}

/// Deletes a snapshot whose bytes are lost, with its derived rows. Changes that it replaced and that are not
/// deleted yet are live again.
fn drop_snapshot(tx: &Connection, stored: &Stored) -> rusqlite::Result<()> {
    let (low, high) = snapshots::pieces(stored.row);
    let sql = "DELETE FROM snapshot_piece WHERE id >= ?1 AND id < ?2";
    tx.prepare_cached(sql)?.execute([low, high])?;
    tx.prepare_cached("DELETE FROM snapshot_index WHERE snapshot = ?1")?.execute([stored.row])?;
    tx.prepare_cached("DELETE FROM snapshot WHERE id = ?1")?.execute([stored.row])?;
    let sql = "DELETE FROM folded_actor WHERE document = ?1";
    tx.prepare_cached(sql)?.execute([stored.document])?;
    Ok(())
}

/// Recomputes a snapshot's rows from its index; returns the index, if it is whole.
fn snapshot(tx: &Connection, stored: &Stored) -> rusqlite::Result<Option<PackedIndex>> {
    let packed = snapshots::packed(tx, stored.row)?.unwrap_or_default();
    let Ok(index) = PackedIndex::parse(packed) else { return Ok(None) };
    let max_op = |head: &ChangeHash| index.find(head).map_or(0, |found| found.max_op);
    let heads: Vec<_> = index.heads().into_iter().map(|head| (head, max_op(&head))).collect();
    let heads = snapshots::encoded_heads(&heads);
    let sql = "UPDATE snapshot SET heads = ?2, changes = ?3 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![stored.row, heads, index.len() as i64])?;
    let sql = "DELETE FROM folded_actor WHERE document = ?1";
    tx.prepare_cached(sql)?.execute([stored.document])?;
    let sql = "INSERT INTO folded_actor (document, actor, seq, hash, max_op) \
        VALUES (?1, ?2, ?3, ?4, ?5)";
    let (mut insert, mut actors) = (tx.prepare_cached(sql)?, Actors::new(tx));
    for last in index.actors() {
        let (actor, seq) = (actors.row(&last.actor)?, column(last.seq)?);
        let max_op = column(last.max_op)?;
        insert.execute(params![stored.document, actor, seq, last.hash.0, max_op])?;
    }
    Ok(Some(index))
}

/// Rewrites a change's row from its bytes; drops the row if the bytes are no change, or one that another row
/// has. Returns how many were dropped.
fn change(tx: &Connection, document: &Document, offset: u64) -> rusqlite::Result<u64> {
    let key = params![document.row, column(offset)?];
    let sql = "SELECT id, body FROM entry WHERE document = ?1 AND \"offset\" = ?2";
    let both = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: Option<(i64, Vec<u8>)> = tx.prepare_cached(sql)?.query_row(key, both).optional()?;
    let Some((row, body)) = found else { return Ok(0) };
    let is_set = match preflight(&body) {
        Ok(change) => set_row(tx, row, &change)?,
        Err(_) => false,
    };
    if !is_set {
        tx.prepare_cached("DELETE FROM entry WHERE id = ?1")?.execute([row])?;
    }
    Ok(u64::from(!is_set))
}

fn set_row(tx: &Connection, row: i64, change: &CheckedChange) -> rusqlite::Result<bool> {
    let actor = Actors::new(tx).row(&change.actor)?;
    let deps: Vec<[u8; 32]> = change.dependencies.iter().map(|hash| hash.0).collect();
    // Updates nothing if another row has the change, or the actor's sequence number.
    let sql = "UPDATE OR IGNORE entry SET kind = ?2, flags = flags & ?3, hash = ?4, actor = ?5, \
        seq = ?6, max_op = ?7, deps = ?8 WHERE id = ?1";
    let set = tx.prepare_cached(sql)?.execute(params![
        row,
        entry_kind::CHANGE,
        entry_flags::SECOND_ROOT,
        change.hash.0,
        actor,
        column(change.seq)?,
        column(change.max_op)?,
        deps.as_flattened(),
    ])?;
    Ok(set == 1)
}

/// Drops changes whose dependencies are missing, or that do not follow their actor's last change. `compacted`
/// is the index of the snapshot, if that is known. Returns how many were dropped.
fn drop_unsupported(
    tx: &Connection,
    document: &Document,
    compacted: Option<Option<&PackedIndex>>,
) -> rusqlite::Result<u64> {
    let below = |hash: &ChangeHash| match compacted {
        Some(Some(index)) => index.contains(hash),
        Some(None) => true,
        None => false,
    };
    let mut kept: HashSet<[u8; 32]> = HashSet::new();
    let mut sequences: HashMap<i64, u64> = compacted_sequences(tx, document)?;
    // One pass in log order: a dropped change makes its dependents unsupported too.
    let mut lost = Vec::new();
    let mut find = tx.prepare_cached(TAIL)?;
    let mut rows = find.query(params![document.row, column(document.compacted)?])?;
    while let Some(row) = rows.next()? {
        let (id, hash, actor): (i64, [u8; 32], i64) = (row.get(0)?, row.get(2)?, row.get(3)?);
        let rests = hashes(row, 5)?;
        let mut rests = rests.iter();
        let is_carried = rests.all(|hash| kept.contains(hash) || below(&ChangeHash(*hash)));
        let (last, next) = (sequences.get(&actor).copied().unwrap_or(0), number(row, 4)?);
        if is_carried && next == last + 1 {
            kept.insert(hash);
            sequences.insert(actor, next);
        } else {
            lost.push(id);
        }
    }
    drop(rows);
    let mut delete = tx.prepare_cached("DELETE FROM entry WHERE id = ?1")?;
    for id in &lost {
        delete.execute([id])?;
    }
    Ok(lost.len() as u64)
}

fn compacted_sequences(
    tx: &Connection,
    document: &Document,
) -> rusqlite::Result<HashMap<i64, u64>> {
    let sql = "SELECT actor, seq FROM folded_actor WHERE document = ?1";
    let mut find = tx.prepare_cached(sql)?;
    let pair = |row: &Row<'_>| Ok((row.get(0)?, number(row, 1)?));
    find.query_map([document.row], pair)?.collect()
}
