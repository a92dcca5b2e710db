//! Backups on a schedule: a running relay copies its store into a folder, and removes the oldest of
//! its own copies. The schedule is that of the files: a relay that was restarted makes the next copy
//! when the newest one is old enough.
//!
//! Each copy is verified once it is there, change by change, in a child: so is what the relay serves, of
//! which it is a copy. One that is damaged says so in its name, and no longer pushes out sound ones.
//!
//! It must not know what is in a store, nor hold anybody up: the copy is one read beside all others.

mod verifying;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use crate::limits;
use crate::metrics::Metrics;
use crate::store::copies;

/// Where a running relay puts copies of its store, how often, and how many of them stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupOptions {
    /// The folder. Best on another disk. It must exist: a missing mount is not to be filled.
    pub folder: PathBuf,
    /// How old the newest copy may get. At least a second.
    pub every: Duration,
    /// How many copies stay: at least one. Older ones are removed, and nothing else in the folder; but
    /// the newest that is not known to be damaged stays.
    pub keep: usize,
    /// The command line of the child that verifies a copy, whose path is added; it is to call
    /// `landfall_relay::cli::verify_copy_worker`. `None`: a copy is checked by SQLite alone.
    pub verifier: Option<Vec<OsString>>,
}

/// What the names of copies begin and end with; between them stands the moment in UTC.
const NAME: (&str, &str) = ("relay-", ".db");

/// What stands before the end of a damaged copy's name.
const DAMAGED: &str = ".damaged";

/// A copy in the folder.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    /// When it was begun, by its name.
    at: SystemTime,
    path: PathBuf,
    is_damaged: bool,
}

/// Makes backups for as long as the runtime lives.
pub(crate) async fn run(options: BackupOptions, data: PathBuf, metrics: Arc<Metrics>) {
    let (options, mut pause) = (Arc::new(options), None);
    let mut tried = None;
    loop {
        let (of, data, shown) = (Arc::clone(&options), data.clone(), Arc::clone(&metrics));
        let last = tried.take();
        let looked = tokio::task::spawn_blocking(move || look(&of, &data, &shown, last)).await;
        match looked.unwrap_or_else(|error| Err(error.to_string())) {
            // A clock that is set back or forward is noticed within a look.
            Ok(Looked { due, verified }) => {
                (tried, pause) = (verified, None);
                sleep(due.min(limits::BACKUP_LOOK)).await;
            }
            Err(error) => {
                tell_failure(&metrics, &options.folder, &error);
                sleep(longer(&mut pause)).await;
            }
        }
    }
}

/// What came of a look into the folder.
struct Looked {
    /// The next copy is due in so long.
    due: Duration,
    /// The copy that was verified last, or could not be.
    verified: Option<PathBuf>,
}

/// Makes a copy if it is due, and verifies the newest one, unless that was done or tried. It waits for the
/// disk.
fn look(
    options: &BackupOptions,
    data: &Path,
    metrics: &Metrics,
    tried: Option<PathBuf>,
) -> Result<Looked, String> {
    let failed = |error: io::Error| error.to_string();
    let mut due_in = due(options, metrics).map_err(failed)?;
    if due_in == Duration::ZERO {
        let path = make(options, data)?;
        tracing::info!(path = %path.display(), "the store was copied");
        metrics.backups("made");
        due_in = options.every;
    }
    let verified = match copies_in(&options.folder).map_err(failed)?.pop() {
        Some(newest) if !newest.is_damaged => {
            verifying::verify(options, data, metrics, newest.path, tried.as_deref())
        }
        _ => None,
    };
    rotate(options).map_err(failed)?;
    Ok(Looked { due: due(options, metrics).map_err(failed)?.min(due_in), verified })
}

fn tell_failure(metrics: &Metrics, folder: &Path, error: &str) {
    metrics.backups("failed");
    tracing::error!(folder = %folder.display(), error, "the store could not be copied; it is tried again");
}

fn longer(pause: &mut Option<Duration>) -> Duration {
    let next = pause.map_or(limits::BACKUP_PAUSE, |last| (2 * last).min(limits::BACKUP_LOOK));
    *pause.insert(next)
}

/// How long until the next copy, by the newest one in the folder.
fn due(options: &BackupOptions, metrics: &Metrics) -> io::Result<Duration> {
    let newest = copies_in(&options.folder)?.pop().map(|copy| copy.at);
    let seconds =
        newest.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    metrics.last_backup.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    let Some(newest) = newest else { return Ok(Duration::ZERO) };
    // One from the future, after the clock was set back, says nothing.
    let age = SystemTime::now().duration_since(newest).unwrap_or(options.every);
    Ok(options.every.saturating_sub(age))
}

/// Makes a copy.
fn make(options: &BackupOptions, data: &Path) -> Result<PathBuf, String> {
    let target = options.folder.join(name_at(SystemTime::now()));
    copies::copy_out(data, &target).map_err(|error| crate::store::chain(&error))?;
    Ok(target)
}

/// Removes what is too much: the oldest, but neither the newest nor the newest that is not known to be
/// damaged.
fn rotate(options: &BackupOptions) -> io::Result<()> {
    let mut copies = copies_in(&options.folder)?;
    let too_many = copies.len().saturating_sub(options.keep.max(1));
    let newest = copies.pop();
    let is_sound = |copy: &Copy| !copy.is_damaged;
    if !newest.as_ref().is_some_and(is_sound) {
        let sound = copies.iter().rposition(is_sound);
        sound.map(|sound| copies.remove(sound));
    }
    for Copy { path, .. } in copies.into_iter().take(too_many) {
        // It is tried again with the next one.
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an old backup could not be removed");
        }
    }
    Ok(())
}

