//! The knobs of a database, and the limits that nobody needs to turn.

use std::time::Duration;

/// How a database is opened. Change single fields of [`Options::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of page cache of *each* connection: the writer, and every reader. Default 8 MiB.
    ///
    /// The total is up to `(readers + 1) × page_cache_bytes`, plus one for every
    /// [`Reader`](crate::Reader). Near 0 every read goes to the operating system and a large
    /// transaction spills to the WAL early; very large, memory is taken that the system's own file
    /// cache would use better.
    pub page_cache_bytes: u64,
    /// Pooled read connections at most, opened when first needed. Default 4.
    ///
    /// 0 counts as 1. Too few, and a slow read makes others wait; nesting reads deeper than this
    /// number waits for ever. Too many cost memory and file handles and gain nothing beyond the
    /// number of cores.
    pub readers: usize,
    /// Write jobs that may wait in the queue. Default 1024.
    ///
    /// A submitter beyond it blocks: that is the back-pressure. 0 counts as 1. Small, and groups
    /// are small, with an fsync for few jobs; large, and what the waiting jobs hold in memory
    /// grows, and a blocked disk is noticed late.
    pub queue: usize,
    /// Longest time for which a relaxed commit stays without an fsync. Default 250 ms.
    ///
    /// Zero syncs after every relaxed group, which makes it as dear as a full one; long, and a
    /// power cut takes more with it. Very long (an hour) means only a full commit, `sync` or
    /// `close` makes relaxed commits durable.
    pub sync_idle: Duration,
    /// How long SQLite waits for a lock that another process holds. Default 5 s.
    ///
    /// Nobody but a visiting tool takes such locks, since writers exclude each other before. Zero
    /// makes a visitor's moment a failed commit; long, and a visitor that hangs stops all writes.
    pub busy_timeout: Duration,
    /// How often an idle database looks whether its names still lead to its files. Default 10 s.
    ///
    /// Before and after each commit it looks anyway. Short, and an idle process wakes up for it;
    /// long, and a file that was removed is noticed late by a process that writes nothing. Without
    /// effect on a database in memory or opened read-only.
    pub look_at_files: Duration,
    /// Whether the files are for their owner's eyes only (mode 0600 on Unix). Default `true`.
    ///
    /// Also narrows files that exist already. `false` leaves the mode to the process's umask, for
    /// a group that shares the files. Without effect elsewhere than on Unix.
    pub private: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_cache_bytes: 8 * MIB,
            readers: 4,
            queue: 1024,
            sync_idle: Duration::from_millis(250),
            busy_timeout: Duration::from_secs(5),
            look_at_files: Duration::from_secs(10),
            private: true,
        }
    }
}

const MIB: u64 = 1024 * 1024;

/// Jobs in one group at most: bounds what one failed commit takes with it.
pub(crate) const GROUP_JOBS: usize = 1024;

/// No further job joins a group that has run for this long: bounds how long the first job of a
/// group waits for the last, at about the price of one fsync on a slow disk.
pub(crate) const GROUP_TIME: Duration = Duration::from_millis(10);

/// Prepared statements kept by each connection; callers have some dozens of distinct ones.
pub(crate) const STATEMENT_CACHE: usize = 64;

/// A WAL that grew past this is cut back at its next reset.
pub(crate) const JOURNAL_SIZE_LIMIT: i64 = 64 * 1024 * 1024;

/// Pages in the WAL from which on a commit is followed by a checkpoint. SQLite's own default: fewer
/// and the database is fsynced often, more and readers have a longer index to search.
pub(crate) const CHECKPOINT_PAGES: i64 = 1_000;

/// SQLite before this version can lose a commit when a WAL is reset while it is being read.
pub(crate) const OLDEST_SQLITE: i32 = 3_051_003;

// A statement cache must be able to hold the writer's own statements beside the callers'.
const _: () = assert!(STATEMENT_CACHE >= 32);
const _: () = assert!(GROUP_JOBS >= 1);
