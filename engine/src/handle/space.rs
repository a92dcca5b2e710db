//! The public handle of a space. It must not know SQLite or the socket.

use std::sync::Arc;

use automerge::transaction::Transaction;
use landfall_protocol::frame::Filter;
use landfall_protocol::{DocumentId, SpaceName, limits};

use super::{Document, StoreOwner};
use crate::document::{Changing, Edit, OpenDocument, commit};
use crate::error::{ChangeError, OpenDocumentError, StoreError, SubscribeError};
use crate::failure::BoxError;
use crate::named::{self, Built, First};
use crate::open_store::OpenStore;
use crate::random;
use crate::status::SpaceStatus;
use crate::store::SpaceRow;

/// A named set of documents, synced together.
#[derive(Clone)]
pub struct Space {
    shared: Arc<StoreOwner>,
    name: SpaceName,
    row: SpaceRow,
}

impl Space {
    pub(super) fn new(shared: Arc<StoreOwner>, name: SpaceName, row: SpaceRow) -> Self {
        Self { shared, name, row }
    }

    /// Its name.
    pub fn name(&self) -> &SpaceName {
        &self.name
    }

    /// Creates a document with the closure's content, and returns it with the closure's value, such as the id
    /// of an object that the closure made. Text positions count Unicode code points.
    ///
    /// # Errors
    /// As [`Document::change`]; no document is created then.
    pub fn create<T>(
        &self,
        content: impl FnOnce(&mut Transaction<'_>) -> Result<T, BoxError>,
    ) -> Result<(Document, T), ChangeError> {
        let inside = Changing::enter()?;
        let open = self.open_document(random::document_id()?);
        let mut edit = Edit::begin(&inside, &open)?;
        let value = edit.run(content)?;
        if edit.is_empty() {
            edit.run_empty()?;
        }
        commit(vec![edit])?;
        Ok((Document::new(Arc::clone(&self.shared), open), value))
    }

    /// Creates or opens a named document. Its id and its first change are derived from the space, the name
    /// and the template's content, so two replicas that create it offline share one root and merge. The
    /// template must be deterministic: no clocks, no randomness. It runs only if the store does not have the
    /// document. Text positions count Unicode code points.
    ///
    /// # Errors
    /// As [`Document::change`].
    pub fn create_named(
        &self,
        name: &str,
        template: impl Fn(&mut Transaction<'_>) -> Result<(), BoxError>,
    ) -> Result<Document, ChangeError> {
        let id = named::document_id(&self.name, name);
        let open = self.open_document(id);
        if !self.contains(&id)? {
            let inside = Changing::enter()?;
            let First { change, document } = named::first_change(&id, &template)?;
            let mut edit = Edit::begin(&inside, &open)?;
            let head = change.hash();
            let saved = match document {
                Built::Whole(document) => edit.run_built(*document, change).map(|()| None)?,
                Built::Saved(saved) => edit.run_unbuilt(change).map(|()| saved)?,
            };
            commit(vec![edit])?;
            if let Some(saved) = saved {
                self.open_store().compact_later(open.key(), head, saved);
            }
        }
        Ok(Document::new(Arc::clone(&self.shared), open))
    }

    /// Opens a document of the store.
    ///
    /// # Errors
    /// [`OpenDocumentError::Unknown`] if the store has no document with this id.
    pub fn open(&self, document: DocumentId) -> Result<Document, OpenDocumentError> {
        if !self.contains(&document)? {
            return Err(OpenDocumentError::Unknown { document, space: self.name.clone() });
        }
        Ok(Document::new(Arc::clone(&self.shared), self.open_document(document)))
    }

    /// Whether the store has a document.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn contains(&self, document: &DocumentId) -> Result<bool, StoreError> {
        let row = self.row()?;
        Ok(self.shared.store.context.log.document(row, document)?.is_some())
    }

    /// The documents in the store, in no particular order.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn documents(&self) -> Result<Vec<DocumentId>, StoreError> {
        Ok(self.shared.store.context.log.documents(self.row()?)?)
    }

    /// The space's current status; `None` after its removal.
    pub fn status(&self) -> Option<SpaceStatus> {
        // A failure was logged, and the next call retries.
        let _ = self.shared.catch_up();
        self.shared.store.context.status.space(self.row)
    }

    /// Syncs only these documents from now on, on this store, until the next call of this or
    /// [`Space::sync_everything`]. Other documents in the store stay, and their edits are still pushed. A
    /// document that is new in the list is received completely before any later change of it.
    ///
    /// # Errors
    /// [`SubscribeError::TooMany`]; or if the store cannot be written.
    pub fn sync_only(
        &self,
        documents: impl IntoIterator<Item = DocumentId>,
    ) -> Result<(), SubscribeError> {
        let filter = Filter::of_documents(documents);
        if let Filter::Documents(documents) = &filter
            && documents.len() > limits::FILTER_DOCUMENTS
        {
            let (actual, limit) = (documents.len(), limits::FILTER_DOCUMENTS);
            return Err(SubscribeError::TooMany { actual, limit });
        }
        self.set_filter(&filter)
    }

    /// Syncs every document of the space, which is the default.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn sync_everything(&self) -> Result<(), SubscribeError> {
        self.set_filter(&Filter::Everything)
    }

    /// The documents chosen by [`Space::sync_only`]; `None` if all are synced.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn synced_only(&self) -> Result<Option<Vec<DocumentId>>, StoreError> {
        Ok(match self.open_store().context.log.filter(self.row()?)? {
            Filter::Documents(documents) => Some(documents.iter().copied().collect()),
            _ => None,
        })
    }

    fn set_filter(&self, filter: &Filter) -> Result<(), SubscribeError> {
        let store = self.open_store();
        store.context.access.present(self.row)?;
        store.context.log.set_filter(self.row, filter).map_err(StoreError::from)?;
        self.shared.link.filter(self.row);
        Ok(())
    }

    pub(super) fn shared(&self) -> &StoreOwner {
        &self.shared
    }

    pub(super) fn open_store(&self) -> &Arc<OpenStore> {
        &self.shared.store
    }

    /// Its row, if the space still exists.
    pub(super) fn row(&self) -> Result<SpaceRow, StoreError> {
        self.shared.catch_up()?;
        self.open_store().context.access.present(self.row)?;
        Ok(self.row)
    }

    fn open_document(&self, id: DocumentId) -> Arc<OpenDocument> {
        self.shared.store.open_document(&self.name, self.row, id)
    }
}
