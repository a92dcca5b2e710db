//! Administration: copying, exporting, importing, inspecting and removing.

pub(super) mod contents;
pub(super) mod import;
pub(super) mod inspect;
pub(super) mod removal;
