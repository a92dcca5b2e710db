//! What the session knows of a document in the relay's log, and the entries that it forwards.

use crate::automerge_repo::plan::Closing;
use crate::heads::advance;
use crate::ids::{ChangeHash, Offset};
use crate::limits;
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

/// The store's answer to a [`SyncRequest`](crate::automerge_repo::plan::SyncRequest), from one read
/// transaction.
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

/// What the session knows of the document in the log.
#[derive(Debug)]
pub(super) enum LogView {
    /// Nothing: the store is queried before the next message.
    Unknown,
    /// Its durable state.
    Known(Known),
    /// It was deleted. Nothing more is sent about it.
    Deleted,
    /// The store's copy is damaged, or the peer's messages about it exceed the limits. Nothing more
    /// is sent about it until it can be read again.
    Damaged,
}

/// The document's durable state, and how much of it the peer was sent.
#[derive(Debug)]
pub(super) struct Known {
    /// Its heads, ascending; empty if the log has no entry of it.
    pub(super) heads: Vec<ChangeHash>,
    /// The offset of its last entry.
    pub(super) last: Offset,
    pub(super) delivery: Delivery,
    /// The entries that wait to be forwarded.
    pub(super) live: Live,
}

/// How much of a known document the peer was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It may lack older entries: the store has them.
    Behind,
    /// It was sent a page; the rest follows its next message.
    Paging,
    /// It was sent everything, or made it: new entries are forwarded as they become durable.
    CaughtUp,
}

/// The query of the store for a document.
#[derive(Debug, Default)]
pub(super) enum Query {
    /// None is under way.
    #[default]
    Idle,
    /// One is under way. While nothing else is known of the document, the entries that become
    /// durable are kept here: the query may have read the store before them.
    Running(Live),
    /// One is under way, and its answer will be out of date: the store is queried again.
    Outdated,
}

/// Recent entries of a document, each with whether it is the peer's own. The others are forwarded.
#[derive(Debug, Default)]
pub(super) struct Live {
    entries: Vec<(NewEntry, bool)>,
    bytes: usize,
}

impl LogView {
    /// The document's state, if the log has entries of it.
    pub(super) fn present(&self) -> Option<&Known> {
        match self {
            Self::Known(known) if !known.heads.is_empty() => Some(known),
            _ => None,
        }
    }

    /// Whether the log is known to have no entry of it.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Known(known) if known.heads.is_empty())
    }

    /// Whether nothing more is sent about it.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Deleted | Self::Damaged)
    }

    pub(super) fn set_delivery(&mut self, delivery: Delivery) {
        if let Self::Known(known) = self {
            known.delivery = delivery;
        }
    }
}

impl Known {
    /// Applies a new entry of the log; false if it is known already.
    pub(super) fn apply(&mut self, new: &NewEntry) -> bool {
        let entry = &new.entry;
        let is_new = entry.offset > self.last;
        if is_new {
            let dependencies = entry.dependencies.iter().copied().map(ChangeHash);
            advance(&mut self.heads, dependencies, ChangeHash(entry.id));
            self.last = entry.offset;
        }
        is_new
    }
}

impl Query {
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    /// The answer of a query under way will be dropped.
    pub(super) fn outdate(&mut self) {
        if self.is_under_way() {
            *self = Self::Outdated;
        }
    }
}

impl Live {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a copy of an entry: the commit may hold many other documents, and be large. False if
    /// the entries exceed the limit of a document.
    pub(super) fn push(&mut self, new: &NewEntry, is_own: bool) -> bool {
        let NewEntry { entry, .. } = new;
        let bytes = entry.body.len() + 32 * entry.dependencies.len();
        self.bytes += bytes + limits::REPO_LIVE_OVERHEAD_BYTES;
        let fits = self.bytes <= limits::REPO_CHANGES_BYTES;
        if fits {
            self.entries.push((new.clone(), is_own));
        }
        fits
    }

    /// Takes the entries of others: everything that a peer with all older entries lacks.
    pub(super) fn take_others(&mut self) -> Vec<NewEntry> {
        let live = std::mem::take(self).entries;
        live.into_iter().filter(|(_, is_own)| !is_own).map(|(new, _)| new).collect()
    }

    /// All entries, each with whether it is the peer's own.
    pub(super) fn into_entries(self) -> Vec<(NewEntry, bool)> {
        self.entries
    }
}
