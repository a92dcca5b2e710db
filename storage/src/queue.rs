//! The bounded queue in front of the writer thread, and the type of its jobs.

use std::any::Any;
use std::collections::VecDeque;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rusqlite::Transaction;

use crate::durability::{CommitNumber, Committed, Durability};
use crate::error::{FailureClass, StorageError, WriteError};
use crate::options::GROUP_JOBS;

/// How the job itself ended.
pub(crate) enum Ran {
    /// It succeeded and is to be committed.
    Well,
    /// It failed or panicked: roll it back.
    Badly(FailureClass),
}

/// How the group's transaction ended.
#[derive(Clone)]
pub(crate) enum Fate {
    Committed(CommitNumber),
    Lost(Arc<StorageError>),
    Closed,
}

/// A queued job with its types erased. Call `run` at most once, then `finish`.
pub(crate) trait Job: Send {
    fn durability(&self) -> Durability;
    /// Runs it inside its savepoint. Never unwinds.
    fn run(&mut self, tx: &Transaction<'_>) -> Ran;
    /// Delivers the result to the submitter. Never unwinds.
    fn finish(self: Box<Self>, fate: Fate);
}

/// The typed job behind [`Job`].
pub(crate) struct Typed<T, E, J, D> {
    durability: Durability,
    job: Option<J>,
    done: D,
    result: Option<Result<T, WriteError<E>>>,
}

impl<T, E, J, D> Typed<T, E, J, D>
where
    T: Send + 'static,
    E: Error + Send + 'static,
    J: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    D: FnOnce(Result<Committed<T>, WriteError<E>>) + Send + 'static,
{
    pub(crate) fn boxed(durability: Durability, job: J, done: D) -> Box<dyn Job> {
        Box::new(Self { durability, job: Some(job), done, result: None })
    }
}

impl<T, E, J, D> Job for Typed<T, E, J, D>
where
    T: Send + 'static,
    E: Error + Send + 'static,
    J: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    D: FnOnce(Result<Committed<T>, WriteError<E>>) + Send + 'static,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&mut self, tx: &Transaction<'_>) -> Ran {
        let Some(job) = self.job.take() else {
            return Ran::Badly(FailureClass::Other);
        };
        // Unwind safety: the writer rolls back the job's changes to the database, and everything that
        // the job owned is dropped with it.
        let result = match catch_unwind(AssertUnwindSafe(|| job(tx))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(WriteError::Job(error)),
            Err(payload) => Err(WriteError::Panicked(message(payload.as_ref()))),
        };
        let ran = match &result {
            Ok(_) => Ran::Well,
            Err(error) => Ran::Badly(error.class()),
        };
        self.result = Some(result);
        ran
    }

    fn finish(self: Box<Self>, fate: Fate) {
        let Self { done, result, .. } = *self;
        let result = match (result, fate) {
            // The job's own error is more precise than the group's.
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Fate::Committed(number)) => Ok(Committed { value, number }),
            // Unreachable: a job that did not run is not committed. Reported as lost all the same.
            (None, Fate::Committed(_)) | (_, Fate::Closed) => Err(WriteError::Closed),
            (_, Fate::Lost(error)) => Err(WriteError::Commit(error)),
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| done(result))) {
            tracing::error!(panic = message(payload.as_ref()), "the callback of a write panicked");
        }
    }
}

/// The message of a panic.
pub(crate) fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// The writer thread's next step.
pub(crate) enum Next {
    /// At least one job is queued.
    Jobs,
    /// No job arrived before the deadline.
    Idle,
    /// The queue is closed and empty.
    Finished,
}

/// A first-in, first-out queue of limited length.
pub(crate) struct Queue {
    limit: usize,
    state: Mutex<State>,
    filled: Condvar,
    taken: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<dyn Job>>,
    closing: bool,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            state: Mutex::default(),
            filled: Condvar::new(),
            taken: Condvar::new(),
        }
    }

    /// Adds a job, waiting for room if `may_wait`; returns the job if the queue is closed.
    pub(crate) fn push(&self, job: Box<dyn Job>, may_wait: bool) -> Result<(), Box<dyn Job>> {
        let mut state = self.state.lock();
        while may_wait && !state.closing && state.jobs.len() >= self.limit {
            self.taken.wait(&mut state);
        }
        if state.closing {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for a job, the deadline or the close of the queue.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Next {
        let mut state = self.state.lock();
        loop {
            if !state.jobs.is_empty() {
                return Next::Jobs;
            }
            if state.closing {
                return Next::Finished;
            }
            match deadline {
                None => self.filled.wait(&mut state),
                Some(deadline) if Instant::now() >= deadline => return Next::Idle,
                Some(deadline) => {
                    self.filled.wait_until(&mut state, deadline);
                }
            }
        }
    }

    /// Whether the next group would contain a job with full durability.
    pub(crate) fn next_group_is_full(&self) -> bool {
        let state = self.state.lock();
        let mut group = state.jobs.iter().take(GROUP_JOBS);
        group.any(|job| job.durability() == Durability::Full)
    }

    /// Takes the next job, if its durability fits into a group of `group`'s.
    pub(crate) fn pop(&self, group: Durability) -> Option<Box<dyn Job>> {
        let mut state = self.state.lock();
        let next = state.jobs.front()?;
        if group == Durability::Relaxed && next.durability() == Durability::Full {
            return None;
        }
        let job = state.jobs.pop_front();
        self.taken.notify_one();
        job
    }

    /// Refuses new jobs, including those that wait for room.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.filled.notify_all();
        self.taken.notify_all();
    }
}
