//! The relay's machines over a model of its log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use landfall_protocol::Patience;
use landfall_protocol::access::{Principal, View};
use landfall_protocol::admission::Work;
use landfall_protocol::code::{Code, NackClass};
use landfall_protocol::digest::Prefix;
use landfall_protocol::frame::{EncodedEntry, Holding, SubscriptionId, Want, encode, entry_kind};
use landfall_protocol::relay::{
    Author, CheckedPush, Chunk, Commit, PendingPush, PushAnswer, PushVerdict, PushedEntry, Refusal,
    Ring, Session, SessionEffect, Snapshot, SnapshotUpload, Space, StoreFailure, UncheckedPush,
};
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Moment, ReplicaId, SessionId, SpaceName};

pub use crate::disk::Disk;
use crate::disk::Piece;
use crate::model;

/// A relay process: the state that a restart loses.
pub struct Relay {
    pub disk: Disk,
    pub space: Space,
    pub ring: Ring,
    pub sessions: BTreeMap<SessionId, Connection>,
    /// The commit that the disk is writing.
    pub writing: Option<Arc<Commit>>,
    /// Incomplete snapshot uploads.
    uploads: BTreeMap<(DocumentId, [u8; 32]), Vec<u8>>,
    /// Documents whose snapshot is being merged or committed, and the work that waits for it.
    busy: BTreeMap<DocumentId, Busy>,
    name: SpaceName,
    next_session: u64,
    /// The principals of the replicas; every other replica may do everything.
    pub principals: BTreeMap<ReplicaId, Arc<Principal>>,
}

/// One session and its messages to the client.
pub struct Connection {
    pub session: Session,
    pub sent: VecDeque<Vec<u8>>,
    subscriptions: BTreeSet<SubscriptionId>,
    /// Fetches with unread documents.
    fetches: VecDeque<((SubscriptionId, u64), View, VecDeque<Want>)>,
}

struct Busy {
    /// The upload to merge once the document has nothing in progress.
    merge: Option<(PushedEntry, Vec<u8>)>,
    waiting: VecDeque<Job>,
}

enum Job {
    Push(Box<PendingPush>),
    Deletion(PushedEntry),
    Snapshot(PushedEntry, Vec<u8>),
}

impl Job {
    fn document(&self) -> DocumentId {
        match self {
            Self::Push(pending_push) => pending_push.document(),
            Self::Deletion(push) | Self::Snapshot(push, _) => push.document,
        }
    }
}

impl Relay {
    pub fn start(disk: Disk, name: &SpaceName, fresh: [u8; 16]) -> Self {
        let space = Space::new(name.clone(), disk.lineage(), Epoch::from_bytes(fresh));
        // A ring so small that sessions are often behind it.
        let ring = Ring::new(disk.head, 2_000);
        let (sessions, uploads, busy) = Default::default();
        let (name, next_session) = (name.clone(), 1);
        let (writing, principals) = (None, BTreeMap::new());
        Self { disk, space, ring, sessions, writing, uploads, busy, name, next_session, principals }
    }

