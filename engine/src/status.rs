//! Status: "is my work saved, and where?", answered honestly.

mod hub;

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::replica::SpacePhase;
use landfall_protocol::{Code, DocumentId, SpaceName, Upstream};
use parking_lot::Mutex;

use crate::document::Memory;
use crate::error::StoreFailure;
use crate::notify::{Notifier, Topic};
use crate::store::{Excess, Parked, Pending};
use crate::threads::ThreadPanic;

pub(crate) use hub::{SpaceFacts, StatusHub};

use hub::Everything;

/// The whole store's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The connection.
    pub link: LinkStatus,
    /// The relay that was met last, now or in an earlier run; `None` if none ever was.
    pub upstream: Option<Upstream>,
    /// Why the connection is not there, or was lost last; on a connection, why the relay does not
    /// take some changes now (its disk is full, say), with its code. They are pushed again.
    pub last_error: Option<String>,
    /// Whether the last try to connect found that no relay is at the URL: what is there answers, and as
    /// no relay does, with HTTP 404 for example. The link tries on, since a relay may come there; who
    /// waits for it may tell the person that the URL is wrong, as `last_error` says.
    pub wrong_url: bool,
    /// Each space.
    pub spaces: BTreeMap<SpaceName, SpaceStatus>,
    /// Why the store could not take what came from the relay last: the disk is full, say. The connection
    /// is made again and it comes again; `None` once something that came was written.
    pub store_trouble: Option<StoreFailed>,
    /// Why the store takes no more writes until it is closed and opened again, or why one that is
    /// open for reading only sees no more of them; `None` while it does.
    pub store_failed: Option<StoreFailed>,
    /// Threads of the store that have panicked since it was opened, each with its last panic. What
    /// follows from it is said at each [`StoreThread`](crate::StoreThread).
    pub panicked: Vec<ThreadPanic>,
    /// What is in memory. That it changes wakes nobody who watches.
    pub loaded: LoadedDocuments,
}

/// A failure of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFailed {
    /// What kind. One after which the store takes no more writes is [`StoreFailure::Gone`],
    /// [`StoreFailure::FsyncFailed`] or [`StoreFailure::Panicked`].
    pub class: StoreFailure,
    /// In words: which file, and what happened to it.
    pub what: String,
}

/// The documents that are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadedDocuments {
    /// How many.
    pub documents: u64,
    /// About how many bytes they take: reckoned from their numbers of operations, changes and
    /// actors, and from their bytes in the store. See
    /// [`Options::document_cache_bytes`](crate::Options::document_cache_bytes).
    pub bytes: u64,
}

impl Status {
    /// What the relay is not known to hold, over all spaces.
    pub fn pending(&self) -> Pending {
        let sum = |sum: Pending, space: &SpaceStatus| Pending {
            changes: sum.changes + space.pending.changes,
            bytes: sum.bytes + space.pending.bytes,
        };
        self.spaces.values().fold(Pending::default(), sum)
    }
}

/// The connection to the relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LinkStatus {
    /// Never connected, taken offline on purpose, or ended by a panic
    /// ([`StoreThread::Link`](crate::StoreThread::Link)).
    #[default]
    Offline,
    /// On the way: connecting, in the handshake, or waiting to try again.
    Connecting {
        /// Tries since it was last online.
        attempt: u32,
    },
    /// The relay answered our hello.
    Online,
}

