//! The clean-shutdown marker outside the store, which is not copied with the store. It is a small file
//! in a folder of this user's on a tmpfs, in memory, on another device than the store's. So an image, a
//! backup, a disk snapshot and a copied folder do not contain it. Where two copies of a store share one
//! tmpfs, the first one to open removes the marker, and only the opening that removed it continues the
//! store's actors.
//!
//! The marker names the store's file (device, inode, path, the time of its last change, which only the
//! kernel sets), the machine and its present run, and holds the random number that is in the store too.
//! If any of these differs, it is invalid. If there is no such folder, or in doubt, no marker is
//! written, and the next opening uses fresh actors.
//!
//! One case is *not* detected: a machine whose memory was copied with its disks (a virtual machine that
//! is resumed twice from one snapshot, a process that is restored twice from one checkpoint), where the
//! marker is copied too. `docs/decisions` describes how that is found.
//!
//! Linux only: elsewhere no marker is written, so actors are always fresh.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::random;
use crate::store::Nonce;

/// The number of files in the folder from which old ones are removed: deleted stores leave theirs
/// behind, each in a page of memory, until the machine stops.
const MOST_FILES: usize = 256;

/// The marker found outside, before the store is opened.
#[derive(Debug)]
pub(crate) struct FoundMarker {
    file: PathBuf,
    /// The text that the marker of this very file has before its number.
    expected: String,
}

impl FoundMarker {
    /// Looks for a marker of this store's last close. Must be called before the store is opened, which
    /// may change its file.
    pub(crate) fn look(store: &Path) -> Option<Self> {
        let place = StoreLocation::of(store)?;
        let file = place.file(&folder(place.device)?);
        file.exists().then(|| Self { file, expected: place.text() })
    }

    /// Removes the marker and returns its number, if everything in it matches. It is renamed before it
    /// is read: of several openings that share the folder only one gets it, and that one reads the file
    /// that it renamed, not one that was written since.
    pub(crate) fn take(self) -> Option<Nonce> {
        let own = beside(&self.file)?;
        std::fs::rename(&self.file, &own).ok()?;
        let text = std::fs::read_to_string(&own);
        std::fs::remove_file(&own).ok()?;
        text.ok()?.strip_prefix(&self.expected).and_then(parse)
    }
}

/// The marker to write once the store is closed.
#[derive(Debug)]
pub(crate) struct Leaving {
    store: PathBuf,
    nonce: Nonce,
}

impl Leaving {
    pub(crate) fn new(store: PathBuf, nonce: Nonce) -> Self {
        Self { store, nonce }
    }

    /// Writes it. If that fails, the next opening uses fresh actors.
    pub(crate) fn leave(self) {
        let Some(place) = StoreLocation::of(&self.store) else { return };
        let Some(folder) = folder(place.device) else { return };
        let text = place.text() + &hex::encode(self.nonce) + "\n";
        if let Err(error) = write(&place.file(&folder), &text) {
            tracing::debug!(%error, "cannot write the marker; fresh actors are used next");
        }
        // Occasionally is enough, and reading a folder is slow.
        if self.nonce[0] < 8 {
            prune(&folder);
        }
    }
}

/// The path of a store's marker.
#[cfg(test)]
pub(crate) fn file_of(store: &Path) -> Option<PathBuf> {
    let place = StoreLocation::of(store)?;
    Some(place.file(&folder(place.device)?))
}

/// A store's file, as it is now, on this machine in its present run.
struct StoreLocation {
    path: PathBuf,
    device: u64,
    inode: u64,
    changed: (i64, i64),
    machine: String,
    boot: String,
}

impl StoreLocation {
    #[cfg(target_os = "linux")]
    fn of(store: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let path = std::fs::canonicalize(store).ok()?;
        let found = std::fs::metadata(&path).ok()?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        // Not every system has one; the run's id is enough to distinguish machines.
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Some(Self {
            path,
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
            machine: machine.trim().to_owned(),
            boot: boot.trim().to_owned(),
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn of(_store: &Path) -> Option<Self> {
        None
    }

    fn file(&self, folder: &Path) -> PathBuf {
        folder.join(hex::encode(&self.name()[..16]))
    }

    fn name(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.device.to_le_bytes())
            .chain_update(self.inode.to_le_bytes())
            .chain_update(self.path.as_os_str().as_encoded_bytes())
            .finalize()
            .into()
    }

    fn text(&self) -> String {
        let Self { device, inode, changed: (seconds, nanoseconds), machine, boot, .. } = self;
        let name = hex::encode(self.name());
        format!(
            "landfall clean close 1\nfile {name}\ndevice {device}\ninode {inode}\n\
             changed {seconds}.{nanoseconds}\nmachine {machine}\nboot {boot}\nnonce "
        )
    }
}

fn parse(text: &str) -> Option<Nonce> {
    let mut nonce = Nonce::default();
    hex::decode_to_slice(text.strip_suffix('\n')?, &mut nonce).ok()?;
    Some(nonce)
}

/// The folder for the marker of a store on this device: in the user's session, or else in the machine's
/// shared memory. Both are normally in memory, which is checked.
#[cfg(target_os = "linux")]
fn folder(store_device: u64) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let user = std::fs::metadata("/proc/self").ok()?.uid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|path| path.is_absolute()).map(|path| path.join("landfall"));
    let shared = Path::new("/dev/shm").join(format!("landfall-{user}"));
    runtime.into_iter().chain([shared]).find(|folder| fits(folder, user, store_device))
}

