//! The hub: one thread that owns the spaces' state machines, performs their decisions, and notifies the
//! sessions.
//!
//! It admits nothing itself (`landfall_protocol::relay` does) and must never wait for a session:
//! notifications go into a bounded channel, and a session whose channel is full is ended.

mod deferred;
mod deferred_pushes;
mod durable;
mod feed;
mod inbox;
mod lookups;
mod rings;
mod sequencer;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use landfall_protocol::access::Rights;
use landfall_protocol::frame::{Mark, SubscriptionId};
use landfall_protocol::relay::{
    CheckedPush, PendingPush, PushAnswer, PushedEntry, Refusal, SnapshotUpload,
};
use landfall_protocol::{Code, Cursor, DocumentId, Epoch, Offset, Scope, SessionId, SpaceName};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::compaction::{Compactor, MergeError, MergeOutcome};
use crate::fan_out::FanOut;
use crate::health::Health;
use crate::limits;
use crate::memory::{Grant, Key};
use crate::metrics::Metrics;
use crate::repairs::Repairs;
use crate::store::{LogStore, Replaced, StoreError};

pub(crate) use durable::Durable;
pub(crate) use feed::{Feed, Grown};
use inbox::Inbox;
use lookups::LookUps;
pub(crate) use rings::Rings;
use sequencer::Sequencer;

/// A request to attach a subscription to its space's log.
pub(crate) struct Attach {
    pub(crate) session: SessionId,
    pub(crate) subscription: SubscriptionId,
    /// Distinguishes this attach from an earlier one with the same number.
    pub(crate) ticket: u64,
    pub(crate) space: SpaceName,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) acknowledged: Option<Mark>,
    pub(crate) scope: Scope,
    /// Whether the replica has documents. Only relevant without a cursor.
    pub(crate) holds: bool,
    pub(crate) channel: HubChannel,
}

/// A session's push.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// Checked changes; and how many index loads the push has caused.
    Changes(PendingPush, u8),
    /// A document's deletion.
    Deletion(PushedEntry),
    /// A complete snapshot.
    Snapshot(PushedEntry, SnapshotUpload, Arc<Vec<u8>>),
    /// Chunks of any type.
    Chunks(PushedEntry, Arc<Vec<u8>>),
}

impl Pushed {
    /// Changes that passed the preflight.
    pub(crate) fn changes(push: CheckedPush) -> Self {
        Self::Changes(PendingPush::new(push), 0)
    }

    /// A push of an automerge-repo peer that is more than single changes: whole documents, changes,
    /// compressed ones and bundles, one after the other and in any order. A child opens it; the document's
    /// other pushes wait meanwhile.
    ///
    /// All of it is accepted, or nothing. The answer counts the additions: changes, or 1 for a snapshot that
    /// replaces everything; 1 also if nothing in it is new. A rejection with `missing-dependency` names a
    /// missing dependency.
    pub(crate) fn chunks(entry: PushedEntry, bytes: Arc<Vec<u8>>) -> Self {
        Self::Chunks(entry, bytes)
    }

    fn document(&self) -> DocumentId {
        match self {
            Self::Changes(pending_push, _) => pending_push.document(),
            Self::Deletion(push) | Self::Snapshot(push, ..) | Self::Chunks(push, _) => {
                push.document
            }
        }
    }

    /// Whether a child must open and merge it.
    fn is_upload(&self) -> bool {
        matches!(self, Self::Snapshot(..) | Self::Chunks(..))
    }

    /// Why its author may not make it, whatever the document holds. Asked before anything is looked up, so
    /// that an unreadable document answers like an unknown one, also while it is damaged or merged.
    fn refusal(&self) -> Option<Refusal> {
        let (author, needed) = match self {
            Self::Changes(pending_push, _) => (pending_push.author(), Rights::WRITE),
            Self::Deletion(push) => (&push.author, Rights::DELETE),
            Self::Snapshot(push, ..) | Self::Chunks(push, _) => (&push.author, Rights::WRITE),
        };
        (!author.rights.includes(needed)).then(|| Refusal::of_rights(needed))
    }

    fn key(&self) -> (SessionId, u64) {
        match self {
            Self::Changes(pending_push, _) => pending_push.key(),
            Self::Deletion(push) | Self::Snapshot(push, ..) | Self::Chunks(push, _) => {
                (push.session, push.id)
            }
        }
    }
}

/// A command to the hub.
enum Command {
    Attach(Box<Attach>),
    Detach(SessionId, SubscriptionId),
    Join(SessionId, SpaceName, HubChannel),
    Push(SpaceName, Box<Pushed>, Grant),
    /// A document's packed index is in memory, or could not be loaded.
    IndexLoaded(SpaceName, DocumentId, Result<(), StoreError>),
    /// The damaged ones of these changes were replaced in the store by the pushed bytes, or could not be.
    Repaired(SpaceName, DocumentId, Result<Replaced, StoreError>),
    /// An upload was merged with the stored document, or could not be.
    Merged(SpaceName, PushedEntry, Result<MergeOutcome, MergeError>),
    /// A compaction of a document of this space is about to commit, up to this offset.
    Compacting(SpaceName, Offset, std::sync::mpsc::SyncSender<()>),
    Leave(SessionId),
    Committed(SpaceName, Result<(), StoreError>),
    Probed(Result<(), StoreError>),
    Shutdown,
}

