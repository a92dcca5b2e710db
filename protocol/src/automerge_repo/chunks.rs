//! The chunks of a sync message: which of them are single changes, and whether automerge itself
//! must open one of them. Reads chunk headers only.

use super::sync::SyncMessage;
use crate::admission::FormError;

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Magic and checksum.
const PREFIX: usize = 8;
/// A deflated change.
const DEFLATED: u8 = 2;

/// The contents of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// Single changes; there may be none.
    Changes(Chunks),
    /// At least one chunk that holds many changes: a whole document or a bundle. Only a process
    /// that may die opens these.
    Whole(Vec<u8>),
}

/// Single changes, one chunk after the other in one buffer: a message may have very many of a few
/// bytes each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunks {
    bytes: Vec<u8>,
    at: usize,
}

impl Chunks {
    /// Removes the next chunk. It has a header and the stated length; nothing else has been
    /// checked.
    pub fn take_next(&mut self) -> Option<&[u8]> {
        let length = self.peek()?.len();
        let from = self.at;
        self.at += length;
        self.bytes.get(from..self.at)
    }

    /// The next chunk, which stays.
    pub fn peek(&self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.at..)?;
        let (_, length) = measure(rest).ok()?;
        rest.get(..length)
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The number of bytes left.
    pub fn bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }
}

/// Splits a message into its chunks by their headers. Does not read their contents.
///
/// # Errors
/// If the bytes are not chunks, or have an unknown type.
pub fn carried(message: &SyncMessage<'_>) -> Result<Carried, FormError> {
    let mut whole = false;
    for joined in &message.chunks {
        let mut rest = *joined;
        while !rest.is_empty() {
            let (kind, length) = measure(rest)?;
            let (_, after) =
                rest.split_at_checked(length).ok_or(FormError::Truncated { part: "chunk" })?;
            match kind {
                1 | DEFLATED => {}
                0 | 3 => whole = true,
                found => return Err(FormError::ChunkType { found }),
            }
            rest = after;
        }
    }
    let bytes = message.chunks.concat();
    Ok(match whole {
        true => Carried::Whole(bytes),
        false => Carried::Changes(Chunks { bytes, at: 0 }),
    })
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
