//! Exports a space as a portable file, and imports one. The format is `landfall-protocol`'s.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use landfall_protocol::admission::{CheckedChange, HistoryError, Roots, preflight};
use landfall_protocol::frame::entry_flags;
use landfall_protocol::limits;
use landfall_protocol::portable::{Counts, Decoder, Encoder, PortableError, Record};
use landfall_storage::{NewFile, NewFileError};

use super::{AdminError, close, open, take};
use crate::clock::now_ms;
use crate::error::StoreError;
use crate::store::{ImportChange, LocalLog, OpenMode, SpaceRow};
pub use crate::store::{LeftOut, OutsideReason};
use crate::{ChangeHash, DocumentId, SpaceName};

/// How many bytes are written or read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The most changes in one transaction, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// The most bytes of changes that precede one of their dependencies. In an exported file each change
/// follows its dependencies; a file of another origin may differ.
const EARLY_BYTES: usize = 64 << 20;

/// The result of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Documents in the file, including deleted ones.
    pub documents: u64,
    /// Deleted documents.
    pub tombstones: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Changes beside those in snapshots.
    pub changes: u64,
    /// Changes that the store keeps outside its documents, and that the file does not contain. They
    /// stay in the store.
    pub left_out: Vec<LeftOut>,
}

/// The result of an import.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Imported {
    /// The space that received them.
    pub space: SpaceName,
    /// Documents in the file.
    pub documents: u64,
    /// Changes of the file that are here now, including those that were here before.
    pub changes: u64,
    /// How many of them were here before.
    pub known: u64,
    /// Deletions that are new here.
    pub deletions: u64,
    /// How many of the deleted documents have orphaned edits that the relay is not known to hold:
    /// [`Space::orphaned_edits`](crate::Space::orphaned_edits) lists them.
    pub kept: u64,
    /// Changes of documents that are deleted here: a deletion is permanent.
    pub deleted_here: u64,
    /// Changes that were not admitted: the document, and the reason.
    pub refused: Vec<(DocumentId, String)>,
}

