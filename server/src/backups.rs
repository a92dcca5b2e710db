//! Backups on a schedule: a running relay copies its store into a folder, and removes the oldest of its own
//! copies. The schedule follows from the files in the folder: a restarted relay makes the next copy when the
//! newest one is old enough. The name of a copy contains the store's identity, so copies of other stores in
//! the same folder are not touched.
//!
//! A child process verifies every change of each new copy, and thereby the served store, of which it is a
//! copy. A damaged copy is renamed, and the newest sound copy stays even if it is surplus.
//!
//! This module must not know the contents of a store, nor delay other work: a copy is one read transaction
//! beside all others.

mod verifying;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use landfall_protocol::Upstream;
use landfall_protocol::error_chain;
use tokio::time::sleep;

use crate::limits;
use crate::metrics::Metrics;
use crate::store::admin::copies;

/// The folder for backups of the running relay's store, their interval, and how many are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupOptions {
    /// The folder, preferably on another disk. It must exist, so that an unmounted mount point is not filled.
    pub folder: PathBuf,
    /// The maximum age of the newest copy. At least a second.
    pub every: Duration,
    /// How many copies are kept: at least one. Only older copies of this store are removed, and never the
    /// newest one that is not known to be damaged.
    pub keep: usize,
    /// The command line of the child that verifies a copy, without the path, which is appended. It must call
    /// `landfall_relay::cli::verify_copy_worker`. `None`: only SQLite checks the copy.
    pub verifier: Option<Vec<OsString>>,
}

/// Prefix and suffix of a copy's name; between them stand the beginning of the store's identity and the time
/// in UTC.
const NAME: (&str, &str) = ("relay-", ".db");

/// Digits of the store's identity in a name: enough to distinguish the stores that share a folder.
const IDENTITY_DIGITS: usize = 8;

/// Marks the name of a copy that is being made.
const UNFINISHED: &str = ".partial";

/// Precedes the suffix in a damaged copy's name.
const DAMAGED: &str = ".damaged";

/// A copy in the folder.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    /// When it was begun, from its name.
    at: SystemTime,
    path: PathBuf,
    is_damaged: bool,
}

/// The source and the target of the copies.
struct Copying {
    options: BackupOptions,
    data: PathBuf,
    metrics: Arc<Metrics>,
    /// The prefix of the names of this store's copies.
    prefix: String,
}

/// Makes backups of a store in a data folder for as long as the runtime lives.
pub(crate) async fn run(
    options: BackupOptions,
    data: PathBuf,
    store: Upstream,
    metrics: Arc<Metrics>,
) {
    let copying = Arc::new(Copying::new(options, data, store, metrics));
    let (mut pause, mut tried) = (None, None);
    loop {
        let (of, last) = (Arc::clone(&copying), tried.take());
        let looked = tokio::task::spawn_blocking(move || of.look(SystemTime::now(), last)).await;
        match looked.unwrap_or_else(|error| Err(error.to_string())) {
            // At most `BACKUP_LOOK`, so that a clock that was set back or forward is noticed soon.
            Ok(Looked { due, verified }) => {
                (tried, pause) = (verified, None);
                sleep(due.min(limits::BACKUP_LOOK)).await;
            }
            Err(error) => {
                copying.tell_failure(&error);
                sleep(longer(&mut pause)).await;
            }
        }
    }
}

/// The result of a look into the folder.
struct Looked {
    /// The time until the next copy is due.
    due: Duration,
    /// The newest copy if its verification is done, or failed: it is not tried again.
    verified: Option<PathBuf>,
}

impl Copying {
    fn new(options: BackupOptions, data: PathBuf, store: Upstream, metrics: Arc<Metrics>) -> Self {
        let identity: String = store.to_string().chars().take(IDENTITY_DIGITS).collect();
        Self { options, data, metrics, prefix: format!("{}{identity}-", NAME.0) }
    }

    /// Makes a copy if it is due, and verifies the newest one, unless that was done or tried. Blocks on the
    /// disk.
    fn look(&self, now: SystemTime, tried: Option<PathBuf>) -> Result<Looked, String> {
        let failed = |error: io::Error| error.to_string();
        let every = self.options.every;
        let mut due_in = self.due(now).map_err(failed)?;
        if due_in == Duration::ZERO {
            self.sweep();
            let path = self.make(now)?;
            tracing::info!(path = %path.display(), "the store was backed up");
            self.metrics.backups("made");
            due_in = every;
        }
        let verified = match self.copies(now).map_err(failed)?.pop() {
            Some(newest) if !newest.is_damaged => {
                let (options, data, metrics) = (&self.options, &self.data, &self.metrics);
                verifying::verify(options, data, metrics, newest.path, tried.as_deref())
            }
            _ => None,
        };
        self.rotate(now).map_err(failed)?;
        Ok(Looked { due: self.due(now).map_err(failed)?.min(due_in), verified })
    }

    fn tell_failure(&self, error: &str) {
        self.metrics.backups("failed");
        let folder = self.options.folder.display();
        tracing::error!(%folder, error, "cannot back up the store; retrying later");
    }

