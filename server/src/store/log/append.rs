//! Writes a commit: the rows of its new entries, and for each document that it touches the derived rows,
//! once.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use landfall_protocol::frame::Entry;
use landfall_protocol::lineage::EpochRecord;
use landfall_protocol::space::{Commit, NewEntry, NewKind};
use landfall_protocol::{DocumentId, Offset, SpaceName};
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::lookups::digests::Buckets;
use crate::store::rows::actors::Actors;
use crate::store::rows::documents::{Added, Document};
use crate::store::rows::schema::{broken, column};
use crate::store::rows::snapshots;

const INSERT_ENTRY: &str = "INSERT INTO entry \
    (space, \"offset\", document, kind, flags, hash, actor, seq, max_op, at_ms, author, deps, body) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

const INSERT_TOMBSTONE: &str = "INSERT INTO tombstone \
    (document, space, \"offset\", hash, author, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// Writes a commit into the transaction. Calls `at` with the document at which it fails, if the failure is
/// one document's.
pub(in crate::store) fn append(
    tx: &Connection,
    commit: &Commit,
    at: &mut dyn FnMut(DocumentId),
) -> rusqlite::Result<()> {
    let Some(last) = commit.entries.last() else { return Ok(()) };
    let space = raised(tx, &commit.space, last.entry.offset)?;
    if let Some(record) = &commit.opens {
        insert_epoch(tx, space, record)?;
    }
    let mut touched = TouchedRows { tx, space, documents: HashMap::new(), actors: Actors::new(tx) };
    for new in &commit.entries {
        touched.add(new).inspect_err(|_| at(new.entry.document))?;
    }
    touched.save(at)
}

/// Advances the head of a space's log; returns the space's row, inserted if absent.
fn raised(tx: &Connection, name: &SpaceName, head: Offset) -> rusqlite::Result<i64> {
    let key = params![name.as_str(), column(head.0)?];
    let mut raise = tx.prepare_cached("UPDATE space SET head = ?2 WHERE name = ?1 RETURNING id")?;
    match raise.query_row(key, |row| row.get(0)).optional()? {
        Some(id) => Ok(id),
        None => tx.prepare_cached("INSERT INTO space (name, head) VALUES (?1, ?2)")?.insert(key),
    }
}

pub(in crate::store) fn insert_epoch(
    tx: &Connection,
    space: i64,
    record: &EpochRecord,
) -> rusqlite::Result<()> {
    let EpochRecord { epoch, first, predecessor } = record;
    let predecessor = predecessor.as_ref().map(|epoch| epoch.as_bytes());
    tx.prepare_cached(
        "INSERT INTO epoch (space, first, epoch, predecessor) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![space, column(first.0)?, epoch.as_bytes(), predecessor])?;
    Ok(())
}

/// A document that a commit touches.
struct Changed {
    document: Document,
    /// Its last entry in this commit.
    last: Offset,
    added: Added,
}

/// The rows that a commit touches. Dropped with it: after a rollback the row ids would be dangling.
struct TouchedRows<'a> {
    tx: &'a Connection,
    space: i64,
    documents: HashMap<DocumentId, Changed>,
    actors: Actors<'a>,
}

impl TouchedRows<'_> {
    fn add(&mut self, new: &NewEntry) -> rusqlite::Result<()> {
        let NewEntry { entry, kind } = new;
        let Self { tx, space, documents, actors } = self;
        let changed = match documents.entry(entry.document) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(slot) => {
                let document = match Document::find(tx, *space, &entry.document)? {
                    Some(document) => document,
                    None => Document::insert(tx, *space, &entry.document)?,
                };
                slot.insert(Changed { document, last: entry.offset, added: Added::default() })
            }
        };
        changed.last = entry.offset;
        let document = &mut changed.document;
        if document.tombstone.is_some() {
            return Err(broken("an entry of a deleted document"));
        }
        match kind {
            NewKind::Change { actor, seq, max_op, operations } => {
                insert_change(
                    tx,
                    *space,
                    document.row,
                    entry,
                    (actors.row(actor)?, *seq, *max_op),
                )?;
                document.add_change(entry.id, &entry.dependencies, entry.body.len());
                document.operations = document.operations.saturating_add(*operations);
                let Added { operations: all, max_op: last } = changed.added;
                let operations = all.saturating_add(*operations);
                changed.added = Added { operations, max_op: last.max(*max_op) };
                Ok(())
            }
            NewKind::Tombstone => delete(tx, *space, document, entry),
            NewKind::Snapshot(snapshot) => {
                if snapshot.changes < document.compacted_changes + document.tail_changes {
                    return Err(broken("a snapshot with fewer changes than the document"));
                }
                document.heads = snapshot.heads.iter().map(|(hash, _)| hash.0).collect();
                document.heads.sort_unstable();
                let place = snapshots::SnapshotPosition { space: *space, offset: entry.offset };
                snapshots::replace(tx, actors, document, place, snapshot, entry.at_ms)?;
                (document.tail_changes, document.tail_bytes) = (0, 0);
                document.reckon_due(tx)
            }
        }
    }

    /// Writes the data derived from the entries: document rows and digests.
    fn save(self, at: &mut dyn FnMut(DocumentId)) -> rusqlite::Result<()> {
        let mut buckets = Buckets::new(self.tx, self.space);
        for Changed { mut document, last, added } in self.documents.into_values() {
            let digest_entry = document.digest_entry_now();
            let id = document.id;
            buckets.note(&id, document.digest_entry, digest_entry)?;
            document.digest_entry = digest_entry;
            document.note_due(self.tx, last, added)?;
            document.save(self.tx).inspect_err(|_| at(id))?;
        }
        buckets.save()
    }
}

pub(in crate::store) fn insert_change(
    tx: &Connection,
    space: i64,
    document: i64,
    entry: &Entry,
    (actor, seq, max_op): (i64, u64, u64),
) -> rusqlite::Result<()> {
    tx.prepare_cached(INSERT_ENTRY)?.execute(params![
        space,
        column(entry.offset.0)?,
        document,
        entry.kind,
        entry.flags,
        entry.id,
        actor,
        column(seq)?,
        column(max_op)?,
        column(entry.at_ms)?,
        entry.author.as_slice(),
        entry.dependencies.as_flattened(),
        entry.body.as_slice(),
    ])?;
    Ok(())
}

/// Deletes a document: its earlier entries are dead.
fn delete(
    tx: &Connection,
    space: i64,
    document: &mut Document,
    entry: &Entry,
) -> rusqlite::Result<()> {
    tx.prepare_cached(INSERT_TOMBSTONE)?.execute(params![
        document.row,
        space,
        column(entry.offset.0)?,
        entry.id,
        entry.author.as_slice(),
        column(entry.at_ms)?,
    ])?;
    snapshots::retire(tx, document.row, 0)?;
    tx.prepare_cached("DELETE FROM fold_failure WHERE document = ?1")?.execute([document.row])?;
    document.tombstone = Some(entry.offset.0);
    document.heads.clear();
    (document.tail_changes, document.tail_bytes) = (0, 0);
    (document.compacted, document.compacted_changes) = (0, 0);
    document.dead = true;
    document.reckon_due(tx)
}
