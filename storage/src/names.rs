//! Refuses databases with hard links. SQLite's write-ahead log and our lock are found by the database's
//! name, so a file that is opened through two names has two of each, and two writers.

use std::path::Path;

use crate::error::OpenError;

/// Refuses a file that has names besides this one and those that a killed restore leaves, which start
/// with it: `relay.db.before-…`. Accepts a missing file.
#[cfg(unix)]
pub(crate) fn refuse_others(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::MetadataExt;

    let Ok(file) = std::fs::metadata(path) else { return Ok(()) };
    let names = file.nlink();
    if names <= 1 {
        return Ok(());
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let is_ours = |entry: &std::fs::DirEntry| {
        let other = entry.file_name();
        let rest = other.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        let is_named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."));
        is_named
            && entry.metadata().is_ok_and(|of| (of.dev(), of.ino()) == (file.dev(), file.ino()))
    };
    let entries =
        std::fs::read_dir(folder).map(|entries| entries.flatten().filter(is_ours).count());
    match entries {
        Ok(ours) if ours as u64 >= names => Ok(()),
        _ => Err(OpenError::OtherNames { path: path.to_owned(), names }),
    }
}

/// Accepts every file: this system does not report the number of names.
#[cfg(not(unix))]
pub(crate) fn refuse_others(_path: &Path) -> Result<(), OpenError> {
    Ok(())
}
