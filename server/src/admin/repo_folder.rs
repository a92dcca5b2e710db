//! The layout of the folder in which automerge-repo's file storage keeps its documents. This module does not
//! know the content of the files.
//!
//! A key of several words is a path; the first two characters of its first word are a folder of their own. A
//! document's words are its id, then `snapshot`, `incremental` or `sync-state`, and a name.
//! `storage-adapter-id` is a key of one word.

use std::fs::{DirEntry, FileType};
use std::io;
use std::path::{Path, PathBuf};

use landfall_protocol::DocumentId;

/// Kinds of files that hold changes. Whole documents come first.
const CHUNKS: [&str; 2] = ["snapshot", "incremental"];

/// The known states of peers: useless to another server.
const SYNC_STATE: &str = "sync-state";

/// The key of the folder's own id: it belongs to the old server.
const OWN_ID: (&str, &str) = ("st", "orage-adapter-id");

/// A document's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepoDocument {
    pub(super) id: DocumentId,
    pub(super) folder: PathBuf,
}

/// The entries of a folder, ordered by name.
#[derive(Debug, Default)]
pub(super) struct Listing<T> {
    pub(super) found: Vec<T>,
    /// Skipped entries, and why.
    pub(super) others: Vec<(PathBuf, String)>,
}

/// The documents of a folder.
pub(super) fn documents(folder: &Path) -> io::Result<Listing<RepoDocument>> {
    let mut listing = Listing { found: Vec::new(), others: Vec::new() };
    for (first, kind) in entries(folder)? {
        let path = first.path();
        if !kind.is_dir() {
            listing.others.push((path, "not a folder of documents".to_owned()));
            continue;
        }
        for (rest, kind) in entries(&path)? {
            let (name, more) = (first.file_name(), rest.file_name());
            let (name, more) = (name.to_string_lossy(), more.to_string_lossy());
            if (&*name, &*more) == OWN_ID {
                continue;
            }
            let id = format!("{name}{more}").parse::<DocumentId>();
            match id {
                Ok(id) if kind.is_dir() => {
                    listing.found.push(RepoDocument { id, folder: rest.path() });
                }
                Ok(_) => listing.others.push((rest.path(), "not a folder".to_owned())),
                Err(error) => listing.others.push((rest.path(), error.to_string())),
            }
        }
    }
    Ok(listing)
}

/// The files of a document that hold changes.
pub(super) fn chunks(folder: &Path) -> io::Result<Listing<PathBuf>> {
    let mut listing = Listing { found: Vec::new(), others: Vec::new() };
    for (entry, kind) in entries(folder)? {
        let name = entry.file_name();
        let is_known = CHUNKS.iter().any(|known| name == *known) || name == SYNC_STATE;
        if !is_known || !kind.is_dir() {
            listing.others.push((entry.path(), "not a file of changes".to_owned()));
        }
    }
    for kind in CHUNKS {
        let path = folder.join(kind);
        if !path.is_dir() {
            continue;
        }
        for (entry, kind) in entries(&path)? {
            match kind.is_file() {
                true => listing.found.push(entry.path()),
                false => listing.others.push((entry.path(), "not a file".to_owned())),
            }
        }
    }
    Ok(listing)
}

/// The entries of a folder, by name. Links are followed.
fn entries(folder: &Path) -> io::Result<Vec<(DirEntry, FileType)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = match std::fs::metadata(entry.path()) {
            Ok(metadata) => metadata.file_type(),
            // A dangling link.
            Err(_) => entry.file_type()?,
        };
        entries.push((entry, kind));
    }
    entries.sort_by_key(|(entry, _)| entry.file_name());
    Ok(entries)
}
