//! Snapshots: which documents are due for compaction, installing the result, splitting a snapshot
//! that exceeds the limit, and sending one again.

pub(super) mod compaction;
pub(super) mod expand;
pub(super) mod install;
pub(super) mod resend;
