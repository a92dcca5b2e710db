//! A session's items for the hub, in the order in which the peer sent them: one at a time, each waiting for
//! its memory. Pushes are checked here, off the session's own task if that takes long.

use std::collections::VecDeque;
use std::sync::Arc;

use landfall_protocol::frame::{Push, PushEntry, SubscriptionId, entry_kind};
use landfall_protocol::relay::{
    Author, DocumentPlan, PushedEntry, Refusal, SnapshotUpload, UncheckedPush,
};
use landfall_protocol::{DocumentId, SessionId, SpaceName};

use super::pages::Pages;
use crate::checks::Checker;
use crate::connection::RelayState;
use crate::connection::incoming::{InFlight, Reservation, paid, reserve_merge, stored_bytes};
use crate::hub::{Attach, Hub, Pushed};
use crate::limits;
use crate::memory::Account;
use crate::partial_uploads::Whole;
use crate::store::LogStore;

/// An item for the hub.
pub(super) enum Item {
    Attach(Box<Attach>),
    Detach(SubscriptionId),
    Push(SpaceName, Push, Author, Reservation),
    Entry(SpaceName, PushEntry, Author, Reservation),
    Snapshot(SpaceName, SnapshotUpload, Whole, Author),
}

impl Item {
    /// Whether the hub will answer it.
    fn is_answered(&self) -> bool {
        !matches!(self, Self::Detach(_))
    }

    /// Bytes in memory without a reservation yet.
    fn unreserved(&self) -> usize {
        match self {
            Self::Push(.., reservation) | Self::Entry(.., reservation) => reservation.unreserved(),
            // A subscription's memory was counted, and a snapshot has its reservation.
            Self::Attach(_) | Self::Detach(_) | Self::Snapshot(..) => 0,
        }
    }
}

/// The result of handing over one item.
pub(super) enum Handed {
    /// The hub has it.
    Over,
    /// The hub has ended.
    HubGone,
    /// Another session sent some parts of this upload, and the whole does not match its hash.
    Spoiled(u64),
    /// The memory for this upload's result did not become available in time.
    NoRoom(u64),
}

/// The resources of a hand-over.
#[derive(Clone)]
struct HandOver {
    session: SessionId,
    hub: Hub,
    account: Account,
    checker: Checker,
    pages: Pages,
}

/// The queue in front of the hub.
pub(super) struct PushQueue {
    parts: HandOver,
    waiting: PushBacklog,
    in_flight: InFlight<Handed>,
}

/// The waiting items.
#[derive(Default)]
struct PushBacklog {
    items: VecDeque<Item>,
    /// Bytes in memory without a reservation.
    small: usize,
}

impl PushBacklog {
    fn push(&mut self, item: Item) {
        self.small += item.unreserved();
        self.items.push_back(item);
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.small -= item.unreserved();
        Some(item)
    }

    fn has_room(&self) -> bool {
        self.items.len() < limits::UNANSWERED && self.small < limits::SMALL_PUSHES_BYTES
    }
}

impl PushQueue {
    pub(super) fn new(shared: &RelayState, session: SessionId, account: Account) -> Self {
        let (hub, checker) = (shared.hub.clone(), shared.checks.of_session(account.key()));
        let pages = Pages::new(shared, account.clone());
        let parts = HandOver { session, hub, account, checker, pages };
        let in_flight = InFlight::new(limits::UNANSWERED);
        Self { parts, waiting: PushBacklog::default(), in_flight }
    }

    pub(super) fn add(&mut self, item: Item) {
        self.waiting.push(item);
        self.begin();
    }

    /// The hub answered an item.
    pub(super) fn handle_answered(&mut self) {
        self.in_flight.handle_answered();
        self.begin();
    }

    /// Whether the peer may send more.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    /// Whether the hub has answered everything.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_settled()
    }

    /// Drops the items that were not handed over: the relay has promised nothing for them.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting = PushBacklog::default();
    }

    /// Waits until the current item is handed over; pends forever if there is none.
    pub(super) async fn handed(&mut self) -> Handed {
        let handed = self.in_flight.done().await;
        self.begin();
        handed
    }

    fn begin(&mut self) {
        if !self.in_flight.is_free() {
            return;
        }
        let Some(item) = self.waiting.pop() else { return };
        let (parts, is_answered) = (self.parts.clone(), item.is_answered());
        self.in_flight.start(is_answered, async move { parts.hand_over(item).await });
    }
}

