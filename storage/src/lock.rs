//! One writer per file: an operating-system lock that dies with its holder.
//!
//! The lock sits on a file of its own, `<database>.lock`, since SQLite takes and drops locks on the
//! database itself. That file stays for ever: removing it would let two processes lock two files of
//! one name. Its text names the holder, for the message that the next one gets; only the lock
//! decides.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{OpenError, StorageError};
use crate::files;

/// Longest name of a process that is written or believed, in characters.
const NAME_LENGTH: usize = 64;

/// How long the lock of a process that has ended is waited for. A process that it was starting when
/// it was killed has a copy of the handle until it runs its own program: milliseconds, or more on a
/// busy machine.
const ORPHANED_LOCK_WAIT: Duration = Duration::from_secs(2);

/// Between two tries. No event tells that an flock is free without taking it.
const RETRY: Duration = Duration::from_millis(5);

/// The process that has a database open for writing, as far as its lock file tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: Option<u32>,
    /// Its name: that of its executable.
    pub process: Option<String>,
}

impl Holder {
    fn this_process() -> Self {
        let name = std::env::current_exe().ok();
        let name = name.as_deref().and_then(Path::file_stem).map(|name| name.to_string_lossy());
        Self { pid: Some(std::process::id()), process: name.map(|name| printable(&name)) }
    }

    /// Reads `<pid> <process>`; whatever is missing or odd stays unknown.
    fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let (pid, process) = line.split_once(' ').unwrap_or((line, ""));
        let process = printable(process.trim());
        Self { pid: pid.parse().ok(), process: (!process.is_empty()).then_some(process) }
    }
}

/// The text goes to a terminal, and anybody could have written it.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_LENGTH).collect()
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.process) {
            (Some(pid), Some(process)) => write!(f, "process {pid} ({process})"),
            (Some(pid), None) => write!(f, "process {pid}"),
            (None, _) => write!(f, "another process"),
        }
    }
}

/// The lock on a database file, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock for the database at `path`, or says who has it.
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
        // A full disk must not keep a database from being read back and mended.
        if let Err(error) = lock.sign(&Holder::this_process()) {
            tracing::debug!(%error, "the lock file could not name its holder");
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
        // Best effort: the text only names the holder in a message.
        let _ = self.file.set_len(0);
        // Closing the handle is not enough. A process that another thread is starting right now has
        // a copy of the handle between its fork and its exec, and an flock ends only with the last
        // copy; an explicit unlock ends it at once, for all copies.
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "the lock was not released before its file was closed");
        }
    }
}

fn path_of(path: &Path) -> PathBuf {
    files::beside(path, ".lock")
}

/// Whether the process that took the lock has ended, as far as this one can see. One of another
/// container's process ids may seem to have ended: its lock is then waited for in vain, and no harm
/// is done.
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
    // Where locks are mandatory the text cannot be read; then the holder is just not named.
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
        // What a child process has between its fork and its exec.
        let copy = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::take(&path, true), Err(OpenError::InUse { .. })));
        drop(lock);
        Lock::take(&path, true).unwrap();
        drop(copy);
    }

    #[cfg(unix)]
    #[test]
    fn the_lock_of_a_process_that_was_killed_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.db");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = child.id();
        child.wait().unwrap();
        let mut lock = Lock::take(&path, true).unwrap();
        lock.sign(&Holder { pid: Some(ended), process: None }).unwrap();
        // What a child of the process that ended still has.
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

    #[test]
    fn a_holder_survives_its_text_and_odd_text_stays_unknown() {
        let holder = Holder { pid: Some(42), process: Some("landfall relay".to_owned()) };
        assert_eq!(Holder::parse("42 landfall relay\n"), holder);
        assert_eq!(holder.to_string(), "process 42 (landfall relay)");
        assert_eq!(Holder::parse(""), Holder::default());
        assert_eq!(Holder::parse("x\u{1b}[2J").to_string(), "another process");
        assert_eq!(Holder::parse("7 a\u{1b}b").process.as_deref(), Some("ab"));
    }
}
