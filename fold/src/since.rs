//! Taking single changes out of a snapshot again.

use automerge::Change;
use landfall_protocol::folded::PackedIndex;
use landfall_protocol::{ChangeHash, limits};

use crate::FoldError;
use crate::build::{contained, folded_changes, load};

/// The changes of a snapshot that one who has `have`, and all that it rests on, does not have:
/// each as one chunk, dependencies first. Hashes that the snapshot does not hold are ignored.
///
/// A chunk is not deflated, unless it would be longer than a change may be as it travels.
pub fn changes_since(snapshot: &[u8], have: &[ChangeHash]) -> Result<Vec<Vec<u8>>, FoldError> {
    contained(|| {
        let document = load(snapshot, 0)?;
        let index = PackedIndex::parse(PackedIndex::pack(&folded_changes(&document))?)?;
        let mut missing = index.missing(have);
        let mut changes = document.get_changes(have);
        if changes.len() != missing.len() {
            // automerge goes by clocks: it leaves out all changes of an actor before one that is
            // had, though none of them need rest on the one before it.
            missing.sort_unstable();
            changes = document.get_changes(&[]);
            changes.retain(|change| missing.binary_search(&change.hash()).is_ok());
        }
        Ok(changes.into_iter().map(chunk).collect())
    })
}

/// A change as it travels.
pub(crate) fn chunk(mut change: Change) -> Vec<u8> {
    if change.raw_bytes().len() <= limits::CHANGE_BYTES {
        change.raw_bytes().to_vec()
    } else {
        change.bytes().into_owned()
    }
}
