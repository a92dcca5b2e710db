//! Ephemeral messages of a session: those that its client sends, and those of other clients that it receives.
//!
//! Received messages wait in a bounded mailbox while the client does not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::access::View;
use landfall_protocol::frame::{Ephemeral, SubscriptionId};
use landfall_protocol::{SessionId, SpaceName};

use crate::fan_out::{Broadcast, Delivery, FanOut, Mailbox};
use crate::memory::{Account, Grant};

/// The session's subscriptions to ephemeral messages. Dropping it ends them all.
pub(super) struct EphemeralFeed {
    fan_out: Arc<FanOut>,
    mailbox: Arc<Mailbox>,
    spaces: BTreeMap<SubscriptionId, SpaceName>,
}

impl Drop for EphemeralFeed {
    fn drop(&mut self) {
        self.fan_out.remove(self.mailbox.session());
    }
}

impl EphemeralFeed {
    /// Without subscriptions.
    pub(super) fn new(id: SessionId, account: Account, fan_out: Arc<FanOut>) -> Self {
        Self { fan_out, mailbox: Mailbox::new(id, account), spaces: BTreeMap::new() }
    }

    /// Subscribes to messages about these documents.
    pub(super) fn subscribe(&mut self, subscription: SubscriptionId, space: SpaceName, view: View) {
        self.fan_out.subscribe_ephemeral(&space, subscription, view, &self.mailbox);
        self.spaces.insert(subscription, space);
    }

    /// A subscription has ended.
    pub(super) fn end(&mut self, subscription: SubscriptionId) {
        if let Some(space) = self.spaces.remove(&subscription) {
            self.fan_out.unsubscribe_ephemeral(&space, subscription, self.mailbox.session());
        }
    }

    /// Publishes a message of the client.
    pub(super) fn publish(&self, space: &SpaceName, message: Ephemeral) {
        let Ephemeral { document, sender, session, count, data, .. } = message;
        let message = Broadcast { document, sender, session, count, data: data.into_vec() };
        if !self.fan_out.publish_ephemeral(&self.mailbox, space, message) {
            tracing::debug!(%space, %document, count, "an ephemeral message was not forwarded");
        }
    }

    /// Waits for messages of other clients; returns them with their memory.
    pub(super) async fn message(&self) -> (Vec<Delivery>, Option<Grant>) {
        self.mailbox.wait().await;
        let (deliveries, _, grant) = self.mailbox.take_with_memory();
        (deliveries, grant)
    }
}

/// The frame that a client receives.
pub(super) fn message(subscription: SubscriptionId, message: Arc<Broadcast>) -> Ephemeral {
    let Broadcast { document, sender, session, count, data } = Arc::unwrap_or_clone(message);
    let data = data.into();
    Ephemeral { subscription, document, sender, session, count, data }
}
