//! The signals that documents and the open store send to the link, which they do not know.

use crate::store::SpaceRow;

/// The receiver of the signals. No call waits for the link's thread.
pub(crate) trait LinkSignals: Send + Sync {
    /// These spaces have changes to push.
    fn has_changes(&self, rows: &mut dyn Iterator<Item = SpaceRow>);

    /// Spaces of the store were added or removed.
    fn spaces_changed(&self);
}
