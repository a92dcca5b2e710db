//! The preflight: every check of a change that needs only its own bytes, made before automerge 0.12
//! parses them and before they are stored.
//!
//! The checks go from the outside in: length and chunk, checksum, header, columns by their run
//! lengths, and only then automerge's own parser, whose result is compared with ours. The time is
//! linear in the bytes and their inflated length. automerge's share is linear in the operations,
//! and bounded because the operations have been counted before.
//!
//! The preflight cannot check whether the objects, elements and predecessors that an operation
//! names exist and belong together: that needs the document.

use automerge::Change;

use super::chunk::Chunk;
use super::columns::{Counted, count_operations};
use super::form::FormError;
use super::header::Header;
use super::reader::ByteReader;
use super::references::Actors;
use super::work::Work;
use crate::ids::{ActorId, ChangeHash};
use crate::limits;

/// A change of valid form. Only [`preflight`] and [`CheckedChange::from_local`] construct it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckedChange {
    /// Its SHA-256 as automerge computes it: over the inflated chunk.
    pub hash: ChangeHash,
    /// Its author.
    pub actor: ActorId,
    /// Its sequence number among its actor's changes, from 1.
    pub seq: u64,
    /// The counter of its first operation, from 1.
    pub start_op: u64,
    /// The counter of its last operation; `start_op - 1` when it has none.
    pub max_op: u64,
    /// The number of operations; a merge without an edit has none.
    pub operations: u64,
    /// Its share of [`DocumentSize::operations`](super::DocumentSize): its operations except
    /// deletions, and the predecessors that its operations name.
    pub stored_operations: u64,
    /// Its dependencies, each once, in the order of the bytes.
    pub dependencies: Vec<ChangeHash>,
    /// The other actors whose operations it refers to, ascending.
    pub other_actors: Vec<ActorId>,
    /// Its bytes exactly as received, deflated or not.
    pub bytes: Vec<u8>,
    /// The length of its bytes when inflated: its memory cost before it is applied.
    pub inflated_bytes: usize,
}

/// Checks the bytes of one change from an untrusted source. It never panics, uses no more memory
/// than the bytes and [`limits::CHANGE_INFLATED_BYTES`], and needs no document.
pub fn preflight(bytes: &[u8]) -> Result<CheckedChange, FormError> {
    let chunk = Chunk::open(bytes)?;
    let form = Form::read(&chunk)?;
    form.parsed(&chunk, bytes)
}

/// As [`preflight`], and adds its cost to `work`. Returns `None` if the total would exceed `most`,
/// after reading at most the bytes that `most` allows. The run lengths give the number of
/// operations before automerge expands them.
///
/// # Errors
/// If the change's form is invalid. The cost is added nonetheless.
pub fn preflight_within(
    bytes: &[u8],
    most: Option<Work>,
    work: &mut Work,
) -> Result<Option<CheckedChange>, FormError> {
    let left = most.map(|most| most.minus(*work));
    let most_bytes = left.map_or(u64::MAX, |left| left.bytes);
    if bytes.len() as u64 > most_bytes {
        return Ok(None);
    }
    let limit = limits::CHANGE_INFLATED_BYTES;
    let most_inflated = usize::try_from(most_bytes).unwrap_or(limit).min(limit);
    let opened = Chunk::open_within(bytes, most_inflated);
    if most_inflated < limit && matches!(opened, Err(FormError::Inflated { .. })) {
        return Ok(None);
    }
    // If the chunk did not open, its length as received is the largest part of the cost.
    let inflated = opened.as_ref().map_or(bytes.len(), |chunk| chunk.bytes().len());
    let mut own = Work { operations: 0, bytes: inflated as u64 };
    let read = opened.and_then(|chunk| Form::read(&chunk).map(|form| (chunk, form)));
    if let Ok((_, form)) = &read {
        own = own.plus(form.expanded);
        if left.is_some_and(|left| !own.is_within(left)) {
            return Ok(None);
        }
    }
    *work = work.plus(own);
    let (chunk, form) = read?;
    form.parsed(&chunk, bytes).map(Some)
}

