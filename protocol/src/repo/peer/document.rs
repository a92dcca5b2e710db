//! What a session knows of one document that its peer has open.

use std::collections::{BTreeSet, VecDeque};

use super::pen::Pen;
use crate::admission::CheckedChange;
use crate::heads::advance;
use crate::ids::{ChangeHash, Offset};
use crate::limits;
use crate::moment::Moment;
use crate::repo::plan::{Closing, Question};
use crate::repo::sync::{Have, SyncMessage};
use crate::space::NewEntry;

/// Where a document stands in the log. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// There is nothing of it.
    Absent,
    /// It was deleted.
    Deleted,
    /// What the store has of it is damaged: nothing can be said of it.
    Damaged,
    /// It has changes.
    Present {
        /// Its heads, ascending.
        heads: Vec<ChangeHash>,
        /// The offset of its last entry.
        last: Offset,
    },
}

/// What the store says to a [`Question`], read in one go.
#[derive(Debug, Clone)]
pub enum Planned {
    /// There is nothing to send: the document is not here, or the peer has exactly its heads.
    Standing(Standing),
    /// What is to be sent.
    Answer {
        /// The document's heads, ascending.
        heads: Vec<ChangeHash>,
        /// The offset of its last entry.
        last: Offset,
        /// Heads of the peer that the document does not have.
        unknown: Vec<ChangeHash>,
        /// The peer believes that both had something in common which is not here.
        lost: bool,
        /// The snapshot, if it is to be sent, and then changes.
        chunks: Vec<Vec<u8>>,
        /// What closes the answer.
        closing: Closing,
    },
    /// The store could not be read.
    Failed,
}

/// Whether the peer waits for a document that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    No,
    /// It asked, and is told soon that nobody has it.
    Asked,
    /// It was told so.
    Told,
}

/// The state of a document.
#[derive(Debug)]
pub(super) struct Document {
    /// Its id as the client writes it.
    name: Box<str>,
    /// `None` until the store was asked, and when it must be asked again.
    pub(super) standing: Option<Standing>,
    /// The peer's heads, as it said last; `None` before it said anything.
    pub(super) theirs: Option<Vec<ChangeHash>>,
    /// What it said with them, until that is answered.
    pub(super) question: Option<(Vec<Have>, Vec<ChangeHash>)>,
    /// Checks and pushes of the peer's changes that are under way.
    pub(super) checks: u32,
    pub(super) pushes: u32,
    /// Changes of the peer's own that are pushed and not answered.
    pub(super) own: BTreeSet<ChangeHash>,
    pub(super) planning: bool,
    /// What the store says is out of date before it comes.
    pub(super) stale: bool,
    /// Everything up to here was sent to the peer, or is its own.
    pub(super) sent_through: Offset,
    /// Everything there is was sent: what becomes durable is passed on as it comes.
    pub(super) caught_up: bool,
    /// The rest is sent when the peer has answered.
    pub(super) paging: bool,
    /// Entries that came lately, and whether they are the peer's own; others are to be passed on.
    live: Vec<(NewEntry, bool)>,
    live_bytes: usize,
    /// See [`Document::count_live`].
    lives: usize,
    /// When news were sent last, and whether the peer has said something since.
    sent_at: Option<(Moment, bool)>,
    /// The heads that the peer was told last.
    pub(super) told: Option<Vec<ChangeHash>>,
    /// The latest changes that are known to be in the log.
    recent: VecDeque<ChangeHash>,
    pub(super) pen: Pen,
    /// Changes that were refused, and those that rest on them.
    pub(super) refused: BTreeSet<ChangeHash>,
    /// Pushes up to this one were judged while the rest of another, which was refused in its middle,
    /// was not pushed again yet.
    pub(super) cut: u64,
    /// Changes that lack what may be refused in another push: to be sorted when that is known.
    pub(super) again: Vec<CheckedChange>,
    pub(super) wanted: Wanted,
    /// The heads with which the peer asked for everything last.
    reset: Option<Vec<ChangeHash>>,
    /// How often the peer was asked for what it announces.
    pub(super) asks: u8,
    /// How often it was told once more that it has what there is.
    reminded: u8,
    /// How many changes the peer says to have beyond what it knows to be common.
    announced: u32,
    /// Bytes of the filters of [`Document::question`].
    filters: usize,
    /// See [`Document::count_kept`].
    kept: usize,
    /// See [`Document::count_standing`].
    stands: usize,
    /// The peer takes no changes.
    pub(super) read_only: bool,
    /// The peer was asked for what the relay has lost, and has not answered.
    pub(super) is_asked: bool,
    /// Heads that others were told of as the peer's.
    pub(super) gossiped: Option<Vec<ChangeHash>>,
}

