//! The common part of both models: simplified snapshots, and graphs of changes. A snapshot's body
//! is the changes' chunks in sequence, each after its length.

use std::collections::{BTreeMap, BTreeSet};

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{Automerge, ObjType, ROOT};
use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::{ActorId, ChangeHash};
use sha2::{Digest, Sha256};

/// The most bytes of a snapshot inside its entry, so low that most are sent in parts.
pub const INLINE_BYTES: usize = 300;

/// Bytes of a part.
pub const PART_BYTES: usize = 200;

/// Entries in a page from a store.
pub const PAGE: usize = 4;

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub fn encode<'a>(changes: impl IntoIterator<Item = &'a CheckedChange>) -> Vec<u8> {
    let mut body = Vec::new();
    for change in changes {
        body.extend_from_slice(&(change.bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(&change.bytes);
    }
    body
}

pub fn decode(mut body: &[u8]) -> Vec<CheckedChange> {
    let mut changes = Vec::new();
    while let Some((length, rest)) = body.split_first_chunk() {
        let (chunk, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        changes.push(preflight(chunk).unwrap());
        body = rest;
    }
    changes
}

/// The changes without dependants among these, sorted.
pub fn heads<'a>(changes: impl IntoIterator<Item = &'a CheckedChange>) -> Vec<ChangeHash> {
    let (mut all, mut rested_on) = (BTreeSet::new(), BTreeSet::new());
    for change in changes {
        all.insert(change.hash);
        rested_on.extend(change.dependencies.iter().copied());
    }
    all.difference(&rested_on).copied().collect()
}

/// Some changes and all their ancestors; absent ones are skipped.
pub fn ancestors<'a>(
    changes: impl IntoIterator<Item = &'a CheckedChange>,
    of: &[ChangeHash],
) -> BTreeSet<ChangeHash> {
    let known: BTreeMap<ChangeHash, &[ChangeHash]> =
        changes.into_iter().map(|change| (change.hash, change.dependencies.as_slice())).collect();
    let (mut found, mut open) = (BTreeSet::new(), of.to_vec());
    while let Some(hash) = open.pop() {
        if let Some(dependencies) = known.get(&hash)
            && found.insert(hash)
        {
            open.extend_from_slice(dependencies);
        }
    }
    found
}

/// Some of a document's changes, at growing distances from the heads.
pub fn older(changes: &[&CheckedChange]) -> Vec<ChangeHash> {
    let mut hashes = Vec::new();
    let (mut back, mut step) = (1, 1);
    while back <= changes.len() {
        hashes.push(changes[changes.len() - back].hash);
        (back, step) = (back + step, step * 2);
    }
    hashes
}

/// The first change of a history, equal for equal actors.
pub fn root(actor: u8) -> CheckedChange {
    let mut automerge = Automerge::new().with_actor(ActorId::from([actor; 16]));
    let mut transaction = automerge.transaction();
    transaction.put_object(ROOT, "all", ObjType::Map).unwrap();
    transaction.commit_with(CommitOptions::default().with_time(0));
    preflight(automerge.get_last_local_change().unwrap().raw_bytes()).unwrap()
}
