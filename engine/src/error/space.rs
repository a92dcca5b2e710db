//! Errors of operations on a space: opening, removing and filtering it.

use landfall_protocol::SpaceName;
use landfall_protocol::ids::BadSpaceName;
use thiserror::Error;

use super::StoreError;
use super::words::saved;
use crate::store::Pending;

/// Why a space could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// The name is invalid.
    #[error(transparent)]
    BadName(#[from] BadSpaceName),
    /// The store was opened read-only, and has no such space.
    #[error("the store has no space `{0}`, and it is open read-only")]
    Unknown(SpaceName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a space was not removed from this store. It is unchanged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoveSpaceError {
    /// The store has no such space.
    #[error("the store has no space `{0}`")]
    Unknown(SpaceName),
    /// The relay is not known to have all of it.
    #[error(
        "space `{space}` has changes that are on no relay: {}; flush first, or remove it by force and lose them",
        saved(pending)
    )]
    Unsent {
        /// The space.
        space: SpaceName,
        /// The changes that would be lost.
        pending: Pending,
    },
    /// The name is invalid.
    #[error(transparent)]
    BadName(#[from] BadSpaceName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a space's filter was not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// More documents than a subscription may name.
    #[error(
        "the filter names {actual} documents, the limit is {limit}; sync the whole space instead"
    )]
    TooMany {
        /// How many.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
