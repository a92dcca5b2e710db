//! One open store: its spaces, its open documents, and what they share. It holds no public handle, and
//! neither the link nor the follower, so that the threads of these may hold it.

mod closing;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use landfall_protocol::{DocumentId, SpaceName};
use landfall_storage::WriteError;
use parking_lot::{Mutex, MutexGuard};

use crate::actors::Actors;
use crate::compactor::Compactor;
use crate::document::{Access, Applier, Cache, Commits, DocumentContext, OpenDocument};
use crate::error::{RemoveSpaceError, SpaceError, StoreError};
use crate::events::{EventHub, EventKind};
use crate::failure::StoreFailure;
use crate::notify::Notifier;
use crate::options::Options;
use crate::signals::LinkSignals;
use crate::status::{SpaceFacts, StatusHub};
use crate::store::{CompactionOptions, LocalLog, OpenedSpace, RemovalError, SpaceCount, SpaceRow};
use crate::threads::{StoreThread, Threads};

/// The open store. What its documents share is the `context`; the other fields belong to the store alone.
pub(crate) struct OpenStore {
    pub(crate) context: Arc<DocumentContext>,
    /// Wakes the tasks that wait for events, status and answers.
    pub(crate) notifier: Notifier,
    /// Where the store's threads report panics.
    pub(crate) threads: Arc<Threads>,
    spaces: Mutex<BTreeMap<SpaceName, SpaceRow>>,
    documents: Mutex<BTreeMap<(SpaceRow, DocumentId), Weak<OpenDocument>>>,
    /// Orders groups among themselves.
    groups: Mutex<()>,
}

/// The parts of which a store is opened, beside its log.
pub(crate) struct StoreParts {
    pub(crate) events: EventHub,
    pub(crate) applier: Applier,
    pub(crate) actors: Actors,
    pub(crate) notifier: Notifier,
    pub(crate) threads: Arc<Threads>,
    pub(crate) link: Arc<dyn LinkSignals>,
}

impl OpenStore {
    pub(crate) fn new(
        log: LocalLog,
        parts: StoreParts,
        options: &Options,
        read_only: bool,
    ) -> Result<Self, StoreError> {
        let StoreParts { events, applier, actors, notifier, threads, link } = parts;
        let found = log.opened()?;
        let status = Arc::new(StatusHub::new(found.upstream, read_only, notifier.clone()));
        let spaces = show_spaces(found.spaces, &status);
        report_to(&status, &log, &threads);
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
        let context = DocumentContext {
            cache: Cache::new(options.document_cache_bytes, status.memory()),
            log,
            events,
            status,
            actors,
            applier,
            access: Access::new(read_only),
            commits: Commits { durability: options.durability, compactor, link },
        };
        Ok(Self {
            context: Arc::new(context),
            notifier,
            threads,
            spaces: Mutex::new(spaces),
            documents: Mutex::default(),
            groups: Mutex::default(),
        })
    }

    /// Every space of the store.
    pub(crate) fn spaces(&self) -> Vec<(SpaceName, SpaceRow)> {
        self.spaces.lock().iter().map(|(name, row)| (name.clone(), *row)).collect()
    }

    /// Adds a space that another process has created.
    pub(crate) fn know_space(&self, name: &SpaceName, row: SpaceRow) {
        self.spaces.lock().insert(name.clone(), row);
    }

