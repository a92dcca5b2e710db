//! A loaded document: who may touch it when.
//!
//! Two locks. `writer` orders those who make a new state: local changes and the swap at the end
//! of an apply. `content` guards the state that readers see. A local change holds both from its
//! closure to its commit, so nobody reads what the store does not hold. Remote changes are
//! applied to a clone beside both (`apply`), and the swap takes `content` for a moment only: so
//! readers never wait for the network, and a writer waits for one apply at most.

mod apply;
mod edit;
mod load;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use automerge::{Automerge, Change};
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::core::Core;
use crate::error::{ReadError, StoreError};
use crate::store::SpaceRow;

pub(crate) use apply::Applier;
pub(crate) use edit::{Edit, commit};
pub(crate) use load::empty;

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
    /// The applier leaves the document alone until then.
    rests_until: Mutex<Option<Instant>>,
}

/// What readers see.
pub(crate) enum Content {
    /// To be read from the store at the next access.
    Unloaded,
    Loaded(Box<Loaded>),
}

pub(crate) struct Loaded {
    pub(crate) automerge: Automerge,
    /// Whether this opening has taken an actor of its own.
    has_actor: bool,
    /// Everything up to this local sequence number is in `automerge`.
    applied: u64,
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
            rests_until: Mutex::new(None),
        }
    }

    /// Reads the last published state.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Loaded) -> T) -> Result<T, ReadError> {
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
    fn loaded(&self) -> Result<RwLockReadGuard<'_, Content>, StoreError> {
        let content = self.content.read();
        if matches!(*content, Content::Loaded(_)) {
            return Ok(content);
        }
        drop(content);
        let mut content = self.content.write();
        self.ensure_loaded(&mut content)?;
        Ok(RwLockWriteGuard::downgrade(content))
    }

    fn ensure_loaded(&self, content: &mut Content) -> Result<(), StoreError> {
        if matches!(content, Content::Unloaded) {
            let loaded = load::load(&self.core.log, self.row, &self.id)?;
            if let Some(reason) = &loaded.quarantined {
                let reason = reason.clone();
                let kind = crate::events::EventKind::Quarantined { reason };
                self.core.events.send(&self.space, self.id, kind);
            }
            *content = Content::Loaded(Box::new(loaded));
        }
        Ok(())
    }

    /// Whether it is in memory, and why it is quarantined, if it is.
    pub(crate) fn condition(&self) -> (bool, Option<String>) {
        if self.is_owner() {
            return (true, None);
        }
        match &*self.content.read() {
            Content::Unloaded => (false, None),
            Content::Loaded(loaded) => (true, loaded.quarantined.clone()),
        }
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