    pub fn accept(&mut self, now: Moment) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let patience = Patience::default();
        let session = Session::new(id, self.disk.upstream, "model".into(), patience, now);
        let (sent, subscriptions, fetches) = Default::default();
        self.sessions.insert(id, Connection { session, sent, subscriptions, fetches });
        id
    }

    /// Handles a message from the client; false if the session ended.
    pub fn handle(&mut self, now: Moment, id: SessionId, message: &[u8]) -> bool {
        let Some(connection) = self.sessions.get_mut(&id) else { return false };
        connection.session.handle_message(now, message);
        self.drain(now, id)
    }

    fn drain(&mut self, now: Moment, id: SessionId) -> bool {
        loop {
            let Some(connection) = self.sessions.get_mut(&id) else { return false };
            let Some(effect) = connection.session.poll_effect() else { return true };
            if matches!(effect, SessionEffect::End(_)) {
                self.sessions.remove(&id);
                return false;
            }
            self.perform(now, id, effect);
        }
    }

    fn perform(&mut self, now: Moment, id: SessionId, effect: SessionEffect) {
        let Some(connection) = self.sessions.get_mut(&id) else { return };
        match effect {
            SessionEffect::Identify { .. } => {
                let replica = connection.session.replica().expect("a hello arrived");
                let principal = self.principals.get(&replica).cloned();
                let principal = principal.unwrap_or_else(|| Arc::new(Principal::open()));
                connection.session.handle_identified(Ok(principal), None);
            }
            SessionEffect::Send(frame) => connection.sent.push_back(encode(&frame)),
            SessionEffect::Attach { subscription, cursor, acknowledged, scope, holds, .. } => {
                let lineage = self.space.lineage();
                let resume = lineage.resume(cursor, acknowledged, scope);
                let resume = resume.filter(|_| cursor.is_some() || !holds);
                let (epoch, head) = (lineage.epoch(), lineage.head());
                connection.session.handle_attached(subscription, epoch, head, resume);
                connection.subscriptions.insert(subscription);
            }
            SessionEffect::Detach(subscription) => {
                connection.subscriptions.remove(&subscription);
            }
            SessionEffect::Push { space, author, push } => {
                assert_eq!(space, self.name);
                let checked = UncheckedPush::new(id, author, push).check(&mut Work::default());
                self.push(now, Job::of(checked));
            }
            SessionEffect::PushEntry { author, entry, .. } if entry.kind == entry_kind::CHANGE => {
                let checked =
                    UncheckedPush::of_entry(id, author, entry).check(&mut Work::default());
                self.push(now, Job::of(checked));
            }
            SessionEffect::PushEntry { author, entry, .. } => {
                let push = PushedEntry { author, ..pushed(id, entry.id, entry.document) };
                self.push(now, Job::Deletion(push));
            }
            SessionEffect::SnapshotUpload { upload, .. } => self.tell_wanted(now, id, &upload),
            SessionEffect::Part { upload, from, bytes, .. } => {
                let stored = self.uploads.entry((upload.document, upload.hash)).or_default();
                if stored.len() as u64 == from {
                    stored.extend_from_slice(&bytes);
                }
                self.tell_wanted(now, id, &upload);
            }
            SessionEffect::Digest { subscription, ticket, view, prefixes, .. } => {
                let branch = |prefix: &Prefix| self.disk.branch_of(*prefix, &view);
                let branches = prefixes.iter().map(branch).collect();
                let head = self.disk.head;
                connection.session.handle_branches(subscription, ticket, head, branches);
            }
            SessionEffect::Fetch { subscription, ticket, view, wants, .. } => {
                connection.fetches.push_back(((subscription, ticket), view, wants.into()));
            }
            // These tests send no ephemeral messages.
            SessionEffect::Listen { .. }
            | SessionEffect::Refiltered { .. }
            | SessionEffect::Ephemeral { .. }
            | SessionEffect::Resent { .. } => {}
            SessionEffect::End(_) => unreachable!("handled before"),
        }
    }

    /// Asks for more of an upload, or accepts a complete one.
    fn tell_wanted(&mut self, now: Moment, id: SessionId, upload: &SnapshotUpload) {
        let key = (upload.document, upload.hash);
        let there = self.uploads.get(&key).map_or(0, |upload| upload.len() as u64);
        if there < upload.total {
            let connection = self.sessions.get_mut(&id).expect("it asked");
            return connection.session.handle_upload_offset(upload.id, there);
        }
        let bytes = self.uploads.remove(&key).expect("all of it is there");
        let connection = self.sessions.get_mut(&id).expect("it asked");
        assert!(connection.session.handle_upload_complete(upload.id), "it was awaited");
        let session = self.sessions.get(&id).map(|connection| &connection.session);
        let author = session.and_then(|session| session.author(&self.name, &upload.document));
        let Some(author) = author else { return };
        let push = PushedEntry { author, ..pushed(id, upload.id, upload.document) };
        if model::sha256(&bytes) != upload.hash {
            let what = "bytes that do not have its hash".to_owned();
            let refusal = Refusal::new(Code::SNAPSHOT, NackClass::REFUSED, what);
            return self.answer(now, [push.refused(refusal)]);
        }
        self.push(now, Job::Snapshot(push, bytes));
    }

    /// Compacts the first `count` changes of a document's tail.
    pub fn compact(&mut self, document: &DocumentId, count: usize) {
        if let Some(through) = self.disk.compactable(document, count) {
            self.ring.forget_through(through);
            self.disk.compact(document, through);
        }
    }

    /// Drops incomplete uploads, for lack of room.
    pub fn drop_uploads(&mut self) {
        self.uploads.clear();
    }

    fn push(&mut self, now: Moment, job: Job) {
        let document = job.document();
        if let Some(busy) = self.busy.get_mut(&document) {
            return busy.waiting.push_back(job);
        }
        let push_verdict = match job {
            Job::Push(pending_push) => self.space.handle_push(*pending_push, &self.disk, 0),
            Job::Deletion(push) => {
                let Ok(push_verdict) = self.space.handle_deletion(&push, &self.disk, 0);
                push_verdict
            }
            Job::Snapshot(push, bytes) => {
                let busy = Busy { merge: Some((push, bytes)), waiting: VecDeque::new() };
                self.busy.insert(document, busy);
                return;
            }
        };
        self.push_verdict(now, push_verdict);
    }

    fn push_verdict(&mut self, now: Moment, push_verdict: PushVerdict<Infallible>) {
        match push_verdict {
            PushVerdict::Answered(answer) => self.answer(now, [answer]),
            PushVerdict::Waits => {}
            PushVerdict::Stopped(_, never) => match never {},
        }
    }

    /// Merges the uploads whose documents have nothing in progress, and resumes the work that
    /// waited for a now durable snapshot.
    pub fn merge(&mut self, now: Moment) -> bool {
        let free = |id: &&DocumentId| !self.space.has_uncommitted(id);
        let Some(id) = self.busy.keys().find(free).copied() else { return false };
        match self.busy.get_mut(&id).and_then(|busy| busy.merge.take()) {
            Some((push, bytes)) => self.merge_one(now, &push, &bytes),
            None => {
                let waiting = self.busy.remove(&id).map(|busy| busy.waiting);
                waiting.into_iter().flatten().for_each(|job| self.push(now, job));
            }
        }
        true
    }

    fn merge_one(&mut self, now: Moment, push: &PushedEntry, bytes: &[u8]) {
        let Ok(refusal) = self.space.upload_refusal(&self.disk, push);
        if let Some(refusal) = refusal {
            return self.answer(now, [push.refused(refusal)]);
        }
        let document = self.disk.documents.get(&push.document);
        let held = document.into_iter().flat_map(|document| document.changes());
        let mut changes: Vec<_> = held.map(|(_, change)| change.clone()).collect();
        let known: BTreeSet<ChangeHash> = changes.iter().map(|change| change.hash).collect();
        let offered = model::decode(bytes);
        if !known.is_empty() && offered.iter().all(|change| !known.contains(&change.hash)) {
            let what = "the two share nothing".to_owned();
            let refusal = Refusal::new(Code::UNRELATED, NackClass::REFUSED, what);
            return self.answer(now, [push.refused(refusal)]);
        }
        changes.extend(offered.into_iter().filter(|change| !known.contains(&change.hash)));
        let push_verdict = match changes.len() == known.len() {
            true => self.space.handle_duplicate_snapshot(push),
            false => {
                let snapshot = Arc::new(snapshot(&changes));
                self.space.handle_snapshot(push, snapshot, 0)
            }
        };
        self.push_verdict(now, push_verdict);
    }

    fn answer(&mut self, now: Moment, answers: impl IntoIterator<Item = PushAnswer>) {
        for answer in answers {
            let id = answer.session;
            if let Some(connection) = self.sessions.get_mut(&id) {
                connection.session.handle_answer(now, answer);
                self.drain(now, id);
            }
        }
    }

    /// Hands the next commit to the disk, if there is one.
    pub fn begin_commit(&mut self) -> bool {
        if self.writing.is_none() {
            self.writing = self.space.poll_commit();
        }
        self.writing.is_some()
    }

    /// The disk finishes what it is writing.
    pub fn finish_commit(&mut self, now: Moment, succeeds: bool) {
        let Some(commit) = self.writing.take() else { return };
        if !succeeds {
            let answers = self.space.handle_commit_failed(StoreFailure::Full);
            return self.answer(now, answers);
        }
        self.disk.write(&commit);
        let outcome = self.space.handle_committed();
        if let Some((epoch, entries)) = outcome.publish {
            self.ring.publish(epoch, entries);
        }
        self.answer(now, outcome.answers);
    }

    /// Feeds a session one piece, from the ring or else from the disk.
    pub fn feed(&mut self, id: SessionId) -> bool {
        let Some(connection) = self.sessions.get_mut(&id) else { return false };
        let session = &mut connection.session;
        for subscription in connection.subscriptions.clone() {
            let Some(after) = session.position(subscription) else { continue };
            let Some(view) = session.view(subscription).cloned() else { continue };
            let before = session.partial(subscription);
            let live = self.ring.page(after).map(Chunk::Entries);
            let message = match live.or_else(|| self.disk.next(after, &view, before)) {
                None => continue,
                Some(Chunk::Entries(page)) => session.handle_page(subscription, &page),
                Some(Chunk::Part(part)) => session.handle_snapshot_part(subscription, part),
            };
            // The session may report that the peer has the snapshot already.
            let moved = message.is_some() || session.partial(subscription) != before;
            connection.sent.extend(message);
            if moved {
                return true;
            }
        }
        self.drain(Moment::default(), id);
        false
    }

    /// Reads the next document of a session's fetches.
    pub fn fetch(&mut self, now: Moment, id: SessionId) -> bool {
        let Some(connection) = self.sessions.get_mut(&id) else { return false };
        let Some((requester, view, wants)) = connection.fetches.front_mut() else { return false };
        let (subscription, ticket) = *requester;
        let Some(want) = wants.pop_front() else {
            connection.fetches.pop_front();
            connection.session.handle_fetched(subscription, ticket);
            self.drain(now, id);
            return true;
        };
        let have: Vec<ChangeHash> = want.have.into_iter().map(ChangeHash).collect();
        let (holding, pieces) = match view.contains(&want.document) {
            true => self.disk.plan(&want.document, &have),
            false => (Holding::Absent, Vec::new()),
        };
        let frame = |entries: &[EncodedEntry], more| {
            Session::document_frame(subscription, want.document, holding.clone(), entries, more)
        };
        let mut entries = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Part(part) => {
                    connection.sent.push_back(Session::part_frame(subscription, part));
                }
                Piece::Entry(entry) if entries.len() < 2 => {
                    entries.push(EncodedEntry::new(&entry));
                }
                Piece::Entry(entry) => {
                    connection.sent.push_back(frame(&entries, true));
                    entries = vec![EncodedEntry::new(&entry)];
                }
            }
        }
        connection.sent.push_back(frame(&entries, false));
        true
    }

    /// Whether only the sessions' timeouts are left.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.space.is_idle()
    }
}

impl Job {
    fn of(checked: CheckedPush) -> Self {
        Self::Push(Box::new(PendingPush::new(checked)))
    }
}

fn pushed(session: SessionId, id: u64, document: DocumentId) -> PushedEntry {
    PushedEntry { session, id, document, author: Author::of_all(vec![1; 16]) }
}

fn snapshot(changes: &[landfall_protocol::admission::CheckedChange]) -> Snapshot {
    let body = model::encode(changes);
    let heads = model::heads(changes);
    let max_op = |head: &ChangeHash| changes.iter().find(|c| c.hash == *head).unwrap().max_op;
    Snapshot {
        hash: model::sha256(&body),
        heads: heads.iter().map(|head| (*head, max_op(head))).collect(),
        actors: Vec::new(),
        changes: changes.len() as u64,
        operations: 0,
        body,
        packed: Vec::new(),
    }
}
