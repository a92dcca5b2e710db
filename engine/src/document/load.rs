//! Builds a document from the store's bytes, and contains automerge's failures.

use std::sync::Arc;

use automerge::{Automerge, Change, LoadOptions, PatchLog, TextEncoding};
use landfall_protocol::admission::{Budget, OverBudget, measure};
use landfall_protocol::{ChangeHash, DocumentId, limits};
use sha2::{Digest, Sha256};

use super::Loaded;
use crate::changes::{apply_parsed, contained, empty};
use crate::error::StoreError;
use crate::store::{DocumentRow, LocalLog, SpaceRow, Stored};

/// How many bytes of changes one page reads from the store.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// The most operations of a document that is loaded: the relay's limit, and as much again that a
/// replica may have beside it (`Origin::Received`).
const MOST_OPERATIONS: u64 = 2 * limits::DOCUMENT_OPERATIONS;

/// The stored pieces of a document: its snapshot, and the changes behind it in order.
#[derive(Debug, Default)]
pub(super) struct Whole {
    compacted: Option<Stored>,
    changes: Vec<Stored>,
    /// The last local sequence number that was read.
    pub(super) last: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// How many pages they were read in: each page is a snapshot of the store of its own.
    pages: u32,
}

impl Whole {
    /// Adds the next pieces. A snapshot stands for everything before it.
    fn add(&mut self, pieces: Vec<Stored>) {
        for piece in pieces {
            if piece.compacted {
                *self = Self { pages: self.pages, ..Self::default() };
            }
            self.last = piece.local;
            self.bytes += piece.body.len() as u64;
            match piece.compacted {
                true => self.compacted = Some(piece),
                false => self.changes.push(piece),
            }
        }
    }

    /// Reads the rest after a first page that was cut, or everything.
    pub(super) fn read(
        log: &LocalLog,
        row: DocumentRow,
        first: Option<Vec<Stored>>,
    ) -> Result<Self, StoreError> {
        let mut whole = Self::default();
        whole.add(first.unwrap_or_default());
        loop {
            let (pieces, more) = log.changes_after(row, whole.last, PAGE_BYTES)?;
            whole.add(pieces);
            whole.pages += 1;
            if !more {
                return Ok(whole);
            }
        }
    }

    /// The document, or automerge's error.
    pub(super) fn build(&self) -> Result<Automerge, String> {
        let (base, operations) = self.base()?;
        match self.changes.is_empty() {
            true => Ok(base),
            false => Ok(apply(&base, &self.changes, operations)?.0),
        }
    }

    /// The document built from the longest part that automerge can read: the snapshot, if that can be
    /// read, and a prefix of the changes behind it.
    fn last_good(&self) -> Automerge {
        match self.base() {
            Ok((base, operations)) => longest_prefix(base, &self.changes, operations),
            // Without the snapshot, the changes behind it cannot be applied.
            Err(_) => empty(),
        }
    }

    /// The snapshot as a document, with its number of operations.
    fn base(&self) -> Result<(Automerge, u64), String> {
        let Some(compacted) = &self.compacted else { return Ok((empty(), 0)) };
        if <[u8; 32]>::from(Sha256::digest(&compacted.body)) != compacted.hash {
            return Err("the snapshot is damaged in the store".to_owned());
        }
        let in_base = |error: String| format!("the snapshot: {error}");
        let size = measure(&compacted.body).map_err(|error| in_base(error.to_string()))?;
        let options = LoadOptions::new().text_encoding(TextEncoding::UnicodeCodePoint);
        let base = contained(|| Automerge::load_with_options(&compacted.body, options));
        base.map(|base| (base, size.operations)).map_err(in_base)
    }
}

/// The result of looking up a document's id.
pub(super) enum FoundDocument {
    Document {
        loaded: Arc<Loaded>,
        /// Why automerge could not read all of the bytes, if it could not.
        quarantined: Option<String>,
    },
    Deleted,
}

/// Builds a document from all its pieces in the store.
pub(super) fn load(
    log: &LocalLog,
    space: SpaceRow,
    document: &DocumentId,
) -> Result<FoundDocument, StoreError> {
    let row = log.document(space, document)?;
    let whole = match row {
        Some(row) => Whole::read(log, row, None)?,
        None => Whole::default(),
    };
    // After the bytes: a deletion may have removed them between two pages.
    if (whole.pages > 1 || whole.last == 0) && log.deleted(space, document)? {
        return Ok(FoundDocument::Deleted);
    }
    let (automerge, quarantined) = match whole.build() {
        Ok(built) => (built, None),
        Err(reason) => (whole.last_good(), Some(reason)),
    };
    let (applied, stored_bytes) = (whole.last, whole.bytes);
    Ok(FoundDocument::Document {
        loaded: Arc::new(Loaded { automerge, own: None, applied, stored_bytes }),
        quarantined,
    })
}

