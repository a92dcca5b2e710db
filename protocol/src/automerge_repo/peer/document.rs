//! The session's state of one document that its peer has open. It sends nothing and reads no store.

use std::collections::VecDeque;

use super::incoming::Incoming;
use crate::automerge_repo::plan::{Closing, SyncRequest};
use crate::automerge_repo::sync::{Have, SyncMessage};
use crate::heads::advance;
use crate::ids::{ChangeHash, Offset};
use crate::limits;
use crate::moment::Moment;
use crate::relay::NewEntry;

/// The document's durable state in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogState {
    /// The log has no entry of it.
    Absent,
    /// It was deleted.
    Deleted,
    /// The store's copy is damaged: nothing can be announced or sent.
    Damaged,
    /// It has changes.
    Present {
        /// Its heads, ascending.
        heads: Vec<ChangeHash>,
        /// The offset of its last entry.
        last: Offset,
    },
}

/// The store's answer to a [`SyncRequest`], from one read transaction.
#[derive(Debug, Clone)]
pub enum Planned {
    /// There is nothing to send: the document is not in the store, or the peer has exactly its
    /// heads.
    LogState(LogState),
    /// There is something to send.
    Answer {
        /// The document's heads, ascending.
        heads: Vec<ChangeHash>,
        /// The offset of its last entry.
        last: Offset,
        /// The peer's heads that the document does not have.
        unknown: Vec<ChangeHash>,
        /// The peer believes that both had something in common which is not here.
        lost: bool,
        /// The snapshot, if it must be sent, and then changes.
        chunks: Vec<Vec<u8>>,
        /// The end of the answer.
        closing: Closing,
    },
    /// The store could not be read.
    Failed,
}

/// Whether the peer waits for a document that the relay does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerWait {
    No,
    /// It asked; the relay answers `unavailable` after [`limits::REPO_REQUEST_WAIT`].
    Asked,
    /// The relay answered `unavailable`.
    Told,
}

/// The state of one document in a session.
#[derive(Debug)]
pub(super) struct Document {
    /// Its id as the client writes it.
    name: Box<str>,
    /// `None` until the store has been queried, and when it must be queried again.
    pub(super) standing: Option<LogState>,
    /// The peer's heads from its last message; `None` before the first.
    pub(super) theirs: Option<Vec<ChangeHash>>,
    /// The rest of that message (`have` and `need`), until it is answered.
    pub(super) question: Option<(Vec<Have>, Vec<ChangeHash>)>,
    pub(super) planning: bool,
    /// The store's answer under way will be out of date: drop it and query again.
    pub(super) stale: bool,
    /// The peer was sent everything up to here, or made it.
    pub(super) sent_through: Offset,
    /// The peer was sent everything: new entries are forwarded as they become durable.
    pub(super) caught_up: bool,
    /// The rest is sent after the peer's next message.
    pub(super) paging: bool,
    /// Recent entries, each with whether it is the peer's own. The others are forwarded.
    live: Vec<(NewEntry, bool)>,
    live_bytes: usize,
    /// See [`Document::count_live`].
    lives: usize,
    /// When entries were forwarded last, and whether the peer has sent anything since.
    sent_at: Option<(Moment, bool)>,
    /// The heads that were sent to the peer last.
    pub(super) told: Option<Vec<ChangeHash>>,
    /// The latest changes that are known to be in the log.
    recent: VecDeque<ChangeHash>,
    /// The peer's changes on their way into the log.
    pub(super) incoming: Incoming,
    pub(super) wanted: PeerWait,
    /// The peer's heads when it last requested everything.
    reset: Option<Vec<ChangeHash>>,
    /// The number of requests for the changes that the peer announces.
    pub(super) asks: u8,
    /// The number of repeated announcements of heads that the peer has already.
    reminded: u8,
    /// The number of changes that the peer has beyond those known to be common.
    announced: u32,
    /// Bytes of the filters of [`Document::question`].
    filters: usize,
    /// See [`Document::count_kept`].
    kept: usize,
    /// See [`Document::count_standing`].
    stands: usize,
    /// The peer accepts no changes.
    pub(super) read_only: bool,
    /// The relay has requested the peer's copy for repair, and has no answer yet.
    pub(super) is_asked: bool,
    /// The peer's heads that were reported to other sessions last.
    pub(super) gossiped: Option<Vec<ChangeHash>>,
}

