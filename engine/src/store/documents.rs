//! Documents: reading them, deleting them, and the recorded facts about each (limits, quarantine,
//! actors).

pub(super) mod actors;
pub(super) mod deletion;
pub(super) mod excess;
pub(super) mod quarantined;
pub(super) mod view;
