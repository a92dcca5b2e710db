//! The relay's state machines over the model of its log, driven in the relay's order. It knows no
//! client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use automerge::ReadDoc;
use landfall_protocol::Patience;
use landfall_protocol::admission::{CheckedChange, Roots, preflight};
use landfall_protocol::automerge_repo::chunks::{Carried, Chunks, carried};
use landfall_protocol::automerge_repo::message::Message;
use landfall_protocol::automerge_repo::peer::{
    EphemeralMessage, Host, MemoryAnswer, Peer, PeerEffect, Planned, Ticket,
};
use landfall_protocol::automerge_repo::plan::{SyncRequest, known};
use landfall_protocol::automerge_repo::sync::SyncMessage;
use landfall_protocol::code::{Code, NackClass};
use landfall_protocol::relay::{
    Author, CheckedPush, Commit, PendingPush, PushAnswer, PushVerdict, PushedEntry, Refusal, Space,
    StoreFailure,
};
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Moment, SessionId, limits};
use landfall_test_rng::Rng;

use crate::log::{Log, snapshot};

/// A relay process: the state that a restart loses, and its log.
pub struct Relay {
    pub log: Log,
    pub space: Space,
    pub sessions: BTreeMap<SessionId, Session>,
    writing: Option<Arc<Commit>>,
    /// Whole documents that wait to be opened.
    wholes: VecDeque<(PushedEntry, Vec<u8>)>,
    /// Documents with a whole document being committed, and the pushes that wait for it.
    busy: BTreeMap<DocumentId, VecDeque<PendingPush>>,
    next_session: u64,
    pub refused: Vec<(DocumentId, Code, usize)>,
    pub remote_heads: usize,
    /// Changes that this relay rejects, for a reason outside the protocol.
    pub unwanted: BTreeSet<ChangeHash>,
    /// Every n-th request for memory is denied; 0: none.
    pub denies: u64,
    /// The number of requests for memory.
    pub asked: u64,
}

/// A session and its messages in flight.
pub struct Session {
    pub peer: Peer,
    /// Messages to the client, in order.
    pub sent: VecDeque<Vec<u8>>,
    pub follows: BTreeSet<DocumentId>,
    jobs: VecDeque<Job>,
    plans: VecDeque<(Ticket, SyncRequest)>,
    /// A store answer that the session has not received yet.
    planned: Option<(Ticket, Planned)>,
    entries: VecDeque<(Arc<Commit>, usize)>,
    answers: VecDeque<PushAnswer>,
    /// The number of whole documents that were pushed.
    pub wholes: usize,
    pub ended: Option<(Code, String)>,
    pub said: Vec<EphemeralMessage>,
}

enum Job {
    Check(Ticket, Chunks),
    /// The last field: further changes of the same check follow.
    LookUp(Ticket, Vec<CheckedChange>, Vec<ChangeHash>, bool),
    Push(Box<PendingPush>),
    Whole(PushedEntry, Vec<u8>),
}

pub fn host() -> Host {
    Host { peer_id: "relay".into(), storage_id: "1fa52a3c-0000-8000-8000-000000000000".into() }
}

impl Relay {
    pub fn start(log: Log, fresh: [u8; 16]) -> Self {
        let name = "default".parse().unwrap();
        let space = Space::new(name, log.lineage(), Epoch::from_bytes(fresh));
        let (sessions, wholes, busy, refused, unwanted) = Default::default();
        let (writing, next_session, remote_heads, denies, asked) = (None, 1, 0, 0, 0);
        Self {
            log,
            space,
            sessions,
            writing,
            wholes,
            busy,
            next_session,
            refused,
            remote_heads,
            unwanted,
            denies,
            asked,
        }
    }

