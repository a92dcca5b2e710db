//! The part of a change before its columns, parsed here before automerge parses it. Does not read
//! the columns.

use super::form::FormError;
use super::reader::ByteReader;
use crate::ids::{ActorId, ChangeHash};
use crate::limits;

/// A change's header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) dependencies: Vec<ChangeHash>,
    pub(super) actor: ActorId,
    pub(super) seq: u64,
    pub(super) start_op: u64,
    pub(super) other_actors: Vec<ActorId>,
}

impl Header {
    /// Reads the header and leaves `body` at the columns' metadata.
    pub(super) fn read(body: &mut ByteReader<'_>) -> Result<Self, FormError> {
        let dependencies = dependencies(body)?;
        let actor = actor(body)?;
        let seq = body.unsigned("sequence number")?;
        if !(1..=limits::SEQUENCE).contains(&seq) {
            return Err(FormError::Sequence { limit: limits::SEQUENCE, actual: seq });
        }
        let start_op = body.unsigned("first operation counter")?;
        if !(1..=limits::OPERATION_COUNTER).contains(&start_op) {
            return Err(FormError::Counter { limit: limits::OPERATION_COUNTER, actual: start_op });
        }
        let time = body.signed("timestamp")?;
        if !(-limits::TIMESTAMP..=limits::TIMESTAMP).contains(&time) {
            return Err(FormError::Timestamp { limit: limits::TIMESTAMP, actual: time });
        }
        let length = body.unsigned("message's length")?;
        let message = body.take(length, "message")?;
        std::str::from_utf8(message).map_err(|_| FormError::Message)?;
        let other_actors = other_actors(body, &actor)?;
        Ok(Self { dependencies, actor, seq, start_op, other_actors })
    }
}

/// Reads the dependencies and rejects duplicates. automerge accepts duplicates and any order.
fn dependencies(body: &mut ByteReader<'_>) -> Result<Vec<ChangeHash>, FormError> {
    let count = body.unsigned("number of dependencies")?;
    let limit = limits::CHANGE_DEPENDENCIES;
    let length = usize::try_from(count).ok().filter(|&length| length <= limit);
    let length = length.ok_or(FormError::Dependencies { limit, actual: count })?;
    let bytes = body.take(count * 32, "dependencies")?;
    let mut dependencies = Vec::with_capacity(length);
    dependencies.extend(bytes.as_chunks().0.iter().map(|&hash| ChangeHash(hash)));
    // Honest changes list dependencies in ascending order, so they cost only this pass.
    if !dependencies.is_sorted_by(|a, b| a < b) {
        let mut sorted = dependencies.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(FormError::DuplicateDependency { hash: twice[0] });
        }
    }
    Ok(dependencies)
}

fn actor(body: &mut ByteReader<'_>) -> Result<ActorId, FormError> {
    let length = body.unsigned("actor id's length")?;
    let limit = limits::ACTOR_BYTES;
    if length == 0 || length > limit as u64 {
        return Err(FormError::ActorLength { limit, actual: length });
    }
    Ok(ActorId::from(body.take(length, "actor id")?))
}

/// The other actors ascend and do not include the author: automerge writes them so, and rebuilds
/// the change so when it loads a saved document.
fn other_actors(body: &mut ByteReader<'_>, author: &ActorId) -> Result<Vec<ActorId>, FormError> {
    let count = body.unsigned("number of other actors")?;
    let limit = limits::CHANGE_OTHER_ACTORS;
    let length = usize::try_from(count).ok().filter(|&length| length <= limit);
    let length = length.ok_or(FormError::OtherActors { limit, actual: count })?;
    // An actor takes at least two bytes, so a false count reserves no more memory than the input
    // has.
    let mut actors: Vec<ActorId> = Vec::with_capacity(length.min(body.rest().len() / 2));
    for index in 0..length {
        let next = actor(body)?;
        if next == *author || actors.last().is_some_and(|last| *last >= next) {
            return Err(FormError::OtherActorOrder { index });
        }
        actors.push(next);
    }
    Ok(actors)
}
