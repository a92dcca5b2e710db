//! Runs a closure as one automerge transaction, within the limits of a change.

use std::sync::Arc;

use automerge::transaction::{CommitOptions, Transactable, Transaction};
use automerge::{Change, Patch, PatchLog};
use landfall_protocol::limits;

use super::{Loaded, OpenDocument};
use crate::clock::now_ms;
use crate::error::ChangeError;
use crate::failure::BoxError;

pub(super) type Transacted<T> = (T, Option<Change>, Option<Arc<[Patch]>>);

pub(super) fn transact<T>(
    document: &OpenDocument,
    loaded: &mut Loaded,
    closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
) -> Result<Transacted<T>, ChangeError> {
    let listening = document.has_listeners();
    let log = if listening { PatchLog::active() } else { PatchLog::inactive() };
    let mut transaction = loaded
        .automerge
        .transaction_log_patches(log)
        .map_err(|error| ChangeError::Closure(Box::new(error)))?;
    let value = match closure(&mut transaction) {
        Ok(value) => value,
        Err(error) => {
            transaction.rollback();
            return Err(ChangeError::Closure(error));
        }
    };
    let excess = excess(&transaction);
    let (hash, mut log) = transaction.commit_with(options());
    excess?;
    if hash.is_none() {
        return Ok((value, None, None));
    }
    let change = loaded.automerge.get_last_local_change();
    let make = || loaded.automerge.make_patches(&mut log);
    let patches = if listening { document.patches(make) } else { None };
    Ok((value, change, patches))
}

/// Rejects a change with too many operations, before its patches are made, its bytes compressed and admission
/// runs.
pub(super) fn excess(transaction: &Transaction<'_>) -> Result<(), ChangeError> {
    let (limit, actual) = (limits::CHANGE_OPERATIONS, transaction.pending_ops() as u64);
    match actual > limit {
        true => Err(ChangeError::TooManyOperations { limit, actual }),
        false => Ok(()),
    }
}

pub(super) fn options() -> CommitOptions {
    CommitOptions::default().with_time(now_seconds())
}

/// Seconds since 1970.
pub(super) fn now_seconds() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap_or(0)
}
