//! The state behind the status. Each commit updates one space's numbers; the public value is assembled
//! when it is read. It calls no waker and knows no SQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_protocol::client::SpacePhase;
use landfall_protocol::{DocumentId, SpaceName, Upstream};
use parking_lot::Mutex;

use super::{
    LinkStatus, LoadedDocuments, Memory, RejectedDocument, SpaceStatus, Status, StatusWatch,
    StoreFailed, UnreadableDocument, sync_of,
};
use crate::failure::StoreFailure;
use crate::limits::UNREADABLE_LISTED;
use crate::notify::{Notifier, Topic};
use crate::store::{Came, Followed, Rejected, SpaceCount, SpaceReport, SpaceRow};
use crate::threads::{StoreThread, ThreadPanic};

/// The facts behind one space's status.
#[derive(Debug)]
struct Facts {
    name: SpaceName,
    count: SpaceCount,
    phase: SpacePhase,
    not_on_disk: u64,
    rejected: Vec<RejectedDocument>,
    unreadable: BTreeMap<DocumentId, String>,
    unreadable_more: bool,
    /// Changes that the relay has acknowledged.
    acknowledged: u64,
    /// Changes that were received, and documents that were received as deleted.
    received: u64,
    deleted: u64,
    drifted: u64,
    checks: u64,
}

impl Facts {
    /// Records an unreadable document; returns whether the status changed.
    fn add_unreadable(&mut self, document: DocumentId, reason: String) -> bool {
        let is_listed = self.unreadable.contains_key(&document);
        if !is_listed && self.unreadable.len() >= UNREADABLE_LISTED {
            return !std::mem::replace(&mut self.unreadable_more, true);
        }
        self.unreadable.insert(document, reason.clone()) != Some(reason)
    }
}

/// The facts behind the whole status.
#[derive(Debug, Default)]
pub(super) struct Everything {
    /// Incremented with each change of the status.
    generation: u64,
    closed: bool,
    link: LinkStatus,
    upstream: Option<Upstream>,
    last_error: Option<String>,
    wrong_url: bool,
    store_trouble: Option<StoreFailed>,
    store_failed: Option<StoreFailed>,
    panicked: BTreeMap<StoreThread, String>,
    spaces: BTreeMap<SpaceRow, Facts>,
    rows: BTreeMap<SpaceName, SpaceRow>,
    /// How many changes each commit added to which space, until the commit is on disk.
    unsynced: BTreeMap<u64, BTreeMap<SpaceRow, u64>>,
    /// Another process writes the store, so nothing is known about what is on disk.
    on_disk_unknown: bool,
}

impl Everything {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The present generation if it differs from `seen`; `Some(None)` if none follows.
    pub(super) fn generation_after(&self, seen: u64) -> Option<Option<u64>> {
        match self.generation {
            generation if generation != seen => Some(Some(generation)),
            _ => self.closed.then_some(None),
        }
    }

    pub(super) fn status(&self) -> Status {
        let space = |facts: &Facts| (facts.name.clone(), self.space_status(facts));
        Status {
            link: self.link,
            upstream: self.upstream,
            last_error: self.last_error.clone(),
            wrong_url: self.wrong_url,
            store_trouble: self.store_trouble.clone(),
            store_failed: self.store_failed.clone(),
            panicked: self.panicked.iter().map(panicked).collect(),
            spaces: self.spaces.values().map(space).collect(),
            // The reader fills it in.
            loaded: LoadedDocuments::default(),
        }
    }

    /// The store's file is gone, and with it everything that was saved.
    fn is_gone(&self) -> bool {
        self.store_failed.as_ref().is_some_and(|failed| failed.class == StoreFailure::Gone)
    }

