//! The files themselves: their real path, their first bytes, their mode, their folder.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Foreign, OpenError, StorageError};

/// What every SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Where the application id stands in SQLite's file header, big-endian.
const APPLICATION_ID_AT: usize = 68;

/// Length of SQLite's file header.
const HEADER: usize = 100;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing yet, or an empty file that a crash left before its first page.
    Nothing,
    /// What looks like a database of ours, or one that nobody has signed yet.
    Database,
}

/// `path` with `suffix` at its end: `notes.db` → `notes.db.lock`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// The one path of a file, whatever links lead to it: two names must not give two locks.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    if let Ok(real) = fs::canonicalize(path) {
        return Ok(real);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
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

/// Looks at the first bytes, before anything is locked, opened or created: a foreign file is
/// refused without a trace beside it.
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
        // Ours may still be in the WAL; what SQLite reads decides then.
        0 => Ok(Found::Database),
        id if id == application_id => Ok(Found::Database),
        found => not_ours(Foreign::OtherApplication { found }),
    }
}

/// Opens a file for reading and writing, creating it with the mode that was asked for. What SQLite
/// creates beside a database (`-wal`, `-shm`) inherits the database's mode.
pub(crate) fn open_or_create(path: &Path, private: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    restrict_creation(&mut options, private);
    options.open(path)
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

/// Narrows the files of an existing database to their owner.
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
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(not(unix))]
pub(crate) fn sync_folder_of(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes a file's content durable, if there is the file.
pub(crate) fn sync_if_there(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The length of a file in bytes, 0 if there is none.
pub(crate) fn length(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
