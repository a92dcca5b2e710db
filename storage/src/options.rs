//! The options of a database, and the limits that are not configurable.

use std::time::Duration;

/// How a database is opened. Change single fields of [`Options::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of page cache of *each* connection: the writer, and every reader. Default 8 MiB.
    ///
    /// The total is up to `(readers + 1) × page_cache_bytes`, plus one for every
    /// [`Reader`](crate::Reader). Near 0, every read goes to the operating system and a large
    /// transaction spills to the WAL early. A very large cache takes memory that the system's file
    /// cache would use better.
    pub page_cache_bytes: u64,
    /// Maximum number of pooled read connections, opened on first use. Default 4.
    ///
    /// 0 counts as 1. With too few, a slow read delays others; reads nested deeper than this number
    /// deadlock. Too many cost memory and file handles, with no gain beyond the number of cores.
    pub readers: usize,
    /// Maximum number of write jobs in the queue. Default 1024.
    ///
    /// When the queue is full, submitters block: this is the back-pressure. 0 counts as 1. A small
    /// queue makes small groups, with an fsync for few jobs. A large one lets waiting jobs hold more
    /// memory, and delays the discovery of a blocked disk.
    pub queue: usize,
    /// Longest time for which a relaxed commit stays without an fsync. Default 250 ms.
    ///
    /// Zero syncs after every relaxed group, which makes it as expensive as a full one; the longer the
    /// time, the more a power cut loses. With a very long time (an hour), only a full commit, `sync` or
    /// `close` makes relaxed commits durable.
    pub sync_idle: Duration,
    /// How long SQLite waits for a lock that another process holds. Default 5 s.
    ///
    /// Only external tools take such locks, because writers exclude each other beforehand. With zero, a
    /// short lock of a tool makes a commit fail; with a long time, a tool that hangs blocks all writes.
    pub busy_timeout: Duration,
    /// How often an idle database checks whether its paths still refer to its files. Default 10 s.
    ///
    /// It checks before and after each commit regardless. A short interval wakes an idle process; with
    /// a long one, a process that writes nothing notices late that a file was removed. No effect on a
    /// database in memory or opened read-only.
    pub look_at_files: Duration,
    /// Whether only the owner can read the files (mode 0600 on Unix). Default `true`.
    ///
    /// Also narrows the mode of existing files. `false` leaves the mode to the process's umask, for a
    /// group that shares the files. No effect on systems other than Unix.
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

/// Maximum number of jobs in one group: bounds how many jobs one failed commit fails.
pub(crate) const GROUP_JOBS: usize = 1024;

/// A group that has run for this long accepts no further job: bounds how long its first job waits for
/// its last, at about the cost of one fsync on a slow disk.
pub(crate) const GROUP_TIME: Duration = Duration::from_millis(10);

/// Prepared statements that each connection caches; callers have some dozens of distinct ones.
pub(crate) const STATEMENT_CACHE: usize = 64;

/// SQLite truncates a larger WAL to this size at its next reset.
pub(crate) const JOURNAL_SIZE_LIMIT: i64 = 64 * 1024 * 1024;

/// WAL length in pages from which a commit is followed by a checkpoint. SQLite's own default: with
/// fewer, the database is fsynced often; with more, readers have a longer index to search.
pub(crate) const CHECKPOINT_PAGES: i64 = 1_000;

/// SQLite before this version can lose a commit when a WAL is reset while it is being read.
pub(crate) const OLDEST_SQLITE: i32 = 3_051_003;

// The statement cache must hold the writer's own statements as well as the callers'.
const _: () = assert!(STATEMENT_CACHE >= 32);
const _: () = assert!(GROUP_JOBS >= 1);
