//! The engine's store: a log of changes in one SQLite file, and the ranges of it that each upstream has
//! acknowledged.
//!
//! It knows rows and transactions. It must never know a loaded document, a socket or an event. Every
//! result is reported after its commit.

mod admin;
mod compare;
#[cfg(test)]
mod counting;
mod documents;
mod follow;
mod ingest;
mod log;
mod opening;
mod schema;
mod snapshot;
mod upstream;
mod verify;

use std::path::Path;
use std::sync::Arc;

use landfall_compaction::CompactionLimits;
use landfall_protocol::frame::Mark;
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::replica::ResumePoint;
use landfall_protocol::{Code, DocumentId, Local, ReplicaId, SpaceName, Upstream, limits};
use landfall_storage::{Committed, Database, Durability, OpenError, Options, WriteError};
use rusqlite::{Connection, params};

use documents::deletion;
use ingest::resume;
use log::{digests, indexes, rows};
use upstream::{acked, links, report};

pub use upstream::outbox::Pending;

pub use admin::contents::{LeftOut, OutsideReason};
pub(crate) use admin::import::ImportChange;
pub use admin::inspect::{InspectedDocument, InspectedSpace, InspectedUpstream, Inspection};
pub(crate) use admin::removal::RemovalError;
pub(crate) use compare::reasons::Compared;
pub(crate) use documents::actors::{Nonce, OwnActor};
pub(crate) use documents::deletion::OrphanedDocument;
pub use documents::excess::{DocumentLimit, ExceededLimit};
pub(crate) use documents::view::{DocumentFacts, Rejected, Stored, ViewError};
pub(crate) use follow::{Follow, Followed};
pub(crate) use ingest::partial::SnapshotPart;
pub(crate) use ingest::prepare::Ready;
#[cfg(test)]
pub(crate) use ingest::receive::{Deleted, Superseded};
pub(crate) use ingest::receive::{ReceiveError, Received};
pub(crate) use log::append::{AppendError, Appended, LocalChange};
pub(crate) use log::rows::{DocumentRow, SpaceRow, SpaceTotals, UpstreamRow};
pub(crate) use log::snapshots::Opened;
pub(crate) use opening::OpenedSpace;
pub(crate) use snapshot::compaction::{CompactionInput, CompactionOptions, CompactionTask};
pub(crate) use snapshot::expand::ExpandError;
pub(crate) use snapshot::resend::{Resendable, whole};
pub(crate) use upstream::report::{Came, SpaceReport};
pub(crate) use upstream::superseded::{ReplaceError, Unsent};
pub use verify::checks::{Fault, Finding};
pub(crate) use verify::repair::RepairError;
pub use verify::repair::Repaired;

/// The counts of a space after a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpaceCount {
    /// The upstream that the other values refer to; `None` if the store never connected to one.
    pub(crate) upstream: Option<UpstreamRow>,
    pub(crate) totals: SpaceTotals,
    pub(crate) pending: Pending,
    /// The first local sequence number that the upstream is not known to hold.
    pub(crate) first_gap: Option<u64>,
    /// The first one that it is not known to hold and does not reject.
    pub(crate) first_unacked: Option<u64>,
    /// Deferred entries, without those that another upstream cannot read.
    pub(crate) deferred: u64,
    /// Those of them that stand for entries which the upstream cannot read.
    pub(crate) damaged: u64,
}

/// The state of a space's sync with an upstream.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) upstream: UpstreamRow,
    pub(crate) point: ResumePoint,
    /// Whether the relay has an entry there that it could not read.
    pub(crate) damaged: bool,
}

/// A rejection by an upstream, and its reason.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) what: String,
    /// Whether the deletion is rejected, rather than changes.
    pub(crate) deletion: bool,
}

/// A failed write.
pub(crate) type WriteFailure = WriteError<rusqlite::Error>;

/// The completion of a write, called on the writer thread.
pub(crate) type Done<T, E = rusqlite::Error> =
    Box<dyn FnOnce(Result<Committed<T>, WriteError<E>>) + Send>;

