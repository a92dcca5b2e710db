//! Converts an edited text into minimal operations: compared by grapheme, placed by code point, and
//! transposed to the current text, so that concurrent edits of others stay, and merge by character.
//!
//! An operation refers to the text at the start of the editing. automerge reports the changes since then;
//! they give the current position of each old character, or that it was deleted. An insertion goes after the
//! character that it was made after; a deletion removes its own characters and no others.

use std::ops::Range;
use std::time::Duration;

use landfall::automerge::transaction::{Transactable, Transaction};
use landfall::automerge::{Automerge, ObjId, Patch, PatchAction, ROOT, ReadDoc};
use landfall::{BoxError, CHANGE_OPERATIONS, ChangeError, ChangeHash, Document, ReadError};
use similar::{DiffOp, TextDiff};
use thiserror::Error;

use crate::note::{self, ShapeError};

/// After this time the diff returns a good result instead of the smallest. Only texts of hundreds of
/// kilobytes with little in common take that long.
const DIFF_TIME: Duration = Duration::from_secs(2);

/// How often in a row the note may change between reading and writing before the edit fails.
const TRIES: usize = 32;

/// Replaces code points `at..at + delete` by `insert`, at the old text's positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextOp {
    pub(crate) at: usize,
    pub(crate) delete: usize,
    pub(crate) insert: String,
}

/// The smallest operations that turn `old` into `new`: in order, disjoint, and never splitting a grapheme.
pub(crate) fn diff(old: &str, new: &str) -> Vec<TextOp> {
    let diff = TextDiff::configure().timeout(DIFF_TIME).diff_graphemes(old, new);
    let old: Vec<&str> = diff.iter_old_slices().collect();
    let new: Vec<&str> = diff.iter_new_slices().collect();
    let length = |graphemes: &[&str]| graphemes.iter().map(|g| g.chars().count()).sum::<usize>();
    let mut ops: Vec<TextOp> = Vec::new();
    // The position in code points of the old text, and whether the last step changed it.
    let (mut at, mut adjoining) = (0, false);
    for op in diff.ops() {
        let delete = length(&old[op.old_range()]);
        if matches!(op, DiffOp::Equal { .. }) {
            (at, adjoining) = (at + delete, false);
            continue;
        }
        let insert = new[op.new_range()].concat();
        match ops.last_mut() {
            Some(last) if adjoining => {
                last.delete += delete;
                last.insert.push_str(&insert);
            }
            _ => ops.push(TextOp { at, delete, insert }),
        }
        (at, adjoining) = (at + delete, true);
    }
    ops
}

/// A text whose insertion does not fit in one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "it takes {operations} operations, one per character; a change has at most {CHANGE_OPERATIONS}"
)]
pub(crate) struct TooLong {
    operations: u64,
}

/// Rejects a text that does not fit in one change, before automerge processes it.
pub(crate) fn fits(characters: usize) -> Result<(), TooLong> {
    // The objects and values of a new note besides its characters.
    const OTHERS: u64 = 8;
    let operations = characters as u64 + OTHERS;
    if operations > CHANGE_OPERATIONS { Err(TooLong { operations }) } else { Ok(()) }
}

/// Why an edited text could not be written back.
#[derive(Debug, Error)]
pub(crate) enum EditError {
    /// The document is not a note, or lacks the text.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Another author replaced the edited text object by a new one.
    #[error("the text object was replaced by another one in the meantime")]
    Replaced,
    /// The edit does not fit in one change.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The note changed during every attempt.
    #[error("the note changes continually")]
    Storm,
    /// The document could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The change could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// A text at the start of its editing.
#[derive(Debug, Clone)]
pub(crate) struct BaseText {
    key: &'static str,
    object: ObjId,
    heads: Vec<ChangeHash>,
    text: String,
}

impl BaseText {
    /// The text at a key of a note, as it is now.
    pub(crate) fn take(document: &Document, key: &'static str) -> Result<Self, EditError> {
        let found = document.read(|doc| {
            let object = note::text_object(doc, key)?.ok_or(ShapeError::Missing { key })?;
            let text = doc
                .text(&object)
                .map_err(|error| ShapeError::Unreadable { key, what: error.to_string() })?;
            Ok::<_, ShapeError>(Self { key, object, heads: doc.get_heads(), text })
        })?;
        Ok(found?)
    }

    /// A text that another process with the same store began to edit at these heads.
    pub(crate) fn resume(
        document: &Document,
        key: &'static str,
        heads: Vec<ChangeHash>,
        text: String,
    ) -> Result<Self, EditError> {
        let object = document.read(|doc| {
            let are_known = heads.iter().all(|head| doc.get_change_by_hash(head).is_some());
            let then = doc.get_at(ROOT, key, &heads).ok().flatten().filter(|_| are_known);
            then.map(|(_, object)| object)
        })?;
        let object = object.ok_or(EditError::Replaced)?;
        Ok(Self { key, object, heads, text })
    }

    /// The document's heads at the start of the editing.
    pub(crate) fn heads(&self) -> &[ChangeHash] {
        &self.heads
    }

