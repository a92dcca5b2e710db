//! The author of a push, with its rights on the pushed document.

use crate::access::{Identity, Rights};
use crate::ids::{DocumentId, SpaceName};

/// The pusher, and its rights on the document when the push arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The name that the log records, at most [`AUTHOR_BYTES`](crate::limits::AUTHOR_BYTES).
    pub name: Vec<u8>,
    /// Its rights on the document, and on the space.
    pub rights: Rights,
}

impl Author {
    /// A principal's rights on a document.
    pub fn new(identity: &Identity, space: &SpaceName, document: &DocumentId) -> Self {
        let rights = identity.principal.rights(space, document);
        Self { name: identity.author(), rights }
    }

    /// An author with every right, such as in open mode, or the relay itself.
    pub fn of_all(name: Vec<u8>) -> Self {
        Self { name, rights: Rights::ALL }
    }

    /// Whether it may write to a document that does not exist.
    pub fn may_create(&self) -> bool {
        self.rights.includes(Rights::CREATE.union(Rights::WRITE))
    }
}
