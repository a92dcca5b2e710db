//! The tables, one module for each: rows as they are stored, found, written and checked. It must not know
//! what a page, a compaction or a push is.

pub(in crate::store) mod actors;
pub(in crate::store) mod checked;
pub(in crate::store) mod documents;
pub(in crate::store) mod indexes;
pub(in crate::store) mod passed;
pub(in crate::store) mod schema;
pub(in crate::store) mod snapshot_row;
pub(in crate::store) mod snapshots;
