//! Repair of the relay's store by the peer: requests for damaged changes, and notices of repair.
//! Does not know which data is damaged: the caller reports it.

use super::{Session, SessionEffect};
use crate::frame::{Frame, Repaired, Resend, Resent, SubscriptionId, features};
use crate::ids::{ChangeHash, DocumentId};

impl Session {
    /// Requests changes of a document from the peer; with none, its whole document. Returns false
    /// if the peer does not support the request or does not follow the document.
    pub fn handle_damaged(
        &mut self,
        subscription: SubscriptionId,
        document: DocumentId,
        changes: &[ChangeHash],
    ) -> bool {
        if !self.repairs(subscription, &document) {
            return false;
        }
        let changes = changes.iter().map(|hash| hash.0).collect();
        self.send(Frame::Resend(Resend { subscription, document, changes }));
        true
    }

    /// Notifies the peer that a damaged document is readable again, if it follows the document and
    /// supports the frame.
    pub fn handle_repaired(&mut self, subscription: SubscriptionId, document: DocumentId) {
        if self.repairs(subscription, &document) {
            self.send(Frame::Repaired(Repaired { subscription, document }));
        }
    }

    fn repairs(&self, subscription: SubscriptionId, document: &DocumentId) -> bool {
        let knows = self.features & features::RESEND != 0 && !self.has_ended();
        let entry = self.subscriptions.get(&subscription);
        knows && entry.is_some_and(|entry| entry.view.contains(document))
    }

    pub(super) fn handle_resent(&mut self, resent: Resent) {
        let Resent { subscription, document, count } = resent;
        // It cannot cross the end of its subscription: the client's frames arrive in order. An
        // unrequested one has no effect.
        if let Some(entry) = self.subscriptions.get(&subscription) {
            let space = entry.space.clone();
            self.effects.push_back(SessionEffect::Resent { space, document, count });
        }
    }
}
