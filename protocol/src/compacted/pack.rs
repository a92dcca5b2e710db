//! Writes a packed index.

use std::collections::BTreeMap;

use super::bytes::put_number;
use super::{BadIndex, CompactedChange, HASH_BYTES, MAGIC, VERSION, checksum};
use crate::ids::{ActorId, ChangeHash};
use crate::limits;

pub(super) fn pack(changes: &[CompactedChange]) -> Result<Vec<u8>, BadIndex> {
    if u32::try_from(changes.len()).is_err() {
        return Err(BadIndex::TooLarge);
    }
    let mut actors: BTreeMap<&ActorId, (usize, u64)> =
        changes.iter().map(|change| (&change.actor, (0, 0))).collect();
    // 4 bytes a row and room for actors: a close guess for a single typing author.
    let mut out = Vec::with_capacity(64 + actors.len() * 17 + changes.len() * (HASH_BYTES + 4));
    out.extend(MAGIC);
    out.push(VERSION);
    put_number(actors.len() as u64, &mut out);
    for (number, (actor, (numbered, _))) in actors.iter_mut().enumerate() {
        let bytes = actor.to_bytes();
        if bytes.is_empty() || bytes.len() > limits::ACTOR_BYTES {
            return Err(BadIndex::Actor { number, what: "its id has a wrong length" });
        }
        put_number(bytes.len() as u64, &mut out);
        out.extend(bytes);
        *numbered = number;
    }
    put_number(changes.len() as u64, &mut out);
    changes.iter().for_each(|change| out.extend(change.hash.0));
    let order = order(changes)?;
    for (position, change) in changes.iter().enumerate() {
        let impossible = |what| BadIndex::Change { position, what };
        // The map above has every change's actor.
        let (actor, seq) =
            actors.get_mut(&change.actor).ok_or(impossible("its actor is unknown"))?;
        *seq += 1;
        if *seq != change.seq {
            return Err(impossible("its sequence number is not its actor's next"));
        }
        put_number(*actor as u64, &mut out);
        put_row(changes, &order, position, &mut out).map_err(impossible)?;
    }
    let checksum = checksum(&out);
    out.extend(checksum);
    if u32::try_from(out.len()).is_err() {
        return Err(BadIndex::TooLarge);
    }
    Ok(out)
}

/// Positions ascending by hash.
fn order(changes: &[CompactedChange]) -> Result<Vec<u32>, BadIndex> {
    let hash = |&position: &u32| changes[position as usize].hash;
    let mut order: Vec<u32> = (0..changes.len() as u32).collect();
    order.sort_unstable_by_key(hash);
    match order.windows(2).find(|pair| hash(&pair[0]) == hash(&pair[1])) {
        Some(pair) => {
            let position = pair[0].max(pair[1]) as usize;
            Err(BadIndex::Change { position, what: "it is a duplicate" })
        }
        None => Ok(order),
    }
}

/// Writes growth and dependencies of a change, or returns the defect.
fn put_row(
    changes: &[CompactedChange],
    order: &[u32],
    position: usize,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let change = &changes[position];
    let find = |hash: &ChangeHash| {
        let found = order.binary_search_by_key(hash, |&position| changes[position as usize].hash);
        found.ok().map(|index| order[index] as usize).filter(|&found| found < position)
    };
    if change.dependencies.len() > limits::CHANGE_DEPENDENCIES {
        return Err("it has too many dependencies");
    }
    let mut found = Vec::with_capacity(change.dependencies.len());
    for dependency in &change.dependencies {
        found.push(find(dependency).ok_or("a dependency does not precede it")?);
    }
    let mut sorted = found.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("it has a dependency twice");
    }
    let past = found.iter().map(|&at| changes[at].max_op).max().unwrap_or(0);
    let growth = change
        .max_op
        .checked_sub(past)
        .ok_or("its counters do not exceed those of its dependencies")?;
    if change.max_op > limits::OPERATION_COUNTER {
        return Err("its counters are too large");
    }
    put_number(growth, out);
    put_number(found.len() as u64, out);
    found.iter().for_each(|&at| put_number((position - at) as u64, out));
    Ok(())
}
