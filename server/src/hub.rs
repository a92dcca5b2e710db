//! The hub: one thread that owns the spaces' machines, performs what they decide, and tells the
//! sessions.
//!
//! It judges nothing (that is `landfall_protocol::space`) and must never wait for a session: what
//! it has to tell goes into a bounded mailbox, and a session whose mailbox is full is ended.

mod feed;
mod held;
mod inbox;
mod lookups;
mod rings;
mod sequencer;
#[cfg(test)]
mod tests;
mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use landfall_protocol::frame::{Filter, Mark, SubscriptionId};
use landfall_protocol::session::Offered;
use landfall_protocol::space::{Answer, CheckedPush, Judging, PushedEntry};
use landfall_protocol::{Code, Cursor, DocumentId, Epoch, Offset, SessionId, SpaceName};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::folding::{Brought, Folder, MergeError};
use crate::healing::Healing;
use crate::health::Health;
use crate::limits;
use crate::memory::{Grant, Key};
use crate::metrics::Metrics;
use crate::rooms::Rooms;
use crate::store::{LogStore, Replaced, StoreError};

pub(crate) use feed::{Feed, Grown};
use inbox::Inbox;
use lookups::LookUps;
pub(crate) use rings::Rings;
pub(crate) use sequencer::Durable;
use sequencer::Sequencer;

/// A subscription that wants to know where it stands.
pub(crate) struct Attach {
    pub(crate) session: SessionId,
    pub(crate) subscription: SubscriptionId,
    /// Tells this attach from an earlier one of the same number.
    pub(crate) ticket: u64,
    pub(crate) space: SpaceName,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) acknowledged: Option<Mark>,
    pub(crate) filter: Filter,
    /// Without a cursor: the replica holds documents all the same.
    pub(crate) holds: bool,
    pub(crate) mailbox: Mailbox,
}

/// What a session pushed.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// Changes, checked; and how often an index had to be loaded for them.
    Changes(Judging, u8),
    /// A document's deletion.
    Deletion(PushedEntry),
    /// A snapshot, whole.
    Snapshot(PushedEntry, Offered, Arc<Vec<u8>>),
    /// Chunks of any type.
    Chunks(PushedEntry, Arc<Vec<u8>>),
}

impl Pushed {
    /// Changes that passed the preflight.
    pub(crate) fn changes(push: CheckedPush) -> Self {
        Self::Changes(Judging::new(push), 0)
    }

    /// What an automerge-repo peer sends that is more than single changes: whole documents,
    /// changes, deflated ones and bundles, one after the other and in any order. It is opened in a
    /// child; the document's other pushes wait meanwhile.
    ///
    /// All of it is taken, or nothing. The answer counts what was added: changes, or 1 for a
    /// snapshot in the place of everything; 1 also if nothing in it is new. A refusal with
    /// `missing-dependency` names a change that it rests on and that is not there.
    pub(crate) fn chunks(entry: PushedEntry, bytes: Arc<Vec<u8>>) -> Self {
        Self::Chunks(entry, bytes)
    }

    fn document(&self) -> DocumentId {
        match self {
            Self::Changes(judging, _) => judging.document(),
            Self::Deletion(push) | Self::Snapshot(push, ..) | Self::Chunks(push, _) => {
                push.document
            }
        }
    }

    /// Whether it is to be opened and merged by a child.
    fn is_upload(&self) -> bool {
        matches!(self, Self::Snapshot(..) | Self::Chunks(..))
    }

    fn key(&self) -> (SessionId, u64) {
        match self {
            Self::Changes(judging, _) => judging.key(),
            Self::Deletion(push) | Self::Snapshot(push, ..) | Self::Chunks(push, _) => {
                (push.session, push.id)
            }
        }
    }
}

/// What the hub is asked to do.
enum Command {
    Attach(Box<Attach>),
    Detach(SessionId, SubscriptionId),
    Join(SessionId, SpaceName, Mailbox),
    Push(SpaceName, Box<Pushed>, Grant),
    /// A document's packed index is in memory, or could not be brought there.
    IndexLoaded(SpaceName, DocumentId, Result<(), StoreError>),
    /// The stored bytes of these changes were replaced by those that were pushed, or could not be.
    Mended(SpaceName, DocumentId, Result<Replaced, StoreError>),
    /// What had to be opened was merged with what there is.
    Merged(SpaceName, PushedEntry, Result<Brought, MergeError>),
    /// Something of a space is about to be folded, up to this offset.
    Folding(SpaceName, Offset, std::sync::mpsc::SyncSender<()>),
    Leave(SessionId),
    Committed(SpaceName, Result<(), StoreError>),
    Probed(Result<(), StoreError>),
    Shutdown,
}

