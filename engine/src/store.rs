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
use landfall_protocol::{ReplicaId, SpaceName, Upstream, limits};
use landfall_storage::{
    Committed, Database, Durability, OpenError, Options, ReadError, WriteError,
};
use rusqlite::Connection;

use log::{digests, indexes};
use upstream::{links, report};

pub use admin::contents::{LeftOut, OutsideReason};
pub(crate) use admin::import::ImportChange;
pub use admin::inspect::{InspectedDocument, InspectedSpace, InspectedUpstream, Inspection};
pub(crate) use admin::removal::RemovalError;
pub(crate) use compare::reasons::Compared;
pub(crate) use documents::actors::{Nonce, OwnActor};
pub(crate) use documents::deletion::OrphanedDocument;
pub use documents::excess::{DocumentLimit, ExceededLimit};
pub(crate) use documents::view::{DocumentFacts, Stored};
pub(crate) use follow::{Follow, Followed};
pub(crate) use ingest::partial::SnapshotPart;
pub(crate) use ingest::prepare::Ready;
#[cfg(test)]
pub(crate) use ingest::received::{Deleted, Superseded};
pub(crate) use ingest::received::{ReceiveError, Received};
pub(crate) use ingest::resume::AttachedUpstream;
pub(crate) use log::append::{AppendError, Appended, LocalChange};
pub(crate) use log::rows::{DocumentRow, SpaceRow, SpaceTotals, UpstreamRow};
pub(crate) use log::snapshots::Opened;
pub(crate) use opening::OpenedSpace;
pub(crate) use snapshot::compaction::{CompactionInput, CompactionOptions, CompactionTask};
pub(crate) use snapshot::expand::ExpandError;
pub(crate) use snapshot::resend::{Resendable, whole};
pub use upstream::pending::Pending;
pub(crate) use upstream::rejected::{Refused, Rejected};
pub(crate) use upstream::report::{Came, SpaceCount, SpaceReport};
pub(crate) use upstream::superseded::{ReplaceError, Unsent};
pub use verify::findings::{Fault, Finding};
pub(crate) use verify::repair::RepairError;
pub use verify::repair::Repaired;

/// The version of this software, as recorded with failed compactions and quarantines.
pub(crate) const SOFTWARE: &str = concat!(env!("CARGO_PKG_VERSION"), " automerge 0.12.0");

/// The store could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the store could not be read")]
pub(crate) struct ViewError(#[from] pub(crate) ReadError<rusqlite::Error>);

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

    fn view<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ViewError> {
        Ok(self.db.read(query)?)
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
