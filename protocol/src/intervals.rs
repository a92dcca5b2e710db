//! A set of `u64` stored as intervals: acked ranges of local numbers, or a session's own offsets.
//!
//! Intervals are inclusive, disjoint and coalesced (two that touch are one), so equal sets are
//! equal values, and the memory depends on the gaps, not on the numbers. Every update returns its
//! difference in whole intervals, so that a store can persist it row by row: delete the rows whose
//! first value is in `removed`, then insert `added`.

use std::collections::BTreeMap;

/// A set of `u64`, kept as first value → last value of each interval.
///
/// ```
/// use landfall_protocol::intervals::IntervalSet;
/// let mut held: IntervalSet = [(1, 4), (8, 9)].into_iter().collect();
/// held.insert(5, 7);
/// assert_eq!(held.covered_through(), 9);
/// assert_eq!(held.gaps(0, 12).collect::<Vec<_>>(), [(0, 0), (10, 12)]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntervalSet {
    last_by_first: BTreeMap<u64, u64>,
}

/// The difference made by an insertion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inserted {
    /// The first values of the absorbed intervals, ascending. One may begin where `added` begins.
    pub removed: Vec<u64>,
    /// The interval that replaces them and contains the inserted values; `None` if all of these
    /// were present (then nothing was removed either).
    pub added: Option<(u64, u64)>,
}

/// The difference made by a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The first values of the intervals that were cut or dropped, ascending.
    pub removed: Vec<u64>,
    /// Their remainders: at most two intervals. One may begin where a removed one began.
    pub added: Vec<(u64, u64)>,
}

impl IntervalSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds every value from `first` to `last`, both included. Does nothing if `first > last`.
    pub fn insert(&mut self, first: u64, last: u64) -> Inserted {
        let before = self.interval_at_or_before(first);
        if first > last || before.is_some_and(|(_, end)| end >= last) {
            return Inserted::default();
        }
        let mut merged = (first, last);
        // An interval that ends directly before `first` touches it and is absorbed too.
        let touching = before.filter(|&(_, end)| end >= first.saturating_sub(1));
        if let Some((start, _)) = touching {
            merged.0 = start;
        }
        let removed: Vec<u64> = self
            .last_by_first
            .range(merged.0..=last.saturating_add(1))
            .map(|(&start, &end)| {
                merged.1 = merged.1.max(end);
                start
            })
            .collect();
        for start in &removed {
            self.last_by_first.remove(start);
        }
        self.last_by_first.insert(merged.0, merged.1);
        Inserted { removed, added: Some(merged) }
    }

    /// Removes every value from `first` to `last`, both included. Does nothing if `first > last`.
    pub fn remove(&mut self, first: u64, last: u64) -> Removed {
        let mut difference = Removed::default();
        if first > last {
            return difference;
        }
        let begins = match self.interval_at_or_before(first) {
            Some((start, end)) if end >= first => start,
            _ => first,
        };
        for (&start, &end) in self.last_by_first.range(begins..=last) {
            difference.removed.push(start);
            if start < first {
                difference.added.push((start, first - 1));
            }
            if end > last {
                difference.added.push((last + 1, end));
            }
        }
        for start in &difference.removed {
            self.last_by_first.remove(start);
        }
        self.last_by_first.extend(difference.added.iter().copied());
        difference
    }

    /// Whether `value` is in the set.
    pub fn contains(&self, value: u64) -> bool {
        self.interval_at_or_before(value).is_some_and(|(_, end)| end >= value)
    }

    /// The last value of the interval that begins at 1, or 0 if there is none: the set contains
    /// everything from 1 through it.
    pub fn covered_through(&self) -> u64 {
        match self.interval_at_or_before(1) {
            Some((_, end)) => end,
            None => 0,
        }
    }

    /// The intervals between `from` and `to`, both included, that are not in the set; ascending.
    pub fn gaps(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let begins = self.interval_at_or_before(from).map_or(from, |(start, _)| start);
        let sought = (from <= to).then_some((begins, to));
        let mut covered =
            sought.map(|(begins, to)| self.last_by_first.range(begins..=to)).into_iter().flatten();
        // The first value not known to be covered; `None` past the end.
        let mut next = sought.map(|_| from);
        std::iter::from_fn(move || {
            loop {
                let gap = next.filter(|&value| value <= to)?;
                let Some((&start, &end)) = covered.next() else {
                    next = None;
                    return Some((gap, to));
                };
                next = if end < gap { Some(gap) } else { end.checked_add(1) };
                if start > gap {
                    return Some((gap, start - 1));
                }
            }
        })
    }

    /// The number of values in the set; `u64::MAX` also stands for all 2⁶⁴.
    pub fn len(&self) -> u64 {
        let count = |(first, last): (u64, u64)| (last - first).saturating_add(1);
        self.iter().map(count).fold(0, u64::saturating_add)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.last_by_first.is_empty()
    }

    /// The number of intervals: the set's memory, and its rows in a store.
    pub fn intervals(&self) -> usize {
        self.last_by_first.len()
    }

    /// The intervals as (first, last), ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.last_by_first.iter().map(|(&first, &last)| (first, last))
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.last_by_first.clear();
    }

    fn interval_at_or_before(&self, value: u64) -> Option<(u64, u64)> {
        self.last_by_first.range(..=value).next_back().map(|(&first, &last)| (first, last))
    }
}

