//! An upstream's part of the store: what it acknowledged, what is still to be sent to it, what it
//! rejects, and the counts of a space that follow from these.

pub(super) mod acked;
pub(super) mod damaged;
pub(super) mod links;
pub(super) mod outbox;
pub(super) mod pending;
pub(super) mod rejected;
pub(super) mod report;
pub(super) mod superseded;
