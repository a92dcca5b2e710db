//! For tests: counts operations of SQLite's virtual machine, to compare costs without a clock.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

/// Another connection to a store's file, with a counter of its operations.
pub(super) fn connection(path: &Path) -> rusqlite::Result<(Connection, impl Fn() -> u64)> {
    let mut conn = Connection::open(path)?;
    let operations = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&operations);
    let count = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    conn.progress_handler(1, Some(count))?;
    Ok((conn, move || operations.load(Ordering::Relaxed)))
}
