//! The queue of a session's incoming changes before the hub, in order: preflight, look-up, push. It handles
//! one item at a time. A message with many changes is handled in parts: each checked part is pushed before
//! the next one is checked.

use std::collections::VecDeque;
use std::sync::Arc;

use landfall_protocol::admission::{CheckedChange, FormError, Roots, Work};
use landfall_protocol::automerge_repo::check::{Inspected, inspect, inspect_within};
use landfall_protocol::automerge_repo::chunks::Chunks;
use landfall_protocol::automerge_repo::peer::{RepoPush, Ticket};
use landfall_protocol::relay::{Author, CheckedPush, PushedEntry, StoreFailure};
use landfall_protocol::{ChangeHash, DocumentId, SessionId, SpaceName, limits as shared_limits};

use super::sync_answers::SyncReader;
use crate::checks::Checker;
use crate::connection::RelayState;
use crate::connection::incoming::{InFlight, MessageMemory, paid, reserve_merge, stored_bytes};
use crate::hub::{Hub, HubChannel, Pushed};
use crate::limits;
use crate::memory::{Account, Grant};
use crate::store::LogStore;

/// An item of the queue.
enum Item {
    Join(HubChannel),
    Check(Ticket, Chunks),
    LookUp(Checked, Vec<ChangeHash>),
    Push(RepoPush),
    Whole(u64, DocumentId, Vec<u8>),
    /// The following items, up to the next `Message`, came in one message, whose memory this is.
    Message(MessageMemory),
}

impl Item {
    /// Bytes that it counts in the queue. Look-ups count nothing: their changes were checked a moment ago,
    /// and they are next in line.
    fn bytes(&self) -> usize {
        match self {
            Self::Check(_, chunks) => chunks.bytes(),
            Self::Push(push) => push_bytes(push),
            Self::Whole(_, _, bytes) => bytes.len(),
            Self::Join(_) | Self::LookUp(..) | Self::Message(_) => 0,
        }
    }
}

/// Changes that passed the preflight. `more`: others of their message follow.
pub(super) struct Checked {
    pub(super) ticket: Ticket,
    pub(super) changes: Vec<CheckedChange>,
    pub(super) more: bool,
}

/// The result of an item. Once the session has handled it, [`PushQueue::handle_next`] starts the next item.
pub(super) enum ItemResult {
    /// The preflight's result: changes that passed, or the error of the first that did not; and the
    /// unchecked rest.
    Checked(Ticket, Result<Vec<Inspected>, FormError>, Chunks),
    /// The changes were not checked: the session's debt for checks is too long to wait for, and others need
    /// the memory.
    Unpaid,
    /// No memory for the result of merging a whole document became free in time.
    NoRoom,
    /// The changes among those asked for that the store has; `None` if it cannot be read.
    LookedUp(Checked, Option<Vec<ChangeHash>>),
    /// The hub has accepted the item.
    Over,
    /// The hub has ended.
    HubGone,
}

/// The queue before the hub.
pub(super) struct PushQueue {
    session: SessionId,
    space: SpaceName,
    hub: Hub,
    checker: Checker,
    reader: SyncReader,
    /// The client's own name, the author of its entries in open mode.
    own_name: Vec<u8>,
    /// Items that follow from checks; they go before all others.
    first: VecDeque<Item>,
    /// The unchecked rest of the current message.
    rest: Option<Item>,
    waiting: VecDeque<Item>,
    /// Bytes of the queued items.
    bytes: usize,
    account: Account,
    /// The memory of the current message.
    memory: MessageMemory,
    in_flight: InFlight<ItemResult>,
    /// A result was returned and the session has not called `handle_next` yet.
    has_result_to_handle: bool,
    is_stopping: bool,
}

impl PushQueue {
    pub(super) fn new(relay: &RelayState, session: SessionId, reader: SyncReader) -> Self {
        let (space, account) = (reader.space.clone(), reader.account.clone());
        Self {
            session,
            hub: relay.hub.clone(),
            checker: relay.checks.of_session(account.key()),
            reader,
            space,
            own_name: Vec::new(),
            first: VecDeque::new(),
            rest: None,
            waiting: VecDeque::new(),
            bytes: 0,
            account,
            memory: MessageMemory::default(),
            in_flight: InFlight::new(limits::REPO_PUSH_QUEUE),
            has_result_to_handle: false,
            is_stopping: false,
        }
    }

    /// Entries name the principal, and in open mode the peer's storage if the peer has a persistent one (36 letters), else its peer id,
    /// truncated to fit.
    pub(super) fn name_author(&mut self, storage: Option<&str>, peer: &str) {
        let name = storage.unwrap_or(peer);
        let end = name.floor_char_boundary(shared_limits::AUTHOR_BYTES);
        self.own_name = name.as_bytes()[..end].to_vec();
    }

