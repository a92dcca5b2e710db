//! Answers a session's queries: digests, and documents outside the log's order. One query at a time, each
//! read from the store in short pieces, at the pace of the socket.

use std::collections::VecDeque;
use std::sync::Arc;

use landfall_protocol::access::View;
use landfall_protocol::digest::{Branch, Prefix};
use landfall_protocol::frame::{Documents, EncodedEntry, Entry, Holding, SubscriptionId, Want};
use landfall_protocol::relay::{DocumentPlan, Session, SnapshotPart, StoreFailure};
use landfall_protocol::{Code, DocumentId, Offset, SpaceName, limits as shared};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::pages::Pages;
use crate::connection::RelayState;
use crate::limits;
use crate::memory::{Account, Grant};
use crate::store::{BranchPage, LogStore, StoreError, SumCursor};
use crate::turns::Turns;

/// How often one document is planned again because a compaction overtook its answer.
const PLANS: usize = 8;

/// The subscription that asks, and its ticket.
pub(super) type Requester = (SubscriptionId, u64);

/// The number of heads that fit beside entries; more of them get frames of their own.
const FEW_HEADS: usize = 1_000;

const _: () = assert!(
    shared::CHANGE_ENTRY_BYTES + shared::ENTRY_HEADER_BYTES + 32 * FEW_HEADS + 1024
        <= shared::MESSAGE_BYTES
);

/// A query.
pub(super) enum Query {
    Digest(Requester, SpaceName, View, Vec<Prefix>),
    Fetch(Requester, SpaceName, View, Vec<Want>),
}

impl Query {
    /// Bytes that it holds until it is answered: as received, and as a copy in the read that answers it.
    pub(super) fn bytes(&self) -> usize {
        let received = match self {
            Self::Digest(.., prefixes) => size_of_val(&prefixes[..]),
            Self::Fetch(.., wants) => {
                let have = wants.iter().map(|want| size_of_val(&want.have[..])).sum::<usize>();
                size_of_val(&wants[..]) + have
            }
        };
        2 * received
    }
}

/// A piece of an answer.
pub(super) enum AnswerPart {
    /// The branches of the prefixes, and the log's head.
    Branches(Requester, Offset, Vec<Branch>),
    /// A message that is ready to send.
    Message(Requester, Vec<u8>, Grant),
    /// A fetch is finished.
    Fetched(Requester),
    /// The store could not answer; the readable documents of a fetch were sent.
    Failed(Requester, Code, String),
}

/// The queries of one session.
pub(super) struct Queries {
    reader: QueryReader,
    waiting: VecDeque<(Query, Option<Grant>)>,
    /// Bytes of waiting queries without a memory grant: they arrived in small messages.
    small: usize,
    task: Option<JoinHandle<()>>,
    replies: mpsc::Receiver<AnswerPart>,
    sender: mpsc::Sender<AnswerPart>,
}

impl Queries {
    pub(super) fn new(shared: &RelayState, account: Account) -> Self {
        // A small queue: each reply may be a whole message.
        let (sender, replies) = mpsc::channel(2);
        let digests = shared.digests.clone();
        let reader = QueryReader { pages: Pages::new(shared, account), digests };
        Self { reader, waiting: VecDeque::new(), small: 0, task: None, replies, sender }
    }

    /// Queues a query, with its memory if its message was large.
    pub(super) fn add(&mut self, query: Query, grant: Option<Grant>) {
        self.small += if grant.is_none() { query.bytes() } else { 0 };
        self.waiting.push_back((query, grant));
        self.begin();
    }

    /// Whether the peer may send more queries.
    pub(super) fn has_room(&self) -> bool {
        self.small < limits::SMALL_QUERY_BYTES
    }

    fn begin(&mut self) {
        if self.task.is_some() {
            return;
        }
        let Some((query, grant)) = self.waiting.pop_front() else { return };
        self.small -= if grant.is_none() { query.bytes() } else { 0 };
        let (reader, sender) = (self.reader.clone(), self.sender.clone());
        self.task = Some(tokio::spawn(async move {
            reader.answer(query, &sender).await;
            drop(grant);
        }));
    }

