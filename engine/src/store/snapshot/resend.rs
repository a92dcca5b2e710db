//! Changes that a relay requests again, because its store has them and cannot read them.

use landfall_compaction::{Compacted, CompactionLimits};
use landfall_protocol::weight::Weight;
use landfall_protocol::{ChangeHash, DocumentId, limits};
use rusqlite::{Connection, OptionalExtension, params};

use super::compaction::CompactionInput;
use crate::store::ViewError;
use crate::store::log::rows::{DocumentRow, document_row, parts};
use crate::store::log::snapshots::body;
use crate::store::{LocalLog, SpaceRow};

/// The data that is sent again.
pub(crate) enum Resendable {
    /// These changes.
    Changes(Vec<Vec<u8>>),
    /// A snapshot is to be made of all this, which has this weight.
    Whole(CompactionInput, Weight),
}

impl LocalLog {
    /// Reads the named changes of a document, as many as fit a push window but at least one. If some of
    /// them are compacted, or none are named, reads the whole document, unless it exceeds the limit of
    /// a snapshot.
    pub(crate) fn resendable(
        &self,
        space: SpaceRow,
        document: &DocumentId,
        changes: &[ChangeHash],
    ) -> Result<Resendable, ViewError> {
        self.view(|conn| {
            let nothing = Resendable::Changes(Vec::new());
            let Some(row) = document_row(conn, space, document)? else { return Ok(nothing) };
            let parts = parts(conn, row)?;
            let is_deleted = conn
                .prepare_cached("SELECT 1 FROM deleted WHERE document = ?1")?
                .exists([row.0])?;
            if is_deleted || parts.changes() == 0 {
                return Ok(nothing);
            }
            let found = named(conn, row, parts.base, changes)?;
            let has_all = found.len() == changes.len() || parts.compacted_changes == 0;
            if !changes.is_empty() && has_all {
                return Ok(Resendable::Changes(fitting_a_window(found)));
            }
            if parts.document_bytes() > limits::DOCUMENT_BYTES {
                // No snapshot may hold all of it.
                return Ok(Resendable::Changes(fitting_a_window(found)));
            }
            let tail = conn
                .prepare_cached(
                    "SELECT body FROM change WHERE document = ?1 AND local > ?2 ORDER BY local",
                )?
                .query_map(params![row.0, parts.base], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let operations = parts.operations.max(parts.counter);
            let weight = Weight { changes: parts.changes(), operations, bytes: parts.bytes() };
            Ok(Resendable::Whole(
                CompactionInput { snapshot: body(conn, row)?, changes: tail },
                weight,
            ))
        })
    }
}

/// Those of some changes that are in the tail, in the order of the log.
fn named(
    conn: &Connection,
    document: DocumentRow,
    base: u64,
    changes: &[ChangeHash],
) -> rusqlite::Result<Vec<(u64, Vec<u8>)>> {
    let mut find = conn.prepare_cached(
        "SELECT local, body FROM change WHERE document = ?1 AND hash = ?2 AND local > ?3",
    )?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for hash in changes.iter().take(limits::RESEND_CHANGES) {
        let both = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?));
        let key = params![document.0, hash.0, base];
        if let Some((local, body)) = find.query_row(key, both).optional()? {
            bytes += body.len();
            found.push((local, body));
        }
        if bytes > 2 * limits::PUSH_WINDOW_BYTES {
            break;
        }
    }
    found.sort_unstable_by_key(|(local, _)| *local);
    Ok(found)
}

/// As many changes as fit a push window, at least one.
fn fitting_a_window(found: Vec<(u64, Vec<u8>)>) -> Vec<Vec<u8>> {
    let mut bytes = 0;
    let fits = |(at, (_, body)): &(usize, (u64, Vec<u8>))| {
        bytes += body.len();
        *at == 0 || bytes <= limits::PUSH_WINDOW_BYTES
    };
    found.into_iter().enumerate().take_while(fits).map(|(_, (_, body))| body).collect()
}

/// Makes a snapshot of everything. Costs as much as loading the document and saving it.
pub(crate) fn whole(
    input: CompactionInput,
) -> Result<Compacted, landfall_compaction::CompactionError> {
    let snapshots: Vec<&[u8]> = input.snapshot.as_deref().into_iter().collect();
    landfall_compaction::compact_within(&snapshots, input.changes, &CompactionLimits::default())
}
