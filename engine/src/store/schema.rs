//! The tables of an engine's store. `docs/storage.md` describes them.

mod damaged;
mod opening;
mod status;

use landfall_storage::Schema;

use damaged::VERSION_8;
use opening::VERSION_9;
use status::VERSION_6;

/// The store's schema: one migration per version, forward only. A released one never changes.
pub(super) const SCHEMA: Schema = Schema {
    name: "Landfall engine store",
    application_id: 0x4c46_4531, // "LFE1"
    migrations: &[
        VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6, VERSION_7, VERSION_8,
        VERSION_9,
    ],
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

// SQL cannot compute digest entries and sums: `log/digests.rs` adds them when the store is opened.
const VERSION_2: &str = "
-- `last` is from now on only the last local sequence number; `changes` counts what is held, with
-- what is folded, and each deletion as one.
ALTER TABLE space ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
UPDATE space SET changes = last;

-- `leaf`: of heads or tombstone; null while there is neither. `base`: rows of `change` with this
-- local number or a lower one are dead: folded, or of a deleted document. `merges`: the
-- application wants unrelated histories merged. `sweep`: dead rows wait to be removed.
-- `fold_failed`: how long the tail was when a fold failed last, by which version, and why.
ALTER TABLE document ADD COLUMN leaf BLOB CHECK (leaf IS NULL OR length(leaf) = 16);
ALTER TABLE document ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN tail_changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN tail_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN folded_changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN folded_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN merges INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN sweep INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN fold_failed INTEGER;
ALTER TABLE document ADD COLUMN fold_version TEXT;
ALTER TABLE document ADD COLUMN fold_reason TEXT;
UPDATE document SET
    tail_changes = (SELECT count(*) FROM change WHERE change.document = document.id),
    tail_bytes =
        (SELECT coalesce(sum(length(body)), 0) FROM change WHERE change.document = document.id);
CREATE INDEX document_tail ON document (space, tail_changes) WHERE tail_changes >= 64;
CREATE INDEX document_sweep ON document (sweep) WHERE sweep = 1;

-- Leaves of a space's documents, summed by the first byte of their ids.
CREATE TABLE digest (
    space INTEGER NOT NULL REFERENCES space (id),
    bucket INTEGER NOT NULL CHECK (bucket BETWEEN 0 AND 255),
    count INTEGER NOT NULL,
    sum BLOB NOT NULL CHECK (length(sum) = 16),
    PRIMARY KEY (space, bucket)
) STRICT, WITHOUT ROWID;

-- A document's folded history: an automerge document chunk. Its place in the log is the
-- document's `base`. `heads`: 40 bytes each, the hash and its last operation counter
-- (little-endian), sorted.
CREATE TABLE snapshot (
    document INTEGER PRIMARY KEY REFERENCES document (id),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    heads BLOB NOT NULL CHECK (length(heads) % 40 = 0),
    body BLOB NOT NULL
) STRICT;

-- The last folded change of every actor.
CREATE TABLE folded_actor (
    document INTEGER NOT NULL REFERENCES document (id),
    actor INTEGER NOT NULL REFERENCES actor (id),
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (document, actor)
) STRICT, WITHOUT ROWID;

-- Snapshots that an upstream is not known to hold all of. `local` is the document's `base`.
CREATE TABLE owed (
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    space INTEGER NOT NULL REFERENCES space (id),
    local INTEGER NOT NULL,
    document INTEGER NOT NULL REFERENCES document (id),
    PRIMARY KEY (upstream, space, local),
    UNIQUE (upstream, document)
) STRICT, WITHOUT ROWID;

-- A snapshot that is arriving in pieces: at most one for each space and upstream.
CREATE TABLE partial (
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    space INTEGER NOT NULL REFERENCES space (id),
    document BLOB NOT NULL CHECK (length(document) = 16),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    total INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (upstream, space)
) STRICT, WITHOUT ROWID;
CREATE TABLE partial_part (
    id INTEGER PRIMARY KEY,
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    space INTEGER NOT NULL REFERENCES space (id),
    start INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (upstream, space, start)
) STRICT;

-- Tombstones, for ever, each with a local sequence number of its own. `kept_base`: what the
-- document's `base` was, while its changes are kept because the application has not said what is
-- to become of those that were never sent.
CREATE TABLE deleted (
    document INTEGER PRIMARY KEY REFERENCES document (id),
    space INTEGER NOT NULL REFERENCES space (id),
    local INTEGER NOT NULL,
    author BLOB,
    at_ms INTEGER NOT NULL,
    kept_base INTEGER,
    unsent INTEGER NOT NULL DEFAULT 0,
    UNIQUE (space, local)
) STRICT;

-- Changes made here that were taken out of the log, because they can not stay: another change has
-- their actor and sequence number. They wait to be made anew.
CREATE TABLE displaced (
    id INTEGER PRIMARY KEY,
    document INTEGER NOT NULL REFERENCES document (id),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    at_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (document, hash)
) STRICT;

-- Which documents of a space are wanted: 16 bytes each, sorted. No row: all.
CREATE TABLE filter (
    space INTEGER PRIMARY KEY REFERENCES space (id),
    documents BLOB NOT NULL CHECK (length(documents) % 16 = 0)
) STRICT;

-- The actor that this store takes for a document, as long as it is sure to be its alone.
CREATE TABLE own_actor (
    document INTEGER PRIMARY KEY REFERENCES document (id),
    actor INTEGER NOT NULL REFERENCES actor (id)
) STRICT;

-- Left behind by a clean close, and kept outside the store too.
CREATE TABLE clean_close (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    nonce BLOB NOT NULL
) STRICT;

-- Documents that automerge could not read, by which version of this software, and why.
CREATE TABLE quarantine (
    document INTEGER PRIMARY KEY REFERENCES document (id),
    version TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;

-- Whether numbers became vacant that the ranges may not cover: covered when it is met again.
ALTER TABLE link ADD COLUMN vacant INTEGER NOT NULL DEFAULT 0;

-- Why an entry is aside: 0 for good, 1 it waits for what it rests on, 2 it begins an unrelated
-- history and waits for the application's word.
ALTER TABLE aside ADD COLUMN wait INTEGER NOT NULL DEFAULT 0;
UPDATE aside SET wait = 1 WHERE kind = 1;
CREATE INDEX aside_of_document ON aside (space, document);
";

const VERSION_3: &str = "
-- What may be removed is said by the mark itself and follows from nothing else: rows of `change`
-- with the local number `sweep_through` or a lower one; 0: none. `base` is no such bound, since a
-- deletion raises it over edits that are kept until the application exports or discards them.
DROP INDEX document_sweep;
ALTER TABLE document ADD COLUMN sweep_through INTEGER NOT NULL DEFAULT 0;
UPDATE document SET sweep_through = coalesce(
    (SELECT kept_base FROM deleted WHERE deleted.document = document.id), base)
WHERE sweep = 1;
ALTER TABLE document DROP COLUMN sweep;
CREATE INDEX document_sweep ON document (id) WHERE sweep_through > 0;

-- Changes of parked documents that the upstream answered that it has not taken. Only those are
-- known not to be on its disk: what was pushed and not answered may be.
CREATE TABLE refused (
    upstream INTEGER NOT NULL REFERENCES upstream (id),
    document INTEGER NOT NULL REFERENCES document (id),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (upstream, document, hash)
) STRICT, WITHOUT ROWID;
";

// Counted from here on: for an existing document the count is too low until its next compaction.
const VERSION_4: &str = "
-- `operations`: of all changes, as admission counts them against the document's budget.
ALTER TABLE document ADD COLUMN operations INTEGER NOT NULL DEFAULT 0;
";

// A store of version 4 does not know `folded_counter`: its long documents are compacted once more.
const VERSION_5: &str = "
-- `counter`: the last operation counter of the tail and of what is folded; `folded_counter`: of
-- what is folded. Their difference is about how many operations the tail has.
ALTER TABLE document ADD COLUMN counter INTEGER NOT NULL DEFAULT 0;
ALTER TABLE document ADD COLUMN folded_counter INTEGER NOT NULL DEFAULT 0;
UPDATE document SET counter = coalesce((SELECT max(max_op) FROM change
    WHERE change.document = document.id AND change.local > document.base), 0);
-- Tails of few changes that may be worth a fold by their bytes or operations.
CREATE INDEX document_heavy ON document (space)
    WHERE tail_bytes >= 524288 OR counter - folded_counter >= 32768;
";

// The row of a removed space still stands for that space in other processes that have the store open.
const VERSION_7: &str = "
-- `last_space`: the last number that was given to a space. None is given twice.
ALTER TABLE replica ADD COLUMN last_space INTEGER NOT NULL DEFAULT 0;
UPDATE replica SET last_space = (SELECT coalesce(max(id), 0) FROM space);
CREATE TRIGGER space_insert AFTER INSERT ON space BEGIN
    UPDATE replica SET last_space = max(last_space, NEW.id);
END;
";
