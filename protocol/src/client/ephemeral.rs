//! Ephemeral messages of a replica, sent and received. Stores none, and does not interpret their
//! bytes.

use super::{Replica, ReplicaEffect};
use crate::frame::{Ephemeral, Frame, features};
use crate::ids::{DocumentId, SpaceName};
use crate::limits;

impl Replica {
    /// Sends an ephemeral message about a document, as message `count` of its `session`. Returns
    /// false and drops it unless the space is subscribed at a relay that forwards such messages.
    pub fn handle_broadcast(
        &mut self,
        space: &SpaceName,
        document: DocumentId,
        session: String,
        count: u64,
        data: Vec<u8>,
    ) -> bool {
        let Some(link) = self.spaces.get(space) else { return false };
        if !self.is_ready() || !link.sends_ephemeral || !link.filter.wants(&document) {
            return false;
        }
        // The relay fills in the sender.
        let (subscription, sender, data) = (link.subscription, String::new(), data.into());
        let message = Ephemeral { subscription, document, sender, session, count, data };
        self.send(Frame::Ephemeral(message));
        true
    }

    /// An ephemeral message arrived.
    pub(super) fn handle_ephemeral(&mut self, message: Ephemeral) {
        // The message may cross the end of its subscription, or a change of the filter.
        let Some(space) = self.space_of(message.subscription) else { return };
        let wanted =
            self.spaces.get(&space).is_some_and(|link| link.filter.wants(&message.document));
        let Ephemeral { document, sender, session, count, data, .. } = message;
        // A space's name has no slash, so the source is unambiguous.
        let source = format!("{space}/{sender}");
        if wanted && self.sources.grows(&source, &session, count, limits::EPHEMERAL_SOURCES) {
            let data = data.into_vec();
            self.effects.push_back(ReplicaEffect::Ephemeral {
                space,
                document,
                sender,
                session,
                count,
                data,
            });
        }
    }

    /// A subscription was answered, changed its filter, or ended: reports the documents about which
    /// messages can now be sent.
    pub(super) fn announce_ephemeral(&mut self, space: &SpaceName, stands: bool) {
        let knows = self.features & features::EPHEMERAL != 0;
        let Some(link) = self.spaces.get_mut(space) else { return };
        let before = std::mem::replace(&mut link.sends_ephemeral, stands && knows);
        if before || link.sends_ephemeral {
            let filter = link.sends_ephemeral.then(|| link.filter.clone());
            self.effects.push_back(ReplicaEffect::SendsEphemeral { space: space.clone(), filter });
        }
    }
}
