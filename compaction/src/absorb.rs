//! Extracts the new changes from untrusted automerge chunks of any type (documents, changes, deflated
//! changes, bundles) in any order, and sorts them so that they can be pushed.
//!
//! Every change that it returns has passed the preflight and fits the history before it. automerge
//! parses the chunks first, and may take unbounded memory and time for that, so run it in a
//! child process.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::convert::Infallible;

use automerge::{Automerge, Bundle, Change};
use landfall_protocol::admission::{
    CheckedChange, DocumentSize, History, HistoryError, KnownChange, Roots, admit, preflight,
};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset, limits};
use sha2::{Digest, Sha256};

use crate::build::{BUNDLE, Builder, CHANGE, DEFLATED, DOCUMENT, MAGIC, contained, number};
use crate::build::{compacted_changes, finish, load};
use crate::since::chunk;
use crate::{Compacted, CompactionError, CompactionLimits};

/// How many rejected chunks and changes are listed; the others are only counted.
const TOLD: usize = 100;

/// The result of [`absorb`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absorbed {
    /// The new content of the chunks.
    pub news: NewContent,
    /// The first chunks and changes that were left out; always empty without `salvage`.
    pub left_out: Vec<LeftOut>,
    /// How many were left out in all.
    pub left_out_count: u64,
}

/// The new content of untrusted chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewContent {
    /// The document has all of it already.
    Nothing,
    /// The new changes, in an order in which they can be pushed. They fit into one push, unless a
    /// snapshot of the whole document would exceed a limit.
    Changes(Vec<Vec<u8>>),
    /// More than one push can carry. A snapshot of the existing and the new changes.
    Snapshot(Box<Compacted>),
}

/// A chunk or change that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The index of its part, from 0.
    pub part: usize,
    /// Why it was left out.
    pub reason: String,
}

/// Finds what is new in `parts`, each of which is a series of chunks, compared with a document that
/// consists of these snapshots and changes. Fails at the first error; with `salvage`, leaves out the
/// bad chunks and changes instead.
pub fn absorb(
    parts: &[&[u8]],
    snapshots: Vec<Vec<u8>>,
    changes: impl IntoIterator<Item = Vec<u8>>,
    salvage: bool,
) -> Result<Absorbed, CompactionError> {
    let mut absorbing = Absorbing::new(salvage, CompactionLimits::default());
    parts.iter().try_for_each(|part| absorbing.part(part))?;
    snapshots.into_iter().for_each(|snapshot| absorbing.snapshot(snapshot));
    changes.into_iter().try_for_each(|change| absorbing.change(change))?;
    absorbing.finish()
}

/// [`absorb`], step by step: first the parts, then the document's snapshots, then its changes.
pub(crate) struct Absorbing {
    salvage: bool,
    parts: usize,
    /// The offered changes without duplicates, each with the index of its part.
    offered: Vec<(usize, Change)>,
    hashes: HashSet<ChangeHash>,
    snapshots: Vec<Vec<u8>>,
    held: Option<Builder>,
    held_changes: usize,
    left_out: Vec<LeftOut>,
    left_out_count: u64,
    limits: CompactionLimits,
}

impl Absorbing {
    pub(crate) fn new(salvage: bool, limits: CompactionLimits) -> Self {
        Self {
            limits,
            salvage,
            parts: 0,
            offered: Vec::new(),
            hashes: HashSet::new(),
            snapshots: Vec::new(),
            held: None,
            held_changes: 0,
            left_out: Vec::new(),
            left_out_count: 0,
        }
    }