    pub(super) fn join(&mut self, channel: HubChannel) {
        self.add(Item::Join(channel));
    }

    pub(super) fn check(&mut self, ticket: Ticket, chunks: Chunks) {
        self.add(Item::Check(ticket, chunks));
    }

    /// Queues the unchecked rest of a message.
    pub(super) fn check_rest(&mut self, ticket: Ticket, chunks: Chunks) {
        if !chunks.is_empty() && !self.is_stopping {
            self.bytes += chunks.bytes();
            self.rest = Some(Item::Check(ticket, chunks));
        }
    }

    pub(super) fn look_up(&mut self, checked: Checked, asked: Vec<ChangeHash>) {
        self.first.push_back(Item::LookUp(checked, asked));
    }

    pub(super) fn push(&mut self, push: RepoPush) {
        let push = Item::Push(push);
        self.bytes += push.bytes();
        self.first.push_back(push);
        self.begin();
    }

    pub(super) fn push_whole(&mut self, id: u64, document: DocumentId, bytes: Vec<u8>) {
        self.add(Item::Whole(id, document, bytes));
    }

    /// Items added from now on came in one message, with its memory.
    pub(super) fn begin_message(&mut self, grant: Option<Grant>) {
        if grant.is_some() {
            self.add(Item::Message(MessageMemory::new(grant)));
        }
    }

    /// Items added from now on are of no message: the message's memory is kept until all items before them
    /// are done.
    pub(super) fn end_message(&mut self) {
        let is_held =
            |item: &Item| matches!(item, Item::Message(memory) if memory.since().is_some());
        if self.memory.since().is_some() || self.waiting.iter().any(is_held) {
            self.add(Item::Message(MessageMemory::default()));
        }
    }

    fn add(&mut self, item: Item) {
        self.bytes += item.bytes();
        self.waiting.push_back(item);
        self.begin();
    }

    /// The hub answered a push.
    pub(super) fn handle_answered(&mut self) {
        self.in_flight.handle_answered();
        self.begin();
    }

    /// Whether the session may read more from the peer.
    pub(super) fn has_room(&self) -> bool {
        let waiting = self.waiting.len() + self.first.len();
        waiting < limits::REPO_PUSH_QUEUE && self.bytes < limits::REPO_PUSH_QUEUE_BYTES
    }

    /// Drops all items that have not started: the relay stops.
    pub(super) fn drop_waiting(&mut self) {
        self.is_stopping = true;
        self.first.clear();
        (self.rest, self.memory) = (None, MessageMemory::default());
        self.waiting.clear();
        self.bytes = 0;
    }

    /// Whether everything is handed over and answered.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_settled() && !self.has_result_to_handle
    }

    /// Waits for the next result; pends forever if there is no work.
    pub(super) async fn done(&mut self) -> ItemResult {
        let done = self.in_flight.done().await;
        self.has_result_to_handle = true;
        done
    }

    /// The session has handled the result, and has queued the items that follow from it: starts the next
    /// item.
    pub(super) fn handle_next(&mut self) {
        self.has_result_to_handle = false;
        self.begin();
    }

    fn begin(&mut self) {
        if self.has_result_to_handle || !self.in_flight.is_free() {
            return;
        }
        while let Some(item) = self.next_item() {
            self.bytes -= item.bytes();
            if let Item::Message(memory) = item {
                self.memory = memory;
                continue;
            }
            return self.start(item);
        }
    }

    fn next_item(&mut self) -> Option<Item> {
        let next = self.first.pop_front().or_else(|| self.rest.take());
        next.or_else(|| self.waiting.pop_front())
    }

    fn start(&mut self, item: Item) {
        let (hub, session, space) = (self.hub.clone(), self.session, self.space.clone());
        let account = self.account.clone();
        let author = |document: &DocumentId| self.reader.access.author(&self.own_name, document);
        match item {
            Item::Join(channel) => {
                let key = account.key();
                let join = async move { over(hub.join(key, session, space, channel).await) };
                self.in_flight.start(false, join);
            }
            Item::Check(ticket, chunks) => {
                let (checker, since) = (self.checker.clone(), self.memory.since());
                self.in_flight.start(false, async move {
                    if paid(&checker, &account, since).await.is_err() {
                        return ItemResult::Unpaid;
                    }
                    let (checked, rest) = check(&checker, chunks).await;
                    ItemResult::Checked(ticket, checked, rest)
                });
            }
            Item::LookUp(checked, asked) => {
                let reader = self.reader.clone();
                self.in_flight.start(false, async move {
                    let found = look_up(&reader, checked.ticket.document, asked).await;
                    ItemResult::LookedUp(checked, found)
                });
            }
            Item::Push(push) => {
                let reservation = self.memory.of_push(push_bytes(&push));
                let author = author(&push.document);
                let pushed = Pushed::changes(checked_push(session, author, push));
                self.in_flight.start(true, async move {
                    over(hub.push(space, pushed, reservation.grant(&account).await).await)
                });
            }
            Item::Whole(id, document, bytes) => {
                let reservation = self.memory.of_upload(bytes.len());
                let merge_memory = self.memory.of_merge(bytes.len());
                let author = author(&document);
                let (entry, reader) =
                    (PushedEntry { session, id, document, author }, self.reader.clone());
                let looked_up = reader.access.looked_up(&document);
                self.in_flight.start(true, async move {
                    let plan = move |store: &dyn LogStore, space: &SpaceName| {
                        store.plan_document(space, &looked_up, &[])
                    };
                    // A read error counts as zero bytes here: the hub reports it to the client.
                    let stored = reader.ask(document, plan).await;
                    let stored = stored.as_ref().map_or(0, stored_bytes);
                    let grant = reservation.grant(&account).await;
                    match reserve_merge(&account, merge_memory, bytes.len(), stored).await {
                        Some(merged) => {
                            let pushed = Pushed::chunks(entry, Arc::new(bytes));
                            over(hub.push(space, pushed, grant.and(merged)).await)
                        }
                        None => ItemResult::NoRoom,
                    }
                });
            }
            // `begin` has handled it.
            Item::Message(_) => {}
        }
    }
}