/// Whether a folder can hold a marker that is not copied with a store on this device. It is created if
/// it is missing. It must belong to this user and be closed to all others, since a user who can write
/// there could put a marker back.
#[cfg(target_os = "linux")]
fn fits(folder: &Path, user: u32, store_device: u64) -> bool {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    // Creates nothing where no marker could be.
    if !folder.parent().is_some_and(|parent| in_memory(parent, store_device)) {
        return false;
    }
    // It usually exists; whether it qualifies is checked below.
    let _ = std::fs::DirBuilder::new().mode(0o700).create(folder);
    let Ok(found) = std::fs::symlink_metadata(folder) else { return false };
    found.is_dir()
        && found.uid() == user
        && found.mode() & 0o077 == 0
        && in_memory(folder, store_device)
}

/// Whether a folder is on a tmpfs, and not on the store's device: a tmpfs that holds both may be
/// copied with both.
#[cfg(target_os = "linux")]
fn in_memory(folder: &Path, store_device: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = std::fs::metadata(folder) else { return false };
    let Ok(file_system) = rustix::fs::statfs(folder) else { return false };
    file_system.f_type == TMPFS_MAGIC as _ && found.dev() != store_device
}

/// The value of statfs(2) for a tmpfs.
#[cfg(target_os = "linux")]
const TMPFS_MAGIC: u32 = 0x0102_1994;

#[cfg(not(target_os = "linux"))]
fn folder(_store_device: u64) -> Option<PathBuf> {
    None
}

/// A name that no other process uses, even one in another namespace of process ids.
fn beside(file: &Path) -> Option<PathBuf> {
    let suffix: [u8; 8] = random::bytes().ok()?;
    Some(file.with_extension(hex::encode(suffix)))
}

/// Writes a file whole or not at all. Only this user can write in the folder.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let beside = beside(file).ok_or(std::io::ErrorKind::Other)?;
    let mut new = std::fs::File::create(&beside)?;
    new.write_all(text.as_bytes())?;
    std::fs::rename(&beside, file)
}

/// Removes the older half of the files if there are too many.
fn prune(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let dated = |entry: std::fs::DirEntry| {
        let modified = entry.metadata().and_then(|found| found.modified()).ok()?;
        Some((modified, entry.path()))
    };
    let mut files: Vec<_> = entries.flatten().filter_map(dated).collect();
    if files.len() > MOST_FILES {
        files.sort_unstable();
        for (_, path) in files.iter().take(MOST_FILES / 2) {
            // A file that is already gone, or that cannot be removed, does no harm.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_marker_needs_a_private_folder_in_memory_on_another_device() {
        let disk = tempfile::tempdir().unwrap();
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
            return println!("SKIPPED (needs /dev/shm)");
        };
        let found = std::fs::metadata(memory.path()).unwrap();
        let (user, device) = (found.uid(), found.dev());
        let of_disk = std::fs::metadata(disk.path()).unwrap().dev();
        if device == of_disk || !in_memory(memory.path(), of_disk) {
            return println!("SKIPPED (needs a disk, and a tmpfs in /dev/shm)");
        }
        let [on_disk, private] = [&disk, &memory].map(|folder| folder.path().join("landfall"));
        assert!(!fits(&on_disk, user, device) && !fits(&on_disk, user, of_disk));
        assert!(!on_disk.exists(), "nothing is created where a marker is impossible");
        assert!(!fits(&private, user, device), "a device that has both may be copied with both");
        assert!(fits(&private, user, of_disk));
        assert!(!fits(&private, user + 1, of_disk));
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(!fits(&private, user, of_disk));
        std::fs::remove_dir(&private).unwrap();
        std::os::unix::fs::symlink(disk.path(), &private).unwrap();
        assert!(!fits(&private, user, of_disk), "a link leads anywhere");
    }
}
