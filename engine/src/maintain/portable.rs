//! A space as a portable file, and back.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;

use landfall_protocol::admission::{CheckedChange, preflight};
use landfall_protocol::portable::{Counts, Decoder, Encoder, PortableError, Record};
use landfall_storage::{Durability, NewFile, NewFileError, WriteError};

use super::{MaintainError, close, now_ms, open, take};
use crate::error::{StoreError, StoreFailure};
use crate::store::{AppendError, LocalChange, LocalLog, Place, SpaceRow};
use crate::{DocumentId, SpaceName};

/// Bytes that are written or read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Changes in one transaction.
const BATCH: usize = 256;

/// What an import came to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Imported {
    /// Where it went.
    pub space: SpaceName,
    /// Documents that the file has.
    pub documents: u64,
    /// Changes of the file that are here now; those that were here before count too.
    pub changes: u64,
    /// Deletions that are new here.
    pub deletions: u64,
    /// What is of documents that are deleted here: a deletion is for good.
    pub deleted_here: u64,
    /// What was refused: whose, and why.
    pub refused: Vec<(DocumentId, String)>,
}

/// Writes all that a space holds to a new portable file, also beside the process that has the store
/// open. The file is fsynced and read again, and has its name only then.
///
/// # Errors
/// See [`MaintainError`]; nothing is left at the target then.
pub fn export(
    path: impl AsRef<Path>,
    space: &SpaceName,
    target: impl AsRef<Path>,
) -> Result<Counts, MaintainError> {
    let target = target.as_ref();
    let log = open(Place::ReadOnly(path.as_ref()))?;
    let spaces = log.spaces().map_err(StoreError::from)?;
    let row = spaces.into_iter().find_map(|(name, row, _)| (name == *space).then_some(row));
    let row = row.ok_or_else(|| MaintainError::NoSpace(space.clone()))?;
    let failed = |source| MaintainError::File { path: target.to_owned(), source };
    let of_file = |error| match error {
        NewFileError::Exists { path } => MaintainError::Exists(path),
        NewFileError::Failed { path, source } => MaintainError::File { path, source },
        error => MaintainError::Copy(Box::new(error)),
    };
    let made = NewFile::begin(target, true).map_err(of_file)?;
    let mut out = Vec::new();
    let mut encoder = Encoder::new(space, now_ms(), &mut out);
    let mut trouble = None;
    let read = log.contents(row, &mut |record| {
        let added = encoder.add(&record, &mut out).map_err(MaintainError::from);
        let written = added.and_then(|()| match out.len() < PIECE_BYTES {
            true => Ok(()),
            false => write_out(made.file(), &mut out).map_err(failed),
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                trouble = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    read.map_err(StoreError::from)?;
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    let counts = encoder.finish(&mut out)?;
    write_out(made.file(), &mut out).map_err(failed)?;
    made.file().sync_all().map_err(failed)?;
    let again = File::open(made.path()).map_err(failed)?;
    read_all(again, target, &mut |_| Ok(()))?;
    made.finish().map_err(of_file)?;
    Ok(counts)
}

/// Takes a portable file into a store that nobody has open, into the space that it names or another
/// one. Its changes are admitted as all others are, and go to the relay as if they had been made
/// here; what is here already is no error.
///
/// # Errors
/// See [`MaintainError`]. A cut or damaged file changes nothing. An import that ended early is
/// simply done again.
pub fn import(
    path: impl AsRef<Path>,
    file: impl AsRef<Path>,
    space: Option<&SpaceName>,
) -> Result<Imported, MaintainError> {
    let file = file.as_ref();
    let unread = |source| MaintainError::File { path: file.to_owned(), source };
    let mut opened = File::open(file).map_err(unread)?;
    let mut named = None;
    let counts = read_all(&opened, file, &mut |record| {
        if let Record::Space { name, .. } = record {
            named = Some(name);
        }
        Ok(())
    })?;
    opened.seek(SeekFrom::Start(0)).map_err(unread)?;
    // A whole file names one.
    let space = space.cloned().or(named).ok_or(PortableError::NotPortable)?;
    let log = take(path.as_ref())?;
    let imported = Import::begin(&log, space).and_then(|mut import| {
        read_all(&opened, file, &mut |record| import.take(record))?;
        import.flush()?;
        Ok(import.done)
    });
    let closed = close(&log);
    let imported = imported?;
    closed?;
    Ok(Imported { documents: counts.documents, ..imported })
}

fn write_out(mut file: &File, out: &mut Vec<u8>) -> io::Result<()> {
    file.write_all(out)?;
    out.clear();
    Ok(())
}

/// Reads a whole portable file, record by record.
fn read_all(
    mut file: impl Read,
    path: &Path,
    take: &mut dyn FnMut(Record) -> Result<(), MaintainError>,
) -> Result<Counts, MaintainError> {
    let mut decoder = Decoder::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => return Ok(decoder.finish()?),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(MaintainError::File { path: path.to_owned(), source }),
        };
        decoder.feed(&piece[..length]);
        while let Some(record) = decoder.next()? {
            take(record)?;
        }
    }
}

/// An import under way.
struct Import<'a> {
    log: &'a LocalLog,
    row: SpaceRow,
    document: DocumentId,
    /// The bytes of the document's snapshot that have come, and how many it has.
    snapshot: (Vec<u8>, usize),
    waiting: Vec<LocalChange>,
    done: Imported,
}

impl<'a> Import<'a> {
    fn begin(log: &'a LocalLog, space: SpaceName) -> Result<Self, MaintainError> {
        let row = log.ensure_space(&space).map_err(StoreError::from)?;
        Ok(Self {
            log,
            row,
            document: DocumentId::from_bytes([0; 16]),
            snapshot: (Vec::new(), 0),
            waiting: Vec::new(),
            done: Imported {
                space,
                documents: 0,
                changes: 0,
                deletions: 0,
                deleted_here: 0,
                refused: Vec::new(),
            },
        })
    }

    fn take(&mut self, record: Record) -> Result<(), MaintainError> {
        match record {
            Record::Space { .. } | Record::End(_) => Ok(()),
            Record::Document(document) => {
                self.document = document;
                Ok(())
            }
            Record::Tombstone { at_ms, .. } => {
                self.flush()?;
                self.delete(at_ms)
            }
            Record::Snapshot { bytes, .. } => {
                self.snapshot = (Vec::new(), bytes as usize);
                Ok(())
            }
            Record::Part(part) => {
                self.snapshot.0.extend(part);
                if self.snapshot.0.len() < self.snapshot.1 {
                    return Ok(());
                }
                let body = std::mem::take(&mut self.snapshot.0);
                self.folded(&body)
            }
            Record::Change { at_ms, chunk, .. } => self.change(at_ms, &chunk),
        }
    }

    /// What is folded goes in change by change: what it folds is not known to be the relay's.
    fn folded(&mut self, body: &[u8]) -> Result<(), MaintainError> {
        match landfall_fold::changes_since(body, &[]) {
            Ok(changes) => {
                let now = now_ms();
                changes.iter().try_for_each(|chunk| self.change(now, chunk))
            }
            Err(error) => {
                self.done.refused.push((self.document, error.to_string()));
                Ok(())
            }
        }
    }

    fn change(&mut self, at_ms: u64, chunk: &[u8]) -> Result<(), MaintainError> {
        let change: CheckedChange = match preflight(chunk) {
            Ok(change) => change,
            Err(error) => {
                self.done.refused.push((self.document, error.to_string()));
                return Ok(());
            }
        };
        let (space, document) = (self.row, self.document);
        self.waiting.push(LocalChange { space, document, change, at_ms });
        match self.waiting.len() < BATCH {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<(), MaintainError> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() || self.append(&waiting)?.is_none() {
            return Ok(());
        }
        // One of them does not fit: each alone, then.
        for change in waiting {
            let document = change.document;
            if let Some(why) = self.append(&[change])? {
                match self.log.deleted(self.row, &document).map_err(StoreError::from)? {
                    true => self.done.deleted_here += 1,
                    false => self.done.refused.push((document, why)),
                }
            }
        }
        Ok(())
    }

    /// Appends changes, all or none; says why not if they do not fit.
    fn append(&mut self, changes: &[LocalChange]) -> Result<Option<String>, MaintainError> {
        match self.log.append(Durability::Full, changes.to_vec(), |_| ()) {
            Ok(_) => {
                self.done.changes += changes.len() as u64;
                Ok(None)
            }
            Err(WriteError::Job(AppendError::History(error))) => Ok(Some(error.to_string())),
            Err(error) => {
                let class = StoreFailure::from(error.class());
                Err(StoreError { class, source: Box::new(error) }.into())
            }
        }
    }

    fn delete(&mut self, at_ms: u64) -> Result<(), MaintainError> {
        let (tell, told) = mpsc::sync_channel(1);
        let done = move |result| {
            // Nobody hears it only if the waiting thread is gone.
            let _ = tell.send(result);
        };
        self.log.submit_delete(self.row, self.document, at_ms, Box::new(done));
        match told.recv() {
            Ok(Ok(committed)) => {
                self.done.deletions += u64::from(committed.value.1);
                Ok(())
            }
            Ok(Err(error)) => Err(StoreError::from(error).into()),
            Err(_) => Ok(()),
        }
    }
}
