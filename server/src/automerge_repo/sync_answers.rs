//! Answers from the store, read off the session's own task: one at a time, or several in one read if they
//! need their documents' heads only.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use landfall_protocol::automerge_repo::DocumentIndex;
use landfall_protocol::automerge_repo::peer::{LogState, Planned, Ticket};
use landfall_protocol::automerge_repo::plan::{NeedsSnapshotHistory, Plan, SyncRequest};
use landfall_protocol::frame::entry_kind;
use landfall_protocol::relay::StoreFailure;
use landfall_protocol::{DocumentId, Offset, SpaceName, limits as shared_limits};
use tokio::sync::oneshot;

use super::SharedState;
use super::access::Access;
use crate::compaction::Compactor;
use crate::limits;
use crate::memory::{Account, Class, Grant};
use crate::store::{LogStore, StoreError, StoredDocument};
use crate::turns::Turns;

/// An answer.
pub(super) struct SyncAnswer {
    pub(super) ticket: Ticket,
    pub(super) planned: Planned,
    /// Its memory until it is written.
    pub(super) grant: Option<Grant>,
}

/// A session's queries.
pub(super) struct SyncAnswers {
    reader: SyncReader,
    waiting: VecDeque<WaitingQuery>,
    /// Bytes of the waiting queries.
    bytes: usize,
    reading: Option<Reading>,
    ready: VecDeque<SyncAnswer>,
}

type WaitingQuery = (Ticket, SyncRequest);

type Reading = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// The result of one read for several queries.
struct Answered {
    /// The answers to the first of them.
    replies: VecDeque<SyncAnswer>,
    /// The queries still to be answered.
    rest: Vec<WaitingQuery>,
}

impl SyncAnswers {
    pub(super) fn new(reader: SyncReader) -> Self {
        let (waiting, ready) = Default::default();
        Self { reader, waiting, bytes: 0, reading: None, ready }
    }

    /// Queues a query. A document has at most one at a time, so their number is bounded by the open
    /// documents.
    pub(super) fn ask(&mut self, ticket: Ticket, request: SyncRequest) {
        self.bytes += query_bytes(&request);
        self.waiting.push_back((ticket, request));
    }

    /// Whether the session may read more from the peer.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < limits::REPO_QUERY_BYTES
    }

    fn begin(&mut self) -> Option<Reading> {
        let count = self.waiting.len().min(limits::REPO_QUERIES);
        let queries: Vec<WaitingQuery> = self.waiting.drain(..count).collect();
        if queries.is_empty() {
            return None;
        }
        self.bytes -= queries.iter().map(|(_, request)| query_bytes(request)).sum::<usize>();
        let reader = self.reader.clone();
        Some(Box::pin(async move { reader.answer_some(queries).await }))
    }

    /// Waits for the next answer; pends forever if no query waits. Cancel-safe: the next call resumes
    /// the read.
    pub(super) async fn reply(&mut self) -> Option<SyncAnswer> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        if self.reading.is_none() && !self.waiting.is_empty() {
            // Handle the messages that have arrived first, so that their queries join this read. A read
            // costs a thread wake-up, which is more than the look-up of a document.
            if self.waiting.len() < limits::REPO_QUERIES {
                tokio::task::yield_now().await;
            }
            self.reading = self.begin();
        }
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let Answered { replies, rest } = reading.await;
        self.reading = None;
        self.ready = replies;
        self.bytes += rest.iter().map(|(_, request)| query_bytes(request)).sum::<usize>();
        rest.into_iter().rev().for_each(|asked| self.waiting.push_front(asked));
        self.ready.pop_front()
    }
}

#[derive(Clone)]
pub(super) struct SyncReader {
    store: Arc<dyn LogStore>,
    page_reads: Turns,
    pub(super) account: Account,
    compactor: Arc<Compactor>,
    pub(super) space: SpaceName,
    /// The client's rights.
    pub(super) access: Access,
}

/// A planned answer.
enum Outline {
    /// Complete: nothing more to read.
    Done(Planned),
    Read(Box<(DocumentIndex, Plan)>),
}

impl Outline {
    /// Whether its memory may have to be waited for.
    fn needs_room(&self, request: &SyncRequest) -> bool {
        match self {
            Self::Done(planned) => answer_bytes(planned, request) > limits::SOCKET_BUFFER_BYTES,
            Self::Read(_) => true,
        }
    }
}

impl SyncReader {
    pub(super) fn new(
        shared: &SharedState,
        access: Access,
        space: SpaceName,
        account: Account,
    ) -> Self {
        Self {
            store: Arc::clone(&shared.relay.store),
            page_reads: shared.relay.page_reads.clone(),
            account,
            compactor: Arc::clone(&shared.compactor),
            space,
            access,
        }
    }

