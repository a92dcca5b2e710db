//! automerge's sync messages, read within bounds: automerge 0.12 itself panics on a message of ten
//! bytes, and allocates gigabytes for another of a few hundred.
//!
//! The layout is automerge's: a byte `42` or `43`, then heads, needs, `have`s and chunks, each a
//! list with its length in LEB128, and optional flags.

use automerge::sync::BloomFilter;
use thiserror::Error;

use crate::code::Code;
use crate::ids::ChangeHash;
use crate::limits;

/// A sync message as received.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncMessage<'a> {
    /// The sender's heads.
    pub heads: Vec<ChangeHash>,
    /// The changes that it requests.
    pub need: Vec<ChangeHash>,
    /// The sender's `have`.
    pub have: Vec<Have>,
    /// The sent changes: each item is one chunk, or several in a row.
    pub chunks: Vec<&'a [u8]>,
    /// Its flags, if it has that section: a peer that sends one also accepts whole documents.
    pub flags: Option<Flags>,
}

/// The sender's changes: the ancestors of `last_sync`, and those in the filter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Have {
    /// The heads that the sender believes both sides have.
    pub last_sync: Vec<ChangeHash>,
    /// A filter over its further changes.
    pub filter: BloomFilter,
    /// The number of changes that the filter states.
    pub entries: u32,
    /// The length of the filter as received.
    pub bytes: usize,
}

/// The flags of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Forget what was sent before.
    pub reset: bool,
    /// The sender accepts no changes.
    pub read_only: bool,
}

/// Why bytes are not an acceptable sync message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The first byte is not a protocol version.
    #[error("a sync message begins with 42 or 43, this one with {found:02x}")]
    Version {
        /// The byte.
        found: u8,
    },
    /// The bytes end inside a part, or a part states more than there is.
    #[error("the sync message ends inside its {part}")]
    Truncated {
        /// The part.
        part: &'static str,
    },
    /// A list beyond its limit.
    #[error("{actual} {part} in a sync message; the limit is {limit}")]
    TooMany {
        /// The list.
        part: &'static str,
        /// The limit.
        limit: usize,
        /// The stated number.
        actual: u64,
    },
    /// A filter whose numbers do not fit its bytes.
    #[error(
        "a bloom filter of {entries} entries, {bits} bits each and {probes} probes in {bytes} bytes"
    )]
    Filter {
        /// The stated number of entries.
        entries: u64,
        /// Bits per entry.
        bits: u64,
        /// Probes per entry.
        probes: u64,
        /// The filter's bytes.
        bytes: usize,
    },
}

impl SyncError {
    /// The code on the wire. It ends a relay's session, except for [`SyncError::TooMany`], which
    /// rejects only the message's document.
    pub fn code(&self) -> Code {
        match self {
            Self::TooMany { .. } => Code::TOO_LARGE,
            _ => Code::MALFORMED,
        }
    }
}

impl<'a> SyncMessage<'a> {
    /// Reads a message. Work and memory are linear in the number of bytes, whatever they are.
    ///
    /// # Errors
    /// If it is not a sync message, or exceeds a limit.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, SyncError> {
        let mut reader = MessageReader { rest: bytes };
        match reader.byte("version")? {
            0x42 | 0x43 => {}
            found => return Err(SyncError::Version { found }),
        }
        let heads = reader.hashes("heads")?;
        let need = reader.hashes("need")?;
        let count = reader.count("have", limits::SYNC_HAVES)?;
        let have = (0..count).map(|_| reader.have()).collect::<Result<_, _>>()?;
        let count = reader.count("chunks", limits::SYNC_CHUNKS.min(reader.rest.len()))?;
        let chunks = (0..count).map(|_| reader.prefixed("chunks")).collect::<Result<_, _>>()?;
        let flags = match reader.rest {
            [] => None,
            _ => Some(Flags::of(reader.prefixed("flags")?)),
        };
        Ok(Self { heads, need, have, chunks, flags })
    }
}

/// A sync message to be written.
#[derive(Debug, Clone, Default)]
pub struct Reply<'a> {
    /// The sender's heads, ascending; only durable ones.
    pub heads: &'a [ChangeHash],
    /// The changes that it requests, ascending.
    pub need: &'a [ChangeHash],
    /// Its `have`.
    pub have: &'a [Have],
    /// The sent changes. Each item is one chunk or several; the receiver concatenates them.
    pub chunks: &'a [&'a [u8]],
    /// Whether the peer may send whole documents until it disconnects.
    pub takes_whole: bool,
}

