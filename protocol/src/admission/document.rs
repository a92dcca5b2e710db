//! The preflight of a document chunk: how much automerge would make of it, counted before automerge
//! expands it.
//!
//! A saved document is columns of run lengths, some of them deflated, so that a few bytes can state
//! any number of changes and operations; automerge 0.12 takes memory for what is stated. Every way
//! by which a document chunk reaches automerge asks [`measure`] first. It walks the columns by
//! their runs, inflates within a bound, and keeps one column at a time.
//!
//! It does not look at what the columns mean: which operations belong together is for automerge to
//! find, whose panics are contained.

mod columns;
#[cfg(test)]
mod tests;

use thiserror::Error;

use super::chunk::MAGIC;
use super::form::FormError;
use super::history::Origin;
use super::reader::Reader;
use crate::limits;
use columns::Columns;

/// How large a document is, in what costs memory once it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DocumentSize {
    /// Bytes of its changes and snapshots as they are stored.
    pub bytes: u64,
    /// Bytes of it that every replica has, folded or not: of its snapshot, and of its other changes what
    /// folding leaves for certain.
    pub lasting_bytes: u64,
    /// How many changes it has.
    pub changes: u64,
    /// Its operations, as a saved document holds them: a row for each but deletions, and an entry
    /// for each predecessor that an operation names.
    pub operations: u64,
    /// Its concurrent heads.
    pub heads: u64,
}

/// What of a document is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Budget {
    /// Its changes.
    Changes,
    /// Its operations, as [`DocumentSize::operations`] counts them.
    Operations,
    /// Its concurrent heads.
    Heads,
    /// Bytes of its columns, inflated.
    InflatedBytes,
    /// Bytes of keys, mark names and messages, each written out as often as it is used.
    TextBytes,
    /// Entries of the vector clocks that automerge keeps: one for each actor at every 16th change.
    ClockEntries,
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Changes => "changes",
            Self::Operations => "operations",
            Self::Heads => "concurrent heads",
            Self::InflatedBytes => "inflated bytes",
            Self::TextBytes => "bytes of keys, mark names and messages",
            Self::ClockEntries => "vector clock entries",
        })
    }
}

/// A document that is, or would become, more than automerge can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the document would have {actual} {budget}, the limit for one of its bytes is {limit}")]
pub struct OverBudget {
    /// What there is too much of.
    pub budget: Budget,
    /// The most that a document of this many bytes may have.
    pub limit: u64,
    /// How much there is, at least.
    pub actual: u64,
}

/// Why a document chunk is not given to automerge.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It is not exactly one chunk of type 0.
    #[error("it is not one automerge document: {what}")]
    NotADocument {
        /// What is wrong.
        what: &'static str,
    },
    /// Its columns cannot be read.
    #[error("the document cannot be read: {0}")]
    Malformed(#[from] FormError),
    /// It states more than its bytes may stand for.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
}

impl DocumentSize {
    /// The most changes that a saved document of this many bytes may state.
    pub fn most_changes(bytes: u64) -> u64 {
        let paid = bytes.saturating_mul(limits::DOCUMENT_CHANGES_PER_BYTE);
        paid.saturating_add(limits::DOCUMENT_CHANGES_FREE).min(limits::DOCUMENT_CHANGES)
    }

    /// The most operations that a document of this many stored bytes may have.
    pub fn most_operations(bytes: u64) -> u64 {
        let paid = bytes.saturating_mul(limits::DOCUMENT_OPERATIONS_PER_BYTE);
        paid.saturating_add(limits::DOCUMENT_OPERATIONS_FREE).min(limits::DOCUMENT_OPERATIONS)
    }

