//! A file of the configuration that is read again when it changes. The content that was read last
//! stays in use while the file is missing or wrong: a typing error must neither open the relay nor lock all clients
//! out.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::IdentityError;
use crate::limits;

/// Counts the changes of all files: sessions verify their tokens again after each.
pub(super) type Changes = watch::Sender<u64>;

/// How a file's content becomes a value.
pub(super) type Parse<T> = fn(&Path, &[u8]) -> Result<T, IdentityError>;

/// A file and its value.
pub(super) struct WatchedFile<T> {
    path: PathBuf,
    max_bytes: u64,
    parse: Parse<T>,
    changes: Changes,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamp: Stamp,
    /// When the file was looked at last, by the monotonic clock.
    looked: Duration,
}

/// Distinguishes the versions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    /// The file's number, where the system has one: another file may have taken its name.
    inode: u64,
    /// Whether it was read long enough after its modification that a second one has another time.
    is_settled: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok();
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        let is_settled = age.is_some_and(|age| age > limits::FILE_SETTLED);
        Self { modified, bytes: metadata.len(), inode: inode(metadata), is_settled }
    }
}

impl<T: Send + Sync + 'static> WatchedFile<T> {
    /// Reads the file for the first time.
    pub(super) fn open(
        path: &Path,
        max_bytes: u64,
        parse: Parse<T>,
        changes: &Changes,
        now: Duration,
    ) -> Result<Arc<Self>, IdentityError> {
        let (stamp, content) = read_stamped(path, max_bytes)?;
        let value = Arc::new(parse(path, &content)?);
        let state = Mutex::new(State { value, stamp, looked: now });
        let changes = changes.clone();
        Ok(Arc::new(Self { path: path.to_owned(), max_bytes, parse, changes, state }))
    }

    /// The value, after a look at the file if the last one was [`limits::FILE_LOOK`] ago. While one
    /// caller looks, the others get the previous value.
    pub(super) async fn current(self: &Arc<Self>, now: Duration) -> Arc<T> {
        {
            let mut state = self.state.lock();
            if now.saturating_sub(state.looked) < limits::FILE_LOOK {
                return Arc::clone(&state.value);
            }
            state.looked = now;
        }
        let file = Arc::clone(self);
        // A panic there is logged by its hook, and the previous value stays.
        let _ = tokio::task::spawn_blocking(move || file.look()).await;
        Arc::clone(&self.state.lock().value)
    }

    fn look(&self) {
        let before = self.state.lock().stamp;
        let found = std::fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        if found.is_ok_and(|found| before.is_settled && found == before) {
            return;
        }
        let is_new = |stamp: Stamp| {
            (stamp.modified, stamp.bytes, stamp.inode)
                != (before.modified, before.bytes, before.inode)
        };
        match read_stamped(&self.path, self.max_bytes) {
            Ok((stamp, content)) => {
                let parsed = (self.parse)(&self.path, &content);
                let mut state = self.state.lock();
                state.stamp = stamp;
                match parsed {
                    Ok(value) => {
                        state.value = Arc::new(value);
                        if is_new(stamp) {
                            self.changes.send_modify(|count| *count += 1);
                            tracing::info!(file = %self.path.display(), "read a changed file");
                        }
                    }
                    Err(error) if is_new(stamp) => self.warn(&error),
                    Err(_) => {}
                }
            }
            Err(error) => {
                let missing = Stamp { modified: None, bytes: 0, inode: 0, is_settled: false };
                self.state.lock().stamp = missing;
                if is_new(missing) {
                    self.warn(&error);
                }
            }
        }
    }

    fn warn(&self, error: &IdentityError) {
        tracing::error!(
            file = %self.path.display(),
            %error,
            hint = error.hint(),
            "a changed file cannot be used; its previous content stays in use"
        );
    }
}

/// A file's content, if it is no larger than this.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, IdentityError> {
    read_stamped(path, max_bytes).map(|(_, content)| content)
}

fn read_stamped(path: &Path, max_bytes: u64) -> Result<(Stamp, Vec<u8>), IdentityError> {
    let failed =
        |source: io::Error| IdentityError::Read { file: path.to_owned(), source: Arc::new(source) };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut content = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > max_bytes {
        return Err(IdentityError::TooLarge { file: path.to_owned(), max_bytes });
    }
    Ok((Stamp::of(&metadata), content))
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}
