//! Re-authoring: makes local changes that a relay rejects, or that are superseded, again with other
//! actors, on top of the acknowledged history. And their export.
//!
//! Pure functions over changes: no store, no loaded document, no randomness. A change is decoded into
//! automerge's `ExpandedChange` and encoded again; its hash is compared before anything is altered,
//! which proves that nothing is lost.
//!
//! The new actor is the old one followed by eight bytes. So it sorts where the old one did, and
//! automerge decides everything that depends on the order of actors (which of two concurrent values
//! wins, which of two insertions comes first) as before. The eight bytes are a hash over all changes
//! that are re-authored: two copies of a store that re-author the same changes make identical ones, so
//! the content is not duplicated when they meet, and two that re-author different ones never share an
//! actor.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::legacy::{ElementId, Key, ObjectId, Op, OpId, SortedVec};
use automerge::{ActorId, Change, ExpandedChange, PatchLog};
use landfall_protocol::ChangeHash;
use sha2::{Digest, Sha256};

use crate::changes::{apply_parsed, empty};

const ACTOR_DOMAIN: &[u8] = b"landfall re-authored actor 1";

/// Bytes that are appended to the old actor: enough that no other actor has the same by accident.
const SUFFIX: usize = 8;

/// Actors are 1 to 64 bytes long (`docs/protocol.md`), so an actor that was re-authored very often
/// loses its end.
const LONGEST_BASE: usize = 64 - SUFFIX;

/// Why changes were not re-authored, or not exported.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReauthorError {
    /// Some of the rejected changes are not in the given history.
    #[error("the document has no change {0}")]
    Unknown(ChangeHash),
    /// A change depends on a rejected one and is not among them.
    #[error("change {change} depends on {refused}, which is refused, and is not refused itself")]
    NotClosed {
        /// The change that would lose its dependency.
        change: ChangeHash,
        /// The dependency.
        refused: ChangeHash,
    },
    /// Decoding and encoding a change does not give the same change, so an altered one could not be
    /// trusted. It can be exported.
    #[error("change {0} cannot be rebuilt without loss; export it instead")]
    NotTrusted(ChangeHash),
    /// automerge cannot build the document with these changes.
    #[error("automerge cannot apply the changes: {0}")]
    Automerge(String),
}

/// The result of re-authoring.
#[derive(Debug)]
pub(crate) struct Reauthored {
    /// The new changes, in dependency order.
    pub(crate) changes: Vec<Change>,
    /// For each rejected change the new one.
    pub(crate) hashes: BTreeMap<ChangeHash, ChangeHash>,
}

/// Makes the `refused` changes of a document again, with other actors. `history` is the document's
/// whole local history in any order, including those changes; every dependent of a rejected change must
/// be rejected too. On top of the rest of the history, the new changes show the same state as the old
/// ones.
///
/// The result depends on the rejected changes only: repeating the call gives the same changes. Nothing
/// else may ever be added by the new actors.
pub(crate) fn reauthor(
    history: &[Change],
    refused: &BTreeSet<ChangeHash>,
) -> Result<Reauthored, ReauthorError> {
    let old = select(history, refused)?;
    let actors = Actors::new(&old, refused);
    let mut made = Reauthored { changes: Vec::with_capacity(old.len()), hashes: BTreeMap::new() };
    let mut sequences: BTreeMap<&ActorId, u64> = BTreeMap::new();
    for change in old {
        let mut expanded = take_apart(change)?;
        let sequence = sequences.entry(change.actor_id()).or_default();
        *sequence += 1;
        expanded.seq = *sequence;
        expanded.actor_id = actors.replacement(change.actor_id());
        for dep in &mut expanded.deps {
            if let Some(new) = made.hashes.get(dep) {
                *dep = *new;
            }
        }
        for op in &mut expanded.operations {
            actors.rename_in(op);
        }
        let new = put_together(expanded, change.hash())?;
        made.hashes.insert(change.hash(), new.hash());
        made.changes.push(new);
    }
    Ok(made)
}

/// The bytes of an automerge document (`save`) with the rejected changes and all of the history that is
/// compatible with them: a change that superseded a rejected one (the same actor and sequence number)
/// is left out with its dependents. In both lists each change follows its dependencies; the history may
/// contain the rejected ones.
pub(crate) fn export(history: &[Change], refused: &[Change]) -> Result<Vec<u8>, ReauthorError> {
    let place = |change: &Change| (change.actor_id().clone(), change.seq());
    let taken: BTreeMap<_, _> =
        refused.iter().map(|change| (place(change), change.hash())).collect();
    let mut left_out: BTreeSet<ChangeHash> = BTreeSet::new();
    let mut changes: Vec<Change> = Vec::with_capacity(history.len() + refused.len());
    let mut there: BTreeSet<ChangeHash> = BTreeSet::new();
    for change in history.iter().chain(refused) {
        let hash = change.hash();
        let replaced = taken.get(&place(change)).is_some_and(|refused| *refused != hash);
        if replaced || change.deps().iter().any(|dep| left_out.contains(dep)) {
            left_out.insert(hash);
        } else if there.insert(hash) {
            changes.push(change.clone());
        }
    }
    let built = apply_parsed(empty(), changes, &mut PatchLog::inactive());
    let document = built.map_err(ReauthorError::Automerge)?;
    if let Some(missing) = there.iter().find(|h| document.get_change_meta_by_hash(h).is_none()) {
        return Err(ReauthorError::Unknown(*missing));
    }
    Ok(document.save())
}