/// What the hub tells a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// A subscription is attached.
    Attached {
        subscription: SubscriptionId,
        ticket: u64,
        epoch: Option<Epoch>,
        head: Offset,
        resume: Option<Offset>,
        feed: Arc<Feed>,
    },
    /// A space could not be opened.
    AttachFailed { subscription: SubscriptionId, ticket: u64, code: Code, what: String },
    /// A push was answered.
    Answered(Answer),
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("space", &self.space).finish_non_exhaustive()
    }
}

/// Where the hub reaches a session.
#[derive(Clone)]
pub(crate) struct Mailbox {
    pub(crate) events: mpsc::Sender<Event>,
    /// Told when an event found no room: the session cannot go on.
    pub(crate) overflow: Arc<Notify>,
    /// Told which of the session's logs have grown.
    pub(crate) grown: Arc<Grown>,
}

/// What a hub is made of.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn LogStore>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) folder: Arc<Folder>,
    /// Who is told of what became durable, beside the subscriptions.
    pub(crate) rooms: Arc<Rooms>,
    /// What pushes may mend.
    pub(crate) healing: Arc<Healing>,
    /// Where calls of the store that take a moment are made.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Bytes of live entries kept for each space.
    pub(crate) ring_bytes: usize,
    /// The rings of all spaces.
    pub(crate) rings: Arc<Rings>,
    /// The epoch that this process opens in each log that it appends to.
    pub(crate) epoch: Epoch,
}

/// How the hub's thread ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HubEnd {
    /// It was asked to, and everything that it had taken is settled.
    Drained,
    /// A bug: it panicked. Nothing can be taken or acknowledged any more.
    Panicked,
}

/// The way to the hub.
#[derive(Clone)]
pub(crate) struct Hub {
    inbox: Arc<Inbox<Command>>,
    look_ups: LookUps,
}

impl Hub {
    /// Starts the hub's thread. The receiver hears how it ended.
    pub(crate) fn start(parts: Parts) -> std::io::Result<(Self, oneshot::Receiver<HubEnd>)> {
        let inbox = Arc::new(Inbox::new(limits::HUB_QUEUE));
        let look_ups = LookUps::new(Arc::clone(&parts.store));
        let hub = Self { inbox: Arc::clone(&inbox), look_ups };
        let (ended, end) = oneshot::channel();
        thread::Builder::new().name("hub".to_owned()).spawn(move || {
            let run = || Sequencer::new(parts, Arc::clone(&inbox)).run();
            let end = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(()) => HubEnd::Drained,
                Err(_) => {
                    tracing::error!("the hub panicked: the relay stops");
                    HubEnd::Panicked
                }
            };
            inbox.close();
            // Nobody waits for it only if the whole server was dropped.
            let _ = ended.send(end);
        })?;
        Ok((hub, end))
    }

    /// Attaches a subscription; the answer comes to its mailbox.
    pub(crate) async fn attach(&self, key: Key, attach: Attach) -> bool {
        self.inbox.send(key, Command::Attach(Box::new(attach))).await.is_ok()
    }

    /// Ends a subscription.
    pub(crate) async fn detach(
        &self,
        key: Key,
        session: SessionId,
        subscription: SubscriptionId,
    ) -> bool {
        self.inbox.send(key, Command::Detach(session, subscription)).await.is_ok()
    }

    /// Makes a session known without any subscription: what it pushes is answered to this mailbox
    /// until it leaves. An attach does the same.
    pub(crate) async fn join(
        &self,
        key: Key,
        session: SessionId,
        space: SpaceName,
        mailbox: Mailbox,
    ) -> bool {
        self.inbox.send(key, Command::Join(session, space, mailbox)).await.is_ok()
    }

    /// Hands a push in; its answer comes to the session's mailbox, and its memory is given back
    /// then.
    pub(crate) async fn push(&self, space: SpaceName, mut push: Pushed, room: Grant) -> bool {
        if let Pushed::Changes(judging, _) = &mut push {
            let named = judging.named();
            if named.len() > limits::HUB_LOOK_UPS {
                let document = judging.document();
                let facts = self.look_ups.find(room.key(), &space, document, named).await;
                judging.know(facts);
            }
        }
        let key = room.key();
        self.inbox.send(key, Command::Push(space, Box::new(push), room)).await.is_ok()
    }

    /// The session is gone. Never waits, so that it can be called while dropping.
    pub(crate) fn leave(&self, session: SessionId) {
        self.inbox.put(Command::Leave(session));
    }

    /// Something of a space is about to be folded, up to this offset: from now on that is fed from
    /// the store. Waits for the hub; false if it is gone.
    pub(crate) fn folding(&self, space: SpaceName, through: Offset) -> bool {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.inbox.put(Command::Folding(space, through, tell));
        told.recv_timeout(limits::HUB_ANSWER).is_ok()
    }

    /// Settle what was taken, then end.
    pub(crate) fn shutdown(&self) {
        self.inbox.put(Command::Shutdown);
    }

    /// Commands that wait.
    pub(crate) fn queued(&self) -> usize {
        self.inbox.len()
    }
}
