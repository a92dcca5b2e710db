//! The temporary folder and relay process of the tour and the replay. Both are removed when the work ends,
//! fails or is interrupted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::failure::{Exit, Failure};
use crate::relay::RelayProcess;
use crate::wait;

/// A temporary folder, and the relay that serves from it.
pub(crate) struct Scratch {
    path: PathBuf,
    folder: Mutex<Option<TempDir>>,
    relay: Mutex<Option<RelayProcess>>,
}

impl Scratch {
    fn new(name: &str) -> Result<Self, Failure> {
        let made = tempfile::Builder::new().prefix(&format!("landfall-{name}-")).tempdir();
        let folder = made.map_err(|error| {
            let remedy = "set TMPDIR to a folder that can be written";
            Failure::new(Exit::Other, "cannot make a temporary folder", error, remedy)
        })?;
        let path = folder.path().to_owned();
        Ok(Self { path, folder: Mutex::new(Some(folder)), relay: Mutex::new(None) })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the relay; returns its URL and process id.
    pub(crate) fn start_relay(&self) -> Result<(String, u32), Failure> {
        let relay = RelayProcess::start(&self.path.join("relay"))?;
        let started = (relay.url().to_owned(), relay.process());
        *lock(&self.relay) = Some(relay);
        Ok(started)
    }

    /// Calls `work` with the running relay.
    pub(crate) fn with_relay<T>(
        &self,
        work: impl FnOnce(&mut RelayProcess) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match lock(&self.relay).as_mut() {
            Some(relay) => work(relay),
            None => {
                Err(Failure::new(Exit::Other, "the relay is gone", "it was stopped", "try again"))
            }
        }
    }

    /// Ends the relay and removes the folder.
    fn clear(&self) {
        drop(lock(&self.relay).take());
        if let Some(folder) = lock(&self.folder).take() {
            // A process may still be writing: a folder that cannot be removed is reported.
            let path = folder.path().to_owned();
            if folder.close().is_err() && std::fs::remove_dir_all(&path).is_err() && path.exists() {
                crate::term::note(format!(
                    "could not remove {}; remove it by hand",
                    path.display()
                ));
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Locks even after a panic elsewhere: the guarded value must be cleared all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs work that needs a scratch folder, and removes it afterwards, also when the work panics or the process
/// is asked to end.
pub(crate) fn run<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce(&Scratch) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let scratch = Arc::new(Scratch::new(name)?);
    let waiter = wait::Waiter::new()?;
    let (sender, receiver) = oneshot::channel();
    let for_work = Arc::clone(&scratch);
    let worker = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = work(&for_work);
        drop(for_work);
        // The receiver is gone only when the process is ending.
        let _ = sender.send(result);
    });
    if let Err(error) = worker {
        return Err(Failure::new(Exit::Other, "cannot start a thread", error, "try again"));
    }
    let ended = waiter.until_signal(receiver)?;
    scratch.clear();
    match ended {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(Failure::new(
            Exit::Other,
            "internal error",
            "a thread panicked",
            "please report this",
        )),
        None => {
            let remedy = "all temporary files are removed";
            Err(Failure::new(Exit::Interrupted, "interrupted", "interrupted by a signal", remedy))
        }
    }
}
