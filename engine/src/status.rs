//! Status: which changes are saved, and where. Its types know neither the store nor the link.

mod hub;
mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::client::SpacePhase;
use landfall_protocol::{Code, DocumentId, SpaceName, Upstream};
use parking_lot::Mutex;

use crate::failure::StoreFailure;
use crate::notify::{Notifier, Topic};
use crate::store::{ExceededLimit, Pending, Rejected};
use crate::threads::ThreadPanic;

pub(crate) use hub::{SpaceFacts, StatusHub};
pub(crate) use memory::Memory;

use hub::Everything;

/// The whole store's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The connection.
    pub link: LinkStatus,
    /// The relay that was connected last, now or in an earlier run; `None` if none ever was.
    pub upstream: Option<Upstream>,
    /// Why there is no connection, or why the last one was lost. While connected: why the relay does
    /// not accept some changes at present (its disk is full, for example), with its code. They are
    /// pushed again.
    pub last_error: Option<String>,
    /// Whether the last connection attempt found a server at the URL that is no relay: it answers, but
    /// not as a relay does, with HTTP 404 for example. The link tries on, since a relay may be started
    /// there. An application may show the person that the URL is wrong, with `last_error` as the
    /// reason.
    pub wrong_url: bool,
    /// Each space.
    pub spaces: BTreeMap<SpaceName, SpaceStatus>,
    /// Why the store could not write the entries that the relay sent last: the disk is full, for
    /// example. The link reconnects and receives them again; `None` once a received entry was written.
    pub store_trouble: Option<StoreFailed>,
    /// Why the store accepts no more writes until it is closed and opened again, or why a store that is
    /// open for reading only sees no more of them; `None` while it works.
    pub store_failed: Option<StoreFailed>,
    /// Threads of the store that have panicked since it was opened, each with its last panic. The
    /// consequences are described at each [`StoreThread`](crate::StoreThread).
    pub panicked: Vec<ThreadPanic>,
    /// The documents in memory. A change of this value alone does not wake status watchers.
    pub loaded: LoadedDocuments,
}

/// A failure of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreFailed {
    /// The kind of failure. After [`StoreFailure::Gone`], [`StoreFailure::FsyncFailed`] or
    /// [`StoreFailure::Panicked`] the store accepts no more writes.
    pub class: StoreFailure,
    /// A description: which file, and what happened to it.
    pub what: String,
}

/// The documents that are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedDocuments {
    /// How many.
    pub documents: u64,
    /// An estimate of the bytes that they take, from their numbers of operations, changes and actors
    /// and from their bytes in the store. See
    /// [`Options::document_cache_bytes`](crate::Options::document_cache_bytes).
    pub bytes: u64,
}

impl Status {
    /// Changes that the relay is not known to hold, over all spaces.
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
#[non_exhaustive]
pub enum LinkStatus {
    /// Never connected, taken offline on purpose, or ended by a panic
    /// ([`StoreThread::Link`](crate::StoreThread::Link)).
    #[default]
    Offline,
    /// Connecting, in the handshake, or waiting for the next attempt.
    Connecting {
        /// Attempts since it was last online.
        attempt: u32,
    },
    /// The relay answered the client's hello.
    Online,
    /// The relay refuses this client's token, also the one that the provider returned when it was asked
    /// again; or the provider reports that the person is signed out. The reason is in
    /// [`Status::last_error`], until a later attempt fails for another one. Editing continues offline, and pending changes stay pending. The link
    /// tries again after [`LinkOptions::signed_out_retry`](crate::LinkOptions::signed_out_retry), and at
    /// once after [`Store::reconnect_now`](crate::Store::reconnect_now) or
    /// [`Store::connect`](crate::Store::connect); the state remains until another answer arrives.
    SignedOut,
}

/// One space.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceStatus {
    /// The state of its sync with the relay.
    pub sync: SyncStatus,
    /// Changes in the store, including those in snapshots; a document's deletion counts as one.
    pub changes: u64,
    /// Their bytes; for changes in a snapshot, those of the snapshot.
    pub bytes: u64,
    /// Changes that may not be on the disk yet: a power cut may lose them, a crash of the process
    /// cannot. It is all of them once the store's file is gone, and in a store that is open for reading
    /// only, which cannot know it.
    pub not_on_disk: u64,
    /// Changes that the relay is not known to have on its disk. Without a relay: all of them.
    pub pending: Pending,
    /// Changes that the relay has acknowledged since the store was opened. A change counts again if a
    /// relay lost it and acknowledged it a second time.
    pub acknowledged: u64,
    /// Changes that arrived from relays and were added to documents since the store was opened, without
    /// deletions.
    pub received: u64,
    /// Documents of the store that relays reported as deleted since it was opened.
    pub deleted: u64,
    /// Documents whose changes the relay rejects.
    pub rejected: Vec<RejectedDocument>,
    /// Documents that failed to load at the last attempt, ordered by id; their bytes are kept. A
    /// document that is deleted, or can be read again, is removed from the list. At most
    /// [`UNREADABLE_LISTED`](crate::UNREADABLE_LISTED).
    pub unreadable: Vec<UnreadableDocument>,
    /// Since the store was opened, more documents were unreadable than the list holds: a document that
    /// is not listed may be unreadable too.
    pub unreadable_more: bool,
    /// Deferred entries: they arrived, cannot be applied yet, and are kept.
    pub deferred: u64,
    /// Those of them that stand for entries which the last connected relay has and could not send,
    /// because its own store is damaged: the space is incomplete here, although it may be
    /// [`SyncStatus::Live`]. The engine asks for them again at each connection; see
    /// [`Space::damaged_at_relay`](crate::Space::damaged_at_relay).
    pub damaged_at_relay: u64,
    /// Documents that a check found to differ from the relay's without an explanation, since the store
    /// was opened. Each was repaired, and reported as an event.
    pub drifted: u64,
    /// Completed checks against the relay since the store was opened.
    pub checks: u64,
}

