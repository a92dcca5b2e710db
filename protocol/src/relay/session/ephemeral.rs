//! Ephemeral messages of a session, sent and received.
//!
//! None of them ends the session: a message that does not apply is dropped, because any ephemeral
//! message may be lost.

use super::{Phase, Session, SessionEffect};
use crate::access::Rights;
use crate::ephemeral::sender_of;
use crate::frame::{Ephemeral, Frame, SubscriptionId, features};

impl Session {
    /// Subscribes to the ephemeral messages and repair requests for a subscription's documents, if
    /// the peer supports either.
    pub(super) fn listen(&mut self, subscription: SubscriptionId) {
        let Some(entry) = self.subscriptions.get(&subscription) else { return };
        if self.features & (features::EPHEMERAL | features::RESEND) != 0 {
            let (space, view) = (entry.space.clone(), entry.view.clone());
            self.effects.push_back(SessionEffect::Listen { subscription, space, view });
        }
    }

    /// The peer sends an ephemeral message. The relay sets the sender's name, so that no client can
    /// impersonate another. It takes the right to write.
    pub(super) fn handle_ephemeral(&mut self, message: Ephemeral) {
        let Phase::Ready(identity) = &self.phase else { return };
        let Some(entry) = self.subscriptions.get(&message.subscription) else { return };
        let rights = identity.principal.rights(&entry.space, &message.document);
        let may_send = rights.includes(Rights::WRITE) && entry.filter.wants(&message.document);
        if entry.position.is_some() && may_send {
            let (space, sender) = (entry.space.clone(), sender_of(&identity.replica));
            let message = Ephemeral { sender, ..message };
            self.effects.push_back(SessionEffect::Ephemeral { space, message });
        }
    }

    /// Sends another client's message, if the message's subscription exists and wants the document.
    pub fn send_ephemeral(&mut self, message: Ephemeral) {
        let Some(entry) = self.subscriptions.get(&message.subscription) else { return };
        // The peer may support only repair requests.
        let knows = self.features & features::EPHEMERAL != 0;
        if knows && entry.position.is_some() && entry.view.contains(&message.document) {
            self.send(Frame::Ephemeral(message));
        }
    }
}
