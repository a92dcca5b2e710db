//! The data under a document's lock: the state that readers see, and the writer that makes the next
//! one.
//!
//! Nothing here waits, loads or calls automerge; values that take long to drop are moved out for the
//! caller to drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use automerge::Change;
use landfall_protocol::ChangeHash;

use super::Loaded;
use super::built::Built;
use crate::events::Origin;

/// The state that readers see.
#[derive(Default)]
pub(super) enum State {
    /// Not loaded: the next access reads it from the store.
    #[default]
    Unloaded,
    /// A thread loads it from the store: the number of the load, as counted in `Slot::loads`.
    Loading(u64),
    /// The last committed and applied state.
    Published(Arc<Loaded>),
    /// A writer changes the only copy.
    InPlace(InPlace),
    /// Deleted permanently.
    Deleted,
}

/// The state while a writer has the only copy.
pub(super) struct InPlace {
    /// The number of the edit: `Slot::edits` when it began.
    pub(super) edit: u64,
    /// The closure has ended, and the engine commits. Readers wait for that.
    pub(super) committing: bool,
    /// How long a reader waits for the closure before it loads a copy: about the cost of a load.
    pub(super) patience: Duration,
    pub(super) copy: StoreCopy,
}

/// A copy loaded from the store, for readers while the only copy is being changed.
#[derive(Default)]
pub(super) enum StoreCopy {
    #[default]
    None,
    Loading,
    Loaded(Arc<Loaded>),
}

/// The holder of the writer right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// A thread of the application's, by its number.
    Application(u64),
    /// The thread that swaps in the state that the applier has built.
    Swap,
}

/// The applier builds the next state, or has built one that is not swapped in yet. There is one such
/// build at a time, from its base until the end of its swap, so that the changes kept here belong to
/// this build.
pub(super) struct Building {
    /// The number of the build: `Slot::builds` when it began.
    pub(super) number: u64,
    /// Local changes published since the build took its base.
    pub(super) since: Vec<Change>,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) state: State,
    /// Increases whenever changes that the loaded state has are removed from the store.
    pub(super) generation: u64,
    pub(super) writer: Option<Writer>,
    /// Edits begun so far.
    pub(super) edits: u64,
    /// Loads begun so far.
    pub(super) loads: u64,
    /// Builds begun so far.
    pub(super) builds: u64,
    /// Why automerge could not read all of the loaded document's bytes, if it could not.
    pub(super) quarantined: Option<String>,
    /// The store has changes that the state lacks, or for which no event was sent.
    pub(super) arrived: bool,
    /// Whether it is in the applier's queue.
    pub(super) queued: bool,
    /// The applier found no base to build on: the next writer leaves it one.
    pub(super) base_wanted: bool,
    /// The applier's build; `None` while it builds nothing and no result waits for its swap.
    pub(super) building: Option<Building>,
    /// The state that the applier built while a writer was busy.
    pub(super) built: Option<Box<Built>>,
    /// The origin and heads of the document's last `Changed` event.
    pub(super) told: Option<(Origin, Vec<ChangeHash>)>,
    /// A commit of several documents is being published: readers wait for all of it.
    pub(super) publishing: bool,
}

/// A reader's next step.
pub(super) enum Look {
    Here(Arc<Loaded>),
    Deleted,
    Load,
    /// Load the committed state, beside this edit.
    LoadCopy(u64),
    Wait(Option<Instant>),
}

impl Slot {
    /// Replaces the state; returns values to drop without the lock.
    pub(super) fn begin_generation(&mut self, state: State) -> (State, Option<Box<Built>>) {
        self.generation += 1;
        // Changes that had arrived and were being built still need their event.
        self.arrived |= self.building.take().is_some();
        self.quarantined = None;
        (std::mem::replace(&mut self.state, state), self.built.take())
    }

    /// Chooses a reader's next step. `patience` holds the time until which it waits for a closure. It
    /// is `now` if the reading thread is itself in a closure, for which others may wait.
    pub(super) fn look(&self, nested: bool, patience: &mut Option<Instant>) -> Look {
        match &self.state {
            _ if self.publishing => Look::Wait(None),
            State::Published(loaded) => Look::Here(Arc::clone(loaded)),
            State::Deleted => Look::Deleted,
            State::Unloaded => Look::Load,
            State::Loading(_) => Look::Wait(None),
            State::InPlace(InPlace { committing: true, .. }) => Look::Wait(None),
            State::InPlace(InPlace { copy: StoreCopy::Loaded(copy), .. }) => {
                Look::Here(Arc::clone(copy))
            }
            State::InPlace(InPlace { copy: StoreCopy::Loading, .. }) => Look::Wait(None),
            State::InPlace(in_place) => {
                let now = Instant::now();
                let wait = if nested { Duration::ZERO } else { in_place.patience };
                let until = *patience.get_or_insert_with(|| now + wait);
                if now < until { Look::Wait(Some(until)) } else { Look::LoadCopy(in_place.edit) }
            }
        }
    }

    /// The edit that changes the only copy, if it is this one.
    pub(super) fn in_place(&mut self, edit: u64) -> Option<&mut InPlace> {
        match &mut self.state {
            State::InPlace(in_place) if in_place.edit == edit => Some(in_place),
            _ => None,
        }
    }

    /// Begins a load; returns its number.
    pub(super) fn begin_load(&mut self) -> u64 {
        self.loads += 1;
        self.state = State::Loading(self.loads);
        self.loads
    }

    /// Whether the slot still waits for this load.
    pub(super) fn is_loading(&self, load: u64) -> bool {
        matches!(self.state, State::Loading(number) if number == load)
    }

    /// Begins a build; returns its number. Local changes are kept for its swap from now on.
    pub(super) fn begin_build(&mut self) -> u64 {
        self.builds += 1;
        self.building = Some(Building { number: self.builds, since: Vec::new() });
        self.builds
    }

    /// The build that is not swapped in yet, if it has this number.
    pub(super) fn building(&mut self, build: u64) -> Option<&mut Building> {
        self.building.as_mut().filter(|building| building.number == build)
    }

    /// Whether the state is still the one with which this edit began: `base` if the edit works on a
    /// clone, else the edit has the only copy.
    pub(super) fn is_unchanged_since(&self, edit: u64, base: Option<&Arc<Loaded>>) -> bool {
        match (&self.state, base) {
            (State::Published(loaded), Some(base)) => Arc::ptr_eq(loaded, base),
            (State::InPlace(in_place), None) => in_place.edit == edit,
            _ => false,
        }
    }

    /// Whether the calling thread has the writer right.
    pub(super) fn is_mine(&self) -> bool {
        self.writer == Some(Writer::Application(thread_number()))
    }

    /// Whether the applier has a task that it could not do before.
    pub(super) fn calls_applier(&self) -> bool {
        let has_base = !matches!(self.state, State::Loading(_) | State::InPlace(_));
        (self.built.is_some() && self.writer.is_none()) || (self.base_wanted && has_base)
    }
}

/// A number for this thread, never used again.
pub(super) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
