//! Answers to a session's questions about what the relay holds: digests, and documents apart from
//! the log's order. One question at a time, each read from the store in short pieces that wait for
//! the socket.

use std::collections::VecDeque;
use std::sync::Arc;

use landfall_protocol::digest::{Branch, Prefix};
use landfall_protocol::frame::{EncodedEntry, Holding, SubscriptionId, Want};
use landfall_protocol::ring::DocumentPlan;
use landfall_protocol::session::Session;
use landfall_protocol::space::StoreFailure;
use landfall_protocol::{Code, DocumentId, Offset, SpaceName};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::store::{LogStore, StoreError};

/// How often one document is planned anew because a fold overtook its answer.
const PLANS: usize = 8;

/// A question.
pub(super) enum Query {
    Digest(SubscriptionId, SpaceName, Vec<Prefix>),
    Fetch(SubscriptionId, SpaceName, Vec<Want>),
}

/// A piece of an answer.
pub(super) enum Reply {
    /// What lies below the prefixes, and the log's head.
    Branches(SubscriptionId, Offset, Vec<Branch>),
    /// A message that is ready to send.
    Message(Vec<u8>),
    /// A fetch has been answered.
    Fetched(SubscriptionId),
    /// The store could not answer; documents of a fetch that it could read were sent.
    Failed(SubscriptionId, Code, String),
}

/// The questions of one session.
pub(super) struct Answering {
    reader: Reader,
    waiting: VecDeque<Query>,
    task: Option<JoinHandle<()>>,
    replies: mpsc::Receiver<Reply>,
    sender: mpsc::Sender<Reply>,
}

impl Answering {
    pub(super) fn new(store: Arc<dyn LogStore>, page_reads: Arc<Semaphore>) -> Self {
        // Few: each may be a message of its own.
        let (sender, replies) = mpsc::channel(2);
        let reader = Reader { store, page_reads };
        Self { reader, waiting: VecDeque::new(), task: None, replies, sender }
    }

    pub(super) fn add(&mut self, query: Query) {
        self.waiting.push_back(query);
        self.begin();
    }

    fn begin(&mut self) {
        if self.task.is_some() {
            return;
        }
        let Some(query) = self.waiting.pop_front() else { return };
        let (reader, sender) = (self.reader.clone(), self.sender.clone());
        self.task = Some(tokio::spawn(async move { reader.answer(query, &sender).await }));
    }

