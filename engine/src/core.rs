//! The state that the parts of one open store share: its log, its open documents, its events and
//! status, and its threads. It holds no public handle, so that the threads may hold it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use landfall_compaction::CompactionLimits;
use landfall_protocol::frame::DAMAGED_UNKNOWN;
use landfall_protocol::{ChangeHash, DocumentId, SpaceName};
use landfall_storage::{Committed, WriteError};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::actors::Actors;
use crate::compactor::{Compactor, Saved};
use crate::document::{Applier, Cache, OpenDocument};
use crate::ephemeral::EphemeralSender;
use crate::error::{ChangeError, RemoveSpaceError, SpaceError, StoreError};
use crate::events::{EventHub, EventKind, Origin};
use crate::failure::StoreFailure;
use crate::follow::Follower;
use crate::link::Link;
use crate::notify::Notifier;
use crate::options::{Durability, Options};
use crate::status::{SpaceFacts, StatusHub};
use crate::store::{
    Appended, CompactionOptions, DocumentLimit, ExceededLimit, LocalChange, LocalLog, OpenedSpace,
    Received, RemovalError, SpaceCount, SpaceRow,
};
use crate::threads::{StoreThread, Threads};

/// The shared state of one open store.
pub(crate) struct Core {
    pub(crate) log: LocalLog,
    pub(crate) events: EventHub,
    pub(crate) status: Arc<StatusHub>,
    pub(crate) applier: Applier,
    pub(crate) actors: Actors,
    pub(crate) cache: Cache,
    /// Compacts histories; `None` in a read-only store, or if the options disable it.
    compactor: Option<Compactor>,
    pub(crate) link: Link,
    /// The sender of this opening's ephemeral messages.
    pub(crate) ephemeral: EphemeralSender,
    pub(crate) read_only: bool,
    /// Follows the writing process, in a store that is open for reading only.
    pub(crate) follower: OnceLock<Follower>,
    /// Wakes the tasks that wait for events and status.
    pub(crate) notifier: Notifier,
    /// Where the store's threads report panics.
    pub(crate) threads: Arc<Threads>,
    closed: AtomicBool,
    durability: Durability,
    /// Orders groups among themselves.
    groups: Mutex<()>,
    spaces: Mutex<BTreeMap<SpaceName, SpaceRow>>,
    /// Spaces that were removed since the store was opened: their handles are invalid.
    removed: RwLock<BTreeSet<SpaceRow>>,
    documents: Mutex<BTreeMap<(SpaceRow, DocumentId), Weak<OpenDocument>>>,
    /// Documents and limits for which an event was sent.
    told_oversized: Mutex<BTreeSet<(SpaceRow, DocumentId, DocumentLimit)>>,
}

/// The parts of a core beside its log.
pub(crate) struct CoreParts {
    pub(crate) events: EventHub,
    pub(crate) applier: Applier,
    pub(crate) actors: Actors,
    pub(crate) ephemeral: EphemeralSender,
    pub(crate) notifier: Notifier,
    pub(crate) threads: Arc<Threads>,
}

