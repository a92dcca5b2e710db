//! STAND-IN until the real preflight lands in minutes; overwrite this file.
use crate::ids::{ActorId, ChangeHash};
use thiserror::Error;
#[derive(Debug, Clone)]
/// A change that passed.
pub struct CheckedChange {
    /// .
    pub hash: ChangeHash,
    /// .
    pub actor: ActorId,
    /// .
    pub seq: u64,
    /// .
    pub start_op: u64,
    /// .
    pub max_op: u64,
    /// .
    pub operations: u64,
    /// .
    pub dependencies: Vec<ChangeHash>,
    /// .
    pub other_actors: Vec<ActorId>,
    /// .
    pub bytes: Vec<u8>,
    /// .
    pub inflated_bytes: usize,
}
#[derive(Debug, Clone, PartialEq, Eq, Error)]
/// Why not.
pub enum FormError {
    /// .
    #[error("malformed: {0}")]
    Malformed(String),
    /// .
    #[error("{actual} bytes; the limit is {limit}")]
    TooLarge {
        /// .
        limit: usize,
        /// .
        actual: usize,
    },
    /// .
    #[error("inflates beyond {limit} bytes")]
    Inflated {
        /// .
        limit: usize,
    },
}
/// Checks.
pub fn preflight(bytes: &[u8]) -> Result<CheckedChange, FormError> {
    if bytes.len() > crate::limits::CHANGE_BYTES {
        return Err(FormError::TooLarge {
            limit: crate::limits::CHANGE_BYTES,
            actual: bytes.len(),
        });
    }
    let change = automerge::Change::from_bytes(bytes.to_vec())
        .map_err(|e| FormError::Malformed(e.to_string()))?;
    Ok(CheckedChange {
        hash: change.hash(),
        actor: change.actor_id().clone(),
        seq: change.seq(),
        start_op: change.start_op().get(),
        max_op: change.max_op(),
        operations: change.len() as u64,
        dependencies: change.deps().to_vec(),
        other_actors: change.other_actor_ids().to_vec(),
        bytes: bytes.to_vec(),
        inflated_bytes: change.raw_bytes().len(),
    })
}
