//! The portable file: one space as a file that any relay and any engine can read, independent of
//! the formats of their stores. It serves to move or archive a space, not to sync it.
//!
//! This module encodes and decodes bytes; it opens no file. All numbers are little-endian.
//!
//! ```text
//! file   = magic version record*
//! magic  = "lfspace" 0x1a            8 bytes; the last one ends a text that is typed out
//! version = u16                      1
//! record = kind: u8, length: u32, body: that many bytes
//! ```
//!
//! | kind | record | body |
//! |---|---|---|
//! | 1 | space | `at_ms: u64` of the file's creation, then the space's name |
//! | 2 | document | its id, 16 bytes; the next records belong to this document |
//! | 3 | tombstone | `at_ms: u64`, then its author |
//! | 4 | snapshot | SHA-256 of its bytes (32), `bytes: u64`; its parts follow |
//! | 5 | part | the next bytes of the snapshot, at least one |
//! | 6 | change | `at_ms: u64`, `flags: u16`, `length: u8` of its author, the author, an automerge change chunk |
//! | 7 | end | `documents`, `tombstones`, `snapshots`, `changes`: `u64` each, then 32 bytes: SHA-256 of all bytes of the file before them |
//!
//! The space record comes first and once, the end record last and once. A document has either a
//! tombstone, or at most one snapshot and then any number of changes, each after its dependencies.
//! A document comes once.
//!
//! **A missing end record reveals a truncated file**, and its SHA-256 a damaged one. Therefore a
//! reader that must not act on half a file reads it twice: once for the end record, once for the
//! contents.
//!
//! A reader skips an unknown kind if it is 128 or more, and rejects the file if it is less. This
//! module does not check the contents of changes and snapshots: an importer admits them as if an
//! unknown client had pushed them.

mod read;
#[cfg(test)]
mod tests;
mod write;

use thiserror::Error;

use crate::ids::{DocumentId, SpaceName};
use crate::limits;

pub use read::Decoder;
pub use write::Encoder;

/// The first bytes of a portable file.
pub const MAGIC: [u8; 8] = *b"lfspace\x1a";

/// The format version that is written, and the only one that is read.
pub const VERSION: u16 = 1;

/// The most bytes of a record: a change with its header.
const RECORD_BYTES: usize = limits::CHANGE_BYTES + 8 + 2 + 1 + limits::AUTHOR_BYTES;

const RECORD_HEADER: usize = 5;

mod kind {
    pub(super) const SPACE: u8 = 1;
    pub(super) const DOCUMENT: u8 = 2;
    pub(super) const TOMBSTONE: u8 = 3;
    pub(super) const SNAPSHOT: u8 = 4;
    pub(super) const PART: u8 = 5;
    pub(super) const CHANGE: u8 = 6;
    pub(super) const END: u8 = 7;
    /// The first kind that a reader may skip.
    pub(super) const OPTIONAL: u8 = 128;
}

/// A record of a portable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The space of the documents. First and once.
    Space {
        /// The space's name.
        name: SpaceName,
        /// When the file was created, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The next records belong to this document.
    Document(DocumentId),
    /// The document is deleted.
    Tombstone {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// The author of the deletion: at most [`AUTHOR_BYTES`](limits::AUTHOR_BYTES).
        author: Vec<u8>,
    },
    /// The document's snapshot, whose bytes follow in parts.
    Snapshot {
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its length in bytes: from 1 to [`SNAPSHOT_BYTES`](limits::SNAPSHOT_BYTES).
        bytes: u64,
    },
    /// The next bytes of the snapshot: from 1 to [`PART_BYTES`](limits::PART_BYTES).
    Part(Vec<u8>),
    /// A change after the snapshot.
    Change {
        /// When the relay stored it, in milliseconds since 1970.
        at_ms: u64,
        /// Of [`entry_flags`](crate::frame::entry_flags).
        flags: u16,
        /// Its author: at most [`AUTHOR_BYTES`](limits::AUTHOR_BYTES).
        author: Vec<u8>,
        /// An automerge change chunk: at most [`CHANGE_BYTES`](limits::CHANGE_BYTES).
        chunk: Vec<u8>,
    },
    /// The file is complete. Last and once.
    End(Counts),
}