/// A notification of the hub to a session.
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
    Answered(PushAnswer),
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("space", &self.space).finish_non_exhaustive()
    }
}

/// The hub's way to notify a session.
#[derive(Clone)]
pub(crate) struct HubChannel {
    pub(crate) events: mpsc::Sender<Event>,
    /// Notified when the channel was full: the session must end.
    pub(crate) overflow: Arc<Notify>,
    /// The subscriptions of the session whose logs have grown.
    pub(crate) grown: Arc<Grown>,
}

/// The parts of a hub.
pub(crate) struct HubParts {
    pub(crate) store: Arc<dyn LogStore>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) compactor: Arc<Compactor>,
    /// Subscribers of documents, which receive durable entries besides the subscriptions' feeds.
    pub(crate) fan_out: Arc<FanOut>,
    /// The online repair, which pushes may complete.
    pub(crate) repairs: Arc<Repairs>,
    /// Runs the store's longer calls.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Size limit of a space's ring in bytes.
    pub(crate) ring_bytes: usize,
    /// The rings of all spaces.
    pub(crate) rings: Arc<Rings>,
    /// The epoch that this process opens in each log that it appends to.
    pub(crate) epoch: Epoch,
}

/// How the hub's thread ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HubEnd {
    /// It was stopped, after every accepted push was answered.
    Drained,
    /// A bug: it panicked. No push can be accepted or acknowledged any more.
    Panicked,
}

/// A handle to the hub.
#[derive(Clone)]
pub(crate) struct Hub {
    inbox: Arc<Inbox<Command>>,
    look_ups: LookUps,
}

impl Hub {
    /// Starts the hub's thread. The receiver gets the way in which it ended.
    pub(crate) fn start(parts: HubParts) -> std::io::Result<(Self, oneshot::Receiver<HubEnd>)> {
        let inbox = Arc::new(Inbox::new(limits::HUB_QUEUE));
        let look_ups = LookUps::new(Arc::clone(&parts.store));
        let hub = Self { inbox: Arc::clone(&inbox), look_ups };
        let (ended, end) = oneshot::channel();
        thread::Builder::new().name("hub".to_owned()).spawn(move || {
            let run = || Sequencer::new(parts, Arc::clone(&inbox)).run();
            let end = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(()) => HubEnd::Drained,
                Err(_) => {
                    tracing::error!("the hub panicked; the relay stops");
                    HubEnd::Panicked
                }
            };
            inbox.close();
            // Fails only if the whole server was dropped.
            let _ = ended.send(end);
        })?;
        Ok((hub, end))
    }

    /// Attaches a subscription; the answer arrives in its channel.
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

    /// Registers a session without a subscription: its pushes are answered to this channel until it leaves.
    /// An attach also registers it.
    pub(crate) async fn join(
        &self,
        key: Key,
        session: SessionId,
        space: SpaceName,
        channel: HubChannel,
    ) -> bool {
        self.inbox.send(key, Command::Join(session, space, channel)).await.is_ok()
    }

    /// Submits a push; the answer arrives in the session's channel, and the push's memory is then released.
    pub(crate) async fn push(&self, space: SpaceName, mut push: Pushed, grant: Grant) -> bool {
        let is_refused = push.refusal().is_some();
        if let Pushed::Changes(pending_push, _) = &mut push
            && !is_refused
        {
            let named = pending_push.named();
            if named.len() > limits::HUB_LOOK_UPS {
                let document = pending_push.document();
                let facts = self.look_ups.find(grant.key(), &space, document, named).await;
                pending_push.know(facts);
            }
        }
        let key = grant.key();
        self.inbox.send(key, Command::Push(space, Box::new(push), grant)).await.is_ok()
    }

    /// The session is gone. Never waits, so that it can be called in a drop.
    pub(crate) fn leave(&self, session: SessionId) {
        self.inbox.put(Command::Leave(session));
    }

    /// Called before a compaction of the space commits: from now on entries up to this offset are served from
    /// the store. Waits for the hub; false if it is gone.
    pub(crate) fn compaction(&self, space: SpaceName, through: Offset) -> bool {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.inbox.put(Command::Compacting(space, through, sender));
        receiver.recv_timeout(limits::HUB_ANSWER).is_ok()
    }

    /// Answers the accepted pushes, then ends.
    pub(crate) fn shutdown(&self) {
        self.inbox.put(Command::Shutdown);
    }

    /// Number of waiting commands.
    pub(crate) fn queued(&self) -> usize {
        self.inbox.len()
    }
}
