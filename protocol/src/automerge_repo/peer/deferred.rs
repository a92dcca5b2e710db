//! Deferred changes: those that arrived before their dependencies. A bloom filter has a false
//! positive in one of a hundred checks; the peer then leaves out a change that the relay lacks. The
//! changes after it wait here, and the session requests it by hash.

use std::collections::{BTreeMap, BTreeSet};

use crate::admission::CheckedChange;
use crate::ids::ChangeHash;
use crate::limits;

/// The deferred changes of one document, by hash. Each is indexed under one missing dependency
/// only, so that an arriving change touches only the changes indexed under it.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    waiting: BTreeMap<ChangeHash, DeferredChange>,
    /// Pairs of a missing dependency and the change that is indexed under it.
    behind: BTreeSet<(ChangeHash, ChangeHash)>,
    bytes: usize,
}

/// A deferred change.
#[derive(Debug)]
struct DeferredChange {
    change: CheckedChange,
    /// The first so many dependencies are present; the change is indexed under the next one.
    there: usize,
}

/// The outcome of [`Deferred::sort`].
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Changes with all dependencies present or earlier in this list.
    pub(super) ready: Vec<CheckedChange>,
    /// Changes with a rejected dependency.
    pub(super) refused: Vec<ChangeHash>,
}

impl Deferred {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The missing dependencies of the deferred changes, ascending; at most as many as one message
    /// requests.
    pub(super) fn missing(&self) -> Vec<ChangeHash> {
        let is_out = |hash: &ChangeHash| !self.waiting.contains_key(hash);
        if self.waiting.len() <= limits::REPO_NEEDS_OF {
            let all = self.waiting.values().flat_map(|w| &w.change.dependencies[w.there..]);
            let all: BTreeSet<ChangeHash> = all.copied().filter(is_out).collect();
            return all.into_iter().take(limits::REPO_NEEDS).collect();
        }
        let mut missing: Vec<ChangeHash> = Vec::new();
        let lacked = self.behind.iter().map(|(lacked, _)| *lacked);
        for hash in lacked.filter(is_out) {
            if missing.last() != Some(&hash) {
                missing.push(hash);
            }
            if missing.len() == limits::REPO_NEEDS {
                break;
            }
        }
        missing
    }

    /// Whether any change is indexed under one of these.
    pub(super) fn waits_for(&self, hashes: &[ChangeHash]) -> bool {
        !self.is_empty() && hashes.iter().any(|hash| self.first_behind(hash).is_some())
    }

    fn first_behind(&self, lacked: &ChangeHash) -> Option<ChangeHash> {
        let first = (*lacked, ChangeHash([0; 32]));
        let next = self.behind.range(first..).next().filter(|(found, _)| found == lacked);
        next.map(|(_, hash)| *hash)
    }

    /// Adds changes, and removes those that are ready, dependencies first. `came`: changes that are
    /// now present or rejected, under which others may be indexed.
    pub(super) fn sort(
        &mut self,
        new: Vec<CheckedChange>,
        came: &[ChangeHash],
        is_there: impl Fn(&ChangeHash) -> bool,
        is_refused: impl Fn(&ChangeHash) -> bool,
    ) -> Sorted {
        let mut sorted = Sorted::default();
        let mut out: BTreeSet<ChangeHash> = came.iter().copied().collect();
        let mut taken = BTreeSet::new();
        let mut bad = BTreeSet::new();
        let mut next = Vec::new();
        // First the changes that wait for the arrived ones, then the new ones.
        came.iter().for_each(|hash| self.free(hash, &mut next));
        let new = new.into_iter().map(|change| DeferredChange { change, there: 0 });
        let all = next.into_iter().chain(new);
        for first in all {
            // A change that gets ready may release others, and those in turn.
            let mut next = vec![first];
            while let Some(DeferredChange { change, mut there }) = next.pop() {
                let hash = change.hash;
                // The change may have been deferred before: the same change may arrive twice.
                self.take(&hash);
                let is_bad = |hash: &ChangeHash| is_refused(hash) || bad.contains(hash);
                if is_bad(&hash) || change.dependencies.iter().any(is_bad) {
                    bad.insert(hash);
                    sorted.refused.push(hash);
                } else {
                    // Resume at the dependency that was missing: those before it are present.
                    let lacked = |hash: &ChangeHash| !out.contains(hash) && !is_there(hash);
                    let rest = &change.dependencies[there..];
                    there += rest.iter().position(lacked).unwrap_or(rest.len());
                    if there < change.dependencies.len() {
                        self.put(DeferredChange { change, there });
                        continue;
                    }
                    out.insert(hash);
                    if taken.insert(hash) {
                        sorted.ready.push(change);
                    }
                }
                self.free(&hash, &mut next);
            }
        }
        sorted
    }