/// Writes all documents of a space to a new portable file, also beside the process that has the store
/// open. The file is fsynced and read again before it gets its name. Changes that the store keeps
/// outside its documents are not in it, and are listed in [`Exported::left_out`].
///
/// # Errors
/// See [`AdminError`]; nothing is left at the target then.
pub fn export(
    path: impl AsRef<Path>,
    space: &SpaceName,
    target: impl AsRef<Path>,
) -> Result<Exported, AdminError> {
    let target = target.as_ref();
    let log = open(OpenMode::ReadOnly(path.as_ref()))?;
    let spaces = log.spaces().map_err(StoreError::from)?;
    let row = spaces.into_iter().find_map(|(name, row, _)| (name == *space).then_some(row));
    let row = row.ok_or_else(|| AdminError::NoSpace(space.clone()))?;
    let failed = |source| AdminError::File { path: target.to_owned(), source };
    let of_file = |error| match error {
        NewFileError::Exists { path } => AdminError::Exists(path),
        NewFileError::Failed { path, source } => AdminError::File { path, source },
        error => AdminError::Copy(Box::new(error)),
    };
    let made = NewFile::begin(target, true).map_err(of_file)?;
    let mut out = Vec::new();
    let mut encoder = Encoder::new(space, now_ms(), &mut out);
    let mut trouble = None;
    let read = log.contents(row, &mut |record| {
        let added = encoder.add(&record, &mut out).map_err(AdminError::from);
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
    let Counts { documents, tombstones, snapshots, changes } = encoder.finish(&mut out)?;
    write_out(made.file(), &mut out).map_err(failed)?;
    made.file().sync_all().map_err(failed)?;
    let again = File::open(made.path()).map_err(failed)?;
    read_all(again, target, &mut |_| Ok(()))?;
    made.finish().map_err(of_file)?;
    let left_out = log.left_out(row).map_err(StoreError::from)?;
    Ok(Exported { documents, tombstones, snapshots, changes, left_out })
}

/// Imports a portable file into a store that no process has open, into the space that the file names or
/// another one. The store is created if there is none; its folder must exist. The changes are admitted
/// as all others are, and are sent to the relay as local changes are; changes that are already here are
/// no error.
///
/// # Errors
/// See [`AdminError`]. A cut or damaged file changes nothing. An import that ended early can be
/// repeated.
pub fn import(
    path: impl AsRef<Path>,
    file: impl AsRef<Path>,
    space: Option<&SpaceName>,
) -> Result<Imported, AdminError> {
    let file = file.as_ref();
    let unread = |source| AdminError::File { path: file.to_owned(), source };
    let mut opened = File::open(file).map_err(unread)?;
    let mut named = None;
    let counts = read_all(&opened, file, &mut |record| {
        if let Record::Space { name, .. } = record {
            named = Some(name);
        }
        Ok(())
    })?;
    opened.seek(SeekFrom::Start(0)).map_err(unread)?;
    // A complete file names a space.
    let space = space.cloned().or(named).ok_or(PortableError::NotPortable)?;
    let log = match path.as_ref().exists() {
        true => take(path.as_ref())?,
        false => open(OpenMode::File(path.as_ref()))?,
    };
    let imported = Import::begin(&log, space).and_then(|mut import| {
        read_all(&opened, file, &mut |record| import.take(record))?;
        import.finish()
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
    take: &mut dyn FnMut(Record) -> Result<(), AdminError>,
) -> Result<Counts, AdminError> {
    let mut decoder = Decoder::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => return Ok(decoder.finish()?),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(AdminError::File { path: path.to_owned(), source }),
        };
        decoder.feed(&piece[..length]);
        while let Some(record) = decoder.next()? {
            take(record)?;
        }
    }
}

/// An import in progress.
struct Import<'a> {
    log: &'a LocalLog,
    row: SpaceRow,
    document: DocumentId,
    /// The bytes of the document's snapshot read so far, and its total size.
    snapshot: (Vec<u8>, usize),
    waiting: ImportBatch,
    /// Changes that precede one of their dependencies, with the error of each.
    early: Vec<(ImportChange, HistoryError)>,
    early_bytes: usize,
    done: Imported,
}

/// The changes of one transaction.
#[derive(Default)]
struct ImportBatch {
    changes: Vec<ImportChange>,
    bytes: usize,
}

impl<'a> Import<'a> {
    fn begin(log: &'a LocalLog, space: SpaceName) -> Result<Self, AdminError> {
        let row = log.ensure_space(&space).map_err(StoreError::from)?;
        Ok(Self {
            log,
            row,
            document: DocumentId::from_bytes([0; 16]),
            snapshot: (Vec::new(), 0),
            waiting: ImportBatch::default(),
            early: Vec::new(),
            early_bytes: 0,
            done: Imported {
                space,
                documents: 0,
                changes: 0,
                known: 0,
                deletions: 0,
                kept: 0,
                deleted_here: 0,
                refused: Vec::new(),
            },
        })
    }

    fn take(&mut self, record: Record) -> Result<(), AdminError> {
        match record {
            Record::Space { .. } | Record::End(_) => Ok(()),
            Record::Document(document) => {
                self.document = document;
                Ok(())
            }
            Record::Tombstone { at_ms, .. } => self.delete(at_ms),
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
                self.compacted(&body)
            }
            Record::Change { at_ms, flags, chunk, .. } => {
                let is_second = flags & entry_flags::SECOND_ROOT != 0;
                let roots = if is_second { Roots::Several } else { Roots::One };
                match preflight(&chunk) {
                    Ok(change) => self.change(at_ms, change, roots),
                    Err(error) => {
                        self.refuse(self.document, error.to_string());
                        Ok(())
                    }
                }
            }
        }
    }

    /// Imports a snapshot change by change: the relay is not known to hold those changes.
    fn compacted(&mut self, body: &[u8]) -> Result<(), AdminError> {
        let chunks = match landfall_compaction::changes_since(body, &[]) {
            Ok(chunks) => chunks,
            Err(error) => {
                self.refuse(self.document, error.to_string());
                return Ok(());
            }
        };
        let mut changes = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            match preflight(&chunk) {
                Ok(change) => changes.push(change),
                Err(error) => self.refuse(self.document, error.to_string()),
            }
        }
        let is_root = |change: &&CheckedChange| change.dependencies.is_empty();
        let roots: Vec<ChangeHash> =
            changes.iter().filter(is_root).map(|change| change.hash).collect();
        // Records of compacted changes have no flag for second roots. Several roots in one history show
        // that they were merged; whether it is the history of the document here is checked separately.
        let several = roots.len() > 1 && {
            self.flush()?;
            self.log.takes_roots(self.row, &self.document, &roots).map_err(StoreError::from)?
        };
        let (roots, now) = (if several { Roots::Several } else { Roots::One }, now_ms());
        changes.into_iter().try_for_each(|change| self.change(now, change, roots))
    }

    fn change(
        &mut self,
        at_ms: u64,
        change: CheckedChange,
        roots: Roots,
    ) -> Result<(), AdminError> {
        let document = self.document;
        self.waiting.bytes += change.bytes.len();
        self.waiting.changes.push(ImportChange { document, change, at_ms, roots });
        match self.waiting.changes.len() < BATCH && self.waiting.bytes < BATCH_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Stores the changes collected for a transaction.
    fn flush(&mut self) -> Result<(), AdminError> {
        let ImportBatch { changes, .. } = std::mem::take(&mut self.waiting);
        if !changes.is_empty() {
            self.store(changes)?;
        }
        Ok(())
    }

    /// Returns how many changes were stored.
    fn store(&mut self, changes: Vec<ImportChange>) -> Result<u64, AdminError> {
        let stored = self.log.import_changes(self.row, changes).map_err(StoreError::from)?;
        self.done.changes += stored.taken;
        self.done.known += stored.known;
        for (change, error) in stored.refused {
            match error {
                HistoryError::Deleted => self.done.deleted_here += 1,
                HistoryError::MissingDependency { .. }
                | HistoryError::SequenceGap { .. }
                | HistoryError::UnknownActor { .. }
                    if self.early.len() < limits::DEFERRED_CHANGES
                        && self.early_bytes < EARLY_BYTES =>
                {
                    self.early_bytes += change.change.bytes.len();
                    self.early.push((change, error));
                }
                error => self.refuse(change.document, error.to_string()),
            }
        }
        Ok(stored.taken)
    }

    /// Stores everything; changes that came too early are retried as long as some are admitted.
    fn finish(mut self) -> Result<Imported, AdminError> {
        self.flush()?;
        loop {
            let early = std::mem::take(&mut self.early);
            self.early_bytes = 0;
            let mut taken = 0;
            let mut changes = early.into_iter().map(|(change, _)| change).peekable();
            while changes.peek().is_some() {
                taken += self.store(changes.by_ref().take(BATCH).collect())?;
            }
            if taken == 0 {
                break;
            }
        }
        for (change, error) in std::mem::take(&mut self.early) {
            self.refuse(change.document, error.to_string());
        }
        Ok(self.done)
    }

    fn refuse(&mut self, document: DocumentId, why: String) {
        self.done.refused.push((document, why));
    }

    fn delete(&mut self, at_ms: u64) -> Result<(), AdminError> {
        self.flush()?;
        let deletion = self.log.import_deletion(self.row, self.document, at_ms);
        let deletion = deletion.map_err(StoreError::from)?;
        self.done.deletions += u64::from(deletion.is_new);
        self.done.kept += u64::from(deletion.kept > 0);
        Ok(())
    }
}
