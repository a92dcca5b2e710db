//! `import`: a portable file into a store that no relay uses.
//!
//! The file is read twice: nothing is taken of one that is cut or damaged. What is in it passes the
//! same admission as what clients push, and its snapshots the same inspection in a child. So what
//! is there already is no error, and an interrupted import is simply done again.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use landfall_protocol::SpaceName;
use landfall_protocol::admission::{Roots, preflight};
use landfall_protocol::frame::entry_flags;
use landfall_protocol::portable::{PortableError, Record};

use super::OperateError;
use super::export::read;
use super::writing::{Writing, Written};
use crate::folding::{Brought, FoldOptions, MergeError, Merged, Offer};
use crate::store::{LogStore, SqliteStore, StoreError};

/// What became of a file.
#[derive(Debug)]
pub(crate) struct Imported {
    /// Where it went.
    pub(crate) space: SpaceName,
    /// Documents that the file has.
    pub(crate) documents: u64,
    /// What was taken of it.
    pub(crate) written: Written,
}

/// Imports a file into the store of a data folder, into the space that it names or another one.
pub(crate) fn import(
    data: &Path,
    path: &Path,
    space: Option<SpaceName>,
    folds: FoldOptions,
) -> Result<Imported, OperateError> {
    let unread = |error| OperateError::Read(path.to_owned(), error);
    let mut file = File::open(path).map_err(unread)?;
    let mut named = None;
    let counts = read(&file, path, &mut |record| {
        if let Record::Space { name, .. } = record {
            named = Some(name);
        }
        Ok(())
    })?;
    file.seek(SeekFrom::Start(0)).map_err(unread)?;
    // A whole file names one.
    let nameless = || OperateError::Portable(path.to_owned(), PortableError::NotPortable);
    let space = space.or(named).ok_or_else(nameless)?;

    let store = Arc::new(SqliteStore::open(data)?);
    let written = Writing::begin(&store, space.clone(), folds).and_then(|writing| {
        let mut import = Import { writing, snapshot: None };
        read(&file, path, &mut |record| import.take(record))?;
        import.writing.flush()?;
        Ok(import.writing.done)
    });
    // The first error counts.
    let closed = store.close();
    let written = written?;
    closed?;
    Ok(Imported { space, documents: counts.documents, written })
}

/// An import under way.
struct Import {
    writing: Writing,
    /// The document's snapshot, of which so many bytes are to come.
    snapshot: Option<([u8; 32], Vec<u8>, usize)>,
}

impl Import {
    fn take(&mut self, record: Record) -> Result<(), OperateError> {
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

    fn snapshot(&mut self, hash: [u8; 32], body: Vec<u8>) -> Result<(), OperateError> {
        // It is merged with what is durable.
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
            Err(MergeError::NoWorker) => return Err(OperateError::NoWorker),
            Err(MergeError::Store(error)) => return Err(error.into()),
            // Nobody else folds here.
            Err(MergeError::Overtaken) => return Err(StoreError::unsupported().into()),
            Err(MergeError::Worker(error)) => {
                self.writing.refuse(format!("its snapshot: {error}"));
                return Ok(());
            }
            Err(MergeError::Unrelated) => {
                let what = "its snapshot has nothing in common with the document that is here";
                self.writing.refuse(what.to_owned());
                return Ok(());
            }
        };
        self.writing.snapshot(snapshot)
    }

    /// What a snapshot and what is here come to.
    fn merge(&self, hash: [u8; 32], body: Vec<u8>) -> Result<Brought, MergeError> {
        let Writing { worker, space, document, .. } = &self.writing;
        let (space, document, bytes) = (space.clone(), *document, Arc::new(body));
        worker.merge(&Offer { space, document, hash, heads: None, bytes })
    }
}

#[cfg(all(test, unix))]
mod tests;
