//! The logs: appending commits, reading pages, planning what a peer lacks, and replacing damaged bytes in
//! place.

pub(in crate::store) mod append;
pub(in crate::store) mod fill;
pub(in crate::store) mod listing;
pub(in crate::store) mod plan;
pub(in crate::store) mod read;
pub(in crate::store) mod repairing;
