//! Builds the next state of a document from received changes, beside its readers and writers.
//!
//! No lock is held while automerge or SQLite runs. The holder of the writer right swaps the result in
//! (`swap`).

use std::sync::Arc;

use automerge::{Automerge, PatchLog};

use super::built::{Built, Bytes, NewState};
use super::load::{Whole, parse};
use super::slot::State;
use super::{Loaded, OpenDocument};
use crate::changes::{apply_parsed, contained};
use crate::error::StoreError;
use crate::store::Stored;

/// Bytes of changes in one apply.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// The applier's next task for a document.
pub(super) enum Job {
    /// None; or a writer queues the document again.
    None,
    /// Send an event only: no loaded state has to be updated.
    Tell,
    /// Swap in the state that was built before.
    Swap,
    /// Build on this state.
    Build(Base),
}

/// The base of a build.
pub(super) struct Base {
    loaded: Arc<Loaded>,
    /// The number of the build that begins with it.
    number: u64,
}

impl OpenDocument {
    /// Chooses the applier's next task. Once a base is taken, published local changes are also kept for
    /// the swap, and do not advance the position up to which everything is applied.
    pub(super) fn next_job(self: &Arc<Self>) -> Job {
        let mut unloaded = State::Unloaded;
        let mut slot = self.slot.lock();
        slot.queued = false;
        slot.base_wanted = false;
        if slot.built.is_some() {
            return Job::Swap;
        }
        if !slot.arrived || slot.building.is_some() {
            // The end of the present build queues it again.
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
            // The next access loads it with all changes.
            State::Published(_) if !held && slot.writer.is_none() => {
                std::mem::swap(&mut slot.state, &mut unloaded);
                self.context.cache.unloaded(self);
            }
            State::Deleted => {
                slot.arrived = false;
                return Job::None;
            }
            // A quarantined document accepts no changes.
            State::Published(_) | State::Unloaded => {}
        }
        slot.arrived = false;
        drop(slot);
        drop(unloaded);
        Job::Tell
    }
}

/// Changes that the store has and a document lacks.
enum Missing {
    Nothing,
    /// Changes; `more` if there are further ones.
    Changes {
        page: Vec<Stored>,
        more: bool,
    },
    /// Some of it is compacted by now, so the document is built from everything: a part might lack
    /// local changes that the document has.
    Everything(Whole),
}

/// Adds the changes that the base lacks; returns automerge's error if it cannot.
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
    let log = &document.context.log;
    let Some(row) = log.document(document.row, &document.id)? else { return Ok(Missing::Nothing) };
    let (page, more) = log.changes_after(row, applied, BATCH_BYTES)?;
    if page.iter().any(|stored| stored.compacted) {
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
