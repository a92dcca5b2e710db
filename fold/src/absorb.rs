//! What a stranger sends of a document in chunks of any type: whole documents, changes, deflated
//! changes, bundles, one after the other and in any order. What is new in them is brought into the
//! order in which it may be pushed.
//!
//! Whatever comes of it passed the preflight and fits what is held, change by change. automerge
//! opens the chunks first, and may take any memory and time for that: this is for a child process.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::convert::Infallible;

use automerge::{Automerge, Bundle, Change};
use landfall_protocol::admission::{
    CheckedChange, DocumentSize, History, HistoryError, Known, Roots, admit, preflight,
};
use landfall_protocol::{ActorId, ChangeHash, DocumentId, Offset, limits};
use sha2::{Digest, Sha256};

use crate::build::{BUNDLE, Builder, CHANGE, DEFLATED, DOCUMENT, MAGIC, contained, number};
use crate::build::{finish, folded_changes, load};
use crate::since::chunk;
use crate::{FoldError, FoldLimits, Folded};

/// What is told one by one of what was left out; the rest is counted.
const TOLD: usize = 100;

/// What a stranger's chunks came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absorbed {
    /// What is new in them.
    pub news: News,
    /// The first things that were left out; empty unless that was asked for.
    pub left_out: Vec<LeftOut>,
    /// How many there were.
    pub left_out_count: u64,
}

/// What is new in a stranger's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Everything in them is held.
    Nothing,
    /// These changes, in the order in which they may be pushed: no more than one push may be; or
    /// more, if a snapshot of everything would be too large.
    Changes(Vec<Vec<u8>>),
    /// More than one push may be. This stands for what is held, and for what is new.
    Snapshot(Box<Folded>),
}

/// Something that could not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// In which of the given parts it is, from 0.
    pub part: usize,
    /// Why it was not taken.
    pub reason: String,
}

/// Finds what is new in `parts`, each of which is any number of chunks, for one who holds these
/// snapshots and changes of the document. All of it, or an error; with `salvage`, what is sound of
/// it.
pub fn absorb(
    parts: &[&[u8]],
    snapshots: Vec<Vec<u8>>,
    changes: impl IntoIterator<Item = Vec<u8>>,
    salvage: bool,
) -> Result<Absorbed, FoldError> {
    let mut absorbing = Absorbing::new(salvage, FoldLimits::default());
    parts.iter().try_for_each(|part| absorbing.part(part))?;
    snapshots.into_iter().for_each(|snapshot| absorbing.snapshot(snapshot));
    changes.into_iter().try_for_each(|change| absorbing.change(change))?;
    absorbing.finish()
}

/// [`absorb`], step by step: parts, then snapshots, then changes that are held.
pub(crate) struct Absorbing {
    salvage: bool,
    parts: usize,
    /// Each once, with the part that it came in.
    offered: Vec<(usize, Change)>,
    hashes: HashSet<ChangeHash>,
    snapshots: Vec<Vec<u8>>,
    held: Option<Builder>,
    held_changes: usize,
    left_out: Vec<LeftOut>,
    left_out_count: u64,
    limits: FoldLimits,
}