impl Document {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            standing: None,
            theirs: None,
            question: None,
            planning: false,
            stale: false,
            sent_through: Offset(0),
            caught_up: false,
            paging: false,
            live: Vec::new(),
            live_bytes: 0,
            lives: 0,
            sent_at: None,
            told: None,
            recent: VecDeque::new(),
            incoming: Incoming::default(),
            wanted: PeerWait::No,
            reset: None,
            asks: 0,
            reminded: 0,
            announced: 0,
            filters: 0,
            kept: 0,
            stands: 0,
            read_only: false,
            is_asked: false,
            gossiped: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Applies a sync message of the peer; true if the peer begins to wait for the document.
    /// `asks`: the message is a `request`.
    pub(super) fn hear(&mut self, message: SyncMessage<'_>, asks: bool) -> bool {
        let SyncMessage { mut heads, need, have, chunks, flags } = message;
        heads.sort_unstable();
        self.read_only = flags.is_some_and(|flags| flags.read_only);
        self.announced = have.iter().map(|have| have.entries).max().unwrap_or_default();
        let forget = flags.is_some_and(|flags| flags.reset) || heads.is_empty();
        let asks_all = matches!(&have[..], [have] if *have == Have::default())
            && chunks.is_empty()
            && self.reset.as_ref() != Some(&heads);
        if forget || asks_all {
            // Once for the same heads: a peer that cannot apply what it is sent must not cause an
            // endless loop.
            self.reset = Some(heads.clone());
            (self.sent_through, self.caught_up) = (Offset(0), false);
            self.stale |= self.planning;
        }
        if self.theirs.as_ref() != Some(&heads) {
            (self.asks, self.reminded) = (0, 0);
        }
        // The peer has the announced heads, but names nothing as common: it has lost its sync
        // state. automerge itself would never send these heads again.
        let forgot = !forget
            && matches!(&have[..], [have] if have.last_sync.is_empty())
            && self.told.as_ref() == Some(&heads);
        if forgot && self.reminded < limits::REPO_ASKS {
            self.reminded += 1;
            self.told = None;
        }
        // Answers `unavailable` to every repeated request: another handle in the same application
        // may be waiting.
        let waits = match self.wanted {
            PeerWait::No => false,
            PeerWait::Asked => true,
            PeerWait::Told => !asks,
        };
        let begins = heads.is_empty() && !waits && !self.is_present();
        if begins {
            self.wanted = PeerWait::Asked;
        }
        if let Some((_, answered)) = &mut self.sent_at {
            *answered = true;
        }
        self.theirs = Some(heads);
        self.filters = have.iter().map(|have| have.bytes).sum();
        self.question = Some((have, need));
        self.paging = false;
        begins
    }

    fn is_present(&self) -> bool {
        matches!(self.standing, Some(LogState::Present { .. }))
    }

    /// Whether the peer has so many changes that it should send the document whole.
    pub(super) fn announces_much(&self) -> bool {
        self.announced >= limits::REPO_WHOLE_CHANGES
    }

    /// Bytes of the entries to forward.
    pub(super) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// The current bytes of the entries to forward, and those counted last.
    pub(super) fn count_live(&mut self) -> (usize, usize) {
        (self.live_bytes, std::mem::replace(&mut self.lives, self.live_bytes))
    }

    pub(super) fn has_live(&self) -> bool {
        !self.live.is_empty()
    }

    /// The deadline of a request has passed; true if the relay must answer `unavailable`.
    pub(super) fn give_up_request(&mut self) -> bool {
        let tells = self.wanted == PeerWait::Asked && !self.is_present();
        if tells {
            self.wanted = PeerWait::Told;
        }
        tells
    }

    /// The current bytes of the state kept from the peer's messages, and those counted last.
    pub(super) fn count_kept(&mut self) -> (usize, usize) {
        let heads = [&self.theirs, &self.told, &self.gossiped, &self.reset];
        let heads = heads.into_iter().flatten().map(Vec::len).sum::<usize>();
        let asked = self.question.as_ref().map_or(0, |(have, need)| {
            need.len() + have.iter().map(|have| have.last_sync.len()).sum::<usize>()
        });
        let filters = if self.question.is_some() { self.filters } else { 0 };
        let now = 32 * (heads + asked + self.incoming.rejected()) + filters;
        (now, std::mem::replace(&mut self.kept, now))
    }

    pub(super) fn question(&mut self) -> SyncRequest {
        let (have, need) = self.question.take().unwrap_or_default();
        let heads = self.theirs.clone().unwrap_or_default();
        SyncRequest { heads, have, need, sent_through: self.sent_through }
    }

    /// The current bytes of the durable heads, and those counted last.
    pub(super) fn count_standing(&mut self) -> (usize, usize) {
        let now = match &self.standing {
            Some(LogState::Present { heads, .. }) => 32 * heads.len(),
            _ => 0,
        };
        (now, std::mem::replace(&mut self.stands, now))
    }

    /// Drops the cached state: the store is queried before the next message.
    pub(super) fn forget_standing(&mut self) {
        if matches!(self.standing, Some(LogState::Deleted | LogState::Damaged)) {
            return;
        }
        self.stale = self.planning;
        self.standing = None;
        self.clear_live();
        self.caught_up = false;
        self.question.get_or_insert_default();
    }

    pub(super) fn delete(&mut self) {
        self.close(LogState::Deleted);
    }

    /// Sends nothing more about the document. Only [`Document::reopen`] ends this.
    pub(super) fn close(&mut self, standing: LogState) {
        self.standing = Some(standing);
        self.clear_live();
        self.question = None;
    }

