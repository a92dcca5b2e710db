//! A local change: closure, automerge commit, admission. No reader sees it until it is committed (`commit`);
//! if any step fails, the document reverts to the stored state.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use automerge::transaction::Transaction;
use automerge::{Automerge, Change, Patch, PatchLog, ReadDoc};
use landfall_protocol::admission::{CheckedChange, FormError, preflight};
use landfall_protocol::{ChangeHash, limits};

use super::branch::View;
use super::right::Right;
use super::slot::{InPlace, State, StoreCopy};
use super::transact::{options, transact};
use super::{Changing, Loaded, OpenDocument, branch, merge, swap};
use crate::actors::TakeError;
use crate::changes::{apply_parsed, empty};
use crate::clock::now_ms;
use crate::error::{ChangeError, StoreError};
use crate::failure::BoxError;
use crate::random;
use crate::store::LocalChange;
use crate::threads::panic_text;

/// Below this many operations and changes, cloning a document costs less than making readers wait.
const SMALL: u64 = 1_024;

/// The minimum time that a reader waits for a closure before it loads a copy.
const PATIENCE_LEAST: Duration = Duration::from_millis(2);

/// Measured: a load takes 4 to 20 µs a change.
const PATIENCE_PER_CHANGE: Duration = Duration::from_micros(10);

/// A document that is being changed. It holds the writer right; dropping it without `commit` reverts the
/// document to the stored state.
pub(crate) struct Edit {
    pub(super) document: Arc<OpenDocument>,
    /// The published state that `work` is a clone of; `None` if `work` is the only copy.
    pub(super) base: Option<Arc<Loaded>>,
    /// The new state, owned by this edit alone. `None` after [`Edit::forget`].
    pub(super) work: Option<Arc<Loaded>>,
    pub(super) made: Vec<Made>,
    /// The edit's number within the document.
    pub(super) number: u64,
    /// The generation of the state at the edit's beginning.
    pub(super) generation: u64,
    /// The heads at the edit's beginning.
    pub(super) began_at: Vec<ChangeHash>,
    /// `work` lacks the change: the document must be loaded after the commit.
    pub(super) is_unbuilt: bool,
    // The last field, so that the right is released last.
    _right: Right,
}

/// One automerge change, not yet in the store.
pub(super) struct Made {
    pub(super) local: LocalChange,
    pub(super) change: Change,
    pub(super) patches: Option<Arc<[Patch]>>,
    /// The change only merges heads, so that the next change has few enough dependencies.
    pub(super) merges: bool,
}

impl Edit {
    pub(crate) fn begin(
        inside: &Changing,
        document: &Arc<OpenDocument>,
    ) -> Result<Self, ChangeError> {
        if document.context.access.is_closed() {
            return Err(StoreError::closed().into());
        }
        document.context.access.present(document.row)?;
        let right = swap::begin_writing(document, inside);
        let mut slot = document.slot.lock();
        let base = loop {
            match &slot.state {
                State::Published(loaded) => break Arc::clone(loaded),
                State::Deleted => return Err(ChangeError::Deleted),
                State::Unloaded => slot = document.load(slot)?,
                // Only the writer right's holder sets `InPlace`, and it leaves that state before it releases
                // the right.
                State::Loading(_) | State::InPlace(_) => document.changed.wait(&mut slot),
            }
        };
        if let Some(reason) = slot.quarantined.clone() {
            return Err(ChangeError::Quarantined { document: document.id, reason });
        }
        document.context.has_room(document.key(), base.stored_bytes)?;
        slot.edits += 1;
        let (number, generation) = (slot.edits, slot.generation);
        let stats = base.automerge.stats();
        let (changes, size) = (stats.num_changes, stats.num_changes + stats.num_ops);
        // `slot.state` and `base` hold one reference each; any more belong to readers.
        let shared = Arc::strong_count(&base) > 2;
        let in_place = size > SMALL && !shared && !slot.base_wanted;
        if in_place {
            let changes = u32::try_from(changes).unwrap_or(u32::MAX);
            let patience = PATIENCE_LEAST.max(PATIENCE_PER_CHANGE.saturating_mul(changes));
            let copy = StoreCopy::None;
            let state = InPlace { edit: number, committing: false, patience, copy };
            slot.state = State::InPlace(state);
        }
        drop(slot);
        let (base, work) = match in_place {
            true => (None, base),
            false => {
                let clone = Arc::new(Loaded::clone(&base));
                (Some(base), clone)
            }
        };
        Ok(Self {
            document: Arc::clone(document),
            began_at: work.automerge.get_heads(),
            is_unbuilt: false,
            base,
            work: Some(work),
            made: Vec::new(),
            number,
            generation,
            _right: right,
        })
    }