    /// Takes out the changes indexed under `lacked`.
    fn free(&mut self, lacked: &ChangeHash, into: &mut Vec<DeferredChange>) {
        while let Some(hash) = self.first_behind(lacked) {
            into.extend(self.take(&hash));
        }
    }

    fn put(&mut self, waiting: DeferredChange) {
        self.bytes += waiting.bytes();
        self.behind.insert((waiting.lacked(), waiting.change.hash));
        self.waiting.insert(waiting.change.hash, waiting);
    }

    fn take(&mut self, hash: &ChangeHash) -> Option<DeferredChange> {
        let waiting = self.waiting.remove(hash)?;
        self.bytes -= waiting.bytes();
        self.behind.remove(&(waiting.lacked(), *hash));
        Some(waiting)
    }
}

impl DeferredChange {
    fn lacked(&self) -> ChangeHash {
        self.change.dependencies[self.there]
    }

    /// The bytes that it counts. The names of other actors may be deflated to very few bytes.
    fn bytes(&self) -> usize {
        let names = self.change.other_actors.len() + self.change.dependencies.len();
        self.change.bytes.len() + limits::ACTOR_BYTES * names
    }
}

#[cfg(test)]
mod tests {
    use automerge::transaction::Transactable;
    use automerge::{AutoCommit, ROOT};

    use super::*;
    use crate::admission::preflight;

    fn history(changes: usize) -> Vec<CheckedChange> {
        let mut document = AutoCommit::new();
        for number in 0..changes {
            document.put(ROOT, "number", number as i64).unwrap();
            document.commit();
        }
        let changes = document.get_changes(&[]);
        changes.iter().map(|change| preflight(change.raw_bytes()).unwrap()).collect()
    }

    #[test]
    fn deferred_changes_are_released_in_order_with_their_dependencies() {
        let all = history(4);
        let mut deferred = Deferred::default();
        let sort = |deferred: &mut Deferred, new: &[&CheckedChange], came: &[ChangeHash]| {
            let new = new.iter().copied().cloned().collect();
            let sorted = deferred.sort(new, came, |_| false, |_| false);
            assert!(sorted.refused.is_empty());
            sorted.ready.iter().map(|change| change.hash).collect::<Vec<_>>()
        };
        // One is delivered twice, and one message has a change twice.
        assert!(sort(&mut deferred, &[&all[3], &all[2], &all[3]], &[]).is_empty());
        assert!(sort(&mut deferred, &[&all[2]], &[]).is_empty());
        assert_eq!((deferred.len(), deferred.missing()), (2, vec![all[1].hash]));
        assert!(
            deferred.waits_for(&[all[0].hash, all[1].hash]) && !deferred.waits_for(&[all[0].hash])
        );
        let came = [all[1].hash];
        assert_eq!(sort(&mut deferred, &[], &came), [all[2].hash, all[3].hash]);
        assert!(deferred.is_empty() && deferred.behind.is_empty() && deferred.bytes() == 0);
        assert_eq!(sort(&mut deferred, &[&all[0], &all[0]], &[]), [all[0].hash]);
    }

    #[test]
    fn changes_that_wait_for_a_refused_one_are_refused() {
        let all = history(4);
        let mut deferred = Deferred::default();
        deferred.sort(all[2..].to_vec(), &[], |_| false, |_| false);
        let refused = all[1].hash;
        let sorted = deferred.sort(Vec::new(), &[refused], |_| false, |hash| *hash == refused);
        assert_eq!(sorted.refused, [all[2].hash, all[3].hash]);
        assert!(sorted.ready.is_empty() && deferred.is_empty());
    }

    #[test]
    fn requests_for_missing_changes_are_bounded() {
        let many: Vec<_> = (0..limits::REPO_NEEDS + 9).map(|_| history(2).remove(1)).collect();
        let mut deferred = Deferred::default();
        deferred.sort(many, &[], |_| false, |_| false);
        let missing = deferred.missing();
        assert_eq!(missing.len(), limits::REPO_NEEDS);
        assert!(missing.is_sorted_by(|one, next| one < next));
        assert_eq!(missing, deferred.missing());
    }
}