    /// Waits for the next piece of an answer; for ever if nothing was asked.
    pub(super) async fn reply(&mut self) -> Option<Reply> {
        let reply = self.replies.recv().await;
        if matches!(reply, Some(Reply::Branches(..) | Reply::Fetched(..) | Reply::Failed(..))) {
            self.task = None;
            self.begin();
        }
        reply
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct Reader {
    store: Arc<dyn LogStore>,
    page_reads: Arc<Semaphore>,
}

/// Why an answer ends early.
enum Stop {
    Failed(StoreError),
    /// The session is gone.
    Gone,
}

impl Reader {
    async fn answer(&self, query: Query, replies: &mpsc::Sender<Reply>) {
        let reply = match query {
            Query::Digest(subscription, space, prefixes) => {
                match self.read(move |store| store.branches(&space, &prefixes)).await {
                    Ok((head, branches)) => Reply::Branches(subscription, head, branches),
                    Err(stop) => stop.reply(subscription),
                }
            }
            Query::Fetch(subscription, space, wants) => {
                match self.fetch(subscription, &space, wants, replies).await {
                    Ok(()) => Reply::Fetched(subscription),
                    Err(stop) => stop.reply(subscription),
                }
            }
        };
        // A session that is gone wants no answer.
        let _ = replies.send(reply).await;
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn LogStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Stop> {
        let turn = Arc::clone(&self.page_reads).acquire_owned().await;
        let store = Arc::clone(&self.store);
        let read = tokio::task::spawn_blocking(move || {
            let read = read(&*store);
            drop(turn);
            read
        });
        read.await.unwrap_or_else(|error| Err(StoreError::of_panic(error))).map_err(Stop::Failed)
    }

    async fn fetch(
        &self,
        subscription: SubscriptionId,
        space: &SpaceName,
        wants: Vec<Want>,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<(), Stop> {
        // One that is damaged keeps nobody from the others.
        let mut damaged = None;
        for want in wants {
            let answering = Fetching { reader: self, subscription, space, replies };
            match answering.document(want).await {
                Err(Stop::Failed(error)) if error.failure == StoreFailure::Damaged => {
                    damaged.get_or_insert(Stop::Failed(error));
                }
                answered => answered?,
            }
        }
        damaged.map_or(Ok(()), Err)
    }
}

impl Stop {
    fn reply(self, subscription: SubscriptionId) -> Reply {
        match self {
            Self::Failed(error) => {
                tracing::error!(error = error.chain(), "a question could not be answered");
                let (code, what) = error.told();
                Reply::Failed(subscription, code, what)
            }
            // Nobody hears it.
            Self::Gone => Reply::Fetched(subscription),
        }
    }
}

/// One fetch under way.
struct Fetching<'a> {
    reader: &'a Reader,
    subscription: SubscriptionId,
    space: &'a SpaceName,
    replies: &'a mpsc::Sender<Reply>,
}

impl Fetching<'_> {
    async fn document(&self, want: Want) -> Result<(), Stop> {
        let Want { document, have } = want;
        for _ in 0..PLANS {
            let (space, have) = (self.space.clone(), have.clone());
            let plan = self
                .reader
                .read(move |store| store.plan_document(&space, &document, &have))
                .await?;
            if self.planned(document, plan).await? {
                return Ok(());
            }
        }
        Err(Stop::Failed(StoreError::unsupported()))
    }

    /// Sends what is planned; false if it was folded away meanwhile and must be planned again.
    /// What was sent before then comes twice, which harms nothing.
    async fn planned(&self, document: DocumentId, plan: DocumentPlan) -> Result<bool, Stop> {
        let DocumentPlan { holding, snapshot, offsets } = plan;
        let mut rest = offsets;
        if let Some((hash, total, _)) = snapshot {
            let inline = total <= landfall_protocol::limits::SNAPSHOT_INLINE_BYTES as u64;
            if !inline && !self.parts(hash, total).await? {
                return Ok(false);
            }
            let space = self.space.clone();
            let read = move |store: &dyn LogStore| store.snapshot_entry(&space, &hash);
            let Some(entry) = self.reader.read(read).await? else { return Ok(false) };
            self.entries(document, holding.clone(), &[entry], !rest.is_empty()).await?;
            if rest.is_empty() {
                return Ok(true);
            }
        }
        loop {
            let (space, offsets) = (self.space.clone(), rest.clone());
            let entries = match rest.is_empty() {
                true => Vec::new(),
                false => {
                    let read =
                        move |store: &dyn LogStore| store.read_entries(&space, &document, &offsets);
                    self.reader.read(read).await?
                }
            };
            if entries.is_empty() && !rest.is_empty() {
                return Ok(false);
            }
            rest.drain(..entries.len());
            let more = !rest.is_empty();
            self.entries(document, holding.clone(), &entries, more).await?;
            if !more {
                return Ok(true);
            }
        }
    }

    /// Sends a snapshot in parts; false if it is gone.
    async fn parts(&self, hash: [u8; 32], total: u64) -> Result<bool, Stop> {
        let mut from = 0;
        while from < total {
            let space = self.space.clone();
            let read = move |store: &dyn LogStore| store.snapshot_part(&space, &hash, from);
            let Some(part) = self.reader.read(read).await? else { return Ok(false) };
            from += part.bytes.len() as u64;
            self.send(Session::part_frame(self.subscription, part)).await?;
        }
        Ok(true)
    }

    async fn entries(
        &self,
        document: DocumentId,
        holding: Holding,
        entries: &[EncodedEntry],
        more: bool,
    ) -> Result<(), Stop> {
        let message = Session::document_frame(self.subscription, document, holding, entries, more);
        self.send(message).await
    }

    async fn send(&self, message: Vec<u8>) -> Result<(), Stop> {
        self.replies.send(Reply::Message(message)).await.map_err(|_| Stop::Gone)
    }
}