    /// Whether it edits this document.
    pub(crate) fn is_of(&self, document: &Arc<OpenDocument>) -> bool {
        Arc::ptr_eq(&self.document, document)
    }

    /// Runs a closure as one automerge change. If it fails, the document keeps its earlier state.
    pub(crate) fn run<T>(
        &mut self,
        closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.run_view(View::Present, closure)
    }

    /// As [`Edit::run`], on the document's state at these heads.
    pub(crate) fn run_at<T>(
        &mut self,
        heads: &[ChangeHash],
        closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        let view = branch::view(&self.loaded()?.automerge, heads)?;
        self.run_view(view, closure)
    }

    fn run_view<T>(
        &mut self,
        view: View,
        closure: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        self.take_actor()?;
        let view = self.few_heads(view)?;
        let document = Arc::clone(&self.document);
        let loaded = self.loaded()?;
        let returned = Cell::new(false);
        let closure = |transaction: &mut Transaction<'_>| {
            let value = closure(transaction);
            returned.set(true);
            value
        };
        let attempt = catch_unwind(AssertUnwindSafe(|| match &view {
            View::Present => transact(&document, loaded, closure),
            View::Past(heads) => branch::transact_at(&document, loaded, heads, closure),
        }));
        let outcome = match attempt {
            Ok(outcome) => outcome,
            Err(panic) => {
                // automerge's state is undefined after a panic: reload from the store.
                self.forget();
                if !returned.get() {
                    resume_unwind(panic);
                }
                let reason = format!("automerge panicked: {}", panic_text(&*panic));
                return Err(ChangeError::Closure(reason.into()));
            }
        };
        if let Err(ChangeError::TooManyOperations { .. }) = &outcome {
            // The loaded document contains the change already. Reloading it is much faster than undoing
            // operation by operation.
            self.forget();
        }
        let (value, change, patches) = outcome?;
        if let Some(change) = change {
            self.add(change, patches, false)?;
        }
        Ok(value)
    }

    /// Sets the document's actor for this opening: a reusable one, or a fresh one.
    fn take_actor(&mut self) -> Result<(), ChangeError> {
        if self.loaded()?.own.is_some() {
            return Ok(());
        }
        let context = &self.document.context;
        let own = context.actors.take(&context.log, self.document.key())?;
        let loaded = self.loaded()?;
        loaded.automerge.set_actor(own.actor.clone());
        loaded.own = Some(own);
        Ok(())
    }

    /// Adds an empty change, so that a document without content exists and syncs.
    pub(crate) fn run_empty(&mut self) -> Result<(), ChangeError> {
        self.take_actor()?;
        let loaded = self.loaded()?;
        loaded.automerge.empty_commit(options());
        match loaded.automerge.get_last_local_change() {
            Some(change) => self.add(change, None, false),
            None => Ok(()),
        }
    }

    /// Takes over a document that was built elsewhere with one change, a named document's first one, if this
    /// document is empty: applying the change would cost as much as building it did. Otherwise adds the
    /// change.
    pub(crate) fn run_built(
        &mut self,
        built: Automerge,
        change: Change,
    ) -> Result<(), ChangeError> {
        let loaded = self.loaded()?;
        if !loaded.automerge.get_heads().is_empty() {
            return self.run_given(change);
        }
        loaded.automerge = built;
        self.add(change, None, false)
    }

    /// As [`Edit::run_built`], without the document: the first reader loads it after the commit.
    pub(crate) fn run_unbuilt(&mut self, change: Change) -> Result<(), ChangeError> {
        if !self.loaded()?.automerge.get_heads().is_empty() {
            return self.run_given(change);
        }
        self.is_unbuilt = true;
        self.add(change, None, false)
    }

    /// Adds a change that was built elsewhere: a named document's first one, or a merge.
    pub(crate) fn run_given(&mut self, change: Change) -> Result<(), ChangeError> {
        self.apply(vec![change.clone()])?;
        self.add(change, None, false)
    }

    /// The view with its heads merged, if there are more than a change may depend on.
    fn few_heads(&mut self, view: View) -> Result<View, ChangeError> {
        let loaded = self.loaded()?;
        let heads = match &view {
            View::Present => loaded.automerge.get_heads(),
            View::Past(heads) => heads.clone(),
        };
        // An actor's own last change is one more dependency if it is no head.
        if heads.len() < limits::MERGED_HEADS {
            return Ok(view);
        }
        let actor = match &view {
            View::Present => loaded.automerge.get_actor().clone(),
            View::Past(heads) => branch::take_actor_at(loaded, heads)?,
        };
        let changes = merge::chain(&mut loaded.automerge, &actor, &heads);
        self.apply(changes.clone())?;
        let last = changes.last().map(Change::hash);
        let listening = self.document.has_listeners();
        for change in changes {
            // The visible state does not change.
            self.add(change, listening.then(|| [].into()), true)?;
        }
        Ok(match view {
            View::Present => View::Present,
            View::Past(heads) => View::Past(last.map_or(heads, |last| vec![last])),
        })
    }

    /// Applies changes that were built elsewhere to the state, without adding them to the commit.
    fn apply(&mut self, changes: Vec<Change>) -> Result<(), ChangeError> {
        let loaded = self.loaded()?;
        let automerge = std::mem::replace(&mut loaded.automerge, empty());
        match apply_parsed(automerge, changes, &mut PatchLog::inactive()) {
            Ok(built) => {
                loaded.automerge = built;
                Ok(())
            }
            Err(reason) => {
                self.forget();
                Err(ChangeError::Closure(reason.into()))
            }
        }
    }

    /// The last change made by this edit, without merges of heads.
    pub(crate) fn last_made(&self) -> Option<ChangeHash> {
        let made = self.made.iter().rev().find(|made| !made.merges);
        made.map(|made| made.change.hash())
    }

    /// Whether the edit made no change.
    pub(crate) fn is_empty(&self) -> bool {
        self.made.iter().all(|made| made.merges)
    }

    /// Whether a change that was reported to the caller as made is lost.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.work.is_none()
    }

    /// The new state.
    pub(super) fn loaded(&mut self) -> Result<&mut Loaded, ChangeError> {
        let gone = || ChangeError::Closure("an earlier change of this document failed".into());
        // The only reference, so `make_mut` clones nothing.
        self.work.as_mut().map(Arc::make_mut).ok_or_else(gone)
    }

    fn add(
        &mut self,
        mut change: Change,
        patches: Option<Arc<[Patch]>>,
        merges: bool,
    ) -> Result<(), ChangeError> {
        let checked = check(&mut change).inspect_err(|_| self.forget())?;
        let local = LocalChange {
            space: self.document.row,
            document: self.document.id,
            change: checked,
            at_ms: now_ms(),
        };
        self.made.push(Made { local, change, patches, merges });
        Ok(())
    }

    /// Discards the new state: the document reverts to the stored one.
    pub(super) fn forget(&mut self) {
        self.work = None;
        self.made.clear();
    }
}

