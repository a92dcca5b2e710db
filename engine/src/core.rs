//! What the parts of one open store share: its log, its open documents, its events and status,
//! and the threads beside it. It holds no public handle, so that the threads may hold it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use landfall_protocol::{DocumentId, SpaceName};
use landfall_storage::Committed;
use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};

use crate::document::{Applier, OpenDocument};
use crate::error::{ChangeError, SpaceError, StoreError, StoreFailure};
use crate::events::{EventHub, EventKind, Origin};
use crate::link::LinkHandle;
use crate::options::Durability;
use crate::status::StatusHub;
use crate::store::{Appended, LocalChange, LocalLog, Received, SpaceCount, SpaceRow};

/// The shared state of one open store.
pub(crate) struct Core {
    pub(crate) log: LocalLog,
    pub(crate) events: EventHub,
    pub(crate) status: Arc<StatusHub>,
    pub(crate) applier: Applier,
    pub(crate) link: Mutex<Option<LinkHandle>>,
    pub(crate) read_only: bool,
    closed: AtomicBool,
    durability: Durability,
    groups: ReentrantMutex<()>,
    spaces: Mutex<BTreeMap<SpaceName, SpaceRow>>,
    documents: Mutex<BTreeMap<(SpaceRow, DocumentId), Weak<OpenDocument>>>,
}

impl Core {
    pub(crate) fn new(
        log: LocalLog,
        events: EventHub,
        applier: Applier,
        durability: Durability,
        read_only: bool,
    ) -> Result<Self, StoreError> {
        let status = Arc::new(StatusHub::new(log.known_upstream()?));
        let mut spaces = BTreeMap::new();
        for (name, row, count) in log.spaces()? {
            status.add_space(&name, row, count, &log);
            spaces.insert(name, row);
        }
        let for_synced = Arc::downgrade(&status);
        log.database().on_synced(Box::new(move |number| {
            if let Some(status) = for_synced.upgrade() {
                status.set_synced(number.0);
            }
        }));
        Ok(Self {
            log,
            events,
            status,
            applier,
            link: Mutex::new(None),
            read_only,
            closed: AtomicBool::new(false),
            durability,
            groups: ReentrantMutex::new(()),
            spaces: Mutex::new(spaces),
            documents: Mutex::default(),
        })
    }

    /// Every space of the store.
    pub(crate) fn spaces(&self) -> Vec<(SpaceName, SpaceRow)> {
        self.spaces.lock().iter().map(|(name, row)| (name.clone(), *row)).collect()
    }

    /// The row of a space, which is made if it is new.
    pub(crate) fn space(&self, name: &SpaceName) -> Result<SpaceRow, SpaceError> {
        let mut spaces = self.spaces.lock();
        if let Some(row) = spaces.get(name) {
            return Ok(*row);
        }
        if self.read_only {
            return Err(SpaceError::Unknown(name.clone()));
        }
        let row = self.log.ensure_space(name).map_err(StoreError::from)?;
        spaces.insert(name.clone(), row);
        self.status.add_space(name, row, SpaceCount::default(), &self.log);
        if let Some(link) = &*self.link.lock() {
            link.space(name.clone(), row);
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
        documents.retain(|_, open| open.strong_count() > 0);
        documents.insert((row, id), Arc::downgrade(&open));
        open
    }

    /// Held while a group of changes collects its documents' locks.
    pub(crate) fn begin_group(&self) -> ReentrantMutexGuard<'_, ()> {
        self.groups.lock()
    }

    /// Writes local changes in one commit.
    pub(crate) fn append(&self, changes: Vec<LocalChange>) -> Result<Appended, ChangeError> {
        let durability = match self.durability {
            Durability::Full => landfall_storage::Durability::Full,
            Durability::Normal => landfall_storage::Durability::Relaxed,
        };
        let (status, database) = (Arc::clone(&self.status), self.log.database().clone());
        let committed = move |appended: &Committed<Appended>| {
            let synced = database.synced().0;
            for (row, count) in &appended.value.counts {
                status.set_count(*row, *count, appended.number.0, synced);
            }
        };
        Ok(self.log.append(durability, changes, committed)?.value)
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
        let Committed { value: received, number } = received;
        let synced = self.log.database().synced().0;
        self.status.set_count(row, received.count, number.0, synced);
        if !received.aside.is_empty() {
            self.status.add_aside(row, received.aside.len() as u64);
        }
        for (document, reason) in received.aside {
            tracing::warn!(%space, %document, reason, "an entry was set aside");
            self.events.send(space, document, EventKind::SetAside { reason });
        }
        for touched in received.touched {
            let open = self.documents.lock().get(&(row, touched.document)).and_then(Weak::upgrade);
            match open {
                Some(open) => self.applier.notify(open),
                None => {
                    let (origin, heads) = (Origin::Remote, touched.heads);
                    let kind = EventKind::Changed { origin, heads, patches: None };
                    self.events.send(space, touched.document, kind);
                }
            }
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
        self.applier.close();
        let closed = self.log.database().close().map_err(|error| {
            let class = StoreFailure::from(error.class());
            StoreError { class, source: Box::new(error) }
        });
        self.events.close();
        self.status.close();
        closed
    }
}
