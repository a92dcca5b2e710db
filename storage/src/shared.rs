//! The state that the handles of a database, its readers and its writer thread share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;

use crate::durability::{Durability, Progress};
use crate::error::{FailureClass, StorageError};
use crate::fault_state::FaultState;
use crate::identity::FileWatch;
use crate::options::Options;
use crate::pool::Pool;
use crate::queue::{Fate, Queue};
use crate::wal::WalDamage;

type OnWriterPanic = Box<dyn FnOnce(&StorageError) + Send>;

/// Where the database is stored.
pub(crate) enum Place {
    File(PathBuf),
    Memory,
}

/// State shared by the handles, the readers and the writer thread.
pub(crate) struct Core {
    pub(crate) place: Place,
    pub(crate) options: Options,
    pub(crate) queue: Queue,
    pub(crate) pool: Pool,
    pub(crate) progress: Progress,
    pub(crate) faults: FaultState,
    /// The current `synchronous` setting of the writing connection.
    pub(crate) current_durability: Mutex<Durability>,
    pub(crate) writable: bool,
    /// The writing connection, locked while a group runs. `None` once closed.
    conn: Mutex<Option<Connection>>,
    writer_thread: OnceLock<ThreadId>,
    /// The first fsync that failed. After it the database refuses every write.
    fsync_failure: OnceLock<Arc<StorageError>>,
    /// Set if the writer thread panicked.
    writer_panic: OnceLock<Arc<StorageError>>,
    on_writer_panic: Mutex<Vec<OnWriterPanic>>,
    /// Whether the writer thread holds the lock on `conn`. Calls that need it fail on that thread
    /// instead of deadlocking.
    in_group: AtomicBool,
    closed: AtomicBool,
    pub(crate) watch: FileWatch,
    pub(crate) wal: Option<WalDamage>,
}

impl Core {
    pub(crate) fn new(
        place: Place,
        options: Options,
        conn: Option<Connection>,
        watch: FileWatch,
    ) -> Self {
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

    pub(crate) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn fsync_failure(&self) -> Option<&Arc<StorageError>> {
        self.fsync_failure.get()
    }

    pub(crate) fn writer_panic(&self) -> Option<&Arc<StorageError>> {
        self.writer_panic.get()
    }

    /// Records the thread that writes. Called once, on that thread.
    pub(crate) fn writer_started(&self, id: ThreadId) {
        let _ = self.writer_thread.set(id);
    }

    /// Registers a callback for a panic of the writer thread. Called at once if it has panicked.
    pub(crate) fn on_writer_panicked(&self, callback: OnWriterPanic) {
        let mut waiting = self.on_writer_panic.lock();
        match self.writer_panic.get() {
            Some(error) => {
                drop(waiting);
                callback(error);
            }
            None => waiting.push(callback),
        }
    }

    /// Records that the writer thread panicked. Called on that thread.
    pub(crate) fn writer_panicked(&self, error: StorageError) {
        let error = Arc::new(error);
        // The thread ends only once, so the cell is still empty.
        let _ = self.writer_panic.set(Arc::clone(&error));
        self.in_group.store(false, Ordering::Relaxed);
        let waiting = std::mem::take(&mut *self.on_writer_panic.lock());
        for tell in waiting {
            if catch_unwind(AssertUnwindSafe(|| tell(&error))).is_err() {
                tracing::error!("a callback for the writer thread's end panicked");
            }
        }
    }

    /// The result for a job that the closed queue rejects.
    pub(crate) fn fate_of_refused(&self) -> Fate {
        match self.writer_panic.get().filter(|_| !self.is_closed()) {
            Some(error) => Fate::Lost(Arc::clone(error)),
            None => Fate::Closed,
        }
    }

    /// Records `error` if it is a failed fsync; only the first one is kept.
    pub(crate) fn note_failure(&self, error: &Arc<StorageError>) {
        let is_new = error.class() == FailureClass::FsyncFailed
            && self.fsync_failure.set(Arc::clone(error)).is_ok();
        if is_new {
            tracing::error!(
                %error,
                "an fsync failed; the database accepts no more writes until it is opened again"
            );
            self.progress.announce_failure(error);
        }
    }

    pub(crate) fn on_writer_thread(&self) -> bool {
        self.writer_thread.get() == Some(&thread::current().id())
    }

    /// Runs `run` on the writing connection between two groups, on the calling thread.
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
        // Fair, so that in memory waiting readers get their turn between the groups of a busy writer.
        MutexGuard::unlock_fair(conn);
    }

    pub(crate) fn take_writing_connection(&self) -> Option<Connection> {
        self.conn.lock().take()
    }
}