impl Core {
    pub(crate) fn new(
        log: LocalLog,
        parts: CoreParts,
        options: &Options,
        read_only: bool,
    ) -> Result<Self, StoreError> {
        let CoreParts { events, applier, actors, ephemeral, notifier, threads } = parts;
        let found = log.opened()?;
        let status = Arc::new(StatusHub::new(found.upstream, read_only, notifier.clone()));
        let for_panics = Arc::downgrade(&status);
        threads.observe(Box::new(move |thread, what| {
            if let Some(status) = for_panics.upgrade() {
                status.set_panicked(thread, what);
            }
        }));
        let cache = Cache::new(options.document_cache_bytes, status.memory());
        let mut spaces = BTreeMap::new();
        for OpenedSpace { name, row, count, rejected, unreadable } in found.spaces {
            status.add_space(SpaceFacts { name: name.clone(), row, count, rejected });
            for (document, reason) in unreadable {
                status.set_unreadable(row, document, Some(reason));
            }
            spaces.insert(name, row);
        }
        let for_reports = Arc::downgrade(&status);
        log.observe(Box::new(move |report| {
            if let Some(status) = for_reports.upgrade() {
                status.report(report);
            }
        }));
        let for_synced = Arc::downgrade(&status);
        log.database().on_synced(Box::new(move |number| {
            if let Some(status) = for_synced.upgrade() {
                status.set_synced(number.0);
            }
        }));
        tell_of_failures(&log, &status, &threads);
        let compactor = match options.compaction && !read_only {
            true => Some(
                Compactor::start(
                    log.clone(),
                    compaction_options(options, &log),
                    Arc::clone(&threads),
                )
                .map_err(StoreError::of_thread)?,
            ),
            false => None,
        };
        Ok(Self {
            log,
            events,
            status,
            applier,
            actors,
            cache,
            compactor,
            link: Link::new(),
            ephemeral,
            read_only,
            follower: OnceLock::new(),
            notifier,
            threads,
            closed: AtomicBool::new(false),
            durability: options.durability,
            groups: Mutex::default(),
            spaces: Mutex::new(spaces),
            removed: RwLock::default(),
            documents: Mutex::default(),
            told_oversized: Mutex::default(),
        })
    }

    /// Every space of the store.
    pub(crate) fn spaces(&self) -> Vec<(SpaceName, SpaceRow)> {
        self.spaces.lock().iter().map(|(name, row)| (name.clone(), *row)).collect()
    }

    /// Returns when all commits of the writing process so far are seen. Only a store that is open for
    /// reading only has to look.
    pub(crate) fn catch_up(&self) -> Result<(), StoreError> {
        match self.follower.get() {
            Some(follower) => follower.catch_up(),
            None => Ok(()),
        }
    }

    /// Adds a space that another process has created.
    pub(crate) fn know_space(&self, name: &SpaceName, row: SpaceRow) {
        self.spaces.lock().insert(name.clone(), row);
    }

    /// Another process has removed a space.
    pub(crate) fn space_is_gone(&self, row: SpaceRow) {
        self.spaces.lock().retain(|_, known| *known != row);
        self.removed.write().insert(row);
        self.forget_documents_of(row);
    }

    /// The store's copy of a document has changed: it is loaded again at the next access.
    pub(crate) fn document_is_stale(&self, row: SpaceRow, document: DocumentId, deleted: bool) {
        if let Some(open) = self.known(row, document) {
            match deleted {
                true => open.delete(None),
                false => open.outdate(),
            }
        }
        if deleted {
            self.status.set_unreadable(row, document, None);
        }
    }

    /// The row of a space, which is created if it is missing.
    pub(crate) fn space(&self, name: &SpaceName) -> Result<SpaceRow, SpaceError> {
        if self.is_closed() {
            return Err(StoreError::closed().into());
        }
        if self.read_only {
            self.catch_up()?;
            let known = self.spaces.lock().get(name).copied();
            return known.ok_or_else(|| SpaceError::Unknown(name.clone()));
        }
        let mut spaces = self.spaces.lock();
        if let Some(row) = spaces.get(name) {
            return Ok(*row);
        }
        let row = self.log.ensure_space(name).map_err(StoreError::from)?;
        spaces.insert(name.clone(), row);
        let (count, rejected) = (SpaceCount::default(), Vec::new());
        self.status.add_space(SpaceFacts { name: name.clone(), row, count, rejected });
        drop(spaces);
        // After the insertion into `spaces`, which the link reads, now or when it starts.
        self.link.spaces_changed();
        Ok(row)
    }

    /// Returns an error if a space was removed.
    pub(crate) fn present(&self, row: SpaceRow) -> Result<(), StoreError> {
        match self.removed.read().contains(&row) {
            true => Err(StoreError::space_removed()),
            false => Ok(()),
        }
    }

