//! Reads, on a connection of the pool or on a dedicated one.
//!
//! One read is one snapshot: its closure runs inside a read transaction and sees no later commit. In
//! memory there is only one connection, so a read runs between two groups and still sees only committed
//! state.

use std::sync::Arc;

use rusqlite::Connection;

use crate::connect;
use crate::error::{ReadError, StorageError};
use crate::shared::{Core, Place};

/// A dedicated read connection, for a thread that reads often or for long. Dropping it closes it. It
/// gives `Closed` once the database is closed.
pub struct Reader {
    /// `None` in memory.
    conn: Option<Connection>,
    core: Arc<Core>,
}

impl Reader {
    pub(crate) fn open(core: &Arc<Core>) -> Result<Self, StorageError> {
        if core.is_closed() {
            return Err(StorageError::Closed);
        }
        let conn = if core.in_memory() { None } else { Some(core.connect_reader()?) };
        Ok(Self { conn, core: Arc::clone(core) })
    }

    /// Runs `query` in one snapshot, as [`Database::read`](crate::Database::read) does.
    ///
    /// # Errors
    /// [`ReadError::Query`] with the closure's own error, [`ReadError::Connection`] otherwise.
    pub fn with<T, E>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, ReadError<E>> {
        if self.core.is_closed() {
            return Err(ReadError::Connection(StorageError::Closed));
        }
        match &self.conn {
            Some(conn) => in_snapshot(conn, query),
            None => self.core.read(query),
        }
    }
}

impl Core {
    pub(crate) fn read<T, E>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, ReadError<E>> {
        if self.in_memory() {
            let mut answer = None;
            let ran = self.with_writing_connection(|conn| {
                let _guard = QueryOnly::set(conn)?;
                answer = Some(in_snapshot(conn, query));
                Ok(())
            });
            return match (answer, ran) {
                (Some(answer), _) => answer,
                (None, Err(error)) => Err(ReadError::Connection(error)),
                (None, Ok(())) => Err(ReadError::Connection(StorageError::Closed)),
            };
        }
        let lease = self.pool.take(|| self.connect_reader()).map_err(ReadError::Connection)?;
        match lease.conn() {
            Some(conn) => in_snapshot(conn, query),
            None => Err(ReadError::Connection(StorageError::Closed)),
        }
    }

    fn connect_reader(&self) -> Result<Connection, StorageError> {
        let Place::File(path) = &self.place else { return Err(StorageError::Closed) };
        let connected = connect::connect(path, false).and_then(|conn| {
            connect::prepare_reader(&conn, &self.options)?;
            Ok(conn)
        });
        // The path may refer to another file than the one that was opened first, or to none.
        self.watch.look().and(connected)
    }
}

fn in_snapshot<T, E>(
    conn: &Connection,
    query: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, ReadError<E>> {
    let begun = conn.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([]));
    begun.map_err(|error| ReadError::Connection(error.into()))?;
    let _end = EndSnapshot(conn);
    query(conn).map_err(ReadError::Query)
}

/// Ends the read transaction, even when the closure panics.
struct EndSnapshot<'a>(&'a Connection);

impl Drop for EndSnapshot<'_> {
    fn drop(&mut self) {
        if self.0.is_autocommit() {
            return;
        }
        let ended = self.0.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([]));
        if let Err(error) = ended {
            tracing::warn!(%error, "cannot end a read transaction");
        }
    }
}

/// Prevents writes during a read in memory, where the reader uses the writing connection.
struct QueryOnly<'a>(&'a Connection);

impl<'a> QueryOnly<'a> {
    fn set(conn: &'a Connection) -> rusqlite::Result<Self> {
        conn.pragma_update(None, "query_only", true)?;
        Ok(Self(conn))
    }
}

impl Drop for QueryOnly<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.pragma_update(None, "query_only", false) {
            tracing::error!(%error, "the connection stays read-only after a read");
        }
    }
}
