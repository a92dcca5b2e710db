//! What the relay's store cannot read is asked of the peer, and what can be read again is told.

use super::{Session, SessionEffect};
use crate::frame::{Frame, Mended, Resend, Resent, SubscriptionId, features};
use crate::ids::{ChangeHash, DocumentId};

impl Session {
    /// Asks the peer for changes of a document, or with none of them for everything that it has.
    /// False if it cannot be asked: it does not know the question, or does not follow the document.
    pub fn handle_lost(
        &mut self,
        subscription: SubscriptionId,
        document: DocumentId,
        changes: &[ChangeHash],
    ) -> bool {
        if !self.mends(subscription, &document) {
            return false;
        }
        let changes = changes.iter().map(|hash| hash.0).collect();
        self.send(Frame::Resend(Resend { subscription, document, changes }));
        true
    }

    /// Tells the peer that a document can be read again, if it follows that and knows the frame.
    pub fn handle_mended(&mut self, subscription: SubscriptionId, document: DocumentId) {
        if self.mends(subscription, &document) {
            self.send(Frame::Mended(Mended { subscription, document }));
        }
    }

    fn mends(&self, subscription: SubscriptionId, document: &DocumentId) -> bool {
        let knows = self.features & features::RESEND != 0 && !self.has_ended();
        let entry = self.subscriptions.get(&subscription);
        knows && entry.is_some_and(|entry| entry.filter.wants(document))
    }

    pub(super) fn handle_resent(&mut self, resent: Resent) {
        let Resent { subscription, document, count } = resent;
        // It may cross the end of its subscription in neither direction: the client's frames come in
        // their order. One that nobody asked for says nothing.
        if let Some(entry) = self.subscriptions.get(&subscription) {
            let space = entry.space.clone();
            self.effects.push_back(SessionEffect::Resent { space, document, count });
        }
    }
}
