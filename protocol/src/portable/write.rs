//! Encodes a portable file into the caller's buffer. Opens no file.

use sha2::{Digest, Sha256};

use super::{Counts, Grammar, MAGIC, PortableError, Record, VERSION, kind};
use crate::ids::SpaceName;
use crate::limits;

/// Encodes a portable file, record by record. It appends to the caller's buffer, which the caller
/// may write out and empty at any time.
#[derive(Debug, Clone)]
pub struct Encoder {
    hasher: Sha256,
    grammar: Grammar,
    bytes: u64,
}

impl Encoder {
    /// Begins the file of a space. `at_ms` is the current time, in milliseconds since 1970.
    pub fn new(name: &SpaceName, at_ms: u64, out: &mut Vec<u8>) -> Self {
        let mut encoder = Self { hasher: Sha256::new(), grammar: Grammar::default(), bytes: 0 };
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let space = Record::Space { name: name.clone(), at_ms };
        // This is the first record, and a name is never too long, so it is always accepted.
        let _ = encoder.grammar.take(&space);
        append(&space, out);
        encoder.wrote(&out[start..]);
        encoder
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`PortableError::Record`] if it is not allowed here, or exceeds the limit of its kind; then
    /// nothing was appended. [`Encoder::finish`] writes the end record.
    pub fn add(&mut self, record: &Record, out: &mut Vec<u8>) -> Result<(), PortableError> {
        let refused = |what| PortableError::Record { at: self.bytes, what };
        if matches!(record, Record::End(_)) {
            return Err(refused("the end is made by the encoder"));
        }
        let mut grammar = self.grammar.clone();
        grammar.take(record).map_err(refused)?;
        self.grammar = grammar;
        let start = out.len();
        append(record, out);
        self.wrote(&out[start..]);
        Ok(())
    }

    /// Adds a snapshot with all its parts.
    ///
    /// # Errors
    /// As [`Encoder::add`].
    pub fn add_snapshot(
        &mut self,
        hash: [u8; 32],
        snapshot: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), PortableError> {
        self.add(&Record::Snapshot { hash, bytes: snapshot.len() as u64 }, out)?;
        let mut parts = snapshot.chunks(limits::PART_BYTES);
        parts.try_for_each(|part| self.add(&Record::Part(part.to_vec()), out))
    }

    /// The length of the file so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the file; returns its counts.
    ///
    /// # Errors
    /// [`PortableError::Record`] inside a snapshot.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<Counts, PortableError> {
        let counts = self.grammar.counts;
        let refused = |what| PortableError::Record { at: self.bytes, what };
        self.grammar.take(&Record::End(counts)).map_err(refused)?;
        let start = out.len();
        append(&Record::End(counts), out);
        self.hasher.update(&out[start..]);
        out.extend_from_slice(&self.hasher.finalize());
        Ok(counts)
    }

    fn wrote(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// Appends a record; an end record without its hash.
fn append(record: &Record, out: &mut Vec<u8>) {
    let (kind, hash_bytes) = match record {
        Record::Space { .. } => (kind::SPACE, 0),
        Record::Document(_) => (kind::DOCUMENT, 0),
        Record::Tombstone { .. } => (kind::TOMBSTONE, 0),
        Record::Snapshot { .. } => (kind::SNAPSHOT, 0),
        Record::Part(_) => (kind::PART, 0),
        Record::Change { .. } => (kind::CHANGE, 0),
        Record::End(_) => (kind::END, 32),
    };
    out.push(kind);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    match record {
        Record::Space { name, at_ms } => {
            out.extend_from_slice(&at_ms.to_le_bytes());
            out.extend_from_slice(name.as_str().as_bytes());
        }
        Record::Document(document) => out.extend_from_slice(document.as_bytes()),
        Record::Tombstone { at_ms, author } => {
            out.extend_from_slice(&at_ms.to_le_bytes());
            out.extend_from_slice(author);
        }
        Record::Snapshot { hash, bytes } => {
            out.extend_from_slice(hash);
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        Record::Part(part) => out.extend_from_slice(part),
        Record::Change { at_ms, flags, author, chunk } => {
            out.extend_from_slice(&at_ms.to_le_bytes());
            out.extend_from_slice(&flags.to_le_bytes());
            out.push(author.len() as u8);
            out.extend_from_slice(author);
            out.extend_from_slice(chunk);
        }
        Record::End(counts) => {
            let Counts { documents, tombstones, snapshots, changes } = counts;
            for count in [documents, tombstones, snapshots, changes] {
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
    }
    let length = (out.len() - length_at - 4 + hash_bytes) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}
