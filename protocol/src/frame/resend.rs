//! Frames of repair: a relay gets damaged entries of its store back from clients that have them.
//! All of them are optional: a peer that does not know them skips them.

use serde::{Deserialize, Serialize};

use super::SubscriptionId;
use crate::ids::DocumentId;

/// From a relay: push these changes of a document again. It has them, and cannot read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The document, within the subscription's filter.
    pub document: DocumentId,
    /// The changes, at most [`RESEND_CHANGES`](crate::limits::RESEND_CHANGES); none to request
    /// everything that the client has of the document, as a snapshot.
    pub changes: Vec<[u8; 32]>,
}

/// From a client: the pushes for a [`Resend`] have been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// The number of changes that the relay acknowledged, a snapshot as one; 0 if the client had
    /// nothing.
    pub count: u32,
}

/// From a relay: a damaged document is readable again. A client that received the damage may fetch
/// the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
}