/// Runs the preflight of a local change. A change that would inflate beyond the limit is rejected before it
/// is compressed.
fn check(change: &mut Change) -> Result<CheckedChange, FormError> {
    let limit = limits::CHANGE_INFLATED_BYTES;
    if change.raw_bytes().len() > limit + CHUNK_HEADER_MOST {
        return Err(FormError::Inflated { limit });
    }
    preflight(&change.bytes())
}

/// The most bytes of a chunk before its compressible part: magic, checksum, type, length.
const CHUNK_HEADER_MOST: usize = 4 + 4 + 1 + 10;

impl Drop for Edit {
    fn drop(&mut self) {
        // Without uncommitted changes, `work` equals the state at the edit's beginning.
        let kept = self.work.take().filter(|_| self.made.is_empty());
        let replaced = {
            let mut slot = self.document.slot.lock();
            let Some(in_place) = slot.in_place(self.number) else { return };
            let copy = match std::mem::take(&mut in_place.copy) {
                StoreCopy::Loaded(copy) => Some(copy),
                StoreCopy::None | StoreCopy::Loading => None,
            };
            // Prefer the copy: readers may have seen changes in it that the kept state lacks.
            let (state, replaced) = match (copy, kept) {
                (Some(copy), kept) => (State::Published(copy), kept),
                (None, Some(kept)) => (State::Published(kept), None),
                (None, None) => (State::Unloaded, None),
            };
            if matches!(state, State::Unloaded) {
                self.document.context.cache.unloaded(&self.document);
            }
            slot.state = state;
            replaced
        };
        drop(replaced);
    }
}

impl From<TakeError> for ChangeError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Store(error) => Self::Store(error),
            TakeError::Randomness(error) => error.into(),
        }
    }
}

impl From<random::NoRandomness> for ChangeError {
    fn from(error: random::NoRandomness) -> Self {
        let class = crate::failure::StoreFailure::Other;
        Self::Store(StoreError { class, source: Box::new(error) })
    }
}
