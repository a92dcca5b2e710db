//! Derived views of documents: digests for comparison, the history that admission queries, and the index that
//! answers automerge-repo peers.

pub(in crate::store) mod automerge_repo;
pub(in crate::store) mod digests;
pub(in crate::store) mod history;
