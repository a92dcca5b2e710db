//! Repair of a document that is damaged in the relay's store: the relay requests the peer's copy of
//! the document, and resumes the sync once the document can be read again.

use super::{Effect, Peer};
use crate::automerge_repo::peer::document::LogState;
use crate::automerge_repo::sync::Have;
use crate::ids::DocumentId;

impl Peer {
    /// The relay lost part of a document: requests everything that the peer has of it, and emits
    /// [`Effect::Resent`] for the answer. `need` would request single changes, but a peer sends
    /// none twice in a session; to a peer without heads it sends everything.
    ///
    /// False if the peer has nothing to send. True without a request while changes of the peer are
    /// in flight: those may be the lost ones.
    pub fn handle_lost(&mut self, id: DocumentId) -> bool {
        let Some(document) = self.documents.get_mut(&id) else { return false };
        let has_nothing = document.theirs.as_ref().is_none_or(Vec::is_empty);
        if self.ended || has_nothing || document.standing == Some(LogState::Deleted) {
            return false;
        }
        if document.incoming.is_busy() {
            return true;
        }
        document.is_asked = true;
        let takes_whole = document.announces_much();
        self.send_sync(id, Vec::new(), &[], &[Have::default()], &[], takes_whole);
        true
    }

    /// A sync message from the peer answers the request of [`Peer::handle_lost`].
    pub(super) fn note_resent(&mut self, id: DocumentId, brought: bool) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        if std::mem::take(&mut document.is_asked) {
            self.effects.push_back(Effect::Resent { document: id, brought });
        }
    }

    /// The document can be read again.
    pub fn handle_repaired(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        if document.standing == Some(LogState::Damaged) {
            document.reopen();
            self.advance(id);
        }
    }
}
