//! Reads a portable file, in pieces of any length. Opens no file and does not check changes.

use sha2::{Digest, Sha256};

use super::{
    Counts, Grammar, MAGIC, PortableError, RECORD_BYTES, RECORD_HEADER, Record, State, VERSION,
    kind,
};
use crate::ids::{DocumentId, SpaceName};

/// Bytes of magic and version.
const PREAMBLE: usize = MAGIC.len() + 2;

/// Reads records from bytes that arrive in pieces of any length. It buffers at most one record and
/// the bytes fed after it.
///
/// Call [`Decoder::next`] until it returns `None`, then [`Decoder::feed`] more; after the file's
/// last byte, [`Decoder::finish`] checks whether the file was complete. After an error it returns
/// the same error forever.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// The number of consumed bytes of the buffer.
    read: usize,
    /// The offset in the file of the first unread byte.
    at: u64,
    begun: bool,
    hasher: Sha256,
    grammar: Grammar,
    /// The current snapshot: its expected SHA-256, and the hash of the parts so far.
    snapshot: Option<([u8; 32], Sha256)>,
    failed: Option<PortableError>,
}

impl Decoder {
    /// A decoder at the beginning of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes of the file. Feed pieces of a bounded size.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next record, or `None` if more bytes are needed or the end was reached.
    ///
    /// # Errors
    /// See [`PortableError`]. [`Record::End`] is returned only if it agrees with everything before
    /// it.
    #[allow(clippy::should_implement_trait, reason = "it is fed between two calls")]
    pub fn next(&mut self) -> Result<Option<Record>, PortableError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.read_record();
        if let Err(error) = &next {
            self.failed = Some(error.clone());
        }
        next
    }

    /// The counts of a file that was complete.
    ///
    /// # Errors
    /// [`PortableError::Cut`] if it was not, or the error that [`Decoder::next`] returned.
    pub fn finish(&self) -> Result<Counts, PortableError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.grammar.state == State::Ended {
            return Ok(self.grammar.counts);
        }
        let bytes = self.at + (self.buffer.len() - self.read) as u64;
        Err(match bytes {
            0 => PortableError::NotPortable,
            _ => PortableError::Cut { bytes },
        })
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.read..]
    }

    /// Consumes bytes and adds them to the file's SHA-256.
    fn pass(&mut self, bytes: usize) {
        let end = self.read + bytes;
        self.hasher.update(&self.buffer[self.read..end]);
        self.read = end;
        self.at += bytes as u64;
    }

    fn read_record(&mut self) -> Result<Option<Record>, PortableError> {
        if !self.begun && !self.begin()? {
            return Ok(None);
        }
        loop {
            if self.grammar.state == State::Ended {
                return match self.rest() {
                    [] => Ok(None),
                    _ => Err(PortableError::Trailing { at: self.at }),
                };
            }
            let Some((kind, length)) = self.header()? else { return Ok(None) };
            if self.rest().len() < RECORD_HEADER + length {
                return Ok(None);
            }
            if kind >= kind::OPTIONAL {
                self.pass(RECORD_HEADER + length);
                continue;
            }
            return self.known(kind, length).map(Some);
        }
    }

    /// Reads magic and version; false if more bytes are needed.
    fn begin(&mut self) -> Result<bool, PortableError> {
        let rest = self.rest();
        let known = rest.len().min(MAGIC.len());
        if rest[..known] != MAGIC[..known] {
            return Err(PortableError::NotPortable);
        }
        let Some(preamble) = rest.get(..PREAMBLE) else { return Ok(false) };
        let found = u16::from_le_bytes([preamble[MAGIC.len()], preamble[MAGIC.len() + 1]]);
        if found != VERSION {
            return Err(PortableError::Version { found });
        }
        self.pass(PREAMBLE);
        self.begun = true;
        Ok(true)
    }

    fn header(&self) -> Result<Option<(u8, usize)>, PortableError> {
        let Some(header) = self.rest().first_chunk::<RECORD_HEADER>() else { return Ok(None) };
        let [kind, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        match length <= RECORD_BYTES {
            true => Ok(Some((kind, length))),
            false => Err(self.refused("it is too long")),
        }
    }

    fn refused(&self, what: &'static str) -> PortableError {
        PortableError::Record { at: self.at, what }
    }

    /// Decodes a complete record.
    fn known(&mut self, kind: u8, length: usize) -> Result<Record, PortableError> {
        let body = &self.rest()[RECORD_HEADER..RECORD_HEADER + length];
        let mut body = Body { bytes: body };
        let record = body.record(kind).map_err(|what| self.refused(what))?;
        self.grammar.take(&record).map_err(|what| self.refused(what))?;
        match &record {
            Record::End(counts) => return self.end(*counts, length),
            Record::Snapshot { hash, .. } => self.snapshot = Some((*hash, Sha256::new())),
            Record::Part(part) => {
                if let Some((_, hasher)) = &mut self.snapshot {
                    hasher.update(part);
                }
                if self.grammar.state == State::Tail {
                    self.check_snapshot()?;
                }
            }
            _ => {}
        }
        self.pass(RECORD_HEADER + length);
        Ok(record)
    }

    fn check_snapshot(&mut self) -> Result<(), PortableError> {
        let Some((hash, hasher)) = self.snapshot.take() else { return Ok(()) };
        match <[u8; 32]>::from(hasher.finalize()) == hash {
            true => Ok(()),
            false => Err(self.refused("the snapshot before it does not have its hash")),
        }
    }

    fn end(&mut self, stated: Counts, length: usize) -> Result<Record, PortableError> {
        let hash_at = RECORD_HEADER + length - 32;
        let told_hash: Vec<u8> = self.rest()[hash_at..hash_at + 32].to_vec();
        self.pass(hash_at);
        let hash = self.hasher.clone().finalize();
        if hash.as_slice() != told_hash.as_slice() {
            return Err(PortableError::Damaged { what: "the SHA-256 of its bytes" });
        }
        if self.grammar.counts != stated {
            return Err(PortableError::Damaged { what: "the number of its records" });
        }
        self.pass(32);
        Ok(Record::End(stated))
    }
}

