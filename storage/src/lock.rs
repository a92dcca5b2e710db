//! One writer per file, enforced by an operating-system lock that ends with the process that holds it.
//!
//! The lock is on a separate file, `<database>.lock`, because SQLite takes and drops locks on the
//! database itself. That file is never removed: otherwise two processes could lock two files of one
//! name. Its text names the holder, only for the error message that another process shows.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{OpenError, StorageError};
use crate::files;
use crate::holder::Holder;

/// How long to wait for the lock of a process that has ended. If that process was killed while it
/// started a child process, the child has a copy of the handle until it executes its own program:
/// milliseconds, or more on a busy machine.
const ORPHANED_LOCK_WAIT: Duration = Duration::from_secs(2);

/// Pause between two attempts. No event signals that an flock is free without taking it.
const RETRY: Duration = Duration::from_millis(5);

/// The lock on a database file, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock for the database at `path`, or returns the process that holds it.
    pub(crate) fn take(path: &Path, private: bool) -> Result<Self, OpenError> {
        let lock_path = path_of(path);
        let failed = |source| OpenError::from_storage(&lock_path, StorageError::Io(source));
        let mut file = files::open_or_create(&lock_path, private, path).map_err(failed)?;
        let give_up = Instant::now() + ORPHANED_LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let holder = read(&mut file);
                    if !has_ended(&holder) || Instant::now() >= give_up {
                        return Err(OpenError::InUse { path: path.to_owned(), holder });
                    }
                    std::thread::sleep(RETRY);
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        let mut lock = Self { file };
        // The lock must be available on a full disk too, so that the database can be read and repaired.
        if let Err(error) = lock.sign(&Holder::this_process()) {
            tracing::debug!(%error, "cannot write the holder's name to the lock file");
        }
        Ok(lock)
    }

    fn sign(&mut self, holder: &Holder) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        let pid = holder.pid.unwrap_or_default();
        let process = holder.process.as_deref().unwrap_or_default();
        self.file.write_all(format!("{pid} {process}\n").as_bytes())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Best effort: the text is only used in a message.
        let _ = self.file.set_len(0);
        // Closing the handle is not enough. A process that another thread is starting at this moment
        // has a copy of the handle between its fork and its exec, and an flock ends only with the last
        // copy. An explicit unlock ends it at once for all copies.
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "the lock was not released before its file was closed");
        }
    }
}

fn path_of(path: &Path) -> PathBuf {
    files::beside(path, ".lock")
}

/// Whether the process that took the lock has ended, as far as this process can see. A process of
/// another container may wrongly seem to have ended; then [`Lock::take`] waits in vain, without other
/// harm.
#[cfg(unix)]
fn has_ended(holder: &Holder) -> bool {
    let pid = holder.pid.and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn has_ended(_: &Holder) -> bool {
    false
}

fn read(file: &mut File) -> Holder {
    let mut bytes = [0; 256];
    // Where locks are mandatory the text cannot be read; the holder then stays unnamed.
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read(&mut bytes));
    let length = read.unwrap_or_default();
    Holder::parse(&String::from_utf8_lossy(&bytes[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lock_is_free_while_a_copy_of_its_handle_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        let lock = Lock::take(&path, true).unwrap();
        // The copy that a child process has between its fork and its exec.
        let copy = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::take(&path, true), Err(OpenError::InUse { .. })));
        drop(lock);
        Lock::take(&path, true).unwrap();
        drop(copy);
    }

    #[cfg(unix)]
    #[test]
    fn opening_waits_for_the_lock_of_a_killed_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = child.id();
        child.wait().unwrap();
        let mut lock = Lock::take(&path, true).unwrap();
        lock.sign(&Holder { pid: Some(ended), process: None }).unwrap();
        // The copy that a child of the ended process still has.
        let copy = lock.file.try_clone().unwrap();
        std::mem::forget(lock);
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Lock::take(&path, true).map(drop)
        });
        // sleep: a first try is to find the lock taken; whether it does changes no outcome
        std::thread::sleep(Duration::from_millis(50));
        copy.unlock().unwrap();
        waiting.join().unwrap().unwrap();
    }
}
