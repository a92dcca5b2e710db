//! Building the next state of a document from what arrived, beside its readers and writers.
//!
//! Nothing here holds a lock while automerge or SQLite runs. What comes out is swapped in (`swap`)
//! by the thread that has the writer right.

use std::sync::Arc;

use automerge::{Automerge, PatchLog};

use super::load::{Whole, apply_parsed, contained, parse};
use super::slot::State;
use super::{Loaded, OpenDocument};
use crate::error::StoreError;
use crate::store::Stored;

/// Bytes of changes in one apply.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What the applier read and built; not yet published.
pub(super) struct Built {
    /// `None` if the store has nothing that the base has not.
    pub(super) state: Option<NewState>,
    /// The store has more.
    pub(super) more: bool,
    /// Which build it is.
    pub(super) number: u64,
}

pub(super) struct NewState {
    pub(super) automerge: Automerge,
    /// Everything up to this local sequence number is in it.
    pub(super) last: u64,
    /// Bytes that the store has of it.
    pub(super) bytes: Bytes,
    /// How it came from the state before, if that is known.
    pub(super) patches: Option<PatchLog>,
}

pub(super) enum Bytes {
    /// So many more than before.
    More(u64),
    All(u64),
}

/// What the applier is to do with a document.
pub(super) enum Job {
    /// Nothing; or a writer calls the applier when there is.
    None,
    /// Send an event only: nothing is loaded that could be brought up to date.
    Tell,
    /// What was built before is to be swapped in.
    Swap,
    /// Build on this state.
    Build(Base),
}

/// The state that is built on.
pub(super) struct Base {
    loaded: Arc<Loaded>,
    /// Which build begins with it.
    number: u64,
}

impl OpenDocument {
    /// What the applier is to do. From a given base on, local changes that are published are kept
    /// for the swap, and do not say that everything before them is applied.
    pub(super) fn next_job(self: &Arc<Self>) -> Job {
        let mut unloaded = State::Unloaded;
        let mut slot = self.slot.lock();
        slot.queued = false;
        slot.base_wanted = false;
        if slot.built.is_some() {
            return Job::Swap;
        }
        if !slot.arrived || slot.building.is_some() {
            // The end of the present build calls again.
            return Job::None;
        }
        let held = self.is_held();
        match &slot.state {
            State::Loading(_) | State::InPlace(_) => {
                slot.base_wanted = true;
                return Job::None;
            }
            State::Published(loaded)
                if slot.quarantined.is_none() && (held || slot.writer.is_some()) =>
            {
                let loaded = Arc::clone(loaded);
                slot.arrived = false;
                return Job::Build(Base { loaded, number: slot.begin_build() });
            }
            // It will be loaded with everything at the next access.
            State::Published(_) if !held && slot.writer.is_none() => {
                std::mem::swap(&mut slot.state, &mut unloaded);
                self.core.cache.unloaded(self);
            }
            State::Deleted => {
                slot.arrived = false;
                return Job::None;
            }
            // A quarantined one takes nothing any more.
            State::Published(_) | State::Unloaded => {}
        }
        slot.arrived = false;
        drop(slot);
        drop(unloaded);
        Job::Tell
    }
}

/// What the store has and a document has not.
enum Missing {
    Nothing,
    /// Changes; `more` if that is not all.
    Changes {
        page: Vec<Stored>,
        more: bool,
    },
    /// Some of it is folded by now, so the document is built from all of it: a part might lack
    /// local changes that the document has.
    Everything(Whole),
}

/// Adds what the store has and the base has not; or says why automerge cannot.
pub(super) fn build(
    document: &OpenDocument,
    base: Base,
) -> Result<Result<Box<Built>, String>, StoreError> {
    let Base { loaded, number } = base;
    let (state, more) = match read(document, loaded.applied)? {
        Missing::Nothing => (Ok(None), false),
        Missing::Changes { page, more } => {
            let cloned = contained(|| Ok::<_, String>(loaded.automerge.clone()));
            // A writer that finds it shared has to clone it.
            drop(loaded);
            (cloned.and_then(|base| extend(document, base, &page)).map(Some), more)
        }
        Missing::Everything(whole) => (whole_of(&whole).map(Some), false),
    };
    Ok(state.map(|state| Box::new(Built { state, more, number })))
}

fn read(document: &OpenDocument, applied: u64) -> Result<Missing, StoreError> {
    let log = &document.core.log;
    let Some(row) = log.document(document.row, &document.id)? else { return Ok(Missing::Nothing) };
    let (page, more) = log.changes_after(row, applied, BATCH_BYTES)?;
    if page.iter().any(|stored| stored.folded) {
        return Ok(Missing::Everything(Whole::read(log, row, Some(page))?));
    }
    match page.is_empty() {
        true => Ok(Missing::Nothing),
        false => Ok(Missing::Changes { page, more }),
    }
}

fn extend(document: &OpenDocument, base: Automerge, page: &[Stored]) -> Result<NewState, String> {
    let mut patches = match document.has_listeners() {
        true => PatchLog::active(),
        false => PatchLog::inactive(),
    };
    let last = page.last().map_or(0, |stored| stored.local);
    let bytes = Bytes::More(page.iter().map(|stored| stored.body.len() as u64).sum());
    let automerge = apply_parsed(base, parse(page)?, &mut patches)?;
    Ok(NewState { automerge, last, bytes, patches: Some(patches) })
}

fn whole_of(whole: &Whole) -> Result<NewState, String> {
    let (last, bytes) = (whole.last, Bytes::All(whole.bytes));
    Ok(NewState { automerge: whole.build()?, last, bytes, patches: None })
}