fn over(over: bool) -> ItemResult {
    if over { ItemResult::Over } else { ItemResult::HubGone }
}

fn checked_push(session: SessionId, author: Author, push: RepoPush) -> CheckedPush {
    let RepoPush { id, document, changes } = push;
    // automerge-repo applications merge unrelated histories without any setting, so always allow it.
    let roots = Roots::Several;
    CheckedPush { session, id, document, author, changes, rest: None, roots }
}

fn push_bytes(push: &RepoPush) -> usize {
    push.changes.iter().map(|change| change.bytes.len()).sum()
}

/// Runs the preflight over some changes. More than a moment's work runs off the session's own task and in
/// turns: a message may be so large that others would wait for it. Returns the unchecked rest too.
async fn check(checker: &Checker, chunks: Chunks) -> (Result<Vec<Inspected>, FormError>, Chunks) {
    let light = |chunks: &mut Chunks, most, work: &mut _| check_light(chunks, most, work);
    let heavy = |chunks: &mut Chunks, work: &mut _| check_some(chunks, work);
    checker.check(chunks, light, heavy).await.unwrap_or_else(|| {
        let reason = "the check failed".to_owned();
        (Err(FormError::Refused { reason }), Chunks::default())
    })
}

/// Checks changes up to a bound of work; `None` if the first one exceeds it.
fn check_light(
    chunks: &mut Chunks,
    most: Work,
    work: &mut Work,
) -> Option<Result<Vec<Inspected>, FormError>> {
    let mut some = Vec::new();
    while some.len() < shared_limits::PUSH_CHANGES {
        let Some(chunk) = chunks.peek() else { break };
        match inspect_within(chunk, most, work) {
            Ok(Some(inspected)) => some.push(inspected),
            // The rest is checked in another turn.
            Ok(None) if some.is_empty() => return None,
            Ok(None) => break,
            Err(error) => return Some(Err(error)),
        }
        let _ = chunks.take_next();
    }
    Some(Ok(some))
}

/// Checks changes up to one turn's work: a few bytes may inflate to many.
fn check_some(chunks: &mut Chunks, work: &mut Work) -> Result<Vec<Inspected>, FormError> {
    let mut some = Vec::new();
    while work.is_within(limits::REPO_CHECK) && some.len() < shared_limits::PUSH_CHANGES {
        let Some(chunk) = chunks.take_next() else { break };
        some.push(inspect(chunk, work)?);
    }
    Ok(some)
}

async fn look_up(
    reader: &SyncReader,
    document: DocumentId,
    asked: Vec<ChangeHash>,
) -> Option<Vec<ChangeHash>> {
    let looked_up = reader.access.looked_up(&document);
    let ask = move |store: &dyn LogStore, space: &SpaceName| {
        store.changes_known(space, &looked_up, &asked)
    };
    match reader.ask(document, ask).await {
        Ok(known) => Some(known),
        // The hub refuses pushes to a damaged document, and the session goes on.
        Err(StoreFailure::Damaged) => Some(Vec::new()),
        Err(_) => None,
    }
}
