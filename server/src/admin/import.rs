//! `import`: a portable file into a store that no relay uses.
//!
//! The file is read twice, so that nothing of a truncated or damaged one is imported. Its changes pass the
//! same admission as clients' pushes, and its snapshots the same inspection in a child. Content that the
//! store already has is no error, so an interrupted import is simply repeated.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use landfall_protocol::SpaceName;
use landfall_protocol::admission::{Roots, preflight};
use landfall_protocol::frame::entry_flags;
use landfall_protocol::portable::{PortableError, Record};

use super::AdminError;
use super::export::read;
use super::writing::{SpaceWriter, WriteCounts};
use crate::compaction::{Brought, CompactionOptions, MergeError, Merged, Upload};
use crate::store::{Log, SqliteStore, StoreError};

/// The result of an import.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The target space.
    pub(crate) space: SpaceName,
    /// Number of documents in the file.
    pub(crate) documents: u64,
    /// The entries written, counted by kind.
    pub(crate) written: WriteCounts,
}

/// Imports a file into the store of a data folder, into the space named in the file or another one.
pub(crate) fn import(
    data: &Path,
    path: &Path,
    space: Option<SpaceName>,
    compactions: CompactionOptions,
) -> Result<Imported, AdminError> {
    let unread = |error| AdminError::Read(path.to_owned(), error);
    let mut file = File::open(path).map_err(unread)?;
    let mut named = None;
    let counts = read(&file, path, &mut |record| {
        if let Record::Space { name, .. } = record {
            named = Some(name);
        }
        Ok(())
    })?;
    file.seek(SeekFrom::Start(0)).map_err(unread)?;
    // A complete file names one.
    let nameless = || AdminError::Portable(path.to_owned(), PortableError::NotPortable);
    let space = space.or(named).ok_or_else(nameless)?;

    let store = Arc::new(SqliteStore::open(data)?);
    let written = SpaceWriter::begin(&store, space.clone(), compactions).and_then(|writing| {
        let mut import = Import { writing, snapshot: None };
        read(&file, path, &mut |record| import.take(record))?;
        import.writing.flush()?;
        Ok(import.writing.done)
    });
    // The first error is the one returned.
    let closed = store.close();
    let written = written?;
    closed?;
    Ok(Imported { space, documents: counts.documents, written })
}

/// An import in progress.
struct Import {
    writing: SpaceWriter,
    /// The document's snapshot while its body arrives: hash, bytes so far, and number of bytes still to come.
    snapshot: Option<([u8; 32], Vec<u8>, usize)>,
}

impl Import {
    fn take(&mut self, record: Record) -> Result<(), AdminError> {
        match record {
            Record::Space { .. } | Record::End(_) => Ok(()),
            Record::Document(document) => {
                self.writing.document = document;
                Ok(())
            }
            Record::Tombstone { at_ms, author } => self.writing.tombstone(at_ms, author),
            Record::Snapshot { hash, bytes } => {
                let bytes = bytes as usize;
                self.snapshot = Some((hash, Vec::with_capacity(bytes), bytes));
                Ok(())
            }
            Record::Part(part) => {
                let Some((hash, mut body, bytes)) = self.snapshot.take() else { return Ok(()) };
                body.extend(part);
                if body.len() < bytes {
                    self.snapshot = Some((hash, body, bytes));
                    return Ok(());
                }
                self.snapshot(hash, body)
            }
            Record::Change { at_ms, flags, author, chunk } => match preflight(&chunk) {
                Ok(change) => {
                    let is_second = flags & entry_flags::SECOND_ROOT != 0;
                    let roots = if is_second { Roots::Several } else { Roots::One };
                    self.writing.changes(vec![change], at_ms, author, roots)
                }
                Err(error) => {
                    self.writing.refuse(error.to_string());
                    Ok(())
                }
            },
        }
    }

    fn snapshot(&mut self, hash: [u8; 32], body: Vec<u8>) -> Result<(), AdminError> {
        // The snapshot is merged with the durable state only.
        self.writing.flush()?;
        if self.writing.is_deleted()? {
            self.writing.done.deleted_here += 1;
            return Ok(());
        }
        let snapshot = match self.merge(hash, body) {
            Ok(Brought::Merged(Merged::Nothing)) => {
                self.writing.done.known += 1;
                return Ok(());
            }
            Ok(Brought::Merged(Merged::Snapshot(snapshot))) => snapshot,
            Ok(Brought::Changes(changes) | Brought::Apart(changes)) => {
                return self.writing.changes(changes, 0, Vec::new(), Roots::Several);
            }
            Err(MergeError::NoWorker) => return Err(AdminError::NoWorker),
            Err(MergeError::Store(error)) => return Err(error.into()),
            // No other compaction runs here.
            Err(MergeError::Overtaken) => return Err(StoreError::unsupported().into()),
            Err(MergeError::Worker(error)) => {
                self.writing.refuse(format!("its snapshot: {error}"));
                return Ok(());
            }
            Err(MergeError::Unrelated) => {
                let what = "its snapshot is unrelated to the document that is here";
                self.writing.refuse(what.to_owned());
                return Ok(());
            }
        };
        self.writing.snapshot(snapshot)
    }

    /// Merges a snapshot with the stored document.
    fn merge(&self, hash: [u8; 32], body: Vec<u8>) -> Result<Brought, MergeError> {
        let SpaceWriter { worker, space, document, .. } = &self.writing;
        let (space, document, bytes) = (space.clone(), *document, Arc::new(body));
        worker.merge(&Upload { space, document, hash, heads: None, bytes })
    }
}

#[cfg(all(test, unix))]
mod tests;