    /// Whether a change of this size may be added.
    ///
    /// A change that brings a byte for each of its operations pays for itself, whatever the bytes
    /// before it have been folded to; anything else draws on the document's bytes. Of a change that is
    /// made here, only on those that a relay has too, which may have folded more of the document.
    ///
    /// # Errors
    /// If the document would be over its budget.
    pub(super) fn check_growth(
        &self,
        bytes: u64,
        operations: u64,
        origin: Origin,
    ) -> Result<(), OverBudget> {
        let shared = origin.shared();
        let limit = |limit: u64| limit * shared.0 / shared.1;
        let changes = self.changes.saturating_add(1);
        within(Budget::Changes, changes, limit(limits::DOCUMENT_CHANGES))?;
        let after = self.operations.saturating_add(operations);
        within(Budget::Operations, after, limit(limits::DOCUMENT_OPERATIONS))?;
        if operations <= bytes {
            return Ok(());
        }
        let most = match origin {
            Origin::Local => {
                // Saved by another replica, it may be a little shorter.
                let lasting = self.lasting_bytes / 4 * 3;
                let most = Self::most_operations(lasting.saturating_add(bytes));
                most.saturating_sub(limits::DOCUMENT_OPERATIONS_FREE / 4)
            }
            Origin::Pushed => Self::most_operations(self.bytes.saturating_add(bytes)),
            Origin::Received => Self::most_operations(self.bytes.saturating_add(bytes)) * 2,
        };
        within(Budget::Operations, after, most)
    }

    /// What folding leaves for certain of so many bytes of changes: deflate makes no more than 1,032
    /// bytes out of one.
    pub const fn lasting(bytes: u64) -> u64 {
        bytes / 1_032
    }
}

/// Counts what a document chunk states, and refuses one whose bytes cannot stand for that much.
///
/// # Errors
/// If the bytes are not one document chunk, or are over one of the budgets.
pub fn measure(chunk: &[u8]) -> Result<DocumentSize, DocumentError> {
    let mut body = Reader::new(body(chunk)?);
    let actors = skip_actors(&mut body)?;
    let heads = body.unsigned("number of heads")?;
    within(Budget::Heads, heads, limits::DOCUMENT_HEADS as u64)?;
    body.take(heads * 32, "heads")?;
    let (changes, operations) = (Columns::read(&mut body)?, Columns::read(&mut body)?);
    let mut inflatable = limits::DOCUMENT_INFLATED_BYTES;
    let bytes = chunk.len() as u64;
    // Each group is judged before the next is looked at.
    let changes = changes.tally(&mut body, &mut inflatable)?;
    within(Budget::Changes, changes.rows, DocumentSize::most_changes(bytes))?;
    within(Budget::Operations, changes.grouped, DocumentSize::most_operations(bytes))?;
    let clocks = (changes.rows / limits::CLOCK_EVERY).saturating_mul(actors);
    within(Budget::ClockEntries, clocks, limits::DOCUMENT_CLOCK_ENTRIES)?;
    let operations = operations.tally(&mut body, &mut inflatable)?;
    let text = changes.text_bytes.saturating_add(operations.text_bytes);
    within(Budget::TextBytes, text, limits::DOCUMENT_TEXT_BYTES)?;
    let operations = operations.rows.saturating_add(operations.grouped);
    within(Budget::Operations, operations, DocumentSize::most_operations(bytes))?;
    let changes = changes.rows;
    Ok(DocumentSize { bytes, lasting_bytes: bytes, changes, operations, heads })
}

/// The body of the one chunk of type 0 that these bytes are: automerge loads other chunks too, and
/// keeps changes without their dependencies that follow.
fn body(chunk: &[u8]) -> Result<&[u8], DocumentError> {
    let not = |what| DocumentError::NotADocument { what };
    let rest = chunk.strip_prefix(&MAGIC).ok_or(not("it does not begin with 856f4a83"))?;
    // A checksum of 4 bytes, which automerge looks at.
    let rest = rest.get(4..).ok_or(not("it is cut off"))?;
    let (&kind, rest) = rest.split_first().ok_or(not("it is cut off"))?;
    if kind != DOCUMENT {
        return Err(not("it is a chunk of another type"));
    }
    let mut rest = Reader::new(rest);
    let length = rest.unsigned("length").map_err(|_| not("its length is no number"))?;
    match length == rest.rest().len() as u64 {
        true => Ok(rest.rest()),
        false => Err(not("it is cut off, or something follows")),
    }
}

/// Reads over the actors; gives their number.
fn skip_actors(body: &mut Reader<'_>) -> Result<u64, FormError> {
    let count = body.unsigned("number of actors")?;
    for _ in 0..count {
        let length = body.unsigned("actor id's length")?;
        body.take(length, "actor id")?;
    }
    Ok(count)
}

fn within(budget: Budget, actual: u64, limit: u64) -> Result<(), OverBudget> {
    if actual > limit { Err(OverBudget { budget, limit, actual }) } else { Ok(()) }
}

/// The type of a document chunk.
const DOCUMENT: u8 = 0;
