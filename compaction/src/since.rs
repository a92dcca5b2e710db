//! Extracts single changes from a snapshot.

use automerge::Change;
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::{ChangeHash, limits};

use crate::CompactionError;
use crate::build::{compacted_changes, contained, load};

/// Returns the changes of a snapshot that a peer lacks that has `have` and all their dependencies: each
/// as one chunk, dependencies first. Hashes that the snapshot does not contain are ignored.
///
/// A chunk is deflated only if it would otherwise be longer than a change may be on the wire.
pub fn changes_since(
    snapshot: &[u8],
    have: &[ChangeHash],
) -> Result<Vec<Vec<u8>>, CompactionError> {
    contained(|| {
        let document = load(snapshot, 0)?;
        let index = PackedIndex::parse(PackedIndex::pack(&compacted_changes(&document))?)?;
        let mut missing = index.missing(have);
        let mut changes = document.get_changes(have);
        if changes.len() != missing.len() {
            // automerge compares clocks, so it omits all changes of an actor before one that the peer
            // has, even those on which that change does not depend.
            missing.sort_unstable();
            changes = document.get_changes(&[]);
            changes.retain(|change| missing.binary_search(&change.hash()).is_ok());
        }
        Ok(changes.into_iter().map(chunk).collect())
    })
}

/// Encodes a change for the wire.
pub(crate) fn chunk(mut change: Change) -> Vec<u8> {
    if change.raw_bytes().len() <= limits::CHANGE_BYTES {
        change.raw_bytes().to_vec()
    } else {
        change.bytes().into_owned()
    }
}
