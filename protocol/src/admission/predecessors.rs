//! The predecessors of a change's operations: the group columns, which advance by as many entries
//! as each operation has predecessors. Checks order and age only: whether a predecessor exists
//! needs the document.

use super::form::FormError;
use super::references::Actors;
use super::runs::{Deltas, Line, Runs};
use crate::limits;

/// The predecessor columns and the read position.
#[derive(Debug)]
pub(super) struct Predecessors<'a> {
    actor: Runs<'a, u64>,
    counter: Deltas<'a>,
    total: u64,
}

/// Consecutive operations with the same number of predecessors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// The counter of the first operation.
    pub(super) operation: u64,
    /// The number of operations.
    pub(super) rows: u64,
    /// The number of predecessors of each operation.
    pub(super) each: u64,
}

impl<'a> Predecessors<'a> {
    pub(super) fn new(actor: &'a [u8], counter: &'a [u8]) -> Self {
        Self {
            actor: Runs::new("predecessor actor", actor),
            counter: Deltas::new("predecessor counter", counter),
            total: 0,
        }
    }

    /// Walks the predecessors of `group`. Each one must be older than its operation, and those of
    /// one operation must ascend: automerge rebuilds them in ascending order, so any other order
    /// changes the hash.
    pub(super) fn walk(&mut self, group: Group, actors: &mut Actors<'_>) -> Result<(), FormError> {
        if group.each == 0 {
            return Ok(());
        }
        let entries = group.rows.saturating_mul(group.each);
        self.total = self.total.saturating_add(entries);
        let limit = limits::CHANGE_OPERATIONS;
        if self.total > limit {
            return Err(FormError::Predecessors { limit, actual: self.total });
        }
        let mut walked = 0;
        let mut before = None;
        while walked < entries {
            let (actor, line, rows) = self.stretch(entries - walked)?;
            let rank = actors.refer("predecessor actor", actor)?;
            if !line.is_before(group.operation, rows, walked, group.each) {
                return Err(FormError::Reference {
                    column: self.counter.column(),
                    operation: group.operation + walked / group.each,
                    value: line.first,
                });
            }
            if !ascend(group.each, walked, rows, line, (before, rank)) {
                let operation = group.operation + walked / group.each;
                let what = "its predecessors are not in order";
                return Err(FormError::Operation { operation, what });
            }
            before = line.after(rows - 1).map(|last| (last, rank));
            self.actor.advance(rows);
            self.counter.advance(rows)?;
            walked += rows;
        }
        Ok(())
    }

    /// The number of entries walked.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn finish(&mut self) -> Result<(), FormError> {
        self.actor.finish(self.total)?;
        self.counter.finish(self.total)
    }

    /// The next entries of one actor on one line.
    fn stretch(&mut self, most: u64) -> Result<(u64, Line, u64), FormError> {
        let (actor, actor_rows) = self.actor.stretch()?;
        let (line, counter_rows) = self.counter.stretch()?;
        let missing = |column| FormError::ColumnLength { column, expected: self.total };
        let actor = actor.filter(|_| actor_rows > 0).ok_or(missing(self.actor.column()))?;
        let line = line.filter(|_| counter_rows > 0).ok_or(missing(self.counter.column()))?;
        Ok((actor, line, most.min(actor_rows).min(counter_rows)))
    }
}

/// Whether entries of one actor on one line ascend within each operation. `walked` entries precede
/// them, the last of which is `before` (counter, actor's rank); each operation has `each` entries.
fn ascend(
    each: u64,
    walked: u64,
    rows: u64,
    line: Line,
    (before, rank): (Option<(i64, usize)>, usize),
) -> bool {
    let is_inside = |entry: u64| !entry.is_multiple_of(each);
    let joins = is_inside(walked) && before.is_some_and(|before| before >= (line.first, rank));
    // If an operation has several entries, one of any two neighbouring pairs lies within an
    // operation.
    let has_pair = each > 1 && (rows > 2 || (rows == 2 && is_inside(walked + 1)));
    !joins && (!has_pair || line.step > 0)
}
