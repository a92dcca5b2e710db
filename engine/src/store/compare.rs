//! Comparing this store's documents with an upstream's: entries of documents that differ, and the known
//! reasons for a difference.

pub(super) mod out_of_order;
pub(super) mod reasons;
