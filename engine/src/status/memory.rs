//! The size of the document cache, which the cache writes and the status reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// The size of the cache, for the status.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) documents: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Memory {
    /// The number of documents, and an estimate of their bytes.
    pub(crate) fn now(&self) -> (u64, u64) {
        (self.documents.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}