    /// The time until the next copy is due, by the age of the newest one in the folder.
    fn due(&self, now: SystemTime) -> io::Result<Duration> {
        let newest = self.copies(now)?.pop().map(|copy| copy.at);
        let seconds = newest.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        self.metrics.last_backup.set(i64::try_from(seconds.as_secs()).unwrap_or(i64::MAX));
        let Some(newest) = newest else { return Ok(Duration::ZERO) };
        let age = now.duration_since(newest).unwrap_or_default();
        Ok(self.options.every.saturating_sub(age))
    }

    /// Makes a copy.
    fn make(&self, now: SystemTime) -> Result<PathBuf, String> {
        let target = self.options.folder.join(self.name_at(now));
        copies::copy_out(&self.data, &target).map_err(|error| error_chain(&error))?;
        Ok(target)
    }

    /// Removes the unfinished copy of a killed relay. No other process copies this store under such a name.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.options.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let rest = name.to_str().and_then(|name| name.split_once(UNFINISHED));
            if rest.is_some_and(|(name, _)| self.time_of(name.as_ref()).is_some())
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                let path = entry.path();
                tracing::warn!(path = %path.display(), %error, "cannot remove a partial backup");
            }
        }
    }

    /// Removes surplus copies, the oldest first, but neither the newest one nor the newest one that is not
    /// known to be damaged.
    fn rotate(&self, now: SystemTime) -> io::Result<()> {
        let mut copies = self.copies(now)?;
        let too_many = copies.len().saturating_sub(self.options.keep.max(1));
        let newest = copies.pop();
        let is_sound = |copy: &Copy| !copy.is_damaged;
        if !newest.as_ref().is_some_and(is_sound) {
            let sound = copies.iter().rposition(is_sound);
            sound.map(|sound| copies.remove(sound));
        }
        for Copy { path, .. } in copies.into_iter().take(too_many) {
            // The next rotation retries.
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old backup");
            }
        }
        Ok(())
    }

    /// The copies of this store, the oldest first, without those dated in the future: these were made while
    /// the clock was wrong, so they neither delay the next copy, nor count as copies, nor are removed.
    fn copies(&self, now: SystemTime) -> io::Result<Vec<Copy>> {
        let mut copies = Vec::new();
        for entry in std::fs::read_dir(&self.options.folder)? {
            let entry = entry?;
            if let Some((at, is_damaged)) = self.time_of(&entry.file_name())
                && at <= now
                && entry.file_type()?.is_file()
            {
                copies.push(Copy { at, path: entry.path(), is_damaged });
            }
        }
        copies.sort_unstable();
        Ok(copies)
    }

    fn name_at(&self, at: SystemTime) -> String {
        let at = humantime::format_rfc3339_seconds(at).to_string();
        // Some file systems forbid colons.
        format!("{}{}{}", self.prefix, at.replace(':', "-"), NAME.1)
    }

    /// The time in a copy's name, and whether the name marks it as damaged; `None` for another file.
    fn time_of(&self, name: &OsStr) -> Option<(SystemTime, bool)> {
        let at = name.to_str()?.strip_prefix(&self.prefix)?.strip_suffix(NAME.1)?;
        let (at, is_damaged) = at.strip_suffix(DAMAGED).map_or((at, false), |at| (at, true));
        let (day, time) = at.split_once('T')?;
        let at = humantime::parse_rfc3339(&format!("{day}T{}", time.replace('-', ":"))).ok()?;
        Some((at, is_damaged))
    }
}

fn longer(pause: &mut Option<Duration>) -> Duration {
    let next = pause.map_or(limits::BACKUP_PAUSE, |last| (2 * last).min(limits::BACKUP_LOOK));
    *pause.insert(next)
}