    pub fn accept(&mut self, now: Moment) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let peer = Peer::new(host(), Patience::default(), now);
        let (sent, follows, jobs, plans, entries, answers) = Default::default();
        let (wholes, ended, said) = (0, None, Vec::new());
        let session = Session {
            peer,
            sent,
            follows,
            jobs,
            plans,
            planned: None,
            entries,
            answers,
            wholes,
            ended,
            said,
        };
        self.sessions.insert(id, session);
        id
    }

    pub fn session(&mut self, id: SessionId) -> &mut Session {
        self.sessions.get_mut(&id).expect("it is open")
    }

    /// Calls a session's state machine, and then performs its effects.
    pub fn with(&mut self, id: SessionId, act: impl FnOnce(&mut Peer)) {
        if self.session(id).ended.is_some() {
            return;
        }
        act(&mut self.session(id).peer);
        while let Some(effect) = self.next_effect(id) {
            self.perform(id, effect);
        }
    }

    fn next_effect(&mut self, id: SessionId) -> Option<PeerEffect> {
        let (denies, asked) = (self.denies, &mut self.asked);
        self.sessions.get_mut(&id)?.peer.poll_effect_within(|_| {
            *asked += 1;
            match denies > 0 && asked.is_multiple_of(denies) {
                true => MemoryAnswer::NotNow,
                false => MemoryAnswer::There,
            }
        })
    }

    fn perform(&mut self, id: SessionId, effect: PeerEffect) {
        if let PeerEffect::Send(message) = &effect {
            self.judge(message);
        }
        let session = self.session(id);
        assert!(session.ended.is_none(), "an effect after the end: {effect:?}");
        match effect {
            PeerEffect::Send(message) => session.sent.push_back(message),
            PeerEffect::Ping => {}
            PeerEffect::Joined(_) => session.follows.clear(),
            PeerEffect::Follow(document) => assert!(session.follows.insert(document)),
            PeerEffect::Check(ticket, chunks) => session.jobs.push_back(Job::Check(ticket, chunks)),
            PeerEffect::Push(mut push) => {
                assert!(push.changes.len() <= limits::PUSH_CHANGES);
                let unwanted = |change: &CheckedChange| self.unwanted.contains(&change.hash);
                let cut = push.changes.iter().position(unwanted);
                push.changes.truncate(cut.unwrap_or(usize::MAX));
                let refusal = || Refusal::new(Code::COUNTER, NackClass::REFUSED, "no".into());
                let session = self.session(id);
                let push = CheckedPush {
                    session: id,
                    id: push.id,
                    document: push.document,
                    author: Author::of_all(Vec::new()),
                    changes: push.changes,
                    rest: cut.map(|_| refusal()),
                    roots: Roots::Several,
                };
                session.jobs.push_back(Job::Push(Box::new(PendingPush::new(push))));
            }
            PeerEffect::PushWhole { id: push, document, bytes } => {
                session.wholes += 1;
                let entry = PushedEntry {
                    session: id,
                    id: push,
                    document,
                    author: Author::of_all(Vec::new()),
                };
                session.jobs.push_back(Job::Whole(entry, bytes));
            }
            PeerEffect::Plan(ticket, question) => session.plans.push_back((ticket, question)),
            PeerEffect::Ephemeral(said) => session.said.push(said),
            PeerEffect::Refused { document, code, changes, .. } => {
                self.refused.push((document, code, changes));
            }
            PeerEffect::RemoteHeads(_) => self.remote_heads += 1,
            PeerEffect::Subscribe(_)
            | PeerEffect::Unsubscribe(_)
            | PeerEffect::Ignored(_)
            | PeerEffect::Resent { .. } => {}
            PeerEffect::End(code, what) => session.ended = Some((code, what)),
        }
    }

    /// Checks that a message names and carries durable changes only.
    fn judge(&self, message: &[u8]) {
        let message = Message::decode(message).unwrap();
        let Message::Sync(sync) = message else { return };
        let document = sync.document.parse().unwrap();
        let sync = SyncMessage::decode(sync.data).unwrap();
        for head in &sync.heads {
            assert!(self.log.contains(&document, head), "reported {head}, which is not durable");
        }
        assert!(sync.heads.is_sorted() && sync.need.is_sorted());
        if let Ok(Carried::Changes(mut chunks)) = carried(&sync) {
            while let Some(chunk) = chunks.take_next() {
                let hash = preflight(chunk).unwrap().hash;
                assert!(self.log.contains(&document, &hash), "sent {hash}, which is not durable");
            }
        }
    }

    /// Performs one random unit of work; false if there is none.
    pub fn step(&mut self, rng: &mut Rng) -> bool {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        let mut choices: Vec<(SessionId, u8)> = Vec::new();
        for id in ids {
            let session = &self.sessions[&id];
            if session.ended.is_some() {
                continue;
            }
            let ready = [
                !session.jobs.is_empty(),
                !session.plans.is_empty() || session.planned.is_some(),
                !session.entries.is_empty(),
                !session.answers.is_empty(),
            ];
            let of = ready.iter().zip(0..).filter(|(ready, _)| **ready);
            choices.extend(of.map(|(_, kind)| (id, kind)));
        }
        if self.writing.is_some() || self.can_commit() {
            choices.push((SessionId(0), 4));
        }
        if self.next_whole().is_some() {
            choices.push((SessionId(0), 5));
        }
        if choices.is_empty() {
            return false;
        }
        match choices[rng.below(choices.len())] {
            (id, 0) => self.work(id),
            (id, 1) => self.plan(id),
            (id, 2) => self.tell_entry(id),
            (id, 3) => self.tell_answer(id),
            (_, 4) if self.writing.is_none() => self.writing = self.space.poll_commit(),
            (_, 4) => self.finish_commit(true),
            _ => self.merge(),
        }
        true
    }

    fn can_commit(&self) -> bool {
        self.writing.is_none() && !self.space.is_idle()
    }

    fn work(&mut self, id: SessionId) {
        let Some(job) = self.session(id).jobs.pop_front() else { return };
        match job {
            Job::Check(ticket, mut chunks) => {
                let next = || chunks.take_next().map(preflight);
                let checked: Result<Vec<_>, _> = std::iter::from_fn(next).take(3).collect();
                let more = !chunks.is_empty();
                let unknown = match &checked {
                    Ok(changes) => self.session(id).peer.unfamiliar(ticket, changes),
                    Err(_) => Vec::new(),
                };
                if more {
                    self.session(id).jobs.push_front(Job::Check(ticket, chunks));
                }
                match checked {
                    Ok(changes) if !unknown.is_empty() => {
                        let next = Job::LookUp(ticket, changes, unknown, more);
                        self.session(id).jobs.push_front(next);
                    }
                    checked => {
                        self.with(id, |peer| peer.handle_checked(ticket, checked, &[], more));
                    }
                }
            }
            Job::LookUp(ticket, changes, unknown, more) => {
                let index = self.log.index(&ticket.document, true);
                let known = index.map_or(Vec::new(), |index| known(&index, &unknown).unwrap());
                self.with(id, |peer| peer.handle_checked(ticket, Ok(changes), &known, more));
            }
            Job::Push(pending_push) => self.push(*pending_push),
            Job::Whole(entry, bytes) => {
                self.busy.entry(entry.document).or_default();
                self.wholes.push_back((entry, bytes));
            }
        }
    }

    fn push(&mut self, pending_push: PendingPush) {
        if let Some(waiting) = self.busy.get_mut(&pending_push.document()) {
            return waiting.push_back(pending_push);
        }
        match self.space.handle_push(pending_push, &self.log, 0) {
            PushVerdict::Answered(answer) => self.answer([answer]),
            PushVerdict::Waits => {}
            PushVerdict::Stopped(_, never) => match never {},
        }
    }

    pub fn delete(&mut self, document: DocumentId) {
        let (session, author) = (SessionId(0), Author::of_all(Vec::new()));
        let push = PushedEntry { session, id: 1, document, author };
        let _ = self.space.handle_deletion(&push, &self.log, 0);
    }

    fn next_whole(&self) -> Option<usize> {
        let free = |(entry, _): &(PushedEntry, _)| !self.space.has_uncommitted(&entry.document);
        self.wholes.iter().position(free)
    }

    /// Opens a whole document with automerge itself, and commits its changes.
    fn merge(&mut self) {
        let at = self.next_whole().expect("there is one");
        let (entry, bytes) = self.wholes.remove(at).expect("there is one");
        let stored = self.log.documents.get(&entry.document);
        let mut automerge = stored.map_or_else(automerge::Automerge::new, |stored| stored.open());
        let before = automerge.get_heads();
        let opened = automerge.load_incremental(&bytes);
        let refusal = |code, class| Refusal::new(code, class, "not this whole document".into());
        let push_verdict = match opened {
            Err(_) => Err(refusal(Code::SNAPSHOT, NackClass::REFUSED)),
            Ok(_) if !automerge.get_missing_deps(&[]).is_empty() => {
                Err(refusal(Code::MISSING_DEPENDENCY, NackClass::REPUSH))
            }
            Ok(_) if automerge.get_heads() == before => {
                Ok(self.space.handle_duplicate_snapshot::<()>(&entry))
            }
            Ok(_) => {
                let snapshot = Arc::new(snapshot(&automerge));
                Ok(self.space.handle_snapshot(&entry, snapshot, 0))
            }
        };
        match push_verdict {
            Ok(PushVerdict::Waits) => return,
            Ok(PushVerdict::Answered(answer)) => self.answer([answer]),
            Ok(PushVerdict::Stopped(..)) => unreachable!("the model can be read"),
            Err(refusal) => self.answer([entry.refused(refusal)]),
        }
        self.free(&entry.document);
    }

    fn free(&mut self, document: &DocumentId) {
        let more = self.wholes.iter().any(|(entry, _)| entry.document == *document);
        let waiting = match more {
            true => self.busy.get_mut(document).map(std::mem::take),
            false => self.busy.remove(document),
        };
        let waiting = waiting.unwrap_or_default();
        waiting.into_iter().for_each(|pending_push| self.push(pending_push));
    }

    fn answer(&mut self, answers: impl IntoIterator<Item = PushAnswer>) {
        for answer in answers {
            if let Some(session) = self.sessions.get_mut(&answer.session) {
                session.answers.push_back(answer);
            }
        }
    }

    pub fn finish_commit(&mut self, succeeds: bool) {
        let Some(commit) = self.writing.take() else { return };
        if !succeeds {
            let answers = self.space.handle_commit_failed(StoreFailure::Full);
            self.answer(answers);
        } else {
            self.log.write(&commit);
            let outcome = self.space.handle_committed();
            for session in self.sessions.values_mut() {
                let entries = commit.entries.iter().enumerate();
                let followed =
                    entries.filter(|(_, new)| session.follows.contains(&new.entry.document));
                session.entries.extend(followed.map(|(at, _)| (Arc::clone(&commit), at)));
            }
            self.answer(outcome.answers);
        }
        let busy: Vec<DocumentId> = self.busy.keys().copied().collect();
        for id in busy {
            let waits = self.wholes.iter().any(|(entry, _)| entry.document == id);
            if !waits && !self.space.has_uncommitted(&id) {
                self.free(&id);
            }
        }
    }

    /// Reads the answer to a session's oldest query, or delivers the one that was read.
    fn plan(&mut self, id: SessionId) {
        if let Some((ticket, planned)) = self.session(id).planned.take() {
            return self.with(id, |peer| peer.handle_planned(ticket, planned));
        }
        let Some((ticket, question)) = self.session(id).plans.pop_front() else { return };
        let planned = self.log.answer(&ticket.document, &question);
        self.session(id).planned = Some((ticket, planned));
    }

    /// Reads the answer to a session's query from the log in its present state. It is delivered
    /// later.
    pub fn read_plan(&mut self, id: SessionId) {
        assert!(self.session(id).planned.is_none() && !self.session(id).plans.is_empty());
        self.plan(id);
    }

    pub fn tell_plan(&mut self, id: SessionId) {
        assert!(self.session(id).planned.is_some());
        self.plan(id);
    }

    /// Does all work except reading answers.
    pub fn settle_pushes(&mut self) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        loop {
            for id in &ids {
                while !self.session(*id).jobs.is_empty() {
                    self.work(*id);
                }
            }
            self.writing = self.writing.take().or_else(|| self.space.poll_commit());
            if self.writing.is_none() {
                return;
            }
            self.finish_commit(true);
            for id in &ids {
                while !self.session(*id).entries.is_empty() {
                    self.tell_entry(*id);
                }
                while !self.session(*id).answers.is_empty() {
                    self.tell_answer(*id);
                }
            }
        }
    }

    fn tell_entry(&mut self, id: SessionId) {
        let Some((commit, at)) = self.session(id).entries.pop_front() else { return };
        self.with(id, |peer| peer.handle_entry(&commit, at));
    }

    fn tell_answer(&mut self, id: SessionId) {
        while !self.session(id).entries.is_empty() {
            self.tell_entry(id);
        }
        let Some(answer) = self.session(id).answers.pop_front() else { return };
        self.with(id, |peer| peer.handle_answer(&answer));
    }

    /// Commits everything in flight, without reporting it to one session.
    pub fn commit_all_past(&mut self, deaf: SessionId) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().filter(|id| *id != deaf).collect();
        loop {
            for id in &ids {
                while !self.session(*id).jobs.is_empty() {
                    self.work(*id);
                }
            }
            self.writing = self.writing.take().or_else(|| self.space.poll_commit());
            if self.writing.is_none() {
                return self.overflow(deaf);
            }
            self.finish_commit(true);
        }
    }

    /// The session's mailbox overflowed: the entries in it are lost, and the session must read the
    /// store.
    pub fn overflow(&mut self, id: SessionId) {
        self.session(id).entries.clear();
        self.with(id, Peer::handle_behind);
    }

    /// The commit in progress fails, or the next one.
    pub fn fail_commit(&mut self) {
        if self.writing.is_none() {
            self.writing = self.space.poll_commit();
        }
        self.finish_commit(false);
    }
}
