//! SQLite mechanics for Landfall: open, lock, write with group commit, read beside it, migrate,
//! copy, inject faults.
//!
//! This crate knows files, transactions and threads. It must never know what is stored: no
//! documents, no changes, no logs, no network, no async runtime. Its callers bring the tables (a
//! [`Schema`]) and the closures that touch them; they never hold a writing connection themselves.
//!
//! What it promises:
//! - One process at a time writes a file: an operating-system lock that dies with its holder.
//! - One thread writes. What is queued together is committed together, one fsync for many jobs;
//!   a job that fails or panics is rolled back alone.
//! - A result is told only after the commit it speaks of, and [`Durability::Full`] means that the
//!   commit is on disk by then.
//! - Every failure has a [`FailureClass`], derived in one place from SQLite's own codes.
//! - A file with hard links is not opened for writing: locks go by name.
//! - A file that is removed, renamed, replaced or overwritten while it is open takes no more
//!   commits: [`FailureClass::Gone`].
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

mod backup;
mod connect;
mod database;
mod durability;
mod error;
mod faults;
mod files;
mod identity;
mod lock;
mod names;
mod new_file;
mod open;
mod options;
mod queue;
mod read;
mod replace;
mod schema;
mod wal;
mod writer;

pub use backup::BackupError;
pub use connect::Pragmas;
pub use database::Database;
pub use durability::{CommitNumber, Committed, Durability};
pub use error::{FailureClass, Foreign, OpenError, ReadError, StorageError, WriteError};
pub use faults::{CommitHold, Counters, Faults};
pub use files::{read_beside, write_beside};
pub use identity::{Gone, GoneFile};
pub use lock::Holder;
pub use new_file::{NewFile, NewFileError};
pub use options::Options;
pub use read::Reader;
pub use replace::Replacement;
pub use rusqlite;
pub use schema::Schema;
pub use wal::{WalDamage, wal_damage};
