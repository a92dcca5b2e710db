//! The chunk around a change: magic, checksum, type, length, and the deflated form. The change's
//! columns are read elsewhere.

use std::borrow::Cow;

use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};

use super::form::FormError;
use super::reader::ByteReader;
use crate::ids::ChangeHash;
use crate::limits;

/// The first four bytes of every chunk.
pub(super) const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const CHANGE: u8 = 1;
const DEFLATED_CHANGE: u8 = 2;

/// The longest possible chunk header: magic, checksum, type, and a `u32` length in LEB128.
const PREFIX: usize = 4 + 4 + 1 + 5;

/// A change as one chunk of type 1, inflated if it arrived deflated. Its checksum agrees with its
/// hash.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    bytes: Cow<'a, [u8]>,
    /// Where the chunk begins in `bytes`.
    start: usize,
    /// Where its body begins in `bytes`.
    body: usize,
    pub(super) hash: ChangeHash,
}

impl<'a> Chunk<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, FormError> {
        Self::open_within(bytes, limits::CHANGE_INFLATED_BYTES)
    }

    /// As [`Self::open`], but fails if the chunk inflates to more than `most` bytes.
    pub(super) fn open_within(bytes: &'a [u8], most: usize) -> Result<Self, FormError> {
        let (limit, actual) = (limits::CHANGE_BYTES, bytes.len());
        if actual > limit {
            return Err(FormError::TooLarge { limit, actual });
        }
        let mut reader = ByteReader::new(bytes);
        let found = reader.array("magic")?;
        if found != MAGIC {
            return Err(FormError::Magic { found });
        }
        let stated = reader.array("checksum")?;
        let found = reader.byte("chunk type")?;
        if found != CHANGE && found != DEFLATED_CHANGE {
            return Err(FormError::ChunkType { found });
        }
        let length = reader.unsigned("length")?;
        let body = reader.take(length, "body")?;
        if !reader.is_empty() {
            let count = reader.rest().len();
            return Err(FormError::TrailingBytes { part: "chunk", count });
        }
        if found == DEFLATED_CHANGE {
            return Self::inflated(stated, body, most);
        }
        let body = bytes.len() - body.len();
        let chunk = Self { bytes: Cow::Borrowed(bytes), start: 0, body, hash: ChangeHash([0; 32]) };
        chunk.hashed(stated)
    }

    /// The whole chunk, of type 1, as automerge parses it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The bytes after the chunk's header.
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[self.body..]
    }

    fn inflated(stated: [u8; 4], deflated: &[u8], most: usize) -> Result<Self, FormError> {
        let mut bytes = inflate(deflated, PREFIX, most)?;
        let body_length = bytes.len() - PREFIX;
        let (length, length_bytes) = length_of(body_length);
        let start = 5 - length_bytes;
        bytes[start..start + 4].copy_from_slice(&MAGIC);
        bytes[start + 4..start + 8].copy_from_slice(&stated);
        bytes[start + 8] = CHANGE;
        bytes[start + 9..PREFIX].copy_from_slice(&length[..length_bytes]);
        let hash = ChangeHash([0; 32]);
        Self { bytes: Cow::Owned(bytes), start, body: PREFIX, hash }.hashed(stated)
    }

    /// The hash covers type, length and body. Its first four bytes are the checksum.
    fn hashed(mut self, stated: [u8; 4]) -> Result<Self, FormError> {
        let digest: [u8; 32] = Sha256::digest(&self.bytes[self.start + 8..]).into();
        let actual = [digest[0], digest[1], digest[2], digest[3]];
        if stated != actual {
            return Err(FormError::Checksum { stated, actual });
        }
        self.hash = ChangeHash(digest);
        Ok(self)
    }
}

/// A length in LEB128, and the number of bytes used. Lengths here stay far below 2³⁵.
fn length_of(mut length: usize) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            return (bytes, index + 1);
        }
        *byte |= 0x80;
    }
    (bytes, 5)
}

/// The inflated length of a deflated stream. Inflates one buffer at a time and keeps none.
pub(super) fn inflated_length(deflated: &[u8], limit: usize) -> Result<usize, FormError> {
    let mut buffer = vec![0; INFLATE_BUFFER];
    let mut stream = Decompress::new(false);
    let (mut rest, mut length) = (deflated, 0);
    loop {
        let before = (stream.total_in(), stream.total_out());
        let status = stream
            .decompress(rest, &mut buffer, FlushDecompress::None)
            .map_err(|_| FormError::Deflate)?;
        let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let consumed = moved(stream.total_in(), before.0);
        let made = moved(stream.total_out(), before.1);
        rest = rest.get(consumed..).ok_or(FormError::Deflate)?;
        length += made;
        if length > limit {
            return Err(FormError::Inflated { limit });
        }
        if status == Status::StreamEnd {
            break;
        }
        if consumed == 0 && made == 0 {
            // No progress on input or output: the stream is truncated.
            return Err(FormError::Truncated { part: "deflated stream" });
        }
    }
    match rest.len() {
        0 => Ok(length),
        count => Err(FormError::TrailingBytes { part: "deflated stream", count }),
    }
}

/// Size of the buffer that is reused when no inflated bytes are kept.
const INFLATE_BUFFER: usize = 32 * 1024;

/// Inflates into a buffer that leaves `prefix` bytes free in front, so that the chunk header is
/// added without a second copy. The buffer grows with the inflated bytes, up to the limit.
pub(super) fn inflate(deflated: &[u8], prefix: usize, limit: usize) -> Result<Vec<u8>, FormError> {
    let guess = deflated.len().saturating_mul(4).max(1024).min(limit);
    let mut out = Vec::with_capacity(prefix + guess);
    out.resize(prefix, 0);
    let mut stream = Decompress::new(false);
    let mut rest = deflated;
    loop {
        let before = (stream.total_in(), out.len());
        let status = stream
            .decompress_vec(rest, &mut out, FlushDecompress::None)
            .map_err(|_| FormError::Deflate)?;
        let consumed = usize::try_from(stream.total_in() - before.0).unwrap_or(usize::MAX);
        rest = rest.get(consumed..).ok_or(FormError::Deflate)?;
        if out.len() - prefix > limit {
            return Err(FormError::Inflated { limit });
        }
        if status == Status::StreamEnd {
            break;
        }
        let is_full = out.len() == out.capacity();
        if !is_full && consumed == 0 && out.len() == before.1 {
            // No progress on input or output: the stream is truncated.
            return Err(FormError::Truncated { part: "deflated stream" });
        }
        if is_full {
            // One byte beyond the limit is enough to detect that the stream exceeds it.
            let most = prefix + limit + 1;
            out.reserve_exact(out.len().max(1024).min(most - out.len()));
        }
    }
    match rest.len() {
        0 => Ok(out),
        count => Err(FormError::TrailingBytes { part: "deflated stream", count }),
    }
}
