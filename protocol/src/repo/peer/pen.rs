//! Changes that came before what they rest on. A bloom filter errs in one of a hundred checks, and
//! then a peer sends a change without the one before it: it waits here, and that one is asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::admission::CheckedChange;
use crate::ids::ChangeHash;

/// The changes of one document that wait, by hash.
#[derive(Debug, Default)]
pub(super) struct Pen {
    waiting: BTreeMap<ChangeHash, CheckedChange>,
}

/// What became of some changes.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Everything that they rest on is there or stands before them.
    pub(super) ready: Vec<CheckedChange>,
    /// They rest on something that was refused.
    pub(super) refused: Vec<ChangeHash>,
}

impl Pen {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.waiting.values().map(|change| change.bytes.len()).sum()
    }

    /// What the waiting changes rest on and is not here, ascending.
    pub(super) fn missing(&self) -> Vec<ChangeHash> {
        let needed: BTreeSet<ChangeHash> =
            self.waiting.values().flat_map(|change| &change.dependencies).copied().collect();
        needed.into_iter().filter(|hash| !self.waiting.contains_key(hash)).collect()
    }

    /// Whether anything waits for one of these.
    pub(super) fn waits_for(&self, hashes: &[ChangeHash]) -> bool {
        let rests = |change: &CheckedChange| {
            change.dependencies.iter().any(|dependency| hashes.contains(dependency))
        };
        self.waiting.values().any(rests)
    }

    /// Adds changes, and takes out what need not wait any more, dependencies before what rests on
    /// them.
    pub(super) fn sort(
        &mut self,
        new: Vec<CheckedChange>,
        is_there: impl Fn(&ChangeHash) -> bool,
        is_refused: impl Fn(&ChangeHash) -> bool,
    ) -> Sorted {
        let mut changes: Vec<CheckedChange> =
            std::mem::take(&mut self.waiting).into_values().collect();
        changes.extend(new);
        let mut sorted = Sorted::default();
        let (mut out, mut bad) = (BTreeSet::new(), BTreeSet::new());
        let mut waits: BTreeMap<ChangeHash, Vec<CheckedChange>> = BTreeMap::new();
        for change in changes {
            // What comes out may be what others wait for, and those in turn.
            let mut next = vec![change];
            while let Some(change) = next.pop() {
                let hash = change.hash;
                let is_bad = |hash: &ChangeHash| is_refused(hash) || bad.contains(hash);
                if is_bad(&hash) || change.dependencies.iter().any(is_bad) {
                    bad.insert(hash);
                    sorted.refused.push(hash);
                } else {
                    let lacks = |hash: &&ChangeHash| !out.contains(*hash) && !is_there(hash);
                    if let Some(missing) = change.dependencies.iter().find(lacks).copied() {
                        waits.entry(missing).or_default().push(change);
                        continue;
                    }
                    if out.insert(hash) {
                        sorted.ready.push(change);
                    }
                }
                next.extend(waits.remove(&hash).unwrap_or_default());
            }
        }
        self.waiting = waits.into_values().flatten().map(|change| (change.hash, change)).collect();
        sorted
    }
}
