//! Repair of a document that is damaged in the relay's store: the relay requests the peer's copy of
//! the document, and resumes the sync once the document can be read again.

use super::log_view::LogView;
use super::{Peer, PeerEffect};
use crate::automerge_repo::sync::Have;
use crate::ids::DocumentId;

impl Peer {
    /// The relay lost part of a document: requests everything that the peer has of it, and emits
    /// [`PeerEffect::Resent`] for the answer. `need` would request single changes, but a peer sends
    /// none twice in a session; to a peer without heads it sends everything.
    ///
    /// False if the peer has nothing to send. True without a request while changes of the peer are
    /// in flight: those may be the lost ones.
    pub fn handle_damaged(&mut self, id: DocumentId) -> bool {
        let Some(document) = self.documents.get_mut(&id) else { return false };
        let is_deleted = matches!(document.log, LogView::Deleted);
        if self.ended || document.negotiation.has_nothing() || is_deleted {
            return false;
        }
        if document.incoming.is_busy() {
            return true;
        }
        document.negotiation.request_resend();
        let takes_whole = document.negotiation.announces_much();
        self.send_sync(id, Vec::new(), &[], &[Have::default()], &[], takes_whole);
        true
    }

    /// A sync message from the peer answers the request of [`Peer::handle_damaged`].
    pub(super) fn note_resent(&mut self, id: DocumentId, brought: bool) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        if document.negotiation.take_resend() {
            self.effects.push_back(PeerEffect::Resent { document: id, brought });
        }
    }

    /// The document can be read again.
    pub fn handle_repaired(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        if matches!(document.log, LogView::Damaged) {
            document.reopen();
            self.advance(id);
        }
    }
}