    /// Another process has removed a space.
    pub(crate) fn space_is_gone(&self, row: SpaceRow) {
        self.spaces.lock().retain(|_, known| *known != row);
        self.context.access.remove(row);
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
            self.context.status.set_unreadable(row, document, None);
        }
    }

    /// The row of a space, which is created if it is missing; in a store that is open for reading only it
    /// must exist.
    pub(crate) fn space(&self, name: &SpaceName) -> Result<SpaceRow, SpaceError> {
        if self.context.access.is_closed() {
            return Err(StoreError::closed().into());
        }
        if self.context.access.read_only {
            let known = self.spaces.lock().get(name).copied();
            return known.ok_or_else(|| SpaceError::Unknown(name.clone()));
        }
        let mut spaces = self.spaces.lock();
        if let Some(row) = spaces.get(name) {
            return Ok(*row);
        }
        let row = self.context.log.ensure_space(name).map_err(StoreError::from)?;
        spaces.insert(name.clone(), row);
        let (count, rejected) = (SpaceCount::default(), Vec::new());
        self.context.status.add_space(SpaceFacts { name: name.clone(), row, count, rejected });
        drop(spaces);
        // After the insertion into `spaces`, which the link reads, now or when it starts.
        self.context.commits.link.spaces_changed();
        Ok(row)
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
        self.context.log.remove_space(row, force).map_err(|error| match error {
            WriteError::Job(RemovalError::Unsent(pending)) => {
                RemoveSpaceError::Unsent { space: name.clone(), pending }
            }
            other => {
                let class = other.class().into();
                StoreError { class, source: Box::new(other) }.into()
            }
        })?;
        self.context.access.remove(row);
        spaces.remove(name);
        self.context.status.remove_space(row);
        drop(spaces);
        self.context.commits.link.spaces_changed();
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
            self.context.actors.end(key);
            if let Some(open) = open.upgrade() {
                open.outdate();
            }
        }
    }

    /// The one open document of this id: all handles share it.
    pub(crate) fn open_document(
        &self,
        space: &SpaceName,
        row: SpaceRow,
        id: DocumentId,
    ) -> Arc<OpenDocument> {
        let mut documents = self.documents.lock();
        if let Some(open) = documents.get(&(row, id)).and_then(Weak::upgrade) {
            return open;
        }
        let open = Arc::new(OpenDocument::new(Arc::clone(&self.context), space.clone(), row, id));
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

    /// Changes were removed from a document: if it is open it is loaded again, and its next change uses
    /// a fresh actor. Never waits.
    pub(crate) fn forget_document(&self, row: SpaceRow, document: DocumentId) {
        self.context.actors.end((row, document));
        if let Some(open) = self.known(row, document) {
            open.outdate();
            self.context.applier.notify(&open);
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
        self.context.actors.end((row, document));
        match (self.known(row, document), kind) {
            (Some(open), kind) => open.delete(kind),
            (None, Some(kind)) => self.context.events.send(space, document, kind),
            (None, None) => {}
        }
        // After the deletion, which no load of the document can follow.
        self.context.status.set_unreadable(row, document, None);
    }

    /// The document, if it is open or loaded.
    pub(crate) fn known(&self, row: SpaceRow, document: DocumentId) -> Option<Arc<OpenDocument>> {
        self.documents.lock().get(&(row, document)).and_then(Weak::upgrade)
    }

    /// Notifies the link that a space has changes to push.
    pub(crate) fn notify_link_of(&self, row: SpaceRow) {
        self.context.commits.link.has_changes(&mut std::iter::once(row));
    }
}

/// Adds the spaces that an opening has found to the status.
fn show_spaces(found: Vec<OpenedSpace>, status: &StatusHub) -> BTreeMap<SpaceName, SpaceRow> {
    let mut spaces = BTreeMap::new();
    for OpenedSpace { name, row, count, rejected, unreadable } in found {
        status.add_space(SpaceFacts { name: name.clone(), row, count, rejected });
        for (document, reason) in unreadable {
            status.set_unreadable(row, document, Some(reason));
        }
        spaces.insert(name, row);
    }
    spaces
}

/// Makes the status show the commits of the log and the panics of the threads.
fn report_to(status: &Arc<StatusHub>, log: &LocalLog, threads: &Arc<Threads>) {
    let for_panics = Arc::downgrade(status);
    threads.observe(Box::new(move |thread, what| {
        if let Some(status) = for_panics.upgrade() {
            status.set_panicked(thread, what);
        }
    }));
    let for_reports = Arc::downgrade(status);
    log.observe(Box::new(move |report| {
        if let Some(status) = for_reports.upgrade() {
            status.report(report);
        }
    }));
    let for_synced = Arc::downgrade(status);
    log.database().on_synced(Box::new(move |number| {
        if let Some(status) = for_synced.upgrade() {
            status.set_synced(number.0);
        }
    }));
    tell_of_failures(log, status, threads);
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

fn compaction_options(options: &Options, log: &LocalLog) -> CompactionOptions {
    CompactionOptions {
        limits: log.compaction_limits(),
        recent_entries: options.keep_recent,
        recent_age: options.keep_recent_age,
        ..CompactionOptions::default()
    }
}