/// The unread bytes of a record's body.
struct Body<'a> {
    bytes: &'a [u8],
}

impl<'a> Body<'a> {
    fn record(&mut self, kind: u8) -> Result<Record, &'static str> {
        let record = match kind {
            kind::SPACE => {
                let at_ms = self.u64()?;
                let name = std::str::from_utf8(self.rest()).map_err(|_| BAD_NAME)?;
                let name: SpaceName = name.parse().map_err(|_| BAD_NAME)?;
                Record::Space { name, at_ms }
            }
            kind::DOCUMENT => Record::Document(DocumentId::from_bytes(self.array()?)),
            kind::TOMBSTONE => {
                Record::Tombstone { at_ms: self.u64()?, author: self.rest().to_vec() }
            }
            kind::SNAPSHOT => Record::Snapshot { hash: self.array()?, bytes: self.u64()? },
            kind::PART => Record::Part(self.rest().to_vec()),
            kind::CHANGE => {
                let at_ms = self.u64()?;
                let flags = u16::from_le_bytes(self.array()?);
                let [author] = self.array()?;
                let author = self.take(usize::from(author))?.to_vec();
                Record::Change { at_ms, flags, author, chunk: self.rest().to_vec() }
            }
            kind::END => {
                let (documents, tombstones) = (self.u64()?, self.u64()?);
                let (snapshots, changes) = (self.u64()?, self.u64()?);
                let _hash: [u8; 32] = self.array()?;
                Record::End(Counts { documents, tombstones, snapshots, changes })
            }
            _ => return Err("a newer release wrote it, and it must not be skipped"),
        };
        match self.bytes {
            [] => Ok(record),
            _ => Err("it is longer than its kind allows"),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or("it is too short")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

const BAD_NAME: &str = "the space's name is invalid";
