//! A document's handle.

use std::sync::Arc;

use automerge::Automerge;
use automerge::transaction::Transaction;
use landfall_protocol::{ChangeHash, DocumentId, SpaceName};

use super::Shared;
use crate::document::{Changing, Condition, Edit, Held, OpenDocument, commit};
use crate::ephemeral;
use crate::error::{BoxError, BroadcastError, ChangeError, ReadError, StoreError};
use crate::status::{DocumentSize, DocumentStatus, StatusWatch};
use crate::store::DocumentFacts;

/// An open document. It is loaded at its first access, and stays in memory within the budget of
/// [`Options::document_cache_bytes`](crate::Options::document_cache_bytes).
///
/// Text positions count Unicode code points, in everything that takes or gives one.
#[derive(Clone)]
pub struct Document {
    shared: Arc<Shared>,
    open: Held,
}

impl Document {
    pub(super) fn new(shared: Arc<Shared>, open: Arc<OpenDocument>) -> Self {
        Self { shared, open: Held::new(open) }
    }

    /// Its id; prints as automerge-repo's `automerge:…` URL.
    pub fn id(&self) -> DocumentId {
        self.open.id
    }

    /// The space that it belongs to.
    pub fn space(&self) -> &SpaceName {
        &self.open.space
    }

    /// Reads the document through automerge's own [`ReadDoc`](automerge::ReadDoc). Sees what is
    /// committed in the store, never waits for the network, and never for another thread's closure.
    /// No lock is held while `read` runs: it may take its time, read other documents, and change
    /// any document, this one too. What it sees stays as it is. Text positions count Unicode code
    /// points.
    ///
    /// # Errors
    /// [`ReadError::Reentrant`] inside a `change` closure of the same document, where the
    /// transaction shows more than the store holds; [`ReadError::Deleted`] once it is deleted;
    /// [`ReadError::Store`] if it cannot be loaded, or the store is closed.
    pub fn read<T>(&self, read: impl FnOnce(&Automerge) -> T) -> Result<T, ReadError> {
        self.shared.core.catch_up()?;
        self.open.read(|loaded| read(&loaded.automerge))
    }

    /// Changes the document through automerge's own
    /// [`Transactable`](automerge::transaction::Transactable), and returns once the change is in
    /// the store. A closure that returns `Err` or panics leaves no trace, and neither does a
    /// change that could not be written. A closure that writes nothing makes no change. Text
    /// positions count Unicode code points.
    ///
    /// While the closure runs, other threads that change the same document wait; nothing else does.
    /// Inside it other documents may be read, and nothing may be changed but through the
    /// transaction: for changes of several documents see [`Store::group`](crate::Store::group). Do
    /// not wait in it for another thread that changes this document.
    ///
    /// # Errors
    /// [`ChangeError::Closure`] with the closure's own error; [`ChangeError::Reentrant`] inside the
    /// closure of another change or group; [`ChangeError::Deleted`] once the document is deleted;
    /// [`ChangeError::ChangeTooLarge`] and [`ChangeError::TooManyOperations`], judged when the
    /// closure has ended; [`ChangeError::Store`] if it could not be written.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        let inside = Changing::enter()?;
        let mut edit = Edit::begin(&inside, &self.open)?;
        let value = edit.run(change)?;
        commit(vec![edit])?;
        Ok(value)
    }

    /// Changes the document as it was at some [`heads`](Document::heads): for an app that edits a
    /// view which it rendered earlier. The closure sees and changes that state; the change is
    /// concurrent to everything made since, and merged with it. Everything else is as in
    /// [`Document::change`]; events carry the patches of the present state. Heads that are the
    /// present ones make this the same as `change`.
    ///
    /// Changes that are concurrent to each other need an actor each, and automerge remembers
    /// actors for ever: many edits at one old state cost memory in every replica.
    ///
    /// # Errors
    /// [`ChangeError::UnknownHeads`] if the document does not have one of the heads (yet);
    /// otherwise as [`Document::change`].
    pub fn change_at<T>(
        &self,
        heads: &[ChangeHash],
        change: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<T, ChangeError> {
        let inside = Changing::enter()?;
        let mut edit = Edit::begin(&inside, &self.open)?;
        let value = edit.run_at(heads, change)?;
        commit(vec![edit])?;
        Ok(value)
    }

    /// The hashes of the changes that no other change of the document rests on.
    ///
    /// # Errors
    /// As [`Document::read`].
    pub fn heads(&self) -> Result<Vec<ChangeHash>, ReadError> {
        self.read(Automerge::get_heads)
    }

    /// Says something about the document to everybody who has it open now: where a cursor is, who
    /// is here. It is not stored, neither here nor at the relay; whoever comes later does not hear
    /// it, and it may be lost on its way. The others get an
    /// [`EventKind::Ephemeral`](crate::EventKind::Ephemeral); this store does not.
    ///
    /// `data` are raw bytes, at most 64 KiB. automerge-repo clients hear them too, if they are the
    /// CBOR of one value: that is what those clients take, and what they send.
    ///
    /// Returns at once. `Ok` says that the link has taken it while the space was synced with a
    /// relay, not that somebody heard it.
    ///
    /// # Errors
    /// [`BroadcastError`] says why it was dropped: nothing sends it later.
    pub fn broadcast(&self, data: impl Into<Vec<u8>>) -> Result<(), BroadcastError> {
        ephemeral::broadcast(&self.shared.core, &self.open.space, self.open.id, data.into())
    }

    /// Where the document is saved, and what the relay does not have yet.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn status(&self) -> Result<DocumentStatus, StoreError> {
        let (open, core) = (&self.open, &self.shared.core);
        core.catch_up()?;
        let Condition { loaded, actors, quarantined } = open.condition();
        let facts = core.log.document_facts(open.row, &open.id)?;
        let DocumentFacts { changes, pending, parked, actors: stored_actors, last, exceeded } =
            facts;
        let on_disk = core.status.is_on_disk(open.row, last);
        let parked = parked.map(Into::into);
        let actors = actors.unwrap_or(stored_actors);
        let size = DocumentSize {
            bytes: core.log.bytes_of(open.row, &open.id)?,
            local_limit: core.log.local_bytes(),
            limit: core.log.document_bytes(),
        };
        let quarantined = match loaded {
            true => quarantined,
            false => core.log.quarantine(open.row, &open.id)?.map(|known| known.reason),
        };
        Ok(DocumentStatus {
            loaded,
            changes,
            size,
            exceeded,
            actors,
            on_disk,
            pending,
            parked,
            quarantined,
        })
    }

    /// Watches the document's status.
    pub fn watch(&self) -> DocumentWatch {
        let store = self.shared.core.status.watch();
        DocumentWatch { document: self.clone(), store, last: None }
    }

    pub(crate) fn open(&self) -> &Arc<OpenDocument> {
        &self.open
    }
}

/// Watches one document's status.
pub struct DocumentWatch {
    document: Document,
    store: StatusWatch,
    last: Option<DocumentStatus>,
}

impl DocumentWatch {
    /// The first call gives the present status, each later one waits until it is another;
    /// `None` once the store is closed. Needs no particular executor.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn changed(&mut self) -> Option<Result<DocumentStatus, StoreError>> {
        loop {
            match self.document.status() {
                Ok(status) if self.last.as_ref() != Some(&status) => {
                    self.last = Some(status.clone());
                    return Some(Ok(status));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
            self.store.changed().await?;
        }
    }

    /// Like [`DocumentWatch::changed`], on this thread.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn changed_blocking(&mut self) -> Option<Result<DocumentStatus, StoreError>> {
        pollster::block_on(self.changed())
    }
}
