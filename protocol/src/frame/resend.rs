//! Frames by which a relay has what is damaged in its store brought back by those who have it. All
//! of them are optional: a peer that does not know them skips them.

use serde::{Deserialize, Serialize};

use super::SubscriptionId;
use crate::ids::DocumentId;

/// From a relay: push these changes of a document again. It has them, and cannot read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resend {
    /// Over which subscription.
    pub subscription: SubscriptionId,
    /// The document, within the subscription's filter.
    pub document: DocumentId,
    /// Which changes, at most [`RESEND_CHANGES`](crate::limits::RESEND_CHANGES); none of them for
    /// everything that the client has of the document, as a snapshot.
    pub changes: Vec<[u8; 32]>,
}

/// From a client: the pushes that answer a [`Resend`] are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// Over which subscription.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
    /// Changes that the relay acknowledged, a snapshot as one; 0 if the client had nothing.
    pub count: u32,
}

/// From a relay: a document can be read again that could not be. Who was told of damage in it may
/// ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// Over which subscription.
    pub subscription: SubscriptionId,
    /// The document.
    pub document: DocumentId,
}
