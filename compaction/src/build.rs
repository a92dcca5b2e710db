//! Builds a document, saves it, and verifies that the saved bytes load as the same document.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::{Automerge, Change, LoadOptions, ReadDoc, SaveOptions, TextEncoding};
use landfall_protocol::admission::{DocumentError, measure};
use landfall_protocol::compacted::{CompactedChange, PackedIndex};
use landfall_protocol::{ChangeHash, limits};

use crate::{Compacted, CompactionError, CompactionLimits};

/// Text positions count Unicode code points, as in the engine's own documents.
const TEXT: TextEncoding = TextEncoding::UnicodeCodePoint;

/// `apply_changes` costs time in proportion to the document's length, so changes are applied in
/// batches. A batch is applied when it reaches this size and a quarter of the size of what was applied
/// before. The total cost then stays linear in the history, and at most a quarter of it is buffered.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Memory of a parsed change besides its bytes.
const CHANGE_WEIGHT: usize = 512;

/// Memory of each of its operations while it is applied.
const OPERATION_WEIGHT: usize = 400;

/// Compacts snapshots and changes of one document into one snapshot: all of them, or an error. Changes
/// come with dependencies first (a change before its dependency is buffered); duplicates are ignored.
///
/// The returned snapshot was loaded again, and contains exactly the given changes. A panic of automerge is
/// returned as an error; unbounded memory use is not contained (for that there is the
/// [`Supervisor`](crate::Supervisor)).
pub fn compact(
    snapshots: &[&[u8]],
    changes: impl IntoIterator<Item = Vec<u8>>,
) -> Result<Compacted, CompactionError> {
    compact_within(snapshots, changes, &CompactionLimits::default())
}

/// As [`compact`], with limits of the caller's choice.
pub fn compact_within(
    snapshots: &[&[u8]],
    changes: impl IntoIterator<Item = Vec<u8>>,
    limits: &CompactionLimits,
) -> Result<Compacted, CompactionError> {
    contained(|| {
        let mut builder = Builder::new(snapshots)?;
        for (position, bytes) in changes.into_iter().enumerate() {
            let change = Change::from_bytes(bytes).map_err(|error| {
                let reason = error.to_string();
                CompactionError::Change { position, reason }
            })?;
            builder.add(change)?;
        }
        finish(builder.build()?, limits)
    })
}

/// Makes a snapshot of a loaded document: saves it, and loads the saved bytes once to verify them.
/// Cheap in comparison with [`compact`], which has to apply every change first.
pub fn compact_loaded(
    document: &Automerge,
    limits: &CompactionLimits,
) -> Result<Compacted, CompactionError> {
    contained(|| Saved::of(document, limits)?.verified())
}

/// Opens a snapshot from elsewhere, by loading it once, and derives everything that follows from its
/// bytes. This is the only place where an engine opens a snapshot that it did not make.
///
/// # Errors
/// If it exceeds `limits`, is not exactly one document chunk, or automerge fails to load it.
pub fn open(snapshot: Vec<u8>, limits: &CompactionLimits) -> Result<Compacted, CompactionError> {
    contained(|| {
        limits.check(snapshot.len())?;
        let document = load(&snapshot, 0)?;
        let (heads, changes) = (document.get_heads(), compacted_changes(&document));
        drop(document);
        let compacted = Compacted::from_parts(snapshot, PackedIndex::pack(&changes)?)?;
        match compacted.heads == heads {
            true => Ok(compacted),
            false => Err(unfaithful("the heads in its index differ")),
        }
    })
}

/// Returns the index of a snapshot's changes. Costs as much as loading the document once.
///
/// # Errors
/// If the snapshot declares more than the limits for automerge allow, is not a snapshot, or has more
/// heads than a log entry can list.
pub fn index_of(snapshot: &[u8]) -> Result<PackedIndex, CompactionError> {
    let changes = contained(|| Ok(compacted_changes(&load(snapshot, 0)?)))?;
    let index = PackedIndex::parse(PackedIndex::pack(&changes)?)?;
    let (actual, limit) = (index.heads().len(), limits::DOCUMENT_HEADS);
    if actual > limit {
        return Err(CompactionError::TooManyHeads { actual, limit });
    }
    Ok(index)
}

/// Runs code that calls automerge, and turns a panic into an error.
pub(crate) fn contained<T>(
    run: impl FnOnce() -> Result<T, CompactionError>,
) -> Result<T, CompactionError> {
    // `run` leaves no state that is used after a panic.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(CompactionError::Panicked(text.unwrap_or_else(|| "without a message".to_owned())))
    })
}

/// A document under construction, and its buffer of changes.
pub(crate) struct Builder {
    document: Automerge,
    waiting: Vec<Change>,
    waiting_bytes: usize,
    applied_bytes: usize,
    /// All changes that were given: the finished document must contain each of them.
    given: Vec<ChangeHash>,
}

impl Builder {
    pub(crate) fn new(snapshots: &[&[u8]]) -> Result<Self, CompactionError> {
        let mut document = None;
        let mut given = Vec::new();
        for (position, snapshot) in snapshots.iter().enumerate() {
            let mut loaded = load(snapshot, position)?;
            given.extend(loaded.get_changes_meta(&[]).into_iter().map(|change| change.hash));
            match &mut document {
                None => document = Some(loaded),
                Some(document) => {
                    document.merge(&mut loaded).map_err(apply_error)?;
                }
            }
        }
        let document = document.unwrap_or_else(|| Automerge::new_with_encoding(TEXT));
        let applied_bytes = given.len() * CHANGE_WEIGHT;
        Ok(Self { document, waiting: Vec::new(), waiting_bytes: 0, applied_bytes, given })
    }

