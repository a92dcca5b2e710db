//! A small schema, a folder for its files, and helpers that wait for events.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use landfall_storage::{
    CommitHold, Committed, Database, Durability, Options, Schema, WriteError, rusqlite,
};
use rusqlite::Transaction;
use tempfile::TempDir;

pub(crate) const SCHEMA: Schema = Schema {
    name: "notes",
    application_id: 0x4c66_5473,
    migrations: &["CREATE TABLE note (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT"],
};

/// Long enough for any event on a busy machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Outcome = Result<Committed<()>, WriteError<rusqlite::Error>>;

pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("notes.db")
    }

    pub(crate) fn open(&self) -> Database {
        self.open_with(patient())
    }

    pub(crate) fn open_with(&self, options: Options) -> Database {
        Database::open(self.file(), &SCHEMA, options).unwrap()
    }
}

/// Options under which the database syncs only when a test requests it.
pub(crate) fn patient() -> Options {
    Options { sync_idle: Duration::from_secs(3600), ..Options::default() }
}

pub(crate) fn insert(id: i64) -> impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send {
    insert_bytes(id, 1)
}

pub(crate) fn insert_bytes(
    id: i64,
    bytes: i64,
) -> impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send {
    move |tx| {
        tx.prepare_cached("INSERT INTO note VALUES (?1, zeroblob(?2))")?.execute([id, bytes])?;
        Ok(())
    }
}

pub(crate) fn ids(db: &Database) -> Vec<i64> {
    db.read(|conn| {
        conn.prepare_cached("SELECT id FROM note ORDER BY id")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()
    })
    .unwrap()
}

/// Submits a job and returns a receiver for its result.
pub(crate) fn submit(
    db: &Database,
    durability: Durability,
    job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
) -> Receiver<Outcome> {
    let (sender, receiver) = mpsc::channel();
    db.submit(durability, job, move |result| sender.send(result).unwrap());
    receiver
}

pub(crate) fn outcome(told: &Receiver<Outcome>) -> Outcome {
    told.recv_timeout(PATIENCE).expect("the result arrives")
}

/// Stops the writer before a commit, so that later jobs gather behind it until the drop.
pub(crate) fn stopped(db: &Database) -> (CommitHold, Receiver<Outcome>) {
    let hold = db.faults().hold_commits();
    let first = submit(db, Durability::Full, |_| Ok(()));
    assert!(hold.wait_reached(PATIENCE));
    (hold, first)
}
