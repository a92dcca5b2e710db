//! A state of a document that the applier has built, until it is swapped in.

use automerge::{Automerge, PatchLog};

/// A state that the applier has built and not yet published.
pub(super) struct Built {
    /// `None` if the store has nothing that the base lacks.
    pub(super) state: Option<NewState>,
    /// Whether the store has more.
    pub(super) more: bool,
    /// The number of the build.
    pub(super) number: u64,
}

pub(super) struct NewState {
    pub(super) automerge: Automerge,
    /// It contains everything up to this local sequence number.
    pub(super) last: u64,
    /// Its bytes in the store.
    pub(super) bytes: Bytes,
    /// The patches from the state before, if they are known.
    pub(super) patches: Option<PatchLog>,
}

pub(super) enum Bytes {
    /// The increase.
    More(u64),
    All(u64),
}
