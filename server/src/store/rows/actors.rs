//! The row ids of actors.

use std::collections::HashMap;

use landfall_protocol::ActorId;
use rusqlite::{Connection, OptionalExtension, params};

/// Finds and adds the row ids of actors, each once per transaction.
pub(in crate::store) struct Actors<'a> {
    tx: &'a Connection,
    known: HashMap<ActorId, i64>,
}

impl<'a> Actors<'a> {
    pub(in crate::store) fn new(tx: &'a Connection) -> Self {
        Self { tx, known: HashMap::new() }
    }

    pub(in crate::store) fn row(&mut self, actor: &ActorId) -> rusqlite::Result<i64> {
        if let Some(id) = self.known.get(actor) {
            return Ok(*id);
        }
        let key = params![actor.to_bytes()];
        let mut find = self.tx.prepare_cached("SELECT id FROM actor WHERE actor = ?1")?;
        let id = match find.query_row(key, |row| row.get(0)).optional()? {
            Some(id) => id,
            None => self.tx.prepare_cached("INSERT INTO actor (actor) VALUES (?1)")?.insert(key)?,
        };
        self.known.insert(actor.clone(), id);
        Ok(id)
    }
}