    fn space_status(&self, facts: &Facts) -> SpaceStatus {
        SpaceStatus {
            sync: sync_of(self.link, &facts.phase),
            changes: facts.count.totals.changes,
            bytes: facts.count.totals.bytes,
            not_on_disk: match self.on_disk_unknown || self.is_gone() {
                true => facts.count.totals.changes,
                false => facts.not_on_disk,
            },
            pending: facts.count.pending,
            acknowledged: facts.acknowledged,
            received: facts.received,
            deleted: facts.deleted,
            rejected: facts.rejected.clone(),
            unreadable: facts.unreadable.iter().map(unreadable).collect(),
            unreadable_more: facts.unreadable_more,
            deferred: facts.count.deferred,
            damaged_at_relay: facts.count.damaged,
            drifted: facts.drifted,
            checks: facts.checks,
        }
    }

    /// Adds a space if it is missing; returns whether it was.
    fn add(&mut self, space: SpaceFacts) -> bool {
        let SpaceFacts { name, row, count, rejected } = space;
        if self.spaces.contains_key(&row) {
            return false;
        }
        self.rows.insert(name.clone(), row);
        let (phase, rejected) = (SpacePhase::Waiting, listed(rejected));
        let (not_on_disk, drifted, checks) = (0, 0, 0);
        let (acknowledged, received, deleted) = (0, 0, 0);
        let (unreadable, unreadable_more) = (BTreeMap::new(), false);
        let facts = Facts {
            name,
            count,
            phase,
            not_on_disk,
            acknowledged,
            received,
            deleted,
            rejected,
            unreadable,
            unreadable_more,
            drifted,
            checks,
        };
        self.spaces.insert(row, facts);
        true
    }

    /// Removes a space; returns whether it existed.
    fn remove(&mut self, row: SpaceRow) -> bool {
        let Some(facts) = self.spaces.remove(&row) else { return false };
        self.rows.remove(&facts.name);
        for added in self.unsynced.values_mut() {
            added.remove(&row);
        }
        true
    }

    /// Updates one space to a commit; returns whether its status changed.
    fn report(&mut self, report: SpaceReport) -> bool {
        let SpaceReport { space, count, rejected, came, number, synced } = report;
        let was_troubled = came.written && self.store_trouble.take().is_some();
        let Some(facts) = self.spaces.get_mut(&space) else { return was_troubled };
        facts.received += came.changes;
        facts.deleted += came.deleted;
        let added = count.totals.added.saturating_sub(facts.count.totals.added);
        let unsynced = added > 0 && number > synced;
        if unsynced {
            *self.unsynced.entry(number).or_default().entry(space).or_default() += added;
            facts.not_on_disk += added;
        }
        let differs = facts.count != count;
        facts.count = count;
        let mut relisted = false;
        if let Some(rejected) = rejected {
            let rejected = listed(rejected);
            relisted = facts.rejected != rejected;
            facts.rejected = rejected;
        }
        unsynced || differs || relisted || was_troubled
    }

    /// Updates everything to the commits of another process; returns whether anything changed.
    fn follow(&mut self, followed: &Followed, removed: &[SpaceRow]) -> bool {
        let mut changed = self.upstream != followed.upstream;
        self.upstream = followed.upstream;
        for row in removed {
            changed |= self.remove(*row);
        }
        for space in &followed.spaces {
            let (name, row, count) = (space.name.clone(), space.row, space.count);
            let rejected = space.rejected.clone();
            if self.add(SpaceFacts { name, row, count, rejected: rejected.clone() }) {
                changed = true;
                continue;
            }
            let (rejected, came, number, synced) = (Some(rejected), Came::default(), 0, 0);
            changed |=
                self.report(SpaceReport { space: row, count, rejected, came, number, synced });
        }
        changed
    }

    /// Everything up to a commit is on disk.
    fn synced(&mut self, number: u64) -> bool {
        let left = self.unsynced.split_off(&(number + 1));
        let on_disk = std::mem::replace(&mut self.unsynced, left);
        let changed = !on_disk.is_empty();
        for (space, added) in on_disk.into_values().flatten() {
            if let Some(facts) = self.spaces.get_mut(&space) {
                facts.not_on_disk = facts.not_on_disk.saturating_sub(added);
            }
        }
        changed
    }
}

