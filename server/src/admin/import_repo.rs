//! `import-repo`: the data folder of an automerge-repo sync server into a store that no relay uses.
//!
//! A document's files are opened together, in a child: they may overlap, come in any order, and hold chunks
//! of any type. Valid new changes pass the same admission as clients' pushes; invalid ones are reported, and
//! the import continues. Content that the store already has is no error, so an interrupted import is simply
//! repeated.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_compaction::Absorbed;
use landfall_protocol::SpaceName;
use landfall_protocol::admission::Roots;

use super::AdminError;
use super::repo_folder::{self, Listing, RepoDocument};
use super::writing::{REFUSALS, SpaceWriter, WriteCounts};
use crate::clock::now_ms;
use crate::compaction::{Brought, Chunks, CompactionOptions, MergeError, Merged, brought};
use crate::limits;
use crate::store::{Log, SqliteStore, StoreError};

/// The author of imported entries: the folder does not record the real ones.
const AUTHOR: &[u8] = b"import-repo";

/// Documents per progress line in the log.
const TELL_EVERY: u64 = 500;

/// The result of an import.
#[derive(Debug)]
pub(crate) struct RepoImported {
    /// The target space.
    pub(crate) space: SpaceName,
    /// Number of documents in the folder.
    pub(crate) documents: u64,
    /// Number of documents with new content.
    pub(crate) added: u64,
    /// Number of documents that are deleted in the store.
    pub(crate) deleted_here: u64,
    /// The entries written, counted by kind.
    pub(crate) written: WriteCounts,
    /// Content that could not be imported: its path, and the reason.
    pub(crate) problems: Findings,
    /// Content of the folder that is not a document.
    pub(crate) others: Findings,
}

/// A list of findings, of which the first few are kept.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Their number.
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) first: Vec<(PathBuf, String)>,
}

impl Findings {
    fn add(&mut self, path: PathBuf, why: String) {
        self.count += 1;
        if self.first.len() < REFUSALS {
            self.first.push((path, why));
        }
    }
}

/// Imports a folder into the store of a data folder, into a space.
pub(crate) fn import_repo(
    data: &Path,
    folder: &Path,
    space: SpaceName,
    compactions: CompactionOptions,
) -> Result<RepoImported, AdminError> {
    let listing = repo_folder::documents(folder);
    let listing = listing.map_err(|error| AdminError::Read(folder.to_owned(), error))?;
    if listing.found.is_empty() {
        // A wrong name must not create a store.
        return Err(AdminError::NoRepo(folder.to_owned()));
    }
    let store = Arc::new(SqliteStore::open(data)?);
    let imported = SpaceWriter::begin(&store, space, compactions)
        .and_then(|writing| ImportRepo::new(writing, &listing).run(listing));
    // The first error is the one returned.
    let closed = store.close();
    let imported = imported?;
    closed?;
    Ok(imported)
}

/// An import in progress.
struct ImportRepo {
    writing: SpaceWriter,
    documents: u64,
    added: u64,
    deleted_here: u64,
    problems: Findings,
    others: Findings,
}

impl ImportRepo {
    fn new(writing: SpaceWriter, listing: &Listing<RepoDocument>) -> Self {
        Self {
            writing,
            documents: listing.found.len() as u64,
            added: 0,
            deleted_here: 0,
            problems: Findings::default(),
            others: Findings::default(),
        }
    }

    fn run(mut self, listing: Listing<RepoDocument>) -> Result<RepoImported, AdminError> {
        listing.others.into_iter().for_each(|(path, why)| self.others.add(path, why));
        for (number, document) in (1..).zip(listing.found) {
            self.document(&document)?;
            if number % TELL_EVERY == 0 {
                let (of, problems) = (self.documents, self.problems.count);
                tracing::info!(documents = number, of, problems, "importing");
            }
        }
        self.writing.flush()?;
        let Self { writing, documents, added, deleted_here, problems, others } = self;
        let (space, written) = (writing.space, writing.done);
        let done =
            RepoImported { space, documents, added, deleted_here, written, problems, others };
        Ok(done)
    }

    fn document(&mut self, document: &RepoDocument) -> Result<(), AdminError> {
        let files = match repo_folder::chunks(&document.folder) {
            Ok(files) => files,
            Err(error) => {
                self.problems.add(document.folder.clone(), error.to_string());
                return Ok(());
            }
        };
        files.others.into_iter().for_each(|(path, why)| self.others.add(path, why));
        let (mut paths, mut parts, mut bytes) = (Vec::new(), Vec::new(), 0);
        for path in files.found {
            match read(&path, limits::IMPORT_BYTES - bytes) {
                Ok(part) if part.is_empty() => {
                    self.problems.add(path, "it is empty".to_owned());
                }
                Ok(part) => {
                    bytes += part.len() as u64;
                    parts.push(Arc::new(part));
                    paths.push(path);
                }
                Err(error) => self.problems.add(path, error.to_string()),
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        self.writing.document = document.id;
        if self.writing.is_deleted()? {
            self.deleted_here += 1;
            return Ok(());
        }
        self.merge(document, &paths, parts)
    }

    fn merge(
        &mut self,
        document: &RepoDocument,
        paths: &[PathBuf],
        parts: Vec<Arc<Vec<u8>>>,
    ) -> Result<(), AdminError> {
        let (space, id) = (self.writing.space.clone(), document.id);
        let chunks = Chunks { space, document: id, parts };
        let opened = self.writing.worker.open_chunks(&chunks, true);
        let opened = opened.and_then(|absorbed| {
            let Absorbed { news, left_out, left_out_count } = absorbed;
            Ok((brought(news)?, left_out, left_out_count))
        });
        let (brought, left_out, count) = match opened {
            Ok(opened) => opened,
            Err(MergeError::NoWorker) => return Err(AdminError::NoWorker),
            Err(MergeError::Store(error)) => return Err(error.into()),
            // Neither can occur: no other compaction runs here, and no relation is required.
            Err(MergeError::Overtaken | MergeError::Unrelated) => {
                return Err(StoreError::unsupported().into());
            }
            Err(MergeError::Worker(error)) => {
                self.problems.add(document.folder.clone(), error.to_string());
                return Ok(());
            }
        };
        self.problems.count += count - left_out.len() as u64;
        for left_out in left_out {
            let path = paths.get(left_out.part).unwrap_or(&document.folder);
            self.problems.add(path.clone(), left_out.reason);
        }
        match brought {
            Brought::Merged(Merged::Nothing) => Ok(()),
            Brought::Merged(Merged::Snapshot(snapshot)) => {
                self.added += 1;
                self.writing.snapshot(snapshot)
            }
            Brought::Changes(changes) | Brought::Apart(changes) => {
                self.added += 1;
                self.writing.changes(changes, now_ms(), AUTHOR.to_vec(), Roots::Several)
            }
        }
    }
}

/// Reads a file of at most `most` bytes.
fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?.len();
    if length > most {
        let limit = limits::IMPORT_BYTES;
        let what = format!("the document's files have more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    std::fs::read(path)
}
