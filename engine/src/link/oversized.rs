//! The documents for which the event that they exceed a limit was sent.

use std::collections::BTreeSet;

use landfall_protocol::DocumentId;
use parking_lot::Mutex;

use crate::store::{DocumentLimit, SpaceRow};

/// Documents and limits for which an event was sent.
#[derive(Default)]
pub(super) struct ToldOversized(Mutex<BTreeSet<(SpaceRow, DocumentId, DocumentLimit)>>);

impl ToldOversized {
    /// Whether no event about this document and limit was sent yet. After 4,096 of them the record
    /// starts again, so an event may be repeated.
    pub(super) fn is_new(&self, key: (SpaceRow, DocumentId, DocumentLimit)) -> bool {
        const TOLD: usize = 4_096;
        let mut reported = self.0.lock();
        if reported.len() >= TOLD {
            reported.clear();
        }
        reported.insert(key)
    }
}
