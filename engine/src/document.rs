//! A loaded document: who may touch it when.
//!
//! Two locks. `writer` orders those who make a new state: local changes and the swap at the end
//! of an apply. `content` guards the state that readers see. A local change holds both from its
//! closure to its commit, so nobody reads what the store does not hold. Remote changes are
//! applied to a clone beside both (`apply`), and the swap takes `content` for a moment only: so
//! readers never wait for the network, and a writer waits for one apply at most.
//!
//! What is loaded may go again while nobody is at it (`cache`), and is read from the store at the
//! next access.

mod apply;
mod branch;
mod cache;
mod edit;
mod load;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use automerge::{Automerge, Change, ReadDoc};
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::actors::Own;
use crate::core::Core;
use crate::error::{ReadError, StoreError};
use crate::store::SpaceRow;

pub(crate) use apply::Applier;
pub(crate) use cache::{Cache, Memory};
pub(crate) use edit::{Edit, commit, now_ms};
pub(crate) use load::{apply_parsed, empty};

/// One document that somebody has open.
pub(crate) struct OpenDocument {
    pub(crate) core: Arc<Core>,
    pub(crate) space: SpaceName,
    pub(crate) row: SpaceRow,
    pub(crate) id: DocumentId,
    writer: Arc<Mutex<()>>,
    content: Arc<RwLock<Content>>,
    /// The thread that is inside a closure on this document; 0 for none.
    owner: AtomicU64,
    /// The store has changes that the content does not.
    dirty: AtomicBool,
    /// The content is not what the store holds any more: it is to be read anew.
    stale: AtomicBool,
    /// The applier leaves the document alone until then.
    rests_until: Mutex<Option<Instant>>,
    /// Handles that the application has. Without any, nothing that arrives is applied.
    handles: AtomicUsize,
    /// That it has very many actors was told.
    told_actors: AtomicBool,
    /// That it is quarantined was told.
    told_quarantine: AtomicBool,
}

/// A document that an application has a handle to.
pub(crate) struct Held(Arc<OpenDocument>);

impl Held {
    pub(crate) fn new(document: Arc<OpenDocument>) -> Self {
        document.handles.fetch_add(1, Ordering::Relaxed);
        Self(document)
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Held {
    type Target = Arc<OpenDocument>;

    fn deref(&self) -> &Arc<OpenDocument> {
        &self.0
    }
}

/// What a document's content tells of it.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// Whether it is in memory.
    pub(crate) loaded: bool,
    /// How many actors it has, if that is known without asking the store.
    pub(crate) actors: Option<u64>,
    /// Why it is quarantined, if it is in memory and is.
    pub(crate) quarantined: Option<String>,
}

/// What readers see.
pub(crate) enum Content {
    /// To be read from the store at the next access.
    Unloaded,
    Loaded(Box<Loaded>),
}

pub(crate) struct Loaded {
    pub(crate) automerge: Automerge,
    /// The actors that this opening has taken, once it has.
    own: Option<Own>,
    /// Everything up to this local sequence number is in `automerge`.
    applied: u64,
    /// Bytes that the store has of it.
    stored_bytes: u64,
    /// Local changes made since the applier took its clone; `None` while it has none.
    since_clone: Option<Vec<Change>>,
    /// Why automerge could not take all of the bytes, if it could not.
    quarantined: Option<String>,
}

impl OpenDocument {
    pub(crate) fn new(core: Arc<Core>, space: SpaceName, row: SpaceRow, id: DocumentId) -> Self {
        Self {
            core,
            space,
            row,
            id,
            writer: Arc::default(),
            content: Arc::new(RwLock::new(Content::Unloaded)),
            owner: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            rests_until: Mutex::new(None),
            handles: AtomicUsize::new(0),
            told_actors: AtomicBool::new(false),
            told_quarantine: AtomicBool::new(false),
        }
    }

    /// Which document it is, of all of the store.
    pub(crate) fn key(&self) -> (SpaceRow, DocumentId) {
        (self.row, self.id)
    }

    /// Reads the last published state.
    pub(crate) fn read<T>(
        self: &Arc<Self>,
        read: impl FnOnce(&Loaded) -> T,
    ) -> Result<T, ReadError> {
        if self.is_owner() {
            return Err(ReadError::Reentrant);
        }
        let content = self.loaded()?;
        match &*content {
            Content::Loaded(loaded) => Ok(read(loaded)),
            // `loaded` gives no other; if it did, the store would be asked again next time.
            Content::Unloaded => Err(ReadError::Reentrant),
        }
    }

