//! The portable file: one space as a file that any relay and any engine can read, whatever their
//! stores look like. It is for moving a space and for keeping it, not for syncing.
//!
//! This module makes and reads its bytes; it opens no file. All numbers are little-endian.
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
//! | 1 | space | `at_ms: u64` when the file was made, then the space's name |
//! | 2 | document | its id, 16 bytes: what follows is of this document |
//! | 3 | tombstone | `at_ms: u64`, then its author |
//! | 4 | snapshot | SHA-256 of its bytes (32), `bytes: u64`; its parts follow |
//! | 5 | part | the next bytes of the snapshot, at least one |
//! | 6 | change | `at_ms: u64`, `flags: u16`, `length: u8` of its author, the author, an automerge change chunk |
//! | 7 | end | `documents`, `tombstones`, `snapshots`, `changes`: `u64` each, then 32 bytes: SHA-256 of all bytes of the file before them |
//!
//! The space comes first and once, the end last and once. A document has either a tombstone, or at
//! most one snapshot and then any number of changes, each after everything that it rests on. A
//! document comes once.
//!
//! **A cut file is told from a whole one by its end**, and a damaged one by the end's SHA-256. So
//! a reader that must not act on half a file reads it twice: once for its end, once for what is in
//! it.
//!
//! A reader skips a kind that it does not know if it is 128 or more, and refuses the file if it is
//! less. What a change or a snapshot holds is not looked at here: whoever imports it judges it as
//! if a stranger had pushed it.

mod read;
#[cfg(test)]
mod tests;
mod write;

use thiserror::Error;

use crate::ids::{DocumentId, SpaceName};
use crate::limits;

pub use read::Decoder;
pub use write::Encoder;

/// What a portable file begins with.
pub const MAGIC: [u8; 8] = *b"lfspace\x1a";

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;

/// Bytes of a record at most: a change with its header.
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

/// One thing that a portable file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Whose documents follow. First and once.
    Space {
        /// The space's name.
        name: SpaceName,
        /// When the file was made, in milliseconds since 1970.
        at_ms: u64,
    },
    /// What follows is of this document.
    Document(DocumentId),
    /// It is deleted.
    Tombstone {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Who did it: at most [`AUTHOR_BYTES`](limits::AUTHOR_BYTES).
        author: Vec<u8>,
    },
    /// Its folded history, whose bytes follow in parts.
    Snapshot {
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// How many bytes: from 1 to [`SNAPSHOT_BYTES`](limits::SNAPSHOT_BYTES).
        bytes: u64,
    },
    /// The next bytes of the snapshot: from 1 to [`PART_BYTES`](limits::PART_BYTES).
    Part(Vec<u8>),
    /// A change beyond the snapshot.
    Change {
        /// When the relay took it, in milliseconds since 1970.
        at_ms: u64,
        /// Of [`entry_flags`](crate::frame::entry_flags).
        flags: u16,
        /// Who pushed it: at most [`AUTHOR_BYTES`](limits::AUTHOR_BYTES).
        author: Vec<u8>,
        /// An automerge change chunk: at most [`CHANGE_BYTES`](limits::CHANGE_BYTES).
        chunk: Vec<u8>,
    },
    /// Everything was said. Last and once.
    End(Counts),
}

/// What a file holds, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Documents, deleted ones too.
    pub documents: u64,
    /// Deleted documents.
    pub tombstones: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Changes beside those that are in snapshots.
    pub changes: u64,
}

/// Why some bytes are no portable file, or some records do not make one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PortableError {
    /// It is another kind of file.
    #[error("it is no portable file of a space")]
    NotPortable,
    /// A newer release wrote it.
    #[error("it is of version {found}; this release reads version {VERSION}")]
    Version {
        /// The file's version.
        found: u16,
    },
    /// It ends too early: its writer did not finish, or it was cut since.
    #[error("it is cut: it ends at byte {bytes}, without its end record")]
    Cut {
        /// How long it is.
        bytes: u64,
    },
    /// Something stands behind its end.
    #[error("there are bytes behind its end record, which ends at byte {at}")]
    Trailing {
        /// Where the end record ends.
        at: u64,
    },
    /// Its bytes are not those that were written: the SHA-256 or a count is another.
    #[error("it is damaged: {what} differs from what its end record says")]
    Damaged {
        /// What differs.
        what: &'static str,
    },
    /// A record that cannot be.
    #[error("the record at byte {at} cannot be: {what}")]
    Record {
        /// Where it begins.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Where a file stands: which records may come next, and what has come. Writer and reader hold
/// each other to the same rules.
#[derive(Debug, Clone, Default)]
struct Grammar {
    state: State,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// Between documents, or behind a tombstone.
    Open,
    /// In a document of which nothing has come.
    Document,
    /// In a snapshot of which so many bytes are to come.
    Snapshot {
        left: u64,
    },
    /// Behind a snapshot or a change.
    Tail,
    Ended,
}

impl Grammar {
    /// Takes a record, or says why it cannot stand here.
    fn take(&mut self, record: &Record) -> Result<(), &'static str> {
        let in_document = matches!(self.state, State::Document | State::Tail);
        let between = in_document || self.state == State::Open;
        self.state = match record {
            Record::Space { .. } if self.state == State::Start => State::Open,
            _ if self.state == State::Start => return Err("the space does not come first"),
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
            _ => return Err("it cannot stand here"),
        };
        Ok(())
    }

    fn part(&self, part: &[u8]) -> Result<State, &'static str> {
        let State::Snapshot { left } = self.state else { return Err("a part of no snapshot") };
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