/// The document with these changes added, or automerge's error. The original is unchanged. `operations`
/// is the number before; the new number is returned.
fn apply(
    base: &Automerge,
    changes: &[Stored],
    operations: u64,
) -> Result<(Automerge, u64), String> {
    let changes = parse(changes)?;
    let added: u64 = changes.iter().map(|change| change.len() as u64).sum();
    let (actual, limit) = (operations.saturating_add(added), MOST_OPERATIONS);
    if actual > limit {
        let budget = Budget::Operations;
        return Err(OverBudget { budget, limit, actual }.to_string());
    }
    let applied = apply_parsed(base.clone(), changes, &mut PatchLog::inactive())?;
    Ok((applied, actual))
}

/// The changes, if their bytes have the stored hashes.
pub(super) fn parse(stored: &[Stored]) -> Result<Vec<Change>, String> {
    let parse = |stored: &Stored| {
        let change = Change::try_from(&stored.body[..]).map_err(|error| error.to_string())?;
        match change.hash().0 == stored.hash {
            true => Ok(change),
            false => Err(format!("change {} is damaged in the store", ChangeHash(stored.hash))),
        }
    };
    stored.iter().map(parse).collect()
}

/// The document built from the longest prefix of the changes that automerge can apply.
fn longest_prefix(base: Automerge, changes: &[Stored], operations: u64) -> Automerge {
    let (mut good, mut bad) = (0, changes.len());
    let (mut built, mut operations) = (base, operations);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match apply(&built, &changes[good..middle], operations) {
            Ok((next, now)) => (built, operations, good) = (next, now, middle),
            Err(_) => bad = middle,
        }
    }
    built
}

#[cfg(test)]
mod tests {
    use automerge::{ROOT, ReadDoc, transaction::Transactable};

    use super::*;

    fn compacted(local: u64, body: Vec<u8>) -> Stored {
        let hash = Sha256::digest(&body).into();
        Stored { local, body, compacted: true, hash }
    }

    fn change(local: u64, change: &Change) -> Stored {
        let (body, hash) = (change.raw_bytes().to_vec(), change.hash().0);
        Stored { local, body, compacted: false, hash }
    }

    fn written() -> (Automerge, Change) {
        let mut document = empty();
        document.transact(|tx| tx.put(ROOT, "k", 1)).unwrap();
        let last = document.get_last_local_change().unwrap();
        (document, last)
    }

    #[test]
    fn a_snapshot_replaces_the_changes_before_it() {
        let (mut document, first) = written();
        let mut whole = Whole::default();
        whole.add(vec![change(1, &first), compacted(2, document.save())]);
        document.transact(|tx| tx.put(ROOT, "k", 2)).unwrap();
        whole.add(vec![change(3, &document.get_last_local_change().unwrap())]);
        assert_eq!((whole.last, whole.changes.len()), (3, 1));
        assert_eq!(whole.build().unwrap().get_heads(), document.get_heads());
    }

    /// A store of an earlier version may hold a document that would take all memory: it is not shown,
    /// and the application continues.
    #[test]
    fn oversized_declarations_are_rejected_before_automerge_loads_them() {
        // A document chunk of two columns of changes: 2^29 of actor 0, sequence numbers ascending.
        let run = |value| [0x80, 0x80, 0x80, 0x80, 0x02, value];
        let mut body = [&[1, 16][..], &[1; 16], &[1], &[7; 32], &[2, 0x01, 6, 0x03, 6]].concat();
        body.push(0);
        body.extend([run(0), run(1)].concat());
        body.push(0);
        let typed = [&[0, body.len() as u8][..], &body].concat();
        let sum = &Sha256::digest(&typed)[..4];
        let claims = [&[0x85, 0x6f, 0x4a, 0x83], sum, &typed].concat();
        let mut whole = Whole::default();
        whole.add(vec![compacted(1, claims)]);
        let reason = whole.build().unwrap_err();
        assert!(reason.starts_with("the snapshot"), "{reason}");
        assert_eq!(whole.last_good().length(ROOT), 0);
        // More operations behind a snapshot than a document may have.
        let (_, first) = written();
        let changes = [change(1, &first)];
        assert!(apply(&empty(), &changes, MOST_OPERATIONS - 1).is_ok());
        let reason = apply(&empty(), &changes, MOST_OPERATIONS).unwrap_err();
        assert!(reason.contains("operations"), "{reason}");
    }

    /// Damage that automerge detects, and damage that only the hash detects.
    #[test]
    fn damaged_bytes_are_not_loaded() {
        let (document, first) = written();
        let saved = document.save();
        for damaged in [compacted(1, saved[..saved.len() / 2].to_vec()), {
            let mut other = compacted(1, saved);
            other.hash[0] ^= 1;
            other
        }] {
            let mut whole = Whole::default();
            whole.add(vec![damaged]);
            let reason = whole.build().unwrap_err();
            assert!(reason.starts_with("the snapshot"), "{reason}");
            assert_eq!(whole.last_good().length(ROOT), 0);
        }
        let mut whole = Whole::default();
        let (_, other) = written();
        let mut wrong = change(2, &other);
        wrong.hash[0] ^= 1;
        whole.add(vec![change(1, &first), wrong]);
        let reason = whole.build().unwrap_err();
        assert!(reason.contains("damaged"), "{reason}");
        assert_eq!(whole.last_good().get_heads(), document.get_heads());
    }
}
