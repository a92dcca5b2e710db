//! The log: its rows, the transaction that adds to it, and what is derived from it (heads, digests,
//! indexes of snapshots). It knows no upstream.

pub(super) mod append;
pub(super) mod digests;
pub(super) mod graph;
pub(super) mod history;
pub(super) mod indexes;
pub(super) mod log_transaction;
pub(super) mod rows;
pub(super) mod snapshots;
pub(super) mod tombstones;
