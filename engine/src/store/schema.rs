//! The tables of an engine's store. `docs/storage.md` describes them.

use landfall_storage::Schema;

/// The store's schema: one migration per version, forward only. A released one never changes.
pub(super) const SCHEMA: Schema = Schema {
    name: "Landfall engine store",
    application_id: 0x4c46_4531, // "LFE1"
    migrations: &[VERSION_1],
};

const VERSION_1: &str = "
-- One row: who this store is.
CREATE TABLE replica (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    id BLOB NOT NULL CHECK (length(id) = 16)
) STRICT;

-- `last` is the last local sequence number, which is also the number of changes.
CREATE TABLE space (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE document (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES space (id),
    document BLOB NOT NULL CHECK (length(document) = 16),
    UNIQUE (space, document)
) STRICT;

CREATE TABLE head (
    document INTEGER NOT NULL REFERENCES document (id),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (document, hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE actor (
    id INTEGER PRIMARY KEY,
    actor BLOB NOT NULL UNIQUE
) STRICT;

-- The log: every change held, in the order in which it came.
CREATE TABLE change (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES space (id),
    local INTEGER NOT NULL,
    document INTEGER NOT NULL REFERENCES document (id),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    actor INTEGER NOT NULL REFERENCES actor (id),
    seq INTEGER NOT NULL,
    max_op INTEGER NOT NULL,
    author BLOB,
    at_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (space, local),
    UNIQUE (document, hash),
    UNIQUE (document, actor, seq)
) STRICT;
CREATE INDEX change_of_document ON change (document, local);

CREATE TABLE upstream (
    id INTEGER PRIMARY KEY,
    identity BLOB NOT NULL UNIQUE CHECK (length(identity) = 16),
    met INTEGER NOT NULL
) STRICT;

-- Where a space stands with an upstream: the cursor, the furthest ack, how much is held there.
CREATE TABLE link (
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    space INTEGER NOT NULL REFERENCES space (id),
    epoch BLOB,
    offset INTEGER,
    scope INTEGER,
    ack_epoch BLOB,
    ack_offset INTEGER,
    held_changes INTEGER NOT NULL DEFAULT 0,
    held_bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (upstream, space)
) STRICT, WITHOUT ROWID;

-- Which of our changes the upstream is known to hold: disjoint ranges of local sequence numbers.
CREATE TABLE held (
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    space INTEGER NOT NULL REFERENCES space (id),
    first INTEGER NOT NULL,
    last INTEGER NOT NULL CHECK (first <= last),
    PRIMARY KEY (upstream, space, first)
) STRICT, WITHOUT ROWID;

-- Documents whose changes the upstream refuses.
CREATE TABLE parked (
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    document INTEGER NOT NULL REFERENCES document (id),
    code INTEGER NOT NULL,
    what TEXT NOT NULL,
    PRIMARY KEY (upstream, document)
) STRICT, WITHOUT ROWID;

-- Entries that were received and cannot be applied: kept, with the reason.
CREATE TABLE aside (
    id INTEGER PRIMARY KEY,
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    space INTEGER NOT NULL REFERENCES space (id),
    offset INTEGER NOT NULL,
    document BLOB NOT NULL,
    kind INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    hash BLOB NOT NULL,
    dependencies BLOB NOT NULL,
    author BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    reason TEXT NOT NULL,
    UNIQUE (upstream, space, hash)
) STRICT;
";