/// The rejected changes, each after those of them that it depends on. Every dependent of one must be in
/// the set.
fn select<'a>(
    history: &'a [Change],
    refused: &BTreeSet<ChangeHash>,
) -> Result<Vec<&'a Change>, ReauthorError> {
    let mut found: BTreeMap<ChangeHash, &Change> = BTreeMap::new();
    for change in history {
        let hash = change.hash();
        if refused.contains(&hash) {
            found.insert(hash, change);
        } else if let Some(refused) = change.deps().iter().find(|dep| refused.contains(dep)) {
            return Err(ReauthorError::NotClosed { change: hash, refused: *refused });
        }
    }
    if let Some(missing) = refused.iter().find(|hash| !found.contains_key(hash)) {
        return Err(ReauthorError::Unknown(*missing));
    }
    let (mut ordered, mut placed) = (Vec::with_capacity(found.len()), BTreeSet::new());
    let mut waiting: Vec<&Change> = found.values().copied().collect();
    while let Some(change) = waiting.last().copied() {
        let first = change.deps().iter().filter_map(|dep| found.get(dep));
        let before: Vec<&Change> = first.copied().filter(|c| !placed.contains(&c.hash())).collect();
        if before.is_empty() {
            waiting.pop();
            if placed.insert(change.hash()) {
                ordered.push(change);
            }
        }
        waiting.extend(before);
    }
    Ok(ordered)
}

/// A decoded change, if encoding it again loses nothing. automerge may panic on one that it did not
/// make.
fn take_apart(change: &Change) -> Result<ExpandedChange, ReauthorError> {
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let expanded = change.decode();
        (Change::from(expanded.clone()).hash() == change.hash()).then_some(expanded)
    }));
    attempt.ok().flatten().ok_or(ReauthorError::NotTrusted(change.hash()))
}

fn put_together(expanded: ExpandedChange, old: ChangeHash) -> Result<Change, ReauthorError> {
    catch_unwind(AssertUnwindSafe(|| Change::from(expanded)))
        .map_err(|_| ReauthorError::NotTrusted(old))
}

/// The new actor for each old one, and the operations that are renamed.
struct Actors<'a> {
    /// Operation counters of the rejected changes, by actor, ascending.
    refused: BTreeMap<&'a ActorId, Vec<RangeInclusive<u64>>>,
    /// The hash on which all new actors depend.
    all: Sha256,
}

impl<'a> Actors<'a> {
    fn new(changes: &[&'a Change], hashes: &BTreeSet<ChangeHash>) -> Self {
        let mut refused: BTreeMap<&ActorId, Vec<RangeInclusive<u64>>> = BTreeMap::new();
        for change in changes {
            let counters = change.start_op().get()..=change.max_op();
            refused.entry(change.actor_id()).or_default().push(counters);
        }
        let mut all = Sha256::new();
        all.update(ACTOR_DOMAIN);
        for hash in hashes {
            all.update(hash.0);
        }
        Self { refused, all }
    }

    fn replacement(&self, old: &ActorId) -> ActorId {
        let suffix = self.all.clone().chain_update(old.to_bytes()).finalize();
        let mut bytes = old.to_bytes().to_vec();
        bytes.truncate(LONGEST_BASE);
        bytes.extend(&suffix[..SUFFIX]);
        ActorId::from(bytes)
    }

    /// Puts the new actor into every id of an operation that a rejected change made.
    fn rename_in(&self, op: &mut Op) {
        if let ObjectId::Id(id) = &mut op.obj {
            self.rename(id);
        }
        if let Key::Seq(ElementId::Id(id)) = &mut op.key {
            self.rename(id);
        }
        let mut before: Vec<OpId> = op.pred.iter().cloned().collect();
        before.iter_mut().for_each(|id| self.rename(id));
        op.pred = SortedVec::from(before);
    }

    fn rename(&self, id: &mut OpId) {
        let Some(counters) = self.refused.get(id.actor()) else { return };
        let place = counters.partition_point(|range| *range.end() < id.counter());
        if counters.get(place).is_some_and(|range| range.contains(&id.counter())) {
            *id = OpId::new(id.counter(), &self.replacement(id.actor()));
        }
    }
}
