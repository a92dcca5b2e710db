//! The database handle.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use rusqlite::{Connection, Transaction};

use crate::backup::{self, BackupError};
use crate::connect::{self, Pragmas};
use crate::durability::{CommitNumber, Committed, Durability};
use crate::error::{OpenError, ReadError, StorageError, WriteError};
use crate::faults::Faults;
use crate::files;
use crate::gone::GoneFile;
use crate::lock::Lock;
use crate::open::{self, Opened};
use crate::options::Options;
use crate::queue::Typed;
use crate::read::Reader;
use crate::schema::{Schema, pragma_i64};
use crate::shared::{Core, Place};
use crate::wal::WalDamage;
use crate::writer::Writer;

/// An open database. Clones are cheap and share one writer thread; dropping the last one closes it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

/// State that all handles share, but not the writer thread: dropping it closes the database.
struct Inner {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<Result<(), StorageError>>>>,
}

impl Database {
    /// Opens a file for writing. Creates the file if it does not exist, and migrates an older one. The
    /// folder must exist. At any time only one handle of all processes can have a file open for
    /// writing.
    ///
    /// # Errors
    /// See [`OpenError`]; a file that is refused keeps its content.
    pub fn open(
        path: impl AsRef<Path>,
        schema: &Schema,
        options: Options,
    ) -> Result<Self, OpenError> {
        let opened = open::writable(path.as_ref(), schema, &options)?;
        let Opened { path, conn, lock, watch, wal } = opened;
        let mut core = Core::new(Place::File(path.clone()), options, Some(conn), watch);
        core.wal = wal;
        Self::start(core, lock, &path)
    }

    /// Opens a file for reading; another process may write it meanwhile. Takes no lock and runs no
    /// migration; every write returns [`WriteError::ReadOnly`].
    ///
    /// # Errors
    /// See [`OpenError`]. A file that needs a migration gives `TooOld`.
    pub fn open_read_only(
        path: impl AsRef<Path>,
        schema: &Schema,
        options: Options,
    ) -> Result<Self, OpenError> {
        let (path, watch) = open::read_only(path.as_ref(), schema, &options)?;
        let core = Arc::new(Core::new(Place::File(path), options, None, watch));
        core.queue.close();
        Ok(Self { inner: Arc::new(Inner { core, thread: Mutex::new(None) }) })
    }

    /// Opens a new database in memory. It has one connection only, so reads and writes take turns. A
    /// read closure that writes to the same database deadlocks.
    ///
    /// # Errors
    /// See [`OpenError`]. Only an invalid schema and lack of memory or threads can occur.
    pub fn open_in_memory(schema: &Schema, options: Options) -> Result<Self, OpenError> {
        let Opened { path, conn, lock, watch, .. } = open::in_memory(schema, &options)?;
        Self::start(Core::new(Place::Memory, options, Some(conn), watch), lock, &path)
    }

    fn start(core: Core, lock: Option<Lock>, path: &Path) -> Result<Self, OpenError> {
        let core = Arc::new(core);
        let shared = Arc::clone(&core);
        let run = move || {
            let writer = Writer::new(Arc::clone(&shared), lock);
            writer.run(|id| shared.writer_started(id))
        };
        let thread = thread::Builder::new()
            .name("storage-writer".to_owned())
            .spawn(run)
            .map_err(|error| OpenError::from_storage(path, error.into()))?;
        Ok(Self { inner: Arc::new(Inner { core, thread: Mutex::new(Some(thread)) }) })
    }