/// The number of records in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Documents, including deleted ones.
    pub documents: u64,
    /// Deleted documents.
    pub tombstones: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Changes outside snapshots.
    pub changes: u64,
}

/// Why bytes are not a portable file, or records do not form one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PortableError {
    /// Another kind of file.
    #[error("it is not a portable file of a space")]
    NotPortable,
    /// A newer release wrote the file.
    #[error("it has version {found}; this release reads version {VERSION}")]
    Version {
        /// The file's version.
        found: u16,
    },
    /// The file ends too early: its writer did not finish, or it was truncated later.
    #[error("it is truncated: it ends at byte {bytes}, without its end record")]
    Cut {
        /// The length of the file.
        bytes: u64,
    },
    /// Bytes follow the end record.
    #[error("it has trailing bytes after its end record, which ends at byte {at}")]
    Trailing {
        /// The end of the end record.
        at: u64,
    },
    /// The bytes were altered after writing: the SHA-256 or a count differs.
    #[error("it is damaged: {what} differs from the value in its end record")]
    Damaged {
        /// The difference.
        what: &'static str,
    },
    /// An invalid record.
    #[error("the record at byte {at} is invalid: {what}")]
    Record {
        /// The beginning of the record.
        at: u64,
        /// The defect.
        what: &'static str,
    },
}

/// The state of a file: which records may come next, and the counts so far. Writer and reader
/// enforce the same rules.
#[derive(Debug, Clone, Default)]
struct Grammar {
    state: State,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// Between documents, or after a tombstone.
    Open,
    /// In a document without records so far.
    Document,
    /// In a snapshot with this many bytes left.
    Snapshot {
        left: u64,
    },
    /// After a snapshot or a change.
    Tail,
    Ended,
}

impl Grammar {
    /// Accepts a record, or returns why it is not allowed here.
    fn take(&mut self, record: &Record) -> Result<(), &'static str> {
        let in_document = matches!(self.state, State::Document | State::Tail);
        let between = in_document || self.state == State::Open;
        self.state = match record {
            Record::Space { .. } if self.state == State::Start => State::Open,
            _ if self.state == State::Start => return Err("the space is not the first record"),
            Record::Document(_) if between => {
                self.counts.documents += 1;
                State::Document
            }
            Record::Tombstone { author, .. } if self.state == State::Document => {
                check_author(author)?;
                self.counts.tombstones += 1;
                State::Open
            }
            Record::Snapshot { bytes, .. } if self.state == State::Document => {
                if !(1..=limits::SNAPSHOT_BYTES as u64).contains(bytes) {
                    return Err("the snapshot is empty or too large");
                }
                self.counts.snapshots += 1;
                State::Snapshot { left: *bytes }
            }
            Record::Part(part) => self.part(part)?,
            Record::Change { author, chunk, .. } if in_document => {
                check_author(author)?;
                if chunk.is_empty() || chunk.len() > limits::CHANGE_BYTES {
                    return Err("the change is empty or too large");
                }
                self.counts.changes += 1;
                State::Tail
            }
            Record::End(_) if between => State::Ended,
            _ => return Err("a record of its kind is not allowed here"),
        };
        Ok(())
    }

    fn part(&self, part: &[u8]) -> Result<State, &'static str> {
        let State::Snapshot { left } = self.state else {
            return Err("a part without a snapshot before it");
        };
        let bytes = part.len() as u64;
        if part.is_empty() || part.len() > limits::PART_BYTES || bytes > left {
            return Err("the part is empty or too large");
        }
        Ok(if bytes == left { State::Tail } else { State::Snapshot { left: left - bytes } })
    }
}

fn check_author(author: &[u8]) -> Result<(), &'static str> {
    match author.len() <= limits::AUTHOR_BYTES {
        true => Ok(()),
        false => Err("the author is too long"),
    }
}

// An author's length has one byte.
const _: () = assert!(limits::AUTHOR_BYTES <= u8::MAX as usize);
const _: () = assert!(limits::PART_BYTES <= RECORD_BYTES && RECORD_BYTES <= u32::MAX as usize);