    /// Adds a series of untrusted chunks.
    pub(crate) fn part(&mut self, bytes: &[u8]) -> Result<(), CompactionError> {
        let part = self.parts;
        self.parts += 1;
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let bad = |what: String| CompactionError::Chunk { part, at, what };
            let Some(chunk) = next_chunk(&mut rest) else {
                // Without a length, the start of the next chunk is unknown too.
                return self.leave_out(part, bad("it is truncated, or no chunk at all".to_owned()));
            };
            let opened =
                contained(|| Ok(open(&chunk))).unwrap_or_else(|died| Err(died.to_string()));
            match opened {
                Ok(changes) => {
                    let fresh = changes.into_iter().filter(|c| self.hashes.insert(c.hash()));
                    self.offered.extend(fresh.map(|change| (part, change)));
                }
                Err(what) => self.leave_out(part, bad(what))?,
            }
        }
        Ok(())
    }

    /// Adds a snapshot of the existing document.
    pub(crate) fn snapshot(&mut self, snapshot: Vec<u8>) {
        self.snapshots.push(snapshot);
    }

    /// Adds a change of the existing document.
    pub(crate) fn change(&mut self, bytes: Vec<u8>) -> Result<(), CompactionError> {
        let position = self.held_changes;
        self.held_changes += 1;
        let change = Change::from_bytes(bytes).map_err(|error| {
            let reason = error.to_string();
            CompactionError::Change { position, reason }
        })?;
        contained(|| self.begin()?.add(change))
    }

    fn begin(&mut self) -> Result<&mut Builder, CompactionError> {
        let held = match self.held.take() {
            Some(held) => held,
            None => {
                let snapshots = std::mem::take(&mut self.snapshots);
                let snapshots: Vec<&[u8]> = snapshots.iter().map(Vec::as_slice).collect();
                Builder::new(&snapshots)?
            }
        };
        Ok(self.held.insert(held))
    }

    /// Returns what is new.
    pub(crate) fn finish(mut self) -> Result<Absorbed, CompactionError> {
        contained(|| {
            // Build the existing document first: an offered change is new only relative to it.
            self.begin()?;
            let document = self.held.take().unwrap_or(Builder::new(&[])?).build()?;
            let mut history = Growing::of(&document);
            let mut offered = std::mem::take(&mut self.offered);
            offered.retain(|(_, change)| !history.has(&change.hash()));
            let (mut new, mut weight) = (Vec::new(), Weight::default());
            // Admit in dependency order, since each verdict depends on the changes before it.
            for (part, change) in in_order(offered) {
                match history.admit(&change) {
                    Ok(checked) => {
                        weight.add(&checked);
                        new.push(change);
                    }
                    Err(error) => self.leave_out(part, error)?,
                }
            }
            let news = match new.is_empty() {
                true => NewContent::Nothing,
                false if weight.is_one_push() => {
                    NewContent::Changes(new.into_iter().map(chunk).collect())
                }
                false => self.together(document, new)?,
            };
            let Self { left_out, left_out_count, .. } = self;
            Ok(Absorbed { news, left_out, left_out_count })
        })
    }

    /// Makes one snapshot of the existing and the new changes; returns single changes if that exceeds a
    /// limit.
    fn together(
        &self,
        document: Automerge,
        new: Vec<Change>,
    ) -> Result<NewContent, CompactionError> {
        let mut builder = Builder::over(document);
        new.iter().cloned().try_for_each(|change| builder.add(change))?;
        match finish(builder.build()?, &self.limits) {
            Ok(compacted) => Ok(NewContent::Snapshot(Box::new(compacted))),
            // The histories fit together; only a snapshot of both exceeds a limit.
            Err(
                CompactionError::TooLarge { .. }
                | CompactionError::TooManyHeads { .. }
                | CompactionError::Unfaithful { .. },
            ) => Ok(NewContent::Changes(new.into_iter().map(chunk).collect())),
            Err(error) => Err(error),
        }
    }

    /// Records something that was left out, or fails without `salvage`.
    fn leave_out(&mut self, part: usize, error: CompactionError) -> Result<(), CompactionError> {
        if !self.salvage {
            return Err(error);
        }
        self.left_out_count += 1;
        if self.left_out.len() < TOLD {
            self.left_out.push(LeftOut { part, reason: error.to_string() });
        }
        Ok(())
    }
}

/// One chunk and its type.
struct TypedChunk<'a> {
    kind: u8,
    bytes: &'a [u8],
    /// Whether the checksum matches the contents; a deflated change's checksum is over the inflated
    /// form.
    is_sound: bool,
}

/// Takes the next chunk, if there is one.
fn next_chunk<'a>(rest: &mut &'a [u8]) -> Option<TypedChunk<'a>> {
    let whole = *rest;
    let stated = whole.strip_prefix(&MAGIC)?.get(..4)?;
    let mut after = whole.get(8..)?;
    let (&kind, _) = after.split_first()?;
    after = &after[1..];
    let length = usize::try_from(number(&mut after)?).ok()?;
    *rest = after.get(length..)?;
    let bytes = &whole[..whole.len() - rest.len()];
    let is_sound = Sha256::digest(&bytes[8..])[..4] == *stated;
    Some(TypedChunk { kind, bytes, is_sound })
}

/// Returns the changes of a chunk, or an error message.
fn open(chunk: &TypedChunk<'_>) -> Result<Vec<Change>, String> {
    if !chunk.is_sound && chunk.kind != DEFLATED {
        return Err("its checksum is wrong".to_owned());
    }
    match chunk.kind {
        DOCUMENT => {
            let document = load(chunk.bytes, 0).map_err(|error| error.to_string())?;
            Ok(document.get_changes(&[]))
        }
        CHANGE | DEFLATED => {
            let change = Change::from_bytes(chunk.bytes.to_vec());
            change.map(|change| vec![change]).map_err(|error| error.to_string())
        }
        BUNDLE => {
            let bundle = Bundle::try_from(chunk.bytes).map_err(|error| error.to_string())?;
            bundle.to_changes().map_err(|error| error.to_string())
        }
        kind => Err(format!("its type {kind} is unknown")),
    }
}

