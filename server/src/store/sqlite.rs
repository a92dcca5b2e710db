//! The embedded store: one SQLite file in the relay's data folder. It must not know frames or sessions.

mod admin;
mod documents;
mod known;
mod log;
pub(in crate::store) mod opening;
mod snapshots;
pub(in crate::store) mod verified;

use std::io;
use std::path::Path;
use std::sync::Arc;

use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::{DocumentId, SpaceName, Upstream};
use landfall_storage::{
    BackupError, Database, Durability, Faults, Options, ReadError, Reader, StorageError,
};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};

use crate::limits;
use crate::store::damage::condition::{Operation, Recorder};
use crate::store::log::fill;
use crate::store::rows::checked::{self, CheckedBuckets, SnapshotSums};
use crate::store::rows::indexes::{INDEX_CACHE_BYTES, IndexCache, Unloaded};
use crate::store::rows::passed::Passed;
use crate::store::rows::schema::SCHEMA;
use crate::store::sqlite::opening::OpenStoreError;
use crate::store::{DamagedIndex, StoreError};

/// The file's name in the data folder.
pub(super) const FILE: &str = "relay.db";

/// The embedded store.
pub struct SqliteStore {
    db: Database,
    upstream: Upstream,
    /// The hub's own connection, so that admission never waits for sessions that catch up.
    admission: Mutex<Option<Reader>>,
    indexes: IndexCache,
    sums: SnapshotSums,
    buckets: CheckedBuckets,
    /// The logs whose indexes were checked.
    logs: CheckedBuckets,
    /// The damage that reads have found.
    found: Arc<Recorder>,
}

impl SqliteStore {
    /// Opens the store in a data folder; creates both if missing.
    pub fn open(folder: &Path) -> Result<Self, OpenStoreError> {
        let refused = |source| OpenStoreError::Folder { path: folder.to_owned(), source };
        make_folder(folder).map_err(refused)?;
        let options = Options {
            page_cache_bytes: limits::PAGE_CACHE_BYTES,
            readers: limits::PAGE_READS,
            queue: limits::STORE_QUEUE,
            look_at_files: limits::LOOK_AT_FILES,
            ..Options::default()
        };
        let db = Database::open(folder.join(FILE), &SCHEMA, options)?;
        let upstream = identity(&db)?;
        fill_in(&db)?;
        let reader = db.open_reader().map_err(|error| {
            OpenStoreError::Identity(StoreError::new("open a reader", error.class(), error))
        })?;
        let indexes = IndexCache::new(INDEX_CACHE_BYTES);
        let (admission, found) = (Mutex::new(Some(reader)), Arc::default());
        let (sums, buckets, logs) = Default::default();
        let store = Self { db, upstream, admission, indexes, sums, buckets, logs, found };
        store.take_up_condition();
        // The error is recorded: intact spaces are served all the same.
        let _ = store.read("list its spaces", checked::spaces);
        Ok(store)
    }

    /// Copies the current state of the store to a new file, while it is in use. The copy contains no deleted
    /// bytes.
    pub fn backup_to(&self, target: &Path) -> Result<(), BackupError> {
        self.db.backup_to(target)
    }

    /// The store's size on disk in bytes, including the write-ahead log.
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        self.db.size_bytes().map_err(|error| StoreError::new("read its size", error.class(), error))
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.found
    }

    pub(super) fn database(&self) -> &Database {
        &self.db
    }

    /// Fault injection, for tests.
    pub fn faults(&self) -> Faults {
        self.db.faults()
    }

    fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let written = self.db.write(Durability::Full, move |tx| job(tx));
        written.map(|done| done.value).map_err(|error| StoreError::of_write(what, error))
    }

    /// Caches a packed index in memory.
    fn keep_index(
        &self,
        what: &'static str,
        document: &DocumentId,
        unloaded: Unloaded,
    ) -> Result<Arc<PackedIndex>, StoreError> {
        let key = unloaded.key;
        unloaded.parse().map(|index| self.indexes.insert(key, index)).map_err(|source| {
            self.indexes.note_damage();
            let (document, snapshot) = (*document, key.1);
            StoreError::failed(what, DamagedIndex { document, snapshot, source })
        })
    }

    /// Records documents that were skipped because they cannot be read.
    fn note_passed(&self, what: &'static str, passed: Vec<Passed>) {
        for (space, document, error) in passed {
            let operation = match (&space, &document) {
                (Some(space), Some(document)) => Operation::of_document(what, space, document),
                _ => what.into(),
            };
            self.found.note(operation, StoreError::of_read(what, ReadError::Query(error)));
        }
    }

    /// Records damage that a read found and skipped.
    fn note_damage(&self, asked: Operation<'_>, damage: Vec<crate::store::log::read::SkippedRead>) {
        for (document, error) in damage {
            let error = StoreError::of_sqlite(asked.what, error);
            match document {
                Some(document) => {
                    self.found.note(asked.about(&document), error);
                }
                None => {
                    self.found.note(asked, error);
                }
            }
        }
    }

    /// Reads with the connection that is reserved for admission.
    fn read_for_hub<T>(
        &self,
        space: &SpaceName,
        what: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let reader = self.admission.lock();
        let Some(reader) = reader.as_ref() else {
            let closed: ReadError<rusqlite::Error> = ReadError::Connection(StorageError::Closed);
            return Err(StoreError::of_read(what, closed));
        };
        let operation = Operation::of_space(what, space);
        let failed = |error| self.found.note(operation, StoreError::of_read(what, error));
        reader.with(query).map_err(failed)
    }

    pub(super) fn read<'a, T>(
        &self,
        asked: impl Into<Operation<'a>>,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let asked = asked.into();
        let failed = |error| self.found.note(asked, StoreError::of_read(asked.what, error));
        self.db.read(query).map_err(failed)
    }
}

/// Creates the folder with access for its owner only. An existing one keeps its mode: it may be shared on
/// purpose, and the files in it are private anyway.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Reads the relay's identity, or draws one for a new store.
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
    .map_err(|error| OpenStoreError::Identity(StoreError::of_write("write its identity", error)))?;
    Ok(Upstream::from_bytes(bytes))
}

/// Completes the migration from version 1.
fn fill_in(db: &Database) -> Result<(), OpenStoreError> {
    let what = "finish a migration";
    let failed = |error| OpenStoreError::Migration(StoreError::of_write(what, error));
    let is_due = db.read(fill::is_due);
    let mut more =
        is_due.map_err(|error| OpenStoreError::Migration(StoreError::of_read(what, error)))?;
    while more {
        more = db
            .write(Durability::Full, |tx| fill::slice(tx, fill::SLICE_DOCUMENTS))
            .map_err(failed)?
            .value;
    }
    Ok(())
}
