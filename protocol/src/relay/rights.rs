//! The identity of a session and its rights, checked at every subscribe and every push. Knows no
//! authentication method.

use thiserror::Error;

use crate::frame::Hello;
use crate::ids::{DocumentId, ReplicaId, SpaceName};

/// The identity of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The client's store.
    pub replica: ReplicaId,
    /// The author of its entries, at most [`crate::limits::AUTHOR_BYTES`].
    pub author: Vec<u8>,
}

/// Why an action was denied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}; {hint}")]
pub struct Denied {
    /// The denied action.
    pub what: String,
    /// The remedy.
    pub hint: String,
}

/// An access policy.
pub trait Rights {
    /// Identifies a client by its first frame.
    fn identify(&self, hello: &Hello) -> Result<Identity, Denied>;

    /// Checks whether it may read a space.
    fn may_subscribe(&self, who: &Identity, space: &SpaceName) -> Result<(), Denied>;

    /// Checks whether it may write to a document.
    fn may_push(
        &self,
        who: &Identity,
        space: &SpaceName,
        document: &DocumentId,
    ) -> Result<(), Denied>;
}

/// Open mode: every client may do everything, and its stated replica is its identity.
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
