//! A document's handle.

use std::sync::Arc;

use automerge::Automerge;
use automerge::transaction::Transaction;
use landfall_protocol::{ChangeHash, DocumentId, SpaceName};

use super::StoreOwner;
use crate::document::{Changing, Condition, Edit, HeldDocument, OpenDocument, commit};
use crate::ephemeral;
use crate::error::{BroadcastError, ChangeError, ReadError, StoreError};
use crate::failure::BoxError;
use crate::status::{DocumentSize, DocumentStatus, StatusWatch};
use crate::store::DocumentFacts;

/// An open document. It is loaded at its first access, and stays in memory within the budget of
/// [`Options::document_cache_bytes`](crate::Options::document_cache_bytes).
///
/// Text positions count Unicode code points, in every argument and result.
#[derive(Clone)]
pub struct Document {
    shared: Arc<StoreOwner>,
    open: HeldDocument,
}

impl Document {
    pub(super) fn new(shared: Arc<StoreOwner>, open: Arc<OpenDocument>) -> Self {
        Self { shared, open: HeldDocument::new(open) }
    }

    /// Its id, which prints as automerge-repo's `automerge:…` URL.
    pub fn id(&self) -> DocumentId {
        self.open.id
    }

    /// The space that it belongs to.
    pub fn space(&self) -> &SpaceName {
        &self.open.space
    }

    /// Reads the document through automerge's own [`ReadDoc`](automerge::ReadDoc). The closure sees
    /// what is committed in the store. The call never waits for the network or for another thread's
    /// closure. No lock is held while `read` runs: it may take long, read other documents, and change
    /// any document, including this one. The state that it sees does not change. Text positions count
    /// Unicode code points.
    ///
    /// # Errors
    /// [`ReadError::Reentrant`] inside a `change` closure of the same document, where the transaction
    /// holds uncommitted operations; [`ReadError::Deleted`] once it is deleted; [`ReadError::Store`] if
    /// it cannot be loaded, or the store is closed.
    pub fn read<T>(&self, read: impl FnOnce(&Automerge) -> T) -> Result<T, ReadError> {
        self.shared.catch_up()?;
        self.open.read(|loaded| read(&loaded.automerge))
    }

    /// Changes the document through automerge's own
    /// [`Transactable`](automerge::transaction::Transactable), and returns once the change is in the
    /// store. A closure that returns `Err` or panics leaves no trace, and neither does a change that
    /// could not be written. A closure that writes nothing makes no change. Text positions count
    /// Unicode code points.
    ///
    /// While the closure runs, only threads that change the same document wait. Inside the closure
    /// other documents may be read, but every edit must go through the transaction: to change several
    /// documents use [`Store::group`](crate::Store::group). Waiting in the closure for another thread
    /// that changes this document is a deadlock.
    ///
    /// # Errors
    /// [`ChangeError::Closure`] with the closure's own error; [`ChangeError::Reentrant`] inside the
    /// closure of another change or group; [`ChangeError::Deleted`] once the document is deleted;
    /// [`ChangeError::ChangeTooLarge`] and [`ChangeError::TooManyOperations`], checked when the closure
    /// has returned; [`ChangeError::Store`] if it could not be written.
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

    /// Changes the document as it was at earlier [`heads`](Document::heads), for an app that edits a
    /// view which it rendered earlier. The closure sees and changes that state. The change is
    /// concurrent to all later changes, and is merged with them. Events carry the patches of the
    /// present state. With the present heads this is the same as [`Document::change`], as is everything
    /// else.
    ///
    /// Concurrent changes need an actor each, and automerge keeps every actor for ever: many edits at
    /// one old state cost memory in every replica.
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

    /// The document's heads: the hashes of the changes on which no other change of it depends.
    ///
    /// # Errors
    /// As [`Document::read`].
    pub fn heads(&self) -> Result<Vec<ChangeHash>, ReadError> {
        self.read(Automerge::get_heads)
    }

    /// Sends an ephemeral message about the document to every session that has it open now, such as a
    /// cursor position or presence. Neither this store nor the relay stores it. Sessions that open the
    /// document later do not receive it, and it may be lost on its way. Other stores emit
    /// [`EventKind::Ephemeral`](crate::EventKind::Ephemeral); this store does not.
    ///
    /// `data` are raw bytes, at most 64 KiB. automerge-repo clients receive the message too, if `data`
    /// is the CBOR encoding of one value, which is the format that they send and accept.
    ///
    /// Returns at once. `Ok` means that the link has accepted the message while the space was synced
    /// with a relay, not that any session received it.
    ///
    /// # Errors
    /// [`BroadcastError`] states why the message was dropped. It is not sent later.
    pub fn broadcast(&self, data: impl Into<Vec<u8>>) -> Result<(), BroadcastError> {
        ephemeral::broadcast(
            &self.shared.store,
            (&self.shared.link, &self.shared.ephemeral),
            &self.open.space,
            self.open.id,
            data.into(),
        )
    }

    /// Where the document is saved, and which changes the relay does not have yet.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn status(&self) -> Result<DocumentStatus, StoreError> {
        let (open, store) = (&self.open, &self.shared.store);
        self.shared.catch_up()?;
        let Condition { loaded, actors, quarantined } = open.condition();
        let facts = store.context.log.document_facts(open.row, &open.id)?;
        let DocumentFacts { changes, pending, rejected, actors: stored_actors, last, exceeded } =
            facts;
        let on_disk = store.context.status.is_on_disk(open.row, last);
        let rejected = rejected.map(Into::into);
        let actors = actors.unwrap_or(stored_actors);
        let size = DocumentSize {
            bytes: store.context.log.bytes_of(open.row, &open.id)?,
            local_limit: store.context.log.local_bytes(),
            limit: store.context.log.document_bytes(),
        };
        let quarantined = match loaded {
            true => quarantined,
            false => store.context.log.quarantine(open.row, &open.id)?.map(|known| known.reason),
        };
        Ok(DocumentStatus {
            loaded,
            changes,
            size,
            exceeded,
            actors,
            on_disk,
            pending,
            rejected,
            quarantined,
        })
    }

    /// Watches the document's status.
    pub fn watch(&self) -> DocumentWatch {
        let store = self.shared.store.context.status.watch();
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
    /// The first call returns the present status; each later one waits until the status changes. `None`
    /// once the store is closed. Needs no particular executor.
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