    /// Starts with a loaded document.
    pub(crate) fn over(document: Automerge) -> Self {
        let changes = document.get_changes_meta(&[]);
        let given: Vec<ChangeHash> = changes.into_iter().map(|change| change.hash).collect();
        let applied_bytes = given.len() * CHANGE_WEIGHT;
        Self { document, waiting: Vec::new(), waiting_bytes: 0, applied_bytes, given }
    }

    pub(crate) fn add(&mut self, change: Change) -> Result<(), CompactionError> {
        self.given.push(change.hash());
        let operations = change.len() * OPERATION_WEIGHT;
        self.waiting_bytes += change.raw_bytes().len() + CHANGE_WEIGHT + operations;
        self.waiting.push(change);
        if self.waiting_bytes >= BATCH_BYTES.max(self.applied_bytes / 4) {
            self.apply()?;
        }
        Ok(())
    }

    /// Returns the document with all given changes; fails if any is missing.
    pub(crate) fn build(mut self) -> Result<Automerge, CompactionError> {
        self.apply()?;
        if let Some(&missing) = self.document.get_missing_deps(&[]).first() {
            return Err(CompactionError::Orphans { missing });
        }
        let changes = self.document.get_changes_meta(&[]);
        let mut present: Vec<ChangeHash> = changes.into_iter().map(|change| change.hash).collect();
        present.sort_unstable();
        match self.given.iter().find(|hash| present.binary_search(hash).is_err()) {
            Some(&hash) => Err(CompactionError::Lost { hash }),
            None => Ok(self.document),
        }
    }

    fn apply(&mut self) -> Result<(), CompactionError> {
        self.applied_bytes += std::mem::take(&mut self.waiting_bytes);
        self.document.apply_changes(std::mem::take(&mut self.waiting)).map_err(apply_error)
    }
}

fn apply_error(error: automerge::AutomergeError) -> CompactionError {
    CompactionError::Apply { reason: error.to_string() }
}

/// Saves a document. Returns the snapshot only if it loads as the same document.
pub(crate) fn finish(
    document: Automerge,
    limits: &CompactionLimits,
) -> Result<Compacted, CompactionError> {
    let saved = Saved::of(&document, limits)?;
    // Frees the memory before the saved document is loaded.
    drop(document);
    saved.verified()
}

/// A saved document, and the heads and changes that it must load with.
struct Saved {
    snapshot: Vec<u8>,
    heads: Vec<ChangeHash>,
    changes: Vec<CompactedChange>,
}

impl Saved {
    fn of(document: &Automerge, limits: &CompactionLimits) -> Result<Self, CompactionError> {
        let options = SaveOptions { deflate: true, retain_orphans: false };
        let snapshot = document.save_with_options(options);
        limits.check(snapshot.len())?;
        let (heads, changes) = (document.get_heads(), compacted_changes(document));
        if heads.len() > limits::DOCUMENT_HEADS {
            let (actual, limit) = (heads.len(), limits::DOCUMENT_HEADS);
            return Err(CompactionError::TooManyHeads { actual, limit });
        }
        Ok(Self { snapshot, heads, changes })
    }

    /// Loads the saved bytes and compares the result.
    fn verified(self) -> Result<Compacted, CompactionError> {
        let Self { snapshot, heads, changes } = self;
        let loaded = load(&snapshot, 0).map_err(|error| unfaithful(error.to_string()))?;
        if loaded.get_heads() != heads {
            return Err(unfaithful("its heads differ"));
        }
        if compacted_changes(&loaded) != changes {
            return Err(unfaithful("its changes differ"));
        }
        drop(loaded);
        let compacted = Compacted::from_parts(snapshot, PackedIndex::pack(&changes)?)?;
        if compacted.heads != heads {
            return Err(unfaithful("the heads in its index differ"));
        }
        Ok(compacted)
    }
}

fn unfaithful(what: impl Into<String>) -> CompactionError {
    CompactionError::Unfaithful { what: what.into() }
}

/// The changes for the index, in the document's own order: dependencies first.
pub(crate) fn compacted_changes(document: &Automerge) -> Vec<CompactedChange> {
    let changes = document.get_changes_meta(&[]).into_iter();
    let compacted = changes.map(|change| CompactedChange {
        hash: change.hash,
        actor: change.actor.into_owned(),
        seq: change.seq,
        max_op: change.max_op,
        dependencies: change.deps,
    });
    compacted.collect()
}

/// Loads a snapshot, unless it declares more content than its bytes can encode ([`measure`]). automerge
/// rebuilds every change from it, and compares the heads that follow from the changes' hashes with the
/// heads that the snapshot states.
pub(crate) fn load(snapshot: &[u8], position: usize) -> Result<Automerge, CompactionError> {
    measure(snapshot).map_err(|error| match error {
        DocumentError::NotADocument { what } => CompactionError::NotADocument { position, what },
        source => CompactionError::Measured { position, source },
    })?;
    let options = LoadOptions::new().text_encoding(TEXT);
    Automerge::load_with_options(snapshot, options)
        .map_err(|error| CompactionError::Snapshot { position, reason: error.to_string() })
}

/// The magic bytes at the start of every chunk.
pub(crate) const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];

/// The chunk types.
pub(crate) const DOCUMENT: u8 = 0;
pub(crate) const CHANGE: u8 = 1;
pub(crate) const DEFLATED: u8 = 2;
pub(crate) const BUNDLE: u8 = 3;

/// Reads the next unsigned LEB128 number.
pub(crate) fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
