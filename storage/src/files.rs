//! Paths, headers, modes and owners of database files, and small files beside them. It knows no table.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Foreign, OpenError, StorageError};

/// The magic bytes at the beginning of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Offset of the application id in SQLite's file header, big-endian.
const APPLICATION_ID_AT: usize = 68;

/// Length of SQLite's file header.
const HEADER: usize = 100;

/// Suffix of a file that is not complete yet.
pub(crate) const UNFINISHED: &str = ".partial";

/// The most bytes that [`read_beside`] reads.
const SMALL: u64 = 4 * 1024;

/// The kind of file at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No file, or an empty one that a crash left before its first page.
    Nothing,
    /// A database with our application id, or without any yet.
    Database,
}

/// `path` with `suffix` appended: `notes.db` → `notes.db.lock`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Resolves symbolic links to the one path of a file: two names must not give two locks.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    if let Ok(real) = fs::canonicalize(path) {
        return Ok(real);
    }
    let folder = folder_of(path);
    let missing = |source| OpenError::FolderMissing { path: folder.to_owned(), source };
    let folder_is = fs::metadata(folder).map_err(|source| sort_missing(folder, source, missing))?;
    if !folder_is.is_dir() {
        return Err(missing(io::ErrorKind::NotADirectory.into()));
    }
    let real = fs::canonicalize(folder).map_err(|source| sort_missing(folder, source, missing))?;
    let name = path
        .file_name()
        .ok_or_else(|| OpenError::NotOurs { path: path.to_owned(), what: Foreign::NotAFile })?;
    Ok(real.join(name))
}

/// The parent folder of a file; `.` for a bare file name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

fn sort_missing(
    folder: &Path,
    source: io::Error,
    missing: impl FnOnce(io::Error) -> OpenError,
) -> OpenError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(source),
        _ => OpenError::from_storage(folder, StorageError::Io(source)),
    }
}

/// Reads the header before anything is locked, opened or created: a foreign file is rejected, and no file is
/// left beside it.
pub(crate) fn inspect(path: &Path, application_id: i32) -> Result<Found, OpenError> {
    let failed = |source| OpenError::from_storage(path, StorageError::Io(source));
    let not_ours = |what| Err(OpenError::NotOurs { path: path.to_owned(), what });
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return not_ours(Foreign::NotAFile),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed(error)),
    }
    let mut header = Vec::with_capacity(HEADER);
    let file = File::open(path).map_err(failed)?;
    file.take(HEADER as u64).read_to_end(&mut header).map_err(failed)?;
    if header.is_empty() {
        return Ok(Found::Nothing);
    }
    if header.len() < HEADER || !header.starts_with(MAGIC) {
        return not_ours(Foreign::NotSqlite);
    }
    let mut id = [0; 4];
    id.copy_from_slice(&header[APPLICATION_ID_AT..APPLICATION_ID_AT + 4]);
    match i32::from_be_bytes(id) {
        // The id may still be in the WAL: SQLite checks it after opening.
        0 => Ok(Found::Database),
        id if id == application_id => Ok(Found::Database),
        found => not_ours(Foreign::OtherApplication { found }),
    }
}