/// The hash of a change whose chunk is valid. Does not check the contents.
///
/// # Errors
/// If the bytes are not a change, or inflate beyond the limit.
pub fn change_hash(bytes: &[u8]) -> Result<ChangeHash, FormError> {
    Chunk::open(bytes).map(|chunk| chunk.hash)
}

impl CheckedChange {
    /// Checks a change that automerge made locally, by the same rules: the author must learn at
    /// once of a change that a relay would reject. automerge has parsed the change already, so that
    /// step is skipped.
    pub fn from_local(change: &Change) -> Result<Self, FormError> {
        let raw = change.raw_bytes();
        if raw.len() + 32 * change.deps().len() > limits::CHANGE_BYTES {
            // In the deflated form, which automerge stores and sends, it may be short enough.
            return preflight(&change.clone().bytes());
        }
        let chunk = Chunk::open(raw)?;
        let form = Form::read(&chunk)?;
        form.compare(change)?;
        form.checked(raw.to_vec(), raw.len())
    }

    /// Its bytes exactly as received, deflated or not.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The parts of a change that this module has decoded.
struct Form {
    hash: ChangeHash,
    header: Header,
    operations: u64,
    stored_operations: u64,
    /// The cost of automerge's parser.
    expanded: Work,
}

impl Form {
    fn read(chunk: &Chunk<'_>) -> Result<Self, FormError> {
        let mut body = ByteReader::new(chunk.body());
        let header = Header::read(&mut body)?;
        let mut actors = Actors::new(&header.actor, &header.other_actors);
        let counted = count_operations(&mut body, header.start_op, &mut actors)?;
        let Counted { operations, stored_operations, expanded } = counted;
        Ok(Self { hash: chunk.hash, header, operations, stored_operations, expanded })
    }

    /// Parses the chunk with automerge too; `bytes` is the chunk as received.
    fn parsed(self, chunk: &Chunk<'_>, bytes: &[u8]) -> Result<CheckedChange, FormError> {
        let change = Change::try_from(chunk.bytes())
            .map_err(|error| FormError::Refused { reason: error.to_string() })?;
        self.compare(&change)?;
        self.checked(bytes.to_vec(), chunk.bytes().len())
    }

    /// Rejects the change unless automerge decoded the same fields: other peers see automerge's
    /// result.
    fn compare(&self, change: &Change) -> Result<(), FormError> {
        let header = &self.header;
        let same = [
            ("hash", change.hash() == self.hash),
            ("sequence number", change.seq() == header.seq),
            ("first operation", change.start_op().get() == header.start_op),
            ("number of operations", change.len() as u64 == self.operations),
            ("last operation", change.max_op() == self.max_op()),
            ("actor", *change.actor_id() == header.actor),
            ("dependencies", change.deps() == header.dependencies),
            ("other actors", change.other_actor_ids() == header.other_actors),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some(&(field, _)) => Err(FormError::Disagreement { field }),
            None => Ok(()),
        }
    }

    fn max_op(&self) -> u64 {
        // Both were bounded when they were read, and the first counter is at least 1.
        self.header.start_op + self.operations - 1
    }

    fn checked(self, bytes: Vec<u8>, inflated_bytes: usize) -> Result<CheckedChange, FormError> {
        // The change's log entry repeats the dependencies.
        let limit = limits::CHANGE_ENTRY_BYTES - 32 * self.header.dependencies.len();
        if bytes.len() > limit {
            return Err(FormError::TooLarge { limit, actual: bytes.len() });
        }
        Ok(CheckedChange {
            hash: self.hash,
            max_op: self.max_op(),
            actor: self.header.actor,
            seq: self.header.seq,
            start_op: self.header.start_op,
            operations: self.operations,
            stored_operations: self.stored_operations,
            dependencies: self.header.dependencies,
            other_actors: self.header.other_actors,
            bytes,
            inflated_bytes,
        })
    }
}

#[cfg(test)]
mod tests;