/// Sorts the changes topologically: each comes after its dependencies and after its actor's previous
/// change, if they are among them; otherwise the order stays. Changes in a cycle come last, and
/// admission rejects them.
fn in_order(offered: Vec<(usize, Change)>) -> Vec<(usize, Change)> {
    let mut at = HashMap::with_capacity(offered.len());
    let mut of_author = HashMap::with_capacity(offered.len());
    for (index, (_, change)) in offered.iter().enumerate() {
        at.insert(change.hash(), index);
        of_author.insert((change.actor_id().clone(), change.seq()), index);
    }
    // Kahn's algorithm: count the predecessors of each change, and take those with none left.
    let mut waits_for = vec![0usize; offered.len()];
    let mut holds_up: Vec<Vec<usize>> = vec![Vec::new(); offered.len()];
    for (index, (_, change)) in offered.iter().enumerate() {
        let before = of_author.get(&(change.actor_id().clone(), change.seq().saturating_sub(1)));
        for &earlier in change.deps().iter().filter_map(|hash| at.get(hash)).chain(before) {
            waits_for[index] += 1;
            holds_up[earlier].push(index);
        }
    }
    let free = (0..offered.len()).filter(|&index| waits_for[index] == 0);
    let mut ready: VecDeque<usize> = free.collect();
    let mut order = Vec::with_capacity(offered.len());
    while let Some(index) = ready.pop_front() {
        order.push(index);
        for &later in &holds_up[index] {
            waits_for[later] -= 1;
            if waits_for[later] == 0 {
                ready.push_back(later);
            }
        }
    }
    order.extend((0..offered.len()).filter(|&index| waits_for[index] > 0));
    let mut offered: Vec<_> = offered.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| offered[index].take()).collect()
}

/// How much work the new changes are for the relay that admits them.
#[derive(Default)]
struct Weight {
    changes: usize,
    bytes: usize,
    inflated: usize,
    operations: u64,
}

impl Weight {
    fn add(&mut self, change: &CheckedChange) {
        self.changes += 1;
        self.bytes += change.bytes.len();
        self.inflated += change.inflated_bytes;
        self.operations = self.operations.saturating_add(change.operations);
    }

    fn is_one_push(&self) -> bool {
        self.changes <= limits::PUSH_CHANGES
            && self.bytes <= limits::COMMIT_BYTES
            && self.inflated <= limits::PUSH_INFLATED_BYTES
            && self.operations <= limits::PUSH_OPERATIONS
    }
}

/// The history of the existing document and of the new changes admitted so far.
#[derive(Default)]
struct Growing {
    max_ops: HashMap<ChangeHash, u64>,
    authors: HashMap<ActorId, BTreeMap<u64, ChangeHash>>,
    size: DocumentSize,
}

impl Growing {
    fn of(document: &Automerge) -> Self {
        let mut growing = Self::default();
        for change in compacted_changes(document) {
            growing.add(change.hash, change.actor, change.seq, change.max_op);
        }
        growing
    }

    fn has(&self, hash: &ChangeHash) -> bool {
        self.max_ops.contains_key(hash)
    }

    fn add(&mut self, hash: ChangeHash, actor: ActorId, seq: u64, max_op: u64) {
        self.max_ops.insert(hash, max_op);
        self.size.changes += 1;
        self.authors.entry(actor).or_default().insert(seq, hash);
    }

    /// Checks a change as if it were pushed, and adds it. A document from elsewhere may have several
    /// first changes.
    fn admit(&mut self, change: &Change) -> Result<CheckedChange, CompactionError> {
        let hash = change.hash();
        let checked = preflight(&chunk(change.clone()));
        let checked = checked.map_err(|source| CompactionError::Form { hash, source })?;
        // A missing dependency is reported before all other errors: the caller can ask the sender for
        // it by hash.
        if let Some(&missing) = checked.dependencies.iter().find(|&hash| !self.has(hash)) {
            let source = HistoryError::MissingDependency { missing };
            return Err(CompactionError::History { hash, source });
        }
        let document = DocumentId::from_bytes([0; 16]);
        let Ok(verdict) = admit(self, &document, &checked, Roots::Several);
        verdict.map_err(|source| CompactionError::History { hash, source })?;
        self.add(hash, checked.actor.clone(), checked.seq, checked.max_op);
        self.size.bytes += checked.bytes.len() as u64;
        self.size.operations += checked.stored_operations;
        Ok(checked)
    }
}

impl History for Growing {
    type Error = Infallible;

    fn last_sequence(&self, _: &DocumentId, actor: &ActorId) -> Result<Option<u64>, Infallible> {
        Ok(self.authors.get(actor).and_then(|all| Some(*all.last_key_value()?.0)))
    }

    fn at_sequence(
        &self,
        _: &DocumentId,
        actor: &ActorId,
        sequence: u64,
    ) -> Result<Option<KnownChange>, Infallible> {
        let hash = self.authors.get(actor).and_then(|all| all.get(&sequence));
        Ok(hash.map(|hash| KnownChange { hash: *hash, position: Offset(0) }))
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
