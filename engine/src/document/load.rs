//! Building a document from the store's bytes, and surviving what automerge cannot.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::{Automerge, Change, PatchLog, TextEncoding};
use landfall_protocol::DocumentId;

use super::Loaded;
use crate::error::StoreError;
use crate::store::{LocalLog, SpaceRow};

/// Bytes of changes that are read from the store in one page.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// An empty document as this engine makes them: text positions count Unicode code points.
pub(crate) fn empty() -> Automerge {
    Automerge::new_with_encoding(TextEncoding::UnicodeCodePoint)
}

/// Builds a document from everything that the store has of it.
pub(super) fn load(
    log: &LocalLog,
    space: SpaceRow,
    document: &DocumentId,
) -> Result<Loaded, StoreError> {
    let mut automerge = empty();
    let (mut applied, mut quarantined) = (0, None);
    if let Some(row) = log.document(space, document)? {
        let mut changes = Vec::new();
        loop {
            let (page, more) = log.changes_after(row, applied, PAGE_BYTES)?;
            applied = page.last().map_or(applied, |stored| stored.local);
            changes.extend(page.into_iter().map(|stored| stored.body));
            if !more {
                break;
            }
        }
        match apply(&automerge, &changes, &mut PatchLog::inactive()) {
            Ok(built) => automerge = built,
            Err(reason) => {
                automerge = last_good(&changes);
                quarantined = Some(reason);
            }
        }
    }
    Ok(Loaded { automerge, has_actor: false, applied, since_clone: None, quarantined })
}

/// The document with these changes added, or what automerge said. The original is untouched,
/// whatever happens: automerge 0.12 can panic on changes that no check of ours finds (such as
/// operations on an object that does not exist).
pub(super) fn apply(
    base: &Automerge,
    changes: &[Vec<u8>],
    patches: &mut PatchLog,
) -> Result<Automerge, String> {
    let parsed: Result<Vec<Change>, _> =
        changes.iter().map(|bytes| Change::from_bytes(bytes.clone())).collect();
    let parsed = parsed.map_err(|error| error.to_string())?;
    apply_parsed(base.clone(), parsed, patches)
}

pub(super) fn apply_parsed(
    mut onto: Automerge,
    changes: Vec<Change>,
    patches: &mut PatchLog,
) -> Result<Automerge, String> {
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        onto.apply_changes_log_patches(changes, patches).map(|()| onto)
    }));
    match attempt {
        Ok(Ok(built)) => Ok(built),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("automerge panicked: {}", panic_text(&*panic))),
    }
}

/// The document built from the longest prefix of the changes that automerge can take.
fn last_good(changes: &[Vec<u8>]) -> Automerge {
    let (mut good, mut bad) = (0, changes.len());
    let mut built = empty();
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match apply(&built, &changes[good..middle], &mut PatchLog::inactive()) {
            Ok(next) => (built, good) = (next, middle),
            Err(_) => bad = middle,
        }
    }
    built
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a message".to_owned())
}