/// The store's facts about one space.
pub(crate) struct SpaceFacts {
    pub(crate) name: SpaceName,
    pub(crate) row: SpaceRow,
    pub(crate) count: SpaceCount,
    pub(crate) rejected: Vec<Rejected>,
}

/// Keeps and publishes the status. Publishing calls no waker: the notifier does.
pub(crate) struct StatusHub {
    facts: Arc<Mutex<Everything>>,
    memory: Arc<Memory>,
    notifier: Notifier,
}

impl StatusHub {
    pub(crate) fn new(upstream: Option<Upstream>, read_only: bool, notifier: Notifier) -> Self {
        let everything =
            Everything { upstream, on_disk_unknown: read_only, ..Everything::default() };
        let facts = Arc::new(Mutex::new(everything));
        Self { facts, memory: Arc::default(), notifier }
    }

    /// Where the cache of loaded documents records its size.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    pub(crate) fn watch(&self) -> StatusWatch {
        let (facts, notifier) = (Arc::clone(&self.facts), self.notifier.clone());
        StatusWatch { seen: 0, facts, memory: self.memory(), notifier }
    }

    /// The present status of one space.
    pub(crate) fn space(&self, row: SpaceRow) -> Option<SpaceStatus> {
        let all = self.facts.lock();
        all.spaces.get(&row).map(|facts| all.space_status(facts))
    }

    /// Whether everything of a space up to local number `last`, which a reader of the store saw, is on
    /// disk. A commit is visible in the store a moment before it is reported here.
    pub(crate) fn is_on_disk(&self, row: SpaceRow, last: u64) -> bool {
        let all = self.facts.lock();
        let Some(facts) = all.spaces.get(&row) else { return false };
        let known = !all.on_disk_unknown && !all.is_gone();
        known && facts.not_on_disk == 0 && last <= facts.count.totals.last
    }

    /// Adds a space.
    pub(crate) fn add_space(&self, space: SpaceFacts) {
        self.update(|all| all.add(space));
    }

    /// A space was removed.
    pub(crate) fn remove_space(&self, row: SpaceRow) {
        self.update(|all| all.remove(row));
    }

    pub(crate) fn set_link(&self, link: LinkStatus, upstream: Option<Upstream>) {
        self.update(|all| {
            let before = (all.link, all.upstream, all.last_error.is_some());
            all.link = link;
            all.upstream = upstream.or(all.upstream);
            if link == LinkStatus::Online {
                (all.last_error, all.wrong_url) = (None, false);
            }
            before != (all.link, all.upstream, all.last_error.is_some())
        });
    }

    /// Sets why there is no connection, and whether the reason is that no relay is at the URL.
    pub(crate) fn set_error(&self, error: String, wrong_url: bool) {
        self.update(|all| {
            let before = (all.last_error.replace(error), all.wrong_url);
            all.wrong_url = wrong_url;
            before != (all.last_error.clone(), wrong_url)
        });
    }

    /// Called when another relay is wanted: clears the finding about the previous relay's URL.
    pub(crate) fn forget_url(&self) {
        self.update(|all| std::mem::take(&mut all.wrong_url));
    }

    /// Sets why the relay does not accept some changes at present; `None` once it accepts them again.
    pub(crate) fn set_delay(&self, error: Option<String>) {
        self.update(|all| std::mem::replace(&mut all.last_error, error.clone()) != error);
    }

    /// The store accepts no more writes. Of several failures the first is kept.
    pub(crate) fn set_store_failed(&self, class: StoreFailure, what: String) {
        self.update(|all| {
            let first = all.store_failed.is_none();
            all.store_failed.get_or_insert(StoreFailed { class, what });
            first
        });
    }

    /// A thread of the store has panicked.
    pub(crate) fn set_panicked(&self, thread: StoreThread, what: String) {
        self.update(|all| all.panicked.insert(thread, what.clone()) != Some(what));
    }

    /// The link's thread has ended with a panic: the state that it reported of the relay is no longer
    /// valid.
    pub(crate) fn set_link_ended(&self, what: &str) {
        self.update(|all| {
            all.link = LinkStatus::Offline;
            all.last_error = Some(format!("the link's thread panicked ({what}); connect again"));
            all.spaces.values_mut().for_each(|facts| facts.phase = SpacePhase::Waiting);
            true
        });
    }

    pub(crate) fn set_phase(&self, space: &SpaceName, phase: SpacePhase) {
        self.update(|all| {
            let Some(facts) = all.rows.get(space).and_then(|row| all.spaces.get_mut(row)) else {
                return false;
            };
            std::mem::replace(&mut facts.phase, phase.clone()) != phase
        });
    }

    /// A commit changed a space. Called on the writer thread only, in the order of the commits.
    pub(crate) fn report(&self, report: SpaceReport) {
        self.update(|all| all.report(report));
    }

    /// Everything up to a commit is on disk.
    pub(crate) fn set_synced(&self, number: u64) {
        self.update(|all| all.synced(number));
    }

    /// Sets why the last load of a document failed; `None` if it succeeded, or the document is deleted.
    /// Called under the document's slot, so that the later of a load and a deletion wins.
    pub(crate) fn set_unreadable(
        &self,
        row: SpaceRow,
        document: DocumentId,
        reason: Option<String>,
    ) {
        self.update(|all| {
            let Some(facts) = all.spaces.get_mut(&row) else { return false };
            match reason {
                None => facts.unreadable.remove(&document).is_some(),
                Some(reason) => facts.add_unreadable(document, reason),
            }
        });
    }

    /// The relay has acknowledged so many changes.
    pub(crate) fn add_acknowledged(&self, row: SpaceRow, changes: u64) {
        self.update(|all| {
            let Some(facts) = all.spaces.get_mut(&row) else { return false };
            facts.acknowledged += changes;
            changes > 0
        });
    }

    /// Received entries could not be written.
    pub(crate) fn set_store_trouble(&self, class: StoreFailure, what: String) {
        let trouble = Some(StoreFailed { class, what });
        self.update(|all| std::mem::replace(&mut all.store_trouble, trouble.clone()) != trouble);
    }

    /// A check against the relay completed, and found `drifted` documents that differ.
    pub(crate) fn add_check(&self, row: SpaceRow, drifted: u64) {
        self.update(|all| {
            let Some(facts) = all.spaces.get_mut(&row) else { return false };
            facts.checks += 1;
            facts.drifted += drifted;
            true
        });
    }

    /// The counts of a space, for `flush`.
    pub(crate) fn count(&self, row: SpaceRow) -> Option<SpaceCount> {
        self.facts.lock().spaces.get(&row).map(|facts| facts.count)
    }

    /// Updates everything to the commits of the process that writes the store.
    pub(crate) fn follow(&self, followed: &Followed, removed: &[SpaceRow]) {
        self.update(|all| all.follow(followed, removed));
    }

    fn update(&self, change: impl FnOnce(&mut Everything) -> bool) {
        let changed = {
            let mut all = self.facts.lock();
            let changed = change(&mut all);
            all.generation += u64::from(changed);
            changed
        };
        if changed {
            self.notifier.notify(Topic::Status);
        }
    }

    /// Ends all watchers; the notifier must be closed afterwards.
    pub(crate) fn close(&self) {
        self.facts.lock().closed = true;
    }
}

fn panicked((thread, what): (&StoreThread, &String)) -> ThreadPanic {
    ThreadPanic { thread: *thread, what: what.clone() }
}

fn unreadable((document, reason): (&DocumentId, &String)) -> UnreadableDocument {
    UnreadableDocument { document: *document, reason: reason.clone() }
}

fn listed(rejected: Vec<Rejected>) -> Vec<RejectedDocument> {
    rejected.into_iter().map(Into::into).collect()
}
