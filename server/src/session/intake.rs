//! What a session has for the hub, in the order in which the peer sent it: one at a time, each
//! waiting for its room. A push is checked here, off the session's own task if it is large.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use landfall_protocol::frame::{Push, PushEntry, SubscriptionId, entry_kind};
use landfall_protocol::rights::Identity;
use landfall_protocol::session::{Offered, check_push, check_pushed_change};
use landfall_protocol::space::{CheckedPush, PushedEntry};
use landfall_protocol::{DocumentId, SessionId, SpaceName};
use tokio::sync::Semaphore;

use crate::hub::{Attach, Hub, Pushed};
use crate::limits;

/// Something for the hub.
pub(super) enum Item {
    Attach(Box<Attach>),
    Detach(SubscriptionId),
    Push(SpaceName, Push, Identity),
    Entry(SpaceName, PushEntry, Identity),
    Snapshot(SpaceName, Offered, Arc<Vec<u8>>, Identity),
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

type Handing = Pin<Box<dyn Future<Output = Handed> + Send>>;

/// The queue before the hub.
pub(super) struct Intake {
    session: SessionId,
    hub: Hub,
    /// Bounds, for the whole relay, how many large pushes are checked at a time.
    checks: Arc<Semaphore>,
    waiting: VecDeque<Item>,
    handing: Option<Handing>,
    /// What was handed over, or is being, and is not answered.
    unanswered: usize,
}

impl Intake {
    pub(super) fn new(session: SessionId, hub: Hub, checks: Arc<Semaphore>) -> Self {
        let (waiting, handing) = (VecDeque::new(), None);
        Self { session, hub, checks, waiting, handing, unanswered: 0 }
    }

    pub(super) fn add(&mut self, item: Item) {
        self.waiting.push_back(item);
        self.begin();
    }

    /// The hub answered something.
    pub(super) fn handle_answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.begin();
    }

    /// Whether the peer may send more.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < limits::UNANSWERED
    }

    /// Whether the hub owes nothing.
    pub(super) fn is_settled(&self) -> bool {
        self.unanswered == 0 && self.handing.is_none()
    }

    /// Forgets what was not handed over: nobody was told that it would be taken.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Waits until the item under way is handed over; for ever if there is none.
    pub(super) async fn handed(&mut self) -> Handed {
        let handed = std::future::poll_fn(|cx| self.poll_handing(cx)).await;
        self.handing = None;
        self.begin();
        handed
    }

    fn poll_handing(&mut self, cx: &mut Context<'_>) -> Poll<Handed> {
        match &mut self.handing {
            Some(handing) => handing.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn begin(&mut self) {
        if self.handing.is_some() || self.unanswered >= limits::UNANSWERED {
            return;
        }
        let Some(item) = self.waiting.pop_front() else { return };
        self.unanswered += usize::from(item.is_answered());
        let (hub, checks) = (self.hub.clone(), Arc::clone(&self.checks));
        self.handing = Some(Box::pin(hand_over(hub, checks, self.session, item)));
    }
}

async fn hand_over(hub: Hub, checks: Arc<Semaphore>, session: SessionId, item: Item) -> Handed {
    let over = match item {
        Item::Attach(attach) => hub.attach(*attach).await,
        Item::Detach(subscription) => hub.detach(session, subscription).await,
        Item::Push(space, push, identity) => {
            let bytes = push.changes.iter().map(|change| change.len()).sum();
            match hub.reserve(bytes).await {
                Some(room) => match check(&checks, session, identity, push, bytes).await {
                    Some(checked) => hub.push(space, Pushed::changes(checked), room).await,
                    None => false,
                },
                None => false,
            }
        }
        Item::Entry(space, entry, identity) => {
            let bytes = entry.body.len();
            let pushed = match entry.kind {
                entry_kind::CHANGE => {
                    Pushed::changes(check_pushed_change(session, &identity, entry))
                }
                _ => Pushed::Deletion(pushed_entry(session, entry.id, entry.document, identity)),
            };
            push(&hub, space, pushed, bytes).await
        }
        Item::Snapshot(space, offer, bytes, identity) => {
            let entry = pushed_entry(session, offer.id, offer.document, identity);
            let weight = bytes.len();
            push(&hub, space, Pushed::Snapshot(entry, offer, bytes), weight).await
        }
    };
    if over { Handed::Over } else { Handed::HubGone }
}

async fn push(hub: &Hub, space: SpaceName, pushed: Pushed, bytes: usize) -> bool {
    match hub.reserve(bytes).await {
        Some(room) => hub.push(space, pushed, room).await,
        None => false,
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

async fn check(
    checks: &Semaphore,
    session: SessionId,
    identity: Identity,
    push: Push,
    bytes: usize,
) -> Option<CheckedPush> {
    if bytes <= limits::INLINE_CHECK_BYTES {
        return Some(check_push(session, &identity, push));
    }
    let _turn = checks.acquire().await.ok()?;
    tokio::task::spawn_blocking(move || check_push(session, &identity, push)).await.ok()
}
