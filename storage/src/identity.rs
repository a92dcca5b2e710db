//! Whether the names of a database still lead to the files that are open.
//!
//! A file that was removed, renamed or replaced while it is open takes writes and fsyncs as before,
//! and nobody finds them again. SQLite does not notice. So the device and inode behind each name
//! are compared with those at the opening: before and after each commit, and now and then. A file
//! that another program overwrote in place keeps its inode, and shows by the time of its last
//! change: the database itself is written by our own checkpoints only.
//!
//! What is found stays so: a name that leads to the file again later has been away meanwhile.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use parking_lot::Mutex;
use thiserror::Error;

use crate::error::StorageError;
use crate::files;

/// What stands beside the database and must be the same file throughout.
const BESIDE: [&str; 3] = ["-wal", "-shm", ".lock"];

/// A file of an open database that is not where it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path} {how}", path = path.display())]
pub struct GoneFile {
    /// The file.
    pub path: PathBuf,
    /// What happened to it.
    pub how: Gone,
}

/// What happened to a file of an open database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Gone {
    /// Its name leads to nothing: the file, or a folder above it, was removed or renamed.
    #[error("was removed or renamed")]
    Removed,
    /// Its name leads to another file.
    #[error("was replaced by another file")]
    Replaced,
    /// Its content was written by another program.
    #[error("was overwritten by another program")]
    Overwritten,
}

type OnGone = Box<dyn FnOnce(&GoneFile) + Send>;

/// Watches the files of one open database.
#[derive(Default)]
pub(crate) struct FileWatch {
    files: Vec<Named>,
    /// The database as our last checkpoint left it; `None` if it is not ours to write.
    content: Option<Mutex<State>>,
    gone: OnceLock<GoneFile>,
    on_gone: Mutex<Vec<OnGone>>,
}

/// A name, and the file that it led to.
struct Named {
    path: PathBuf,
    id: FileId,
}

/// What tells that nobody else wrote the file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    length: u64,
    modified: Option<SystemTime>,
}

impl FileWatch {
    /// Begins to watch a database that was opened for writing, and that was `before` when it was not
    /// open yet.
    pub(crate) fn of_writer(path: &Path, before: &fs::Metadata) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        if FileId::of(&found) != FileId::of(before) {
            let what = "another file has taken its name while it was opened";
            return Err(io::Error::other(what));
        }
        let mut files = vec![Named { path: path.to_owned(), id: FileId::of(&found) }];
        for suffix in BESIDE {
            let path = files::beside(path, suffix);
            // What SQLite does without here, nobody can take away.
            if let Ok(found) = fs::metadata(&path) {
                files.push(Named { path, id: FileId::of(&found) });
            }
        }
        let content = Some(Mutex::new(State::of(&found)));
        Ok(Self { files, content, ..Self::default() })
    }

    /// Watches a database that is only read: its log and its content are its writer's.
    pub(crate) fn of_reader(path: &Path) -> io::Result<Self> {
        let id = FileId::of(&fs::metadata(path)?);
        Ok(Self { files: vec![Named { path: path.to_owned(), id }], ..Self::default() })
    }

    /// What is gone, if that was found before.
    pub(crate) fn gone(&self) -> Option<&GoneFile> {
        self.gone.get()
    }

    /// Looks at the names: a system call for each.
    pub(crate) fn look(&self) -> Result<(), StorageError> {
        self.settle(|_| true)
    }

    /// Looks also whether another program wrote the database: nothing of ours does but a checkpoint.
    /// For the thread that makes them.
    pub(crate) fn look_closely(&self) -> Result<(), StorageError> {
        self.settle(|found| match &self.content {
            Some(content) => *content.lock() == State::of(found),
            None => true,
        })
    }

    /// Looks after a checkpoint, and takes the database as that left it.
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
                "a file of the open database is gone: nothing more is written");
            let told = std::mem::take(&mut *self.on_gone.lock());
            told.into_iter().for_each(|tell| call(tell, &gone));
        }
        Err(StorageError::Gone(gone))
    }

    fn find(&self, is_ours: impl FnOnce(&fs::Metadata) -> bool) -> Option<GoneFile> {
        let mut is_ours = Some(is_ours);
        for named in &self.files {
            let gone = |how| Some(GoneFile { path: named.path.clone(), how });
            match fs::metadata(&named.path) {
                Ok(found) if FileId::of(&found) != named.id => return gone(Gone::Replaced),
                // The database is the first.
                Ok(found) => {
                    if is_ours.take().is_some_and(|is_ours| !is_ours(&found)) {
                        return gone(Gone::Overwritten);
                    }
                }
                Err(error) if is_missing(&error) => return gone(Gone::Removed),
                // It cannot be looked at, such as for want of permission: that says nothing.
                Err(error) => {
                    is_ours.take();
                    tracing::debug!(%error, file = %named.path.display(), "cannot be looked at");
                }
            }
        }
        None
    }

    /// Calls `tell` once, as soon as something is gone: at once if it is.
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

/// Tells one file from all others, for as long as it is open.
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

/// Elsewhere a file that is open can be neither removed nor replaced.
#[cfg(not(unix))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId;

#[cfg(not(unix))]
impl FileId {
    fn of(_: &fs::Metadata) -> Self {
        Self
    }
}
