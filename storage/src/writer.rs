//! The writer thread: takes queued jobs, runs them as one transaction, commits, and delivers the
//! results.
//!
//! A group is a transaction with one savepoint per job. Results are delivered after the commit, in the
//! order in which the jobs were submitted. SQLite may roll back the whole transaction during a
//! statement, for example on a full disk. Then the savepoints are gone, the group ends there, and every
//! job in it fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::connect;
use crate::durability::Durability;
use crate::error::{FailureClass, StorageError};
use crate::lock::Lock;
use crate::options::{CHECKPOINT_PAGES, GROUP_JOBS, GROUP_TIME};
use crate::queue::{Fate, Job, Next, Ran, message};
use crate::schema;
use crate::shared::Core;

/// The thread's own state.
pub(crate) struct Writer {
    core: Arc<Core>,
    /// Released only after the connection is closed.
    lock: Option<Lock>,
    /// The time by which the oldest relaxed commit must be fsynced.
    sync_by: Option<Instant>,
    /// The time of the next check of the files, if nothing is written until then.
    look_at: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>, lock: Option<Lock>) -> Self {
        let look_at = next_look(&core);
        Self { core, lock, sync_by: None, look_at }
    }

    /// Runs until the queue is closed and empty; returns the result of closing.
    pub(crate) fn run(mut self, started: impl FnOnce(ThreadId)) -> Result<(), StorageError> {
        started(thread::current().id());
        let mut ran = Vec::new();
        // Unwind safety: of the state that `serve` may have left inconsistent, only `ran` and the
        // connection are used afterwards: `ran` to fail its jobs, the connection to be closed.
        match catch_unwind(AssertUnwindSafe(|| self.serve(&mut ran))) {
            Ok(()) => self.shut_down(),
            Err(payload) => Err(self.give_up(message(payload.as_ref()), ran)),
        }
    }

    /// Runs groups until the queue is closed and empty. `ran` holds the jobs of the running group.
    fn serve(&mut self, ran: &mut Vec<Box<dyn Job>>) {
        loop {
            let until = [self.sync_by, self.look_at].into_iter().flatten().min();
            match self.core.queue.wait(until) {
                Next::Jobs => self.run_group(ran),
                Next::Idle if self.sync_by.is_some_and(|by| Instant::now() >= by) => {
                    self.sync_alone();
                }
                Next::Idle => self.look(),
                Next::Finished => return,
            }
        }
    }

    /// Handles a panic of this thread's own code: stops writing and fails every job. The next opening
    /// finds everything that was committed.
    fn give_up(mut self, panic: String, ran: Vec<Box<dyn Job>>) -> StorageError {
        tracing::error!(panic, "the writer thread panicked; the database accepts no more writes");
        let error = || StorageError::WriterPanicked { panic: panic.clone() };
        self.core.writer_panicked(error());
        self.core.queue.close();
        let waiting = std::iter::from_fn(|| self.core.queue.pop(Durability::Full));
        let lost = Fate::Lost(Arc::new(error()));
        ran.into_iter().chain(waiting).for_each(|job| job.finish(lost.clone()));
        if let Some(conn) = self.core.take_writing_connection() {
            // The next opening recovers from the WAL, as after a crash of the process.
            leave_files(&conn);
            if let Err((_, error)) = conn.close() {
                tracing::warn!(%error, "the writing connection did not close cleanly");
            }
        }
        self.lock = None;
        error()
    }

    /// Checks the files of an idle database. A file once gone stays gone, and the checks stop.
    fn look(&mut self) {
        // `look_closely` itself logs and announces a file that is gone.
        let looked = self.core.watch.look_closely();
        self.look_at = next_look(&self.core).filter(|_| looked.is_ok());
    }

    fn run_group(&mut self, ran: &mut Vec<Box<dyn Job>>) {
        let core = Arc::clone(&self.core);
        let overdue = self.sync_by.is_some_and(|by| Instant::now() >= by);
        let durability = if overdue || core.queue.next_group_is_full() {
            Durability::Full
        } else {
            Durability::Relaxed
        };
        let outcome = {
            let mut conn = core.enter_group();
            let outcome = match (core.fsync_failure(), conn.as_mut()) {
                (Some(failed), _) => Err(StorageError::FsyncFailed(Arc::clone(failed))),
                (None, Some(conn)) => self.transact(conn, durability, ran),
                (None, None) => Err(StorageError::Closed),
            };
            core.leave_group(conn);
            outcome
        };
        let synced_before = core.progress.synced();
        let fate = self.settle(outcome, durability, ran);
        for job in ran.drain(..) {
            job.finish(fate.clone());
        }
        if core.progress.synced() > synced_before {
            core.progress.announce();
        }
        // After the results, which do not depend on the checkpoint.
        self.checkpoint_if_due();
    }

    /// Runs the queued jobs in one transaction. `Ok(false)` if no job had anything to commit.
    fn transact(
        &self,
        conn: &Connection,
        durability: Durability,
        ran: &mut Vec<Box<dyn Job>>,
    ) -> Result<bool, StorageError> {
        let result = self.core.watch.look_closely().and_then(|()| {
            self.core.use_durability(conn, durability)?;
            let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            if self.run_jobs(&tx, durability, ran)? == 0 {
                tx.rollback()?;
                return Ok(false);
            }
            // SQLite commits a group without writes without an fsync, and the relaxed commits before it
            // would stay unsynced. So the group writes a row.
            if durability == Durability::Full && self.core.progress.outstanding() {
                schema::touch(&tx)?;
            }
            self.core.faults.before_commit()?;
            tx.commit()?;
            // A commit into a file that is gone does not count.
            self.core.watch.look_closely()?;
            Ok(true)
        });
        leave_no_transaction(conn);
        // A file that is gone causes many kinds of errors; `Gone` is the useful one.
        result.or_else(|error| self.core.watch.look().and(Err(error)))
    }

    /// Runs jobs until the queue is empty or the group is large enough; returns how many are to be
    /// committed.
    fn run_jobs(
        &self,
        tx: &Transaction<'_>,
        durability: Durability,
        ran: &mut Vec<Box<dyn Job>>,
    ) -> Result<usize, StorageError> {
        let began = Instant::now();
        let mut kept = 0;
        while ran.len() < GROUP_JOBS && (ran.is_empty() || began.elapsed() < GROUP_TIME) {
            let Some(mut job) = self.core.queue.pop(durability) else { break };
            self.core.faults.jobs.fetch_add(1, Ordering::Relaxed);
            let outcome = run_in_savepoint(tx, job.as_mut());
            ran.push(job);
            kept += usize::from(outcome?);
        }
        Ok(kept)
    }

    /// Advances the watermarks, and returns the outcome for the group's jobs.
    fn settle(
        &mut self,
        outcome: Result<bool, StorageError>,
        durability: Durability,
        ran: &mut Vec<Box<dyn Job>>,
    ) -> Fate {
        let core = &self.core;
        match outcome {
            Ok(true) => {
                let full = durability == Durability::Full;
                core.faults.commits.fetch_add(1, Ordering::Relaxed);
                core.faults.full_commits.fetch_add(u64::from(full), Ordering::Relaxed);
                // In memory no fsync makes a commit safer, so it counts as synced.
                let synced = full || core.in_memory();
                let number = core.progress.advance(synced);
                self.sync_by = match self.sync_by {
                    _ if synced => None,
                    Some(by) => Some(by),
                    None => Some(self.sync_time()),
                };
                Fate::Committed(number)
            }
            // Every job failed, and returns its own error.
            Ok(false) => Fate::Committed(core.progress.committed()),
            Err(error) => {
                // A transaction that could not begin has taken no job yet. It fails the jobs that it
                // would have taken, because with a broken disk they would otherwise wait for ever.
                if ran.is_empty() {
                    let waiting = std::iter::from_fn(|| core.queue.pop(Durability::Full));
                    ran.extend(waiting.take(GROUP_JOBS));
                }
                tracing::warn!(%error, class = ?error.class(), jobs = ran.len(), "a group of writes failed");
                let error = Arc::new(error);
                core.note_failure(&error);
                Fate::Lost(error)
            }
        }
    }

    /// Makes relaxed commits durable if no full commit did so in time.
    fn sync_alone(&mut self) {
        match self.sync_now() {
            Ok(()) => {
                self.sync_by = None;
                self.core.progress.announce();
            }
            // The commits are lost with the file.
            Err(StorageError::Gone(_)) => self.sync_by = None,
            Err(error) => {
                tracing::warn!(%error, class = ?error.class(), "cannot fsync relaxed commits yet");
                self.core.note_failure(&Arc::new(error));
                // A failed fsync is final: a retry would succeed without the pages that the system
                // dropped.
                let again = self.core.fsync_failure().is_none();
                let at = self.sync_time().max(Instant::now() + SYNC_RETRY);
                self.sync_by = again.then_some(at);
            }
        }
    }

    fn sync_now(&self) -> Result<(), StorageError> {
        if let Some(failed) = self.core.fsync_failure() {
            return Err(StorageError::FsyncFailed(Arc::clone(failed)));
        }
        let mut guard = self.core.enter_group();
        let result = match guard.as_mut() {
            Some(conn) => self.sync_on(conn),
            None => Err(StorageError::Closed),
        };
        self.core.leave_group(guard);
        result
    }

    fn sync_on(&self, conn: &Connection) -> Result<(), StorageError> {
        let result = self.core.watch.look_closely().and_then(|()| {
            self.core.use_durability(conn, Durability::Full)?;
            let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            schema::touch(&tx)?;
            self.core.faults.before_commit()?;
            tx.commit()?;
            self.core.watch.look_closely()
        });
        leave_no_transaction(conn);
        result?;
        self.core.faults.syncs.fetch_add(1, Ordering::Relaxed);
        self.core.progress.all_synced();
        Ok(())
    }

    fn sync_time(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.core.options.sync_idle).unwrap_or_else(|| now + A_LONG_TIME)
    }

    /// Checkpoints the WAL once it is long enough. SQLite would do that by itself, but does not report
    /// a failed fsync.
    fn checkpoint_if_due(&self) {
        if self.core.in_memory() || self.core.fsync_failure().is_some() {
            return;
        }
        let guard = self.core.enter_group();
        let result = guard.as_ref().map_or(Ok(()), |conn| self.checkpoint_on(conn));
        self.core.leave_group(guard);
        if let Err(error) = result {
            // The frames stay in the WAL, and the next commit tries again.
            tracing::debug!(%error, "cannot checkpoint the WAL");
            self.core.note_failure(&Arc::new(error));
        }
    }

    fn checkpoint_on(&self, conn: &Connection) -> Result<(), StorageError> {
        let pages = |mode: &str| {
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            conn.prepare_cached(&sql)?.query_row([], |row| row.get::<_, i64>(1))
        };
        // NOOP only reports the length of the WAL.
        if pages("NOOP")? < CHECKPOINT_PAGES {
            return Ok(());
        }
        self.core.watch.look_closely()?;
        self.core.faults.before_checkpoint()?;
        let moved = pages("PASSIVE");
        // A checkpoint that fails may also have written pages.
        self.core.watch.look_after_checkpoint()?;
        Ok(moved.map(drop)?)
    }

    /// Makes everything durable, checkpoints the WAL and releases the file.
    fn shut_down(mut self) -> Result<(), StorageError> {
        let synced = match (self.core.fsync_failure(), self.core.progress.outstanding()) {
            (None, false) => Ok(()),
            _ => self.sync_now(),
        };
        let there = self.core.watch.look_closely();
        self.core.pool.close();
        if let Some(conn) = self.core.take_writing_connection() {
            // After a failed fsync the WAL is the only good copy, and the path of a file that is gone
            // may belong to another file: neither is written.
            let settled = self.core.in_memory()
                || there.is_ok() && !synced.as_ref().is_err_and(is_fsync) && truncate_wal(&conn);
            if !settled {
                leave_files(&conn);
            }
            // All statements are cached ones, and `close` drops those first.
            if let Err((_, error)) = conn.close() {
                tracing::warn!(%error, "the writing connection did not close cleanly");
            }
        }
        self.lock = None;
        let closed = there.and(synced);
        if closed.is_ok() {
            self.core.progress.announce();
        }
        closed
    }
}

