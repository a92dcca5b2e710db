//! What the parts of one open store share: its log, its open documents, its events and status,
//! and the threads beside it. It holds no public handle, so that the threads may hold it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use landfall_protocol::{DocumentId, SpaceName};
use landfall_storage::Committed;
use parking_lot::{Mutex, MutexGuard};

use crate::actors::Actors;
use crate::compactor::Compactor;
use crate::document::{Applier, Cache, OpenDocument};
use crate::ephemeral::Speaker;
use crate::error::{ChangeError, SpaceError, StoreError, StoreFailure};
use crate::events::{EventHub, EventKind, Origin};
use crate::follow::Follower;
use crate::link::LinkHandle;
use crate::options::{Durability, Options};
use crate::status::{SpaceFacts, StatusHub};
use crate::store::{Appended, FoldOptions, LocalChange, LocalLog, Received, SpaceCount, SpaceRow};

/// The shared state of one open store.
pub(crate) struct Core {
    pub(crate) log: LocalLog,
    pub(crate) events: EventHub,
    pub(crate) status: Arc<StatusHub>,
    pub(crate) applier: Applier,
    pub(crate) actors: Actors,
    pub(crate) cache: Cache,
    /// Folds histories; `None` where nothing is written, or nobody wants it.
    compactor: Option<Compactor>,
    pub(crate) link: Mutex<Option<LinkHandle>>,
    /// This opening's ephemeral messages.
    pub(crate) ephemeral: Speaker,
    pub(crate) read_only: bool,
    /// Follows the process that writes the store; only of one that is open for reading only.
    pub(crate) follower: OnceLock<Follower>,
    closed: AtomicBool,
    durability: Durability,
    /// Orders groups among themselves.
    groups: Mutex<()>,
    spaces: Mutex<BTreeMap<SpaceName, SpaceRow>>,
    documents: Mutex<BTreeMap<(SpaceRow, DocumentId), Weak<OpenDocument>>>,
}

impl Core {
    pub(crate) fn new(
        log: LocalLog,
        events: EventHub,
        applier: Applier,
        actors: Actors,
        ephemeral: Speaker,
        options: &Options,
        read_only: bool,
    ) -> Result<Self, StoreError> {
        let status = Arc::new(StatusHub::new(log.known_upstream()?, read_only));
        let cache = Cache::new(options.document_cache_bytes, status.memory());
        let mut spaces = BTreeMap::new();
        for (name, row, count) in log.spaces()? {
            let parked = log.parked(row)?;
            status.add_space(SpaceFacts { name: name.clone(), row, count, parked });
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
        tell_of_failures(&log, &status);
        let compactor = match options.fold && !read_only {
            true => Some(
                Compactor::start(log.clone(), fold_options(options))
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
            link: Mutex::new(None),
            ephemeral,
            read_only,
            follower: OnceLock::new(),
            closed: AtomicBool::new(false),
            durability: options.durability,
            groups: Mutex::default(),
            spaces: Mutex::new(spaces),
            documents: Mutex::default(),
        })
    }

    /// Every space of the store.
    pub(crate) fn spaces(&self) -> Vec<(SpaceName, SpaceRow)> {
        self.spaces.lock().iter().map(|(name, row)| (name.clone(), *row)).collect()
    }

    /// Returns when everything that the process that writes the store has committed is seen. Only a
    /// store that is open for reading only has to look.
    pub(crate) fn catch_up(&self) -> Result<(), StoreError> {
        match self.follower.get() {
            Some(follower) => follower.catch_up(),
            None => Ok(()),
        }
    }

    /// Notes a space that another process has made; tells whether it is new.
    pub(crate) fn know_space(&self, name: &SpaceName, row: SpaceRow) -> bool {
        self.spaces.lock().insert(name.clone(), row).is_none()
    }

    /// The store holds something else of a document: it is read anew at the next access.
    pub(crate) fn document_is_stale(&self, row: SpaceRow, document: DocumentId, deleted: bool) {
        if let Some(open) = self.known(row, document) {
            match deleted {
                true => open.delete(None),
                false => open.outdate(),
            }
        }
    }

    /// The row of a space, which is made if it is new.
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
        let (name, count, parked) = (name.clone(), SpaceCount::default(), Vec::new());
        self.status.add_space(SpaceFacts { name: name.clone(), row, count, parked });
        if let Some(link) = &*self.link.lock() {
            link.space(name, row);
        }
        Ok(row)
    }

