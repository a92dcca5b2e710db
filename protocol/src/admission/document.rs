//! The preflight of a document chunk: computes how large automerge's document would be, before
//! automerge expands the chunk.
//!
//! A saved document consists of run-length encoded columns, some of them deflated, so a few bytes
//! can state any number of changes and operations. automerge 0.12 allocates memory for the stated
//! number. Every path by which a document chunk reaches automerge calls [`measure`] first. It walks
//! the columns by their runs, inflates within a bound, and keeps one column at a time.
//!
//! It does not interpret the columns: automerge finds out which operations belong together, and
//! callers contain its panics.

mod columns;
#[cfg(test)]
mod tests;

use thiserror::Error;

use super::chunk::MAGIC;
use super::form::FormError;
use super::history::Origin;
use super::reader::ByteReader;
use crate::limits;
use columns::Columns;

/// The size of a document, in the quantities that cost memory once it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DocumentSize {
    /// Stored bytes of its changes and snapshots.
    pub bytes: u64,
    /// Bytes that every replica has of it, compacted or not: the bytes of its snapshot, and of its
    /// other changes the least that can remain after compaction.
    pub lasting_bytes: u64,
    /// Number of changes.
    pub changes: u64,
    /// Number of operations as a saved document holds them: a row for each one except deletions,
    /// and an entry for each predecessor that an operation names.
    pub operations: u64,
    /// Number of concurrent heads.
    pub heads: u64,
}

/// The bounded quantities of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Budget {
    /// Changes.
    Changes,
    /// Operations, as [`DocumentSize::operations`] counts them.
    Operations,
    /// Concurrent heads.
    Heads,
    /// Inflated bytes of its columns.
    InflatedBytes,
    /// Bytes of keys, mark names and messages, each counted as often as it is used.
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

/// A document exceeds, or would exceed, the size that automerge can safely load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the document would have {actual} {budget}, the limit for one of its bytes is {limit}")]
pub struct OverBudget {
    /// The exceeded quantity.
    pub budget: Budget,
    /// The limit for a document of this many bytes.
    pub limit: u64,
    /// The actual amount, at least.
    pub actual: u64,
}

/// Why [`measure`] rejects a document chunk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The bytes are not exactly one chunk of type 0.
    #[error("it is not one automerge document: {what}")]
    NotADocument {
        /// The reason.
        what: &'static str,
    },
    /// The columns cannot be decoded.
    #[error("the document cannot be read: {0}")]
    Malformed(#[from] FormError),
    /// The chunk states more than its number of bytes allows.
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

    /// Checks whether a change of this size may be added.
    ///
    /// A change that has at least one byte for each of its operations is accounted for by its own
    /// bytes, however small the compacted document is. Any other change uses up the allowance of
    /// the document's bytes. A change made locally uses only the bytes that a relay has too,
    /// because the relay may have compacted more of the document.
    ///
    /// # Errors
    /// If the document would exceed its budget.
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
        // The change brings its own allowance; the document's bytes need not account for it.
        if operations <= bytes {
            return Ok(());
        }
        let most = match origin {
            Origin::Local => {
                // A snapshot that another replica saved may be a little shorter than this one.
                let lasting = self.lasting_bytes / 4 * 3;
                let most = Self::most_operations(lasting.saturating_add(bytes));
                most.saturating_sub(limits::DOCUMENT_OPERATIONS_FREE / 4)
            }
            Origin::Pushed => Self::most_operations(self.bytes.saturating_add(bytes)),
            Origin::Received => Self::most_operations(self.bytes.saturating_add(bytes)) * 2,
        };
        within(Budget::Operations, after, most)
    }

    /// The least number of bytes that remains of so many bytes of changes after compaction: deflate
    /// inflates one byte to at most 1,032.
    pub const fn lasting(bytes: u64) -> u64 {
        bytes / 1_032
    }
}

/// Counts the contents that a document chunk states, and rejects a chunk whose bytes cannot account
/// for them.
///
/// # Errors
/// If the bytes are not one document chunk, or exceed one of the budgets.
pub fn measure(chunk: &[u8]) -> Result<DocumentSize, DocumentError> {
    let mut body = ByteReader::new(body(chunk)?);
    let actors = skip_actors(&mut body)?;
    let heads = body.unsigned("number of heads")?;
    within(Budget::Heads, heads, limits::DOCUMENT_HEADS as u64)?;
    body.take(heads * 32, "heads")?;
    let (changes, operations) = (Columns::read(&mut body)?, Columns::read(&mut body)?);
    let mut inflatable = limits::DOCUMENT_INFLATED_BYTES;
    let bytes = chunk.len() as u64;
    // Check each group against its budget before reading the next one.
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

/// The body of the chunk, which must be a single chunk of type 0. automerge also loads other
/// chunks, and keeps changes after them whose dependencies are missing.
fn body(chunk: &[u8]) -> Result<&[u8], DocumentError> {
    let not = |what| DocumentError::NotADocument { what };
    let rest = chunk.strip_prefix(&MAGIC).ok_or(not("it does not begin with 856f4a83"))?;
    // A checksum of 4 bytes, which automerge verifies.
    let rest = rest.get(4..).ok_or(not("it is truncated"))?;
    let (&kind, rest) = rest.split_first().ok_or(not("it is truncated"))?;
    if kind != DOCUMENT {
        return Err(not("it is a chunk of another type"));
    }
    let mut rest = ByteReader::new(rest);
    let length = rest.unsigned("length").map_err(|_| not("its length is not a number"))?;
    match length == rest.rest().len() as u64 {
        true => Ok(rest.rest()),
        false => Err(not("it is truncated, or has trailing bytes")),
    }
}

/// Skips the actors and returns their number.
fn skip_actors(body: &mut ByteReader<'_>) -> Result<u64, FormError> {
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