fn next_look(core: &Core) -> Option<Instant> {
    if core.in_memory() {
        return None;
    }
    Instant::now().checked_add(core.options.look_at_files)
}

/// Pause after a failed sync, so that a broken disk does not keep the thread busy.
const SYNC_RETRY: Duration = Duration::from_millis(100);

/// Replaces a time that the clock cannot represent.
const A_LONG_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Runs one job in a savepoint, so that it can be rolled back alone. `Ok(true)` if it is to be
/// committed; an error means that the whole group is lost.
fn run_in_savepoint(tx: &Transaction<'_>, job: &mut dyn Job) -> Result<bool, StorageError> {
    tx.prepare_cached("SAVEPOINT landfall_job")?.execute([])?;
    let ran = job.run(tx);
    if tx.is_autocommit() {
        let class = match ran {
            Ran::Badly(class) => class,
            // The job ignored the error that ended the transaction, or ended the transaction itself.
            Ran::Well => FailureClass::Other,
        };
        return Err(StorageError::RolledBack { class });
    }
    if let Ran::Badly(_) = ran {
        tx.prepare_cached("ROLLBACK TO landfall_job")?.execute([])?;
    }
    tx.prepare_cached("RELEASE landfall_job")?.execute([])?;
    Ok(matches!(ran, Ran::Well))
}