/// One space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceStatus {
    /// How it stands with the relay.
    pub sync: SyncStatus,
    /// Changes in the store, folded ones too; a document's deletion counts as one.
    pub changes: u64,
    /// Their bytes; of folded ones those of the folded history.
    pub bytes: u64,
    /// How many of the changes may not be on the disk yet: a power cut could take them, a crash
    /// of the process cannot. All of them, once the store's file is gone; and in a store that is
    /// open for reading only, which cannot know it.
    pub not_on_disk: u64,
    /// What the relay is not known to have on its disk. Without a relay: everything.
    pub pending: Pending,
    /// Changes that the relay has acknowledged since the store was opened: again, if a relay has lost
    /// them and was sent them once more.
    pub acknowledged: u64,
    /// Changes that came from relays and are in documents, since the store was opened; deletions are not
    /// among them.
    pub received: u64,
    /// Documents that the store had, and that relays said are deleted, since it was opened.
    pub deleted: u64,
    /// Documents whose changes the relay refuses.
    pub parked: Vec<ParkedDocument>,
    /// Documents that could not be read when they were loaded last, in the order of their ids; their
    /// bytes are kept. One that is deleted, or can be read again, is not among them any more. At most
    /// [`UNREADABLE_LISTED`](crate::UNREADABLE_LISTED).
    pub unreadable: Vec<UnreadableDocument>,
    /// Since the store was opened there were more of them than are listed: one that is not among them
    /// need not be readable.
    pub unreadable_more: bool,
    /// Entries that arrived and cannot be applied; they are kept.
    pub set_aside: u64,
    /// Those of them that stand for what the relay that was met last has and could not send, since its
    /// own store is damaged there: the space is not whole here, although it may be [`SyncStatus::Live`]. They are
    /// asked for again at each connection; see
    /// [`Space::damaged_at_relay`](crate::Space::damaged_at_relay).
    pub damaged_at_relay: u64,
    /// Documents of which the relay turned out to hold something else than was thought, since the
    /// store was opened. Each was set right, and told as an event.
    pub drifted: u64,
    /// Checks against the relay that came to an end, since the store was opened.
    pub checks: u64,
}

/// How a space stands with the relay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SyncStatus {
    /// No connection is wanted.
    #[default]
    Offline,
    /// The connection or the subscription is being made.
    Connecting,
    /// Entries are on their way.
    CatchingUp {
        /// Log positions passed.
        done: u64,
        /// Log positions to go.
        to_go: u64,
        /// A document's folded history that is arriving.
        snapshot: Option<Progress>,
    },
    /// The relay's log is not the one that was known, or other documents are wanted: the two ends
    /// compare what they hold, and exchange only what differs.
    Comparing {
        /// Documents that are known to differ and have not arrived yet.
        documents: u64,
        /// A document's folded history that is arriving.
        snapshot: Option<Progress>,
    },
    /// Everything that the relay had is here.
    Live,
    /// The relay refuses the space, or it needs a newer version of this software.
    Refused {
        /// Why.
        code: Code,
        /// In words, with what to do.
        what: String,
    },
}

/// How much of something has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there.
    pub bytes: u64,
    /// All its bytes.
    pub of: u64,
}

impl Progress {
    fn of(parts: Option<(u64, u64)>) -> Option<Self> {
        parts.map(|(bytes, of)| Self { bytes, of })
    }
}

/// A document whose changes the relay refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedDocument {
    /// The document.
    pub document: DocumentId,
    /// Why.
    pub code: Code,
    /// In words.
    pub what: String,
}

/// A document that cannot be read, wholly or from some change on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableDocument {
    /// The document.
    pub document: DocumentId,
    /// What automerge or SQLite said. If the store's file is damaged, restore it from a copy, or
    /// repair it ([`maintain::repair`](crate::maintain::repair)) and have the relay send what is lost.
    pub reason: String,
}

