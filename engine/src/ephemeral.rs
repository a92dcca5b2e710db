//! Sending ephemeral messages for the application. It knows the link and the status, not the store.

use std::sync::atomic::{AtomicU64, Ordering};

use landfall_protocol::limits::EPHEMERAL_BYTES;
use landfall_protocol::{DocumentId, SpaceName};

use crate::error::BroadcastError;
use crate::link::{EphemeralRejection, Link};
use crate::open_store::OpenStore;
use crate::random::{self, NoRandomness};
use crate::status::SyncStatus;

/// The sender of one opening of a store: its session name and its message count.
pub(crate) struct EphemeralSender {
    pub(crate) session: String,
    said: AtomicU64,
}

impl EphemeralSender {
    /// A sender without messages, under a fresh random session name.
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        let session = hex::encode(random::bytes::<8>()?);
        Ok(Self { session, said: AtomicU64::new(0) })
    }

    fn next(&self) -> u64 {
        self.said.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Sends an ephemeral message about a document.
pub(crate) fn broadcast(
    store: &OpenStore,
    (link, sender): (&Link, &EphemeralSender),
    space: &SpaceName,
    document: DocumentId,
    data: Vec<u8>,
) -> Result<(), BroadcastError> {
    if data.len() > EPHEMERAL_BYTES {
        let (limit, actual) = (EPHEMERAL_BYTES, data.len());
        return Err(BroadcastError::TooLarge { limit, actual });
    }
    if store.context.access.is_closed() {
        return Err(BroadcastError::Closed);
    }
    let sent = link.send_ephemeral(space, document, data, || sender.next());
    sent.map_err(|rejected| match rejected {
        EphemeralRejection::NotSubscribed => unheard(store, space),
        EphemeralRejection::OutOfScope => BroadcastError::OutOfScope,
        EphemeralRejection::Congested => BroadcastError::Congested,
    })
}

/// Why a message about a space cannot be sent.
fn unheard(store: &OpenStore, space: &SpaceName) -> BroadcastError {
    let status = store.context.status.watch().now();
    match status.spaces.get(space) {
        // A relay that forwards messages would have announced that before.
        Some(space) if space.sync == SyncStatus::Live => BroadcastError::Unsupported,
        _ => BroadcastError::Offline { last_error: status.last_error },
    }
}