    /// Answers queries up to the first one that needs more than its document's heads.
    async fn answer_some(&self, queries: Vec<WaitingQuery>) -> Answered {
        let queries = Arc::new(queries);
        let outlines = match queries.first() {
            Some((ticket, _)) => {
                let (queries, access) = (Arc::clone(&queries), self.access.clone());
                let plan = move |store: &dyn LogStore, space: &SpaceName| {
                    outlines(store, space, &access, &queries)
                };
                self.ask(ticket.document, plan).await
            }
            None => Ok(Vec::new()),
        };
        let mut queries = Arc::unwrap_or_clone(queries);
        let outlines = outlines.unwrap_or_else(|failure| vec![Outline::Done(unread(failure))]);
        let mut rest = queries.split_off(outlines.len().min(queries.len()));
        let mut replies = VecDeque::with_capacity(queries.len());
        let mut outlined = queries.into_iter().zip(outlines);
        while let Some(((ticket, request), outline)) = outlined.next() {
            let holds = replies.iter().any(|reply: &SyncAnswer| reply.grant.is_some());
            if holds && outline.needs_room(&request) {
                // Defer this query to a read of its own: no task waits for memory while it holds some.
                let others = outlined.map(|(query, _)| query);
                let again: Vec<WaitingQuery> =
                    std::iter::once((ticket, request)).chain(others).collect();
                drop(rest.splice(..0, again));
                break;
            }
            let (planned, grant) = self.answer(ticket.document, request, outline).await;
            replies.push_back(SyncAnswer { ticket, planned, grant });
        }
        Answered { replies, rest }
    }

    async fn answer(
        &self,
        document: DocumentId,
        request: SyncRequest,
        first: Outline,
    ) -> (Planned, Option<Grant>) {
        let request = Arc::new(request);
        let (mut first, mut least) = (Some(first), 0);
        for turn in 1..=limits::REPO_PLANS {
            let is_last = turn == limits::REPO_PLANS;
            let outline = match first.take() {
                Some(first) => Ok(first),
                None => {
                    let (query, access) = (Arc::clone(&request), self.access.clone());
                    let plan = move |store: &dyn LogStore, space: &SpaceName| {
                        outline(store, space, &access, &document, &query)
                    };
                    self.ask(document, plan).await
                }
            };
            let (index, plan) = match outline {
                Ok(Outline::Done(planned)) => {
                    let grant = self.room_for(answer_bytes(&planned, &request)).await;
                    return (planned, grant);
                }
                Ok(Outline::Read(read)) => *read,
                Err(failure) => return (unread(failure), None),
            };
            let grant = self.room_for(weight(&index, &plan).max(least)).await;
            let read = self
                .ask(document, move |store, space| read(store, space, &document, &index, &plan));
            match read.await {
                Ok(Some(planned)) => {
                    let (needs, has) = (answer_bytes(&planned, &request), grant.as_ref());
                    let is_little = needs <= limits::SOCKET_BUFFER_BYTES;
                    if is_little || has.is_some_and(|grant| grant.bytes() >= needs) || is_last {
                        return (planned, grant);
                    }
                    // The answer is larger than planned: drop it, reserve its size, and read it again.
                    least = needs;
                }
                // A compaction replaced the planned entries: plan again.
                Ok(None) => {}
                Err(failure) => return (unread(failure), None),
            }
        }
        tracing::error!(%document, "cannot read an answer: the document changes too fast");
        (Planned::Failed, None)
    }

    /// Waits for an answer's memory. `bytes` already counts the data twice: as it is read, and in the
    /// message or the socket's buffer. A message that fits the buffer needs none.
    async fn room_for(&self, bytes: usize) -> Option<Grant> {
        match bytes > limits::SOCKET_BUFFER_BYTES {
            true => Some(self.account.reserve(Class::Answer, bytes).await),
            false => None,
        }
    }