    /// The one open document of this id: two handles share it.
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
        // Not each time: a great many may be open, or loaded without being open.
        if documents.len().is_power_of_two() {
            documents.retain(|_, open| open.strong_count() > 0);
        }
        documents.insert((row, id), Arc::downgrade(&open));
        open
    }

    /// Held while a group of changes collects its documents' writer rights. The application's
    /// closure runs under it: nothing but groups may wait for it.
    pub(crate) fn begin_group(&self) -> MutexGuard<'_, ()> {
        self.groups.lock()
    }

    /// Writes local changes in one commit. Its completion calls `publish` on the store's writer
    /// thread, before that of any later commit.
    pub(crate) fn append(
        &self,
        changes: Vec<LocalChange>,
        publish: impl FnOnce(&Appended) + Send + 'static,
    ) -> Result<Appended, ChangeError> {
        let durability = match self.durability {
            Durability::Full => landfall_storage::Durability::Full,
            Durability::Normal => landfall_storage::Durability::Relaxed,
        };
        let committed = move |appended: &Committed<Appended>| publish(&appended.value);
        let appended = self.log.append(durability, changes, committed)?.value;
        self.notify_compactor();
        Ok(appended)
    }

    fn notify_compactor(&self) {
        if let Some(compactor) = &self.compactor {
            compactor.notify();
        }
    }

    /// Takes the link away, to be closed.
    pub(crate) fn take_link(&self) -> Option<LinkHandle> {
        self.link.lock().take()
    }

    /// Whether the store is being closed, or is.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Somebody said something about a document: told if the application has it open.
    pub(crate) fn heard(&self, space: &SpaceName, row: SpaceRow, id: DocumentId, kind: EventKind) {
        let open = self.known(row, id);
        if open.is_some_and(|open| open.is_held()) {
            self.events.send(space, id, kind);
        }
    }

    /// Puts a link in place of the one before, if there was one; gives back the one to close.
    pub(crate) fn replace_link(&self, new: LinkHandle) -> Result<Option<LinkHandle>, LinkHandle> {
        let mut link = self.link.lock();
        match self.closed.load(Ordering::Acquire) {
            true => Err(new),
            false => Ok(link.replace(new)),
        }
    }

    /// The link has something to push.
    pub(crate) fn tell_link(&self, appended: &Appended) {
        if let Some(link) = &*self.link.lock() {
            let rows = appended.counts.iter().map(|(row, _)| *row);
            link.local(rows);
        }
    }

    /// A batch is in the store. Called on the writer thread: it must not block.
    pub(crate) fn received(&self, space: &SpaceName, row: SpaceRow, received: Committed<Received>) {
        let received = received.value;
        self.notify_compactor();
        if !received.aside.is_empty() {
            // What it lacks to be admitted, a comparison may bring.
            self.check_space(space);
        }
        for (document, reason) in received.aside {
            tracing::warn!(%space, %document, reason, "an entry was set aside");
            self.events.send(space, document, EventKind::SetAside { reason });
        }
        for document in received.unrelated {
            tracing::warn!(%space, %document, "an unrelated history of the same id was set aside");
            self.events.send(space, document, EventKind::Unrelated);
        }
        for displaced in received.displaced {
            let (document, changes) = (displaced.document, displaced.changes);
            tracing::warn!(%space, %document, changes, "others have the place of changes made here");
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

    /// Changes were taken out of a document: if it is open it is read anew, and its next change
    /// takes a fresh actor. Never waits.
    pub(crate) fn forget_document(&self, row: SpaceRow, document: DocumentId) {
        self.actors.end((row, document));
        if let Some(open) = self.known(row, document) {
            open.outdate();
            self.applier.notify(&open);
        }
    }

    /// A deletion is committed: the document is not shown any more, and its next change fails.
    /// Called by the commit's completion, so that nothing is published after it. Never waits.
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
    }

    /// Sends the events of a document that wait for a thread that may wake tasks.
    pub(crate) fn tell_pending(&self, row: SpaceRow, document: DocumentId) {
        if let Some(open) = self.known(row, document) {
            open.tell_pending();
        }
    }

    /// The document, if it is open or loaded.
    fn known(&self, row: SpaceRow, document: DocumentId) -> Option<Arc<OpenDocument>> {
        self.documents.lock().get(&(row, document)).and_then(Weak::upgrade)
    }

    /// A space has something to push.
    pub(crate) fn tell_link_of(&self, row: SpaceRow) {
        if let Some(link) = &*self.link.lock() {
            link.local(std::iter::once(row));
        }
    }

    /// A space is to be compared with the relay, as soon as nothing is under way.
    fn check_space(&self, space: &SpaceName) {
        // Called on the writer thread, which never waits: if the link is being exchanged, the new
        // one compares when its time comes.
        if let Some(Some(link)) = self.link.try_lock().as_deref() {
            link.check(space.clone());
        }
    }

    /// A document that the relay refused is to be offered again.
    pub(crate) fn unparked(&self, space: &SpaceName, document: DocumentId) {
        if let Some(link) = &*self.link.lock() {
            link.unparked(space.clone(), document);
        }
    }

    /// Ends the threads, then the store, in the order in which they use each other.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let link = {
            // Under the lock, so that nobody makes a link after it.
            let mut link = self.link.lock();
            self.closed.store(true, Ordering::Release);
            link.take()
        };
        if let Some(link) = link {
            link.close();
        }
        if let Some(compactor) = &self.compactor {
            compactor.close();
        }
        if let Some(follower) = self.follower.get() {
            follower.close();
        }
        self.applier.close();
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
        closed
    }
}

/// Has the status say when the store takes no more writes.
fn tell_of_failures(log: &LocalLog, status: &Arc<StatusHub>) {
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
}

fn fold_options(options: &Options) -> FoldOptions {
    FoldOptions {
        recent_entries: options.keep_recent,
        recent_age: options.keep_recent_age,
        ..FoldOptions::default()
    }
}
