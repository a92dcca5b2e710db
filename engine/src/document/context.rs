//! What the documents of one open store share: its log, its events and status, the applier and the
//! cache, and how changes are committed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_protocol::DocumentId;
use landfall_storage::Committed;
use parking_lot::RwLock;

use super::{Applier, Cache};
use crate::actors::Actors;
use crate::compactor::Compactor;
use crate::error::{ChangeError, StoreError};
use crate::events::EventHub;
use crate::options::Durability;
use crate::signals::LinkSignals;
use crate::status::StatusHub;
use crate::store::{Appended, LocalChange, LocalLog, SpaceRow};

/// The shared state of a store's documents.
pub(crate) struct DocumentContext {
    pub(crate) log: LocalLog,
    pub(crate) events: EventHub,
    pub(crate) status: Arc<StatusHub>,
    pub(crate) actors: Actors,
    pub(crate) applier: Applier,
    pub(crate) cache: Cache,
    pub(crate) access: Access,
    pub(crate) commits: Commits,
}

/// Which access to the store is possible at present.
pub(crate) struct Access {
    pub(crate) read_only: bool,
    closed: AtomicBool,
    /// Spaces that were removed since the store was opened: their handles are invalid.
    removed: RwLock<BTreeSet<SpaceRow>>,
}

/// How local changes are committed, and who is notified of a commit.
pub(crate) struct Commits {
    pub(crate) durability: Durability,
    /// Compacts histories; `None` in a read-only store, or if the options disable it.
    pub(crate) compactor: Option<Compactor>,
    pub(crate) link: Arc<dyn LinkSignals>,
}

impl Access {
    pub(crate) fn new(read_only: bool) -> Self {
        Self { read_only, closed: AtomicBool::new(false), removed: RwLock::default() }
    }

    /// Whether the store is closed or being closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The store is being closed.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Returns an error if a space was removed.
    pub(crate) fn present(&self, row: SpaceRow) -> Result<(), StoreError> {
        match self.removed.read().contains(&row) {
            true => Err(StoreError::space_removed()),
            false => Ok(()),
        }
    }

    /// A space was removed.
    pub(crate) fn remove(&self, row: SpaceRow) {
        self.removed.write().insert(row);
    }
}

impl Commits {
    /// A commit has added to the log.
    pub(crate) fn notify_compactor(&self) {
        if let Some(compactor) = &self.compactor {
            compactor.notify();
        }
    }

    /// Notifies the link of changes to push.
    pub(crate) fn notify_link(&self, appended: &Appended) {
        self.link.has_changes(&mut appended.counts.iter().map(|(row, _)| *row));
    }
}

impl DocumentContext {
    /// Writes local changes in one commit. Its completion calls `publish` on the store's writer thread,
    /// before the completion of any later commit.
    pub(crate) fn append(
        &self,
        changes: Vec<LocalChange>,
        publish: impl FnOnce(&Appended) + Send + 'static,
    ) -> Result<Appended, ChangeError> {
        let durability = match self.commits.durability {
            Durability::Full => landfall_storage::Durability::Full,
            Durability::Normal => landfall_storage::Durability::Relaxed,
        };
        let rows: BTreeSet<SpaceRow> = changes.iter().map(|change| change.space).collect();
        let committed = move |appended: &Committed<Appended>| publish(&appended.value);
        let appended =
            self.log.append_up_to(self.log.local_bytes(), durability, changes, committed);
        if appended.is_err() {
            // If rows are gone, a removed space is the reason, whatever error the store returns.
            rows.iter().try_for_each(|row| self.access.present(*row))?;
        }
        let appended = appended?.value;
        self.commits.notify_compactor();
        Ok(appended)
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
}