/// Opens a file for reading and writing, creating it with the requested mode; a file that root creates gets
/// the owner of `model`. The files that SQLite creates beside a database (`-wal`, `-shm`) inherit the
/// database's mode and owner.
pub(crate) fn open_or_create(path: &Path, private: bool, model: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    restrict_creation(&mut options, private);
    loop {
        match options.open(path) {
            Ok(made) => return give(&made, model).map(|()| made),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        match OpenOptions::new().read(true).write(true).open(path) {
            // Removed between the two calls: try again.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_link(path) => {}
            opened => return opened,
        }
    }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// Gives a file that root created to the owner of `model`; without such a file, to the owner of its folder. A
/// service must be able to open its files after its operator ran a command as root.
#[cfg(unix)]
pub(crate) fn give(file: &File, model: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = || fs::metadata(folder_of(model));
    let owner = fs::metadata(model).or_else(|_| folder())?;
    let now = file.metadata()?;
    if (now.uid(), now.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    let (user, group) =
        (rustix::fs::Uid::from_raw(owner.uid()), rustix::fs::Gid::from_raw(owner.gid()));
    Ok(rustix::fs::fchown(file, Some(user), Some(group))?)
}

#[cfg(not(unix))]
pub(crate) fn give(_: &File, _: &Path) -> io::Result<()> {
    Ok(())
}

/// Opens a file that replaces `old`, with the owner and the mode of `old`.
#[cfg(unix)]
pub(crate) fn open_for_place(new: &Path, old: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // The folder's owner could have put a symbolic link there, and root would change the owner of its target.
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(no_link).open(new)?;
    give(&file, old)?;
    if let Ok(old) = fs::metadata(old) {
        file.set_permissions(old.permissions())?;
    }
    Ok(file)
}

#[cfg(not(unix))]
pub(crate) fn open_for_place(new: &Path, _: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(new)
}

/// Copies a file to a new one with the same owner and mode, and fsyncs the copy.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut copy = create_new(to, true)?;
    give(&copy, from)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.set_permissions(fs::metadata(from)?.permissions())?;
    copy.sync_all()
}

/// Writes a small file beside a database, named after it with a suffix. Replaces an existing one atomically,
/// and gives it the database's owner and mode.
///
/// # Errors
/// The file system's; an existing file is then unchanged.
pub fn write_beside(database: &Path, suffix: &str, content: &[u8]) -> io::Result<()> {
    let database = &fs::canonicalize(database)?;
    let new = beside(database, &format!("{suffix}{UNFINISHED}"));
    match fs::remove_file(&new) {
        // Removes the leftover of a killed process.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = create_new(&new, true)?;
    let written = give(&file, database)
        .and_then(|()| file.set_permissions(fs::metadata(database)?.permissions()))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, beside(database, suffix)));
    if written.is_err() {
        // Report the first error.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Reads a small file beside a database; `None` if there is none, or if it is not a regular file of at most
/// 4 KiB.
pub fn read_beside(database: &Path, suffix: &str) -> Option<Vec<u8>> {
    let path = beside(&fs::canonicalize(database).ok()?, suffix);
    let is_small = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= SMALL);
    let mut content = Vec::new();
    let file = is_small.then(|| File::open(path)).and_then(Result::ok)?;
    file.take(SMALL).read_to_end(&mut content).ok().map(|_| content)
}

/// As [`open_or_create`], but the file must not exist.
pub(crate) fn create_new(path: &Path, private: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    restrict_creation(&mut options, private);
    options.open(path)
}

#[cfg(unix)]
fn restrict_creation(options: &mut OpenOptions, private: bool) {
    use std::os::unix::fs::OpenOptionsExt;
    if private {
        options.mode(0o600);
    }
}

#[cfg(not(unix))]
fn restrict_creation(_: &mut OpenOptions, _: bool) {}

/// Restricts the files of an existing database to their owner.
#[cfg(unix)]
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let paths =
        [path.to_owned(), beside(path, "-wal"), beside(path, "-shm"), beside(path, ".lock")];
    for path in paths {
        match fs::metadata(&path) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn make_private(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes a new file's name durable: an fsync of the file does not reach its folder's entry.
#[cfg(unix)]
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

#[cfg(not(unix))]
pub(crate) fn sync_folder_of(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Fsyncs a file if it exists.
pub(crate) fn sync_if_there(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The length of a file in bytes, 0 if it does not exist.
pub(crate) fn length(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Bytes that this process's user can still write on the file system of a file.
#[cfg(unix)]
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(not(unix))]
pub(crate) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Whether this process may create files in the folder of a file.
#[cfg(unix)]
pub(crate) fn may_write_beside(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, folder_of(path), Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(not(unix))]
pub(crate) fn may_write_beside(_: &Path) -> bool {
    true
}
