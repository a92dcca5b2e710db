//! Status: "is my work saved, and where?", answered honestly.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::replica::SpacePhase;
use landfall_protocol::{Code, DocumentId, SpaceName, Upstream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::document::Memory;
use crate::error::StoreFailure;
use crate::store::{LocalLog, Parked, Pending, SpaceCount, SpaceRow};

/// The whole store's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The connection.
    pub link: LinkStatus,
    /// The relay that was met last, now or in an earlier run; `None` if none ever was.
    pub upstream: Option<Upstream>,
    /// Why the connection is not there, or was lost last.
    pub last_error: Option<String>,
    /// Each space.
    pub spaces: BTreeMap<SpaceName, SpaceStatus>,
    /// Why the store takes no more writes until it is closed and opened again; `None` while it
    /// does.
    pub store_failed: Option<StoreFailed>,
    /// What is in memory. That it changes wakes nobody who watches.
    pub loaded: LoadedDocuments,
}

/// A failure after which a store takes no more writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFailed {
    /// What kind: [`StoreFailure::Gone`] or [`StoreFailure::FsyncFailed`].
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
    /// Never connected, or taken offline on purpose.
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
    /// of the process cannot. All of them, once the store's file is gone.
    pub not_on_disk: u64,
    /// What the relay is not known to have on its disk. Without a relay: everything.
    pub pending: Pending,
    /// Documents whose changes the relay refuses.
    pub parked: Vec<ParkedDocument>,
    /// Entries that arrived and cannot be applied; they are kept.
    pub set_aside: u64,
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
    /// Changes in the store.
    pub changes: u64,
    /// How large it is, and whether it can grow.
    pub size: DocumentSize,
    /// Actors that made them; see [`MANY_ACTORS`](crate::MANY_ACTORS).
    pub actors: u64,
    /// Whether all of them are surely on the disk.
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

    /// Whether it has more than a document may have.
    pub fn is_oversized(&self) -> bool {
        self.bytes > self.limit
    }
}

/// Watches a status: it always has the present value, and tells when there is another.
#[derive(Clone)]
pub struct StatusWatch {
    receiver: watch::Receiver<Status>,
    memory: Arc<Memory>,
}

impl StatusWatch {
    /// The present value.
    pub fn now(&self) -> Status {
        let status = self.receiver.borrow().clone();
        self.with_memory(status)
    }

    fn with_memory(&self, mut status: Status) -> Status {
        let (documents, bytes) = self.memory.now();
        status.loaded = LoadedDocuments { documents, bytes };
        status
    }

    /// Waits for another value than the one seen last and gives it; `None` once the store is
    /// closed. Needs no particular executor.
    pub async fn changed(&mut self) -> Option<Status> {
        self.receiver.changed().await.ok()?;
        let status = self.receiver.borrow_and_update().clone();
        Some(self.with_memory(status))
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
            let status = self.receiver.borrow_and_update().clone();
            let status = self.with_memory(status);
            if wanted(&status) {
                return Some(status);
            }
            self.receiver.changed().await.ok()?;
        }
    }

    /// Like [`StatusWatch::until`], on this thread.
    pub fn until_blocking(&mut self, wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        pollster::block_on(self.until(wanted))
    }
}

/// What one space's status is made of.
#[derive(Debug)]
struct Facts {
    row: SpaceRow,
    count: SpaceCount,
    phase: SpacePhase,
    /// Changes by the commit that they are in, until that is on disk.
    unsynced: BTreeMap<u64, u64>,
    parked: Vec<ParkedDocument>,
    set_aside: u64,
    drifted: u64,
    checks: u64,
}

#[derive(Debug, Default)]
struct Everything {
    link: LinkStatus,
    upstream: Option<Upstream>,
    last_error: Option<String>,
    store_failed: Option<StoreFailed>,
    spaces: BTreeMap<SpaceName, Facts>,
}

/// Where the status is kept and published.
pub(crate) struct StatusHub {
    facts: Mutex<Everything>,
    sender: Mutex<Option<watch::Sender<Status>>>,
    first: watch::Receiver<Status>,
    memory: Arc<Memory>,
}

impl StatusHub {
    pub(crate) fn new(upstream: Option<Upstream>) -> Self {
        let (sender, first) = watch::channel(Status { upstream, ..Status::default() });
        let facts = Mutex::new(Everything { upstream, ..Everything::default() });
        Self { facts, sender: Mutex::new(Some(sender)), first, memory: Arc::default() }
    }

