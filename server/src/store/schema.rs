//! The store's tables, and the one place that knows how our types become columns.

use std::error::Error;

use landfall_protocol::space::StoreFailure;
use landfall_protocol::{DocumentId, Epoch};
use landfall_storage::{FailureClass, ReadError, Schema, WriteError};
use rusqlite::Row;

use super::StoreError;

/// "LfRl", so that a relay's store is told from a replica's.
const APPLICATION_ID: i32 = 0x4c66_526c;

/// Version 1.
///
/// Offsets are unique within a space and not across spaces. `hash` names an entry within its
/// document, and (actor, seq) a change: the log holds both only once, whatever a bug above it may
/// ask for. An entry's space is that of its document: it stands in the row for the log's index,
/// without a reference of its own, which would be looked up at every insertion. Bodies stand last, so that a look at the other columns never reads their pages.
const VERSION_1: &str = "
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    upstream BLOB NOT NULL CHECK (length(upstream) = 16)
) STRICT;

CREATE TABLE space (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE epoch (
    space INTEGER NOT NULL REFERENCES space (id),
    first INTEGER NOT NULL,
    epoch BLOB NOT NULL CHECK (length(epoch) = 16),
    predecessor BLOB CHECK (length(predecessor) = 16),
    PRIMARY KEY (space, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE document (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES space (id),
    document BLOB NOT NULL CHECK (length(document) = 16),
    UNIQUE (space, document)
) STRICT;

CREATE TABLE actor (
    id INTEGER PRIMARY KEY,
    actor BLOB NOT NULL UNIQUE
) STRICT;

CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    \"offset\" INTEGER NOT NULL,
    document INTEGER NOT NULL REFERENCES document (id),
    kind INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    actor INTEGER NOT NULL REFERENCES actor (id),
    seq INTEGER NOT NULL,
    max_op INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    author BLOB NOT NULL,
    deps BLOB NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (space, \"offset\"),
    UNIQUE (document, hash),
    UNIQUE (document, actor, seq)
) STRICT;

-- What a probe writes and deletes again.
CREATE TABLE probe (filler BLOB NOT NULL) STRICT;
";

/// The schema with all its migrations.
pub(super) const SCHEMA: Schema = Schema {
    name: "landfall relay store",
    application_id: APPLICATION_ID,
    migrations: &[VERSION_1],
};

impl StoreError {
    pub(super) fn new(
        what: &'static str,
        class: FailureClass,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        let failure = match class {
            FailureClass::DiskFull => StoreFailure::Full,
            _ => StoreFailure::Failed,
        };
        Self { what, failure, source: Box::new(source) }
    }

    pub(super) fn of_sqlite(what: &'static str, source: rusqlite::Error) -> Self {
        Self::new(what, FailureClass::of(&source), source)
    }

    pub(super) fn of_read(what: &'static str, source: ReadError<rusqlite::Error>) -> Self {
        Self::new(what, source.class(), source)
    }

    pub(super) fn of_write(what: &'static str, source: WriteError<rusqlite::Error>) -> Self {
        Self::new(what, source.class(), source)
    }
}

/// A `u64` that we wrote, out of SQLite's signed column.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A `u64` for SQLite's signed column; what does not fit is refused, never wrapped.
pub(super) fn column(value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn document_id(row: &Row<'_>, column: usize) -> rusqlite::Result<DocumentId> {
    row.get(column).map(DocumentId::from_bytes)
}

pub(super) fn epoch(row: &Row<'_>, column: usize) -> rusqlite::Result<Epoch> {
    row.get(column).map(Epoch::from_bytes)
}
