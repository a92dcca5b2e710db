//! The snapshots that one session offers: each waits for its memory, then its client is asked for
//! its parts. One offer waits at a time; the session's other frames go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use landfall_protocol::SpaceName;
use landfall_protocol::session::Offered;
use tokio::time::timeout;

use crate::limits;
use crate::memory::{Account, Class, Grant};
use crate::offers::{Offers, Sending, Took};

/// What became of an offer that waited.
pub(super) enum Room {
    /// Its client is to send it from here.
    From(u64, u64),
    /// There was none in time.
    None(u64),
}

/// What the offer is of, and its memory, or `None` if there was none in time.
type Reserved = (SpaceName, Offered, Option<Grant>);

/// A session's offers.
pub(super) struct Uploads {
    account: Account,
    offers: Arc<Offers>,
    waiting: VecDeque<(SpaceName, Offered)>,
    /// The offers that wait, with the one whose turn it is: each waits once, however many of its parts
    /// come meanwhile.
    wanted: BTreeSet<u64>,
    reserving: Option<Pin<Box<dyn Future<Output = Reserved> + Send>>>,
    /// Those whose parts come.
    sending: BTreeMap<u64, (SpaceName, Offered, Sending)>,
}

impl Uploads {
    pub(super) fn new(account: Account, offers: Arc<Offers>) -> Self {
        let (waiting, wanted, sending) = Default::default();
        Self { account, offers, waiting, wanted, reserving: None, sending }
    }

    /// An offer came, or a part of one that is not there any more; gives where its parts begin if part of
    /// it is there.
    pub(super) fn add(&mut self, space: SpaceName, offer: Offered) -> Option<u64> {
        if self.wanted.contains(&offer.id) {
            return None;
        }
        if let Some((from, sending)) = self.offers.resume(&space, &offer) {
            self.sending.insert(offer.id, (space, offer, sending));
            return Some(from);
        }
        self.wanted.insert(offer.id);
        self.waiting.push_back((space, offer));
        self.begin();
        None
    }

    fn begin(&mut self) {
        if self.reserving.is_some() {
            return;
        }
        let Some((space, offer)) = self.waiting.pop_front() else { return };
        let (account, offers) = (self.account.clone(), Arc::clone(&self.offers));
        self.reserving = Some(Box::pin(async move {
            let bytes = offer.total as usize;
            // What others left behind gives way first.
            let mut room = account.try_reserve(Class::Upload, bytes);
            while room.is_none() && offers.give_way() {
                room = account.try_reserve(Class::Upload, bytes);
            }
            if room.is_none() {
                let waits = account.reserve(Class::Upload, bytes);
                room = timeout(limits::OFFER_WAIT, waits).await.ok();
            }
            (space, offer, room)
        }));
    }

    /// Waits until an offer has its memory, or has waited for too long; for ever if none waits.
    pub(super) async fn room(&mut self) -> Room {
        let Some(reserving) = self.reserving.as_mut() else { return std::future::pending().await };
        let (space, offer, room) = reserving.await;
        self.reserving = None;
        self.begin();
        let id = offer.id;
        self.wanted.remove(&id);
        match room {
            Some(room) => {
                let (from, sending) = self.offers.begin(&space, &offer, room);
                self.sending.insert(id, (space, offer, sending));
                Room::From(id, from)
            }
            None => Room::None(id),
        }
    }

    /// A part came.
    pub(super) fn part(
        &mut self,
        space: &SpaceName,
        offer: &Offered,
        from: u64,
        bytes: &[u8],
    ) -> Took {
        let took = self.offers.add(space, offer, from, bytes);
        if matches!(took, Took::Whole(_) | Took::Gone) {
            self.sending.remove(&offer.id);
        }
        took
    }

    /// Lets go of those of which the session's machine knows no more.
    pub(super) fn retain(&mut self, is_known: impl Fn(u64) -> bool) {
        self.sending.retain(|id, _| is_known(*id));
        let wanted = &mut self.wanted;
        self.waiting.retain(|(_, offer)| is_known(offer.id) || !wanted.remove(&offer.id));
    }

    /// The offers whose parts come too slowly for the memory that they hold, while others wait for
    /// it. `reads`: it is not us who hold them back.
    pub(super) fn overdue(&mut self, reads: bool) -> Vec<u64> {
        let (offers, account) = (&self.offers, &self.account);
        let overdue = self
            .sending
            .iter()
            .filter(|(_, (space, offer, _))| offers.is_overdue(account, (space, offer), reads));
        let ids: Vec<u64> = overdue.map(|(id, _)| *id).collect();
        for id in &ids {
            self.account.stalled();
            self.sending.remove(id);
        }
        ids
    }

    /// Whether one is under way, so that [`Uploads::overdue`] is to be asked now and then.
    pub(super) fn is_busy(&self) -> bool {
        !self.sending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::DocumentId;

    use super::*;
    use crate::memory::{Memory, ShareKey};

    /// All that a client has on its way when its upload is found to be gone arrives after that.
    #[tokio::test]
    async fn an_offer_waits_once_however_many_of_its_parts_come_meanwhile() {
        let memory = Memory::new(0);
        let account = memory.account(ShareKey::Session(1));
        let mut uploads = Uploads::new(account, Arc::default());
        let (space, total): (SpaceName, u64) = ("default".parse().unwrap(), 60 << 20);
        let document = DocumentId::from_bytes([1; 16]);
        let offer =
            Offered { id: 1, subscription: 0, document, hash: [7; 32], total, heads: [].into() };
        for _ in 0..1_000 {
            if matches!(uploads.part(&space, &offer, 1 << 20, &[0; 8]), Took::Gone) {
                assert_eq!(uploads.add(space.clone(), offer.clone()), None);
            }
        }
        assert!(uploads.waiting.is_empty(), "{} wait", uploads.waiting.len());
        assert!(matches!(uploads.room().await, Room::From(1, 0)));
        // Nothing is left that reserves its memory a second time, or gives the upload back for want of it.
        assert!(uploads.reserving.is_none());
        assert_eq!(memory.used(Class::Upload), total as usize);
    }
}
