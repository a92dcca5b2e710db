//! Calls of automerge that build a document from changes: in batches, and with its panics caught.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::{Automerge, Change, PatchLog, TextEncoding};
use landfall_protocol::limits;

use crate::threads::panic_text;

/// How many operations one call passes to automerge: it takes some 400 bytes for each while it applies
/// them.
pub(crate) const BATCH_OPERATIONS: usize = limits::CHANGE_OPERATIONS as usize;

/// An empty document as this engine makes them: text positions count Unicode code points.
pub(crate) fn empty() -> Automerge {
    Automerge::new_with_encoding(TextEncoding::UnicodeCodePoint)
}

/// The document with these changes added, or automerge's error.
pub(crate) fn apply_parsed(
    mut onto: Automerge,
    changes: Vec<Change>,
    patches: &mut PatchLog,
) -> Result<Automerge, String> {
    contained(|| {
        for batch in batches(changes) {
            onto.apply_changes_log_patches(batch, patches)?;
        }
        Ok::<_, automerge::AutomergeError>(onto)
    })
}

/// The changes in their order, in batches of [`BATCH_OPERATIONS`].
pub(crate) fn batches(changes: Vec<Change>) -> impl Iterator<Item = Vec<Change>> {
    let mut changes = changes.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = changes.next()?;
        let mut operations = first.len();
        let mut batch = vec![first];
        while let Some(next) = changes.next_if(|next| operations + next.len() <= BATCH_OPERATIONS) {
            operations += next.len();
            batch.push(next);
        }
        Some(batch)
    })
}

/// Calls automerge, which in 0.12 can panic on changes that admission does not detect (such as
/// operations on an object that does not exist).
pub(crate) fn contained<T, E: std::fmt::Display>(
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(built)) => Ok(built),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("automerge panicked: {}", panic_text(&*panic))),
    }
}
