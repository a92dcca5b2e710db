//! The actors that this store uses for its documents, the clean-shutdown marker, and the number of a
//! document's actors.

use landfall_protocol::{ActorId, DocumentId};
use landfall_storage::Durability;
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::log::rows::document_row;
use crate::store::{DocumentRow, LocalLog, SpaceRow, ViewError, WriteFailure};

/// The clean-shutdown marker: a random value that a clean close writes both in the store and outside
/// it.
pub(crate) type Nonce = [u8; 16];

/// The actor that this store uses for a document.
pub(crate) type OwnActor = (SpaceRow, DocumentId, ActorId);

impl LocalLog {
    /// Reads and clears the clean-shutdown marker. Unless it equals `outside`, no actor of an earlier
    /// opening may be used again, and they are forgotten: the file may be a copy.
    ///
    /// It takes no fsync: every later write reaches the disk after it.
    pub(crate) fn take_clean_close(&self, outside: Option<Nonce>) -> Result<(), WriteFailure> {
        let something = self.view(|conn| {
            conn.query_row(
                "SELECT EXISTS (SELECT * FROM clean_close) OR EXISTS (SELECT * FROM own_actor)",
                [],
                |row| row.get::<_, bool>(0),
            )
        });
        // If the marker cannot be read, it is cleared; or clearing fails too.
        if matches!(something, Ok(false)) {
            return Ok(());
        }
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let inside: Option<Vec<u8>> =
                tx.query_row("SELECT nonce FROM clean_close", [], |row| row.get(0)).optional()?;
            tx.execute("DELETE FROM clean_close", [])?;
            let sure = outside.is_some_and(|outside| inside.as_deref() == Some(&outside[..]));
            if !sure {
                tx.execute("DELETE FROM own_actor", [])?;
            }
            Ok::<_, rusqlite::Error>(())
        };
        self.db.write(Durability::Relaxed, job).map(drop)
    }

    /// The actor that may continue a document.
    pub(crate) fn own_actor(
        &self,
        space: SpaceRow,
        document: &DocumentId,
    ) -> Result<Option<ActorId>, ViewError> {
        self.view(|conn| {
            let Some(row) = document_row(conn, space, document)? else { return Ok(None) };
            conn.prepare_cached(
                "SELECT a.actor FROM own_actor o JOIN actor a ON a.id = o.actor
                 WHERE o.document = ?1",
            )?
            .query_row([row.0], |row| Ok(ActorId::from(row.get::<_, Vec<u8>>(0)?)))
            .optional()
        })
    }

    /// Stores actors for later openings, without waiting. If that fails, they are not used again.
    pub(crate) fn submit_own_actors(&self, actors: Vec<OwnActor>) {
        let job = move |tx: &rusqlite::Transaction<'_>| keep(tx, &actors);
        self.db.submit(Durability::Relaxed, job, |kept| {
            if let Err(error) = kept {
                tracing::warn!(%error, "cannot store actors; they are not used again");
            }
        });
    }

    /// Stores the actors of this opening, forgets those of documents where they cannot continue, and
    /// writes the clean-shutdown marker if there is any actor left. Closing the store makes it durable.
    pub(crate) fn close_cleanly(
        &self,
        actors: Vec<OwnActor>,
        ended: Vec<(SpaceRow, DocumentId)>,
        nonce: Nonce,
    ) -> Result<bool, WriteFailure> {
        let job = move |tx: &rusqlite::Transaction<'_>| {
            for (space, document) in &ended {
                if let Some(row) = document_row(tx, *space, document)? {
                    tx.execute("DELETE FROM own_actor WHERE document = ?1", [row.0])?;
                }
            }
            keep(tx, &actors)?;
            let any =
                tx.query_row("SELECT EXISTS (SELECT * FROM own_actor)", [], |row| row.get(0))?;
            if any {
                tx.execute("INSERT OR REPLACE INTO clean_close VALUES (1, ?1)", [nonce])?;
            }
            Ok::<_, rusqlite::Error>(any)
        };
        self.db.write(Durability::Relaxed, job).map(|committed| committed.value)
    }
}

/// How many actors have changed a document.
pub(in crate::store) fn count(conn: &Connection, document: DocumentRow) -> rusqlite::Result<u64> {
    conn.prepare_cached(
        "SELECT count(*) FROM (
             SELECT actor FROM change WHERE document = ?1
             UNION SELECT actor FROM folded_actor WHERE document = ?1)",
    )?
    .query_row([document.0], |row| row.get(0))
}

/// Only an actor that made a change of the document can continue it.
fn keep(conn: &Connection, actors: &[OwnActor]) -> rusqlite::Result<()> {
    for (space, document, actor) in actors {
        let Some(row) = document_row(conn, *space, document)? else { continue };
        conn.prepare_cached(
            "INSERT OR REPLACE INTO own_actor (document, actor)
             SELECT ?1, id FROM actor WHERE actor = ?2",
        )?
        .execute(params![row.0, actor.to_bytes()])?;
    }
    Ok(())
}
