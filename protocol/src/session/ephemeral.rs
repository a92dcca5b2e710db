//! Ephemeral messages of a session: what its peer says, and what it hears.
//!
//! Nothing here ends a session: a message that fits nowhere is dropped, as any other may be.

use super::{Phase, Session, SessionEffect};
use crate::ephemeral::sender_of;
use crate::frame::{Ephemeral, Frame, SubscriptionId, features};

impl Session {
    /// Somebody may want to hear what is said about a subscription's documents, or can be asked for them.
    pub(super) fn listen(&mut self, subscription: SubscriptionId) {
        let Some(entry) = self.subscriptions.get(&subscription) else { return };
        if self.features & (features::EPHEMERAL | features::RESEND) != 0 {
            let (space, filter) = (entry.space.clone(), entry.filter.clone());
            self.effects.push_back(SessionEffect::Listen { subscription, space, filter });
        }
    }

    /// The peer says something. Its name is written here, so that nobody speaks for another.
    pub(super) fn handle_ephemeral(&mut self, message: Ephemeral) {
        let Phase::Ready(identity) = &self.phase else { return };
        let Some(entry) = self.subscriptions.get(&message.subscription) else { return };
        if entry.position.is_some() && entry.filter.wants(&message.document) {
            let (space, sender) = (entry.space.clone(), sender_of(&identity.replica));
            let message = Ephemeral { sender, ..message };
            self.effects.push_back(SessionEffect::Said { space, message });
        }
    }

    /// Somebody else said something: sends it, if the subscription in it stands and wants it.
    pub fn handle_said(&mut self, message: Ephemeral) {
        let Some(entry) = self.subscriptions.get(&message.subscription) else { return };
        // It may listen only to be asked for what is damaged.
        let knows = self.features & features::EPHEMERAL != 0;
        if knows && entry.position.is_some() && entry.filter.wants(&message.document) {
            self.send(Frame::Ephemeral(message));
        }
    }
}
