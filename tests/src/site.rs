//! A relay that tests stop, tamper with and restart, and the replicas around it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{Document, Options, Space, Store};

use crate::process::Relay;
use crate::replica::{Snapshot, check_counts, fresh_copy, link, wait_for, wait_synced};
use crate::{PATIENCE, log};

/// The space that every replica uses.
pub const SPACE: &str = "default";

/// Arguments of a relay that compacts without a recent window.
pub const COMPACTIONS: &[&str] = &["--keep-recent", "0", "--keep-recent-age", "0"];

/// Options of an engine that compacts without a recent window.
pub fn compactions() -> Options {
    Options::default().keep_recent(0).keep_recent_age(Duration::ZERO)
}

/// A replica that counts its changes.
pub struct Replica {
    /// The store's file name in the site's folder, which is also the value of its edits.
    pub name: &'static str,
    /// Its store.
    pub store: Store,
    /// The store's space.
    pub space: Space,
    /// One document that every replica has, and one of its own.
    pub documents: Vec<Document>,
    /// The number of changes that it made, not counting the shared document's first.
    pub made: u64,
}

impl Replica {
    /// Opens a store and creates both documents.
    ///
    /// # Panics
    /// If that fails.
    pub fn open(folder: &Path, name: &'static str, options: Options) -> Self {
        let store = Store::open(folder.join(name), options).expect("the store opens");
        let space = store.space(SPACE).expect("a space");
        let shared = space.create_named("shared", |tx| Ok(tx.put(ROOT, "root", true)?));
        let own = space.create(|tx| Ok(tx.put(ROOT, "of", name)?));
        let documents = vec![shared.expect("a document"), own.expect("a document").0];
        Self { name, store, space, documents, made: 1 }
    }

    /// Opens a file that has the documents already; the count starts at zero.
    ///
    /// # Panics
    /// If that fails.
    pub fn reopen(
        folder: &Path,
        name: &'static str,
        options: Options,
        documents: &[Document],
    ) -> Self {
        let store = Store::open(folder.join(name), options).expect("the store opens");
        let space = store.space(SPACE).expect("a space");
        let open = |document: &Document| space.open(document.id()).expect("a document");
        let documents = documents.iter().map(open).collect();
        Self { name, store, space, documents, made: 0 }
    }

    /// Makes changes, alternately to the shared document and to its own.
    ///
    /// # Panics
    /// If that fails.
    pub fn edit(&mut self, changes: u64) {
        for _ in 0..changes {
            let document = &self.documents[(self.made % 2) as usize];
            let value = format!("{} {}", self.name, self.made);
            document.change(|tx| Ok(tx.put(ROOT, "text", value)?)).expect("a change");
            self.made += 1;
        }
    }

    /// Waits until the relay has everything on its disk.
    ///
    /// # Panics
    /// If it takes too long.
    pub fn flush(&self) {
        self.store.flush_blocking(PATIENCE).expect("everything is acknowledged");
    }

    /// Connects to a relay.
    ///
    /// # Panics
    /// If the URL is invalid.
    pub fn connect(&self, url: &str) {
        self.store.connect(link(url)).expect("a relay's URL");
    }
}

/// A relay and its folder.
pub struct Site {
    folder: tempfile::TempDir,
    relay: Option<Relay>,
    arguments: &'static [&'static str],
    options: Options,
    /// The relay's URL, which stays the same over restarts.
    pub url: String,
    /// Its port.
    pub port: u16,
}