    /// Waits for the next piece of an answer; pends forever if there is no query.
    pub(super) async fn reply(&mut self) -> Option<AnswerPart> {
        let reply = self.replies.recv().await;
        if matches!(
            reply,
            Some(AnswerPart::Branches(..) | AnswerPart::Fetched(..) | AnswerPart::Failed(..))
        ) {
            self.task = None;
            self.begin();
        }
        reply
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct QueryReader {
    pages: Pages,
    /// Bounds concurrent digest reads by address, and charges addresses for the rows.
    digests: Turns,
}

/// Why an answer ends early.
enum Stop {
    Failed(StoreError),
    /// The session is gone.
    Gone,
}

impl QueryReader {
    async fn answer(&self, query: Query, replies: &mpsc::Sender<AnswerPart>) {
        let reply = match query {
            Query::Digest(requester, space, view, prefixes) => {
                let found = match view.documents().filter(|_| !view.is_unrestricted()) {
                    Some(documents) => self.branches_of(space, documents.clone(), prefixes).await,
                    None => self.branches(space, prefixes).await,
                };
                match found {
                    Ok((head, branches)) => AnswerPart::Branches(requester, head, branches),
                    Err(stop) => stop.reply(requester),
                }
            }
            Query::Fetch(requester, space, view, wants) => {
                let fetching = Fetching { reader: self, requester, space: &space, view, replies };
                match fetching.documents(wants).await {
                    Ok(()) => AnswerPart::Fetched(requester),
                    Err(stop) => stop.reply(requester),
                }
            }
        };
        // A session that is gone needs no answer.
        let _ = replies.send(reply).await;
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&dyn LogStore) -> Result<T, StoreError> + Send + Sync + 'static,
        bytes: fn(&T) -> usize,
    ) -> Result<(T, Grant), Stop> {
        self.pages.read(read, bytes).await.map_err(Stop::Failed)
    }

    /// Sums page by page, so that others read in between. If the log grows meanwhile, no single head is valid
    /// for all pages: the head is then 0, which no log with documents has.
    async fn branches(
        &self,
        space: SpaceName,
        prefixes: Vec<Prefix>,
    ) -> Result<(Offset, Vec<Branch>), Stop> {
        let prefixes: Arc<[Prefix]> = prefixes.into();
        let (mut all, mut cursor) = (Vec::with_capacity(prefixes.len()), SumCursor::default());
        let mut first = None;
        loop {
            let (space, prefixes) = (space.clone(), Arc::clone(&prefixes));
            let (digests, share) = (self.digests.clone(), self.pages.key().share);
            let read = move |store: &dyn LogStore| {
                let page =
                    store.branches(&space, &prefixes, cursor.clone(), limits::DIGEST_ROWS)?;
                // Inside the read, so that the rows are charged even if the session is gone by then.
                digests.spend(share, page.rows as u64);
                Ok(page)
            };
            let bytes = |page: &BranchPage| size_of_val(&page.branches[..]);
            let read = self.pages.read_after(Some(&self.digests), read, bytes).await;
            let (page, _room) = read.map_err(Stop::Failed)?;
            let head = *first.get_or_insert(page.head);
            first = Some(if head == page.head { head } else { Offset(0) });
            all.extend(page.branches);
            cursor = match page.next {
                Some(next) => next,
                None => return Ok((first.unwrap_or(page.head), all)),
            };
        }
    }

    /// As [`QueryReader::branches`], of the documents that the principal may read.
    async fn branches_of(
        &self,
        space: SpaceName,
        documents: Documents,
        prefixes: Vec<Prefix>,
    ) -> Result<(Offset, Vec<Branch>), Stop> {
        let (digests, share) = (self.digests.clone(), self.pages.key().share);
        let read = move |store: &dyn LogStore| {
            let page = store.branches_of(&space, &documents, &prefixes)?;
            digests.spend(share, page.rows as u64);
            Ok(page)
        };
        let bytes = |page: &BranchPage| size_of_val(&page.branches[..]);
        let read = self.pages.read_after(Some(&self.digests), read, bytes).await;
        let (page, _room) = read.map_err(Stop::Failed)?;
        Ok((page.head, page.branches))
    }
}

impl Stop {
    /// Returns itself, unless its cause is damage of one document only.
    fn unless_damage(self) -> Result<(), Self> {
        match &self {
            Self::Failed(error) if error.failure == StoreFailure::Damaged => Ok(()),
            _ => Err(self),
        }
    }