/// A failed COMMIT may leave its transaction open, and the next group must not find one.
fn leave_no_transaction(conn: &Connection) {
    if !conn.is_autocommit()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "cannot roll back a failed transaction");
    }
}

/// After a failed fsync the WAL must be read from its start, with its checksums, as the next opening
/// does: a checkpoint trusts an index in memory, and would copy whatever the disk returns.
fn leave_files(conn: &Connection) {
    if let Err(error) = connect::leave_files(conn) {
        tracing::error!(%error, "closing may checkpoint or remove the WAL");
    }
}

fn is_fsync(error: &StorageError) -> bool {
    error.class() == FailureClass::FsyncFailed
}

/// Empties the WAL, best effort: the next opening reads what stays in it. Does not wait for readers of
/// other processes. `false` if an fsync failed.
fn truncate_wal(conn: &Connection) -> bool {
    let result = conn.busy_timeout(Duration::ZERO).and_then(|()| {
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
    });
    match result {
        Ok(0) => {}
        Ok(_) => tracing::debug!("a reader is active; the WAL stays"),
        Err(error) => {
            tracing::debug!(%error, "cannot empty the WAL");
            return FailureClass::of(&error) != FailureClass::FsyncFailed;
        }
    }
    true
}

impl Core {
    /// Sets `synchronous` only when it changes, because it costs a statement before the group.
    fn use_durability(&self, conn: &Connection, wanted: Durability) -> Result<(), StorageError> {
        let mut current = self.current_durability.lock();
        if *current != wanted {
            connect::set_durability(conn, wanted)?;
            *current = wanted;
        }
        Ok(())
    }
}
