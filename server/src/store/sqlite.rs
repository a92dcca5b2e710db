//! The embedded store: one SQLite file in the relay's data folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_protocol::admission::History;
use landfall_protocol::lineage::Lineage;
use landfall_protocol::ring::Page;
use landfall_protocol::space::Commit;
use landfall_protocol::{Offset, SpaceName, Upstream};
use landfall_storage::{
    Database, Durability, Faults, OpenError, Options, ReadError, Reader, StorageError, WriteError,
};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use thiserror::Error;

use super::history::SpaceView;
use super::schema::SCHEMA;
use super::{Done, LogStore, StoreError, append, pages};
use crate::limits;

/// The file's name in the data folder.
const FILE: &str = "relay.db";

/// Why a store was not opened.
#[derive(Debug, Error)]
pub enum OpenStoreError {
    /// User: the data folder cannot be made or used.
    #[error("the data folder {path} cannot be used", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// User or disk: the file in it was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Disk: the file opened, but its identity could not be read or written.
    #[error("the store's identity could not be read")]
    Identity(#[source] StoreError),
    /// Our bug or the system's: no randomness for a new store's identity.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// What a person can do about a store that does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHint {
    /// Another process has it.
    InUse,
    /// It is not a relay's store.
    WrongFile,
    /// A newer release wrote it.
    Newer,
    /// It may not be written.
    Unwritable,
    /// The disk is full.
    Full,
    /// None of these.
    Other,
}

impl OpenStoreError {
    /// What a person can do about it.
    pub fn hint(&self) -> StoreHint {
        let Self::Open(error) = self else {
            return match self {
                Self::Folder { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    StoreHint::Full
                }
                Self::Folder { .. } => StoreHint::Unwritable,
                _ => StoreHint::Other,
            };
        };
        match error {
            OpenError::InUse { .. } => StoreHint::InUse,
            OpenError::NotOurs { .. } => StoreHint::WrongFile,
            OpenError::TooNew { .. } => StoreHint::Newer,
            OpenError::Unwritable { .. } | OpenError::FolderMissing { .. } => StoreHint::Unwritable,
            OpenError::DiskFull { .. } => StoreHint::Full,
            OpenError::Io { source: StorageError::Sqlite(error), .. }
                if lacks_index_room(error) =>
            {
                StoreHint::Full
            }
            _ => StoreHint::Other,
        }
    }
}

/// Whether the file that indexes the WAL could not get its size. SQLite calls that an I/O error;
/// it is what a disk without a free block comes to.
fn lacks_index_room(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

/// The embedded store.
pub struct SqliteStore {
    db: Database,
    upstream: Upstream,
    /// The hub's own connection, so that admission never waits for those who catch up.
    admission: Mutex<Option<Reader>>,
}

impl SqliteStore {
    /// Opens the store in a data folder; makes both if need be.
    pub fn open(folder: &Path) -> Result<Self, OpenStoreError> {
        let refused = |source| OpenStoreError::Folder { path: folder.to_owned(), source };
        make_folder(folder).map_err(refused)?;
        let options = Options {
            page_cache_bytes: limits::PAGE_CACHE_BYTES,
            readers: limits::PAGE_READS,
            queue: limits::STORE_QUEUE,
            ..Options::default()
        };
        let db = Database::open(folder.join(FILE), &SCHEMA, options)?;
        let upstream = identity(&db)?;
        let reader = db.open_reader().map_err(|error| {
            OpenStoreError::Identity(StoreError::new("open a reader", error.class(), error))
        })?;
        Ok(Self { db, upstream, admission: Mutex::new(Some(reader)) })
    }

    /// Fault injection, for tests.
    pub fn faults(&self) -> Faults {
        self.db.faults()
    }

    fn read<T>(
        &self,
        what: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.db.read(query).map_err(|error| StoreError::of_read(what, error))
    }
}

/// Makes the folder for its owner only. One that exists keeps its mode: it may be shared on
/// purpose, and the files in it are private anyway.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Reads the relay's identity, or draws it for a new store.
fn identity(db: &Database) -> Result<Upstream, OpenStoreError> {
    let find = "SELECT upstream FROM meta WHERE id = 1";
    let found =
        db.read(|conn| conn.query_row(find, [], |row| row.get(0)).optional()).map_err(|error| {
            OpenStoreError::Identity(StoreError::of_read("read its identity", error))
        })?;
    if let Some(bytes) = found {
        return Ok(Upstream::from_bytes(bytes));
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(OpenStoreError::Randomness)?;
    db.write(Durability::Full, move |tx| {
        tx.execute("INSERT INTO meta (id, upstream) VALUES (1, ?1)", [bytes])
    })
    .map_err(|error| OpenStoreError::Identity(StoreError::of_write("keep its identity", error)))?;
    Ok(Upstream::from_bytes(bytes))
}

impl LogStore for SqliteStore {
    fn upstream(&self) -> Upstream {
        self.upstream
    }

    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError> {
        self.read("read a space's lineage", |conn| pages::lineage(conn, space))
    }

    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        let what = "read a space's history";
        let reader = self.admission.lock();
        let Some(reader) = reader.as_ref() else {
            let closed: ReadError<rusqlite::Error> = ReadError::Connection(StorageError::Closed);
            return Err(StoreError::of_read(what, closed));
        };
        reader
            .with(|conn| {
                ask(&SpaceView::new(conn, space)?);
                Ok(())
            })
            .map_err(|error| StoreError::of_read(what, error))
    }

    fn page(&self, space: &SpaceName, after: Offset) -> Result<Option<Page>, StoreError> {
        self.read("read a page of a log", |conn| pages::page(conn, space, after))
    }

    fn append(&self, commit: Arc<Commit>, done: Done) {
        let told = |result: Result<_, WriteError<rusqlite::Error>>| {
            done(result.map(drop).map_err(|error| StoreError::of_write("append to a log", error)));
        };
        self.db.submit(Durability::Full, move |tx| append::append(tx, &commit), told);
    }

    fn probe(&self, done: Done) {
        let job = |tx: &rusqlite::Transaction<'_>| {
            tx.prepare_cached("INSERT INTO probe (filler) VALUES (zeroblob(?1))")?
                .execute([limits::PROBE_BYTES as i64])?;
            tx.prepare_cached("DELETE FROM probe")?.execute([])?;
            Ok(())
        };
        let told = |result: Result<_, WriteError<rusqlite::Error>>| {
            done(result.map(drop).map_err(|error| StoreError::of_write("write a probe", error)));
        };
        self.db.submit(Durability::Full, job, told);
    }

    fn close(&self) -> Result<(), StoreError> {
        *self.admission.lock() = None;
        self.db.close().map_err(|error| StoreError::new("close cleanly", error.class(), error))
    }
}
