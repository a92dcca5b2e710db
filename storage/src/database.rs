//! The handle: what callers hold, and what it shares with the writer thread.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle, ThreadId};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, Transaction};

use crate::backup::{self, BackupError};
use crate::connect::{self, Pragmas};
use crate::durability::{CommitNumber, Committed, Durability, Progress};
use crate::error::{FailureClass, OpenError, ReadError, StorageError, WriteError};
use crate::faults::{FaultState, Faults};
use crate::files;
use crate::identity::{FileWatch, GoneFile};
use crate::lock::Lock;
use crate::open::{self, Opened};
use crate::options::Options;
use crate::queue::{Fate, Queue, Typed};
use crate::read::{Pool, Reader};
use crate::schema::{Schema, pragma_i64};
use crate::wal::WalDamage;
use crate::writer::Writer;

/// An open database. Clones are cheap and share one writer thread; the last one to go closes it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

/// What the handles share with each other, and not with the thread: its drop is the end.
struct Inner {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<Result<(), StorageError>>>>,
}

type OnWriterPanic = Box<dyn FnOnce(&StorageError) + Send>;

/// Where a database lives.
pub(crate) enum Place {
    File(PathBuf),
    Memory,
}

/// What the handles, the readers and the writer thread share.
pub(crate) struct Core {
    pub(crate) place: Place,
    pub(crate) options: Options,
    pub(crate) queue: Queue,
    pub(crate) pool: Pool,
    pub(crate) progress: Progress,
    pub(crate) faults: FaultState,
    /// What `synchronous` is on the writing connection now.
    pub(crate) current_durability: Mutex<Durability>,
    writable: bool,
    /// The writing connection, locked for the length of a group. None once closed.
    conn: Mutex<Option<Connection>>,
    writer_thread: OnceLock<ThreadId>,
    /// The first fsync that failed. From then on nothing is written.
    fsync_failure: OnceLock<Arc<StorageError>>,
    /// Why the writer thread ended before it was asked to.
    writer_panic: OnceLock<Arc<StorageError>>,
    on_writer_panic: Mutex<Vec<OnWriterPanic>>,
    /// Whether the writer thread has `conn` locked, for calls that would wait for themselves.
    in_group: AtomicBool,
    closed: AtomicBool,
    pub(crate) watch: FileWatch,
    wal: Option<WalDamage>,
}

impl Database {
    /// Opens a file for writing; creates it if there is none, migrates it if it is older. The
    /// folder must exist. One handle at a time, of all processes, can do this.
    ///
    /// # Errors
    /// See [`OpenError`]; a file that is refused is left as it was.
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

    /// Opens a file to read, also beside a process that writes it. Takes no lock, migrates nothing;
    /// every write gives [`WriteError::ReadOnly`].
    ///
    /// # Errors
    /// See [`OpenError`]. A file that a migration would have to change first is `TooOld`.
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

    /// Opens a new database in memory. Reads take turns with the writer, since there is only one
    /// connection; a read that writes to the same database waits for itself.
    ///
    /// # Errors
    /// See [`OpenError`]; only a schema that does not work and lack of memory or threads occur.
    pub fn open_in_memory(schema: &Schema, options: Options) -> Result<Self, OpenError> {
        let Opened { path, conn, lock, watch, .. } = open::in_memory(schema, &options)?;
        Self::start(Core::new(Place::Memory, options, Some(conn), watch), lock, &path)
    }

    fn start(core: Core, lock: Option<Lock>, path: &Path) -> Result<Self, OpenError> {
        let core = Arc::new(core);
        let shared = Arc::clone(&core);
        let run = move || {
            let writer = Writer::new(Arc::clone(&shared), lock);
            writer.run(|id| {
                let _ = shared.writer_thread.set(id);
            })
        };
        let thread = thread::Builder::new()
            .name("storage-writer".to_owned())
            .spawn(run)
            .map_err(|error| OpenError::from_storage(path, error.into()))?;
        Ok(Self { inner: Arc::new(Inner { core, thread: Mutex::new(Some(thread)) }) })
    }