    /// Reads the store on a thread that may block. If a packed index is damaged, rebuilds it first and
    /// reads again. Read errors are logged.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        document: DocumentId,
        ask: impl Fn(&dyn LogStore, &SpaceName) -> Result<T, StoreError> + Send + Sync + 'static,
    ) -> Result<T, StoreFailure> {
        let ask = Arc::new(ask);
        let mut outcome = self.ask_once(&ask).await;
        if outcome.as_ref().is_err_and(|error| error.damaged_index().is_some()) {
            tracing::error!(%document, "a packed index is damaged; rebuilding it");
            let (done, made) = oneshot::channel();
            let done = Box::new(move |ok| {
                // The caller may be gone.
                let _ = done.send(ok);
            });
            self.compactor.rebuild(self.space.clone(), document, done);
            if made.await.unwrap_or(false) {
                outcome = self.ask_once(&ask).await;
            }
        }
        let failed = |error: &StoreError| {
            tracing::error!(%document, error = error.chain(), "cannot read a document");
        };
        let failure = |error: StoreError| match error.damaged_index() {
            // The rebuild failed.
            Some(_) => StoreFailure::Damaged,
            None => error.failure,
        };
        outcome.inspect_err(failed).map_err(failure)
    }

    async fn ask_once<T, F>(&self, ask: &Arc<F>) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&dyn LogStore, &SpaceName) -> Result<T, StoreError> + Send + Sync + 'static,
    {
        let turn = self.page_reads.take(self.account.key()).await;
        let (store, space, ask) = (Arc::clone(&self.store), self.space.clone(), Arc::clone(ask));
        let outcome = tokio::task::spawn_blocking(move || {
            let outcome = ask(&*store, &space);
            drop(turn);
            outcome
        });
        outcome.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)))
    }
}

/// The answer for a read error: damage concerns one document; any other error ends the session.
fn unread(failure: StoreFailure) -> Planned {
    match failure {
        StoreFailure::Damaged => Planned::LogState(LogState::Damaged),
        _ => Planned::Failed,
    }
}

fn query_bytes(request: &SyncRequest) -> usize {
    let SyncRequest { heads, have, need, .. } = request;
    let have = have.iter().map(|have| have.bytes + 32 * have.last_sync.len());
    let hashes = 32 * (heads.len() + need.len());
    limits::REPO_QUERY_OVERHEAD_BYTES + hashes + have.sum::<usize>()
}

/// Bytes of an answer, counted twice (as read, and in its message): its changes; the document's heads, sent
/// also as the common heads; and the peer's heads that it requests.
fn answer_bytes(planned: &Planned, request: &SyncRequest) -> usize {
    let message = match planned {
        Planned::LogState(LogState::Present { heads, .. }) => 2 * 32 * heads.len(),
        Planned::LogState(LogState::Absent) => 32 * request.heads.len(),
        Planned::LogState(LogState::Deleted | LogState::Damaged) | Planned::Failed => 0,
        Planned::Answer { heads, unknown, chunks, .. } => {
            let chunks = chunks.iter().map(Vec::len).sum::<usize>();
            chunks + 2 * 32 * heads.len() + 32 * unknown.len()
        }
    };
    2 * message
}

/// Upper bound of an answer's bytes, without heads and a few changes.
fn weight(index: &DocumentIndex, plan: &Plan) -> usize {
    let snapshot = index.compacted.as_ref().filter(|_| plan.snapshot);
    let snapshot = snapshot.map_or(0, |compacted| compacted.bytes as usize);
    let changes = if plan.offsets.is_empty() { 0 } else { shared_limits::REPO_CHANGES_BYTES };
    // A few single changes need no reservation.
    let changes = if plan.offsets.len() <= limits::REPO_FEW_CHANGES { 0 } else { changes };
    // Counted twice: as they are read, and in the message or the socket's buffer.
    2 * (snapshot + changes)
}

/// Plans answers, up to and including the first one that needs a further read: a longer read would delay
/// other sessions.
fn outlines(
    store: &dyn LogStore,
    space: &SpaceName,
    access: &Access,
    asked: &[WaitingQuery],
) -> Result<Vec<Outline>, StoreError> {
    let mut outlines = Vec::with_capacity(asked.len());
    for (ticket, request) in asked {
        let outline = match outline(store, space, access, &ticket.document, request) {
            // Left for the next read, where it is the first and its error is returned.
            Err(_) if !outlines.is_empty() => break,
            outline => outline?,
        };
        let is_read = matches!(outline, Outline::Read(_));
        outlines.push(outline);
        if is_read {
            break;
        }
    }
    Ok(outlines)
}