    /// Removes a space from this store.
    pub(crate) fn remove_space(
        &self,
        name: &SpaceName,
        force: bool,
    ) -> Result<(), RemoveSpaceError> {
        let mut spaces = self.spaces.lock();
        let unknown = || RemoveSpaceError::Unknown(name.clone());
        let row = *spaces.get(name).ok_or_else(unknown)?;
        self.log.remove_space(row, force).map_err(|error| match error {
            WriteError::Job(RemovalError::Unsent(pending)) => {
                RemoveSpaceError::Unsent { space: name.clone(), pending }
            }
            other => {
                let class = other.class().into();
                StoreError { class, source: Box::new(other) }.into()
            }
        })?;
        self.removed.write().insert(row);
        spaces.remove(name);
        self.status.remove_space(row);
        drop(spaces);
        self.link.spaces_changed();
        self.forget_documents_of(row);
        Ok(())
    }

    /// Drops the loaded documents of a space.
    fn forget_documents_of(&self, row: SpaceRow) {
        let of_space: Vec<_> = {
            let mut documents = self.documents.lock();
            let keys: Vec<_> = documents.keys().filter(|key| key.0 == row).copied().collect();
            keys.into_iter().filter_map(|key| Some((key, documents.remove(&key)?))).collect()
        };
        for (key, open) in of_space {
            self.actors.end(key);
            if let Some(open) = open.upgrade() {
                open.outdate();
            }
        }
    }

    /// The one open document of this id: all handles share it.
    pub(crate) fn open_document(
        self: &Arc<Self>,
        space: &SpaceName,
        row: SpaceRow,
        id: DocumentId,
    ) -> Arc<OpenDocument> {
        let mut documents = self.documents.lock();
        if let Some(open) = documents.get(&(row, id)).and_then(Weak::upgrade) {
            return open;
        }
        let open = Arc::new(OpenDocument::new(Arc::clone(self), space.clone(), row, id));
        // Not each time: very many documents may be open, or loaded without handles.
        if documents.len().is_power_of_two() {
            documents.retain(|_, open| open.strong_count() > 0);
        }
        documents.insert((row, id), Arc::downgrade(&open));
        open
    }