impl FromIterator<(u64, u64)> for IntervalSet {
    /// Accepts intervals in any order; those that overlap or touch are merged.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(intervals: I) -> Self {
        let mut set = Self::new();
        for (first, last) in intervals {
            set.insert(first, last);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = u64::MAX;

    fn set(intervals: &[(u64, u64)]) -> IntervalSet {
        intervals.iter().copied().collect()
    }

    #[test]
    fn touching_intervals_become_one() {
        let mut intervals = set(&[(1, 2), (4, 5), (9, 9)]);
        assert_eq!(intervals.insert(3, 3), Inserted { removed: vec![1, 4], added: Some((1, 5)) });
        assert_eq!(intervals.insert(2, 4), Inserted::default());
        assert_eq!(intervals.insert(7, 7), Inserted { removed: vec![], added: Some((7, 7)) });
        assert_eq!(intervals, set(&[(9, 9), (1, 5), (7, 7)]));
        assert_eq!(
            (intervals.covered_through(), intervals.len(), intervals.intervals()),
            (5, 7, 3)
        );
        intervals.clear();
        assert!(intervals.is_empty());
    }

    #[test]
    fn a_removal_leaves_at_most_two_ends() {
        let mut intervals = set(&[(1, 9)]);
        let cut = Removed { removed: vec![1], added: vec![(1, 3), (6, 9)] };
        assert_eq!(intervals.remove(4, 5), cut);
        assert_eq!(intervals.remove(4, 5), Removed::default());
        assert_eq!(intervals.remove(0, MAX), Removed { removed: vec![1, 6], added: vec![] });
    }

    #[test]
    fn the_edges_of_u64_hold() {
        let mut intervals = set(&[(MAX, MAX), (0, 0)]);
        assert_eq!(intervals.gaps(0, MAX).collect::<Vec<_>>(), [(1, MAX - 1)]);
        assert_eq!(intervals.insert(1, MAX).added, Some((0, MAX)));
        assert_eq!((intervals.len(), intervals.covered_through()), (MAX, MAX));
        assert_eq!(intervals.gaps(0, MAX).count(), 0);
        assert_eq!(intervals.remove(MAX, MAX).added, [(0, MAX - 1)]);
        assert!(!intervals.contains(MAX) && intervals.contains(MAX - 1) && intervals.contains(0));
        assert_eq!(intervals.insert(7, 3), Inserted::default());
        assert_eq!(intervals.remove(7, 3), Removed::default());
        assert_eq!(intervals.gaps(7, 3).count(), 0);
        assert_eq!(set(&[]).gaps(MAX, MAX).collect::<Vec<_>>(), [(MAX, MAX)]);
    }

    #[test]
    fn covered_through_is_0_without_the_value_1() {
        assert_eq!(set(&[]).covered_through(), 0);
        assert_eq!(set(&[(2, 9)]).covered_through(), 0);
        assert_eq!(set(&[(0, 0)]).covered_through(), 0);
        assert_eq!(set(&[(0, 3)]).covered_through(), 3);
    }

    /// A row store that only applies the differences.
    fn persist(rows: &mut BTreeMap<u64, u64>, removed: &[u64], added: &[(u64, u64)]) {
        for first in removed {
            assert!(rows.remove(first).is_some(), "removed {first} that was no row");
        }
        for &(first, last) in added {
            assert_eq!(rows.insert(first, last), None, "added {first} twice");
        }
    }

    fn agrees(intervals: &IntervalSet, model: &BTreeSet<u64>, offset: u64) {
        let all: BTreeSet<u64> = intervals.iter().flat_map(|(first, last)| first..=last).collect();
        assert_eq!(&all, model);
        assert_eq!(intervals.len(), model.len() as u64);
        let ends: Vec<(u64, u64)> = intervals.iter().collect();
        assert!(ends.windows(2).all(|w| w[0].1 < MAX && w[0].1 + 1 < w[1].0), "{ends:?}");
        for value in (0..64).map(|v| offset.saturating_add(v)) {
            assert_eq!(intervals.contains(value), model.contains(&value));
        }
        let through = (1..).take_while(|v| model.contains(v)).last().unwrap_or(0);
        assert_eq!(intervals.covered_through(), through);
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_set_of_numbers(
            top in any::<bool>(),
            steps in prop::collection::vec((any::<bool>(), 0u64..48, 0u64..12), 1..60),
            window in (0u64..56, 0u64..20),
        ) {
            // Half of the runs work close to the upper bound.
            let offset = if top { MAX - 40 } else { 0 };
            let (mut intervals, mut model) = (IntervalSet::new(), BTreeSet::new());
            let mut rows = BTreeMap::new();
            for (inserts, at, length) in steps {
                let first = offset.saturating_add(at);
                let last = first.saturating_add(length);
                if inserts {
                    let before = intervals.clone();
                    let changed = intervals.insert(first, last);
                    prop_assert_eq!(changed.added.is_none(), before == intervals);
                    let added: Vec<_> = changed.added.into_iter().collect();
                    persist(&mut rows, &changed.removed, &added);
                    model.extend(first..=last);
                } else {
                    let changed = intervals.remove(first, last);
                    persist(&mut rows, &changed.removed, &changed.added);
                    model.retain(|value| !(first..=last).contains(value));
                }
                agrees(&intervals, &model, offset);
                prop_assert_eq!(intervals.iter().collect::<BTreeMap<_, _>>(), rows.clone());
            }
            let from = offset.saturating_add(window.0);
            let to = from.saturating_add(window.1);
            let gaps: BTreeSet<u64> = intervals.gaps(from, to).flat_map(|(a, b)| a..=b).collect();
            let missing: BTreeSet<u64> = (from..=to).filter(|v| !model.contains(v)).collect();
            prop_assert_eq!(gaps, missing);
            prop_assert_eq!(intervals.iter().collect::<IntervalSet>(), intervals);
        }
    }
}