/// Copies that a relay made, the oldest first.
fn copies_in(folder: &Path) -> io::Result<Vec<Copy>> {
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Some((at, is_damaged)) = time_of(&entry.file_name())
            && entry.file_type()?.is_file()
        {
            copies.push(Copy { at, path: entry.path(), is_damaged });
        }
    }
    copies.sort_unstable();
    Ok(copies)
}

fn name_at(at: SystemTime) -> String {
    let at = humantime::format_rfc3339_seconds(at).to_string();
    // Some file systems take no colons.
    format!("{}{}{}", NAME.0, at.replace(':', "-"), NAME.1)
}

/// The moment of a copy's name, and whether it is said to be damaged; `None` for another file.
fn time_of(name: &OsStr) -> Option<(SystemTime, bool)> {
    let at = name.to_str()?.strip_prefix(NAME.0)?.strip_suffix(NAME.1)?;
    let (at, is_damaged) = at.strip_suffix(DAMAGED).map_or((at, false), |at| (at, true));
    let (day, time) = at.split_once('T')?;
    let at = humantime::parse_rfc3339(&format!("{day}T{}", time.replace('-', ":"))).ok()?;
    Some((at, is_damaged))
}

/// The name of a damaged copy.
fn damaged(path: &Path) -> PathBuf {
    path.with_extension(format!("{}{}", &DAMAGED[1..], NAME.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LogStore, SqliteStore};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_name_says_when_its_copy_was_made() {
        assert_eq!(name_at(at(1_796_066_100)), "relay-2026-11-30T19-15-00Z.db");
        assert_eq!(time_of(name_at(at(7)).as_ref()), Some((at(7), false)));
        let bad = damaged(Path::new(&name_at(at(7))));
        assert_eq!(bad.to_str(), Some("relay-1970-01-01T00-00-07Z.damaged.db"));
        assert_eq!(time_of(bad.as_os_str()), Some((at(7), true)));
        for other in
            ["relay.db", "relay-.db", "relay-2026-11-30T18-35-00Z.db.partial", "relay-x.db"]
        {
            assert_eq!(time_of(other.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn the_newest_stay_and_what_is_not_a_copy_stays() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let store = SqliteStore::open(&data).unwrap();
        let to = folder.path().join("backups");
        std::fs::create_dir(&to).unwrap();
        let (every, keep, verifier) = (Duration::from_secs(60), 2, None);
        let options = BackupOptions { folder: to.clone(), every, keep, verifier };
        let metrics = Metrics::new();
        assert_eq!(due(&options, &metrics).unwrap(), Duration::ZERO, "there is none");
        for seconds in [100, 200] {
            std::fs::write(to.join(name_at(at(seconds))), "old").unwrap();
        }
        std::fs::write(to.join("mine.db"), "mine").unwrap();
        assert_eq!(due(&options, &metrics).unwrap(), Duration::ZERO, "the newest is old");
        assert_eq!(metrics.last_backup.get(), 200);
        let made = make(&options, &data).unwrap();
        rotate(&options).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [to.join("mine.db"), to.join(name_at(at(200))), made.clone()]);
        assert!(due(&options, &metrics).unwrap() > Duration::from_secs(30));
        store.close().unwrap();
        // It is a store.
        let again = folder.path().join("again");
        copies::copy_in(&made, &again).unwrap();
        SqliteStore::open(&again).unwrap().close().unwrap();
    }

    #[test]
    fn a_copy_from_the_future_does_not_put_the_next_one_off() {
        let folder = tempfile::tempdir().unwrap();
        let every = Duration::from_secs(60);
        let (folder_of, verifier) = (folder.path().to_owned(), None);
        let options = BackupOptions { folder: folder_of, every, keep: 1, verifier };
        let future = SystemTime::now() + Duration::from_secs(86_400);
        std::fs::write(folder.path().join(name_at(future)), "").unwrap();
        assert_eq!(due(&options, &Metrics::new()).unwrap(), Duration::ZERO);
    }

    #[test]
    fn damaged_copies_do_not_push_out_the_last_sound_one() {
        let folder = tempfile::tempdir().unwrap();
        let (to, every) = (folder.path().to_owned(), Duration::from_secs(60));
        let options = BackupOptions { folder: to.clone(), every, keep: 2, verifier: None };
        let sound = |seconds| to.join(name_at(at(seconds)));
        let left = || {
            let copies = copies_in(&to).unwrap().into_iter();
            copies.map(|copy| copy.path).collect::<Vec<_>>()
        };
        for path in [sound(1), sound(2), damaged(&sound(3)), damaged(&sound(4)), damaged(&sound(5))]
        {
            std::fs::write(path, "").unwrap();
            rotate(&options).unwrap();
        }
        assert_eq!(left(), [sound(2), damaged(&sound(5))]);
        std::fs::write(sound(6), "").unwrap();
        rotate(&options).unwrap();
        assert_eq!(left(), [damaged(&sound(5)), sound(6)]);
        let one = BackupOptions { keep: 1, ..options };
        std::fs::write(damaged(&sound(7)), "").unwrap();
        rotate(&one).unwrap();
        assert_eq!(left(), [sound(6), damaged(&sound(7))], "the newest tells when the next is due");
    }
}