    /// Held while a group collects its documents' writer rights. The application's closure runs under
    /// it: only groups may wait for it.
    pub(crate) fn begin_group(&self) -> MutexGuard<'_, ()> {
        self.groups.lock()
    }

    /// Writes local changes in one commit. Its completion calls `publish` on the store's writer thread,
    /// before the completion of any later commit.
    pub(crate) fn append(
        &self,
        changes: Vec<LocalChange>,
        publish: impl FnOnce(&Appended) + Send + 'static,
    ) -> Result<Appended, ChangeError> {
        let durability = match self.durability {
            Durability::Full => landfall_storage::Durability::Full,
            Durability::Normal => landfall_storage::Durability::Relaxed,
        };
        let rows: BTreeSet<SpaceRow> = changes.iter().map(|change| change.space).collect();
        let committed = move |appended: &Committed<Appended>| publish(&appended.value);
        let appended =
            self.log.append_up_to(self.log.local_bytes(), durability, changes, committed);
        if appended.is_err() {
            // If rows are gone, a removed space is the reason, whatever error the store returns.
            rows.iter().try_for_each(|row| self.present(*row))?;
        }
        let appended = appended?.value;
        self.notify_compactor();
        Ok(appended)
    }

    fn notify_compactor(&self) {
        if let Some(compactor) = &self.compactor {
            compactor.notify();
        }
    }

    /// Whether local changes may add to a document that has about `stored` bytes.
    pub(crate) fn has_room(
        &self,
        (row, document): (SpaceRow, DocumentId),
        stored: u64,
    ) -> Result<(), ChangeError> {
        let limit = self.log.local_bytes();
        // The counted bytes never exceed the stored ones at the load, but a compaction may have reduced
        // them since.
        if stored <= limit {
            return Ok(());
        }
        let bytes = self.log.bytes_of(row, &document).map_err(StoreError::from)?;
        match bytes > limit {
            true => Err(ChangeError::DocumentTooLarge { document, bytes, limit }),
            false => Ok(()),
        }
    }

    /// Whether the store is closed or being closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Emits a received ephemeral message if the application has the document open.
    pub(crate) fn heard(&self, space: &SpaceName, row: SpaceRow, id: DocumentId, kind: EventKind) {
        let open = self.known(row, id);
        if open.is_some_and(|open| open.is_held()) {
            self.events.send(space, id, kind);
        }
    }

    /// Notifies the link of changes to push.
    pub(crate) fn tell_link(&self, appended: &Appended) {
        self.link.local(appended.counts.iter().map(|(row, _)| *row));
    }

    /// A batch is in the store. Called on the writer thread: it must not block.
    pub(crate) fn received(&self, space: &SpaceName, row: SpaceRow, received: Committed<Received>) {
        let received = received.value;
        self.notify_compactor();
        if !received.deferred.is_empty() {
            // A comparison may bring the missing dependencies.
            self.link.check_space(row);
        }
        for (document, reason) in received.deferred {
            tracing::warn!(%space, %document, reason, "deferred an entry");
            if document == DAMAGED_UNKNOWN {
                continue;
            }
            self.events.send(space, document, EventKind::Deferred { reason });
        }
        for document in received.unrelated {
            tracing::warn!(%space, %document, "deferred an unrelated history under the same document id");
            self.events.send(space, document, EventKind::Unrelated);
        }
        for (document, excess) in received.oversized {
            if !self.is_news((row, document, excess.of)) {
                continue;
            }
            let ExceededLimit { of, actual, limit } = excess;
            tracing::warn!(%space, %document, %of, actual, limit, "a document exceeds a limit; it continues to sync");
            let kind = match of {
                DocumentLimit::Bytes => EventKind::Oversized { bytes: actual, limit },
                _ => EventKind::OverBudget { excess },
            };
            self.events.send(space, document, kind);
        }
        for superseded in received.superseded {
            let (document, changes) = (superseded.document, superseded.changes);
            tracing::warn!(%space, %document, changes, "changes made here were superseded");
            self.events.send(space, document, EventKind::Conflicted);
            self.forget_document(row, document);
        }
        for deleted in received.deleted {
            let (document, unsent) = (deleted.document, deleted.unsent);
            self.delete_document(space, row, document, Some(EventKind::Deleted { unsent }));
        }
        for touched in received.touched {
            match self.known(row, touched.document) {
                Some(open) => self.applier.notify(&open),
                None => {
                    let (origin, heads) = (Origin::Remote, touched.heads);
                    let kind = EventKind::Changed { origin, heads, patches: None };
                    self.events.send(space, touched.document, kind);
                }
            }
        }
    }

    /// Whether no event about this document and limit was sent yet. After 4,096 of them the record
    /// starts again, so an event may be repeated.
    fn is_news(&self, key: (SpaceRow, DocumentId, DocumentLimit)) -> bool {
        const TOLD: usize = 4_096;
        let mut told = self.told_oversized.lock();
        if told.len() >= TOLD {
            told.clear();
        }
        told.insert(key)
    }

    /// Changes were removed from a document: if it is open it is loaded again, and its next change uses
    /// a fresh actor. Never waits.
    pub(crate) fn forget_document(&self, row: SpaceRow, document: DocumentId) {
        self.actors.end((row, document));
        if let Some(open) = self.known(row, document) {
            open.outdate();
            self.applier.notify(&open);
        }
    }

    /// A deletion is committed: reads and changes of the document fail from now on. Called by the
    /// commit's completion, so that no later event follows it. Never waits.
    pub(crate) fn delete_document(
        &self,
        space: &SpaceName,
        row: SpaceRow,
        document: DocumentId,
        kind: Option<EventKind>,
    ) {
        self.actors.end((row, document));
        match (self.known(row, document), kind) {
            (Some(open), kind) => open.delete(kind),
            (None, Some(kind)) => self.events.send(space, document, kind),
            (None, None) => {}
        }
        // After the deletion, which no load of the document can follow.
        self.status.set_unreadable(row, document, None);
    }

    /// The document, if it is open or loaded.
    fn known(&self, row: SpaceRow, document: DocumentId) -> Option<Arc<OpenDocument>> {
        self.documents.lock().get(&(row, document)).and_then(Weak::upgrade)
    }

    /// Notifies the link that a space has changes to push.
    pub(crate) fn tell_link_of(&self, row: SpaceRow) {
        self.link.local(std::iter::once(row));
    }

    /// Ends the threads, then the store, in the order in which they use each other.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        self.closed.store(true, Ordering::Release);
        self.link.close();
        if let Some(compactor) = &self.compactor {
            compactor.close();
        }
        if let Some(follower) = self.follower.get() {
            follower.close();
        }
        self.applier.close();
        if let Some(compactor) = &self.compactor {
            self.compact_at_close(compactor);
        }
        let leaving = self.actors.close(&self.log);
        let closed = self.log.database().close().map_err(|error| {
            let class = StoreFailure::from(error.class());
            StoreError { class, source: Box::new(error) }
        });
        if let (Ok(()), Some(leaving)) = (&closed, leaving) {
            leaving.leave();
        }
        self.cache.close();
        self.events.close();
        self.status.close();
        self.notifier.close();
        closed
    }
}