    /// Runs `job` in a group of writes and waits for its commit. Blocks while the queue is full.
    ///
    /// The job gives back the first error of SQLite's that it meets, and neither begins nor ends a
    /// transaction; savepoints of its own are fine. It runs on the writer thread: keep it short.
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
        let (tell, told) = mpsc::sync_channel(1);
        self.submit(durability, job, move |result| {
            // Nobody hears it only if the waiting thread is gone.
            let _ = tell.send(result);
        });
        told.recv().unwrap_or(Err(WriteError::Closed))
    }

    /// Queues `job` as [`write`](Self::write) does and does not wait for its commit. Blocks while
    /// the queue is full, except on the writer thread.
    ///
    /// `done` is called exactly once: on the writer thread after the commit or the failure, in the
    /// order of submission; or at once on this thread if the database is closed or read-only. Keep
    /// it short, everybody waits for it. It may submit, read, and drop or close the database.
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
        // The writer thread would wait for room that only it can make.
        let may_wait = !core.on_writer_thread();
        if let Err(job) = core.queue.push(Typed::boxed(durability, job, done), may_wait) {
            job.finish(core.fate_of_refused());
        }
    }

    /// Waits until everything that is committed now is on disk; tells through which commit that is.
    ///
    /// # Errors
    /// As [`write`](Self::write). Opened read-only it is a write that is refused.
    pub fn sync(&self) -> Result<CommitNumber, WriteError<StorageError>> {
        let core = self.core();
        if core.writable && !core.is_closed() && !core.progress.outstanding() {
            return Ok(core.progress.synced());
        }
        // An empty full group: the writer gives it something to fsync.
        self.write(Durability::Full, |_| Ok(())).map(|committed| committed.number)
    }

    /// The last commit of this opening.
    #[must_use]
    pub fn committed(&self) -> CommitNumber {
        self.core().progress.committed()
    }

    /// The last commit that is on disk, with all before it.
    #[must_use]
    pub fn synced(&self) -> CommitNumber {
        self.core().progress.synced()
    }

    /// Has `callback` called on the writer thread whenever [`synced`](Self::synced) has grown, after
    /// the results of that group. It stays as long as the database; one that owns a clone of this
    /// handle would keep it open for ever.
    pub fn on_synced(&self, callback: Box<dyn Fn(CommitNumber) + Send + Sync>) {
        self.core().progress.subscribe(Arc::from(callback));
    }

    /// Looks whether the database's names still lead to its files, as it does by itself around each
    /// commit and every [`Options::look_at_files`].
    ///
    /// # Errors
    /// [`StorageError::Gone`] if they do not, or did not once before.
    pub fn look_at_files(&self) -> Result<(), StorageError> {
        self.core().watch.look()
    }

    /// Which of its files is gone, if that was noticed. Every write fails then, and nothing of what
    /// was written is known to be saved.
    #[must_use]
    pub fn gone(&self) -> Option<&GoneFile> {
        self.core().watch.gone()
    }

    /// Has `callback` called once, when a file is found to be gone, or at once if one is. It is
    /// called on the thread that noticed: keep it short.
    pub fn on_gone(&self, callback: Box<dyn FnOnce(&GoneFile) + Send>) {
        self.core().watch.on_gone(callback);
    }

    /// How the write-ahead log was damaged that was left behind when this was opened: commits are lost.
    #[must_use]
    pub fn wal_damage(&self) -> Option<&WalDamage> {
        self.core().wal.as_ref()
    }

    /// The first fsync of this opening that failed, if one did. An fsync that failed is final: the
    /// operating system may have dropped pages that it was asked to write, and a later fsync
    /// succeeds without them. So [`synced`](Self::synced) no longer grows, and every write gives
    /// [`FailureClass::FsyncFailed`](crate::FailureClass::FsyncFailed) until the database is closed
    /// and opened again. Reads go on.
    #[must_use]
    pub fn fsync_failure(&self) -> Option<Arc<StorageError>> {
        self.core().fsync_failure().cloned()
    }

    /// Has `callback` called on the writer thread, once, when an fsync fails for the first time:
    /// also one that the database does by itself, beside all writes. Subscribe right after opening: a
    /// failure before that is in [`fsync_failure`](Self::fsync_failure) only.
    pub fn on_fsync_failed(&self, callback: Box<dyn Fn(&StorageError) + Send + Sync>) {
        self.core().progress.subscribe_to_failure(Arc::from(callback));
    }

    /// Why the writer thread ended before it was asked to: a bug of this crate. Every write fails with
    /// [`FailureClass::Panicked`](crate::FailureClass::Panicked) from then on, until the database is
    /// opened again. Reads go on.
    #[must_use]
    pub fn writer_panic(&self) -> Option<Arc<StorageError>> {
        self.core().writer_panic.get().cloned()
    }

    /// Has `callback` called when the writer thread panics, on that thread and before any write is told
    /// of it; or at once if it has.
    pub fn on_writer_panicked(&self, callback: Box<dyn FnOnce(&StorageError) + Send>) {
        let mut waiting = self.core().on_writer_panic.lock();
        match self.core().writer_panic.get() {
            Some(error) => {
                drop(waiting);
                callback(error);
            }
            None => waiting.push(callback),
        }
    }

    /// Reads in one snapshot on a pooled connection; waits while all are in use.
    ///
    /// # Errors
    /// [`ReadError::Query`] with the closure's own error, [`ReadError::Connection`] otherwise.
    pub fn read<T, E>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, ReadError<E>> {
        self.core().read(query)
    }

    /// Opens a read connection of its own, beyond the pool's limit.
    ///
    /// # Errors
    /// Closed, or SQLite's own.
    pub fn open_reader(&self) -> Result<Reader, StorageError> {
        Reader::open(&self.inner.core)
    }

    /// Copies one snapshot of the database to a new file, while it is in use. The copy is fsynced
    /// and checked, and has `target`'s name only then. Row ids of tables without an
    /// `INTEGER PRIMARY KEY` may change in it.
    ///
    /// # Errors
    /// See [`BackupError`]; nothing is left at the target then.
    pub fn backup_to(&self, target: impl AsRef<Path>) -> Result<(), BackupError> {
        self.core().backup_to(target.as_ref())
    }

    /// Copies a file of `schema` as [`backup_to`](Self::backup_to) does: also beside a process that
    /// writes it, and one of an earlier version as it is. Gives that version.
    ///
    /// # Errors
    /// See [`BackupError`]; nothing is left at the target then.
    pub fn copy_file(
        source: impl AsRef<Path>,
        target: impl AsRef<Path>,
        schema: &Schema,
        options: &Options,
    ) -> Result<u32, BackupError> {
        backup::copy_file(source.as_ref(), target.as_ref(), schema, options)
    }

    /// Takes no more writes, finishes those that are queued, makes everything durable, tidies the
    /// WAL away and lets the file go. Called again it does nothing. On the writer thread (in a
    /// `done`) it only starts all this and does not wait. The drop of the last clone does the same.
    ///
    /// # Errors
    /// The last sync failed: relaxed commits may not be on disk. The file is let go all the same.
    pub fn close(&self) -> Result<(), StorageError> {
        self.inner.close()
    }

    /// The file, without links; `None` in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.core().place {
            Place::File(path) => Some(path),
            Place::Memory => None,
        }
    }

    /// Bytes that the database takes, its WAL included.
    ///
    /// # Errors
    /// The file system's, or SQLite's own in memory.
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

    /// Bytes that this process's user may still write where the file is; `None` in memory, and where
    /// the system does not say.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.path().and_then(files::free_bytes)
    }

    /// The settings of the writing connection, as SQLite reads them back. Waits for the group that
    /// runs.
    ///
    /// # Errors
    /// Closed, opened read-only, or SQLite's own.
    pub fn pragmas(&self) -> Result<Pragmas, StorageError> {
        let core = self.core();
        core.with_writing_connection(|conn| {
            Ok(connect::read_back(conn, *core.current_durability.lock())?)
        })
    }

    /// The version of the SQLite that is built in.
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
        core.closed.store(true, Ordering::Release);
        core.queue.close();
        // Else the writer thread closes it.
        if !core.writable || core.writer_panic.get().is_some() {
            core.pool.close();
        }
        // The thread cannot wait for itself: it ends once it has left the callback that it is in.
        if core.on_writer_thread() {
            return Ok(());
        }
        // Locked while joining, so that a second closer comes back only when it is done.
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
            tracing::warn!(%error, class = ?error.class(), "closed without a last sync");
        }
    }
}