/// The state of a space's sync with the relay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncStatus {
    /// No connection is wanted, or the relay refuses this client's token
    /// ([`LinkStatus::SignedOut`]).
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
        /// The progress of a document's snapshot that is arriving.
        snapshot: Option<Progress>,
    },
    /// The relay's log is not the known one, or the filter has changed: the two ends compare their
    /// documents, and exchange only the differences.
    Comparing {
        /// Documents that are known to differ and have not arrived yet.
        documents: u64,
        /// The progress of a document's snapshot that is arriving.
        snapshot: Option<Progress>,
    },
    /// Everything that the relay had is here.
    Live,
    /// The relay rejects the space, or requires a newer version of this software.
    Refused {
        /// The reason.
        code: Code,
        /// A description, with a remedy.
        what: String,
    },
}

/// How much of something has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have arrived.
    pub bytes: u64,
    /// Its total size in bytes.
    pub of: u64,
}

impl Progress {
    fn of(parts: Option<(u64, u64)>) -> Option<Self> {
        parts.map(|(bytes, of)| Self { bytes, of })
    }
}

/// A document whose changes the relay rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectedDocument {
    /// The document.
    pub document: DocumentId,
    /// The reason.
    pub code: Code,
    /// A description.
    pub what: String,
}

/// A document that cannot be read, wholly or from some change on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableDocument {
    /// The document.
    pub document: DocumentId,
    /// The error of automerge or SQLite. If the store's file is damaged, restore it from a copy, or
    /// repair it ([`admin::repair`](crate::admin::repair)) and let the relay send the lost
    /// entries.
    pub reason: String,
}

impl From<Rejected> for RejectedDocument {
    fn from(rejected: Rejected) -> Self {
        Self { document: rejected.document, code: rejected.code, what: rejected.what }
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentStatus {
    /// Whether it is in memory.
    pub loaded: bool,
    /// Changes in the store; a deletion counts as one.
    pub changes: u64,
    /// How large it is, and whether it can grow.
    pub size: DocumentSize,
    /// The limits that it exceeds through changes of other replicas: it is kept, and continues to sync.
    /// Empty for nearly every document.
    pub exceeded: Vec<ExceededLimit>,
    /// The number of actors that made its changes; see [`MANY_ACTORS`](crate::MANY_ACTORS).
    pub actors: u64,
    /// Whether all changes are known to be on the disk. Always false in a store that is open for
    /// reading only, which cannot know it.
    pub on_disk: bool,
    /// Changes that the relay is not known to have on its disk. Without a relay: all of them.
    pub pending: Pending,
    /// Why the relay rejects its changes, if it does.
    pub rejected: Option<RejectedDocument>,
    /// Why it is quarantined, if it is.
    pub quarantined: Option<String>,
}

/// How large a document is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentSize {
    /// Its bytes: those of its snapshot and of its tail, each without the parts that a snapshot does
    /// not store.
    pub bytes: u64,
    /// The size in bytes from which local changes are refused.
    pub local_limit: u64,
    /// The limit in bytes for a document. A document that exceeds it through changes of others
    /// continues to sync, as single changes.
    pub limit: u64,
}

impl DocumentSize {
    /// Whether local changes are refused
    /// ([`DocumentTooLarge`](crate::ChangeError::DocumentTooLarge)).
    pub fn is_full(&self) -> bool {
        self.bytes >= self.local_limit
    }

    /// Whether it exceeds the limit in bytes. Other exceeded limits are in
    /// [`DocumentStatus::exceeded`].
    pub fn is_oversized(&self) -> bool {
        self.bytes > self.limit
    }
}

/// Watches the store's status: always has the present value, and waits for the next one.
#[derive(Clone)]
pub struct StatusWatch {
    /// The generation seen last. The status is assembled only when it is read, so that the cost of a
    /// commit does not grow with the number of spaces.
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

    /// Waits for a value other than the one returned last, and returns it; `None` once the store is
    /// closed. Needs no particular executor. A dedicated thread (`landfall-notify`) wakes the task: a
    /// waker that blocks delays only the other tasks that wait for events or the status of this store.
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

    /// Waits until `wanted` returns true for a status, and returns that status; `None` once the store
    /// is closed. No lock is held while `wanted` runs: it may take long, and call anything. It sees the
    /// present status first, then later ones. Values that are published while it runs may be skipped,
    /// except the last.
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
        (LinkStatus::Offline | LinkStatus::SignedOut, _) => SyncStatus::Offline,
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
