//! The changes of a session's peer on their way to the hub, in their order: checked, looked up,
//! handed over. One thing at a time.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use landfall_protocol::admission::{CheckedChange, FormError, Roots};
use landfall_protocol::repo::check::{Inspected, inspect};
use landfall_protocol::repo::peer::RepoPush;
use landfall_protocol::repo::plan::known;
use landfall_protocol::space::{CheckedPush, PushedEntry};
use landfall_protocol::{ChangeHash, DocumentId, SessionId, SpaceName, limits as shared_limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::planning::Reader;
use crate::hub::{Hub, Mailbox, Pushed};
use crate::limits;
use crate::session::Shared;

/// Something to be done.
enum Item {
    Join(Mailbox),
    Check(DocumentId, Vec<Vec<u8>>),
    LookUp(DocumentId, Vec<CheckedChange>, Vec<ChangeHash>),
    Push(RepoPush),
    Whole(u64, DocumentId, Vec<u8>),
    /// The place of a message whose parts stand before this. What comes of their checks is pushed
    /// behind it, so it goes to the end once more before it is free.
    Place(OwnedSemaphorePermit, bool),
}

impl Item {
    /// What it takes up while it waits. What is looked up was checked a moment ago and is next.
    fn bytes(&self) -> usize {
        match self {
            Self::Check(_, chunks) => chunks.iter().map(|chunk| chunk.len() + 24).sum(),
            Self::Push(push) => push_bytes(push),
            Self::Whole(_, _, bytes) => bytes.len(),
            Self::Join(_) | Self::LookUp(..) | Self::Place(..) => 0,
        }
    }
}

/// What was done.
pub(super) enum Done {
    /// Changes passed the preflight, or one did not.
    Checked(DocumentId, Result<Vec<Inspected>, FormError>),
    /// Those that are known; `None` if the store cannot say.
    LookedUp(DocumentId, Vec<CheckedChange>, Option<Vec<ChangeHash>>),
    /// The hub has it.
    Over,
    /// The hub has ended.
    HubGone,
}

type Doing = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The queue before the hub.
pub(super) struct Intake {
    session: SessionId,
    space: SpaceName,
    hub: Hub,
    checks: Arc<Semaphore>,
    reader: Reader,
    /// Whom the entries will name.
    author: Vec<u8>,
    waiting: VecDeque<Item>,
    /// Bytes of what waits.
    bytes: usize,
    wholes: Arc<Semaphore>,
    doing: Option<Doing>,
    unanswered: usize,
}

impl Intake {
    pub(super) fn new(shared: &Shared, session: SessionId, space: SpaceName) -> Self {
        Self {
            session,
            hub: shared.hub.clone(),
            checks: Arc::clone(&shared.checks),
            reader: Reader::new(shared, space.clone()),
            space,
            author: Vec::new(),
            waiting: VecDeque::new(),
            bytes: 0,
            wholes: Arc::clone(&shared.repo.wholes),
            doing: None,
            unanswered: 0,
        }
    }

    /// Entries name the peer's storage if that lasts, which is 36 letters, else the peer's own
    /// name as far as it fits.
    pub(super) fn name_author(&mut self, storage: Option<&str>, peer: &str) {
        let name = storage.unwrap_or(peer);
        let end = name.floor_char_boundary(shared_limits::AUTHOR_BYTES);
        self.author = name.as_bytes()[..end].to_vec();
    }

    pub(super) fn join(&mut self, mailbox: Mailbox) {
        self.add(Item::Join(mailbox));
    }

    pub(super) fn check(&mut self, document: DocumentId, chunks: Vec<Vec<u8>>) {
        self.add(Item::Check(document, chunks));
    }

    /// Goes before everything else, so that changes stay in their order.
    pub(super) fn look_up(
        &mut self,
        document: DocumentId,
        changes: Vec<CheckedChange>,
        asked: Vec<ChangeHash>,
    ) {
        self.waiting.push_front(Item::LookUp(document, changes, asked));
        self.begin();
    }

    pub(super) fn push(&mut self, push: RepoPush) {
        self.add(Item::Push(push));
    }

    pub(super) fn push_whole(&mut self, id: u64, document: DocumentId, bytes: Vec<u8>) {
        self.add(Item::Whole(id, document, bytes));
    }

    /// What has been added by now came in one message; its place is kept until that is done.
    pub(super) fn keep_place(&mut self, place: Option<OwnedSemaphorePermit>) {
        if let Some(place) = place {
            self.add(Item::Place(place, false));
        }
    }

    fn add(&mut self, item: Item) {
        self.bytes += item.bytes();
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
        self.waiting.len() < limits::REPO_INTAKE && self.bytes < limits::REPO_INTAKE_BYTES
    }

    /// What was not begun is not done any more: the relay stops.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }

    /// Whether everything is handed over and answered.
    pub(super) fn is_settled(&self) -> bool {
        self.doing.is_none() && self.unanswered == 0
    }

    /// Waits until something is done; for ever if there is nothing to do.
    pub(super) async fn done(&mut self) -> Done {
        let done = std::future::poll_fn(|cx: &mut Context<'_>| match &mut self.doing {
            Some(doing) => doing.as_mut().poll(cx),
            None => Poll::Pending,
        })
        .await;
        self.doing = None;
        self.begin();
        done
    }

    fn begin(&mut self) {
        if self.doing.is_some() || self.unanswered >= limits::REPO_INTAKE {
            return;
        }
        let Some(item) = self.waiting.pop_front() else { return };
        self.bytes -= item.bytes();
        self.unanswered += usize::from(matches!(item, Item::Push(_) | Item::Whole(..)));
        let doing = self.start(item);
        self.doing = Some(doing);
    }

    fn start(&mut self, item: Item) -> Doing {
        let item = match item {
            Item::Place(place, false) => {
                self.waiting.push_back(Item::Place(place, true));
                return Box::pin(async { Done::Over });
            }
            item => item,
        };
        let (hub, session, space) = (self.hub.clone(), self.session, self.space.clone());
        let author = self.author.clone();
        match item {
            Item::Join(mailbox) => {
                Box::pin(async move { over(hub.join(session, space, mailbox).await) })
            }
            Item::Check(document, chunks) => {
                let checks = Arc::clone(&self.checks);
                Box::pin(async move { Done::Checked(document, check(&checks, chunks).await) })
            }
            Item::LookUp(document, changes, asked) => {
                let reader = self.reader.clone();
                Box::pin(async move {
                    let found = look_up(&reader, document, asked).await;
                    Done::LookedUp(document, changes, found)
                })
            }
            Item::Push(push) => {
                let bytes = push_bytes(&push);
                let pushed = Pushed::changes(checked_push(session, author, push));
                Box::pin(async move {
                    let room = hub.reserve(bytes).await;
                    over(hand_over(&hub, space, pushed, room).await)
                })
            }
            Item::Whole(id, document, bytes) => {
                let weight = (bytes.len() + limits::PUSH_OVERHEAD_BYTES) as u32;
                let wholes = Arc::clone(&self.wholes);
                let entry = PushedEntry { session, id, document, author };
                let pushed = Pushed::chunks(entry, Arc::new(bytes));
                Box::pin(async move {
                    let room = wholes.acquire_many_owned(weight).await.ok();
                    over(hand_over(&hub, space, pushed, room).await)
                })
            }
            Item::Place(place, _) => Box::pin(async move {
                drop(place);
                Done::Over
            }),
        }
    }
}

