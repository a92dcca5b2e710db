//! Who a session is and what it may do. Asked at every subscribe and every push.

use thiserror::Error;

use crate::frame::Hello;
use crate::ids::{DocumentId, ReplicaId, SpaceName};

/// Who a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The store that speaks.
    pub replica: ReplicaId,
    /// What its entries will name as their author, at most [`crate::limits::AUTHOR_BYTES`].
    pub author: Vec<u8>,
}

/// Why something was not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}; {hint}")]
pub struct Denied {
    /// What was not allowed.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// A policy.
pub trait Rights {
    /// Who a client is, by its first frame.
    fn identify(&self, hello: &Hello) -> Result<Identity, Denied>;

    /// Whether it may read a space.
    fn may_subscribe(&self, who: &Identity, space: &SpaceName) -> Result<(), Denied>;

    /// Whether it may write to a document.
    fn may_push(
        &self,
        who: &Identity,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<(), Denied>;
}

/// Open mode: everybody may do everything; a session is the replica that it says it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everything;

impl Rights for Everything {
    fn identify(&self, hello: &Hello) -> Result<Identity, Denied> {
        let replica = hello.replica;
        Ok(Identity { replica, author: replica.as_bytes().to_vec() })
    }

    fn may_subscribe(&self, _: &Identity, _: &SpaceName) -> Result<(), Denied> {
        Ok(())
    }

    fn may_push(&self, _: &Identity, _: &SpaceName, _: &DocumentId) -> Result<(), Denied> {
        Ok(())
    }
}
