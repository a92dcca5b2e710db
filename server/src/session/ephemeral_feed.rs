//! Ephemeral messages of a session: those that its client sends, and those of other clients that it receives.
//!
//! Received messages wait in a bounded mailbox while the client does not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::frame::{Ephemeral, Filter, SubscriptionId};
use landfall_protocol::{SessionId, SpaceName};

use crate::memory::{Account, Grant};
use crate::rooms::{News, Rooms, Said, Seat};

/// The session's subscriptions to ephemeral messages. Dropping it ends them all.
pub(super) struct EphemeralFeed {
    rooms: Arc<Rooms>,
    seat: Arc<Seat>,
    spaces: BTreeMap<SubscriptionId, SpaceName>,
}

impl Drop for EphemeralFeed {
    fn drop(&mut self) {
        self.rooms.forget(self.seat.session());
    }
}

impl EphemeralFeed {
    /// Without subscriptions.
    pub(super) fn new(id: SessionId, account: Account, rooms: Arc<Rooms>) -> Self {
        Self { rooms, seat: Seat::new(id, account), spaces: BTreeMap::new() }
    }

    /// Subscribes to messages about these documents.
    pub(super) fn listen(
        &mut self,
        subscription: SubscriptionId,
        space: SpaceName,
        filter: Filter,
    ) {
        self.rooms.listen(&space, subscription, filter, &self.seat);
        self.spaces.insert(subscription, space);
    }

    /// A subscription has ended.
    pub(super) fn end(&mut self, subscription: SubscriptionId) {
        if let Some(space) = self.spaces.remove(&subscription) {
            self.rooms.unlisten(&space, subscription, self.seat.session());
        }
    }

    /// Publishes a message of the client.
    pub(super) fn say(&self, space: &SpaceName, message: Ephemeral) {
        let Ephemeral { document, sender, session, count, data, .. } = message;
        let said = Said { document, sender, session, count, data: data.into_vec() };
        if !self.rooms.say(&self.seat, space, said) {
            tracing::debug!(%space, %document, count, "an ephemeral message is not passed on");
        }
    }

    /// Waits for messages of other clients; returns them with their memory.
    pub(super) async fn said(&self) -> (Vec<News>, Option<Grant>) {
        self.seat.wait().await;
        let (news, _, room) = self.seat.take_with_memory();
        (news, room)
    }
}

/// The frame that a client receives.
pub(super) fn message(subscription: SubscriptionId, said: Arc<Said>) -> Ephemeral {
    let Said { document, sender, session, count, data } = Arc::unwrap_or_clone(said);
    let data = data.into();
    Ephemeral { subscription, document, sender, session, count, data }
}