impl From<Parked> for ParkedDocument {
    fn from(parked: Parked) -> Self {
        Self { document: parked.document, code: parked.code, what: parked.what }
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentStatus {
    /// Whether it is in memory.
    pub loaded: bool,
    /// Changes in the store; a deletion counts as one.
    pub changes: u64,
    /// How large it is, and whether it can grow.
    pub size: DocumentSize,
    /// The limits that it exceeds by what other replicas made: it is kept, and syncs on. Empty for
    /// nearly every document.
    pub exceeded: Vec<Excess>,
    /// Actors that made them; see [`MANY_ACTORS`](crate::MANY_ACTORS).
    pub actors: u64,
    /// Whether all of them are surely on the disk. A store that is open for reading only cannot
    /// know it: false.
    pub on_disk: bool,
    /// What the relay is not known to have on its disk. Without a relay: everything.
    pub pending: Pending,
    /// Why the relay refuses its changes, if it does.
    pub parked: Option<ParkedDocument>,
    /// Why it is quarantined, if it is.
    pub quarantined: Option<String>,
}

/// How large a document is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DocumentSize {
    /// Its bytes: of its folded history and the changes behind it, each without what a folded one
    /// does not have.
    pub bytes: u64,
    /// From how many bytes on local changes are refused.
    pub local_limit: u64,
    /// How many bytes a document may have. One that has more by what others made syncs on, as
    /// single changes.
    pub limit: u64,
}

impl DocumentSize {
    /// Whether local changes are refused
    /// ([`DocumentTooLarge`](crate::ChangeError::DocumentTooLarge)).
    pub fn is_full(&self) -> bool {
        self.bytes >= self.local_limit
    }

    /// Whether it has more bytes than a document may have. What else it may have too much of is in
    /// [`DocumentStatus::exceeded`].
    pub fn is_oversized(&self) -> bool {
        self.bytes > self.limit
    }
}

/// Watches a status: it always has the present value, and tells when there is another.
#[derive(Clone)]
pub struct StatusWatch {
    /// Counts the changes of the status. The value itself is put together when it is asked for, so
    /// that a commit costs the same however many spaces the store has.
    seen: u64,
    facts: Arc<Mutex<Everything>>,
    memory: Arc<Memory>,
    notifier: Notifier,
}

impl StatusWatch {
    /// The present value.
    pub fn now(&self) -> Status {
        let mut status = self.facts.lock().status();
        let (documents, bytes) = self.memory.now();
        status.loaded = LoadedDocuments { documents, bytes };
        status
    }

    /// Waits for another value than the one seen last and gives it; `None` once the store is
    /// closed. Needs no particular executor. The task is woken by a thread that does nothing else
    /// (`landfall-notify`): a waker that blocks delays the other tasks that wait for events or the
    /// status of this store, and nothing of the store.
    pub async fn changed(&mut self) -> Option<Status> {
        let (facts, seen) = (&self.facts, self.seen);
        let look = || facts.lock().generation_after(seen);
        self.seen = self.notifier.wait(Topic::Status, look).await?;
        Some(self.now())
    }

    /// Like [`StatusWatch::changed`], on this thread.
    pub fn changed_blocking(&mut self) -> Option<Status> {
        pollster::block_on(self.changed())
    }

    /// Waits until the status is as wanted, and gives it; `None` once the store is closed. No lock
    /// is held while `wanted` runs: it may take its time, and call anything. It sees the present
    /// status first, then later ones; those that come while it runs may be left out, but not the
    /// last.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        loop {
            self.seen = self.facts.lock().generation();
            let status = self.now();
            if wanted(&status) {
                return Some(status);
            }
            self.changed().await?;
        }
    }

    /// Like [`StatusWatch::until`], on this thread.
    pub fn until_blocking(&mut self, wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        pollster::block_on(self.until(wanted))
    }
}

fn sync_of(link: LinkStatus, phase: &SpacePhase) -> SyncStatus {
    match (link, phase) {
        (LinkStatus::Offline, _) => SyncStatus::Offline,
        (LinkStatus::Connecting { .. }, _) | (_, SpacePhase::Waiting) => SyncStatus::Connecting,
        (_, SpacePhase::CatchingUp { done, to_go, snapshot }) => {
            let snapshot = Progress::of(*snapshot);
            SyncStatus::CatchingUp { done: *done, to_go: *to_go, snapshot }
        }
        (_, SpacePhase::Comparing { documents, snapshot }) => {
            let snapshot = Progress::of(*snapshot);
            SyncStatus::Comparing { documents: *documents, snapshot }
        }
        (_, SpacePhase::Live) => SyncStatus::Live,
        (_, SpacePhase::Refused { code, what }) => {
            SyncStatus::Refused { code: *code, what: what.clone() }
        }
    }
}