impl Reply<'_> {
    /// The message's bytes, of version 1, which every peer reads.
    ///
    /// # Errors
    /// If a list is longer than [`SyncMessage::decode`] accepts: a peer with the same document
    /// would send the same list back.
    pub fn encode(&self) -> Result<Vec<u8>, SyncError> {
        within("heads", self.heads.len(), limits::SYNC_HASHES)?;
        within("need", self.need.len(), limits::SYNC_HASHES)?;
        within("have", self.have.len(), limits::SYNC_HAVES)?;
        for have in self.have {
            within("last sync", have.last_sync.len(), limits::SYNC_HASHES)?;
        }
        within("chunks", self.chunks.len(), limits::SYNC_CHUNKS)?;
        Ok(self.written())
    }

    fn written(&self) -> Vec<u8> {
        let capacity: usize = self.chunks.iter().map(|chunk| chunk.len() + 10).sum();
        let mut out =
            Vec::with_capacity(256 + 32 * (self.heads.len() + self.need.len()) + capacity);
        out.push(0x42);
        write_hashes(&mut out, self.heads);
        write_hashes(&mut out, self.need);
        write_number(&mut out, self.have.len());
        for have in self.have {
            write_hashes(&mut out, &have.last_sync);
            write_prefixed(&mut out, &have.filter.to_bytes());
        }
        write_number(&mut out, self.chunks.len());
        self.chunks.iter().for_each(|chunk| write_prefixed(&mut out, chunk));
        if self.takes_whole {
            // The presence of the section is the signal; its oldest readers look for `02`.
            write_prefixed(&mut out, &[0x02]);
        }
        out
    }
}

fn within(part: &'static str, actual: usize, limit: usize) -> Result<(), SyncError> {
    match actual > limit {
        true => Err(SyncError::TooMany { part, limit, actual: actual as u64 }),
        false => Ok(()),
    }
}

fn write_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn write_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    write_number(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn write_hashes(out: &mut Vec<u8>, hashes: &[ChangeHash]) {
    write_number(out, hashes.len());
    hashes.iter().for_each(|hash| out.extend_from_slice(&hash.0));
}

impl Have {
    /// Exactly the ancestors of these heads.
    pub fn of(last_sync: Vec<ChangeHash>) -> Self {
        Self { last_sync, ..Self::default() }
    }
}

impl Flags {
    /// A byte with its highest bit set carries flags; other bytes are an older form without flags.
    fn of(bytes: &[u8]) -> Self {
        let bits = bytes.iter().filter(|byte| **byte & 0x80 != 0).fold(0, |all, byte| all | byte);
        Self { reset: bits & 1 != 0, read_only: bits & 2 != 0 }
    }
}

/// The unread rest of the bytes.
struct MessageReader<'a> {
    rest: &'a [u8],
}

impl<'a> MessageReader<'a> {
    fn byte(&mut self, part: &'static str) -> Result<u8, SyncError> {
        let (&byte, rest) = self.rest.split_first().ok_or(SyncError::Truncated { part })?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self, part: &'static str) -> Result<u64, SyncError> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte(part)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(SyncError::Truncated { part })
    }

    fn count(&mut self, part: &'static str, limit: usize) -> Result<usize, SyncError> {
        let actual = self.number(part)?;
        match usize::try_from(actual).ok().filter(|count| *count <= limit) {
            Some(count) => Ok(count),
            None => Err(SyncError::TooMany { part, limit, actual }),
        }
    }

    fn take(&mut self, count: usize, part: &'static str) -> Result<&'a [u8], SyncError> {
        let split = self.rest.split_at_checked(count);
        let (taken, rest) = split.ok_or(SyncError::Truncated { part })?;
        self.rest = rest;
        Ok(taken)
    }

    fn prefixed(&mut self, part: &'static str) -> Result<&'a [u8], SyncError> {
        let length = self.number(part)?;
        let length = usize::try_from(length).map_err(|_| SyncError::Truncated { part })?;
        self.take(length, part)
    }

    fn hashes(&mut self, part: &'static str) -> Result<Vec<ChangeHash>, SyncError> {
        let count = self.count(part, limits::SYNC_HASHES)?;
        let bytes = self.take(count * 32, part)?;
        Ok(bytes.as_chunks::<32>().0.iter().copied().map(ChangeHash).collect())
    }

    fn have(&mut self) -> Result<Have, SyncError> {
        let last_sync = self.hashes("last sync")?;
        let bytes = self.prefixed("filter")?;
        let (filter, entries) = filter(bytes)?;
        // An empty filter keeps no bytes, whatever its received length.
        let bytes = if entries == 0 { 0 } else { bytes.len() };
        Ok(Have { last_sync, filter, entries, bytes })
    }
}

/// Reads a filter, once its numbers fit its bytes. A filter without bytes is empty.
fn filter(bytes: &[u8]) -> Result<(BloomFilter, u32), SyncError> {
    let mut reader = MessageReader { rest: bytes };
    if bytes.is_empty() {
        return Ok((BloomFilter::default(), 0));
    }
    let part = "filter";
    let [entries, bits, probes] =
        [reader.number(part)?, reader.number(part)?, reader.number(part)?];
    let bytes_left = reader.rest.len();
    let bad = SyncError::Filter { entries, bits, probes, bytes: bytes_left };
    if entries == 0 {
        return Ok((BloomFilter::default(), 0));
    }
    let there = bytes_left as u64 * 8;
    let stated_bits = entries.checked_mul(bits).ok_or_else(|| bad.clone())?;
    if !(1..=there).contains(&stated_bits) || !(1..=limits::SYNC_PROBES).contains(&probes) {
        return Err(bad);
    }
    let entries = u32::try_from(entries).map_err(|_| bad.clone())?;
    let filter = BloomFilter::try_from(bytes).map_err(|_| bad)?;
    Ok((filter, entries))
}