impl HandOver {
    async fn hand_over(self, item: Item) -> Handed {
        let (session, key, hub) = (self.session, self.account.key(), &self.hub);
        let is_over = match item {
            Item::Attach(attach) => hub.attach(key, *attach).await,
            Item::Detach(subscription) => hub.detach(key, session, subscription).await,
            Item::Push(space, push, author, reservation) => {
                self.push(space, UncheckedPush::new(session, author, push), reservation).await
            }
            Item::Entry(space, entry, author, reservation) => {
                if entry.kind == entry_kind::CHANGE {
                    let push = UncheckedPush::of_entry(session, author, entry);
                    return handed(self.push(space, push, reservation).await);
                }
                let grant = reservation.grant(&self.account).await;
                let entry = pushed_entry(session, entry.id, entry.document, author);
                hub.push(space, Pushed::Deletion(entry), grant).await
            }
            Item::Snapshot(space, upload, whole, author) => {
                return self.snapshot(space, upload, whole, author).await;
            }
        };
        handed(is_over)
    }

    /// Hands over a complete snapshot, with the memory for the merge.
    async fn snapshot(
        &self,
        space: SpaceName,
        upload: SnapshotUpload,
        whole: Whole,
        author: Author,
    ) -> Handed {
        let Whole { bytes, grant, is_mixed } = whole;
        if is_mixed && !is_of(Arc::clone(&bytes), upload.hash).await {
            return Handed::Spoiled(upload.id);
        }
        let (name, document) = (space.clone(), upload.document);
        let plan = move |store: &dyn LogStore| store.plan_document(&name, &document, &[]);
        let offsets = |plan: &DocumentPlan| size_of_val(&plan.offsets[..]);
        // The hub reports a read error itself.
        let stored = match self.pages.read(plan, offsets).await {
            Ok((plan, _)) => stored_bytes(&plan),
            Err(_) => 0,
        };
        let Some(merged) = reserve_merge(&self.account, None, bytes.len(), stored).await else {
            return Handed::NoRoom(upload.id);
        };
        let entry = pushed_entry(self.session, upload.id, document, author);
        let pushed = Pushed::Snapshot(entry, upload, bytes);
        handed(self.hub.push(space, pushed, grant.and(merged)).await)
    }

    /// Checks changes and hands them over; false if the hub is gone, or a check panicked.
    async fn push(&self, space: SpaceName, push: UncheckedPush, reservation: Reservation) -> bool {
        let paid = paid(&self.checker, &self.account, reservation.since()).await;
        let grant = reservation.grant(&self.account).await;
        if let Err(wait) = paid {
            let refused = push.refused(Refusal::of_debt(wait));
            return self.hub.push(space, Pushed::changes(refused), grant).await;
        }
        let light = |push: &mut UncheckedPush, most, work: &mut _| push.check_within(most, work);
        let heavy = |push: &mut UncheckedPush, work: &mut _| push.check(work);
        match self.checker.check(push, light, heavy).await {
            Some((checked, _)) => self.hub.push(space, Pushed::changes(checked), grant).await,
            None => false,
        }
    }
}

fn handed(is_over: bool) -> Handed {
    if is_over { Handed::Over } else { Handed::HubGone }
}

/// Whether bytes match a hash, computed off the session's own task.
async fn is_of(bytes: Arc<Vec<u8>>, hash: [u8; 32]) -> bool {
    let found = tokio::task::spawn_blocking(move || landfall_compaction::hash_of(&bytes));
    // A panic is not evidence against the bytes: the child checks them too.
    found.await.map_or(true, |found| found == hash)
}

fn pushed_entry(session: SessionId, id: u64, document: DocumentId, author: Author) -> PushedEntry {
    PushedEntry { session, id, document, author }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::incoming::MessageMemory;
    use crate::memory::{Class, Memory, ShareKey};

    fn push(reservation: Reservation, bytes: usize) -> Item {
        let document = DocumentId::from_bytes([1; 16]);
        let push = Push { id: 1, subscription: 1, document, changes: vec![vec![0; bytes].into()] };
        let author = Author::of_all(Vec::new());
        Item::Push("default".parse().unwrap(), push, author, reservation)
    }

    /// A session in debt for its checks continues to send, in messages that fit the socket's buffer.
    #[test]
    fn queued_items_without_memory_are_bounded_in_bytes() {
        let bytes = limits::SOCKET_BUFFER_BYTES - 1_000;
        let mut waiting = PushBacklog::default();
        while waiting.has_room() {
            waiting.push(push(MessageMemory::default().of_push(bytes), bytes));
        }
        assert!(waiting.items.len() * bytes <= limits::SMALL_PUSHES_BYTES);
        while waiting.pop().is_some() {}
        assert_eq!(waiting.small, 0);
        // Small edits wait in as many pushes as a client may have, together with pushes that have their
        // memory.
        let memory = Memory::new(0);
        let account = memory.account(ShareKey::Session(1));
        let mut message = MessageMemory::new(account.try_reserve(Class::Incoming, 1 << 20));
        waiting.push(push(message.of_push(300_000), 300_000));
        for _ in 1..limits::UNANSWERED / 2 {
            assert!(waiting.has_room());
            waiting.push(push(MessageMemory::default().of_push(200), 200));
        }
    }
}
