//! Verification of the whole store, and the repair of what it finds.

pub(super) mod checks;
pub(super) mod document;
pub(super) mod findings;
pub(super) mod repair;
pub(super) mod space;
