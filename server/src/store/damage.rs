//! The errors that mean damaged content: a value that differs from the one written, or that has no valid
//! form. They travel as errors of a read; [`is_damage`] tells them from failures of the disk or of our code.

pub(in crate::store) mod condition;
pub(in crate::store) mod failure;

use landfall_protocol::frame::Entry;
use landfall_protocol::{DocumentId, Offset};
use landfall_storage::FailureClass;
use rusqlite::ffi;
use thiserror::Error;

/// Disk: a value read differs from the value written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}{}", place(.document, .offset))]
pub(super) struct ContentDamage {
    /// The document, if known.
    pub(super) document: Option<DocumentId>,
    /// The place in the log, if known.
    pub(super) offset: Option<Offset>,
    /// The mismatch.
    pub(super) what: String,
    /// Whether only one change of the tail is affected.
    pub(super) of_change: bool,
}

fn place(document: &Option<DocumentId>, offset: &Option<Offset>) -> String {
    let document = document.map(|document| format!(" of document {document}"));
    let offset = offset.map(|offset| format!(" at offset {offset}"));
    document.unwrap_or_default() + &offset.unwrap_or_default()
}

/// A damaged value, as the error of a read.
pub(super) fn damaged(
    document: Option<DocumentId>,
    offset: Option<u64>,
    what: impl Into<String>,
) -> rusqlite::Error {
    let offset = offset.map(Offset);
    let damage = ContentDamage { document, offset, what: what.into(), of_change: false };
    rusqlite::Error::ToSqlConversionFailure(Box::new(damage))
}

/// A damaged change of the tail.
pub(super) fn damaged_change(entry: &Entry, what: String) -> rusqlite::Error {
    let (document, offset) = (Some(entry.document), Some(entry.offset));
    let damage = ContentDamage { document, offset, what, of_change: true };
    rusqlite::Error::ToSqlConversionFailure(Box::new(damage))
}

/// Whether an error is about the file's content, and not about the disk or our code.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    let of_value = matches!(
        error,
        rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::ToSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::QueryReturnedNoRows
    );
    of_value || is_of_schema(error) || FailureClass::of(error) == FailureClass::Corrupt
}

/// Whether SQLite finds another schema in the file than ours: all SQL of the store is constant and is prepared
/// by the tests, so a statement that does not compile shows a damaged schema.
pub(super) fn is_of_schema(error: &rusqlite::Error) -> bool {
    let of_schema = [ffi::SQLITE_ERROR, ffi::SQLITE_SCHEMA, ffi::SQLITE_FORMAT];
    // The low byte of an extended code is the primary one.
    let code = match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error.extended_code),
        error => error.sqlite_error().map(|error| error.extended_code),
    };
    code.is_some_and(|code| of_schema.contains(&(code & 0xff)))
}
