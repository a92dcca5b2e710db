//! `verify`: checks the integrity of a store, and repairs it. It must not know the command line.

use std::path::Path;
use std::sync::Arc;

use landfall_protocol::SpaceName;

use super::{AdminError, must_have_store};
use crate::compaction::{CompactionOptions, Worker};
use crate::metrics::Metrics;
use crate::store::admin::fault::Finding;
use crate::store::admin::repair::Repaired;
use crate::store::admin::verify::Verified;
use crate::store::{Inspection, Log, SqliteStore, StoreError, Subject, Verification};

/// The most findings kept in memory; further ones are only counted.
const FINDINGS: usize = 10_000;

/// The most repairs in a row: the first drops lost changes, the second recomputes derived values.
const ROUNDS: usize = 4;

/// The result of a verification.
#[derive(Debug, Default)]
pub(crate) struct VerifyFindings {
    /// Totals of the checked data: the whole store.
    pub(crate) verified: Verified,
    /// The first findings.
    pub(crate) findings: Vec<Finding>,
    /// The number of findings that are damage, not merely informational.
    pub(crate) damage: u64,
}

/// The result of a repair.
#[derive(Debug)]
pub(crate) struct RepairResult {
    /// The findings before the first repair.
    pub(crate) before: VerifyFindings,
    /// The result of each repair.
    pub(crate) rounds: Vec<Repaired>,
    /// The remaining findings.
    pub(crate) after: VerifyFindings,
}

/// Verifies the store of a data folder, also beside the relay that uses it.
pub(crate) fn verify(data: &Path, space: Option<&SpaceName>) -> Result<VerifyFindings, AdminError> {
    must_have_store(data)?;
    // Before the store is opened: closing it may checkpoint the log.
    let wal = Inspection::wal_finding(data);
    let inspection = Inspection::open(data)?;
    must_have_space(&inspection, space)?;
    let mut found = look(&inspection, space)?;
    found.damage += u64::from(wal.is_some());
    found.findings.extend(wal);
    if space.is_none() {
        Verification::now(found.damage, None).record(data, Subject::Store);
    }
    Ok(found)
}

/// Verifies a copy of a store, which no process writes.
pub(crate) fn verify_copy(file: &Path) -> Result<VerifyFindings, AdminError> {
    look(&Inspection::open_file(file)?, None)
}

/// Verifies and repairs until there are no findings, or a repair changes none.
pub(crate) fn repair(
    data: &Path,
    space: Option<&SpaceName>,
    compactions: CompactionOptions,
) -> Result<RepairResult, AdminError> {
    must_have_store(data)?;
    let store = Arc::new(SqliteStore::open(data)?);
    let repaired = repair_document(&store, space, compactions);
    // The first error takes precedence.
    let closed = store.close();
    let repaired = repaired?;
    closed?;
    if space.is_none() {
        Verification::now(repaired.after.damage, None).record(data, Subject::Store);
    }
    Ok(repaired)
}

fn repair_document(
    store: &Arc<SqliteStore>,
    space: Option<&SpaceName>,
    compactions: CompactionOptions,
) -> Result<RepairResult, AdminError> {
    must_have_space(&store.inspection(), space)?;
    let worker = Worker::new(store.clone(), Arc::new(Metrics::new()), compactions);
    let before = look(&store.inspection(), space)?;
    let mut after = look_again(&before);
    let mut rounds = Vec::new();
    while after.damage > 0 && rounds.len() < ROUNDS {
        let repaired = store.repair(&after.findings)?;
        for (space, document, _) in &repaired.indexes {
            // The next verification finds an index that could not be rebuilt.
            worker.rebuild(space, document);
        }
        rounds.push(repaired);
        let now = look(&store.inspection(), space)?;
        let is_same = now.findings == after.findings;
        after = now;
        if is_same {
            break;
        }
    }
    if space.is_none() && after.findings.len() < FINDINGS {
        store.set_condition(&after.findings);
    }
    Ok(RepairResult { before, rounds, after })
}

/// Rejects the name of a space that the store does not have, for which a verification would find nothing. If
/// the names cannot be read, the verification reports that.
fn must_have_space(inspection: &Inspection, space: Option<&SpaceName>) -> Result<(), AdminError> {
    let Some(space) = space else { return Ok(()) };
    match inspection.store() {
        Ok(store) if store.spaces.iter().all(|report| report.space != *space) => {
            Err(AdminError::NoSpace(space.clone()))
        }
        _ => Ok(()),
    }
}

fn look_again(found: &VerifyFindings) -> VerifyFindings {
    let VerifyFindings { verified, findings, damage } = found;
    VerifyFindings { verified: *verified, findings: findings.clone(), damage: *damage }
}

fn look(inspection: &Inspection, space: Option<&SpaceName>) -> Result<VerifyFindings, AdminError> {
    let mut found = VerifyFindings::default();
    let verified: Result<Verified, StoreError> = inspection.verify(true, &mut |finding| {
        let is_of_another =
            space.is_some_and(|space| finding.space.as_ref().is_some_and(|of| of != space));
        if is_of_another {
            return;
        }
        found.damage += u64::from(!finding.damage.is_harmless());
        if found.findings.len() < FINDINGS {
            found.findings.push(finding);
        }
    });
    found.verified = verified?;
    Ok(found)
}
