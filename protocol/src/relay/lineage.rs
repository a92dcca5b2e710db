//! Lineage of a log: which cursors are valid in it.
//!
//! Every start of a relay opens a new epoch at its first append, and records where it begins. A
//! restore, a copied-back file, a rolled-back disk and a plain restart are therefore one case: a
//! cursor is valid only if its epoch is known and its offset is not past that epoch's last one.

use crate::frame::Mark;
use crate::ids::{Cursor, Epoch, Offset, Scope};

/// The record of one epoch's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: Epoch,
    /// The offset of its first entry.
    pub first: Offset,
    /// The epoch before it; `None` for the log's first.
    pub predecessor: Option<Epoch>,
}

/// The epochs of a space's log in order, and the end of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    records: Vec<EpochRecord>,
    head: Offset,
}

impl Lineage {
    /// A lineage from a store: records in the order of their first offsets, and the last durable
    /// offset.
    pub fn new(records: Vec<EpochRecord>, head: Offset) -> Self {
        debug_assert!(records.windows(2).all(|pair| pair[0].first < pair[1].first));
        Self { records, head }
    }

    /// The last durable offset.
    pub fn head(&self) -> Offset {
        self.head
    }

    /// The epoch of the last durable offset; `None` while there is no entry.
    pub fn epoch(&self) -> Option<Epoch> {
        self.records.last().map(|record| record.epoch)
    }

    /// The epoch that contains an offset.
    pub fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        let after = self.records.partition_point(|record| record.first <= offset);
        after.checked_sub(1).map(|index| self.records[index].epoch)
    }

    /// Applies a durable commit: a new head, and possibly a new epoch.
    pub fn extend(&mut self, opened: Option<EpochRecord>, head: Offset) {
        self.records.extend(opened);
        self.head = self.head.max(head);
    }

    /// The offset after which a replica resumes: that of its cursor, or 0 without one. `None` if the
    /// cursor or the mark is not of this log, or if the cursor was reached under other rules: then
    /// the two ends must compare their documents.
    pub fn resume(
        &self,
        cursor: Option<Cursor>,
        acknowledged: Option<Mark>,
        scope: Scope,
    ) -> Option<Offset> {
        let mark_holds = acknowledged.is_none_or(|mark| self.covers(mark.epoch, mark.offset));
        let after = match cursor {
            None => Offset(0),
            Some(cursor) if cursor.scope != scope => return None,
            Some(cursor) if self.covers(cursor.epoch, cursor.offset) => cursor.offset,
            Some(_) => return None,
        };
        mark_holds.then_some(after)
    }

    fn covers(&self, epoch: Epoch, offset: Offset) -> bool {
        let Some(index) = self.records.iter().rposition(|record| record.epoch == epoch) else {
            return false;
        };
        match self.records.get(index + 1) {
            Some(next) => offset < next.first,
            None => offset <= self.head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u8) -> Epoch {
        Epoch::from_bytes([number; 16])
    }

    fn cursor(number: u8, offset: u64) -> Option<Cursor> {
        Some(Cursor { epoch: epoch(number), offset: Offset(offset), scope: Scope::WHOLE_SPACE })
    }

    fn mark(number: u8, offset: u64) -> Option<Mark> {
        Some(Mark { epoch: epoch(number), offset: Offset(offset) })
    }

    fn lineage() -> Lineage {
        let record = |number: u8, first| EpochRecord {
            epoch: epoch(number),
            first: Offset(first),
            predecessor: (number > 1).then(|| epoch(number - 1)),
        };
        Lineage::new(vec![record(1, 1), record(2, 51)], Offset(60))
    }

    #[test]
    fn a_cursor_is_valid_up_to_its_epochs_last_offset() {
        let lineage = lineage();
        assert_eq!(lineage.resume(cursor(1, 50), None, Scope::WHOLE_SPACE), Some(Offset(50)));
        assert_eq!(
            lineage.resume(cursor(1, 51), None, Scope::WHOLE_SPACE),
            None,
            "the old copy grew past it"
        );
        assert_eq!(lineage.resume(cursor(2, 60), None, Scope::WHOLE_SPACE), Some(Offset(60)));
        assert_eq!(
            lineage.resume(cursor(2, 61), None, Scope::WHOLE_SPACE),
            None,
            "the log lost its end"
        );
        assert_eq!(
            lineage.resume(cursor(3, 1), None, Scope::WHOLE_SPACE),
            None,
            "another machine's log"
        );
        assert_eq!(lineage.resume(None, None, Scope::WHOLE_SPACE), Some(Offset(0)));
    }

    #[test]
    fn a_lost_acknowledged_entry_is_detected_despite_a_valid_cursor() {
        let lineage = lineage();
        assert_eq!(
            lineage.resume(cursor(1, 40), mark(1, 50), Scope::WHOLE_SPACE),
            Some(Offset(40))
        );
        assert_eq!(lineage.resume(cursor(1, 40), mark(1, 51), Scope::WHOLE_SPACE), None);
        assert_eq!(lineage.resume(None, mark(9, 1), Scope::WHOLE_SPACE), None);
    }

    #[test]
    fn a_cursor_of_another_scope_is_invalid() {
        let other = cursor(2, 60).map(|cursor| Cursor { scope: Scope(1), ..cursor });
        assert_eq!(lineage().resume(other, None, Scope::WHOLE_SPACE), None);
    }

    #[test]
    fn an_offset_maps_to_its_epoch() {
        let lineage = lineage();
        let at = |offset| lineage.epoch_at(Offset(offset));
        assert_eq!((at(0), at(1), at(50)), (None, Some(epoch(1)), Some(epoch(1))));
        assert_eq!((at(51), at(60)), (Some(epoch(2)), Some(epoch(2))));
    }
}
