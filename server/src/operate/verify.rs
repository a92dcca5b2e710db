//! `verify`: whether a store holds what was written; and its repair.

use std::path::Path;
use std::sync::Arc;

use landfall_protocol::SpaceName;

use super::{OperateError, must_have_store};
use crate::folding::{FoldOptions, Worker};
use crate::metrics::Metrics;
use crate::store::repair::Repaired;
use crate::store::verify::{Finding, Verified};
use crate::store::{Inspection, LogStore, SqliteStore, StoreError, Subject, Verification};

/// Findings that are kept in memory; more are counted.
const FINDINGS: usize = 10_000;

/// Repairs in a row: the first drops what is gone, the second sets right what followed from it.
const ROUNDS: usize = 4;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What was looked at: the whole store.
    pub(crate) verified: Verified,
    /// The first findings.
    pub(crate) findings: Vec<Finding>,
    /// How many there are that are damage, and not only something to know.
    pub(crate) damage: u64,
}

/// What was found and done.
#[derive(Debug)]
pub(crate) struct Mended {
    /// What was found before the first repair.
    pub(crate) before: Found,
    /// What each repair did.
    pub(crate) rounds: Vec<Repaired>,
    /// What is still to be found.
    pub(crate) after: Found,
}

/// Looks at the store of a data folder, also beside the relay that uses it.
pub(crate) fn verify(data: &Path, space: Option<&SpaceName>) -> Result<Found, OperateError> {
    must_have_store(data)?;
    // Before it is opened: that may end with the log in the database.
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

/// Looks at a copy of a store, which nobody writes.
pub(crate) fn verify_copy(file: &Path) -> Result<Found, OperateError> {
    look(&Inspection::open_file(file)?, None)
}

/// Looks, and sets right what can be, until nothing is found or nothing more can be done.
pub(crate) fn repair(
    data: &Path,
    space: Option<&SpaceName>,
    folds: FoldOptions,
) -> Result<Mended, OperateError> {
    must_have_store(data)?;
    let store = Arc::new(SqliteStore::open(data)?);
    let mended = mend(&store, space, folds);
    // The first error counts.
    let closed = store.close();
    let mended = mended?;
    closed?;
    if space.is_none() {
        Verification::now(mended.after.damage, None).record(data, Subject::Store);
    }
    Ok(mended)
}

fn mend(
    store: &Arc<SqliteStore>,
    space: Option<&SpaceName>,
    folds: FoldOptions,
) -> Result<Mended, OperateError> {
    must_have_space(&store.inspection(), space)?;
    let worker = Worker::new(store.clone(), Arc::new(Metrics::new()), folds);
    let before = look(&store.inspection(), space)?;
    let mut after = look_again(&before);
    let mut rounds = Vec::new();
    while after.damage > 0 && rounds.len() < ROUNDS {
        let repaired = store.repair(&after.findings)?;
        for (space, document, _) in &repaired.indexes {
            // One that cannot be made anew is found again below.
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
    Ok(Mended { before, rounds, after })
}

/// Refuses a name that the store does not have: of nothing, nothing is damaged. Where the names cannot be
/// read, what is looked at next says so.
fn must_have_space(inspection: &Inspection, space: Option<&SpaceName>) -> Result<(), OperateError> {
    let Some(space) = space else { return Ok(()) };
    match inspection.store() {
        Ok(store) if store.spaces.iter().all(|report| report.space != *space) => {
            Err(OperateError::NoSpace(space.clone()))
        }
        _ => Ok(()),
    }
}

fn look_again(found: &Found) -> Found {
    let Found { verified, findings, damage } = found;
    Found { verified: *verified, findings: findings.clone(), damage: *damage }
}

fn look(inspection: &Inspection, space: Option<&SpaceName>) -> Result<Found, OperateError> {
    let mut found = Found::default();
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