fn over(over: bool) -> Done {
    if over { Done::Over } else { Done::HubGone }
}

fn checked_push(session: SessionId, author: Vec<u8>, push: RepoPush) -> CheckedPush {
    let RepoPush { id, document, changes } = push;
    // Whoever merges unrelated histories in automerge-repo has asked nobody: it simply works there.
    let roots = Roots::Several;
    CheckedPush { session, id, document, author, changes, rest: None, roots }
}

fn push_bytes(push: &RepoPush) -> usize {
    push.changes.iter().map(|change| change.bytes.len()).sum()
}

/// The room is free once the push is answered.
async fn hand_over(
    hub: &Hub,
    space: SpaceName,
    pushed: Pushed,
    room: Option<OwnedSemaphorePermit>,
) -> bool {
    match room {
        Some(room) => hub.push(space, pushed, room).await,
        None => false,
    }
}

/// Runs the preflight, off the session's own task if that takes more than a moment, and in turns:
/// a message may be so large that others would wait for it.
async fn check(checks: &Semaphore, chunks: Vec<Vec<u8>>) -> Result<Vec<Inspected>, FormError> {
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    if bytes <= limits::INLINE_CHECK_BYTES {
        return check_all(&chunks);
    }
    let (mut checked, mut chunks) = (Vec::with_capacity(chunks.len()), chunks.into_iter());
    while chunks.len() > 0 {
        // It is never closed.
        let turn = checks.acquire().await.ok();
        let task = tokio::task::spawn_blocking(move || (check_some(&mut chunks), chunks));
        let some = task.await;
        drop(turn);
        match some {
            Ok((some, rest)) => {
                checked.extend(some?);
                chunks = rest;
            }
            Err(_) => return Err(FormError::Refused { reason: "the check failed".to_owned() }),
        }
    }
    Ok(checked)
}

/// Checks changes until it is somebody else's turn: a few bytes may inflate to many.
fn check_some(chunks: &mut std::vec::IntoIter<Vec<u8>>) -> Result<Vec<Inspected>, FormError> {
    let (mut some, mut bytes, mut operations) = (Vec::new(), 0, 0);
    while bytes < limits::REPO_CHECK_BYTES && operations < limits::REPO_CHECK_OPERATIONS {
        let Some(chunk) = chunks.next() else { break };
        let inspected = inspect(&chunk)?;
        match &inspected {
            Inspected::Sound(change) => {
                bytes += change.inflated_bytes;
                operations += change.operations;
            }
            Inspected::TooLarge(..) => bytes += chunk.len(),
        }
        some.push(inspected);
    }
    Ok(some)
}

fn check_all(chunks: &[Vec<u8>]) -> Result<Vec<Inspected>, FormError> {
    chunks.iter().map(|chunk| inspect(chunk)).collect()
}

async fn look_up(
    reader: &Reader,
    document: DocumentId,
    asked: Vec<ChangeHash>,
) -> Option<Vec<ChangeHash>> {
    let ask = move |store: &dyn crate::store::LogStore, space: &SpaceName| {
        let Some(index) = store.document_index(space, &document, false)? else {
            return Ok(Vec::new());
        };
        if let Ok(known) = known(&index, &asked) {
            return Ok(known);
        }
        let index = store.document_index(space, &document, true)?;
        Ok(index.and_then(|index| known(&index, &asked).ok()).unwrap_or_default())
    };
    reader.ask(document, ask).await
}