impl Site {
    /// Starts a relay; it and the replicas have default options.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        Self::start_with(&[], Options::default())
    }

    /// Starts a relay with these arguments; replicas are opened with these options.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with(arguments: &'static [&'static str], options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let relay = Relay::start_with(&folder.path().join("relay"), 0, arguments);
        let (url, port) = (relay.url.clone(), relay.port);
        Self { folder, relay: Some(relay), arguments, options, url, port }
    }

    /// The folder of all files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The relay's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("relay")
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("copy")
    }

    /// Kills the relay.
    ///
    /// # Panics
    /// If it is not running.
    pub fn stop(&mut self) {
        self.relay.take().expect("a running relay").kill();
    }

    /// Starts the relay again at the same address.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.relay = Some(Relay::start_with(&self.data(), self.port, self.arguments));
    }

    /// Waits until `/metrics` matches.
    ///
    /// # Panics
    /// If it takes too long.
    pub fn until_metrics(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let (_, text) = crate::http::get(self.port, "/metrics");
            if wanted(&text) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "timed out waiting for {what}: {text}");
            // sleep: only spaces the polls of a process that sends no events
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Copies the data folder, as a backup would.
    ///
    /// # Panics
    /// If that fails.
    pub fn back_up(&mut self) {
        self.stop();
        log::copy_folder(&self.data(), &self.copy());
        self.restart();
    }

    /// Restores the copy under a stopped relay.
    ///
    /// # Panics
    /// If that fails.
    pub fn restore(&self) {
        std::fs::remove_dir_all(self.data()).expect("the data folder is removed");
        log::copy_folder(&self.copy(), &self.data());
    }

    /// Opens replicas that make a few edits and connect.
    pub fn replicas<const N: usize>(&self, names: [&'static str; N]) -> [Replica; N] {
        names.map(|name| {
            let mut replica = Replica::open(self.folder.path(), name, self.options.clone());
            replica.edit(6);
            replica.connect(&self.url);
            replica
        })
    }

    /// Returns two offline replicas that have edited and are equal; the relay is stopped.
    pub fn parted(&mut self, edits: u64) -> [Replica; 2] {
        let [mut a, mut b] = self.replicas(["a", "b"]);
        a.edit(edits);
        b.edit(edits);
        sync_all(&[&a, &b]);
        [&a, &b].iter().for_each(|replica| replica.store.go_offline());
        self.stop();
        [a, b]
    }

    /// Changes one byte of a column of the stopped relay's file, in the rows that `which` selects.
    ///
    /// # Panics
    /// If no row matches.
    pub fn damage(&self, (table, column): (&str, &str), at: usize, which: &str) {
        let (before, after) = (at - 1, at + 1);
        let conn = landfall_storage::rusqlite::Connection::open(self.data().join("relay.db"));
        let sql = format!(
            "UPDATE {table} SET {column} = CAST(substr({column}, 1, {before}) || \
            CASE substr({column}, {at}, 1) WHEN x'07' THEN x'06' ELSE x'07' END || \
            substr({column}, {after}) AS BLOB) WHERE {which}"
        );
        let changed = conn.expect("the relay's file").execute(&sql, []).expect("a change");
        assert!(changed > 0, "{sql}");
    }

    /// Checks that every replica, the relay's disk and a new replica have the same changes, each once.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&mut self, replicas: &[&Replica]) {
        // One more: all replicas share the shared document's first change.
        let all = replicas.iter().map(|replica| replica.made).sum::<u64>() + 1;
        wait_equal(replicas, all);
        let snapshot = Snapshot::of(&replicas[0].space);
        assert_eq!(snapshot.changes() as u64, all);
        for replica in replicas {
            assert_eq!(snapshot, Snapshot::of(&replica.space), "{}", replica.name);
            check_counts(&replica.space, &snapshot);
            assert_eq!(replica.store.status().pending().changes, 0);
            replica.flush();
        }
        assert_eq!(snapshot, fresh_copy(&self.url, SPACE));
        for replica in replicas {
            replica.store.close().expect("the store closes");
        }
        self.stop();
        assert_eq!(log::hashes(&log::read(&self.data(), SPACE)), snapshot.hashes());
    }
}

/// Waits until each replica has this many changes and the relay has all of them.
///
/// # Panics
/// If it takes too long.
pub fn wait_equal(replicas: &[&Replica], changes: u64) {
    for replica in replicas {
        wait_for(&replica.store, "for every change", |status| {
            status.spaces.values().all(|space| space.changes == changes)
        });
        wait_synced(&replica.store);
    }
}

/// Waits until all replicas have everything that any of them made.
///
/// # Panics
/// If it takes too long.
pub fn sync_all(replicas: &[&Replica]) {
    let all = replicas.iter().map(|replica| replica.made).sum::<u64>() + 1;
    wait_equal(replicas, all);
}
