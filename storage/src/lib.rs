//! SQLite mechanics for Landfall: open, lock, write with group commit, read concurrently, migrate,
//! copy, inject faults.
//!
//! This crate knows files, transactions and threads. It must never know what is stored: no documents,
//! no changes, no logs, no network, no async runtime. Its callers supply the tables (a [`Schema`]) and
//! the closures that use them; they never hold a writing connection themselves.
//!
//! Its guarantees:
//! - One process at a time writes a file, by an operating-system lock that ends with the process.
//! - One thread writes. Jobs that are queued together are committed together, with one fsync for many
//!   jobs; a job that fails or panics is rolled back alone.
//! - A result is delivered only after the job's commit, and with [`Durability::Full`] that commit is on
//!   disk by then.
//! - Every failure has a [`FailureClass`], derived in one place from SQLite's own codes.
//! - A file with hard links is not opened for writing, because locks belong to a name.
//! - A database whose file is removed, renamed, replaced or overwritten while it is open refuses
//!   further commits: [`FailureClass::Gone`].
//!
//! ```
//! use landfall_storage::{Database, Durability, Options, Schema};
//!
//! const SCHEMA: Schema = Schema {
//!     name: "notes",
//!     application_id: 0x4e6f_7465,
//!     migrations: &["CREATE TABLE note (text TEXT NOT NULL) STRICT"],
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let db = Database::open_in_memory(&SCHEMA, Options::default())?;
//! let written = db.write(Durability::Full, |tx| {
//!     tx.execute("INSERT INTO note VALUES ('hello')", [])
//! })?;
//! let count = db.read(|conn| {
//!     conn.query_row("SELECT count(*) FROM note", [], |row| row.get::<_, i64>(0))
//! })?;
//! assert_eq!((written.value, count), (1, 1));
//! db.close()?;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        reason = "a test fails by panicking"
    )
)]

mod backup;
mod connect;
mod database;
mod durability;
mod error;
mod fault_state;
mod faults;
mod files;
mod gone;
mod holder;
mod identity;
mod lock;
mod names;
mod new_file;
mod open;
mod options;
mod pool;
mod queue;
mod read;
mod replace;
mod schema;
mod shared;
mod wal;
mod writer;

pub use backup::BackupError;
pub use connect::Pragmas;
pub use database::Database;
pub use durability::{CommitNumber, Committed, Durability};
pub use error::{FailureClass, Foreign, OpenError, ReadError, StorageError, WriteError};
pub use faults::{CommitHold, Counters, Faults};
pub use files::{read_beside, write_beside};
pub use gone::{Gone, GoneFile};
pub use holder::Holder;
pub use new_file::{NewFile, NewFileError};
pub use options::Options;
pub use read::Reader;
pub use replace::Replacement;
pub use rusqlite;
pub use schema::Schema;
pub use wal::{WalDamage, wal_damage};
