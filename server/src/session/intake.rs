//! What a session has for the hub, in the order in which the peer sent it: one at a time, each
//! waiting for its room. A push is checked here, off the session's own task if that is much work.

use std::collections::VecDeque;

use landfall_protocol::frame::{Push, PushEntry, SubscriptionId, entry_kind};
use landfall_protocol::rights::Identity;
use landfall_protocol::session::{Offered, UncheckedPush};
use landfall_protocol::space::{PushedEntry, Refusal};
use landfall_protocol::{DocumentId, SessionId, SpaceName};

use super::Shared;
use crate::checks::Checker;
use crate::hub::{Attach, Hub, Pushed};
use crate::intake::{Room, Turns, paid};
use crate::limits;
use crate::memory::Account;
use crate::offers::Whole;

/// Something for the hub.
pub(super) enum Item {
    Attach(Box<Attach>),
    Detach(SubscriptionId),
    Push(SpaceName, Push, Identity, Room),
    Entry(SpaceName, PushEntry, Identity, Room),
    Snapshot(SpaceName, Offered, Whole, Identity),
}

impl Item {
    /// Whether the hub will answer it.
    fn is_answered(&self) -> bool {
        !matches!(self, Self::Detach(_))
    }
}

/// What the hand-over of one item came to.
pub(super) enum Handed {
    /// The hub has it.
    Over,
    /// The hub has ended.
    HubGone,
}

/// What a hand-over needs.
#[derive(Clone)]
struct Parts {
    session: SessionId,
    hub: Hub,
    account: Account,
    checker: Checker,
}

/// The queue before the hub.
pub(super) struct Intake {
    parts: Parts,
    waiting: VecDeque<Item>,
    turns: Turns<Handed>,
}

impl Intake {
    pub(super) fn new(shared: &Shared, session: SessionId, account: Account) -> Self {
        let (hub, checker) = (shared.hub.clone(), shared.checks.of_session(account.key()));
        let parts = Parts { session, hub, account, checker };
        Self { parts, waiting: VecDeque::new(), turns: Turns::new(limits::UNANSWERED) }
    }

    pub(super) fn add(&mut self, item: Item) {
        self.waiting.push_back(item);
        self.begin();
    }

    /// The hub answered something.
    pub(super) fn handle_answered(&mut self) {
        self.turns.handle_answered();
        self.begin();
    }

    /// Whether the peer may send more.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < limits::UNANSWERED
    }

    /// Whether the hub owes nothing.
    pub(super) fn is_settled(&self) -> bool {
        self.turns.is_settled()
    }

    /// Forgets what was not handed over: nobody was told that it would be taken.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Waits until the item under way is handed over; for ever if there is none.
    pub(super) async fn handed(&mut self) -> Handed {
        let handed = self.turns.done().await;
        self.begin();
        handed
    }

    fn begin(&mut self) {
        if !self.turns.is_free() {
            return;
        }
        let Some(item) = self.waiting.pop_front() else { return };
        let (parts, is_answered) = (self.parts.clone(), item.is_answered());
        self.turns.start(is_answered, async move {
            if parts.hand_over(item).await { Handed::Over } else { Handed::HubGone }
        });
    }
}

impl Parts {
    /// False if the hub is gone.
    async fn hand_over(self, item: Item) -> bool {
        let (session, hub) = (self.session, &self.hub);
        match item {
            Item::Attach(attach) => hub.attach(*attach).await,
            Item::Detach(subscription) => hub.detach(session, subscription).await,
            Item::Push(space, push, identity, room) => {
                self.push(space, UncheckedPush::new(session, identity, push), room).await
            }
            Item::Entry(space, entry, identity, room) => {
                if entry.kind == entry_kind::CHANGE {
                    let push = UncheckedPush::of_entry(session, identity, entry);
                    return self.push(space, push, room).await;
                }
                let room = room.grant(&self.account).await;
                let entry = pushed_entry(session, entry.id, entry.document, identity);
                hub.push(space, Pushed::Deletion(entry), room).await
            }
            Item::Snapshot(space, offer, whole, identity) => {
                let entry = pushed_entry(session, offer.id, offer.document, identity);
                let Whole { bytes, room } = whole;
                hub.push(space, Pushed::Snapshot(entry, offer, bytes), room).await
            }
        }
    }

    /// Has changes checked and hands them over; false if the hub is gone, or a check panicked.
    async fn push(&self, space: SpaceName, push: UncheckedPush, room: Room) -> bool {
        let paid = paid(&self.checker, &self.account, room.since()).await;
        let room = room.grant(&self.account).await;
        if let Err(wait) = paid {
            let refused = push.refused(Refusal::of_debt(wait));
            return self.hub.push(space, Pushed::changes(refused), room).await;
        }
        let light = |push: &mut UncheckedPush, most, work: &mut _| push.check_within(most, work);
        let heavy = |push: &mut UncheckedPush, work: &mut _| push.check(work);
        match self.checker.check(push, light, heavy).await {
            Some((checked, _)) => self.hub.push(space, Pushed::changes(checked), room).await,
            None => false,
        }
    }
}

fn pushed_entry(
    session: SessionId,
    id: u64,
    document: DocumentId,
    identity: Identity,
) -> PushedEntry {
    PushedEntry { session, id, document, author: identity.author }
}