    /// A document closed as damaged can be read again: query the store, if the peer has sent
    /// anything.
    pub(super) fn reopen(&mut self) {
        self.standing = None;
        self.caught_up = false;
        if self.theirs.is_some() {
            self.question.get_or_insert_default();
        }
    }

    /// Sends nothing more about the document, and drops the state kept from the peer's messages.
    pub(super) fn let_go(&mut self) {
        self.close(LogState::Damaged);
        (self.theirs, self.told, self.gossiped, self.reset) = (None, None, None, None);
        self.incoming.forget_rejected();
    }

    fn clear_live(&mut self) {
        self.live = Vec::new();
        self.live_bytes = 0;
    }

    /// A change became durable.
    pub(super) fn add_entry(&mut self, new: &NewEntry) {
        let entry = &new.entry;
        let hash = ChangeHash(entry.id);
        let is_own = self.incoming.take_durable(&hash);
        self.note(hash);
        let Some(standing) = &mut self.standing else {
            // The state is unknown, but the query under way may have read it before this entry.
            if self.planning {
                self.keep_live(new, is_own);
            }
            return;
        };
        let (mut heads, last) = match standing {
            LogState::Present { heads, last } => (std::mem::take(heads), *last),
            LogState::Absent => (Vec::new(), Offset(0)),
            LogState::Deleted | LogState::Damaged => return,
        };
        if entry.offset <= last {
            *standing = LogState::Present { heads, last };
            return;
        }
        advance(&mut heads, entry.dependencies.iter().copied().map(ChangeHash), hash);
        *standing = LogState::Present { heads, last: entry.offset };
        if self.planning || !is_own || self.has_live() || !self.caught_up {
            self.keep_live(new, is_own);
        } else {
            self.sent_through = entry.offset;
        }
    }

    /// Keeps a copy: the commit may hold many other documents, and be large.
    fn keep_live(&mut self, new: &NewEntry, is_own: bool) {
        let NewEntry { entry, .. } = new;
        let bytes = entry.body.len() + 32 * entry.dependencies.len();
        self.live_bytes += bytes + limits::REPO_LIVE_OVERHEAD_BYTES;
        if self.live_bytes > limits::REPO_CHANGES_BYTES {
            return self.forget_standing();
        }
        self.live.push((new.clone(), is_own));
    }

    /// The earliest time to forward entries.
    pub(super) fn due(&self) -> Moment {
        match self.sent_at {
            None => Moment::default(),
            Some((at, true)) => at.after(limits::REPO_PACE),
            Some((at, false)) => at.after(limits::REPO_UNANSWERED),
        }
    }

    /// Records that entries were forwarded at `now`.
    pub(super) fn note_sent(&mut self, now: Moment) {
        self.sent_at = Some((now, false));
    }

    /// Takes the recent entries of others: everything that a peer with all older entries lacks.
    pub(super) fn take_live(&mut self) -> Vec<NewEntry> {
        self.live_bytes = 0;
        let live = std::mem::take(&mut self.live);
        live.into_iter().filter(|(_, is_own)| !is_own).map(|(new, _)| new).collect()
    }

    pub(super) fn note(&mut self, hash: ChangeHash) {
        if self.recent.contains(&hash) {
            return;
        }
        if self.recent.len() == limits::REPO_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(hash);
    }

    /// Whether a change is known to be in the log, or in a push ahead of the next one. False also
    /// when nothing is known.
    pub(super) fn is_familiar(&self, hash: &ChangeHash) -> bool {
        self.incoming.is_pushed(hash) || self.is_durable(hash)
    }

    /// Whether a change is known to be durable. False also when nothing is known.
    pub(super) fn is_durable(&self, hash: &ChangeHash) -> bool {
        let among_heads = match &self.standing {
            Some(LogState::Present { heads, .. }) => heads.binary_search(hash).is_ok(),
            _ => false,
        };
        among_heads || self.recent.contains(hash)
    }

    /// The peer's heads that are known to be durable.
    pub(super) fn durable_heads(&self) -> Vec<ChangeHash> {
        self.theirs.iter().flatten().filter(|head| self.is_durable(head)).copied().collect()
    }

    /// Applies the state that the store returned. Newer entries that arrived during the query stay.
    pub(super) fn stand(&mut self, heads: Vec<ChangeHash>, last: Offset) {
        heads.iter().rev().take(limits::REPO_RECENT / 2).for_each(|head| self.note(*head));
        self.standing = Some(LogState::Present { heads, last });
        self.replay();
    }

    /// Records that the store has no entry of the document; entries that arrived during the query
    /// are applied.
    pub(super) fn stand_absent(&mut self) {
        self.standing = Some(LogState::Absent);
        self.caught_up = true;
        self.replay();
    }

    fn replay(&mut self) {
        self.live_bytes = 0;
        for (new, is_own) in std::mem::take(&mut self.live) {
            if is_own {
                self.incoming.restore(ChangeHash(new.entry.id));
            }
            self.add_entry(&new);
        }
    }
}