/// The name of a damaged copy.
fn damaged(path: &Path) -> PathBuf {
    path.with_extension(format!("{}{}", &DAMAGED[1..], NAME.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Log, SqliteStore};

    const EVERY: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn copying(data: &Path, to: &Path, store: u8, keep: usize) -> Copying {
        let folder = to.to_owned();
        let options = BackupOptions { folder, every: EVERY, keep, verifier: None };
        let store = Upstream::from_bytes([store; 16]);
        Copying::new(options, data.to_owned(), store, Arc::new(Metrics::new()))
    }

    fn names(to: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(to).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_backups_name_states_its_store_and_time() {
        let of = copying(Path::new(""), Path::new(""), 0xab, 1);
        assert_eq!(of.name_at(at(1_796_066_100)), "relay-abababab-2026-11-30T19-15-00Z.db");
        assert_eq!(of.time_of(of.name_at(at(7)).as_ref()), Some((at(7), false)));
        let bad = damaged(Path::new(&of.name_at(at(7))));
        assert_eq!(bad.to_str(), Some("relay-abababab-1970-01-01T00-00-07Z.damaged.db"));
        assert_eq!(of.time_of(bad.as_os_str()), Some((at(7), true)));
        for other in [
            "relay.db",
            "relay-abababab-.db",
            "relay-abababab-2026-11-30T18-35-00Z.db.partial",
            "relay-cdcdcdcd-2026-11-30T18-35-00Z.db",
            "relay-2026-11-30T18-35-00Z.db",
        ] {
            assert_eq!(of.time_of(other.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn the_newest_backups_and_all_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (data, to) = (folder.path().join("data"), folder.path().join("backups"));
        let store = SqliteStore::open(&data).unwrap();
        std::fs::create_dir(&to).unwrap();
        let (of, other) = (copying(&data, &to, 1, 2), copying(&data, &to, 2, 1));
        assert_eq!(of.due(at(1_000)).unwrap(), Duration::ZERO, "there is none");
        for seconds in [100, 200] {
            std::fs::write(to.join(of.name_at(at(seconds))), "old").unwrap();
        }
        // A copy of another store, and a file of the folder's owner.
        for name in [&other.name_at(at(990)), "mine.db"] {
            std::fs::write(to.join(name), "").unwrap();
        }
        assert_eq!(of.due(at(1_000)).unwrap(), Duration::ZERO, "the newest is too old");
        assert_eq!(of.metrics.last_backup.get(), 200);
        of.look(at(1_000), None).unwrap();
        let made = of.name_at(at(1_000));
        let mut left =
            [of.name_at(at(200)), made.clone(), other.name_at(at(990)), "mine.db".into()];
        left.sort();
        assert_eq!(names(&to), left);
        assert_eq!(of.due(at(1_020)).unwrap(), Duration::from_secs(40));
        store.close().unwrap();
        // The copy is a complete store.
        let again = folder.path().join("again");
        copies::copy_in(&to.join(made), &again).unwrap();
        SqliteStore::open(&again).unwrap().close().unwrap();
    }

    /// A wrong clock in the past neither causes a copy at every look nor displaces the other copies.
    #[test]
    fn a_backup_dated_in_the_future_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (data, to) = (folder.path().join("data"), folder.path().join("backups"));
        let store = SqliteStore::open(&data).unwrap();
        std::fs::create_dir(&to).unwrap();
        let of = copying(&data, &to, 1, 3);
        let day = |day: u64| of.name_at(at(86_400 * day));
        for name in [day(1), day(2), day(3), day(400)] {
            std::fs::write(to.join(name), "").unwrap();
        }
        let now = at(86_400 * 4);
        assert_eq!(of.due(now).unwrap(), Duration::ZERO);
        assert_eq!(of.metrics.last_backup.get(), 86_400 * 3);
        for seconds in 0..59 {
            let looked = of.look(now + Duration::from_secs(seconds), None).unwrap();
            assert_eq!(looked.due, Duration::from_secs(60 - seconds));
        }
        assert_eq!(names(&to), [day(400), day(2), day(3), day(4)].sorted());
        store.close().unwrap();
    }

    #[test]
    fn the_partial_backup_of_a_killed_relay_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (data, to) = (folder.path().join("data"), folder.path().join("backups"));
        let store = SqliteStore::open(&data).unwrap();
        std::fs::create_dir(&to).unwrap();
        let (of, other) = (copying(&data, &to, 1, 1), copying(&data, &to, 2, 1));
        let unfinished = |of: &Copying, end: &str| format!("{}.partial{end}", of.name_at(at(5)));
        let stays = [unfinished(&other, ""), "a.db.partial".to_owned()];
        for name in stays.iter().cloned().chain(["", "-journal"].map(|end| unfinished(&of, end))) {
            std::fs::write(to.join(name), "").unwrap();
        }
        of.look(at(1_000), None).unwrap();
        let [one, two] = stays;
        assert_eq!(names(&to), [of.name_at(at(1_000)), one, two].sorted());
        store.close().unwrap();
    }

    #[test]
    fn damaged_backups_do_not_displace_the_last_sound_one() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path();
        let of = copying(Path::new(""), to, 1, 2);
        let (sound, now) = (|seconds| to.join(of.name_at(at(seconds))), at(1_000));
        let left = || {
            let copies = of.copies(now).unwrap().into_iter();
            copies.map(|copy| copy.path).collect::<Vec<_>>()
        };
        for path in [sound(1), sound(2), damaged(&sound(3)), damaged(&sound(4)), damaged(&sound(5))]
        {
            std::fs::write(path, "").unwrap();
            of.rotate(now).unwrap();
        }
        assert_eq!(left(), [sound(2), damaged(&sound(5))]);
        std::fs::write(sound(6), "").unwrap();
        of.rotate(now).unwrap();
        assert_eq!(left(), [damaged(&sound(5)), sound(6)]);
        std::fs::write(damaged(&sound(7)), "").unwrap();
        copying(Path::new(""), to, 1, 1).rotate(now).unwrap();
        assert_eq!(
            left(),
            [sound(6), damaged(&sound(7))],
            "the newest, although damaged, determines when the next is due"
        );
    }

    trait Sorted {
        fn sorted(self) -> Self;
    }

    impl<const N: usize> Sorted for [String; N] {
        fn sorted(mut self) -> Self {
            self.sort();
            self
        }
    }
}
