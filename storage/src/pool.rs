//! A pool of connections that cannot write.

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use crate::error::StorageError;

/// A pool of read connections.
pub(crate) struct Pool {
    limit: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    /// The number of connections, idle and in use.
    open: usize,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), state: Mutex::default(), returned: Condvar::new() }
    }

    /// Takes an idle connection, or opens one with `connect`. Waits while all are in use.
    pub(crate) fn take(
        &self,
        connect: impl FnOnce() -> Result<Connection, StorageError>,
    ) -> Result<Lease<'_>, StorageError> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(StorageError::Closed);
            }
            if let Some(conn) = state.idle.pop() {
                return Ok(Lease { pool: self, conn: Some(conn) });
            }
            if state.open < self.limit {
                break;
            }
            self.returned.wait(&mut state);
        }
        state.open += 1;
        drop(state);
        // The lease exists before the connection: if opening fails, dropping the lease frees its slot.
        let mut lease = Lease { pool: self, conn: None };
        lease.conn = Some(connect()?);
        Ok(lease)
    }

    /// Closes idle connections; a connection in use is closed when it is returned.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.open -= state.idle.len();
        state.idle.clear();
        self.returned.notify_all();
    }
}

/// A connection of the pool in use.
pub(crate) struct Lease<'a> {
    pool: &'a Pool,
    conn: Option<Connection>,
}

impl Lease<'_> {
    pub(crate) fn conn(&self) -> Option<&Connection> {
        self.conn.as_ref()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // A connection that is stuck in its transaction would show an old snapshot for ever.
        let usable = self.conn.take().filter(Connection::is_autocommit);
        let mut state = self.pool.state.lock();
        match usable {
            Some(conn) if !state.closed => state.idle.push(conn),
            _ => state.open -= 1,
        }
        self.pool.returned.notify_one();
    }
}
