//! A document that is damaged in the relay's store: the peer is asked for what it has of it, and is
//! sent what it waits for once the document can be read again.

use super::{Effect, Peer};
use crate::ids::DocumentId;
use crate::repo::peer::document::Standing;
use crate::repo::sync::Have;

impl Peer {
    /// The relay has lost something of a document: asks the peer for all that it has, and gives
    /// [`Effect::Resent`] for its answer. `need` would ask for single changes, but a peer sends none
    /// twice in a session; to whom has no heads it sends everything.
    ///
    /// False if there is nothing to ask it for. True without a question while changes of its own are
    /// on their way: those may be what was lost.
    pub fn handle_lost(&mut self, id: DocumentId) -> bool {
        let Some(document) = self.documents.get_mut(&id) else { return false };
        let has_nothing = document.theirs.as_ref().is_none_or(Vec::is_empty);
        if self.ended || has_nothing || document.standing == Some(Standing::Deleted) {
            return false;
        }
        if document.checks > 0 || document.pushes > 0 {
            return true;
        }
        document.is_asked = true;
        let takes_whole = document.announces_much();
        self.send_sync(id, Vec::new(), &[], &[Have::default()], &[], takes_whole);
        true
    }

    /// The peer has said something of a document: that answers what it was asked.
    pub(super) fn note_resent(&mut self, id: DocumentId, brought: bool) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        if std::mem::take(&mut document.is_asked) {
            self.effects.push_back(Effect::Resent { document: id, brought });
        }
    }

    /// A document can be read again.
    pub fn handle_mended(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(&id) else { return };
        if document.standing == Some(Standing::Damaged) {
            document.reopen();
            self.advance(id);
        }
    }
}
