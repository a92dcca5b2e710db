//! Entries received from an upstream: preparing a batch, admitting it in one transaction, and deferring
//! what cannot be applied yet.

pub(super) mod compatibility;
pub(super) mod deferred;
pub(super) mod partial;
pub(super) mod prepare;
pub(super) mod receive;
pub(super) mod received;
pub(super) mod resume;
pub(super) mod retry;
pub(super) mod transaction;