    /// Runs `job` in a group of writes and waits for the group's commit. Blocks while the queue is
    /// full.
    ///
    /// The job must return the first SQLite error that it meets, and must not begin or end a
    /// transaction; savepoints are allowed. It runs on the writer thread, so it should be short.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write<T, E, J>(
        &self,
        durability: Durability,
        job: J,
    ) -> Result<Committed<T>, WriteError<E>>
    where
        T: Send + 'static,
        E: Error + Send + 'static,
        J: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        if self.core().on_writer_thread() {
            return Err(WriteError::WouldDeadlock);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(durability, job, move |result| {
            // The send fails only if the waiting thread is gone.
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or(Err(WriteError::Closed))
    }

    /// Queues `job` as [`write`](Self::write) does, without waiting for its commit. Blocks while the
    /// queue is full, except on the writer thread.
    ///
    /// `done` is called exactly once: on the writer thread after the commit or the failure, in the
    /// order of submission; or at once on this thread if the database is closed or read-only. It delays
    /// all other writes, so it should be short. It may submit, read, and drop or close the database.
    pub fn submit<T, E, J, D>(&self, durability: Durability, job: J, done: D)
    where
        T: Send + 'static,
        E: Error + Send + 'static,
        J: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        D: FnOnce(Result<Committed<T>, WriteError<E>>) + Send + 'static,
    {
        let core = self.core();
        if !core.writable {
            return done(Err(WriteError::ReadOnly));
        }
        // On the writer thread, waiting for room would deadlock: only that thread empties the queue.
        let may_wait = !core.on_writer_thread();
        if let Err(job) = core.queue.push(Typed::boxed(durability, job, done), may_wait) {
            job.finish(core.fate_of_refused());
        }
    }

    /// Waits until every commit made so far is on disk. Returns the number of the last of them.
    ///
    /// # Errors
    /// As [`write`](Self::write). On a read-only database: [`WriteError::ReadOnly`].
    pub fn sync(&self) -> Result<CommitNumber, WriteError<StorageError>> {
        let core = self.core();
        if core.writable && !core.is_closed() && !core.progress.outstanding() {
            return Ok(core.progress.synced());
        }
        // An empty group with full durability: the writer touches a row so that there is something to
        // fsync.
        self.write(Durability::Full, |_| Ok(())).map(|committed| committed.number)
    }

    /// The number of the last commit since the database was opened.
    #[must_use]
    pub fn committed(&self) -> CommitNumber {
        self.core().progress.committed()
    }

    /// The number of the last commit that is on disk, as are all commits before it.
    #[must_use]
    pub fn synced(&self) -> CommitNumber {
        self.core().progress.synced()
    }

    /// Registers `callback`. The writer thread calls it whenever [`synced`](Self::synced) has grown,
    /// after it delivered the results of that group. The callback stays registered as long as the
    /// database is open; one that owns a clone of this handle keeps the database open for ever.
    pub fn on_synced(&self, callback: Box<dyn Fn(CommitNumber) + Send + Sync>) {
        self.core().progress.subscribe(Arc::from(callback));
    }

    /// Checks whether the names of the database's files still refer to the open files. The database
    /// does the same around each commit and every [`Options::look_at_files`].
    ///
    /// # Errors
    /// [`StorageError::Gone`] if a file is gone now, or was found gone earlier.
    pub fn look_at_files(&self) -> Result<(), StorageError> {
        self.core().watch.look()
    }

    /// The file that was found to be gone, if any. Every write fails from then on, and earlier commits
    /// may be lost.
    #[must_use]
    pub fn gone(&self) -> Option<&GoneFile> {
        self.core().watch.gone()
    }

    /// Registers `callback`, which is called once when a file is found to be gone, or at once if one
    /// already is. It runs on the thread that found it, so it should be short.
    pub fn on_gone(&self, callback: Box<dyn FnOnce(&GoneFile) + Send>) {
        self.core().watch.on_gone(callback);
    }

    /// The damage of the write-ahead log that this opening found. If there is any, commits are lost.
    #[must_use]
    pub fn wal_damage(&self) -> Option<&WalDamage> {
        self.core().wal.as_ref()
    }

    /// The first fsync that failed since the database was opened. A failed fsync is final: the
    /// operating system may have dropped pages that it was asked to write, and a later fsync succeeds
    /// without them. So [`synced`](Self::synced) no longer grows, and every write gives
    /// [`FailureClass::FsyncFailed`](crate::FailureClass::FsyncFailed) until the database is closed and
    /// opened again. Reads continue to work.
    #[must_use]
    pub fn fsync_failure(&self) -> Option<Arc<StorageError>> {
        self.core().fsync_failure().cloned()
    }

    /// Registers `callback`, which the writer thread calls once, at the first failed fsync, including
    /// fsyncs outside any write. Subscribe right after opening: an earlier failure is reported by
    /// [`fsync_failure`](Self::fsync_failure) only.
    pub fn on_fsync_failed(&self, callback: Box<dyn Fn(&StorageError) + Send + Sync>) {
        self.core().progress.subscribe_to_failure(Arc::from(callback));
    }

    /// The panic that ended the writer thread: a bug of this crate. Every write gives
    /// [`FailureClass::Panicked`](crate::FailureClass::Panicked) from then on, until the database is
    /// opened again. Reads continue to work.
    #[must_use]
    pub fn writer_panic(&self) -> Option<Arc<StorageError>> {
        self.core().writer_panic().cloned()
    }

    /// Registers `callback`. It is called on the writer thread if that thread panics, before the
    /// pending writes fail; or at once if the thread has panicked already.
    pub fn on_writer_panicked(&self, callback: Box<dyn FnOnce(&StorageError) + Send>) {
        self.core().on_writer_panicked(callback);
    }

    /// Runs `query` in one snapshot on a pooled connection. Waits while all connections are in use.
    ///
    /// # Errors
    /// [`ReadError::Query`] with the closure's own error, [`ReadError::Connection`] otherwise.
    pub fn read<T, E>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, ReadError<E>> {
        self.core().read(query)
    }

    /// Opens a dedicated read connection, which does not count towards the pool's limit.
    ///
    /// # Errors
    /// The database is closed, or SQLite's own error.
    pub fn open_reader(&self) -> Result<Reader, StorageError> {
        Reader::open(&self.inner.core)
    }

    /// Copies one snapshot of the database to a new file, while the database is in use. The copy gets
    /// the name `target` only once it is fsynced and checked. Row ids of tables without an
    /// `INTEGER PRIMARY KEY` may change in it.
    ///
    /// # Errors
    /// See [`BackupError`]; no file is left at the target.
    pub fn backup_to(&self, target: impl AsRef<Path>) -> Result<(), BackupError> {
        self.core().backup_to(target.as_ref())
    }

    /// Copies a file of `schema` as [`backup_to`](Self::backup_to) does. Another process may write the
    /// file meanwhile, and a file of an earlier version is copied without migrating it. Returns that
    /// version.
    ///
    /// # Errors
    /// See [`BackupError`]; no file is left at the target.
    pub fn copy_file(
        source: impl AsRef<Path>,
        target: impl AsRef<Path>,
        schema: &Schema,
        options: &Options,
    ) -> Result<u32, BackupError> {
        backup::copy_file(source.as_ref(), target.as_ref(), schema, options)
    }

    /// Refuses new writes, finishes the queued ones, makes everything durable, checkpoints the WAL and
    /// releases the file. Calling it again has no effect. On the writer thread (in a `done`) it only
    /// starts this and returns at once. Dropping the last clone does the same.
    ///
    /// # Errors
    /// The last sync failed: relaxed commits may not be on disk. The file is released all the same.
    pub fn close(&self) -> Result<(), StorageError> {
        self.inner.close()
    }

    /// The path of the file with symbolic links resolved; `None` in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.core().place {
            Place::File(path) => Some(path),
            Place::Memory => None,
        }
    }

    /// Size of the database in bytes, including its WAL.
    ///
    /// # Errors
    /// The file system's; in memory, SQLite's own.
    pub fn size_bytes(&self) -> Result<u64, StorageError> {
        match &self.core().place {
            Place::File(path) => {
                Ok(files::length(path)? + files::length(&files::beside(path, "-wal"))?)
            }
            Place::Memory => self.core().with_writing_connection(|conn| {
                let pages = pragma_i64(conn, "page_count")? * pragma_i64(conn, "page_size")?;
                Ok(u64::try_from(pages).unwrap_or_default())
            }),
        }
    }

    /// Bytes that this process's user may still write to the file's disk; `None` in memory, and where
    /// the system does not report it.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.path().and_then(files::free_bytes)
    }

    /// The settings of the writing connection, as SQLite reads them back. Waits for the running group.
    ///
    /// # Errors
    /// The database is closed or was opened read-only, or SQLite's own error.
    pub fn pragmas(&self) -> Result<Pragmas, StorageError> {
        let core = self.core();
        core.with_writing_connection(|conn| {
            Ok(connect::read_back(conn, *core.current_durability.lock())?)
        })
    }

    /// The version of the bundled SQLite.
    #[must_use]
    pub fn sqlite_version() -> &'static str {
        rusqlite::version()
    }

    /// Fault injection, for tests.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.inner.core))
    }

    fn core(&self) -> &Core {
        &self.inner.core
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Inner {
    fn close(&self) -> Result<(), StorageError> {
        let core = &self.core;
        core.mark_closed();
        core.queue.close();
        // Otherwise the writer thread closes it.
        if !core.writable || core.writer_panic().is_some() {
            core.pool.close();
        }
        // The thread cannot join itself: it ends after the callback that is running returns.
        if core.on_writer_thread() {
            return Ok(());
        }
        // Locked while joining, so that a second `close` returns only when the first has finished.
        let mut thread = self.thread.lock();
        match thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => {
                tracing::error!("the writer thread panicked");
                Err(StorageError::Closed)
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, class = ?error.class(), "closed without a final fsync");
        }
    }
}