impl Core {
    fn new(place: Place, options: Options, conn: Option<Connection>, watch: FileWatch) -> Self {
        Self {
            place,
            queue: Queue::new(options.queue),
            pool: Pool::new(options.readers),
            progress: Progress::default(),
            watch,
            wal: None,
            faults: FaultState::default(),
            current_durability: Mutex::new(Durability::Full),
            writable: conn.is_some(),
            conn: Mutex::new(conn),
            writer_thread: OnceLock::new(),
            fsync_failure: OnceLock::new(),
            writer_panic: OnceLock::new(),
            on_writer_panic: Mutex::default(),
            in_group: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            options,
        }
    }

    pub(crate) fn in_memory(&self) -> bool {
        matches!(self.place, Place::Memory)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn fsync_failure(&self) -> Option<&Arc<StorageError>> {
        self.fsync_failure.get()
    }

    /// Notes that the writer thread ends by a panic. It is called on that thread.
    pub(crate) fn writer_panicked(&self, error: StorageError) {
        let error = Arc::new(error);
        // It ends once.
        let _ = self.writer_panic.set(Arc::clone(&error));
        self.in_group.store(false, Ordering::Relaxed);
        let waiting = std::mem::take(&mut *self.on_writer_panic.lock());
        for tell in waiting {
            if catch_unwind(AssertUnwindSafe(|| tell(&error))).is_err() {
                tracing::error!("a callback for the writer thread's end panicked");
            }
        }
    }

    /// What a job is told that the queue does not take.
    fn fate_of_refused(&self) -> Fate {
        match self.writer_panic.get().filter(|_| !self.is_closed()) {
            Some(error) => Fate::Lost(Arc::clone(error)),
            None => Fate::Closed,
        }
    }

    /// Notes an error if it is a failed fsync. Only the first one counts.
    pub(crate) fn note_failure(&self, error: &Arc<StorageError>) {
        let is_new = error.class() == FailureClass::FsyncFailed
            && self.fsync_failure.set(Arc::clone(error)).is_ok();
        if is_new {
            tracing::error!(
                %error,
                "an fsync failed; nothing more is written until the database is opened again"
            );
            self.progress.announce_failure(error);
        }
    }

    fn on_writer_thread(&self) -> bool {
        self.writer_thread.get() == Some(&thread::current().id())
    }

    /// Runs something on the writing connection between two groups, on the calling thread.
    pub(crate) fn with_writing_connection<T>(
        &self,
        run: impl FnOnce(&Connection) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if !self.writable {
            return Err(StorageError::ReadOnly);
        }
        if self.on_writer_thread() && self.in_group.load(Ordering::Relaxed) {
            return Err(StorageError::WouldDeadlock);
        }
        run(self.conn.lock().as_ref().ok_or(StorageError::Closed)?)
    }

    pub(crate) fn enter_group(&self) -> MutexGuard<'_, Option<Connection>> {
        let conn = self.conn.lock();
        self.in_group.store(true, Ordering::Relaxed);
        conn
    }

    pub(crate) fn leave_group(&self, conn: MutexGuard<'_, Option<Connection>>) {
        self.in_group.store(false, Ordering::Relaxed);
        // Fair, so that in memory a busy writer lets those read who wait.
        MutexGuard::unlock_fair(conn);
    }

    pub(crate) fn take_writing_connection(&self) -> Option<Connection> {
        self.conn.lock().take()
    }
}
