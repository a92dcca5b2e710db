//! The chunks that a sync message carries: which of them are single changes, and whether anything
//! among them must be opened by automerge itself.

use super::sync::SyncMessage;
use crate::admission::FormError;

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Magic and checksum.
const PREFIX: usize = 8;

/// What a message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried<'a> {
    /// Single changes, each a chunk of its own.
    Changes(Vec<&'a [u8]>),
    /// At least one chunk that holds many changes: a whole document or a bundle. Only a process
    /// that may die opens these.
    Whole(Vec<&'a [u8]>),
}

/// Takes a message's chunks apart by their headers. Nothing inside them is looked at.
///
/// # Errors
/// If the bytes are no chunks, or are of a type that nobody knows.
pub fn carried<'a>(message: &SyncMessage<'a>) -> Result<Carried<'a>, FormError> {
    let (mut changes, mut whole) = (Vec::new(), false);
    for joined in &message.chunks {
        let mut rest = *joined;
        while !rest.is_empty() {
            let (kind, length) = measure(rest)?;
            let (chunk, after) =
                rest.split_at_checked(length).ok_or(FormError::Truncated { part: "chunk" })?;
            match kind {
                1 | 2 => changes.push(chunk),
                0 | 3 => whole = true,
                found => return Err(FormError::ChunkType { found }),
            }
            rest = after;
        }
    }
    Ok(if whole { Carried::Whole(message.chunks.clone()) } else { Carried::Changes(changes) })
}

/// The type of the chunk at the front, and its length with its header.
fn measure(bytes: &[u8]) -> Result<(u8, usize), FormError> {
    let truncated = FormError::Truncated { part: "chunk" };
    let found = *bytes.first_chunk().ok_or_else(|| truncated.clone())?;
    if found != MAGIC {
        return Err(FormError::Magic { found });
    }
    let kind = *bytes.get(PREFIX).ok_or_else(|| truncated.clone())?;
    let (mut length, mut at) = (0u64, PREFIX + 1);
    for shift in (0..63).step_by(7) {
        let byte = *bytes.get(at).ok_or_else(|| truncated.clone())?;
        at += 1;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let length = usize::try_from(length).ok().and_then(|length| length.checked_add(at));
            return length.map(|length| (kind, length)).ok_or(truncated);
        }
    }
    Err(FormError::Number { part: "chunk" })
}
