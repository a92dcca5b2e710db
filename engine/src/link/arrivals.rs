//! The queue between the link and the store: received entries in their order, on a thread of their own
//! if they have to be opened first. Opening a snapshot costs as much as loading a document, and the
//! link's thread must answer pings meanwhile.
//!
//! A job that panics is dropped, which reports a failed outcome to the machine and ends the session
//! (`perform::PendingReply`). The thread continues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::threads::{StoreThread, Threads};

type Job = Box<dyn FnOnce() + Send>;

/// The queue before the store.
pub(super) struct Arrivals {
    /// `None` once closed.
    queue: Option<mpsc::Sender<(u64, Job)>>,
    thread: Option<JoinHandle<()>>,
    waiting: Arc<AtomicUsize>,
    threads: Arc<Threads>,
    /// The number of the present connection. Locked while a job is passed to the store: entries of an
    /// earlier connection must not be written into the acked ranges of the present relay.
    connection: Arc<Mutex<u64>>,
}

/// Passes jobs to the store if their connection is the present one.
#[derive(Clone)]
pub(super) struct Gate {
    connection: u64,
    present: Arc<Mutex<u64>>,
}

impl Gate {
    /// Calls `submit` if the connection is the present one.
    pub(super) fn pass(&self, submit: impl FnOnce()) {
        let present = self.present.lock();
        if *present == self.connection {
            submit();
        }
    }
}

impl Arrivals {
    /// Starts the thread. It ends when this is dropped and the queue is empty.
    pub(super) fn start(threads: Arc<Threads>) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel::<(u64, Job)>();
        let (waiting, connection) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
        let (for_thread, present) = (Arc::clone(&waiting), Arc::clone(&connection));
        let containing = Arc::clone(&threads);
        let thread = std::thread::Builder::new().name("landfall-arrivals".to_owned());
        let thread = thread.spawn(move || {
            while let Ok((connection, job)) = jobs.recv() {
                if *present.lock() == connection {
                    contained(&containing, job);
                }
                for_thread.fetch_sub(1, Ordering::AcqRel);
            }
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), waiting, threads, connection })
    }

    /// Ends the thread, and waits for the snapshot that it is opening.
    pub(super) fn close(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported the thread's panic.
            let _ = thread.join();
        }
    }

    /// A new connection begins: jobs of earlier ones are dropped.
    pub(super) fn begin(&self, connection: u64) {
        *self.connection.lock() = connection;
    }

    pub(super) fn gate(&self, connection: u64) -> Gate {
        Gate { connection, present: Arc::clone(&self.connection) }
    }

    /// Runs a job in its turn: at once on this thread, if the queue is empty and the job is `short`.
    pub(super) fn run(&self, connection: u64, short: bool, job: impl FnOnce() + Send + 'static) {
        if short && self.waiting.load(Ordering::Acquire) == 0 {
            return contained(&self.threads, job);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if let Some(queue) = &self.queue {
            // The thread lives as long as the queue.
            let _ = queue.send((connection, Box::new(job)));
        }
    }
}

/// A link that panicked leaves jobs behind: none of them may reach the store any more.
impl Drop for Arrivals {
    fn drop(&mut self) {
        self.begin(u64::MAX);
    }
}

fn contained(threads: &Threads, job: impl FnOnce()) {
    // The status shows the panic, and so does the job's outcome.
    let _ = threads.contain(StoreThread::Arrivals, || {
        threads.pass(StoreThread::Arrivals);
        job();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_keep_their_order_and_end_with_their_connection() {
        let arrivals = Arrivals::start(Arc::default()).unwrap();
        arrivals.begin(1);
        let (sender, receiver) = mpsc::channel();
        let (open, hold) = mpsc::channel::<()>();
        let first = sender.clone();
        arrivals.run(1, false, move || {
            hold.recv().unwrap();
            first.send(1).unwrap();
        });
        let second = sender.clone();
        arrivals.run(1, true, move || second.send(2).unwrap());
        assert!(receiver.try_recv().is_err(), "the second waits for the first");
        open.send(()).unwrap();
        assert_eq!((receiver.recv().unwrap(), receiver.recv().unwrap()), (1, 2));
        arrivals.begin(2);
        let stale = sender.clone();
        arrivals.run(1, false, move || stale.send(3).unwrap());
        arrivals.run(2, false, move || sender.send(4).unwrap());
        assert_eq!(receiver.recv().unwrap(), 4, "the batches of the first connection are dropped");
        let gate = arrivals.gate(1);
        gate.pass(|| panic!("not the present connection"));
    }
}
