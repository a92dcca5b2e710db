//! The engine's store: a log of changes in one SQLite file, and what each upstream is known to
//! hold of it.
//!
//! It knows rows and transactions. It must never know a loaded document, a socket or an event.
//! Every result is told after the commit that it speaks of.

mod actors;
mod apart;
mod append;
mod aside;
mod contents;
mod deletion;
mod displaced;
mod fitting;
mod folding;
mod follow;
mod graph;
mod heal;
mod held;
mod history;
mod import;
mod indexes;
mod inspect;
mod install;
mod leaves;
mod ledger;
mod links;
mod outbox;
mod partial;
mod prepare;
mod quarantined;
mod receive;
mod report;
mod resume;
mod rows;
mod schema;
mod schema_status;
mod snapshots;
mod verify;
mod verify_document;
mod verify_space;
mod view;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use landfall_protocol::frame::Mark;
use landfall_protocol::intervals::IntervalSet;
use landfall_protocol::replica::ResumePoint;
use landfall_protocol::{Code, DocumentId, Local, ReplicaId, SpaceName, Upstream};
use landfall_storage::{Committed, Database, Durability, OpenError, Options, WriteError};
use rusqlite::{Connection, params};

pub use outbox::Pending;

pub(crate) use actors::{Nonce, OwnActor};
pub(crate) use append::{AppendError, Appended, LocalChange};
pub use contents::{Kept, LeftOut};
pub(crate) use deletion::Lost;
pub(crate) use displaced::{ReplaceError, Unsent};
pub(crate) use folding::{FoldOptions, FoldTask};
pub(crate) use follow::{Follow, Followed};
pub(crate) use heal::HealError;
pub use heal::Healed;
pub(crate) use import::ImportChange;
pub use inspect::{InspectedDocument, InspectedSpace, InspectedUpstream, Inspection};
pub(crate) use partial::SnapshotPart;
pub(crate) use prepare::Ready;
#[cfg(test)]
pub(crate) use prepare::{BadSnapshot, PrepareError};
#[cfg(test)]
pub(crate) use receive::{Deleted, Displaced};
pub(crate) use receive::{ReceiveError, Received};
pub(crate) use report::SpaceReport;
pub(crate) use rows::{DocumentRow, SpaceRow, SpaceTotals, UpstreamRow};
pub(crate) use snapshots::Opened;
pub use verify::{Fault, Finding};
pub(crate) use view::{DocumentFacts, Parked, Stored, ViewError};

/// What a space amounts to after a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpaceCount {
    pub(crate) totals: SpaceTotals,
    pub(crate) pending: Pending,
    /// The first local sequence number that the upstream is not known to hold.
    pub(crate) first_gap: Option<u64>,
    /// The first one that it is not known to hold and does not refuse.
    pub(crate) first_unheld: Option<u64>,
    /// Entries that are set aside.
    pub(crate) aside: u64,
}

/// Where a space stands with an upstream.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) point: ResumePoint,
}

/// A failed write, as the engine's callers need to know it.
pub(crate) type WriteFailure = WriteError<rusqlite::Error>;

/// What a finished write calls, on the writer thread.
pub(crate) type Done<T, E = rusqlite::Error> =
    Box<dyn FnOnce(Result<Committed<T>, WriteError<E>>) + Send>;