fn outline(
    store: &dyn LogStore,
    space: &SpaceName,
    access: &Access,
    document: &DocumentId,
    request: &SyncRequest,
) -> Result<Outline, StoreError> {
    let done = |standing| Ok(Outline::Done(Planned::LogState(standing)));
    match store.document_heads(space, &access.looked_up(document))? {
        _ if !access.reads(document) => return done(LogState::Absent),
        StoredDocument::Absent => return done(LogState::Absent),
        StoredDocument::Deleted => return done(LogState::Deleted),
        StoredDocument::Present { heads, last }
            if request.need.is_empty() && heads == request.heads =>
        {
            return done(LogState::Present { heads, last });
        }
        StoredDocument::Present { .. } => {}
    }
    let mut index = store.document_index(space, document, false)?;
    if let Some(without) = &index
        && Plan::of(without, request).is_err()
    {
        index = store.document_index(space, document, true)?;
    }
    // Deleted at this moment: its tombstone follows.
    let Some(index) = index else { return done(LogState::Deleted) };
    match Plan::of(&index, request) {
        Ok(plan) => Ok(Outline::Read(Box::new((index, plan)))),
        Err(NeedsSnapshotHistory) => Err(StoreError::unsupported()),
    }
}

/// Reads a planned answer; `None` if a compaction removed planned entries.
fn read(
    store: &dyn LogStore,
    space: &SpaceName,
    document: &DocumentId,
    index: &DocumentIndex,
    plan: &Plan,
) -> Result<Option<Planned>, StoreError> {
    let mut chunks = Vec::new();
    if plan.snapshot
        && let Some(compacted) = &index.compacted
    {
        let mut bytes = Vec::with_capacity(compacted.bytes as usize);
        while (bytes.len() as u64) < compacted.bytes {
            match store.snapshot_part(space, &compacted.hash, bytes.len() as u64)? {
                Some(part) => bytes.extend_from_slice(&part.bytes),
                None => return Ok(None),
            }
        }
        chunks.push(bytes);
    }
    let (mut sent, mut weight) = (0, 0);
    while sent < plan.offsets.len() && weight < shared_limits::REPO_CHANGES_BYTES {
        let entries = store.read_entries(space, document, &plan.offsets[sent..])?;
        if entries.is_empty() {
            return Ok(None);
        }
        if entries.iter().any(|entry| entry.kind() == entry_kind::DAMAGED) {
            return Err(StoreError::damaged("read a change of a document"));
        }
        sent += entries.len();
        weight += entries.iter().map(|entry| entry.len()).sum::<usize>();
        chunks.extend(entries.iter().map(|entry| entry.body().to_vec()));
    }
    Ok(Some(Planned::Answer {
        heads: index.heads.clone(),
        last: index.last.max(Offset(0)),
        unknown: plan.unknown.clone(),
        lost: plan.lost,
        chunks,
        closing: plan.close(index, sent),
    }))
}

#[cfg(test)]
mod tests {
    use landfall_protocol::Moment;
    use landfall_protocol::Patience;
    use landfall_protocol::automerge_repo::peer::{Host, Peer};

    use super::*;
    use crate::compaction::CompactionOptions;
    use crate::memory::{Memory, ShareKey};
    use crate::metrics::Metrics;
    use crate::store::SqliteStore;

    /// A client opens very many documents that the relay does not have.
    #[tokio::test]
    async fn queries_without_content_are_answered_in_one_read() {
        let compactor = tempfile::tempdir().unwrap();
        let store: Arc<dyn LogStore> = Arc::new(SqliteStore::open(compactor.path()).unwrap());
        let (metrics, compactions) = (Arc::new(Metrics::new()), CompactionOptions::default());
        let (compactor, _ended) =
            Compactor::start(Arc::clone(&store), metrics, compactions, Memory::new(0)).unwrap();
        let (account, turns) = (Memory::new(0).account(ShareKey::Session(1)), Turns::new(1));
        let space: SpaceName = "default".parse().unwrap();
        let page_reads = turns.clone();
        let compactions = Arc::clone(&compactor);
        let access = Access::open(&space);
        let reader =
            SyncReader { store, page_reads, account, compactor: compactions, space, access };
        let mut sync_answers = SyncAnswers::new(reader);
        let host = Host { peer_id: "relay".to_owned(), storage_id: "storage".to_owned() };
        let peer = Peer::new(host, Patience::default(), Moment::default());
        let many = 3 * limits::REPO_QUERIES as u128;
        for number in 0..many {
            let ticket = peer.ticket(DocumentId::from_bytes(number.to_le_bytes()));
            let (heads, have, need, sent_through) = (vec![], vec![], vec![], Offset(0));
            sync_answers.ask(ticket, SyncRequest { heads, have, need, sent_through });
        }
        for number in 0..many {
            let SyncAnswer { ticket, planned, .. } = sync_answers.reply().await.unwrap();
            assert_eq!(ticket.document, DocumentId::from_bytes(number.to_le_bytes()));
            assert!(matches!(planned, Planned::LogState(LogState::Absent)));
        }
        assert_eq!((turns.asked(), sync_answers.bytes), (3, 0));
        compactor.close();
    }
}