/// Makes the status show when the store accepts no more writes.
fn tell_of_failures(log: &LocalLog, status: &Arc<StatusHub>, threads: &Arc<Threads>) {
    let gone = Arc::downgrade(status);
    log.database().on_gone(Box::new(move |file| {
        if let Some(status) = gone.upgrade() {
            status.set_store_failed(StoreFailure::Gone, file.to_string());
        }
    }));
    let failed = Arc::downgrade(status);
    log.database().on_fsync_failed(Box::new(move |error| {
        if let Some(status) = failed.upgrade() {
            status.set_store_failed(StoreFailure::FsyncFailed, error.to_string());
        }
    }));
    let (ended, threads) = (Arc::downgrade(status), Arc::clone(threads));
    log.database().on_writer_panicked(Box::new(move |error| {
        threads.panicked(StoreThread::Writer, error.to_string());
        if let Some(status) = ended.upgrade() {
            status.set_store_failed(StoreFailure::Panicked, error.to_string());
        }
    }));
}

impl Core {
    /// Keeps the saved form of a document that was not loaded since it was built, to compact it at
    /// close.
    pub(crate) fn compact_later(
        &self,
        key: (SpaceRow, DocumentId),
        head: ChangeHash,
        bytes: Vec<u8>,
    ) {
        if let Some(compactor) = &self.compactor {
            compactor.keep(Saved { key, head, bytes });
        }
    }

    /// Compacts kept and loaded documents that are due, within a budget: a program that opens a store, pastes
    /// a long text and closes it leaves no time for it in the background.
    fn compact_at_close(&self, compactor: &Compactor) {
        let open: Vec<Arc<OpenDocument>> =
            self.documents.lock().values().filter_map(Weak::upgrade).collect();
        let mut closing = compactor.closing(&self.log);
        for Saved { key, head, bytes } in compactor.take_kept() {
            let compaction = |limits: &CompactionLimits, heads: &[ChangeHash]| {
                let compacted =
                    (heads == [head]).then(|| landfall_compaction::open(bytes, limits))?;
                // A form with other heads does not stand for the change, which is then compacted as all
                // others are.
                compacted.ok().filter(|compacted| compacted.heads == heads).map(Ok)
            };
            match closing.compact(key, compaction) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "cannot compact at close"),
            }
        }
        for document in open {
            let compaction = |limits: &CompactionLimits, heads: &[ChangeHash]| {
                document.with_loaded(|automerge| {
                    let is_whole = automerge.get_heads() == heads;
                    is_whole.then(|| landfall_compaction::compact_loaded(automerge, limits))
                })?
            };
            match closing.compact(document.key(), compaction) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "cannot compact at close"),
            }
        }
    }
}

fn compaction_options(options: &Options, log: &LocalLog) -> CompactionOptions {
    CompactionOptions {
        limits: log.compaction_limits(),
        recent_entries: options.keep_recent,
        recent_age: options.keep_recent_age,
        ..CompactionOptions::default()
    }
}
