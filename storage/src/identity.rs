//! Detects whether the paths of a database still refer to the open files.
//!
//! A file that is removed, renamed or replaced while it is open accepts writes and fsyncs as before,
//! but the data can no longer be found by its name. SQLite does not notice. This module compares the
//! device and inode behind each path with those at opening: before and after each commit, and
//! periodically while idle. A file that another program overwrites in place keeps its inode, but its
//! modification time or length changes: only this process's checkpoints write the database file.
//!
//! A detected change is final, even if the path refers to the original file again later: other
//! processes may have used another file in between.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::error::StorageError;
use crate::files;
use crate::gone::{Gone, GoneFile};

/// Suffixes of the files beside the database that must stay the same files while it is open.
const BESIDE: [&str; 3] = ["-wal", "-shm", ".lock"];

type OnGone = Box<dyn FnOnce(&GoneFile) + Send>;

/// Watches the files of one open database.
#[derive(Default)]
pub(crate) struct FileWatch {
    files: Vec<Named>,
    /// Length and modification time after our last checkpoint; `None` if this handle does not write.
    content: Option<Mutex<State>>,
    gone: OnceLock<GoneFile>,
    on_gone: Mutex<Vec<OnGone>>,
}

/// A path, and the identity of the file to which it led.
struct Named {
    path: PathBuf,
    id: FileId,
}

/// Changes if another program writes the file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    length: u64,
    modified: Option<SystemTime>,
}

impl FileWatch {
    /// Starts to watch a database that was opened for writing. `before` is the file's metadata from
    /// before it was opened.
    pub(crate) fn of_writer(path: &Path, before: &fs::Metadata) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        if FileId::of(&found) != FileId::of(before) {
            let what = "another file replaced it while it was opened";
            return Err(io::Error::other(what));
        }
        let mut files = vec![Named { path: path.to_owned(), id: FileId::of(&found) }];
        for suffix in BESIDE {
            let path = files::beside(path, suffix);
            // SQLite does not always use all of these files; only those that exist are watched.
            if let Ok(found) = fs::metadata(&path) {
                files.push(Named { path, id: FileId::of(&found) });
            }
        }
        let content = Some(Mutex::new(State::of(&found)));
        Ok(Self { files, content, ..Self::default() })
    }

    /// Watches a database that is opened for reading: its content and its WAL belong to the writer.
    pub(crate) fn of_reader(path: &Path) -> io::Result<Self> {
        let id = FileId::of(&fs::metadata(path)?);
        Ok(Self { files: vec![Named { path: path.to_owned(), id }], ..Self::default() })
    }

    /// The file that was found to be gone, if any.
    pub(crate) fn gone(&self) -> Option<&GoneFile> {
        self.gone.get()
    }

    /// Compares the file behind each path: one system call per path.
    pub(crate) fn look(&self) -> Result<(), StorageError> {
        self.settle(|_| true)
    }

    /// Checks also whether another program wrote the database file, which only our checkpoints may
    /// write. For the thread that runs the checkpoints.
    pub(crate) fn look_closely(&self) -> Result<(), StorageError> {
        self.settle(|found| match &self.content {
            Some(content) => *content.lock() == State::of(found),
            None => true,
        })
    }

    /// Checks the paths after a checkpoint, and records the state in which the checkpoint left the
    /// file.
    pub(crate) fn look_after_checkpoint(&self) -> Result<(), StorageError> {
        self.settle(|found| {
            if let Some(content) = &self.content {
                *content.lock() = State::of(found);
            }
            true
        })
    }

    fn settle(&self, is_ours: impl FnOnce(&fs::Metadata) -> bool) -> Result<(), StorageError> {
        let gone = self.gone.get().cloned().or_else(|| self.find(is_ours));
        let Some(gone) = gone else { return Ok(()) };
        if self.gone.set(gone.clone()).is_ok() {
            tracing::error!(file = %gone.path.display(), how = %gone.how,
                "a file of the open database is gone; the database accepts no more writes");
            let subscribers = std::mem::take(&mut *self.on_gone.lock());
            subscribers.into_iter().for_each(|subscriber| call(subscriber, &gone));
        }
        Err(StorageError::Gone(gone))
    }

    fn find(&self, is_ours: impl FnOnce(&fs::Metadata) -> bool) -> Option<GoneFile> {
        let mut is_ours = Some(is_ours);
        for named in &self.files {
            let gone = |how| Some(GoneFile { path: named.path.clone(), how });
            match fs::metadata(&named.path) {
                Ok(found) if FileId::of(&found) != named.id => return gone(Gone::Replaced),
                // The first entry is the database itself.
                Ok(found) => {
                    if is_ours.take().is_some_and(|is_ours| !is_ours(&found)) {
                        return gone(Gone::Overwritten);
                    }
                }
                Err(error) if is_missing(&error) => return gone(Gone::Removed),
                // The check failed, for example for lack of permission: this proves nothing about the
                // file.
                Err(error) => {
                    is_ours.take();
                    tracing::debug!(%error, file = %named.path.display(), "cannot check a file");
                }
            }
        }
        None
    }

    /// Registers a callback for the moment when a file is found to be gone. Called once, at once if
    /// a file already is.
    pub(crate) fn on_gone(&self, tell: OnGone) {
        let mut waiting = self.on_gone.lock();
        match self.gone.get() {
            Some(gone) => {
                drop(waiting);
                call(tell, gone);
            }
            None => waiting.push(tell),
        }
    }
}

fn call(tell: OnGone, gone: &GoneFile) {
    if catch_unwind(AssertUnwindSafe(|| tell(gone))).is_err() {
        tracing::error!("a callback for a file that is gone panicked");
    }
}

impl State {
    fn of(found: &fs::Metadata) -> Self {
        Self { length: found.len(), modified: found.modified().ok() }
    }
}

fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, StaleNetworkFileHandle};
    matches!(error.kind(), NotFound | NotADirectory | StaleNetworkFileHandle)
}

/// Identifies a file among all others, for as long as it is open.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
impl FileId {
    fn of(found: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// On other systems an open file can be neither removed nor replaced.
#[cfg(not(unix))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId;

#[cfg(not(unix))]
impl FileId {
    fn of(_: &fs::Metadata) -> Self {
        Self
    }
}
