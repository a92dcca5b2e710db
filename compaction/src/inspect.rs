//! Inspects an untrusted snapshot: it must contain only changes that the relay would have accepted in
//! pushes, one by one.

use std::collections::BTreeMap;
use std::convert::Infallible;

use automerge::{Automerge, Change, SaveOptions};
use landfall_protocol::admission::{DocumentSize, History, KnownChange, Roots, admit, preflight};
use landfall_protocol::compacted::PackedIndex;
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset};
use sha2::{Digest, Sha256};

use crate::build::{Builder, compacted_changes, contained, finish, load, number};
use crate::since::chunk;
use crate::{Compacted, CompactionError, CompactionLimits};

/// Inspects an untrusted snapshot whose SHA-256 must be `hash`. Every change in it must pass the
/// preflight and fit the changes before it, and the document is rebuilt from the changes.
///
/// Returns the given snapshot if automerge saves it as the same bytes and its operations have the same
/// order as in the rebuilt document. Otherwise it returns a new snapshot of the same changes, whose
/// hash differs from `hash`: automerge does not check the order of operations when it loads a document,
/// and inflates columns that it does not know.
pub fn inspect(snapshot: &[u8], hash: [u8; 32]) -> Result<Compacted, CompactionError> {
    inspect_within(snapshot, hash, &CompactionLimits::default())
}

/// As [`inspect`], with limits of the caller's choice.
pub(crate) fn inspect_within(
    snapshot: &[u8],
    hash: [u8; 32],
    limits: &CompactionLimits,
) -> Result<Compacted, CompactionError> {
    limits.check(snapshot.len())?;
    if <[u8; 32]>::from(Sha256::digest(snapshot)) != hash {
        return Err(CompactionError::Hash);
    }
    contained(|| {
        let document = load(snapshot, 0)?;
        let (mut told, operations_told) = (compacted_changes(&document), operations(&document)?);
        // The given bytes are returned only if automerge would save the same ones, so without unknown
        // columns.
        let is_as_saved = [true, false].into_iter().any(|deflate| {
            document.save_with_options(SaveOptions { deflate, retain_orphans: false }) == snapshot
        });
        let changes = document.get_changes(&[]);
        drop(document);
        // Only the changes are checked, so the result has to be built from them alone.
        let mut builder = Builder::new(&[])?;
        let mut admitted = Admitted::default();
        for change in changes {
            admitted.check(&change)?;
            builder.add(change)?;
        }
        let built = builder.build()?;
        let is_its_own = is_as_saved && operations(&built)? == operations_told;
        let mut found = compacted_changes(&built);
        let compacted = finish(built, limits)?;
        // The index keeps the order that the changes have in the snapshot.
        let index = PackedIndex::pack(&told)?;
        told.sort_unstable_by_key(|change| change.hash);
        found.sort_unstable_by_key(|change| change.hash);
        if told != found {
            return Err(CompactionError::Unfaithful { what: "its changes differ".to_owned() });
        }
        if is_its_own {
            return Ok(Compacted::from_parts(snapshot.to_vec(), index)?);
        }
        Ok(compacted)
    })
}

/// A fingerprint of a document's operations in their order, independent of the order of its changes:
/// the SHA-256 of actors, heads and operation columns of its saved form.
fn operations(document: &Automerge) -> Result<[u8; 32], CompactionError> {
    let options = SaveOptions { deflate: false, retain_orphans: false };
    let saved = document.save_with_options(options);
    digest(&saved)
        .ok_or_else(|| CompactionError::Unfaithful { what: "its form is unknown".to_owned() })
}

/// The saved form is: magic, checksum, type, length; actors; heads; metadata of change columns and of
/// operation columns; data of change columns and of operation columns; and more.
fn digest(saved: &[u8]) -> Option<[u8; 32]> {
    let mut rest = saved.get(9..)?;
    number(&mut rest)?;
    let begin = rest;
    for _ in 0..number(&mut rest)? {
        let length = usize::try_from(number(&mut rest)?).ok()?;
        rest = rest.get(length..)?;
    }
    let heads = usize::try_from(number(&mut rest)?).ok()?;
    rest = rest.get(heads.checked_mul(32)?..)?;
    let mut digest = Sha256::new();
    digest.update(begin.get(..begin.len() - rest.len())?);
    let changes = columns(&mut rest)?;
    let before = rest;
    let operations = columns(&mut rest)?;
    digest.update(before.get(..before.len() - rest.len())?);
    digest.update(rest.get(changes..)?.get(..operations)?);
    Some(digest.finalize().into())
}

/// Reads the metadata of columns, and returns the length of their data.
fn columns(rest: &mut &[u8]) -> Option<usize> {
    let mut length = 0usize;
    for _ in 0..number(rest)? {
        let _specification = number(rest)?;
        length = length.checked_add(usize::try_from(number(rest)?).ok()?)?;
    }
    Some(length)
}

/// The changes checked so far: the history for the ones that follow.
#[derive(Default)]
struct Admitted {
    sequences: BTreeMap<ActorId, u64>,
    max_ops: BTreeMap<ChangeHash, u64>,
    size: DocumentSize,
}

impl Admitted {
    fn check(&mut self, change: &Change) -> Result<(), CompactionError> {
        let hash = change.hash();
        let checked = preflight(&chunk(change.clone()));
        let checked = checked.map_err(|source| CompactionError::Form { hash, source })?;
        // The document id is irrelevant: there is only one document. The snapshot's author may have
        // merged several histories; the receiver checks whether it is related to the existing one.
        let document = DocumentId::from_bytes([0; 16]);
        let Ok(verdict) = admit(self, &document, &checked, Roots::Several);
        verdict.map_err(|source| CompactionError::History { hash, source })?;
        self.max_ops.insert(hash, checked.max_op);
        self.size.bytes += checked.bytes.len() as u64;
        self.size.operations += checked.stored_operations;
        self.size.changes += 1;
        self.sequences.insert(checked.actor, checked.seq);
        Ok(())
    }
}

impl History for Admitted {
    type Error = Infallible;

    fn last_sequence(&self, _: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Infallible> {
        Ok(self.sequences.get(actor).copied())
    }

    /// A repeated sequence number is a second change of that number or a duplicate. A document may
    /// contain neither, so it does not matter which change had the number first.
    fn at_sequence(
        &self,
        _: &DocumentId,
        _: &ActorId,
        _: u64,
    ) -> Result<Option<KnownChange>, Infallible> {
        Ok(None)
    }

    fn max_op(&self, _: &DocumentId, hash: &ChangeHash) -> Result<Option<u64>, Infallible> {
        Ok(self.max_ops.get(hash).copied())
    }

    fn deleted_at(&self, _: &DocumentId) -> Result<Option<Offset>, Infallible> {
        Ok(None)
    }

    fn has_changes(&self, _: &DocumentId) -> Result<bool, Infallible> {
        Ok(!self.max_ops.is_empty())
    }

    fn size(&self, _: &DocumentId) -> Result<DocumentSize, Infallible> {
        Ok(self.size)
    }

    /// The heads are counted when the document is saved.
    fn is_head(&self, _: &DocumentId, _: &ChangeHash) -> Result<bool, Infallible> {
        Ok(true)
    }
}
