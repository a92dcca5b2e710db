//! The embedded store: one SQLite file in the relay's data folder. It must not know frames or sessions.

use std::io;
use std::path::Path;
use std::sync::Arc;

use landfall_protocol::admission::{CheckedChange, History};
use landfall_protocol::automerge_repo::{DocumentIndex, plan as sync_plan};
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::{EncodedEntry, Filter, Partial};
use landfall_protocol::relay::{
    Chunk, Commit, DocumentPlan, Lineage, Snapshot, SnapshotPart, StoreFailure,
};
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Offset, SpaceName, Upstream};
use landfall_storage::{
    BackupError, Database, Durability, Faults, Options, ReadError, Reader, StorageError, WriteError,
};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};

use super::checked::{self, CheckedBuckets, SnapshotSums};
use super::condition::{Condition, Known, Operation, Recorder};
use super::failure::chain;
use super::history::SpaceView;
use super::indexes::{INDEX_CACHE_BYTES, IndexCache, Unloaded};
use super::opening::OpenStoreError;
use super::passed::{Passed, PassedOver};
use super::schema::SCHEMA;
use super::{
    BranchPage, CompactionSink, CompactionTask, CompactionWindow, DamagedIndex, Done, Examined,
    LogStore, RecentPage, Replaced, StoreError, StoreGauges, StoredDocument, Subject, SumCursor,
    Verification, append, automerge_repo, compaction, digests, documents, expand, fill, listing,
    log, plan, prune, repairing, snapshots,
};
use crate::limits;

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
            let asked = match (&space, &document) {
                (Some(space), Some(document)) => Operation::of_document(what, space, document),
                _ => what.into(),
            };
            self.found.note(asked, StoreError::of_read(what, ReadError::Query(error)));
        }
    }

    /// Records damage that a read found and skipped.
    fn note_damage(&self, asked: Operation<'_>, damage: Vec<log::SkippedRead>) {
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
        let asked = Operation::of_space(what, space);
        let failed = |error| self.found.note(asked, StoreError::of_read(what, error));
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

impl LogStore for SqliteStore {
    fn upstream(&self) -> Upstream {
        self.upstream
    }

    fn open_space(&self, space: &SpaceName) -> Result<Lineage, StoreError> {
        // The hub waits for this read, so it must not queue behind reads of sessions.
        self.read_for_hub(space, "read a space's lineage", |conn| log::lineage(conn, space))
    }

    fn with_history(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        self.read_for_hub(space, "read a space's history", |conn| {
            ask(&SpaceView::new(conn, space, &self.indexes, &self.found)?);
            Ok(())
        })
    }

    fn look_up(
        &self,
        space: &SpaceName,
        ask: &mut dyn FnMut(&dyn History<Error = StoreError>),
    ) -> Result<(), StoreError> {
        self.read(
            Operation::of_space("look up the changes and dependencies of a push", space),
            |conn| {
                ask(&SpaceView::new(conn, space, &self.indexes, &self.found)?);
                Ok(())
            },
        )
    }

    fn next(
        &self,
        space: &SpaceName,
        after: Offset,
        filter: &Filter,
        partial: Option<Partial>,
    ) -> Result<Option<Chunk>, StoreError> {
        let asked = Operation::of_space("read a page of a log", space);
        // Checked once per log, whatever the outcome: an error is recorded, and readable entries are served.
        let _ = self.read(asked, |conn| match documents::space_row(conn, space)? {
            Some(row) if self.logs.is_first((row, 0)) => checked::log(conn, row),
            _ => Ok(()),
        });
        let mut damage = Vec::new();
        let chunk = self.read(asked, |conn| {
            log::next(conn, space, after, filter, partial, (&self.sums, &mut damage))
        });
        self.note_damage(asked, damage);
        chunk
    }

    fn append(&self, commit: Arc<Commit>, done: Done) {
        let what = "append to a log";
        // The document at which the commit failed.
        let failed_at = Arc::new(Mutex::new(None));
        let (note_at, found, space) =
            (Arc::clone(&failed_at), Arc::clone(&self.found), commit.space.clone());
        let told = move |result: Result<_, WriteError<rusqlite::Error>>| {
            let failed = |error| {
                let error = StoreError::of_write(what, error);
                let at = *failed_at.lock();
                match at {
                    // The hub reports all other failures.
                    _ if error.failure != StoreFailure::Damaged => error,
                    Some(document) => {
                        found.note(Operation::of_document(what, &space, &document), error)
                    }
                    None => found.note(Operation::of_space(what, &space), error),
                }
            };
            done(result.map(drop).map_err(failed));
        };
        let job = move |tx: &rusqlite::Transaction<'_>| {
            append::append(tx, &commit, &mut |document| *note_at.lock() = Some(document))
        };
        self.db.submit(Durability::Full, job, told);
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
        // The store is closed even if there is no room to save the condition.
        let _ = self.keep_new_condition();
        *self.admission.lock() = None;
        self.db.close().map_err(|error| StoreError::new("close cleanly", error.class(), error))
    }

    fn load_index(&self, space: &SpaceName, document: &DocumentId) -> Result<(), StoreError> {
        let what = "load the index of compacted history";
        let asked = Operation::of_document(what, space, document);
        let found = self.read(asked, |conn| {
            let Some((_, found)) = documents::find(conn, space, document)? else { return Ok(None) };
            let Some(stored) = snapshots::current(conn, found.row)? else { return Ok(None) };
            // A missing index is treated as a damaged one: empty bytes do not parse.
            let packed = snapshots::packed(conn, stored.row)?.unwrap_or_default();
            Ok(Some(Unloaded { key: (found.row, stored.hash), packed, stored }))
        })?;
        let Some(unloaded) = found else { return Ok(()) };
        if self.indexes.get(&unloaded.key).is_some() {
            return Ok(());
        }
        self.keep_index(what, document, unloaded).map(drop)
    }

    fn store_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        snapshot: &[u8; 32],
        packed: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let what = "store the index of compacted history";
        let (named, id, snapshot) = (space.clone(), *document, *snapshot);
        let stored =
            self.write(what, move |tx| snapshots::store_index(tx, &named, &id, &snapshot, packed));
        stored.map_err(|error| match error.is_content_damage() {
            true => self.found.note(Operation::of_document(what, space, document), error),
            false => error,
        })
    }

    fn plan_document(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        have: &[[u8; 32]],
    ) -> Result<DocumentPlan, StoreError> {
        let what = "find out which changes of a document are missing";
        self.read(Operation::of_document(what, space, document), |conn| {
            plan::document(conn, space, document, have)
        })
    }

    fn read_entries(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        offsets: &[Offset],
    ) -> Result<Vec<EncodedEntry>, StoreError> {
        let asked = Operation::of_document("read entries of a document", space, document);
        let mut damage = Vec::new();
        let entries =
            self.read(asked, |conn| plan::entries(conn, space, document, offsets, &mut damage));
        self.note_damage(asked, damage);
        entries
    }

    fn snapshot_entry(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
    ) -> Result<Option<EncodedEntry>, StoreError> {
        self.read(Operation::of_space("read a snapshot's entry", space), |conn| {
            match documents::space_row(conn, space)? {
                Some(space) => snapshots::entry(conn, space, hash),
                None => Ok(None),
            }
        })
    }

    fn snapshot_part(
        &self,
        space: &SpaceName,
        hash: &[u8; 32],
        from: u64,
    ) -> Result<Option<SnapshotPart>, StoreError> {
        self.read(Operation::of_space("read a part of a snapshot", space), |conn| {
            match documents::space_row(conn, space)? {
                Some(space) => snapshots::part(conn, &self.sums, space, hash, from),
                None => Ok(None),
            }
        })
    }

    fn branches(
        &self,
        space: &SpaceName,
        prefixes: &[Prefix],
        cursor: SumCursor,
        rows: usize,
    ) -> Result<BranchPage, StoreError> {
        self.read(Operation::of_space("read the digests of a space", space), |conn| {
            let mut page = digests::branches(conn, space, prefixes, cursor, rows)?;
            let damaged = self.found.damaged_of(space);
            digests::tell_damage(conn, space, &damaged, &mut page.branches)?;
            Ok(page)
        })
    }

    fn document_heads(
        &self,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<StoredDocument, StoreError> {
        self.read(Operation::of_document("read a document's state", space, document), |conn| {
            automerge_repo::standing(conn, space, document, &self.buckets)
        })
    }

    fn document_index(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        with_compacted: bool,
    ) -> Result<Option<DocumentIndex>, StoreError> {
        let what = "read a document's index";
        let wanted = with_compacted.then_some(&self.indexes);
        let found = self.read(Operation::of_document(what, space, document), |conn| {
            automerge_repo::index(conn, space, document, wanted)
        })?;
        let Some((mut index, packed)) = found else { return Ok(None) };
        if let (Some(compacted), Some(packed)) = (&mut index.compacted, packed) {
            compacted.index = Some(self.keep_index(what, document, packed)?);
        }
        Ok(Some(index))
    }

    fn changes_known(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hashes: &[ChangeHash],
    ) -> Result<Vec<ChangeHash>, StoreError> {
        let what = "find changes of a document";
        let found = self.read(Operation::of_document(what, space, document), |conn| {
            automerge_repo::tail_has(conn, space, document, hashes)
        })?;
        let Some((mut known, compacted)) = found else { return Ok(Vec::new()) };
        if compacted && known.len() < hashes.len() {
            // A change that is compacted between the two reads was still in the tail at the first one.
            let indexes = Some(&self.indexes);
            let found = self.read(Operation::of_document(what, space, document), |conn| {
                automerge_repo::compacted(conn, space, document, indexes)
            })?;
            if let Some((mut index, packed)) = found {
                if let (Some(compacted), Some(packed)) = (&mut index.compacted, packed) {
                    compacted.index = Some(self.keep_index(what, document, packed)?);
                }
                known.extend(
                    sync_plan::known(&index, hashes).map_err(|_| StoreError::unsupported())?,
                );
            }
        }
        known.sort_unstable();
        known.dedup();
        Ok(known)
    }

    fn recent_documents(
        &self,
        space: &SpaceName,
        since: Offset,
        before: Option<Offset>,
        most: usize,
    ) -> Result<RecentPage, StoreError> {
        self.read(Operation::of_space("list documents", space), |conn| {
            listing::recent(conn, space, (since, before), most)
        })
    }

    fn changes_held(&self, space: &SpaceName, document: &DocumentId) -> Result<u64, StoreError> {
        self.read(Operation::of_document("count a document's changes", space, document), |conn| {
            let found = documents::find(conn, space, document)?;
            Ok(found.map_or(0, |(_, found)| found.compacted_changes + found.tail_changes))
        })
    }

    fn document_bases(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        let what = "read all of a document";
        let task = self.read(Operation::of_document(what, space, document), |conn| {
            compaction::everything(conn, space, document)
        })?;
        match task {
            Some(task) => self.compaction_read(&task, sink),
            None => Ok(true),
        }
    }

    fn compaction_candidate(
        &self,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        let what = "find a document to compact";
        let (task, passed) = self.read(what, |conn| {
            let mut passed = PassedOver::default();
            let task = compaction::candidate(conn, now_ms, window, &mut passed)?;
            Ok((task, passed.named(conn)))
        })?;
        self.note_passed(what, passed);
        Ok(task)
    }

    fn compaction_task(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        now_ms: u64,
        window: CompactionWindow,
    ) -> Result<Option<CompactionTask>, StoreError> {
        let what = "read the state of a document to compact";
        self.read(Operation::of_document(what, space, document), |conn| {
            compaction::task(conn, space, document, now_ms, window)
        })
    }

    fn compaction_read(
        &self,
        task: &CompactionTask,
        sink: &mut CompactionSink<'_>,
    ) -> Result<bool, StoreError> {
        let mut after = None;
        loop {
            // The sink may wait for a child process, so no read transaction is open while it runs.
            let batch = self.read(
                Operation::of_document("read the changes to compact", &task.space, &task.document),
                |conn| compaction::batch(conn, task, after),
            )?;
            let Some(batch) = batch else { return Ok(false) };
            for input in batch.inputs {
                if sink(input).is_break() {
                    return Ok(false);
                }
            }
            match batch.next {
                Some(next) => after = Some(next),
                None => return Ok(true),
            }
        }
    }

    fn compaction_commit(
        &self,
        task: &CompactionTask,
        snapshot: Snapshot,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let task = task.clone();
        self.write("store a snapshot", move |tx| compaction::commit(tx, &task, &snapshot, now_ms))
    }

    fn compaction_failed(
        &self,
        task: &CompactionTask,
        version: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        let (task, version, reason) = (task.clone(), version.to_owned(), reason.to_owned());
        let what = "record a failed compaction";
        self.write(what, move |tx| compaction::failed(tx, &task, &version, &reason))
    }

    fn retry_failed_compactions(&self, version: &str) -> Result<(), StoreError> {
        let version = version.to_owned();
        self.write("schedule failed compactions again", move |tx| compaction::retry(tx, &version))
    }

    fn prune(&self, now_ms: u64, max_rows: usize) -> Result<bool, StoreError> {
        let (what, damaged) = ("delete compacted changes", self.found.documents());
        let (more, passed) = self.write(what, move |tx| {
            let mut passed = PassedOver::default();
            let more = prune::prune(tx, (now_ms, max_rows), &damaged, &mut passed)?;
            Ok((more, passed.named(tx)))
        })?;
        self.note_passed(what, passed);
        Ok(more)
    }

    fn condition(&self) -> Condition {
        let fsync_failed = self.db.fsync_failure().map(|error| chain(&*error));
        let gone = self.db.gone().map(ToString::to_string);
        let writer_panicked = self.db.writer_panic().map(|error| chain(&*error));
        let wal = self.db.wal_damage().map(ToString::to_string);
        self.found.condition(gone, fsync_failed, writer_panicked, wal)
    }

    fn is_damaged(&self, space: &SpaceName, document: &DocumentId) -> bool {
        self.found.is_damaged(space, document)
    }

    fn known_damage(&self, space: &SpaceName, document: &DocumentId) -> Option<Known> {
        self.found.known(space, document)
    }

    fn forget_damage(&self, space: &SpaceName, document: &DocumentId, known: Known) -> bool {
        self.found.forget(space, document, known)
    }

    fn keep_condition(&self) -> bool {
        self.keep_new_condition()
    }

    fn examine(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        after: Option<Offset>,
    ) -> Result<Examined, StoreError> {
        // Bypasses the recorder: the damage is already known, and the recorder counts reads by clients to
        // determine whether it persists.
        let what = "examine a document";
        let examined = self.db.read(|conn| repairing::examine(conn, space, document, after));
        examined.map_err(|error| StoreError::of_read(what, error))
    }

    fn repair_changes(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        changes: Vec<(ChangeHash, Vec<u8>)>,
    ) -> Result<Replaced, StoreError> {
        let (space, document) = (space.clone(), *document);
        self.write("replace damaged changes", move |tx| {
            let repaired = repairing::changes(tx, &space, &document, &changes)?;
            if repaired.count > 0 {
                compaction::retry_repaired(tx, &space, &document)?;
            }
            Ok(repaired)
        })
    }

    fn repair_snapshot(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        snapshot: Snapshot,
    ) -> Result<bool, StoreError> {
        let (space, document, hash) = (space.clone(), *document, *hash);
        self.write("replace a damaged snapshot", move |tx| {
            let is_repaired = repairing::snapshot(tx, &space, &document, &hash, &snapshot)?;
            if is_repaired {
                compaction::retry_repaired(tx, &space, &document)?;
            }
            Ok(is_repaired)
        })
    }

    fn oversized(&self, most_bytes: u64) -> Result<Vec<(SpaceName, DocumentId, u64)>, StoreError> {
        self.read("find oversized snapshots", |conn| expand::oversized(conn, most_bytes))
    }

    fn expand(
        &self,
        space: &SpaceName,
        document: &DocumentId,
        hash: &[u8; 32],
        changes: Vec<CheckedChange>,
        fresh: Epoch,
    ) -> Result<bool, StoreError> {
        let (space, document, hash) = (space.clone(), *document, *hash);
        self.write("split a snapshot into single changes", move |tx| {
            expand::expand(tx, &space, &document, &hash, changes, fresh)
        })
    }

    fn gauges(&self) -> StoreGauges {
        let last = |subject| Verification::beside(self.db.path()?, subject);
        StoreGauges {
            verified: last(Subject::Store),
            copy_verified: last(Subject::Copy),
            store_bytes: self.db.size_bytes().unwrap_or_default(),
            free_bytes: self.db.free_bytes().unwrap_or_default(),
            ..self.indexes.gauges()
        }
    }
}
