//! Known damage, persisted in the store: a relay that starts reports it before a read meets the damaged place
//! again.

use landfall_protocol::{DocumentId, SpaceName};
use landfall_storage::Durability;
use rusqlite::{Connection, Row, params};

use crate::limits;
use crate::store::damage::condition::{DamagedPlace, Operation};
use crate::store::log::read;
use crate::store::rows::checked;
use crate::store::rows::documents::space_row;
use crate::store::rows::schema::broken;
use crate::store::sqlite::SqliteStore;

/// A place, and whether SQLite itself cannot read it.
pub(in crate::store) type KnownPlace = (DamagedPlace, bool);

/// The persisted places.
pub(in crate::store) fn read(conn: &Connection) -> rusqlite::Result<Vec<KnownPlace>> {
    let mut find = conn.prepare("SELECT space, document, takes_no_writes FROM damaged LIMIT ?1")?;
    let of_row = |row: &Row<'_>| {
        let (space, document): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let broken = || broken("a recorded damaged place is invalid");
        let space = match space.is_empty() {
            true => None,
            false => Some(SpaceName::try_from(space).map_err(|_| broken())?),
        };
        let document = match <[u8; 16]>::try_from(document) {
            Ok(id) => Some(DocumentId::from_bytes(id)),
            Err(none) if none.is_empty() => None,
            Err(_) => return Err(broken()),
        };
        Ok((DamagedPlace { space, document }, row.get(2)?))
    };
    find.query_map([limits::DAMAGED_PLACES as i64], of_row)?.collect()
}

/// Replaces the persisted places.
fn write(tx: &Connection, kept: &[KnownPlace]) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM damaged")?.execute([])?;
    let sql = "INSERT INTO damaged (space, document, takes_no_writes) VALUES (?1, ?2, ?3)";
    let mut insert = tx.prepare_cached(sql)?;
    for (DamagedPlace { space, document }, takes_no_writes) in kept {
        let space = space.as_ref().map_or("", SpaceName::as_str);
        let document = document.as_ref().map_or(&[][..], |id| id.as_bytes());
        insert.execute(params![space, document, takes_no_writes])?;
    }
    Ok(())
}

impl SqliteStore {
    /// Replaces the known damage.
    pub(in crate::store) fn set_known(&self, places: Vec<KnownPlace>) {
        self.recorder().set(places, false);
        self.keep(self.recorder().all());
    }

    /// Loads the damage that was known when the store was closed. Damaged documents stay listed until they
    /// can be read again. Damage of a space, or of the store, may have been repaired in the file: it is
    /// looked for again.
    pub(in crate::store) fn take_up_condition(&self) {
        // An error is recorded.
        let kept = self.read("read the damage that was known", read).unwrap_or_default();
        if kept.is_empty() {
            return;
        }
        tracing::error!(
            places = kept.len(),
            "the store was already damaged when it was last closed"
        );
        let (documents, others): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|(place, _)| place.document.is_some());
        self.recorder().set(documents, !others.is_empty());
        for space in others.into_iter().filter_map(|(place, _)| place.space) {
            // An error is recorded.
            let operation = Operation::of_space("check a log that was damaged", &space);
            let _ = self.read(operation, |conn| {
                read::lineage(conn, &space)?;
                space_row(conn, &space)?.map_or(Ok(()), |row| checked::log(conn, row))
            });
        }
    }

    /// Persists the known damage if it changed; whether it is persisted. A failed write is retried by the
    /// next call.
    pub(in crate::store) fn keep_new_condition(&self) -> bool {
        self.recorder().take_new().is_none_or(|kept| self.keep(kept))
    }

    fn keep(&self, kept: Vec<KnownPlace>) -> bool {
        let written = self.database().write(Durability::Full, move |tx| write(tx, &kept));
        if let Err(error) = &written {
            // The failure is logged, and the next read finds the damage again.
            tracing::warn!(%error, "the list of known damage could not be written");
            self.recorder().put_back();
        }
        written.is_ok()
    }
}
