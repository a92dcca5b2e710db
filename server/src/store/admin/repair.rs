//! Repairs what [`verify`](super::verify) found. Derived rows are recomputed from whole bytes. A change or
//! snapshot whose bytes are lost is dropped, with all its dependents, and the space gets a new lineage: every
//! replica then reconciles with this log, and pushes what it has.
//!
//! Only for a store that no relay serves: a running relay's memory would contradict the repaired file.

mod document;

use std::collections::{BTreeMap, BTreeSet};

use landfall_protocol::digest::{Digest, DigestEntry};
use landfall_protocol::relay::EpochRecord;
use landfall_protocol::{DocumentId, Epoch, Offset, SpaceName};
use landfall_storage::Durability;
use rusqlite::{Connection, params};

use crate::store::StoreError;
use crate::store::admin::fault::{Fault, Finding};
use crate::store::log::append::insert_epoch;
use crate::store::rows::documents::space_row;
use crate::store::rows::schema::{column, document_id};
use crate::store::sqlite::SqliteStore;

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Documents whose rows were recomputed.
    pub documents: u64,
    /// Changes that were dropped: damaged, or dependent on a dropped one.
    pub dropped_changes: u64,
    /// Snapshots that were dropped, with their history.
    pub dropped_snapshots: u64,
    /// Spaces with a new lineage, so that replicas push what was dropped.
    pub broken: BTreeSet<SpaceName>,
    /// Packed indexes to rebuild from their snapshots, and to store with
    /// [`store_index`](crate::store::Documents::store_index): space, document, snapshot. Repair again after
    /// that.
    pub indexes: Vec<(SpaceName, DocumentId, [u8; 32])>,
    /// Findings that cannot be repaired here: restore a backup.
    pub left: Vec<Finding>,
}

/// The known damage of one document.
#[derive(Debug, Clone, Default)]
struct Damaged {
    /// Offsets of changes whose bytes or rows are damaged.
    changes: BTreeSet<u64>,
    snapshot: bool,
}

/// The result for one document.
#[derive(Debug, Default)]
struct DocumentRepair {
    dropped_changes: u64,
    dropped_snapshots: u64,
    index: Option<[u8; 32]>,
}

impl SqliteStore {
    /// Repairs the findings, each document in a transaction of its own. The repair is idempotent, so an
    /// interrupted one is simply repeated.
    pub fn repair(&self, findings: &[Finding]) -> Result<Repaired, StoreError> {
        let mut repaired = Repaired::default();
        let mut spaces: BTreeMap<SpaceName, BTreeMap<DocumentId, Damaged>> = BTreeMap::new();
        for finding in findings.iter().filter(|finding| !finding.damage.is_harmless()) {
            let is_lost = finding.damage.is_of_file();
            let Some(space) = finding.space.clone().filter(|_| !is_lost) else {
                repaired.left.push(finding.clone());
                continue;
            };
            let documents = spaces.entry(space).or_default();
            if let Some(document) = finding.document {
                documents.entry(document).or_default().note(finding);
            }
        }
        for (space, documents) in spaces {
            for (document, damaged) in documents {
                self.repair_document(&space, document, damaged, &mut repaired)?;
            }
            let name = space.clone();
            self.repairing(move |tx| sums(tx, &name))?;
        }
        Ok(repaired)
    }

    fn repair_document(
        &self,
        space: &SpaceName,
        document: DocumentId,
        damaged: Damaged,
        repaired: &mut Repaired,
    ) -> Result<(), StoreError> {
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh).map_err(|error| {
            StoreError::failed("repair itself", std::io::Error::other(error.to_string()))
        })?;
        let name = space.clone();
        let outcome = self.repairing(move |tx| {
            let outcome = document::repair_document(tx, &name, &document, &damaged)?;
            if outcome.dropped_changes + outcome.dropped_snapshots > 0 {
                break_lineage(tx, &name, Epoch::from_bytes(fresh))?;
            }
            Ok(outcome)
        })?;
        repaired.documents += 1;
        repaired.dropped_changes += outcome.dropped_changes;
        repaired.dropped_snapshots += outcome.dropped_snapshots;
        if outcome.dropped_changes + outcome.dropped_snapshots > 0 {
            repaired.broken.insert(space.clone());
        }
        let index = outcome.index.map(|snapshot| (space.clone(), document, snapshot));
        repaired.indexes.extend(index);
        Ok(())
    }

    fn repairing<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let written = self.database().write(Durability::Full, move |tx| job(tx));
        written.map(|done| done.value).map_err(|error| StoreError::of_write("repair itself", error))
    }
}

impl Damaged {
    fn note(&mut self, finding: &Finding) {
        match finding.damage {
            Fault::ChangeBytes { .. } | Fault::OtherChange { .. } | Fault::ChangeField { .. } => {
                self.changes.extend(finding.offset.map(|offset| offset.0));
            }
            Fault::SnapshotBytes => self.snapshot = true,
            _ => {}
        }
    }
}

/// Replaces a space's epochs by a new one, which invalidates all cursors.
fn break_lineage(tx: &Connection, name: &SpaceName, fresh: Epoch) -> rusqlite::Result<()> {
    let Some(space) = space_row(tx, name)? else { return Ok(()) };
    tx.prepare_cached("DELETE FROM epoch WHERE space = ?1")?.execute([space])?;
    let record = EpochRecord { epoch: fresh, first: Offset(1), predecessor: None };
    insert_epoch(tx, space, &record)
}

/// Recomputes a space's digests, and moves its head to its last entry.
fn sums(tx: &Connection, name: &SpaceName) -> rusqlite::Result<()> {
    let Some(space) = space_row(tx, name)? else { return Ok(()) };
    let mut digests: BTreeMap<u8, Digest> = BTreeMap::new();
    let sql = "SELECT document, leaf FROM document WHERE space = ?1 AND leaf IS NOT NULL";
    let mut find = tx.prepare_cached(sql)?;
    let mut rows = find.query([space])?;
    while let Some(row) = rows.next()? {
        let digest_entry = DigestEntry::from_bytes(row.get(1)?);
        digests.entry(document_id(row, 0)?.as_bytes()[0]).or_default().add(digest_entry);
    }
    tx.prepare_cached("DELETE FROM digest WHERE space = ?1")?.execute([space])?;
    let sql = "INSERT INTO digest (space, bucket, count, sum) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = tx.prepare_cached(sql)?;
    for (bucket, digest) in digests {
        insert.execute(params![space, bucket, column(digest.count)?, digest.sum_bytes()])?;
    }
    let sql = "UPDATE space SET head = max(head, \
        (SELECT coalesce(max(\"offset\"), 0) FROM entry WHERE space = ?1), \
        (SELECT coalesce(max(\"offset\"), 0) FROM snapshot WHERE space = ?1), \
        (SELECT coalesce(max(\"offset\"), 0) FROM tombstone WHERE space = ?1)) WHERE id = ?1";
    tx.prepare_cached(sql)?.execute([space])?;
    Ok(())
}
