//! Writing a commit: rows for what is new, with the row ids of its documents and actors looked up
//! once each.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use landfall_protocol::lineage::EpochRecord;
use landfall_protocol::space::{Commit, NewEntry};
use landfall_protocol::{ActorId, DocumentId, SpaceName};
use rusqlite::{OptionalExtension, Transaction, params};

use super::schema::column;

const INSERT_ENTRY: &str = "INSERT INTO entry \
    (space, \"offset\", document, kind, flags, hash, actor, seq, max_op, at_ms, author, deps, body) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// Writes a commit into the transaction.
pub(super) fn append(tx: &Transaction<'_>, commit: &Commit) -> rusqlite::Result<()> {
    let space = space_row(tx, &commit.space)?;
    if let Some(record) = &commit.opens {
        insert_epoch(tx, space, record)?;
    }
    let mut rows = Rows { tx, space, documents: HashMap::new(), actors: HashMap::new() };
    let mut insert = tx.prepare_cached(INSERT_ENTRY)?;
    let mut dependencies = Vec::new();
    for NewEntry { entry, actor, seq, max_op } in &commit.entries {
        dependencies.clear();
        entry.dependencies.iter().for_each(|hash| dependencies.extend_from_slice(hash));
        insert.execute(params![
            space,
            column(entry.offset.0)?,
            rows.document(entry.document)?,
            entry.kind,
            entry.flags,
            entry.id,
            rows.actor(actor)?,
            column(*seq)?,
            column(*max_op)?,
            column(entry.at_ms)?,
            entry.author.as_slice(),
            dependencies,
            entry.body.as_slice(),
        ])?;
    }
    Ok(())
}

fn space_row(tx: &Transaction<'_>, name: &SpaceName) -> rusqlite::Result<i64> {
    let mut find = tx.prepare_cached("SELECT id FROM space WHERE name = ?1")?;
    match find.query_row([name.as_str()], |row| row.get(0)).optional()? {
        Some(id) => Ok(id),
        None => tx.prepare_cached("INSERT INTO space (name) VALUES (?1)")?.insert([name.as_str()]),
    }
}

fn insert_epoch(tx: &Transaction<'_>, space: i64, record: &EpochRecord) -> rusqlite::Result<()> {
    let EpochRecord { epoch, first, predecessor } = record;
    let predecessor = predecessor.as_ref().map(|epoch| epoch.as_bytes());
    tx.prepare_cached(
        "INSERT INTO epoch (space, first, epoch, predecessor) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![space, column(first.0)?, epoch.as_bytes(), predecessor])?;
    Ok(())
}

/// The row ids of what this commit names. Not kept beyond it: a commit that is rolled back would
/// leave ids behind that lead nowhere.
struct Rows<'a> {
    tx: &'a Transaction<'a>,
    space: i64,
    documents: HashMap<DocumentId, i64>,
    actors: HashMap<ActorId, i64>,
}

impl Rows<'_> {
    fn document(&mut self, document: DocumentId) -> rusqlite::Result<i64> {
        let slot = match self.documents.entry(document) {
            Slot::Occupied(known) => return Ok(*known.get()),
            Slot::Vacant(slot) => slot,
        };
        let key = params![self.space, document.as_bytes()];
        let mut find =
            self.tx.prepare_cached("SELECT id FROM document WHERE space = ?1 AND document = ?2")?;
        let id = match find.query_row(key, |row| row.get(0)).optional()? {
            Some(id) => id,
            None => self
                .tx
                .prepare_cached("INSERT INTO document (space, document) VALUES (?1, ?2)")?
                .insert(key)?,
        };
        Ok(*slot.insert(id))
    }

    fn actor(&mut self, actor: &ActorId) -> rusqlite::Result<i64> {
        if let Some(id) = self.actors.get(actor) {
            return Ok(*id);
        }
        let key = params![actor.to_bytes()];
        let mut find = self.tx.prepare_cached("SELECT id FROM actor WHERE actor = ?1")?;
        let id = match find.query_row(key, |row| row.get(0)).optional()? {
            Some(id) => id,
            None => self.tx.prepare_cached("INSERT INTO actor (actor) VALUES (?1)")?.insert(key)?,
        };
        self.actors.insert(actor.clone(), id);
        Ok(id)
    }
}