    /// Where the cache of loaded documents tells what it holds.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    pub(crate) fn watch(&self) -> StatusWatch {
        StatusWatch { receiver: self.first.clone(), memory: self.memory() }
    }

    /// Adds a space, with what the store knows of it.
    pub(crate) fn add_space(
        &self,
        name: &SpaceName,
        row: SpaceRow,
        count: SpaceCount,
        log: &LocalLog,
    ) {
        let parked = log.parked(row).unwrap_or_default();
        let facts = Facts {
            row,
            count,
            phase: SpacePhase::Waiting,
            unsynced: BTreeMap::new(),
            parked: parked.into_iter().map(Into::into).collect(),
            set_aside: log.aside_count(row).unwrap_or_default(),
            drifted: 0,
            checks: 0,
        };
        self.update(|all| {
            all.spaces.entry(name.clone()).or_insert(facts);
        });
    }

    /// A space was removed.
    pub(crate) fn remove_space(&self, name: &SpaceName) {
        self.update(|all| {
            all.spaces.remove(name);
        });
    }

    pub(crate) fn set_link(&self, link: LinkStatus, upstream: Option<Upstream>) {
        self.update(|all| {
            all.link = link;
            all.upstream = upstream.or(all.upstream);
            if link == LinkStatus::Online {
                all.last_error = None;
            }
        });
    }

    pub(crate) fn set_error(&self, error: String) {
        self.update(|all| all.last_error = Some(error));
    }

    /// The store takes no more writes. The first reason stays.
    pub(crate) fn set_store_failed(&self, class: StoreFailure, what: String) {
        self.update(|all| {
            all.store_failed.get_or_insert(StoreFailed { class, what });
        });
    }

    pub(crate) fn set_phase(&self, space: &SpaceName, phase: SpacePhase) {
        self.update(|all| {
            if let Some(facts) = all.spaces.get_mut(space) {
                facts.phase = phase;
            }
        });
    }

    /// A commit changed a space; `number` is the commit's, `synced` the last on disk. Called on
    /// the writer thread only, so that reports come in the order of the commits.
    pub(crate) fn set_count(&self, row: SpaceRow, count: SpaceCount, number: u64, synced: u64) {
        self.update(|all| {
            let Some(facts) = all.spaces.values_mut().find(|facts| facts.row == row) else {
                return;
            };
            let added = count.totals.changes.saturating_sub(facts.count.totals.changes);
            if added > 0 && number > synced {
                *facts.unsynced.entry(number).or_default() += added;
            }
            facts.count = count;
        });
    }

    /// Everything up to a commit is on disk.
    pub(crate) fn set_synced(&self, number: u64) {
        self.update(|all| {
            for facts in all.spaces.values_mut() {
                facts.unsynced = facts.unsynced.split_off(&(number + 1));
            }
        });
    }

    pub(crate) fn set_parked(&self, row: SpaceRow, parked: Vec<Parked>) {
        self.update(|all| {
            if let Some(facts) = all.spaces.values_mut().find(|facts| facts.row == row) {
                facts.parked = parked.into_iter().map(Into::into).collect();
            }
        });
    }

    pub(crate) fn add_aside(&self, row: SpaceRow, count: u64) {
        self.update(|all| {
            if let Some(facts) = all.spaces.values_mut().find(|facts| facts.row == row) {
                facts.set_aside += count;
            }
        });
    }

    /// A check against the relay came to an end, and found so many documents that differ.
    pub(crate) fn add_check(&self, row: SpaceRow, drifted: u64) {
        self.update(|all| {
            if let Some(facts) = all.spaces.values_mut().find(|facts| facts.row == row) {
                facts.checks += 1;
                facts.drifted += drifted;
            }
        });
    }

    /// The counts of a space, for `flush`.
    pub(crate) fn count(&self, row: SpaceRow) -> Option<SpaceCount> {
        let all = self.facts.lock();
        all.spaces.values().find(|facts| facts.row == row).map(|facts| facts.count)
    }

    fn update(&self, change: impl FnOnce(&mut Everything)) {
        let mut all = self.facts.lock();
        change(&mut all);
        if let Some(sender) = &*self.sender.lock() {
            let status = publish(&all);
            sender.send_if_modified(|old| {
                let differs = *old != status;
                *old = status;
                differs
            });
        }
    }

    pub(crate) fn close(&self) {
        self.sender.lock().take();
    }
}

fn publish(all: &Everything) -> Status {
    let is_gone =
        all.store_failed.as_ref().is_some_and(|failed| failed.class == StoreFailure::Gone);
    let space = |facts: &Facts| SpaceStatus {
        sync: sync_of(all.link, &facts.phase),
        changes: facts.count.totals.changes,
        bytes: facts.count.totals.bytes,
        not_on_disk: match is_gone {
            // Whatever was saved went with the file.
            true => facts.count.totals.changes,
            false => facts.unsynced.values().sum(),
        },
        pending: facts.count.pending,
        parked: facts.parked.clone(),
        set_aside: facts.set_aside,
        drifted: facts.drifted,
        checks: facts.checks,
    };
    Status {
        link: all.link,
        upstream: all.upstream,
        last_error: all.last_error.clone(),
        store_failed: all.store_failed.clone(),
        spaces: all.spaces.iter().map(|(name, facts)| (name.clone(), space(facts))).collect(),
        // Filled in by whoever looks.
        loaded: LoadedDocuments::default(),
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