    /// The content, loaded.
    fn loaded(self: &Arc<Self>) -> Result<RwLockReadGuard<'_, Content>, StoreError> {
        let content = self.content.read();
        if matches!(*content, Content::Loaded(_)) && !self.stale.load(Ordering::Acquire) {
            self.core.cache.used(self);
            return Ok(content);
        }
        drop(content);
        let mut content = self.content.write();
        self.ensure_loaded(&mut content)?;
        Ok(RwLockWriteGuard::downgrade(content))
    }

    fn ensure_loaded(self: &Arc<Self>, content: &mut Content) -> Result<(), StoreError> {
        self.core.present(self.row)?;
        if self.stale.swap(false, Ordering::AcqRel) {
            self.let_go(content);
        }
        if matches!(content, Content::Loaded(_)) {
            self.core.cache.used(self);
            return Ok(());
        }
        let loaded = load::load(&self.core.log, self.row, &self.id)?;
        self.note_quarantine(loaded.quarantined.as_deref())?;
        self.warn_of_actors(&loaded);
        *content = Content::Loaded(Box::new(loaded));
        self.weigh(content);
        Ok(())
    }

    /// Tells the cache what the content takes.
    fn weigh(self: &Arc<Self>, content: &Content) {
        match content {
            Content::Loaded(loaded) => {
                let bytes = cache::estimate(&loaded.automerge, loaded.stored_bytes);
                self.core.cache.loaded(self, bytes);
            }
            Content::Unloaded => self.core.cache.unloaded(self),
        }
    }

    /// The store holds something else than the content by now, and not only more (a deletion, or
    /// changes that were made anew): the content is read anew at the next access. Never waits; the applier, told of the document, lets the
    /// content go and tells the application.
    pub(crate) fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    /// Lets the content go if nobody is at it; tells whether it is gone.
    pub(crate) fn try_unload(&self) -> bool {
        let Some(_writer) = self.writer.try_lock() else { return false };
        let Some(mut content) = self.content.try_write() else { return false };
        let applying = matches!(&*content, Content::Loaded(loaded) if loaded.since_clone.is_some());
        if !applying {
            self.let_go(&mut content);
        }
        !applying
    }

    fn let_go(&self, content: &mut Content) {
        *content = Content::Unloaded;
        self.core.cache.unloaded(self);
    }

    /// After a load: tells and keeps that automerge could not take all of the bytes; or notes that
    /// this version can, if an earlier one could not.
    fn note_quarantine(&self, reason: Option<&str>) -> Result<(), StoreError> {
        let core = &self.core;
        let told = self.told_quarantine.swap(reason.is_some(), Ordering::Relaxed);
        if let Some(reason) = reason.filter(|_| !told) {
            let kind = crate::events::EventKind::Quarantined { reason: reason.to_owned() };
            core.events.send(&self.space, self.id, kind);
        }
        let known = core.log.quarantine(self.row, &self.id)?;
        if known.as_ref().map(|known| known.reason.as_str()) != reason && !core.read_only {
            core.log.submit_quarantine(self.row, self.id, reason.map(str::to_owned));
        }
        Ok(())
    }

    /// Tells, once, that the document has more actors than is good for it.
    fn warn_of_actors(&self, loaded: &Loaded) {
        let actors = loaded.automerge.stats().num_actors;
        if actors > crate::options::MANY_ACTORS && !self.told_actors.swap(true, Ordering::Relaxed) {
            tracing::warn!(document = %self.id, actors, "the document has very many actors");
            let kind = crate::events::EventKind::ManyActors { actors };
            self.core.events.send(&self.space, self.id, kind);
        }
    }

    /// What its content tells of it.
    pub(crate) fn condition(&self) -> Condition {
        if self.is_owner() {
            return Condition { loaded: true, ..Condition::default() };
        }
        match &*self.content.read() {
            Content::Unloaded => Condition::default(),
            Content::Loaded(loaded) => Condition {
                loaded: true,
                actors: Some(loaded.automerge.stats().num_actors),
                quarantined: loaded.quarantined.clone(),
            },
        }
    }

    /// Whether the application has a handle to it.
    pub(crate) fn is_held(&self) -> bool {
        self.handles.load(Ordering::Relaxed) > 0
    }

    fn is_owner(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == thread_number()
    }
}

/// A number for this thread, never 0 and never used again.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