/// How a store is opened.
pub(crate) enum Place<'a> {
    File(&'a Path),
    ReadOnly(&'a Path),
    Memory,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LocalLog {
    db: Database,
    replica: ReplicaId,
    /// The row of the upstream in use; 0 while none was ever met.
    upstream: Arc<AtomicI64>,
    indexes: Arc<indexes::Indexes>,
    reports: Arc<report::Reports>,
}

impl LocalLog {
    /// Opens the store; `fresh` becomes its replica id if it has none yet.
    pub(crate) fn open(
        place: Place<'_>,
        options: Options,
        fresh: ReplicaId,
    ) -> Result<Self, OpenLogError> {
        let schema = &schema::SCHEMA;
        let writable = !matches!(place, Place::ReadOnly(_));
        let db = match place {
            Place::File(path) => Database::open(path, schema, options)?,
            Place::ReadOnly(path) => Database::open_read_only(path, schema, options)?,
            Place::Memory => Database::open_in_memory(schema, options)?,
        };
        if writable {
            db.write(Durability::Full, move |tx| {
                tx.execute("INSERT OR IGNORE INTO replica VALUES (1, ?1)", [fresh.as_bytes()])?;
                leaves::fill(tx)
            })
            .map_err(OpenLogError::Initialise)?;
        }
        let (replica, upstream) = db
            .read(|conn| {
                let replica = conn.query_row("SELECT id FROM replica", [], |row| row.get(0))?;
                Ok::<_, rusqlite::Error>((ReplicaId::from_bytes(replica), links::last_met(conn)?))
            })
            .map_err(|error| OpenLogError::Read(ViewError::from(error)))?;
        let upstream = upstream.map_or(0, |(row, _)| row.0);
        let upstream = Arc::new(AtomicI64::new(upstream));
        let (indexes, reports) = (Arc::default(), Arc::default());
        Ok(Self { db, replica, upstream, indexes, reports })
    }

    pub(crate) fn database(&self) -> &Database {
        &self.db
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.replica
    }

    fn upstream(&self) -> Option<UpstreamRow> {
        let row = self.upstream.load(Ordering::Acquire);
        (row != 0).then_some(UpstreamRow(row))
    }

    /// The row of a space, which is made if it is new.
    pub(crate) fn ensure_space(&self, name: &SpaceName) -> Result<SpaceRow, WriteFailure> {
        let name = name.as_str().to_owned();
        let job = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute("INSERT OR IGNORE INTO space (name) VALUES (?1)", [&name])?;
            tx.query_row("SELECT id FROM space WHERE name = ?1", [&name], |row| row.get(0))
        };
        self.db.write(Durability::Full, job).map(|committed| SpaceRow(committed.value))
    }

    /// Notes which upstream is in use from now on, and gives where the space stands with it.
    pub(crate) fn submit_meet(&self, upstream: Upstream, space: SpaceRow, done: Done<Met>) {
        let current = Arc::clone(&self.upstream);
        let job = move |tx: &rusqlite::Transaction<'_>| {
            let row = links::meet(tx, &upstream)?;
            links::ensure_link(tx, row, space)?;
            let point = resume::resume_point(tx, row, space)?;
            Ok::<_, rusqlite::Error>((row, Met { point }))
        };
        let done = move |result: Result<Committed<(_, (UpstreamRow, Met))>, WriteFailure>| {
            done(result.map(|Committed { value: (_, (row, value)), number }| {
                current.store(row.0, Ordering::Release);
                Committed { value, number }
            }));
        };
        self.submit_in_space(Durability::Relaxed, space, job, done);
    }

    /// Forgets the cursor, the mark and everything held, of the upstream in use.
    /// Gives the last local sequence number.
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

    /// The upstream in use has these changes on its disk.
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
            held::hold(tx, upstream, space, &ranges)?;
            links::set_mark(tx, upstream, space, &mark)
        });
    }

    /// The upstream in use refuses a document's changes.
    pub(crate) fn submit_park(
        &self,
        space: SpaceRow,
        document: DocumentId,
        code: Code,
        what: String,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            if let Some(document) = rows::document_row(tx, space, &document)? {
                tx.prepare_cached(
                    "INSERT INTO parked (upstream, document, code, what) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET code = excluded.code, what = excluded.what",
                )?
                .execute(params![upstream.0, document.0, code.0, what])?;
            }
            Ok(())
        });
    }

    /// A document's changes are to be offered to the upstream again.
    pub(crate) fn submit_requeue(
        &self,
        space: SpaceRow,
        document: DocumentId,
        done: Done<(SpaceCount, ())>,
    ) {
        self.submit_link(space, done, move |tx, upstream| {
            match rows::document_row(tx, space, &document)? {
                Some(row) => held::release_document(tx, upstream, space, row),
                None => Ok(()),
            }
        });
    }

    /// Bookkeeping about the upstream in use. It may be lost in a power cut: then it is done
    /// again, since pushing is idempotent. So it takes no fsync of its own.
    fn submit_link<T: Default + Send + 'static>(
        &self,
        space: SpaceRow,
        done: Done<(SpaceCount, T)>,
        job: impl FnOnce(&Connection, UpstreamRow) -> rusqlite::Result<T> + Send + 'static,
    ) {
        let upstream = self.upstream();
        let job = move |tx: &rusqlite::Transaction<'_>| match upstream {
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