impl Document {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            standing: None,
            theirs: None,
            question: None,
            checks: 0,
            pushes: 0,
            own: BTreeSet::new(),
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
            pen: Pen::default(),
            refused: BTreeSet::new(),
            cut: 0,
            again: Vec::new(),
            wanted: Wanted::No,
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

    /// Takes in what the peer says; true if it begins to wait for the document. `asks`: it says so
    /// itself, by a `request`.
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
            // Once for the same heads: who cannot take what it is sent must not be sent it for ever.
            self.reset = Some(heads.clone());
            (self.sent_through, self.caught_up) = (Offset(0), false);
            self.stale |= self.planning;
        }
        if self.theirs.as_ref() != Some(&heads) {
            (self.asks, self.reminded) = (0, 0);
        }
        // It has what there is and was told so, and says that nothing is known to be common: it has
        // forgotten. automerge would leave it so.
        let forgot = !forget
            && matches!(&have[..], [have] if have.last_sync.is_empty())
            && self.told.as_ref() == Some(&heads);
        if forgot && self.reminded < limits::REPO_ASKS {
            self.reminded += 1;
            self.told = None;
        }
        // Who was told that nobody has it, and asks again, is told again: it may be another part of
        // the application, which has heard nothing yet.
        let waits = match self.wanted {
            Wanted::No => false,
            Wanted::Asked => true,
            Wanted::Told => !asks,
        };
        let begins = heads.is_empty() && !waits && !self.is_present();
        if begins {
            self.wanted = Wanted::Asked;
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
        matches!(self.standing, Some(Standing::Present { .. }))
    }

    /// Whether the peer has so many changes that sending them one by one would be a waste.
    pub(super) fn announces_much(&self) -> bool {
        self.announced >= limits::REPO_WHOLE_CHANGES
    }

    /// Bytes of what came lately and is to be passed on.
    pub(super) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// The same, as they are now, and as they were last counted.
    pub(super) fn count_live(&mut self) -> (usize, usize) {
        (self.live_bytes, std::mem::replace(&mut self.lives, self.live_bytes))
    }

    pub(super) fn has_live(&self) -> bool {
        !self.live.is_empty()
    }

    /// The wait is over; true if the peer is to be told that nobody has the document.
    pub(super) fn give_up_request(&mut self) -> bool {
        let tells = self.wanted == Wanted::Asked && !self.is_present();
        if tells {
            self.wanted = Wanted::Told;
        }
        tells
    }

    /// Bytes of what is kept of the peer's words, as they are now, and as they were last counted.
    pub(super) fn count_kept(&mut self) -> (usize, usize) {
        let heads = [&self.theirs, &self.told, &self.gossiped, &self.reset];
        let heads = heads.into_iter().flatten().map(Vec::len).sum::<usize>();
        let asked = self.question.as_ref().map_or(0, |(have, need)| {
            need.len() + have.iter().map(|have| have.last_sync.len()).sum::<usize>()
        });
        let filters = if self.question.is_some() { self.filters } else { 0 };
        let now = 32 * (heads + asked + self.refused.len()) + filters;
        (now, std::mem::replace(&mut self.kept, now))
    }

    pub(super) fn question(&mut self) -> Question {
        let (have, need) = self.question.take().unwrap_or_default();
        let heads = self.theirs.clone().unwrap_or_default();
        Question { heads, have, need, sent_through: self.sent_through }
    }

    /// Bytes of where it stands, as it is now, and as it was last counted.
    pub(super) fn count_standing(&mut self) -> (usize, usize) {
        let now = match &self.standing {
            Some(Standing::Present { heads, .. }) => 32 * heads.len(),
            _ => 0,
        };
        (now, std::mem::replace(&mut self.stands, now))
    }

    /// The store must be asked before anything more is said.
    pub(super) fn forget_standing(&mut self) {
        if matches!(self.standing, Some(Standing::Deleted | Standing::Damaged)) {
            return;
        }
        self.stale = self.planning;
        self.standing = None;
        self.clear_live();
        self.caught_up = false;
        self.question.get_or_insert_default();
    }

    pub(super) fn delete(&mut self) {
        self.close(Standing::Deleted);
    }

    /// Nothing is said of the document any more, for as long as the session lasts.
    pub(super) fn close(&mut self, standing: Standing) {
        self.standing = Some(standing);
        self.clear_live();
        self.question = None;
    }

    /// What was closed as damaged can be read again: the store is asked, if the peer has said anything.
    pub(super) fn reopen(&mut self) {
        self.standing = None;
        self.caught_up = false;
        if self.theirs.is_some() {
            self.question.get_or_insert_default();
        }
    }

    /// Nothing more is said of the document, and what the peer said is forgotten.
    pub(super) fn let_go(&mut self) {
        self.close(Standing::Damaged);
        (self.theirs, self.told, self.gossiped, self.reset) = (None, None, None, None);
        self.refused.clear();
    }

    fn clear_live(&mut self) {
        self.live = Vec::new();
        self.live_bytes = 0;
    }

    /// A change became durable.
    pub(super) fn add_entry(&mut self, new: &NewEntry) {
        let entry = &new.entry;
        let hash = ChangeHash(entry.id);
        let is_own = self.own.remove(&hash);
        self.note(hash);
        let Some(standing) = &mut self.standing else {
            // Nothing is known yet; but what is being read may have been read before this.
            if self.planning {
                self.keep_live(new, is_own);
            }
            return;
        };
        let (mut heads, last) = match standing {
            Standing::Present { heads, last } => (std::mem::take(heads), *last),
            Standing::Absent => (Vec::new(), Offset(0)),
            Standing::Deleted | Standing::Damaged => return,
        };
        if entry.offset <= last {
            *standing = Standing::Present { heads, last };
            return;
        }
        advance(&mut heads, entry.dependencies.iter().copied().map(ChangeHash), hash);
        *standing = Standing::Present { heads, last: entry.offset };
        if self.planning || !is_own || self.has_live() || !self.caught_up {
            self.keep_live(new, is_own);
        } else {
            self.sent_through = entry.offset;
        }
    }

    /// Keeps a copy: the commit may be of many other documents, and large.
    fn keep_live(&mut self, new: &NewEntry, is_own: bool) {
        let NewEntry { entry, .. } = new;
        let bytes = entry.body.len() + 32 * entry.dependencies.len();
        self.live_bytes += bytes + limits::REPO_LIVE_OVERHEAD_BYTES;
        if self.live_bytes > limits::REPO_CHANGES_BYTES {
            return self.forget_standing();
        }
        self.live.push((new.clone(), is_own));
    }

    /// When news may be sent.
    pub(super) fn due(&self) -> Moment {
        match self.sent_at {
            None => Moment::default(),
            Some((at, true)) => at.after(limits::REPO_PACE),
            Some((at, false)) => at.after(limits::REPO_UNANSWERED),
        }
    }

    /// News are sent now.
    pub(super) fn note_sent(&mut self, now: Moment) {
        self.sent_at = Some((now, false));
    }

    /// What came lately, by others: all that a peer lacks that has what came before.
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

    /// Whether a change is known to be in the log, or on its way there before whatever is pushed
    /// next. That it is not known says nothing.
    pub(super) fn is_familiar(&self, hash: &ChangeHash) -> bool {
        self.own.contains(hash) || self.is_durable(hash)
    }

    /// Whether a change is known to be durable. That it is not known says nothing.
    pub(super) fn is_durable(&self, hash: &ChangeHash) -> bool {
        let among_heads = match &self.standing {
            Some(Standing::Present { heads, .. }) => heads.binary_search(hash).is_ok(),
            _ => false,
        };
        among_heads || self.recent.contains(hash)
    }

    /// The peer's heads, as far as they are known to be durable.
    pub(super) fn durable_heads(&self) -> Vec<ChangeHash> {
        self.theirs.iter().flatten().filter(|head| self.is_durable(head)).copied().collect()
    }

    /// What the store said is taken in. Entries that came meanwhile and are newer stay.
    pub(super) fn stand(&mut self, heads: Vec<ChangeHash>, last: Offset) {
        heads.iter().rev().take(limits::REPO_RECENT / 2).for_each(|head| self.note(*head));
        self.standing = Some(Standing::Present { heads, last });
        self.replay();
    }

    /// Nothing of it is in the store; what came meanwhile is.
    pub(super) fn stand_absent(&mut self) {
        self.standing = Some(Standing::Absent);
        self.caught_up = true;
        self.replay();
    }

    fn replay(&mut self) {
        self.live_bytes = 0;
        for (new, is_own) in std::mem::take(&mut self.live) {
            if is_own {
                self.own.insert(ChangeHash(new.entry.id));
            }
            self.add_entry(&new);
        }
    }
}
