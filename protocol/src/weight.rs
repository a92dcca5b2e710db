//! The weight of a document's history, and when its compaction is due: one rule for both ends. It
//! knows only numbers; the stores count them.
//!
//! A compaction reads and writes the whole document, so its cost is proportional to the document's
//! weight. It is due when the tail since the last one reaches a fixed share of the snapshot's
//! weight. The weights at which a document is compacted therefore grow geometrically, and all
//! compactions together cost a constant multiple of the last one, whether the document grows by
//! many small changes or by few large ones.

use crate::limits;

/// The weight of a part of a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// Changes.
    pub changes: u64,
    /// Operations, or the advance of the operation counter, which is at most that number.
    pub operations: u64,
    /// Stored bytes: of a snapshot, or of single changes.
    pub bytes: u64,
}

/// When a compaction is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionRule {
    /// In each measure, the minimum weight that is worth a compaction. A measure of 0 counts as 1.
    pub least: Weight,
    /// A compaction is due when the tail's weight is one `share`-th of the snapshot's.
    pub share: u64,
}

impl Default for CompactionRule {
    fn default() -> Self {
        let least = Weight {
            changes: limits::COMPACTION_MIN_CHANGES,
            operations: limits::COMPACTION_MIN_OPERATIONS,
            bytes: limits::COMPACTION_MIN_BYTES,
        };
        Self { least, share: limits::COMPACTION_SHARE }
    }
}

/// Weights are compared in 1 / `UNIT` of the minimum weight.
const UNIT: u128 = 1 << 20;

impl CompactionRule {
    /// Whether a compaction of all of `tail` into the snapshot is due.
    pub fn is_due(&self, compacted: &Weight, tail: &Weight) -> bool {
        let needed = self.measure(compacted) / u128::from(self.share.max(1));
        tail.changes > 0 && self.measure(tail) >= needed.max(UNIT)
    }

    /// Whether a compaction is due even without counting changes: by the operations or bytes of a
    /// few changes. The snapshot then costs a receiver about as much as the changes, so their
    /// recent age is no reason to keep them single.
    pub fn is_heavy(&self, compacted: &Weight, tail: &Weight) -> bool {
        let without = Weight { changes: tail.changes.min(1), ..*tail };
        self.is_due(compacted, &without)
    }

    /// The weight in its greatest measure, in [`UNIT`]s of the minimum weight.
    fn measure(&self, weight: &Weight) -> u128 {
        let in_units = |value: u64, least: u64| u128::from(value) * UNIT / u128::from(least.max(1));
        in_units(weight.changes, self.least.changes)
            .max(in_units(weight.operations, self.least.operations))
            .max(in_units(weight.bytes, self.least.bytes))
    }
}

/// The bytes of a document, as [`limits::DOCUMENT_BYTES`] counts them: about the size that its
/// snapshot has or would have.
pub fn document_bytes(snapshot_bytes: u64, tail_changes: u64, tail_bytes: u64) -> u64 {
    let overhead = tail_changes.saturating_mul(limits::CHANGE_OVERHEAD_BYTES);
    snapshot_bytes.saturating_add(tail_bytes.saturating_sub(overhead))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(changes: u64) -> Weight {
        Weight { changes, operations: changes, bytes: changes * 100 }
    }

    #[test]
    fn small_changes_are_counted() {
        let rule = CompactionRule::default();
        let none = Weight::default();
        assert!(!rule.is_due(&none, &changes(limits::COMPACTION_MIN_CHANGES - 1)));
        assert!(rule.is_due(&none, &changes(limits::COMPACTION_MIN_CHANGES)));
        let compacted = Weight { changes: 10_000, operations: 10_000, bytes: 13_000 };
        assert!(!rule.is_due(&compacted, &changes(4_999)));
        assert!(rule.is_due(&compacted, &changes(5_000)));
        assert!(!rule.is_heavy(&compacted, &changes(5_000)), "they are many, not heavy");
    }

    #[test]
    fn one_large_change_is_due_by_its_operations_or_its_bytes() {
        let rule = CompactionRule::default();
        let none = Weight::default();
        let by_operations = Weight { changes: 1, operations: 1_000_000, bytes: 200 };
        let by_bytes = Weight { changes: 1, operations: 1, bytes: limits::COMPACTION_MIN_BYTES };
        for tail in [by_operations, by_bytes] {
            assert!(rule.is_due(&none, &tail) && rule.is_heavy(&none, &tail), "{tail:?}");
            let compacted = Weight { changes: 1, ..tail };
            assert!(rule.is_due(&compacted, &tail), "another of its size is due");
        }
        let compacted = Weight { bytes: 1_000_000, ..by_operations };
        assert!(!rule.is_due(&compacted, &changes(300)), "small changes wait beside a large one");
        assert!(rule.is_due(&compacted, &changes(2_000)));
        let less = Weight { bytes: limits::COMPACTION_MIN_BYTES - 1, ..by_bytes };
        assert!(!rule.is_due(&none, &less));
        assert!(!rule.is_due(&none, &none), "an empty tail is not compacted");
    }

    /// However a document grows, all compactions together process at most five times the last one.
    #[test]
    fn compactions_cost_in_proportion_to_the_history() {
        let rule = CompactionRule::default();
        let typed = Weight { changes: 1, operations: 1, bytes: 100 };
        let pasted = Weight { changes: 1, operations: 100_000, bytes: 100_000 };
        let image = Weight { changes: 1, operations: 1, bytes: 300_000 };
        for (name, steps) in [
            ("typed", vec![typed]),
            ("pasted", vec![pasted]),
            ("images", vec![image]),
            ("mixed", vec![pasted, typed, typed, image, typed]),
        ] {
            let (mut compacted, mut tail) = (Weight::default(), Weight::default());
            let (mut compactions, mut cost) = (0, 0u128);
            for step in steps.iter().cycle().take(50_000) {
                tail = sum(&tail, step);
                if rule.is_due(&compacted, &tail) {
                    compacted = sum(&compacted, &tail);
                    tail = Weight::default();
                    cost += rule.measure(&compacted);
                    compactions += 1;
                }
            }
            assert!(compactions > 5, "{name}: {compactions} compactions");
            assert!(
                cost <= 5 * rule.measure(&compacted),
                "{name}: {compactions} compactions cost {cost}"
            );
        }
    }

    fn sum(a: &Weight, b: &Weight) -> Weight {
        Weight {
            changes: a.changes + b.changes,
            operations: a.operations + b.operations,
            bytes: a.bytes + b.bytes,
        }
    }

    #[test]
    fn a_single_change_counts_without_its_overhead() {
        assert_eq!(document_bytes(1_000, 0, 0), 1_000);
        assert_eq!(document_bytes(1_000, 10, 1_000), 1_000 + 1_000 - 640);
        assert_eq!(document_bytes(0, 10, 600), 0, "never below zero");
        assert_eq!(document_bytes(u64::MAX, 1, u64::MAX), u64::MAX);
    }
}