/// How a store is opened.
pub(crate) enum OpenMode<'a> {
    File(&'a Path),
    ReadOnly(&'a Path),
    Memory,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LocalLog {
    db: Database,
    replica: ReplicaId,
    /// The upstream that this handle's jobs refer to.
    whose: links::Whose,
    indexes: Arc<indexes::Indexes>,
    reports: Arc<report::Reports>,
    /// The limit in bytes for a document; see `limits::DOCUMENT_BYTES`.
    document_bytes: u64,
}

impl LocalLog {
    /// Opens the store; `fresh` becomes its replica id if it has none yet.
    pub(crate) fn open(
        place: OpenMode<'_>,
        options: Options,
        fresh: ReplicaId,
    ) -> Result<Self, OpenLogError> {
        let schema = &schema::SCHEMA;
        let writable = !matches!(place, OpenMode::ReadOnly(_));
        let db = match place {
            OpenMode::File(path) => Database::open(path, schema, options)?,
            OpenMode::ReadOnly(path) => Database::open_read_only(path, schema, options)?,
            OpenMode::Memory => Database::open_in_memory(schema, options)?,
        };
        if writable {
            db.write(Durability::Full, move |tx| {
                tx.execute(
                    "INSERT OR IGNORE INTO replica (only, id) VALUES (1, ?1)",
                    [fresh.as_bytes()],
                )?;
                digests::fill(tx)
            })
            .map_err(OpenLogError::Initialise)?;
        }
        let replica = db
            .read(|conn| {
                let replica = conn.query_row("SELECT id FROM replica", [], |row| row.get(0))?;
                Ok::<_, rusqlite::Error>(ReplicaId::from_bytes(replica))
            })
            .map_err(|error| OpenLogError::Read(ViewError::from(error)))?;
        Ok(Self {
            db,
            replica,
            whose: links::Whose::LastMet,
            indexes: Arc::default(),
            reports: Arc::default(),
            document_bytes: limits::DOCUMENT_BYTES,
        })
    }

    /// The same store, for jobs that refer to this upstream, even if another one connects meanwhile.
    /// Otherwise a job refers to the upstream that was connected last when the job runs.
    pub(crate) fn about(&self, upstream: Upstream) -> Self {
        Self { whose: links::Whose::Of(upstream), ..self.clone() }
    }

    /// The store with a lower limit for documents than the protocol's.
    pub(crate) fn with_document_bytes(self, most: u64) -> Self {
        Self { document_bytes: most.min(limits::DOCUMENT_BYTES), ..self }
    }

    /// The limit in bytes for a document.
    pub(crate) fn document_bytes(&self) -> u64 {
        self.document_bytes
    }

    /// The size in bytes from which a document accepts no local change: 75 % of its limit, the
    /// proportion of `limits::DOCUMENT_LOCAL_BYTES` to `limits::DOCUMENT_BYTES`.
    pub(crate) fn local_bytes(&self) -> u64 {
        self.document_bytes / 4 * 3
    }

    /// The limits of a snapshot.
    pub(crate) fn compaction_limits(&self) -> CompactionLimits {
        CompactionLimits {
            snapshot_bytes: usize::try_from(self.document_bytes).unwrap_or(usize::MAX),
        }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.db
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// The row of a space, which is created if it is missing.
    pub(crate) fn ensure_space(&self, name: &SpaceName) -> Result<SpaceRow, WriteFailure> {
        let name = name.as_str().to_owned();
        let job = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute(
                "INSERT OR IGNORE INTO space (id, name)
                     VALUES (1 + (SELECT last_space FROM replica), ?1)",
                [&name],
            )?;
            tx.query_row("SELECT id FROM space WHERE name = ?1", [&name], |row| row.get(0))
        };
        self.db.write(Durability::Full, job).map(|committed| SpaceRow(committed.value))
    }

    /// Records that this upstream is the one in use, and returns the space's sync state with it.
    pub(crate) fn submit_meet(&self, upstream: Upstream, space: SpaceRow, done: Done<Met>) {
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let row = links::meet(tx, &upstream)?;
            links::ensure_link(tx, row, space)?;
            let point = resume::resume_point(tx, row, space)?;
            let damaged = links::damaged(tx, row, space)? > 0;
            Ok::<_, rusqlite::Error>(Met { upstream: row, point, damaged })
        };
        let done = move |result: Result<Committed<(SpaceCount, Met)>, WriteFailure>| {
            done(result.map(|Committed { value: (_, value), number }| Committed { value, number }));
        };
        self.submit_in_space(Durability::Relaxed, space, job, done);
    }

    /// Forgets the cursor, the mark and the acked ranges of the upstream in use. Returns the last local
    /// sequence number.
    pub(crate) fn submit_reset(&self, space: SpaceRow, done: Done<(SpaceCount, Local)>) {
        self.submit_link(space, done, move |tx, upstream| {
            links::reset(tx, upstream, space)?;
            for table in ["parked", "refused"] {
                tx.prepare_cached(&format!(
                    "DELETE FROM {table} WHERE upstream = ?1
                         AND document IN (SELECT id FROM document WHERE space = ?2)"
                ))?
                .execute(params![upstream.0, space.0])?;
            }
            Ok(Local(rows::space_totals(tx, space)?.last))
        });
    }

    /// Records changes that the upstream in use has on its disk.
    pub(crate) fn submit_acknowledged(
        &self,
        space: SpaceRow,
        locals: Vec<Local>,
        mark: Mark,
        done: Done<(SpaceCount, ())>,
    ) {
        let mut ranges = IntervalSet::new();
        for local in locals {
            ranges.insert(local.0, local.0);
        }
        self.submit_link(space, done, move |tx, upstream| {
            acked::hold(tx, upstream, space, &ranges)?;
            links::set_mark(tx, upstream, space, &mark)
        });
    }

    /// Records that the upstream rejects a document's changes, or its deletion if `refused` has that
    /// flag.
    pub(crate) fn submit_reject(
        &self,
        space: SpaceRow,
        document: DocumentId,
        refused: Refused,
        done: Done<(SpaceCount, ())>,
    ) {
        let Refused { code, what, deletion } = refused;
        self.submit_link(space, done, move |tx, upstream| {
            if let Some(document) = rows::document_row(tx, space, &document)?
                // Deleted meanwhile: its changes are gone, and its deletion is still to be sent.
                && (deletion || !deletion::is_deleted(tx, document)?)
            {
                tx.prepare_cached(
                    "INSERT INTO parked (upstream, document, code, what) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET code = excluded.code, what = excluded.what",
                )?
                .execute(params![upstream.0, document.0, code.0, what])?;
            }
            Ok(())
        });
    }

    /// Makes the outbox send a document's changes again.
    pub(crate) fn submit_requeue(
        &self,
        space: SpaceRow,
        document: DocumentId,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            match rows::document_row(tx, space, &document)? {
                Some(row) => acked::release_document(tx, upstream, space, row),
                None => Ok(()),
            }
        });
    }

    /// Bookkeeping about the upstream in use. A power cut may lose it, and it is then done again, since
    /// pushing is idempotent. So it takes no fsync of its own.
    fn submit_link<T: Default + Send + 'static>(
        &self,
        space: SpaceRow,
        done: Done<(SpaceCount, T)>,
        job: impl FnOnce(&Connection, UpstreamRow) -> rusqlite::Result<T> + Send + 'static,
    ) {
        let whose = self.whose;
        let job = move |tx: &rusqlite::Transaction<'_>| match whose.row(tx)? {
            Some(upstream) => job(tx, upstream),
            None => Ok(T::default()),
        };
        self.submit_in_space(Durability::Relaxed, space, job, done);
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenLogError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the new store could not be initialised")]
    Initialise(#[source] WriteFailure),
    #[error(transparent)]
    Read(ViewError),
}