    /// The text to edit.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Writes the edited text back as one change that merges with concurrent changes. Returns the number of
    /// operations; for none there is no change.
    pub(crate) fn edit(&self, document: &Document, edited: &str) -> Result<usize, EditError> {
        // A lower bound of the insertion, checked before the costly diff.
        fits(edited.chars().count().saturating_sub(self.text.chars().count()))?;
        let ops = diff(&self.text, edited);
        if ops.is_empty() {
            return Ok(0);
        }
        fits(ops.iter().map(|op| op.delete + op.insert.chars().count()).sum())?;
        for _ in 0..TRIES {
            let (heads, splices) = document.read(|doc| self.carry(doc, &ops))??;
            let attempt = document.change(|tx| {
                if tx.get_heads() != heads {
                    // A change arrived between the two closures: the positions are outdated.
                    return Ok(None);
                }
                apply(tx, &self.object, &splices)?;
                Ok(Some(splices.len()))
            })?;
            if let Some(count) = attempt {
                return Ok(count);
            }
        }
        Err(EditError::Storm)
    }

    /// The operations in the document's current positions, and the heads that these refer to.
    fn carry(
        &self,
        doc: &Automerge,
        ops: &[TextOp],
    ) -> Result<(Vec<ChangeHash>, Vec<Splice>), EditError> {
        if note::text_object(doc, self.key)?.as_ref() != Some(&self.object) {
            return Err(EditError::Replaced);
        }
        let now = doc.get_heads();
        let patches = doc
            .diff_obj(&self.object, &self.heads, &now, false)
            .map_err(|error| ShapeError::Unreadable { key: self.key, what: error.to_string() })?;
        let places = Positions::follow(self.text.chars().count(), &self.object, &patches);
        Ok((now, ops.iter().flat_map(|op| places.carry(op)).collect()))
    }
}

/// An operation in current positions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Splice {
    at: usize,
    delete: usize,
    insert: String,
}

fn apply(tx: &mut Transaction<'_>, text: &ObjId, splices: &[Splice]) -> Result<(), BoxError> {
    // From the back, so that no operation shifts another's position.
    for splice in splices.iter().rev() {
        let delete = isize::try_from(splice.delete)?;
        tx.splice_text(text, splice.at, delete, &splice.insert)?;
    }
    Ok(())
}

/// The current position of each character of the old text; `None` if it was deleted.
struct Positions(Vec<Option<usize>>);

impl Positions {
    fn follow(length: usize, object: &ObjId, patches: &[Patch]) -> Self {
        // The current text, as indexes into the old one; `None` is another author's character.
        let mut present: Vec<Option<usize>> = (0..length).map(Some).collect();
        for patch in patches.iter().filter(|patch| patch.obj == *object) {
            match &patch.action {
                PatchAction::SpliceText { index, value, .. } => {
                    let count = value.make_string().chars().count();
                    replace(&mut present, *index..*index, count);
                }
                PatchAction::Insert { index, values } => {
                    replace(&mut present, *index..*index, values.len());
                }
                PatchAction::DeleteSeq { index, length } => {
                    replace(&mut present, *index..index.saturating_add(*length), 0);
                }
                PatchAction::PutSeq { index, .. } => {
                    replace(&mut present, *index..index.saturating_add(1), 1);
                }
                _ => {}
            }
        }
        let mut places = vec![None; length];
        for (now, old) in present.into_iter().enumerate() {
            if let Some(place) = old.and_then(|old| places.get_mut(old)) {
                *place = Some(now);
            }
        }
        Self(places)
    }

    /// One operation as splices: several if another author wrote inside its deletion.
    fn carry(&self, op: &TextOp) -> Vec<Splice> {
        let gap = self.gap(op.at);
        let insertion = Splice { at: gap, delete: 0, insert: op.insert.clone() };
        let mut splices = if op.insert.is_empty() { Vec::new() } else { vec![insertion] };
        for place in self.0[op.at..op.at + op.delete].iter().flatten().copied() {
            match splices.last_mut() {
                Some(last) if last.at + last.delete == place => last.delete += 1,
                _ => splices.push(Splice { at: place, delete: 1, insert: String::new() }),
            }
        }
        splices
    }

    /// The current position for an insertion before the old character `at`: after the preceding character; if
    /// that was deleted, before `at` itself; if that was deleted too, after the next remaining one to the
    /// left. An insertion at the very front stays there.
    fn gap(&self, at: usize) -> usize {
        let place = |index: usize| self.0.get(index).copied().flatten();
        let before = at.checked_sub(1).and_then(place).map(|place| place + 1);
        let itself = || place(at).filter(|_| at > 0);
        let left = || (0..at).rev().find_map(place).map_or(0, |place| place + 1);
        before.or_else(itself).unwrap_or_else(left)
    }
}

/// Replaces a range by `count` characters of another author.
fn replace(present: &mut Vec<Option<usize>>, range: Range<usize>, count: usize) {
    let start = range.start.min(present.len());
    let end = range.end.clamp(start, present.len());
    present.splice(start..end, std::iter::repeat_n(None, count));
}

#[cfg(test)]
mod tests;
