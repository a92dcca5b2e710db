//! Unreadable documents, which a scan over all documents skips: one of them must not block the rest.

use landfall_protocol::{DocumentId, SpaceName};
use rusqlite::{Connection, OptionalExtension};

use crate::limits;
use crate::store::damage::is_damage;

/// The skipped documents.
#[derive(Default)]
pub(in crate::store) struct PassedOver {
    rows: Vec<(i64, rusqlite::Error)>,
}

/// A skipped document, with its names if they can be read, and the error.
pub(in crate::store) type Passed = (Option<SpaceName>, Option<DocumentId>, rusqlite::Error);

impl PassedOver {
    /// The result of a read of one document; `None` if the document is damaged, which is recorded here.
    /// Returns any other error, and damage beyond the number of documents that is ever reported.
    pub(in crate::store) fn unless<T>(
        &mut self,
        row: i64,
        read: rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if is_damage(&error) && self.rows.len() < limits::DAMAGED_PLACES => {
                self.rows.push((row, error));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// All skipped documents, with their names.
    pub(in crate::store) fn named(self, conn: &Connection) -> Vec<Passed> {
        let name = |(row, error)| {
            let (space, document) = names(conn, row).ok().flatten().unzip();
            (space, document, error)
        };
        self.rows.into_iter().map(name).collect()
    }
}

fn names(conn: &Connection, row: i64) -> rusqlite::Result<Option<(SpaceName, DocumentId)>> {
    let sql = "SELECT s.name, d.document FROM document d JOIN space s ON s.id = d.space \
        WHERE d.id = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?));
    let found = conn.prepare_cached(sql)?.query_row([row], read).optional()?;
    Ok(found.and_then(|(name, id)| Some((name.parse().ok()?, DocumentId::from_bytes(id)))))
}
