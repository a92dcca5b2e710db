//! The store's tables, and the only place that converts our types to columns.

use std::error::Error;

use landfall_protocol::relay::StoreFailure;
use landfall_protocol::{DocumentId, Epoch};
use landfall_storage::{FailureClass, ReadError, Schema, WriteError};
use rusqlite::Row;
use thiserror::Error;

use crate::store::StoreError;
use crate::store::damage::{is_damage, is_of_schema};

/// "LfRl", to distinguish a relay's store from a replica's.
const APPLICATION_ID: i32 = 0x4c66_526c;

/// Version 1.
///
/// Offsets are unique within a space, not across spaces. `hash` identifies an entry within its document, and
/// (actor, seq) a change: the unique indexes hold even if a bug above the store violates them. An entry's
/// space is that of its document: the column exists for the log's index, without a foreign key, which would
/// be checked at every insertion. Bodies are the last column, so that reading the others never touches their
/// pages.
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

/// Version 2: snapshots, deletion, digests.
///
/// A document's state (heads, digest entry, length of the tail) is in its row, so that nothing has to be
/// counted; the step after this migration computes it (`fill`). An entry at or below `folded` (the offset of
/// the document's snapshot), and every entry of a deleted document, is dead: no read returns it, and it is
/// deleted in slices.
///
/// A snapshot's bytes are stored in pieces, in rows `snapshot << 16 | piece`: in one row, reading a part
/// would walk the chain of pages before it. Its packed index has a table of its own for the same reason.
const VERSION_2: &str = "
ALTER TABLE space ADD COLUMN head INTEGER NOT NULL DEFAULT 0;
UPDATE space SET head =
    coalesce((SELECT max(\"offset\") FROM entry WHERE entry.space = space.id), 0);

ALTER TABLE document ADD COLUMN heads BLOB NOT NULL DEFAULT x'';
ALTER TABLE document ADD COLUMN leaf BLOB CHECK (length(leaf) = 16);
ALTER TABLE document ADD COLUMN tail_changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN tail_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN folded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN folded_changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN tombstone INTEGER;
ALTER TABLE document ADD COLUMN fold_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN due INTEGER;
ALTER TABLE document ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
CREATE INDEX document_due ON document (space, due) WHERE due IS NOT NULL;
CREATE INDEX document_dead ON document (id) WHERE dead = 1;

-- Documents of version 1 whose new columns are still to be filled in.
CREATE TABLE unfilled (document INTEGER PRIMARY KEY REFERENCES document (id)) STRICT;
INSERT INTO unfilled (document) SELECT id FROM document;

CREATE UNIQUE INDEX entry_document ON entry (document, \"offset\");

CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY,
    document INTEGER NOT NULL REFERENCES document (id),
    space INTEGER NOT NULL,
    \"offset\" INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    heads BLOB NOT NULL,
    changes INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    replaced_at_ms INTEGER
) STRICT;
CREATE UNIQUE INDEX snapshot_current ON snapshot (document) WHERE replaced_at_ms IS NULL;
CREATE UNIQUE INDEX snapshot_log ON snapshot (space, \"offset\") WHERE replaced_at_ms IS NULL;
CREATE INDEX snapshot_replaced ON snapshot (replaced_at_ms) WHERE replaced_at_ms IS NOT NULL;
CREATE INDEX snapshot_hash ON snapshot (hash);

CREATE TABLE snapshot_piece (
    id INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE snapshot_index (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshot (id),
    packed BLOB NOT NULL
) STRICT;

CREATE TABLE folded_actor (
    document INTEGER NOT NULL REFERENCES document (id),
    actor INTEGER NOT NULL REFERENCES actor (id),
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    max_op INTEGER NOT NULL,
    PRIMARY KEY (document, actor)
) STRICT, WITHOUT ROWID;

CREATE TABLE fold_failure (
    document INTEGER PRIMARY KEY REFERENCES document (id),
    version TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;

CREATE TABLE tombstone (
    document INTEGER PRIMARY KEY REFERENCES document (id),
    space INTEGER NOT NULL,
    \"offset\" INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    author BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    UNIQUE (space, \"offset\")
) STRICT;

-- Of the documents whose ids begin with the byte `bucket`.
CREATE TABLE digest (
    space INTEGER NOT NULL REFERENCES space (id),
    bucket INTEGER NOT NULL CHECK (bucket BETWEEN 0 AND 255),
    count INTEGER NOT NULL,
    sum BLOB NOT NULL CHECK (length(sum) = 16),
    PRIMARY KEY (space, bucket)
) STRICT, WITHOUT ROWID;
";

/// Version 3: a document's number of operations, for its budget. Counted from this version on: for an older
/// document it is too low until its next compaction.
const VERSION_3: &str = "
ALTER TABLE document ADD COLUMN operations INTEGER NOT NULL DEFAULT 0;
";

/// Version 4: known damage, so that it is reported after a restart before a read meets it. An empty name
/// stands for all spaces, an empty document for all documents of a space.
const VERSION_4: &str = "
CREATE TABLE damaged (
    space TEXT NOT NULL,
    document BLOB NOT NULL,
    takes_no_writes INTEGER NOT NULL,
    PRIMARY KEY (space, document)
) STRICT, WITHOUT ROWID;
";

/// The schema with all its migrations.
pub(in crate::store) const SCHEMA: Schema = Schema {
    name: "landfall relay store",
    application_id: APPLICATION_ID,
    migrations: &[VERSION_1, VERSION_2, VERSION_3, VERSION_4],
};

/// A commit that contradicts the store's content: a bug of the caller.
#[derive(Debug, Error)]
#[error("{0}")]
struct BrokenRule(&'static str);

/// The error of a write that would violate a rule of the log; its transaction is rolled back.
pub(in crate::store) fn broken(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(BrokenRule(what)))
}

impl StoreError {
    pub(in crate::store) fn new(
        what: &'static str,
        class: FailureClass,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        let failure = match class {
            FailureClass::DiskFull => StoreFailure::Full,
            FailureClass::Corrupt => StoreFailure::Damaged,
            FailureClass::Gone => StoreFailure::Gone,
            _ => StoreFailure::Failed,
        };
        Self { what, failure, needs_index: None, source: Box::new(source) }
    }

    pub(in crate::store) fn of_sqlite(what: &'static str, source: rusqlite::Error) -> Self {
        match is_damage(&source) {
            true => Self::new(what, FailureClass::Corrupt, source),
            false => Self::new(what, FailureClass::of(&source), source),
        }
    }

    pub(in crate::store) fn of_read(
        what: &'static str,
        source: ReadError<rusqlite::Error>,
    ) -> Self {
        match &source {
            ReadError::Query(error) if is_damage(error) => {
                Self::new(what, FailureClass::Corrupt, source)
            }
            _ => Self::new(what, source.class(), source),
        }
    }

    pub(in crate::store) fn of_write(
        what: &'static str,
        source: WriteError<rusqlite::Error>,
    ) -> Self {
        match &source {
            WriteError::Job(error) if is_of_schema(error) => {
                Self::new(what, FailureClass::Corrupt, source)
            }
            _ => Self::new(what, source.class(), source),
        }
    }
}

/// Reads a `u64` that this store wrote to SQLite's signed column.
pub(in crate::store) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A `u64` for SQLite's signed column; an error if it does not fit, never a wrapped value.
pub(in crate::store) fn column(value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(in crate::store) fn document_id(row: &Row<'_>, column: usize) -> rusqlite::Result<DocumentId> {
    row.get(column).map(DocumentId::from_bytes)
}

pub(in crate::store) fn epoch(row: &Row<'_>, column: usize) -> rusqlite::Result<Epoch> {
    row.get(column).map(Epoch::from_bytes)
}

/// A `u64` that may be NULL.
pub(in crate::store) fn optional_number(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<u64>> {
    let value: Option<i64> = row.get(column)?;
    let convert = |value: i64| {
        u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
    };
    value.map(convert).transpose()
}

/// The concatenated hashes of a column.
pub(in crate::store) fn hashes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<[u8; 32]>> {
    Ok(row.get_ref(column)?.as_blob()?.as_chunks::<32>().0.to_vec())
}
