//! Ephemeral messages of a session: those that its client says, and those that it hears.
//!
//! What it hears waits in a bounded seat while the client does not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::frame::{Ephemeral, Filter, SubscriptionId};
use landfall_protocol::{SessionId, SpaceName};

use crate::memory::{Account, Grant};
use crate::rooms::{News, Rooms, Said, Seat};

/// Where a session listens. Dropped, it listens nowhere.
pub(super) struct Hearing {
    rooms: Arc<Rooms>,
    seat: Arc<Seat>,
    spaces: BTreeMap<SubscriptionId, SpaceName>,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.rooms.forget(self.seat.session());
    }
}

impl Hearing {
    /// Nowhere yet.
    pub(super) fn new(id: SessionId, account: Account, rooms: Arc<Rooms>) -> Self {
        Self { rooms, seat: Seat::new(id, account), spaces: BTreeMap::new() }
    }

    /// What is said about these documents is wanted.
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

    /// The client says something.
    pub(super) fn say(&self, space: &SpaceName, message: Ephemeral) {
        let Ephemeral { document, sender, session, count, data, .. } = message;
        let said = Said { document, sender, session, count, data: data.into_vec() };
        if !self.rooms.say(&self.seat, space, said) {
            tracing::debug!(%space, %document, count, "an ephemeral message is not passed on");
        }
    }

    /// Waits for what others say; gives it with the memory that it has.
    pub(super) async fn said(&self) -> (Vec<News>, Option<Grant>) {
        self.seat.wait().await;
        let (news, _, room) = self.seat.take_with_memory();
        (news, room)
    }
}

/// What a client is sent of it.
pub(super) fn message(subscription: SubscriptionId, said: Arc<Said>) -> Ephemeral {
    let Said { document, sender, session, count, data } = Arc::unwrap_or_clone(said);
    let data = data.into();
    Ephemeral { subscription, document, sender, session, count, data }
}