impl Absorbing {
    pub(crate) fn new(salvage: bool, limits: FoldLimits) -> Self {
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

    /// A stranger's chunks.
    pub(crate) fn part(&mut self, bytes: &[u8]) -> Result<(), FoldError> {
        let part = self.parts;
        self.parts += 1;
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let bad = |what: String| FoldError::Chunk { part, at, what };
            let Some(chunk) = next_chunk(&mut rest) else {
                // Where the next one would begin is not known either.
                return self.leave_out(part, bad("it is cut off, or no chunk at all".to_owned()));
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

    /// A snapshot that is held.
    pub(crate) fn snapshot(&mut self, snapshot: Vec<u8>) {
        self.snapshots.push(snapshot);
    }

    /// A change that is held.
    pub(crate) fn change(&mut self, bytes: Vec<u8>) -> Result<(), FoldError> {
        let position = self.held_changes;
        self.held_changes += 1;
        let change = Change::from_bytes(bytes).map_err(|error| {
            let reason = error.to_string();
            FoldError::Change { position, reason }
        })?;
        contained(|| self.begin()?.add(change))
    }

    fn begin(&mut self) -> Result<&mut Builder, FoldError> {
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

    /// What is new.
    pub(crate) fn finish(mut self) -> Result<Absorbed, FoldError> {
        contained(|| {
            self.begin()?;
            let document = self.held.take().unwrap_or(Builder::new(&[])?).build()?;
            let mut history = Growing::of(&document);
            let mut offered = std::mem::take(&mut self.offered);
            offered.retain(|(_, change)| !history.has(&change.hash()));
            let (mut new, mut weight) = (Vec::new(), Weight::default());
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
                true => News::Nothing,
                false if weight.is_one_push() => {
                    News::Changes(new.into_iter().map(chunk).collect())
                }
                false => self.together(document, new)?,
            };
            let Self { left_out, left_out_count, .. } = self;
            Ok(Absorbed { news, left_out, left_out_count })
        })
    }

    /// What is held and what is new, as one snapshot; single changes if no snapshot may have all of it.
    fn together(&self, document: Automerge, new: Vec<Change>) -> Result<News, FoldError> {
        let mut builder = Builder::over(document);
        new.iter().cloned().try_for_each(|change| builder.add(change))?;
        match finish(builder.build()?, &self.limits) {
            Ok(folded) => Ok(News::Snapshot(Box::new(folded))),
            // The histories go together; only one snapshot of both is more than one may be.
            Err(
                FoldError::TooLarge { .. }
                | FoldError::TooManyHeads { .. }
                | FoldError::Unfaithful { .. },
            ) => Ok(News::Changes(new.into_iter().map(chunk).collect())),
            Err(error) => Err(error),
        }
    }

    /// Goes on without something, if that was asked for.
    fn leave_out(&mut self, part: usize, error: FoldError) -> Result<(), FoldError> {
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

/// One chunk, with its type.
struct Chunk<'a> {
    kind: u8,
    bytes: &'a [u8],
    /// Whether its checksum is that of what it holds; a deflated change's is that of what it
    /// inflates to.
    is_sound: bool,
}

/// Takes the next chunk, if there is one.
fn next_chunk<'a>(rest: &mut &'a [u8]) -> Option<Chunk<'a>> {
    let whole = *rest;
    let stated = whole.strip_prefix(&MAGIC)?.get(..4)?;
    let mut after = whole.get(8..)?;
    let (&kind, _) = after.split_first()?;
    after = &after[1..];
    let length = usize::try_from(number(&mut after)?).ok()?;
    *rest = after.get(length..)?;
    let bytes = &whole[..whole.len() - rest.len()];
    let is_sound = Sha256::digest(&bytes[8..])[..4] == *stated;
    Some(Chunk { kind, bytes, is_sound })
}

/// The changes of a chunk, or why there are none.
fn open(chunk: &Chunk<'_>) -> Result<Vec<Change>, String> {
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
        kind => Err(format!("it is of type {kind}, which is not known")),
    }
}

/// The changes so that each comes after those that it rests on and after its author's one before
/// it, as far as they are among them; else as they came. Those that would have to come before
/// themselves are last: they will not fit.
fn in_order(offered: Vec<(usize, Change)>) -> Vec<(usize, Change)> {
    let mut at = HashMap::with_capacity(offered.len());
    let mut of_author = HashMap::with_capacity(offered.len());
    for (index, (_, change)) in offered.iter().enumerate() {
        at.insert(change.hash(), index);
        of_author.insert((change.actor_id().clone(), change.seq()), index);
    }
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

/// How much work new changes are for one who admits them.
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

/// What is held, and what was found to fit it since.
#[derive(Default)]
struct Growing {
    max_ops: HashMap<ChangeHash, u64>,
    authors: HashMap<ActorId, BTreeMap<u64, ChangeHash>>,
    size: DocumentSize,
}

impl Growing {
    fn of(document: &Automerge) -> Self {
        let mut growing = Self::default();
        for change in folded_changes(document) {
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

    /// Checks a change as one that is pushed, and takes it in. A document that came about
    /// elsewhere may have begun several times.
    fn admit(&mut self, change: &Change) -> Result<CheckedChange, FoldError> {
        let hash = change.hash();
        let checked = preflight(&chunk(change.clone()));
        let checked = checked.map_err(|source| FoldError::Form { hash, source })?;
        // Before anything else that it lacks: who has sent it can be asked for this by its hash.
        if let Some(&missing) = checked.dependencies.iter().find(|&hash| !self.has(hash)) {
            let source = HistoryError::MissingDependency { missing };
            return Err(FoldError::History { hash, source });
        }
        let document = DocumentId::from_bytes([0; 16]);
        let Ok(verdict) = admit(self, &document, &checked, Roots::Several);
        verdict.map_err(|source| FoldError::History { hash, source })?;
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
    ) -> Result<Option<Known>, Infallible> {
        let hash = self.authors.get(actor).and_then(|all| all.get(&sequence));
        Ok(hash.map(|hash| Known { hash: *hash, position: Offset(0) }))
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

    /// Its heads are counted when it is saved.
    fn is_head(&self, _: &DocumentId, _: &ChangeHash) -> Result<bool, Infallible> {
        Ok(true)
    }
}