    fn reply(self, requester: Requester) -> AnswerPart {
        match self {
            Self::Failed(error) => {
                tracing::error!(error = error.chain(), "cannot answer a query");
                let (code, what) = error.for_client();
                AnswerPart::Failed(requester, code, what)
            }
            // No session receives it.
            Self::Gone => AnswerPart::Fetched(requester),
        }
    }
}

/// A fetch in progress.
struct Fetching<'a> {
    reader: &'a QueryReader,
    requester: Requester,
    space: &'a SpaceName,
    /// The documents that the principal may read.
    view: View,
    replies: &'a mpsc::Sender<AnswerPart>,
}

/// Looked up instead of a document that the principal may not read: no document has this id.
const NO_DOCUMENT: DocumentId = DocumentId::from_bytes([0; 16]);

impl Fetching<'_> {
    async fn documents(&self, wants: Vec<Want>) -> Result<(), Stop> {
        for want in wants {
            let document = want.document;
            if let Err(stop) = self.document(want).await {
                stop.unless_damage()?;
                // The document cannot be read at all. Report that, and answer the remaining ones.
                let (entry, grant) = self.damage(document, Offset(0)).await?;
                let (entry, holding) = ([entry], Holding::Present(Vec::new()));
                self.entries(document, &holding, &entry, true, grant).await?;
            }
        }
        Ok(())
    }

    async fn document(&self, want: Want) -> Result<(), Stop> {
        let Want { document, have } = want;
        // A document that may not be read gets the look-ups and the answer of one that does not exist.
        let is_readable = self.view.contains(&document);
        let looked_up = if is_readable { document } else { NO_DOCUMENT };
        for _ in 0..PLANS {
            let (space, have) = (self.space.clone(), have.clone());
            let plan = move |store: &dyn LogStore| store.plan_document(&space, &looked_up, &have);
            let bytes = |plan: &DocumentPlan| {
                let heads = match &plan.holding {
                    Holding::Present(heads) => size_of_val(&heads[..]),
                    Holding::Absent | Holding::Deleted => 0,
                };
                size_of_val(&plan.offsets[..]) + heads
            };
            // Returns the plan's memory before the answer reserves its own: one plan per session.
            let (plan, grant) = self.reader.read(plan, bytes).await?;
            drop(grant);
            let plan = if is_readable { plan } else { DocumentPlan::of_absent() };
            self.tell_damage(document, &plan.holding).await?;
            if self.planned(document, plan).await? {
                return Ok(());
            }
        }
        Err(Stop::Failed(StoreError::unsupported()))
    }

    /// Reports known damage of a document first, also to a peer that lacks nothing.
    async fn tell_damage(&self, document: DocumentId, holding: &Holding) -> Result<(), Stop> {
        let known = self.reader.pages.known_damage(self.space, &document);
        if known.is_none() || !matches!(holding, Holding::Present(_)) {
            return Ok(());
        }
        let (entry, grant) = self.damage(document, Offset(0)).await?;
        self.entries(document, holding, &[entry], false, grant).await
    }

    /// Sends the planned entries; false if a compaction removed some and the document must be planned again.
    /// Entries sent before that are sent twice, which is harmless.
    async fn planned(&self, document: DocumentId, plan: DocumentPlan) -> Result<bool, Stop> {
        let DocumentPlan { holding, snapshot, offsets } = plan;
        let mut rest = offsets;
        if let Some((hash, total, at)) = snapshot {
            let sent = match self.snapshot(hash, total).await {
                Err(stop) => {
                    stop.unless_damage()?;
                    Some(self.damage(document, at).await?)
                }
                sent => sent?,
            };
            let Some((entry, grant)) = sent else { return Ok(false) };
            self.entries(document, &holding, &[entry], rest.is_empty(), grant).await?;
            if rest.is_empty() {
                return Ok(true);
            }
        }
        loop {
            let (space, offsets) = (self.space.clone(), rest.clone());
            let read = move |store: &dyn LogStore| match offsets.is_empty() {
                true => Ok(Vec::new()),
                false => store.read_entries(&space, &document, &offsets),
            };
            let bytes = |entries: &Vec<EncodedEntry>| entries.iter().map(EncodedEntry::len).sum();
            let (entries, grant) = self.reader.read(read, bytes).await?;
            if entries.is_empty() && !rest.is_empty() {
                return Ok(false);
            }
            rest.drain(..entries.len());
            self.entries(document, &holding, &entries, rest.is_empty(), grant).await?;
            if rest.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Sends a snapshot's parts, if its body does not fit in its entry, and returns the entry; `None` if it
    /// no longer exists.
    async fn snapshot(
        &self,
        hash: [u8; 32],
        total: u64,
    ) -> Result<Option<(EncodedEntry, Grant)>, Stop> {
        let inline = total <= landfall_protocol::limits::SNAPSHOT_INLINE_BYTES as u64;
        if !inline && !self.parts(hash, total).await? {
            return Ok(None);
        }
        let space = self.space.clone();
        let read = move |store: &dyn LogStore| store.snapshot_entry(&space, &hash);
        let bytes = |entry: &Option<EncodedEntry>| entry.as_ref().map_or(0, EncodedEntry::len);
        let (entry, grant) = self.reader.read(read, bytes).await?;
        Ok(entry.map(|entry| (entry, grant)))
    }

    /// An entry that reports damage instead of content.
    async fn damage(
        &self,
        document: DocumentId,
        at: Offset,
    ) -> Result<(EncodedEntry, Grant), Stop> {
        let entry =
            move |_: &dyn LogStore| Ok(EncodedEntry::new(&Entry::of_damage(at, Some(document))));
        self.reader.read(entry, EncodedEntry::len).await
    }

    /// Sends a snapshot in parts; false if it no longer exists.
    async fn parts(&self, hash: [u8; 32], total: u64) -> Result<bool, Stop> {
        let mut from = 0;
        while from < total {
            let space = self.space.clone();
            let read = move |store: &dyn LogStore| store.snapshot_part(&space, &hash, from);
            let bytes = |part: &Option<SnapshotPart>| part.as_ref().map_or(0, |p| p.bytes.len());
            let (Some(part), grant) = self.reader.read(read, bytes).await? else {
                return Ok(false);
            };
            from += part.bytes.len() as u64;
            self.send(Session::part_frame(self.requester.0, part), grant).await?;
        }
        Ok(true)
    }

    /// Sends entries, and after the last of them the document's state: heads in as many frames as they need.
    async fn entries(
        &self,
        document: DocumentId,
        holding: &Holding,
        entries: &[EncodedEntry],
        last: bool,
        grant: Grant,
    ) -> Result<(), Stop> {
        let frame = |holding, entries, more| {
            Session::document_frame(self.requester.0, document, holding, entries, more)
        };
        let heads = match holding {
            Holding::Present(heads) => heads.as_slice(),
            Holding::Absent | Holding::Deleted => {
                return self.send(frame(holding.clone(), entries, !last), grant).await;
            }
        };
        let present = |heads: &[[u8; 32]]| Holding::Present(heads.to_vec());
        if last && heads.len() <= FEW_HEADS {
            return self.send(frame(present(heads), entries, false), grant).await;
        }
        self.send(frame(present(&[]), entries, true), grant).await?;
        for (page, some) in heads.chunks(shared::HEADS_PAGE).enumerate().filter(|_| last) {
            let more = (page + 1) * shared::HEADS_PAGE < heads.len();
            let grant = self.reader.pages.reserve(size_of_val(some)).await;
            self.send(frame(present(some), &[], more), grant).await?;
        }
        Ok(())
    }

    async fn send(&self, message: Vec<u8>, grant: Grant) -> Result<(), Stop> {
        let message = AnswerPart::Message(self.requester, message, grant);
        self.replies.send(message).await.map_err(|_| Stop::Gone)
    }
}

#[cfg(test)]
mod tests {
    use landfall_protocol::relay::{Commit, EpochRecord, NewEntry, NewKind};

    use std::time::Duration;

    use super::*;
    use crate::budgets::Budgets;
    use crate::memory::{Memory, ShareKey};
    use crate::store::{Log, SqliteStore};

    /// A store with `documents` deleted documents in one bucket of the digests.
    fn deleted(folder: &std::path::Path, space: &SpaceName, documents: u64) -> SqliteStore {
        let store = SqliteStore::open(folder).unwrap();
        let tombstone = |number: u64| {
            let mut id = [7; 16];
            id[8..].copy_from_slice(&number.to_be_bytes());
            let document = DocumentId::from_bytes(id);
            let entry = Entry::of_tombstone(Offset(number), document, b"me", 0);
            NewEntry { entry, kind: NewKind::Tombstone }
        };
        let epoch = landfall_protocol::Epoch::from_bytes([1; 16]);
        let opens = Some(EpochRecord { epoch, first: Offset(1), predecessor: None });
        let entries = (1..=documents).map(tombstone).collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        let commit = Arc::new(Commit { space: space.clone(), opens, entries });
        store.append(commit, Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv().unwrap().unwrap();
        store
    }

    #[tokio::test]
    async fn others_take_turns_between_the_pages_of_a_digest() {
        let folder = tempfile::tempdir().unwrap();
        let space: SpaceName = "notes".parse().unwrap();
        let documents = 20_000;
        let store = Arc::new(deleted(folder.path(), &space, documents));
        let account = Memory::new(0).account(ShareKey::Session(1));
        let turns = Turns::new(1);
        let pages = Pages::of(store, turns.clone(), account);
        let reader = QueryReader { pages, digests: Turns::new(1) };
        let bucket = Prefix::ROOT.child(0).child(7);
        let Ok((head, _)) = reader.branches(space, vec![bucket]).await else { panic!("no answer") };
        assert_eq!(head, Offset(documents));
        assert!(turns.asked() >= 2, "in one read of so many rows");
    }

    #[tokio::test]
    async fn an_address_is_charged_for_its_digest_rows_and_delays_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let space: SpaceName = "notes".parse().unwrap();
        let store: Arc<dyn LogStore> = Arc::new(deleted(folder.path(), &space, 100));
        // One row per second.
        let (memory, digests) = (Memory::new(0), Turns::within(1, Budgets::new(1, 10)));
        let reader = |share| {
            let account = memory.account(ShareKey::Session(share));
            let pages = Pages::of(Arc::clone(&store), Turns::new(2), account);
            QueryReader { pages, digests: digests.clone() }
        };
        let bucket = || vec![Prefix::ROOT.child(0).child(7)];
        assert!(reader(1).branches(space.clone(), bucket()).await.is_ok());
        assert!(digests.debt(ShareKey::Session(1)) > Duration::from_secs(60));
        // Another session of the same address.
        let again = tokio::spawn({
            let (reader, space) = (reader(1), space.clone());
            async move { reader.branches(space, bucket()).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(reader(2).branches(space, bucket()).await.is_ok());
        assert!(!again.is_finished());
        again.abort();
    }
}
